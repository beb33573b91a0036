"""What cannot be asked fails its own task, with the reason; what a run found, and what it could not do, is said."""

import json
import math
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("lm_eval")

from puna.engine import Engine
from puna.errors import PunaError
from puna.judge.asking.answers import Answers
from puna.judge.asking.carried import carry
from puna.judge.asking.reproduce import compare_runs
from puna.judge.asking.run import Asked, Model, Request, judge_models, measure, measure_again, open_model, read_tasks
from puna.judge.asking.wire import Refused, Unreachable
from puna.judge.contamination.origin import Origin
from puna.judge.measured import Item, Measurement, ModelFacts, TaskFacts
from puna.judge.store.store import Store, StoredResult
from puna.judge.tasks.quiz_task import Quiz
from puna.progress import QUIET

from .test_run import ROWS, YAML

sys.path.insert(0, str(Path(__file__).parent))  # tests are imported as files, not as a package
from tests_judge_endpoint_server import Manner, Served

STORIES = Path(__file__).resolve().parents[4] / "shared" / "data" / "weights" / "stories260K" / "stories260K.bin"
SUMS = """\
task: sums
title: Sums
kind: answer
data: [sums.jsonl]
query: "{{ question }}"
answer: answer
shots: 0
metric: exact_match
max_tokens: 8
stop: ["\\n"]
"""


@pytest.fixture
def choices(tmp_path: Path) -> Path:
    (tmp_path / "beasts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (tmp_path / "beasts.yaml").write_text(YAML)
    return tmp_path / "beasts.yaml"


@pytest.fixture
def sums(tmp_path: Path) -> Path:
    rows = [{"id": f"s{n}", "question": f"What is {n} and {n}?", "answer": f"{2 * n}"} for n in range(5)]
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "sums.yaml").write_text(SUMS)
    return tmp_path / "sums.yaml"


@pytest.fixture
def folder(model_folder: Path, tmp_path: Path) -> Path:
    """A copy of the model that a test may change."""
    return Path(shutil.copytree(model_folder, tmp_path / "llama"))


def asked(model: Path | str, tasks: list[Path], store: Path, **more: Any) -> list[StoredResult]:
    request = Request(tuple(map(str, tasks)), device=None if isinstance(model, str) else "cpu", **more)
    return list(judge_models([str(model)], request, Store(store)))


def test_no_numbers_fail_a_written_task_and_the_next_one_runs(
    folder: Path, sums: Path, choices: Path, tmp_path: Path, damage: Callable[[], None]
) -> None:
    damage()
    written, chosen = asked(folder, [sums, choices], tmp_path / "results", controls=(str(folder),))
    assert written.failed == "5 of 5 items got no number: what the model gives is not finite (NaN)"
    assert chosen.failed is not None and "12 of 12" in chosen.failed
    assert all(item.score is None and item.answer is None and not item.scores for item in written.items())
    assert len(Store(tmp_path / "results").results()) == 2


def test_answers_longer_than_the_context_fail_the_task_alone(
    folder: Path, sums: Path, choices: Path, tmp_path: Path
) -> None:
    sums.write_text(SUMS.replace("max_tokens: 8", "max_tokens: 128"))
    written, chosen = asked(folder, [sums, choices], tmp_path / "results")
    assert written.failed is not None and "may have 128 tokens, and the model's context is 128" in written.failed
    assert chosen.failed is None and chosen.summary.n == 12


def test_a_model_without_a_chat_format_fails_with_that_line(
    folder: Path, choices: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Engine, "chats", False)
    (result,) = asked(folder, [choices], tmp_path / "results", chat=True)
    assert result.failed is not None and "no chat format" in result.failed and result.items() == ()


def test_a_quiz_at_an_endpoint_fails_and_is_stored(tmp_path: Path) -> None:
    facts = TaskFacts(name="python_quiz", title="Python quiz", kind="quiz", metric="acc_pmi")
    model = Model("openai:x", ModelFacts(name="x", kind="endpoint"), SimpleNamespace(), None, Origin(None), None)
    store = Store(tmp_path / "results")
    result = store.add(measure(model, Asked("quiz:x", None, Quiz(facts, [])), Request(("quiz:x",)), store))
    assert result.failed is not None and "needs a model whose weights are here" in result.failed


