"""Bits per byte by position: the engine's own numbers, on the same documents, with a reason where there are too few."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from puna.engine import Engine
from puna.judge.bits_per_byte import start_id
from puna.judge.documents import load
from puna.judge.long_context import _words, stretched
from puna.judge.positions import MOST_DOCUMENTS, bits_by_position, compare_positions, position_edges

CHINESE = "羊驼走过高原的草地。你好，世界。山上的风唱着歌，草地上有许多羊驼。" * 8
ASK: dict[str, Any] = {"draws": 200, "seed": 3}


@pytest.fixture(scope="module")
def texts(corpus: Path) -> list[str]:
    return [text for split in ("train", "heldout") for text in load(corpus, split, 1 << 40, 0).texts]


def test_edges_double_up_to_the_context() -> None:
    assert position_edges(512) == [0, 128, 256, 512]
    assert position_edges(4096) == [0, 128, 256, 512, 1024, 2048, 4096]
    assert position_edges(1000) == [0, 128, 256, 512, 1000]
    assert position_edges(128) == [0, 32, 64, 128]
    assert position_edges(1) == [0, 1]


def test_every_range_is_what_the_engine_says_of_its_tokens(engine: Engine, texts: list[str]) -> None:
    found = bits_by_position(engine, texts, context=96, edges=[0, 10, 40, 96], **ASK)
    rows = [ids[:96] for text in texts if len(ids := engine.tokenizer.encode(text)) >= 96]
    assert found["n"] == found["documents"] == len(rows)
    for told in found["ranges"]:
        low, high = told["from"], told["to"]
        nats = engine.logprobs([([start_id(engine), *ids[:low]], ids[low:high]) for ids in rows])
        size = sum(len(engine.tokenizer.token_bytes(id_)) for ids in rows for id_ in ids[low:high])
        assert told["bytes"] == size
        assert told["bits_per_byte"] == pytest.approx(-sum(nats) / math.log(2) / size, rel=1e-5)
        assert told["interval"][0] <= told["bits_per_byte"] <= told["interval"][1]
    change = found["last_minus_first"]
    assert change["value"] == pytest.approx(
        found["ranges"][-1]["bits_per_byte"] - found["ranges"][0]["bits_per_byte"], abs=2e-6
    )
    assert change["interval"][0] <= change["value"] <= change["interval"][1]


def test_a_model_is_read_beyond_its_context(engine: Engine, texts: list[str]) -> None:
    """The same numbers as the engine's when it is told that its context is longer: positions go on as they are."""
    assert engine.context == 128
    longer = stretched(engine, 256)
    assert longer.context == 256
    assert stretched(longer, 200) is longer
    found = bits_by_position(engine, texts, context=256, edges=[0, 128, 256], **ASK)
    rows = [ids[:256] for text in texts if len(ids := engine.tokenizer.encode(text)) >= 256]
    nats = longer.logprobs([([start_id(engine), *ids[:128]], ids[128:]) for ids in rows])
    assert found["ranges"][1]["bits_per_byte"] == pytest.approx(
        -sum(nats) / math.log(2) / found["ranges"][1]["bytes"], rel=1e-5
    )
    assert found["trained_context"] == 128


def test_two_models_on_the_same_bytes(engine: Engine, texts: list[str]) -> None:
    found = compare_positions(iter([("inherited", engine), ("own", engine)]), texts, context=128, **ASK)
    assert found["models"]["inherited"] == found["models"]["own"]
    (gap,) = found["differences"]
    assert [told["value"] for told in gap["ranges"]] == [0, 0, 0]
    assert all(told["interval"] == [0, 0] for told in gap["ranges"])
    assert json.dumps(found) == json.dumps(
        compare_positions([("inherited", engine), ("own", engine)], texts, context=128, **ASK)
    )


def test_documents_of_one_source_are_drawn_together(engine: Engine, texts: list[str]) -> None:
    alone = bits_by_position(engine, texts, context=64, **ASK)
    found = bits_by_position(engine, texts * 2, sources=[str(n) for n in range(len(texts))] * 2, context=64, **ASK)
    assert found["documents"] == 2 * alone["documents"]
    assert found["n"] == alone["n"]
    assert found["n_is"] == "sources"
    assert found["ranges"][0]["interval"] == pytest.approx(alone["ranges"][0]["interval"], abs=1e-4)


