"""Tokenizers side by side: copies however written, extended, trimmed and renumbered ones, strangers of one language, real ones."""

import itertools
import json
import random
import shutil
import sysconfig
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from puna.lineage.opened import Opened
from puna.lineage.tokenizer import (
    DERIVED_ABOVE,
    STRANGERS,
    compare_tokenizers,
    expected_share,
    shared_tokens,
    strangers_neighbours,
)
from puna.lineage.tokenizer import REAL as REAL_STRANGERS
from puna.lineage.verdict import TokenizerLayer
from puna.lineage.weights.reading import assembled
from puna.tokens import Tokenizer, train_tokenizer
from puna.tokens.formats import open_tokenizer

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
REAL = DATA / "tokenizers"
needs_data = pytest.mark.skipif(not REAL.is_dir(), reason=f"no {REAL}")


def paragraphs(megabytes: float) -> list[str]:
    """The source text of the Python that runs this, in paragraphs, shuffled the same way every time."""
    found: list[str] = []
    for file in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        found += [part for part in file.read_text(encoding="utf-8", errors="replace").split("\n\n") if part.strip()]
    random.Random(0).shuffle(found)
    total, kept = 0, []
    for part in found:
        if total > megabytes * 1e6:
            break
        kept.append(part)
        total += len(part.encode())
    return kept


def trained(texts: Sequence[str], size: int, folder: Path) -> Tokenizer:
    train_tokenizer(iter(texts), size, folder)
    return Tokenizer.load(folder)


def opened(tokenizer: Tokenizer | None, name: str = "x") -> Opened:
    return Opened(name, assembled(name, {}, {}), tokenizer, no_tokenizer="" if tokenizer else "no such file")


def compared(ours: Tokenizer, theirs: Tokenizer) -> TokenizerLayer:
    return compare_tokenizers(opened(ours, "ours"), opened(theirs, "theirs"))


def changed(tokenizer: Tokenizer, folder: Path, change: Callable[[dict[str, Any]], None]) -> Tokenizer:
    """The tokenizer with its tokenizer.json changed in place by `change`."""
    value = tokenizer.backend_json()
    change(value)
    folder.mkdir()
    (folder / "tokenizer.json").write_text(json.dumps(value))
    return Tokenizer.load(folder)


@pytest.fixture(scope="module")
def text() -> list[str]:
    return paragraphs(1.5)