@pytest.mark.parametrize("error", [Unreachable("down"), Refused(401, "who are you", where="host")])
def test_an_endpoint_that_is_down_or_refuses_the_key_ends_the_run(choices: Path, tmp_path: Path, error: PunaError,
                                                                  monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    def fail(*_: Any, **__: Any) -> list[Item]:
        raise error

    monkeypatch.setattr("puna.judge.asking.run.evaluate", fail)
    request = Request((str(choices),))
    model = Model("openai:x", ModelFacts(name="x", kind="endpoint"), SimpleNamespace(), None, Origin(None), None)
    with pytest.raises(type(error)):
        measure(model, read_tasks(request)[0], request, Store(tmp_path / "results"))


def test_fresh_answers_take_the_place_of_those_that_are_kept(tmp_path: Path) -> None:
    key = "ab" * 32
    for value, fresh in ((1, False), (2, True), (3, False)):
        with Answers(tmp_path / "answers", fresh=fresh) as answers:
            before = answers.get(key)
            answers.put(key, value)
        assert before == {1: None, 2: None, 3: 2}[value]
    with Answers(tmp_path / "answers") as answers:
        assert answers.get(key) == 2  # without `fresh` what is kept stays


def test_answers_of_another_version_or_device_are_not_taken(
    folder: Path, choices: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import puna

    def rows(**more: Any) -> int:
        request = Request((str(choices),), device="cpu", **more)
        store = Store(tmp_path / "results")
        model = open_model(str(folder), folder, request, store, QUIET)
        measure(model, read_tasks(request)[0], request, store)
        model.lm.answers.close()
        return int(model.lm.rows_read)

    first = rows()
    assert first > 0 and rows() == 0 and rows(fresh=True) == first and rows() == 0
    monkeypatch.setattr(puna, "__version__", "999")
    assert rows() == first


def test_another_setting_of_the_tokenizer_is_another_model(folder: Path, choices: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "results")
    (first,) = asked(folder, [choices], store.folder)
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text())
    path.write_text(
        json.dumps({**config, "eos_token": "<|pad|>" if config.get("eos_token") != "<|pad|>" else "<|im_end|>"})
    )
    with pytest.raises(PunaError, match="tokenizer's settings are others"):
        measure_again(first, store, device="cpu")
    (second,) = asked(folder, [choices], store.folder)
    assert second.model.digest == first.model.digest and second.key() != first.key() and len(store.results()) == 2


def test_a_name_typed_otherwise_is_the_same_result(folder: Path, choices: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "results")
    asked(folder, [choices], store.folder)
    asked(folder.parent / "." / folder.name / ".." / folder.name, [choices], store.folder, runs=tmp_path)
    assert (len(store.results(older=True)), len(store.results())) == (2, 1)


def test_findings_of_an_earlier_run_are_carried_along_and_said(folder: Path, choices: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "results")
    (first,) = asked(folder, [choices], store.folder, controls=(str(folder),))
    assert "likelihood" in first.contamination
    looked = first.measurement()
    marked = tuple(item.model_copy(update={"dirty": 1.0}) for item in looked.items)
    report = {**first.contamination, "own_text": {"says": "looked for", "missing": []}}
    older = store.add(looked.model_copy(update={"items": marked, "contamination": report}))
    (later,) = asked(folder, [choices], store.folder)
    assert later.contamination["own_text"] == {"says": "looked for", "missing": [], "carried_from": older.id}
    assert later.contamination["likelihood"]["says"] == first.contamination["likelihood"]["says"]
    assert [item.dirty for item in later.items()] == [1.0] * 12
    assert len(later.settings.extra["notes"]) == 2 and older.id[:8] in later.settings.extra["notes"][0]
    other = looked.model_copy(
        update={"contamination": {}, "task": looked.task.model_copy(update={"prompt_digest": "x"})}
    )
    assert carry(other, store) == other  # other prompts: other items
    # The second run of such a result says what was not made again.
    found = compare_runs(later, measure_again(later, store, device="cpu"))
    assert found.holds and ["12 items' marks" in said for said in found.not_again] == [True, False]
    assert "likelihood" in found.not_again[1]


def test_a_broken_ledger_is_a_note_and_the_model_is_judged(folder: Path, choices: Path, tmp_path: Path) -> None:
    (folder / "puna").mkdir()
    (folder / "puna" / "ledger.jsonl").write_text("no ledger\n")
    (result,) = asked(folder, [choices], tmp_path / "results")
    assert result.failed is None and any("its own text was not looked through" in note for note in result.model.notes)


@pytest.mark.skipif(not STORIES.is_file(), reason="the shared weights are not here")
def test_tokens_that_a_server_leaves_out_are_told_and_a_bos_puts_it_right(choices: Path, tmp_path: Path) -> None:
    choices.write_text(YAML.replace('"Question: {{ question }}\\nAnswer:"', '""') + 'delimiter: ""\n')
    with Served(Engine.load(STORIES, device="cpu"), Manner(begin=False)) as served:
        name = f"openai:{served.url}#stories"
        store = tmp_path / "results"
        (without,) = asked(name, [choices], store, limit=3)
        (begun,) = asked(name, [choices], store, limit=3, bos="\n", keep_answers=True)
        count = len(served.asked)
        (again,) = asked(name, [choices], store, limit=3, bos="\n", keep_answers=True)
        assert len(served.asked) <= count + 2  # nothing but the models and the way to ask
    assert any("--bos" in note for note in without.settings.extra["notes"])
    assert "notes" not in begun.settings.extra and "--bos" in begun.command
    assert again.summary == begun.summary and without.key() != begun.key()


@pytest.mark.parametrize("wrong", [{"limit": 0}, {"limit": -3}, {"context": 0}, {"batch_tokens": 0}])
def test_numbers_that_make_no_sense_are_refused_once(wrong: dict[str, int]) -> None:
    with pytest.raises(PunaError, match=r"--.*must be at least 1"):
        Request(("small",), **wrong)  # type: ignore[arg-type]


def test_a_whole_text_is_compared_by_its_length_and_every_metric_counts(store_of: Callable[..., StoredResult]) -> None:
    text = TaskFacts(
        name="t", title="T", kind="text", metric="bits_per_byte", unit="bits per byte", higher_is_better=False
    )
    long = Item(
        id="a",
        question="x",
        prompt="",
        loglikelihoods=(-9000.0,),
        score=12984.0,
        weight=10_000.0,
        scores={"bits_per_byte": 12984.0},
    )
    first = store_of(text, long)

    def moved(nats: float) -> Any:
        bits = 12984.0 + nats / math.log(2)
        item = long.model_copy(
            update={"loglikelihoods": (-9000.0 - nats,), "score": bits, "scores": {"bits_per_byte": bits}}
        )
        return compare_runs(first, first.measurement().model_copy(update={"items": (item,)}))

    assert moved(0.05).verdict == "equal within the tolerance" and moved(0.05).tolerance == pytest.approx(0.1)
    assert moved(0.5).verdict == "different"
    choice = TaskFacts(name="c", title="C", kind="choices", metric="acc")
    item = Item(id="a", question="x", prompt="p", choices=("a", "bbbb"), target=(0,), answer=0, loglikelihoods=(-1.0, -2.0),
                score=1.0, scores={"acc": 1.0, "acc_norm": 0.0}, dirty=0.0)  # fmt: skip
    second = store_of(choice, item)
    other = item.model_copy(update={"scores": {"acc": 1.0, "acc_norm": 1.0}})
    assert compare_runs(second, second.measurement().model_copy(update={"items": (other,)})).changed == ["a"]
    dirty = compare_runs(
        second, second.measurement().model_copy(update={"items": (item.model_copy(update={"dirty": 1.0}),)})
    )
    assert (dirty.verdict, dirty.marks, dirty.changed) == ("different", 1, [])


@pytest.fixture
def store_of(tmp_path: Path) -> Callable[..., StoredResult]:
    def add(task: TaskFacts, *items: Item) -> StoredResult:
        return Store(tmp_path / "results").add(
            Measurement(model=ModelFacts(name="m", digest="a"), task=task, items=items)
        )

    return add
