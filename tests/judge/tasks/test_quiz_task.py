"""The quiz as a task: the same questions, the same answers and the same accuracy as the build's own judgement."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from puna.engine import Engine
from puna.errors import PunaError
from puna.files import read_json, write_json
from puna.judge.judge import judge_model
from puna.judge.tasks.quiz_task import ask_quiz, read_quiz
from puna.recipe.schema import Judge


@pytest.fixture(scope="module")
def run(model_folder: Path, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder with its corpus and its judgement."""
    folder = tmp_path_factory.mktemp("runs") / "mine"
    (folder / "judge-1").mkdir(parents=True)
    (folder / "corpus-1").symlink_to(corpus)
    judge_model(model_folder, model_folder, corpus, Judge(quiz_items=40, samples=0, bootstrap=100, compressors=False), 5, folder / "judge-1")  # fmt: skip
    return folder


def test_the_same_accuracy_as_the_builds_own(run: Path, engine: Engine) -> None:
    results = read_json(run / "judge-1" / "results.json")
    (score,) = [score for score in results["scores"] if score["task"] == "quiz"]
    quiz = read_quiz(run)
    facts, items = quiz
    answers = ask_quiz(engine, quiz)
    assert len(answers) == score["n"] == facts.items_in_all
    assert sum(item.score or 0 for item in answers) / len(answers) == pytest.approx(score["value"], abs=1e-6)
    by_rule = score["detail"]["accuracy_by_scoring"]
    assert sum(item.scores["sum"] for item in answers) / len(answers) == pytest.approx(by_rule["sum"], abs=1e-6)
    log = [json.loads(line) for line in (run / "judge-1" / "quiz.jsonl").read_text().splitlines()]
    assert [item.answer for item in answers] == [row["chosen"] for row in log]
    assert [list(item.loglikelihoods) for item in answers] == [
        pytest.approx(row["scores"]["pmi"], abs=1e-3) for row in log
    ]
    assert len({item.cluster for item in answers}) == score["detail"]["modules"] and facts.notes[1:] == ()
    assert answers[0].prompt.endswith("<|im_start|>assistant\n") and items[0].question in answers[0].prompt
    assert (facts.name, facts.kind, facts.chance, facts.metric) == ("python_quiz", "quiz", 0.25, "acc_pmi")


def test_where_a_quiz_is_found(run: Path, corpus: Path, tmp_path: Path) -> None:
    whole = read_quiz(run)
    assert read_quiz(run / "judge-1").items == whole.items == read_quiz(run / "judge-1" / "quiz.jsonl").items
    release = run / "release" / "puna"
    release.mkdir(parents=True)
    (release / "results.json").write_bytes((run / "judge-1" / "results.json").read_bytes())
    assert read_quiz(run / "release").items == whole.items
    made = read_quiz(corpus, 40, 5)
    assert [(item.question, item.choices, item.right) for item in made.items] == [(item.question, item.choices, item.right) for item in whole.items]  # fmt: skip
    alone = tmp_path / "quiz.jsonl"
    alone.write_bytes((run / "judge-1" / "quiz.jsonl").read_bytes())
    assert [item.choices for item in read_quiz(alone).items] == [item.choices for item in whole.items]
    assert "read off" in read_quiz(alone).facts.notes[-1]
    assert {item.function.module for item in read_quiz(alone).items} == {item.function.module for item in whole.items}
    with pytest.raises(PunaError, match="no quiz"):
        read_quiz(tmp_path.parent)
    with pytest.raises(PunaError, match="neither"):
        read_quiz(tmp_path / "gone")


def test_a_run_judged_twice_asks_what_was_released(run: Path) -> None:
    whole = read_quiz(run).items
    shutil.copytree(run / "judge-1", run / "judge-2")
    results = read_json(run / "judge-2" / "results.json")
    write_json(run / "judge-2" / "results.json", {**results, "seed": 6})
    assert read_quiz(run).items == whole
    (run / "release" / "puna" / "results.json").unlink()
    with pytest.raises(PunaError, match="2 times"):
        read_quiz(run)
    shutil.rmtree(run / "judge-2")


def test_a_sample_is_the_same_each_time(run: Path, engine: Engine) -> None:
    whole, few = read_quiz(run / "judge-1"), read_quiz(run / "judge-1", 8, 3)
    assert few == read_quiz(run / "judge-1", 8, 3) and len(few.items) == 8
    assert few.facts.items_in_all == len(whole.items) and few.facts.prompt_digest != whole.facts.prompt_digest
    assert read_quiz(run / "judge-1", 8, 4).items != few.items
    every = {item.id: item for item in ask_quiz(engine, whole)}
    assert all(every[item.id].answer == item.answer for item in ask_quiz(engine, few.items))


def test_what_the_context_cannot_hold_has_no_score(
    run: Path, model_folder: Path, tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    short = tiny_model(tmp_path / "short", ["What does it do?"] * 30, 300, max_position_embeddings=64)
    answers = ask_quiz(Engine.load(short, device="cpu"), read_quiz(run / "judge-1"))
    lost = [item for item in answers if item.score is None]
    assert lost and all(
        item.truncated > 0 and item.answer is None and set(item.loglikelihoods) == {None} for item in lost
    )


def test_a_model_without_a_chat_format_is_refused(run: Path) -> None:
    stories = Path(__file__).resolve().parents[4] / "shared" / "data" / "weights" / "stories260K" / "stories260K.bin"
    if not stories.is_file():
        pytest.skip("the shared weights are not here")
    with pytest.raises(PunaError, match="chat format"):
        ask_quiz(Engine.load(stories, device="cpu"), read_quiz(run / "judge-1"))


GOOD: dict[str, Any] = {
    "function": "os.getcwd",
    "question": "What does os.getcwd do?",
    "choices": list("abcd"),
    "right": 2,
}


@pytest.mark.parametrize("line", [
    "{", "[]", json.dumps({**GOOD, "right": 4}), json.dumps({**GOOD, "right": True}), json.dumps({**GOOD, "choices": list("abca")}),
    json.dumps({**GOOD, "choices": ["a", "b", "c", 4]}), json.dumps({**GOOD, "question": "What?"}), json.dumps({**GOOD, "function": 3}),
    json.dumps({**GOOD, "choices": ["a" * 5000, "b", "c", "d"]}), json.dumps({**GOOD, "choices": list("abc")}), "[" * 100_000,
])  # fmt: skip
def test_a_damaged_question_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "quiz.jsonl").write_text(json.dumps(GOOD) + "\n" + line + "\n")
    with pytest.raises(PunaError, match="quiz.jsonl:2"):
        read_quiz(tmp_path)