@pytest.fixture(scope="module")
def base(text: list[str], tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return trained(text[::2], 1000, tmp_path_factory.mktemp("base"))


def test_a_copy_is_the_same(base: Tokenizer, tmp_path: Path) -> None:
    base.save(tmp_path / "copy")
    found = compared(Tokenizer.load(tmp_path / "copy"), base)
    assert found.verdict == "same" and (found.shared_entries, found.same_ids, found.neighbours_in_order) == (
        1.0,
        1.0,
        1.0,
    )
    pairs = shared_tokens(base, base)
    assert len(pairs) == base.vocab_size and (pairs[:, 0] == pairs[:, 1]).all()


def test_an_extended_one_is_derived_both_ways(text: list[str], base: Tokenizer, tmp_path: Path) -> None:
    longer = trained(text[::2], 1500, tmp_path)  # the same text: the first merges are the same
    for ours, theirs, words in ((longer, base, "and 500 more"), (base, longer, "and no other")):
        found = compared(ours, theirs)
        assert (
            found.verdict == "derived"
            and words in found.sentence
            and "or both from the very same text" in found.sentence
        )
    assert compared(longer, base).shared_entries == pytest.approx(740 / 1240, abs=0.01)


def test_trimmed_and_renumbered_ones_are_derived(base: Tokenizer, tmp_path: Path) -> None:
    def trim(value: dict[str, Any]) -> None:
        value["model"]["merges"] = value["model"]["merges"][:300]
        made = {
            "".join(pair) if not isinstance(pair, str) else pair.replace(" ", "") for pair in value["model"]["merges"]
        }
        vocab = {name: number for name, number in value["model"]["vocab"].items() if number < 260 or name in made}
        value["model"]["vocab"] = {name: number for number, name in enumerate(sorted(vocab, key=vocab.__getitem__))}

    def renumber(value: dict[str, Any]) -> None:
        learnt = [name for name, number in value["model"]["vocab"].items() if number >= 260]
        numbers = list(range(260, 260 + len(learnt)))
        random.Random(1).shuffle(numbers)
        value["model"]["vocab"] |= dict(zip(learnt, numbers, strict=True))

    short = compared(changed(base, tmp_path / "short", trim), base)
    assert (
        short.verdict == "derived" and "MODEL has 300 of REFERENCE's 740 learnt entries and no other" in short.sentence
    )
    mixed = changed(base, tmp_path / "mixed", renumber)
    found = compared(mixed, base)
    assert (
        found.verdict == "derived"
        and "under new ids" in found.sentence
        and found.same_ids is not None
        and found.same_ids < 0.05
    )
    pairs = shared_tokens(mixed, base).tolist()
    assert len(pairs) == base.vocab_size and all(mixed.token_bytes(a) == base.token_bytes(b) for a, b in pairs)


def test_other_cutting_or_specials_are_not_the_same(base: Tokenizer, tmp_path: Path) -> None:
    def lower(value: dict[str, Any]) -> None:
        value["normalizer"] = {"type": "Lowercase"}

    def more(value: dict[str, Any]) -> None:
        value["added_tokens"].append({**value["added_tokens"][0], "id": 1000, "content": "<|tool|>"})

    found = compared(changed(base, tmp_path / "lower", lower), base)
    assert found.verdict == "derived" and "texts are cut otherwise" in found.sentence
    assert any(part.name == "normaliser" and not part.equal and part.model == "Lowercase" for part in found.parts)
    found = compared(changed(base, tmp_path / "more", more), base)
    assert found.verdict == "derived" and any(part.name == "special entries" and not part.equal for part in found.parts)


def test_halves_of_one_text_give_strangers(text: list[str], base: Tokenizer, tmp_path: Path) -> None:
    found = compared(trained(text[1::2], 1000, tmp_path), base)
    assert (
        found.verdict == "independent"
        and found.neighbours_in_order is not None
        and found.neighbours_in_order < strangers_neighbours(500) < DERIVED_ABOVE
    )
    assert found.shared_entries and found.shared_entries > 0.7  # the trap: most entries are shared
    assert found.merges_order and found.merges_order > 0.8  # and their ranks go together
    assert "any two of like text share" in found.sentence and found.expected and 0.8 < found.expected < 1


def test_languages_that_share_nothing(base: Tokenizer, tmp_path: Path) -> None:
    chinese = trained(
        [
            "中华人民共和国的法律规定了公民的权利和义务，任何组织和个人不得侵犯。羊驼走过高原的草地。"
            + chr(0x4E00 + k) * 3
            for k in range(300)
        ],
        420,
        tmp_path,
    )
    found = compared(chinese, base)
    assert found.verdict == "independent" and found.shared_entries is not None and found.shared_entries < 0.1
    assert len(shared_tokens(chinese, base)) >= 260  # bytes and special entries


def test_merges_in_another_order(base: Tokenizer, tmp_path: Path) -> None:
    """The same entries and ids, other merges: one was made from the other, whatever the order says."""

    def shuffle(value: dict[str, Any]) -> None:
        merges = value["model"]["merges"]
        names = {
            "".join(pair) if not isinstance(pair, str) else pair.replace(" ", ""): place
            for place, pair in enumerate(merges)
        }
        used = {part for pair in merges for part in (pair if not isinstance(pair, str) else pair.split(" "))}
        last = [place for name, place in names.items() if name not in used]  # nothing is built on them
        drawn = random.Random(2).sample(last, len(last))
        value["model"]["merges"] = [
            merges[dict(zip(last, drawn, strict=True)).get(place, place)] for place in range(len(merges))
        ]

    found = compared(changed(base, tmp_path / "half", shuffle), base)
    assert found.verdict == "derived" and found.neighbours_in_order is not None and found.neighbours_in_order < 0.9


def test_one_without_a_tokenizer(base: Tokenizer) -> None:
    found = compare_tokenizers(opened(base), opened(None, "bare"))
    assert (
        found.verdict == "cannot tell"
        and "bare has no tokenizer" in found.sentence
        and found.evidence == ("no such file",)
    )


def test_too_small_to_tell(tmp_path: Path) -> None:
    one, two = (
        trained([text] * 50, 275, tmp_path / name)
        for name, text in (("a", "the fox and the hen went over"), ("b", "the hen and the cat sat there"))
    )
    assert compared(one, two).verdict == "cannot tell"


def test_what_strangers_share_at_other_sizes() -> None:
    low, high, _ = expected_share(740, 740)
    assert (low, high) == (STRANGERS[740].least, STRANGERS[740].most)
    low, high, _ = expected_share(7400, 740)  # ten times as many entries: a tenth of them at most
    assert 0.08 < low < high < 0.1
    low, high, _ = expected_share(740, 7400)
    assert high == pytest.approx(0.99)


def real(name: str) -> Tokenizer:
    return open_tokenizer((DATA / "weights" if name.endswith("260K") else REAL) / name)


@needs_data
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("gpt-2", "llama2_spm32k"), ("minimind6400", "gpt-2"), ("stories260K", "aidreams260K"), ("aidreams260K", "minimind6400"),
        *[pytest.param(a, b, marks=pytest.mark.slow) for a, b in itertools.permutations(("deepseek-llm", "llama3_tiktoken", "llama2_spm32k", "stories260K"), 2)],
    ],
)  # fmt: skip
def test_real_tokenizers_are_strangers(ours: str, theirs: str) -> None:
    found = compared(real(ours), real(theirs))
    assert found.verdict == "independent", found.sentence
    assert found.neighbours_in_order is not None and 0.44 < found.neighbours_in_order < REAL_STRANGERS.neighbours + 0.01