def test_too_few_long_documents_are_a_reason_and_no_number(engine: Engine, texts: list[str]) -> None:
    found = bits_by_position(engine, [*texts[:3], "short"] * 1, context=128, **ASK)
    assert "ranges" not in found
    assert found["reason"] == "3 documents of 128 tokens or more; 8 are needed"
    both = compare_positions([("a", engine), ("b", engine)], ["羊驼"], context=128, **ASK)
    assert both["differences"] == []
    assert both["models"]["b"]["reason"].startswith("0 documents")


def test_time_is_bounded_and_chinese_counts_in_bytes(engine: Engine) -> None:
    found = bits_by_position(engine, [CHINESE + str(n) for n in range(100)], context=32, **ASK)
    assert found["documents"] == MOST_DOCUMENTS
    ids = engine.tokenizer.encode(CHINESE)[:8]
    assert found["ranges"][0]["bytes"] == MOST_DOCUMENTS * sum(len(engine.tokenizer.token_bytes(id_)) for id_ in ids)


def test_impossible_edges(engine: Engine, texts: list[str]) -> None:
    for edges in ([0, 64], [1, 128], [0, 64, 64, 128]):
        with pytest.raises(ValueError, match="edges"):
            bits_by_position(engine, texts, context=128, edges=edges, **ASK)


def _told(
    context: int, trained: int, last: float, change: float, interval: list[float], falls: bool | None
) -> dict[str, Any]:
    ranges = [{"from": 0, "to": 128, "bits_per_byte": 2.0, "interval": [1.9, 2.1], "bytes": 9},
              {"from": 128, "to": context, "bits_per_byte": last, "interval": [last - 0.1, last + 0.1], "bytes": 9}]  # fmt: skip
    return {"context": context, "trained_context": trained, "documents": 9, "n": 9, "n_is": "documents", "ranges": ranges,
            "last_minus_first": {"value": change, "interval": interval, "falls": falls}}  # fmt: skip


def _needles(chosen: int, p_value: float) -> dict[str, Any]:
    told = {"n": 50, "chosen": chosen, "recalled": 3, "chance": 0.125, "p_value": p_value, "length": 256}
    return {"by_length": [told], "left_out": []}


def test_the_words_say_what_the_intervals_bear() -> None:
    gap = {
        "before": "inherited",
        "after": "own",
        "ranges": [{"value": 0.0, "interval": [-0.1, 0.1]}, {"value": -5.0, "interval": [-5.5, -4.5]}],
    }
    result = {
        "models": ["inherited", "own"], "needle": {"inherited": _needles(6, 0.6), "own": _needles(40, 1e-9)},
        "positions": {"models": {"inherited": _told(256, 128, 6.5, 4.5, [4.0, 5.0], False), "own": _told(256, 256, 1.5, -0.5, [-0.6, -0.4], True)},
                      "differences": [gap]},
    }  # fmt: skip
    assert _words(result) == [
        "From the first 128 tokens to those from 128 on, inherited rises by 4.500 bits per byte (95 % interval 4.000 to 5.000).",
        "From the first 128 tokens to those from 128 on, own falls by 0.500 bits per byte (95 % interval 0.400 to 0.600).",
        "Beyond the 128 tokens that inherited was made for, at 128 to 256, inherited as it is needs 6.500 bits per byte and own 1.500 (95 % interval of the difference -5.500 to -4.500).",
        "Inherited cannot be told from guessing: it picks 6 of 50 needles at 256 tokens (chance 12.5 %, p 0.60); greedy decoding writes 3 of them out.",
        "Own tells 40 of 50 needles at 256 tokens (chance 12.5 %, p below 0.0001); greedy decoding writes 3 of them out.",
    ]
    gap["ranges"][1]["interval"] = [-9.0, 1.0]  # type: ignore[index]
    assert "the data cannot tell them apart" in _words(result)[2]
    result["positions"]["models"]["own"] = {"reason": "3 documents of 256 tokens or more; 8 are needed"}  # type: ignore[index]
    result["positions"]["differences"] = []  # type: ignore[index]
    assert "Bits per byte by position of own were left out: 3 documents" in _words(result)[1]
