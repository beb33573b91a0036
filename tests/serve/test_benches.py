"""The serving benches: each runs for seconds, and each of their checks can fail."""

import importlib
import json
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BENCH = Path(__file__).resolve().parents[2] / "bench"


@pytest.fixture(scope="module")
def benches() -> Iterator[dict[str, ModuleType]]:
    """The benches' modules by name."""
    sys.path.insert(0, str(BENCH))
    try:
        yield {
            name: importlib.import_module(name) for name in ("_serve_client", "_serve_mix", "serve_load", "serve_speed")
        }
    finally:
        sys.path.remove(str(BENCH))


def ran(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(BENCH / name), *arguments], capture_output=True, text=True, timeout=280)


def test_speed_measures_ours_beside_transformers_and_names_who_is_absent(tmp_path: Path) -> None:
    out = tmp_path / "speed.json"
    done = ran("serve_speed.py", "--quick", "--engines", "llama.cpp f16,puna fp32 lookup", "--out", str(out))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (size,) = json.loads(out.read_text(encoding="utf-8"))["sizes"]
    rows = size["engines"]
    for name in ("transformers fp32", "puna fp32 lookup"):
        assert rows[name]["same"] == 1.0 and rows[name]["single"][0] > 0 and len(rows[name]["first_many"]) == 4
        assert rows[name]["peak"] > 50e6
    assert "same" not in rows["llama.cpp f16"] or rows["llama.cpp f16"]["same"] > 0.5
    assert rows["llama.cpp f16"].get("single") or "not installed" in rows["llama.cpp f16"]["absent"]
    assert "llama.cpp f16" in done.stdout and "puna fp32 lookup / transformers fp32, single" in size["ratios"]


def test_load_holds_every_check(tmp_path: Path) -> None:
    out = tmp_path / "load.json"
    done = ran("serve_load.py", "--minutes", "0.1", "--clients", "12", "--size", "test", "--out", str(out))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    record = json.loads(out.read_text(encoding="utf-8"))
    assert record["failures"] == [] and record["fault_count"] == 0 and record["drain"]["ended"] == 16
    assert record["compared"] > 10 and record["left"] > 0 and {"200", "400"} <= record["statuses"].keys()
    assert set(record["kinds"]) >= {"stream", "whole", "bad"}
    assert "all checks hold" in done.stdout


def whole_answer(benches: dict[str, ModuleType], text: str, **more: Any) -> Any:
    choice = {"index": 0, "text": text, "finish_reason": "length", "logprobs": None}
    body = {"id": "cmpl-1", "choices": [choice], "usage": {"completion_tokens": 3}} | more
    return benches["_serve_client"].Answer(200, {}, json.dumps(body).encode(), whole=True)


def stream_answer(benches: dict[str, ModuleType], parts: list[str], ids: list[str], end: str = "[DONE]") -> Any:
    chunks = [
        {
            "id": id_,
            "choices": [{"index": 0, "text": part, "finish_reason": "length" if at == len(parts) - 1 else None}],
        }
        for at, (part, id_) in enumerate(zip(parts, ids, strict=True))
    ]
    chunks.append({"id": ids[-1], "choices": [], "usage": {"completion_tokens": len(parts)}})
    events = [(0.1 * at, json.dumps(chunk)) for at, chunk in enumerate(chunks)] + [(1.0, end)]
    return benches["_serve_client"].Answer(200, {}, b"", events, whole=True)


def test_a_wrong_answer_is_seen(benches: dict[str, ModuleType]) -> None:
    mix = benches["_serve_mix"]
    prompt, other = mix.Prompt("m1", mix.TEXT, "what", 8), "the other prompt's reply"
    alone = {"m1": "a reply of its own", "m2": other}
    whole = mix.Case("whole", mix.TEXT, {}, prompt)
    stream = mix.Case("stream", mix.TEXT, {}, prompt)

    def faults(case: Any, answer: Any, left: bool = False) -> list[str]:
        return mix.judge(case, answer, alone, left).faults  # type: ignore[no-any-return]

    assert faults(whole, whole_answer(benches, alone["m1"])) == []
    assert faults(stream, stream_answer(benches, ["a reply", " of its own"], ["c", "c"])) == []
    assert "of another prompt" in faults(whole, whole_answer(benches, other))[0]
    assert "another reply than alone" in faults(whole, whole_answer(benches, "a"))[0]
    assert mix.judge(whole, whole_answer(benches, "a reply of its own."), alone, False).drifted
    assert "of another prompt" in faults(stream, stream_answer(benches, [other[:5], other[5:]], ["c", "c"]))[0]
    assert "2 ids" in faults(stream, stream_answer(benches, ["a reply", " of its own"], ["c", "d"]))[0]
    assert "[DONE]" in faults(stream, stream_answer(benches, ["a reply", " of its own"], ["c", "c"], "{}"))[0]
    cut = benches["_serve_client"].Answer(200, {}, b"", [])
    assert "cut off" in faults(stream, cut)[0] and faults(stream, cut, left=True) == []
    failed = benches["_serve_client"].Answer(500, {}, b"", whole=True)
    assert faults(mix.Case("bad", mix.TEXT, {}, statuses=(400,)), failed) == ["HTTP 500"]
    refused = benches["_serve_client"].Answer(400, {}, b'{"detail": "no"}', whole=True)
    assert "not of the form" in faults(mix.Case("bad", mix.TEXT, {}, statuses=(400,)), refused)[0]
    three = mix.Case("three", mix.TEXT, {}, prompt)
    assert "the choices are [0]" in faults(three, whole_answer(benches, alone["m1"]))[0]


