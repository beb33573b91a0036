"""Inherited and own: the same text for all, one model in memory at a time, and words that the intervals bear."""

import copy
import gc
import json
import weakref
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from puna.engine import Engine
from puna.errors import PunaError
from puna.judge.bits_per_byte import _not_lossless, document_bits
from puna.judge.documents import load
from puna.judge.inheritance import _words, format_inheritance, judge_inheritance
from puna.judge.long_context import judge_long_context
from puna.judge.table import format_scores

CHINESE = ["羊驼走过高原的草地。", "你好，世界。山上的风唱着歌。", "开源模型要说明来历。", "词表扩展以后，字节数会变。"]


@pytest.fixture(scope="module")
def new(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The openings of the held-out modules: enough sources for intervals, little to read."""
    rows = [{**row, "text": row["text"][:1500]} for row in pq.read_table(corpus / "heldout.parquet").to_pylist()]
    folder = tmp_path_factory.mktemp("new")
    pq.write_table(pa.Table.from_pylist(rows), folder / "heldout.parquet")
    return folder


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Held-out text of the base's domain: Chinese and English, each with its language, and one of which nobody knows."""
    rows = [{"text": CHINESE[n % 4] * (6 + n), "source": f"zh{n}", "lang": "zh"} for n in range(9)]
    rows += [
        {"text": f"The wind sang over the plain, {n} times. " * 9, "source": f"en{n}", "lang": "en"} for n in range(9)
    ]
    rows.append({"text": "12345 67890", "source": "?", "lang": None})  # type: ignore[dict-item]
    folder = tmp_path_factory.mktemp("old")
    pq.write_table(pa.Table.from_pylist(rows), folder / "heldout.parquet")
    return folder


@pytest.fixture(scope="module")
def own_folder(tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[..., Path]) -> Path:
    """Another model with another tokenizer: as after an extension."""
    return tiny_model(tmp_path_factory.mktemp("own"), CHINESE * 9, 400, max_position_embeddings=256, seed=8)


@pytest.fixture(scope="module")
def result(model_folder: Path, own_folder: Path, new: Path, old: Path) -> dict[str, Any]:
    models = [("inherited", model_folder), ("init", model_folder), ("own", own_folder)]
    return judge_inheritance(models, {"new": new, "old": old}, draws=300, seed=5)


def test_rows_are_what_each_model_says_of_the_text(
    result: dict[str, Any], model_folder: Path, own_folder: Path, new: Path, old: Path
) -> None:
    assert [row["model"] for row in result["rows"]] == ["inherited", "init", "own"]
    for domain, folder in (("new", new), ("old", old)):
        texts = load(folder, "heldout", 1_000_000, 5)
        for row, path in ((result["rows"][0], model_folder), (result["rows"][2], own_folder)):
            bits, _ = document_bits(Engine.load(path, device="cpu"), texts.texts)
            told = row["scores"][domain]
            assert told["value"] == pytest.approx(bits.sum() / texts.sizes.sum(), abs=1e-6)
            assert told["interval"][0] < told["value"] < told["interval"][1]
            assert told["n"] == len(set(texts.sources))


def test_differences_are_paired_and_of_every_step(result: dict[str, Any]) -> None:
    value = {
        (row["model"], domain): score["value"] for row in result["rows"] for domain, score in row["scores"].items()
    }
    told = {(gap["domain"], gap["before"], gap["after"]): gap["difference"] for gap in result["differences"]}
    pairs = [("inherited", "own"), ("inherited", "init"), ("init", "own")]
    assert list(told) == [(domain, *pair) for domain in ("new", "old") for pair in pairs]
    for (domain, before, after), gap in told.items():
        assert gap["value"] == pytest.approx(value[after, domain] - value[before, domain], abs=2e-6)
    assert told["new", "inherited", "init"]["interval"] == [0, 0]
    assert (
        "The new form alone, before any training, left every prediction on the new text as it was." in result["words"]
    )


def test_languages_before_and_after(result: dict[str, Any], model_folder: Path, own_folder: Path, old: Path) -> None:
    assert list(result["languages"]) == ["old"]  # the other corpus names no language
    assert list(result["languages"]["old"]) == ["en", "zh"]  # most bytes first
    rows = pq.read_table(old / "heldout.parquet").to_pylist()
    for lang, told in result["languages"]["old"].items():
        texts = [row["text"] for row in rows if row["lang"] == lang]
        size = sum(len(text.encode()) for text in texts)
        assert (told["documents"], told["bytes"], told["n"]) == (9, size, 9)
        for name, path in (("inherited", model_folder), ("own", own_folder)):
            engine = Engine.load(path, device="cpu")
            tokens = sum(len(engine.tokenizer.encode(text)) for text in texts)
            assert told["rows"][name]["bytes_per_token"] == pytest.approx(size / tokens, abs=1e-6)
            assert told["rows"][name]["bits_per_byte"] == pytest.approx(
                document_bits(engine, texts)[0].sum() / size, abs=1e-6
            )
    zh = result["languages"]["old"]["zh"]["rows"]
    assert zh["own"]["bytes_per_token"] > zh["inherited"]["bytes_per_token"]


def test_same_inputs_same_bytes_and_no_path_in_them(
    result: dict[str, Any], model_folder: Path, own_folder: Path, new: Path, old: Path
) -> None:
    models = [("inherited", model_folder), ("init", model_folder), ("own", own_folder)]
    again = judge_inheritance(models, {"new": new, "old": old}, draws=300, seed=5)
    assert json.dumps(again) == json.dumps(result)
    assert str(model_folder.parent) not in json.dumps(result)
    assert (
        result["inputs"]["models"]["inherited"]
        == result["inputs"]["models"]["init"]
        != result["inputs"]["models"]["own"]
    )


def test_one_model_in_memory_at_a_time(
    model_folder: Path, own_folder: Path, new: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive: list[weakref.ref[Any]] = []
    load_engine = Engine.load

    def watched(folder: Path) -> Engine:
        assert not [one for one in alive if one() is not None], "the model before is still there"
        engine = load_engine(folder, device="cpu")
        alive.append(weakref.ref(engine.model.head_weight()))
        return engine

    monkeypatch.setattr(Engine, "load", watched)
    models = [("inherited", model_folder), ("own", own_folder)]
    judge_inheritance(models, {"new": new}, draws=100, seed=1)
    judge_long_context(models, new, context=128, draws=100, seed=1, trials=1, depths=[0.5])
    gc.collect()
    assert len(alive) == 4


@pytest.mark.parametrize(
    ("domain", "value", "interval", "holds", "expected"),
    [
        ("old", 0.031, [0.02, 0.04], False, "All that was done to the base forgot 0.031 bits per byte on the old text (95 % interval 0.020 to 0.040)."),
        ("old", 0.004, [-0.006, 0.014], None, "brought no forgetting that the data can show on the old text: 0.004 bits per byte more (95 % interval 0.006 fewer to 0.014 more)."),
        ("old", 0.03, None, None, "Cannot tell what all that was done to the base did on the old text: 0.030 bits per byte more, and too few sources for an interval."),
        ("old", -0.1, [-0.2, -0.05], True, "forgot nothing: on the old text too it gained 0.100 bits per byte (95 % interval 0.050 to 0.200)."),
        ("new", -0.3, [-0.4, -0.2], True, "gained 0.300 bits per byte on the new text (95 % interval 0.200 to 0.400)."),
        ("new", 0.3, [0.2, 0.4], False, "lost 0.300 bits per byte on the new text"),
        ("new", -0.0001, [-0.002, 0.001], None, "no gain that the data can show on the new text: less than 0.001 bits per byte fewer"),
    ],
)  # fmt: skip
def test_the_words_claim_what_the_interval_bears(
    domain: str, value: float, interval: list[float] | None, holds: bool | None, expected: str
) -> None:
    gap = {"value": value, "interval": interval, "drawn": "sources", "units": 20}
    assert expected in _words(gap, domain, "inherited", "own", holds, False)


def test_a_known_difference_is_found(engine: Engine, new: Path) -> None:
    """A model against itself with every token alike: its bits are known, and so is the difference."""
    even, loud = copy.deepcopy(engine.model), copy.deepcopy(engine.model)
    with torch.no_grad():
        even.model.norm.weight.mul_(0.0)  # every token alike
        loud.model.norm.weight.mul_(30.0)  # sure of what it does not know
    models = [("inherited", loud), ("own", even)]
    pair = [(name, Engine(model, engine.tokenizer, engine.config)) for name, model in models]
    found = judge_inheritance(pair, {"new": new}, draws=300, seed=2)
    texts = load(new, "heldout", 1_000_000, 2)
    tokens = sum(len(engine.tokenizer.encode(text)) for text in texts.texts)
    expected = tokens * np.log2(engine.config.vocab_size) / texts.sizes.sum()
    assert found["rows"][1]["scores"]["new"]["value"] == pytest.approx(expected, abs=1e-5)
    (gap,) = found["differences"]
    assert gap["holds"] is True
    assert gap["difference"]["interval"][1] < 0
    assert found["words"][0].startswith("All that was done to the base gained ")
    back = judge_inheritance([("inherited", pair[1][1]), ("own", pair[0][1])], {"old": new}, draws=300, seed=2)
    assert back["differences"][0]["holds"] is False
    assert back["words"][0].startswith("All that was done to the base forgot ")
    assert "Forgetting was not measured: no text of the base's old domain was named." in found["words"]


def test_the_tables_fit_80_columns(result: dict[str, Any], model_folder: Path, own_folder: Path, new: Path) -> None:
    models = [("inherited", model_folder), ("own", own_folder)]
    long = judge_long_context(models, new, context=256, draws=100, seed=1, trials=1)
    table = format_inheritance(result)
    for word in ("inherited", "init", "own - inherited", "own - init", "new text", "old text", "zh", "bytes per token"):
        assert word in table
    scores = {"scores": [], "baselines": [], "verdicts": [], "left_out": [],
              "text": {"heldout": {"bytes_used": 1, "sampled": False}}}  # fmt: skip
    both = format_scores({**scores, "inheritance": result, "long_context": long})
    assert table in both
    assert "needle, own: % told from 7 others" in both
    assert "192 to 256" in both or "128 to 256" in both
    assert max(map(len, both.splitlines())) <= 80
    assert both.isascii()
    assert format_scores(scores) == format_scores({**scores, "inheritance": None})
    one = judge_inheritance([("inherited", model_folder), ("own", own_folder)], {"new": new}, draws=100, seed=1)
    assert max(map(len, format_inheritance(one).splitlines())) <= 80


def test_mistakes(model_folder: Path, new: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="two models"):
        judge_inheritance([("inherited", model_folder)], {"new": new}, draws=100, seed=1)
    with pytest.raises(ValueError, match="names of their own"):
        judge_inheritance([("own", model_folder)] * 2, {"new": new}, draws=100, seed=1)
    with pytest.raises(PunaError, match="no such file"):
        judge_inheritance([("inherited", model_folder), ("own", model_folder)], {"new": tmp_path}, draws=100, seed=1)


def test_a_space_before_the_text_is_paid_for_and_a_dropped_byte_is_not() -> None:
    known = {0: b" ", 1: "羊".encode(), 2: b"llama", 3: b"Llama"}
    stand_in: Any = SimpleNamespace(tokenizer=SimpleNamespace(token_bytes=known.__getitem__))
    texts = ["羊llama", "羊llama", "羊llama", "羊llama"]
    assert _not_lossless(stand_in, [[1, 2], [0, 1, 2], [2], [1, 3]], texts) == 2