@needs_data
def test_forms_of_one_tokenizer() -> None:
    whole = real("llama2_spm32k")
    pieces, binary = (open_tokenizer(REAL / "llama2_spm32k" / f"tokenizer.{kind}") for kind in ("model", "bin"))
    assert compared(pieces, binary).verdict == "same"
    found = compared(whole, pieces)
    assert (
        found.verdict == "derived" and "3 more" in found.sentence and found.same_ids == 1.0
    )  # tokenizer.json of this copy has three more entries


@needs_data
def test_pairs_across_kinds_mean_the_same_bytes() -> None:
    spm, gpt = open_tokenizer(REAL / "llama2_spm32k"), open_tokenizer(REAL / "gpt-2")
    pairs = shared_tokens(spm, gpt).tolist()
    assert len({a for a, _ in pairs}) == len({b for _, b in pairs}) == len(pairs) > 18_000
    ends = {(spm.bos_id, gpt.bos_id), (spm.eos_id, gpt.eos_id)}
    piece = {spm.encode("x")[0]: gpt.encode(" x")[0]}
    assert piece.items() <= dict(pairs).items()
    for ours, theirs in pairs:
        if (ours, theirs) not in ends:
            mine = spm.token_bytes(ours)
            assert mine == gpt.token_bytes(theirs), (ours, theirs)
    for byte in (b"\xe4", b"\x00"):  # pieces for bytes stand for a byte-level tokenizer's entries of that byte
        assert any(gpt.token_bytes(theirs) == byte for _, theirs in pairs)


# What `STRANGERS` was measured by. The quick test measures the two smallest sizes on Python's own text, the slow one all of them on all texts.


def measure_strangers(texts: dict[str, list[str]], size: int, folder: Path) -> dict[str, tuple[float, float]]:
    """{text: (share of the smaller's learnt entries, neighbours in order)} of two tokenizers trained on the halves of each text."""
    found = {}
    for name, text in texts.items():
        pair = [trained(half, size, folder / f"{name}-{number}") for number, half in enumerate((text[::2], text[1::2]))]
        layer = compared(*pair)
        shutil.rmtree(folder / f"{name}-0"), shutil.rmtree(folder / f"{name}-1")
        assert (
            layer.verdict == "independent"
            and layer.shared_entries is not None
            and layer.neighbours_in_order is not None
        ), (name, size, layer.sentence)
        found[name] = (layer.shared_entries, layer.neighbours_in_order)
        print(f"{size} entries, {name}: {layer.shared_entries:.3f} shared, neighbours {layer.neighbours_in_order:.3f}")
    return found


def _holds(size: int, measured: dict[str, tuple[float, float]]) -> None:
    learnt = size - 260
    kept = STRANGERS[learnt]
    for name, (share, neighbours) in measured.items():
        assert kept.least - 0.03 <= share <= kept.most + 0.03, (size, name, share)
        assert neighbours <= strangers_neighbours(learnt), (size, name, neighbours)


@pytest.mark.parametrize("size", [400, 1000])
def test_the_table_of_strangers(size: int, text: list[str], tmp_path: Path) -> None:
    _holds(size, measure_strangers({"python": text}, size, tmp_path))


@pytest.mark.slow
@needs_data
@pytest.mark.parametrize("size", [400, 1000, 4000, 16000, 32000])
def test_the_whole_table_of_strangers(size: int, tmp_path: Path) -> None:
    import io

    import zstandard

    def read(name: str, most: float) -> list[str]:
        with open(DATA / "train" / name, "rb") as stream:
            lines = io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(stream), encoding="utf-8")
            parts = [part for line in lines for part in json.loads(line)["text"].split("\n\n") if part.strip()]
        random.Random(0).shuffle(parts)
        total = list(itertools.accumulate(len(part.encode()) for part in parts))
        return [part for part, so_far in zip(parts, total, strict=True) if so_far < most]

    books, chinese = read("en_classics.jsonl.zst", 12e6), read("zh_modern.jsonl.zst", 8e6)
    mixed = read("en_classics.jsonl.zst", 6e6) + read("zh_laws.jsonl.zst", 6e6)
    random.Random(0).shuffle(mixed)
    _holds(size, measure_strangers({"books": books, "chinese": chinese, "mixed": mixed}, size, tmp_path))
