"""A folder of models: fingerprints that see kinship and are kept, and the exact comparison of what is suspicious."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from puna.errors import PunaError
from puna.lineage.fingerprint import MAX_BYTES, kinship, make_fingerprint, multiset_digest, parse_fingerprint
from puna.lineage.opened import Opened, open_for_comparison
from puna.lineage.scan import CACHE, find_models, scan
from puna.lineage.verdict import Lineage
from puna.model.decoder import Decoder
from puna.model.formats import open_model, save_model
from puna.progress import Quiet

TEXTS = ["the fox and the hound went over the hill to see what was there, and came back again "] * 8
SHAPE = {
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 16,
}


class Notes(Quiet):
    """Keeps what was noted."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, line: str) -> None:
        self.lines.append(line)


Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path, tiny_model: Callable[..., Path]) -> Write:
    """A random model of SHAPE under `zoo/NAME`; `change` alters its decoder in place."""

    def make(name: str, seed: int = 1, change: Callable[[Decoder], None] | None = None, **shape: int) -> Path:
        folder = tiny_model(tmp_path / "zoo" / name, TEXTS, 300, seed=seed, **{**SHAPE, **shape})
        if change is not None:
            weights = open_model(folder)
            model = weights.decoder()
            with torch.no_grad():
                change(model)
            save_model(model, weights.config, folder)
        return folder

    return make


def noised(share: float) -> Callable[[Decoder], None]:
    """Every weight changed by noise of `share` of its tensor's size."""

    def change(model: Decoder) -> None:
        for number, parameter in enumerate(model.parameters()):
            noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
            parameter += share * parameter.std(correction=0) * noise

    return change


def permuted(model: Decoder) -> None:
    """The hidden units of every block in another order."""
    for number, block in enumerate(model.model.layers):
        order = torch.randperm(SHAPE["intermediate_size"], generator=torch.Generator().manual_seed(number))
        block.mlp.gate_proj.weight.copy_(block.mlp.gate_proj.weight[order])
        block.mlp.up_proj.weight.copy_(block.mlp.up_proj.weight[order])
        block.mlp.down_proj.weight.copy_(block.mlp.down_proj.weight[:, order])


def rotated(model: Decoder) -> None:
    """The embedding turned: a stream in another basis (only what the fingerprint reads)."""
    turn, _ = torch.linalg.qr(torch.randn(64, 64, generator=torch.Generator().manual_seed(5)))
    model.model.embed_tokens.weight.copy_(model.model.embed_tokens.weight @ turn)
    for block in model.model.layers:
        block.mlp.up_proj.weight.copy_(block.mlp.up_proj.weight @ turn)


def opened(path: Path) -> Opened:
    return open_for_comparison(path)


def test_kinship_of_descendants_and_strangers(write: Write) -> None:
    parent = make_fingerprint(opened(write("parent")))
    copy = kinship(parent, make_fingerprint(opened(write("copy"))))
    assert copy.identical == 5 and copy.log10_p is not None and copy.log10_p < -40
    tuned = kinship(parent, make_fingerprint(opened(write("tuned", change=noised(1.0)))))
    assert tuned.identical == 0 and tuned.log10_p is not None and tuned.log10_p < -20
    units = kinship(parent, make_fingerprint(opened(write("units", change=permuted))))
    assert units.identical == 5 and units.units_log10_p is not None and units.units_log10_p > -3
    assert units.stream_log10_p is not None and units.stream_log10_p < -20
    turned = kinship(parent, make_fingerprint(opened(write("turned", change=rotated))))
    assert turned.log10_p is not None and turned.log10_p > -3 and turned.likeness is not None and turned.likeness > 0.99
    stranger = kinship(parent, make_fingerprint(opened(write("stranger", seed=2))))
    assert stranger.identical == 0 and stranger.log10_p is not None and stranger.log10_p > -3
    assert stranger.likeness is not None and abs(stranger.likeness) < 0.2 and "Nothing stands" in stranger.sentence


def test_strangers_have_uniform_p_values(write: Write) -> None:
    made = [make_fingerprint(opened(write("stranger", seed=seed))) for seed in range(2, 14)]
    found = [kinship(one, other).log10_p or 0.0 for i, one in enumerate(made) for other in made[:i]]
    assert len(found) == 66 and min(found) > -3.5 and sum(p < -1 for p in found) < 18


def test_a_grown_model_is_seen_block_by_block(write: Write, tmp_path: Path) -> None:
    from puna.model.surgery.plan import grow

    parent = write("parent")
    ids = torch.arange(16).reshape(1, 16)
    weights, _ = grow(open_model(parent), layers=6, how="duplicate", ids=ids)
    model = weights.decoder()
    save_model(model, model.config, tmp_path / "grown")
    grown = replace(opened(tmp_path / "grown"), tokenizer=opened(parent).tokenizer)
    found = kinship(make_fingerprint(grown), make_fingerprint(opened(parent)))
    assert found.units_log10_p is not None and found.units_log10_p < -40


def test_other_widths_leave_the_likeness(write: Write) -> None:
    found = kinship(make_fingerprint(opened(write("parent"))), make_fingerprint(opened(write("wide", hidden_size=96, num_attention_heads=6, num_key_value_heads=6))))  # fmt: skip
    assert found.log10_p is None and found.likeness is not None and "widths differ" in found.sentence


