"""Names in, stored results out; and the same numbers again."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lm_eval")

from puna.errors import PunaError
from puna.judge.asking.reproduce import compare_runs
from puna.judge.asking.run import Request, judge_models, measure_again, read_tasks, shown_name, why_failed
from puna.judge.measured import Item
from puna.judge.store.store import Store, StoredResult

YAML = """\
task: beasts
title: Beasts
kind: choices
data: [beasts.jsonl]
query: "Question: {{ question }}\\nAnswer:"
choices: choices
gold: gold
shots: 0
metric: acc
"""
ROWS = [
    {"id": f"b{number}", "question": f"What eats the grass on hill {number}?", "choices": ["a llama", "the moon", "草地"],
     "gold": number % 3} for number in range(12)
]  # fmt: skip


@pytest.fixture
def task(tmp_path: Path) -> Path:
    (tmp_path / "beasts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    path = tmp_path / "beasts.yaml"
    path.write_text(YAML)
    return path


def judged(model: Path, task: Path, store: Path, **more: Any) -> StoredResult:
    (result,) = judge_models([str(model)], Request((str(task),), device="cpu", **more), Store(store))
    return result


def test_one_result_with_all_that_makes_it_again(model_folder: Path, task: Path, tmp_path: Path) -> None:
    result = judged(model_folder, task, tmp_path / "results", limit=10)
    assert (result.task.name, result.summary.n, result.failed) == ("beasts", 10, None)
    assert (
        result.model.digest and result.model.tokenizer_digest and result.task.prompt_digest and result.task.data_digest
    )
    assert result.task.chance == pytest.approx(1 / 3)
    for word in ("judge", str(model_folder), "--task", str(task), "--limit 10", "--device cpu"):
        assert word in result.command
    assert {"puna", "lm_eval", "torch"} <= set(result.harness)
    assert all(item.score in (0, 1) and len(item.loglikelihoods) == 3 for item in result.items())


def test_the_second_run_is_equal_to_the_bit_and_takes_no_answer_from_the_first(
    model_folder: Path, task: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from puna.judge.asking import answers

    store = Store(tmp_path / "results")
    first = judged(model_folder, task, store.folder)
    monkeypatch.setattr(answers.Answers, "__init__", lambda *_: pytest.fail("the cache was opened"))
    now = measure_again(first, store, device="cpu")
    found = compare_runs(first, now)
    assert (found.verdict, found.holds, found.items, found.largest) == ("equal to the bit", True, 12, 0)
    assert found.score_now == first.summary.score and found.harness == {}
    assert len(store.results(older=True)) == 1


def test_a_run_that_gave_other_answers_is_different(model_folder: Path, task: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "results")
    first = judged(model_folder, task, store.folder)
    now = measure_again(first, store, device="cpu")
    item = now.items[3]
    other = next(place for place in range(3) if place != item.answer)
    moved = tuple(
        value - 5 if place == item.answer else value
        for place, value in enumerate(item.loglikelihoods)
        if value is not None
    )
    changed = item.model_copy(update={"answer": other, "score": 1 - (item.score or 0), "loglikelihoods": moved})
    found = compare_runs(first, now.model_copy(update={"items": (*now.items[:3], changed, *now.items[4:])}))
    assert (found.verdict, found.changed, found.other_answers) == ("different", [item.id], 1)
    # The same with two choices that are as likely but for rounding: a near tie, and told as one.
    close = list(item.loglikelihoods)
    close[other] = (close[item.answer] or 0.0) + 5e-4 if isinstance(item.answer, int) else None
    then = first.measurement()
    near_then = then.items[3].model_copy(update={"loglikelihoods": tuple(close)})
    near_now = near_then.model_copy(update={"answer": other, "score": 1 - (item.score or 0)})

    class Kept:
        def __getattr__(self, name: str) -> Any:
            return getattr(first, name)

        def measurement(self) -> Any:
            return then.model_copy(update={"items": (*then.items[:3], near_then, *then.items[4:])})

    found = compare_runs(Kept(), now.model_copy(update={"items": (*now.items[:3], near_now, *now.items[4:])}))  # type: ignore[arg-type]
    assert (found.verdict, found.near_ties, found.other_answers) == ("equal within the tolerance", 1, 0)
    missing = compare_runs(first, now.model_copy(update={"items": now.items[1:]}))
    assert (missing.verdict, missing.missing) == ("different", 1)


def test_other_data_or_weights_are_refused(model_folder: Path, task: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "results")
    first = judged(model_folder, task, store.folder)
    task.with_name("beasts.jsonl").write_text("".join(json.dumps(row | {"gold": 0}) + "\n" for row in ROWS))
    with pytest.raises(PunaError, match="data is another"):
        measure_again(first, store, device="cpu")


def test_kept_answers_serve_a_second_run_and_fresh_asks_again(
    model_folder: Path, task: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from puna.judge.asking import local

    made: list[local.PunaLM] = []

    class Seen(local.PunaLM):
        def __init__(self, *arguments: Any, **more: Any) -> None:
            super().__init__(*arguments, **more)
            made.append(self)

    monkeypatch.setattr(local, "PunaLM", Seen)
    store = tmp_path / "results"
    first = judged(model_folder, task, store)
    again = judged(model_folder, task, store)
    fresh = judged(model_folder, task, store, fresh=True)
    for other in (again, fresh):
        assert [item.loglikelihoods for item in first.items()] == [item.loglikelihoods for item in other.items()]
        assert first.id == other.id
    rows = [lm.rows_read for lm in made]
    assert rows[0] > 0 and rows == [rows[0], 0, rows[0]]


def test_a_prompt_that_does_not_fit_is_counted(model_folder: Path, tmp_path: Path) -> None:
    rows = [{"question": "grass " * 300, "choices": ["a", "b"], "gold": 0}] * 9
    (tmp_path / "beasts.jsonl").write_text("".join(json.dumps(row | {"id": n}) + "\n" for n, row in enumerate(rows)))
    (tmp_path / "beasts.yaml").write_text(YAML)
    result = judged(model_folder, tmp_path / "beasts.yaml", tmp_path / "results")
    assert result.summary.truncated_items == 9 and result.summary.truncated_tokens > 9 * 100


def test_logits_that_are_no_numbers_fail_the_task(
    model_folder: Path, task: Path, tmp_path: Path, damage: Callable[[], None]
) -> None:
    damage()
    result = judged(model_folder, task, tmp_path / "results")
    assert result.summary.score is None
    assert result.failed is not None and "12 of 12 items got no number" in result.failed


def test_mistakes_are_found_before_a_model_is_loaded(model_folder: Path, task: Path, tmp_path: Path) -> None:
    with pytest.raises(PunaError, match="no task is named"):
        read_tasks(Request(()))
    with pytest.raises(PunaError, match="'arc_chalenge'"):
        read_tasks(Request(("arc_chalenge",)))
    with pytest.raises(PunaError, match="no such model"):
        list(judge_models([str(model_folder), "nobody"], Request((str(task),)), Store(tmp_path / "results")))
    assert not (tmp_path / "results" / "data").exists()


def test_names_for_people(tmp_path: Path) -> None:
    (tmp_path / "runs/mine/release").mkdir(parents=True)
    assert shown_name("mine", tmp_path / "runs/mine/release") == "mine"
    for folder in ("runs/mine/release/base", "copied/base", "copied/puna", "other/base", "a", "b"):
        (tmp_path / folder).mkdir(parents=True)
    assert shown_name("x", tmp_path / "runs/mine/release/base") == "mine/base"
    assert shown_name("x", tmp_path / "copied/base") == "copied/base"
    assert shown_name("x", tmp_path / "other/base") == "base"
    for file, name in (("a/model.gguf", "a"), ("b/model.gguf", "b"), ("a/pytorch_model.bin", "a"),
                       ("b/ggml-model-q8_0.gguf", "b-q8_0"), ("b/mine.gguf", "mine")):  # fmt: skip
        (tmp_path / file).touch()
        assert shown_name("x", tmp_path / file) == name
    (tmp_path / "x.bin").touch()
    assert shown_name("x.bin", tmp_path / "x.bin") == "x"
    assert why_failed([Item(id="1", question="", prompt="", score=1.0)]) is None
