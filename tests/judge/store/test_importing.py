"""Others' results come in with their source, all mistakes of a file are told, and nothing is guessed."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from puna.errors import PunaError
from puna.judge.store import known
from puna.judge.store.importing import import_results
from puna.judge.store.store import Store

from .conftest import measurement
from .test_from_lm_eval import lm_eval_file

# --- Hugging Face .eval_results ------------------------------------------------------------------------------------


def test_eval_results(store: Store, tmp_path: Path) -> None:
    folder = tmp_path / "models--org--name" / "snapshots" / "abc" / ".eval_results"
    folder.mkdir(parents=True)
    (folder / "gpqa.yaml").write_text(
        "- dataset: {id: Idavidrein/gpqa, task_id: gpqa_diamond, revision: abc}\n  value: 41.2\n  date: 2025-01-15\n"
        '  source: {url: "https://example.org/x", name: Eval Logs}\n  notes: "unit: percent; shots: 5; n: 198"\n'
        "- dataset: {id: cais/hle, task_id: default}\n  value: 0.2\n  notes: 'unit: share'\n"
    )
    found = {one.task.name: one for one in import_results(tmp_path, store)}
    gpqa = found["gpqa_diamond"]
    assert (gpqa.summary.score, gpqa.summary.n, gpqa.task.shots, gpqa.imported) == (0.412, 198, 5, "Eval Logs")
    assert gpqa.model.name == "org/name" and gpqa.facts().origin.url == "https://example.org/x"  # type: ignore[union-attr]
    assert gpqa.summary.standard_error == pytest.approx((0.412 * 0.588 / 198) ** 0.5, rel=0.01)
    assert found["hle"].summary.n is None and found["hle"].summary.standard_error is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("- dataset: {id: a/b, task_id: c}\n  value: 20.9\n", "share or a percentage"),
        ("- dataset: {id: a/b, task_id: c}\n  value: 0.2\n", "share or a percentage"),
        ("- dataset: {id: a/b, task_id: c}\n  value: 120\n  notes: 'unit: percent'\n", "no percent"),
        ("- dataset: {id: a/b}\n  value: 1\n- value: 2\n", "2 mistakes.*task_id.*entry 2"),
        ("- !!python/object/apply:os.system ['echo hi']\n", "not YAML"),
        ("a: &a [x]\nb: [*a, *a]\n", "alias"),
        ("- dataset: {id: a/b, task_id: c}\n  value: .nan\n", "no number"),
        ("- dataset: {id: a/b, task_id: c}\n  value: 1\n  more: 1\n", "unknown keys: more"),
        ("just text\n", "no list"),
        ("[" * 50_000, "nested too deeply"),
        ("- " * 5000 + "x", "nested too deeply"),
    ],
)
def test_eval_results_mistakes(store: Store, tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "name" / ".eval_results" / "x.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    with pytest.raises(PunaError, match=words):
        import_results(path, store)
    assert store.results() == []


def test_the_unit_may_be_stated_by_the_caller(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("- dataset: {id: a/b, task_id: c}\n  value: 20.9\n")
    with pytest.raises(PunaError, match="whose scores"):
        import_results(path, store, unit="percent")
    (one,) = import_results(path, store, unit="percent", model="org/name")
    assert one.summary.score == 0.209 and one.model.name == "org/name"


# --- Every Eval Ever ------------------------------------------------------------------------------------------------


def eee(**changes: Any) -> dict[str, Any]:
    entry = {
        "evaluation_name": "MMLU (5-shot)", "source_data": {"dataset_name": "mmlu", "source_type": "hf_dataset", "hf_repo": "cais/mmlu"},
        "metric_config": {"metric_id": "acc", "lower_is_better": False, "score_type": "continuous", "min_score": 0, "max_score": 100},
        "score_details": {"score": 63.5, "uncertainty": {"standard_error": {"value": 1.5}, "num_samples": 1000}},
    }  # fmt: skip
    return {
        "schema_version": "0.3.0", "evaluation_id": "helm/x/1", "retrieved_timestamp": "1700000000",
        "source_metadata": {"source_name": "HELM", "source_type": "documentation", "source_organization_name": "CRFM", "evaluator_relationship": "third_party"},
        "eval_library": {"name": "helm", "version": "1"},
        "model_info": {"name": "x", "id": "org/x", "additional_details": {"deployment_type": "unknown", "model_availability": "unknown"}},
        "evaluation_results": [entry], **changes,
    }  # fmt: skip


def test_every_eval_ever_of_others(store: Store, tmp_path: Path, validate: Callable[[Path], None]) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps(eee()))
    validate(path)
    (one,) = import_results(path, store)
    assert (one.task.name, one.summary.score, one.summary.n, one.imported) == ("mmlu", 0.635, 1000, "HELM")
    assert (one.summary.standard_error, one.model.name, one.harness) == (0.015, "org/x", {"helm": "1"})
    validate(one.path)


def test_every_eval_ever_older_version_is_refused_with_a_reason(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps(eee(schema_version="0.2.1")))
    with pytest.raises(PunaError, match=r"version '0\.2\.1'.*only 0\.3\.0"):
        import_results(path, store)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"more": 1}, "more"),
        (
            {"source_metadata": {"source_type": "guess"}},
            "source_type.*source_organization_name|source_organization_name.*source_type",
        ),
        ({"evaluation_results": []}, "no evaluation_results"),
        ({"model_info": {"name": "x", "id": "x", "additional_details": {}}}, "deployment_type"),
    ],
)
def test_every_eval_ever_mistakes(store: Store, tmp_path: Path, change: dict[str, Any], words: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps(eee(**change)))
    with pytest.raises(PunaError, match=words):
        import_results(path, store)


def test_our_own_records_come_back_exactly_and_changed_ones_do_not(store: Store, tmp_path: Path) -> None:
    first = store.add(measurement())
    copied = tmp_path / "mail" / first.path.name
    copied.parent.mkdir()
    shutil.copy(first.path, copied)
    with pytest.raises(PunaError, match="not beside it"):
        import_results(copied, Store(tmp_path / "b"))
    assert first.samples is not None
    shutil.copy(first.samples, copied.parent)
    (again,) = import_results(copied, Store(tmp_path / "b"))
    # Whoever makes a record can make its digests: it holds all that it held, and says that it was not measured here.
    assert again.measurement().model_copy(update={"origin": None}) == measurement()
    assert again.imported == "Puna elsewhere" and again.items() == first.items() and again.key() != first.key()
    (same,) = import_results(copied, store)  # where it is the very file that was measured here
    assert same.imported is None and same.id == first.id and len(store.results(older=True)) == 1
    samples = copied.with_name(first.samples.name)
    samples.write_text(samples.read_text().replace("yes", "yet", 1))
    with pytest.raises(PunaError, match="checksum"):
        import_results(copied, Store(tmp_path / "c"))
    copied.write_text(copied.read_text().replace("puna-60m", "puna-61m"))
    with pytest.raises(PunaError, match="was changed"):
        import_results(copied, Store(tmp_path / "c"))


def test_samples_of_others_become_items_where_they_give_the_score(store: Store, tmp_path: Path) -> None:
    mine = store.add(measurement())
    value = json.loads(mine.path.read_text())
    value["eval_library"].pop("additional_details")
    value["evaluation_results"] = value["evaluation_results"][:1]
    path = tmp_path / "theirs" / mine.path.name
    path.parent.mkdir()
    path.write_text(json.dumps(value))
    assert mine.samples is not None
    shutil.copy(mine.samples, path.parent)
    (one,) = import_results(path, Store(tmp_path / "b"))
    assert [item.score for item in one.items()] == [item.score for item in mine.items()]
    assert [item.answer for item in one.items()] == [item.answer for item in mine.items()]
    assert one.imported == "Puna" and one.summary.score == mine.summary.score
    value["evaluation_results"][0]["score_details"]["score"] = 0.9
    path.write_text(json.dumps(value))
    (other,) = import_results(path, Store(tmp_path / "c"))
    assert other.items() == () and other.summary.score == 0.9
    assert "left out" in other.facts().origin.notes  # type: ignore[union-attr]


# --- tables ---------------------------------------------------------------------------------------------------------


HEAD = "model,task,score,unit,source,metric,n,shots,date\n"


def table(tmp_path: Path, rows: str, head: str = HEAD) -> Path:
    path = tmp_path / "t.csv"
    path.write_text(head + rows)
    return path


def test_a_table(store: Store, tmp_path: Path) -> None:
    rows = (
        "# a comment\norg/a,ARC (25-shot),64.59,percent,a paper,,,,2023-11-06\n"
        '"羊, <b>",mine,0.5,share,a paper,f1,40,,\n'
    )
    found = {one.task.name: one for one in import_results(table(tmp_path, rows), store)}
    arc = found["arc_challenge"]
    assert (arc.summary.score, arc.summary.n, arc.task.metric, arc.task.shots) == (0.6459, 1172, "acc_norm", 25)
    published = arc.facts().published
    assert published is not None and "Clark" in published.n_source
    assert arc.summary.standard_error == pytest.approx((0.6459 * 0.3541 / 1172) ** 0.5, rel=0.01)
    assert (found["mine"].model.name, found["mine"].summary.n) == ("羊, <b>", 40)


def test_a_table_in_json(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    path.write_text(json.dumps([{"model": "a", "task": "gsm8k", "score": 50.64, "unit": "percent", "source": "x"}]))
    assert import_results(path, store)[0].summary.score == 0.5064


def test_all_mistakes_of_a_table_are_told_at_once(store: Store, tmp_path: Path) -> None:
    rows = (
        "a,arc,64.59,share,x,,,,\na,arc,64.59,,x,,,,\n,arc,1,percent,,,,,\na,mmlu,nan,percent,x,,,,\na,mmlu,1,percent,x,,-3,,\n"
        "a,mmlu,1,percent,x,,,,soon\na,drop,1,percent,x,,,\nb,drop,2,percent,x,,,,\nb,drop,3,percent,x,,,,\n"
    )
    with pytest.raises(PunaError) as caught:
        import_results(table(tmp_path, rows), store)
    text = str(caught.value)
    assert text.count("line ") == 9 and "9 mistakes" in text and store.results() == []
    for words in ("line 2: score '64.59' is no share", "line 3: no unit", "line 4: no model", "line 4: no source", "line 5: score 'nan'", "line 6: n '-3'", "line 7: date 'soon'", "line 8: 8 cells", "line 10: b on drop stands twice"):  # fmt: skip
        assert words in text, words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("model,task\n", "lacks score, unit, source"),
        ("", "lacks model, task"),
        (HEAD.replace("date", "nonsense"), "does not know nonsense"),
        (HEAD + '"a,b\n', "not CSV"),
        (HEAD, "has no row"),
    ],
)
def test_what_is_no_table(store: Store, tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(PunaError, match=words):
        import_results(table(tmp_path, text, head=""), store)


# --- all forms ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("x.json", b"{}"), ("x.json", b"[]"), ("x.json", b"\xff\xfe"), ("x.json", b"[" * 100_000), ("x.json", b'{"results": 1, "configs": 1}'),
        ("x.json", b'"\\ud800"'), ("x.csv", b"\x00\x01"), ("x.txt", b"hello"), ("x.yaml", b"\x00"), ("x.json", b"9" * 10_000),
        ("x.json", b'{"schema_version": "0.3.0", "evaluation_results": 7}'), ("x.json", b'{"schema_version": [], "evaluation_results": 7}'),
        ("results_x.json", b'{"results": {"a": {"acc,none": 1e400}}, "configs": {}}'),
        ("results_x.json", b'{"results": {"a": {"acc,none": 0.5}}, "configs": [], "config": {"model": 7}, "group_subtasks": {"a": ["a"]}}'),
    ],
)  # fmt: skip
def test_hostile_files_are_refused_in_one_line(store: Store, tmp_path: Path, name: str, data: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(PunaError) as caught:
        import_results(path, store)
    assert name in str(caught.value) and "\n" not in str(caught.value) and store.results() == []


def test_a_folder_is_taken_whole_or_not_at_all(store: Store, tmp_path: Path) -> None:
    lm_eval_file(tmp_path / "a" / "b")
    table(tmp_path, "a,arc,1,percent,x,,,,\n")
    (tmp_path / "notes.md").write_text("hi")
    (tmp_path / "other.json").write_text("{}")
    (tmp_path / "link.csv").symlink_to("/etc/passwd")
    assert len(import_results(tmp_path, store)) == 3
    table(tmp_path, "a,arc,1,,x,,,,\n")
    fresh = Store(tmp_path / "fresh")
    with pytest.raises(PunaError, match="no unit"):
        import_results(tmp_path, fresh)
    assert fresh.results() == []
    (tmp_path / "empty").mkdir()
    with pytest.raises(PunaError, match="holds no results"):
        import_results(tmp_path / "empty", store)
    with pytest.raises(PunaError, match="no such file"):
        import_results(tmp_path / "absent.json", store)


def test_known_tests_are_the_bundled_tasks_by_the_same_name_and_metric() -> None:
    import puna.judge.tasks as tasks

    yaml = pytest.importorskip("yaml")
    assert tasks.__file__ is not None
    shared = 0
    for path in sorted(Path(tasks.__file__).parent.glob("*.yaml")):
        task = yaml.safe_load(path.read_text())
        test = known.find(task["task"])
        if test is not None:
            shared += 1
            assert (test.name, test.kind) == (task["task"], task["kind"]), path
            assert task.get("metric", test.metric) == test.metric, path
    assert shared >= 6


def test_names_of_tests_are_recognised_and_others_left_alone() -> None:
    names = {"AI2 Reasoning Challenge (25-Shot)": "arc_challenge", "HellaSwag (10-Shot)": "hellaswag", "TruthfulQA (0-shot)": "truthfulqa_mc2", "GSM8k (5-shot)": "gsm8k", "ARC-c": "arc_challenge", "hendrycksTest": "mmlu"}  # fmt: skip
    for name, task in names.items():
        assert known.find(name).name == task, name  # type: ignore[union-attr]
    assert [known.find(name) for name in ("mmlu_anatomy", "gsm8k_platinum", "", "arc_de", "默")] == [None] * 5