def test_a_fingerprint_is_small_and_survives_its_file(write: Write) -> None:
    made = make_fingerprint(opened(write("parent")))
    data = made.model_dump_json().encode()
    assert parse_fingerprint(data, "here") == made and len(data) < 64 << 10
    for broken in (
        b"",
        b"[]",
        data[:-9],
        data.replace(b'"rows":48', b'"rows":47'),
        data.replace(b'"format":1', b'"format":9'),
    ):
        with pytest.raises(PunaError, match="no fingerprint"):
            parse_fingerprint(broken, "here")


def test_multiset_digest() -> None:
    values = torch.randn(64, 32)
    shuffled = values.flatten()[torch.randperm(2048)].reshape(32, 64)
    assert multiset_digest(values) == multiset_digest(shuffled) == multiset_digest(values.to(torch.bfloat16))
    assert multiset_digest(values) != multiset_digest(values * 1.01)
    assert multiset_digest(torch.zeros(8, 8)) is None  # two broken models are not one


def compared(model: Opened, reference: Opened) -> Lineage:
    """Stands for the exact comparison; what it says is not looked at here."""
    return Lineage.model_construct(model=model.name, reference=reference.name)


def test_scan_sorts_compares_and_remembers(write: Write, tmp_path: Path) -> None:
    zoo = tmp_path / "zoo"
    model = opened(write("mine", change=noised(0.3)))
    write("parent")
    for seed in range(3, 7):
        write(f"stranger{seed}", seed=seed)
    write("run/release")
    broken = write("broken")
    (broken / "model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}")
    notes = Notes()
    rows = scan(model, zoo, compared, most=1, progress=notes)
    assert {row.name for row in rows[:2]} == {"parent", "run"} and len(rows) == 7  # the model itself is not among them
    assert all(row.exact is not None for row in rows[:2]) and all(row.exact is None for row in rows[2:])
    assert rows[-1].name == "broken" and rows[-1].why_not and rows[-1].kin is None
    assert [row.fingerprint for row in rows[:6]] == ["made"] * 6
    again = scan(model, zoo, compared, most=1)
    assert [row.fingerprint for row in again[:6]] == ["stored"] * 6 and [row.kin for row in again] == [
        row.kin for row in rows
    ]
    os.utime(zoo / "parent" / "model.safetensors", ns=(1, 1))
    stored = next((zoo / CACHE).glob("stranger3-*"))
    stored.write_bytes(b"{" * (MAX_BYTES + 1))
    third = {row.name: row.fingerprint for row in scan(model, zoo, compared, progress=notes)}
    assert third["parent"] == "made" and third["stranger3"] == "made" and third["stranger4"] == "stored"
    assert any("made anew" in line for line in notes.lines)
    assert {row.fingerprint for row in scan(model, zoo, compared, stored=False) if row.kin} == {"made"}


def test_the_most_suspicious_are_compared_even_where_no_test_sees_them(write: Write, tmp_path: Path) -> None:
    model = opened(write("mine", change=rotated))
    write("parent")
    for seed in range(3, 6):
        write(f"stranger{seed}", seed=seed)
    rows = scan(model, tmp_path / "zoo", compared, most=4)
    assert all(row.exact is not None for row in rows)


def test_a_comparison_that_fails_is_told(write: Write, tmp_path: Path) -> None:
    model = opened(write("mine"))
    write("parent")

    def fails(model: Opened, reference: Opened) -> Lineage:
        raise PunaError("cannot", where=reference.name)

    (row,) = scan(model, tmp_path / "zoo", fails)
    assert row.why_not == "parent: cannot" and row.kin is not None and row.exact is None


def test_a_folder_that_cannot_be_written_to(write: Write, tmp_path: Path) -> None:
    model = opened(write("mine"))
    write("parent")
    (tmp_path / "zoo" / CACHE).write_text("in the way")  # root may write anywhere, but not into a file
    notes = Notes()
    (row,) = scan(model, tmp_path / "zoo", compared, progress=notes)
    assert row.fingerprint == "in memory" and any("cannot be kept" in line for line in notes.lines)


def test_what_is_found_in_a_folder(write: Write, tmp_path: Path) -> None:
    zoo = tmp_path / "zoo"
    write("org/model")
    write("runs/one/release")
    write("runs/one/pretrain-abc")
    write(".hidden")
    (zoo / "deep" / "a" / "b" / "c").mkdir(parents=True)
    (zoo / "link").symlink_to(zoo / "org", target_is_directory=True)
    (zoo / "one.gguf").write_bytes(b"GGUF")
    (zoo / "tokenizer.bin").write_bytes(b"no model")
    found = {one.name: one.path for one in find_models(zoo)}
    assert found == {"one.gguf": zoo / "one.gguf", "org/model": zoo / "org/model", "runs/one": zoo / "runs/one/release"}
    with pytest.raises(PunaError, match="no folder"):
        list(find_models(zoo / "one.gguf"))
    with pytest.raises(PunaError, match="no model"):
        scan(opened(zoo / "org/model"), zoo / "deep", compared)
