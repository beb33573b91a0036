"""Measurements of every shape, and the public schema where it is at hand."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from puna.judge.measured import Item, Measurement, ModelFacts, Settings, TaskFacts
from puna.judge.store.store import Store

SCHEMAS = Path(__file__).resolve().parents[3].parent / "shared" / "data" / "schemas"


def measurement(
    items: int = 6, name: str = "puna-60m", task: str = "arc_challenge", metric: str = "acc_norm", **facts: Any
) -> Measurement:
    """A small multiple-choice result with two subtasks, a passage, a tie, a truncation and Chinese text."""
    rows = tuple(
        Item(
            id=f"{index}",
            subtask=("anatomy", "法律")[index % 2],
            cluster="p1" if index < 2 else "",
            question=f"问题 {index}: which <b>one</b>?",
            prompt=f"Question: 例子\nAnswer: ok\n\nQuestion: 问题 {index}\nAnswer:",
            choices=("yes", "no", "羊驼"),
            target=(index % 3,),
            answer=index % 2,
            loglikelihoods=(-1.25, -0.1 * index, None),
            score=float(index % 2 == index % 3),
            scores={metric: float(index % 2 == index % 3), "acc": 1.0},
            truncated=index,
            tie=index == 3,
            dirty=0.1 * index if index else None,
        )
        for index in range(items)
    )
    values: dict[str, Any] = {
        "model": ModelFacts(name=name, digest="a" * 64, tokenizer_digest="b" * 64, parameters=60_000_000),
        "task": TaskFacts(
            name=task, title=task.title(), kind="choices", metric=metric, chance=0.25, shots=25, digest="c" * 64
        ),
        "settings": Settings(limit=items, extra={"list": [1, "a", None, {"x": 1.5}]}),
        "items": rows,
        "seconds": 1.5,
        "harness": {"lm_eval": "0.4.13", "puna": "0.1"},
        "command": f"puna judge {name} --tasks {task}",
    }
    return Measurement(**{**values, **facts})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "results")


@pytest.fixture(scope="session")
def validate() -> Callable[[Path], None]:
    """What validates a result's JSON and its samples with the public schema, or skips where that is absent."""
    jsonschema = pytest.importorskip("jsonschema")
    names = ("eval", "instance_level_eval")
    paths = [SCHEMAS / f"every_eval_ever-0.3.0.{name}.schema.json" for name in names]
    if not all(path.is_file() for path in paths):
        pytest.skip("the public schema of Every Eval Ever 0.3.0 is not here")
    whole, rows = (jsonschema.Draft7Validator(json.loads(path.read_text())) for path in paths)

    def check(path: Path) -> None:
        value = json.loads(path.read_text())
        whole.validate(value)
        samples = path.with_name(f"{path.stem}_samples.jsonl")
        assert samples.exists() == ("detailed_evaluation_results" in value)
        if samples.exists():
            for line in samples.read_text().split("\n")[:-1]:
                row = json.loads(line)
                rows.validate(row)
                assert row["evaluation_id"] == value["evaluation_id"]

    return check
