"""A build that begins with open weights: stories260K goes on with other text; grown, extended, lengthened, with an adapter."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import zstandard

from puna.engine import Engine, Sampling
from puna.files import read_json
from puna.model.formats import load_config, load_model

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
STORIES = DATA / "weights" / "stories260K" / "stories260K.bin"
pytestmark = pytest.mark.skipif(not STORIES.is_file(), reason="the shared weights are not here")
SMALL = ["train.tokens=30000", "train.batch_tokens=1024", "train.compile=off", "train.threads=1", "judge.compressors=false",
         "judge.bootstrap=100", "model.context=128"]  # fmt: skip


def english(count: int) -> list[str]:
    with (
        open(DATA / "train" / "en_open.jsonl.zst", "rb") as raw,
        zstandard.ZstdDecompressor().stream_reader(raw) as stream,
    ):
        lines = stream.read(8_000_000).decode().splitlines()
    return [json.loads(line)["text"][:3000] for line in lines[:count]]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    rows = english(160)
    for name, part in (("new", rows[:120]), ("old", rows[120:])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in part))
    return folder


def make(
    place: Path, name: str, base: dict[str, Any], *changes: str, until: str | None = None, fails: bool = False
) -> Any:
    tables = "\n".join(f"{key} = {json.dumps(value)}" for key, value in base.items())
    (place / f"{name}.toml").write_text(
        f'name = "{name}"\nseed = 3\n[base]\n{tables}\n[corpus]\nsources = ["new.jsonl"]\n[train]\ntokens = 30000\n'
    )
    command = [sys.executable, "-m", "puna", "make", f"{name}.toml", *(["--until", until] if until else [])]
    for change in [*SMALL, *changes]:
        command += ["--set", change]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=280)
    if fails:
        assert done.returncode == 2, done.stderr
        return done.stderr
    assert done.returncode == 0, done.stderr
    return place / "runs" / name


def stage(run: Path, name: str) -> Path:
    (found,) = [path for path in run.glob(f"{name}-*") if path.is_dir()]
    return found


def test_a_build_goes_on_from_open_weights_and_tells_inherited_from_own(place: Path) -> None:
    run = make(place, "more", {"from": str(STORIES), "old": ["old.jsonl"], "replay": 0.2})
    base, own = Engine.load(stage(run, "base")), Engine.load(run / "release")
    told = base.complete([[1, *base.tokenizer.encode("Once upon a time")]], Sampling(temperature=0.0, max_tokens=20))[
        0
    ].text
    assert told.startswith(", there was a little girl named Lily.")
    assert not torch.equal(base.model.head_weight(), own.model.head_weight())
    results = read_json(run / "release" / "puna" / "results.json")
    found = json.dumps(results["inheritance"])
    assert "inherited" in found and "own" in found and '"old"' in found
    assert read_json(stage(run, "pack") / "MANIFEST.json")["facts"]["replay_share"] == pytest.approx(0.2, abs=0.02)
    kinds = [json.loads(line)["kind"] for line in (run / "release" / "puna" / "ledger.jsonl").read_text().splitlines()]
    assert "base" in kinds
    card = (run / "release" / "README.md").read_text()
    assert "stories260K" in card and str(DATA) not in card
    page = (run / "report.html").read_text()
    assert "nherited" in page and str(DATA) not in page


def test_a_grown_and_extended_start_computes_what_the_base_did(place: Path) -> None:
    run = make(place, "start", {"from": str(STORIES), "layers": 7, "grow": "silent", "extend": 64}, until="start")
    base, start = load_model(stage(run, "base")), load_model(stage(run, "start"))
    assert start.config.num_hidden_layers == 7
    assert start.config.vocab_size > base.config.vocab_size
    ids = torch.arange(3, 103).view(2, 50)
    with torch.inference_mode():
        before, after = base.logits(base(ids)), start.logits(start(ids))
    assert torch.equal(after[..., : base.config.vocab_size], before)


def test_a_longer_context_is_trained_on_and_judged(place: Path) -> None:
    run = make(place, "long", {"from": str(STORIES), "context": 1024}, "model.context=512")
    config = load_config(run / "release")
    assert config.max_position_embeddings == 1024 and config.rope_theta > 10_000
    assert "long_context" in read_json(run / "release" / "puna" / "results.json")
    facts = read_json(stage(run, "pack") / "MANIFEST.json")["facts"]
    assert facts["context"] == 512


def test_an_adapter_leaves_a_merged_release_and_its_own_files(place: Path) -> None:
    run = make(place, "lora", {"from": str(STORIES)}, "train.adapter={rank=4}")
    assert load_config(run / "release").num_hidden_layers == 5
    config = read_json(run / "release" / "adapter" / "adapter_config.json")
    assert (config["r"], config["peft_type"]) == (4, "LORA")
    ours, base = load_model(run / "release"), load_model(stage(run, "base"))
    assert torch.equal(ours.model.embed_tokens.weight, base.model.embed_tokens.weight)
    assert not torch.equal(ours.model.layers[0].mlp.up_proj.weight, base.model.layers[0].mlp.up_proj.weight)


def test_a_base_with_bos_is_tuned_to_chat_through_an_adapter(place: Path) -> None:
    turns = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hello to you"}]
    (place / "chat.jsonl").write_text((json.dumps({"messages": turns}) + "\n") * 40)
    run = make(
        place,
        "chat",
        {"from": str(STORIES)},
        "tune=[{data='chat.jsonl', tokens=12000, batch_tokens=512, adapter={rank=4}}]",
    )
    engine = Engine.load(run / "release")
    head = engine.model.head_weight()
    assert engine.tokenizer.im_end_id is not None and engine.tokenizer.im_start_id is not None
    assert not torch.equal(head[engine.tokenizer.im_end_id], head[engine.tokenizer.im_start_id])
    assert (run / "release" / "chat_template.jinja").read_text().startswith("{{- bos_token -}}")


def test_two_models_become_one(place: Path) -> None:
    run = make(place, "soup", {"from": [str(STORIES), str(STORIES)], "merge": "slerp"}, until="base")
    soup, base = load_model(stage(run, "base")), load_model(STORIES)
    torch.testing.assert_close(soup.model.layers[2].mlp.up_proj.weight, base.model.layers[2].mlp.up_proj.weight)
    copy = make(place, "copy", {"from": [str(STORIES), str(stage(run, "base"))]}, until="base")
    assert torch.equal(load_model(stage(copy, "base")).head_weight(), base.head_weight())
    aidreams = str(DATA / "weights" / "aidreams260K" / "aidreams260K.bin")
    told = make(place, "soup2", {"from": [str(STORIES), aidreams]}, until="base", fails=True)
    assert "num_hidden_layers" in told or "tokenizer" in told


def test_what_does_not_fit_the_base_is_told_before_anything_is_built(place: Path) -> None:
    told = make(place, "short", {"from": str(STORIES), "context": 256}, fails=True)
    assert "512" in told and "base.context" in told
    told = make(place, "gone", {"from": "nowhere"}, fails=True)
    assert "nowhere" in told
    told = make(place, "own", {"from": str(STORIES), "old": ["self", "old.jsonl"]}, fails=True)
    assert "self" in told
    assert not (place / "runs" / "short").exists() and not (place / "runs" / "gone").exists()