def test_every_prompt_of_the_pool_is_unlike_the_others(benches: dict[str, ModuleType]) -> None:
    prompts = benches["_serve_mix"].pool(256, True)
    assert len({one.marker for one in prompts}) == len({one.text for one in prompts}) == 32
    assert all(one.marker in one.text for one in prompts) and any(not one.text.isascii() for one in prompts)
    assert {one.path for one in prompts} == {benches["_serve_mix"].CHAT, benches["_serve_mix"].TEXT}


def record_of(**changed: Any) -> dict[str, Any]:
    sound: dict[str, Any] = {
        "fault_count": 0, "faults": [], "statuses": {"200": 9, "503": 1}, "drifted": 0, "compared": 1000, "repeated_ids": 0,
        "after": {"puna_replies_running": 0, "puna_replies_waiting": 0, "puna_cache_blocks": 8, "puna_cache_blocks_free": 8},
        "memory": None, "drain": {"ended": 16, "of": 16, "code": 0, "refused": "HTTP 503"}, "stderr_tracebacks": 0,
    }  # fmt: skip
    return sound | changed


def test_each_check_of_the_load_can_fail(benches: dict[str, ModuleType]) -> None:
    failures, after, ending = benches["serve_load"].failures, record_of()["after"], record_of()["drain"]
    assert failures(record_of()) == []
    for changed, word in (
        ({"fault_count": 1, "faults": ["x"]}, "wrong answers"), ({"statuses": {"500": 1}}, "server errors"),
        ({"drifted": 9}, "another way"), ({"repeated_ids": 1}, "more than one"),
        ({"after": after | {"puna_replies_running": 1}}, "runs or waits"),
        ({"after": after | {"puna_cache_blocks_free": 7}}, "not all blocks"),
        ({"memory": {"low": 1e5, "seconds": 400.0, "mean": 3e8}}, "memory grows"),
        ({"drain": ending | {"ended": 15}}, "15 of 16"), ({"drain": ending | {"code": 1}}, "exit code 1"),
        ({"drain": ending | {"refused": "HTTP 200"}}, "a new request"), ({"stderr_tracebacks": 1}, "tracebacks"),
    ):  # fmt: skip
        found = failures(record_of(**changed))
        assert len(found) == 1 and word in found[0]


def test_a_leak_is_told_from_noise(benches: dict[str, ModuleType]) -> None:
    slope = benches["serve_load"].slope
    draws = random.Random(0)
    flat = [(float(second), 300_000_000 + draws.randrange(5_000_000)) for second in range(600)]
    leak = [(when, held + int(20_000 * when)) for when, held in flat]
    # What fills at the start is no leak.
    warm = [(when, held + (0 if when > 150 else -90_000_000)) for when, held in flat]
    assert abs(slope(flat)["slope"]) < 2000 and slope(flat)["low"] < 0 < slope(flat)["high"]
    assert abs(slope(leak)["slope"] - 20_000) < 2000 and slope(leak)["low"] > 15_000
    assert slope(warm) == pytest.approx(slope(flat))
    assert slope(flat[:30]) is None


def test_ratios_are_paired_by_round(benches: dict[str, ModuleType]) -> None:
    speed = benches["serve_speed"]
    rows = {"transformers fp32": {"single": [10.0, 1.0, 10.0], "many": [1.0] * 3},
            "puna fp32": {"single": [30.0, 3.0, 30.0], "many": [2.0] * 3}, "llama.cpp f16": {"absent": "not installed"}}  # fmt: skip
    found = speed.ratios(rows)
    assert found["puna fp32 / transformers fp32, single"] == 3.0 and found["puna fp32 / transformers fp32, many"] == 2.0
    assert not any("llama.cpp" in name for name in found)
    assert speed.shared([1, 2, 3], [1, 2, 4]) == 2 and speed.shared([1, 2], [1, 2]) == 2
