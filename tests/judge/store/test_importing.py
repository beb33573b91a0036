"""Others' results come in with their source, all mistakes of a file are told, and nothing is guessed."""

import csv
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

STAMP = "2026-11-28T03-17-17.765012"


# --- lm_eval -----------------------------------------------------------------------------------------------------


def lm_eval_file(folder: Path, *, samples: bool = True, **changes: Any) -> Path:
    """A results file and samples in the form of lm_eval 0.4: a group of two subtasks and GSM8K with two filters."""
    parts = {"mmlu_anatomy": [1.0, 0.0, 1.0, 1.0], "mmlu_law": [0.0, 1.0]}
    results: dict[str, Any] = {
        name: {"alias": name, "acc,none": sum(own) / len(own), "acc_stderr,none": 0.2} for name, own in parts.items()
    }
    results["mmlu"] = {"alias": "mmlu", "acc,none": 4 / 6, "acc_stderr,none": 0.19}
    results["gsm8k"] = {"alias": "gsm8k", "exact_match,strict-match": 0.5, "exact_match_stderr,strict-match": 0.25, "exact_match,flexible-extract": 1.0}  # fmt: skip
    sizes = {"mmlu_anatomy": 4, "mmlu_law": 2, "gsm8k": 2}
    value: dict[str, Any] = {
        "results": results,
        "groups": {"mmlu": results["mmlu"]},
        "group_subtasks": {"mmlu": ["mmlu_anatomy", "mmlu_law"]},
        "configs": {name: {"task": name, "output_type": "multiple_choice", "dataset_path": "cais/mmlu"} for name in parts},
        "n-shot": {"mmlu_anatomy": 5, "mmlu_law": 5, "gsm8k": 5},
        "higher_is_better": {name: {"acc": True} for name in (*parts, "mmlu")},
        "n-samples": {name: {"original": n, "effective": n} for name, n in sizes.items()},
        "config": {"model": "hf", "model_args": "pretrained=org/name,dtype=float32", "limit": 4.0, "fewshot_seed": 7, "model_num_parameters": 123, "device": "cpu"},
        "date": 1795835831.77,
        "total_evaluation_time_seconds": "12.5",
        "lm_eval_version": "0.4.13",
    }  # fmt: skip
    path = folder / f"results_{STAMP}.json"
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**value, **changes}))
    if samples:
        for name, own in parts.items():
            rows = []
            for index, score in enumerate(own):
                likely = [-1.0, -2.0, -3.0] if score else [-2.0, -1.0, -3.0]
                texts = [f" {name}", " wrong", " 第三"]
                prompt = f"Shots\n\nQuestion {index} 羊?\nAnswer:"
                rows.append({
                    "doc_id": index, "doc": {"question": f"Question {index} 羊?"}, "target": "0", "filter": "none", "metrics": ["acc"],
                    "arguments": {f"gen_args_{k}": {"arg_0": prompt, "arg_1": text} for k, text in enumerate(texts)},
                    "resps": [[[str(one), "False"]] for one in likely], "filtered_resps": [[str(one), "False"] for one in likely], "acc": score,
                })  # fmt: skip
            (folder / f"samples_{name}_{STAMP}.jsonl").write_text("\n".join(json.dumps(row) for row in rows) + "\n")
        rows = [
            {"doc_id": index, "doc": {"question": "1+1?"}, "target": "2", "filter": name, "metrics": ["exact_match"], "exact_match": score,
             "arguments": {"gen_args_0": {"arg_0": "Q: 1+1? A:", "arg_1": {"until": ["\n"]}}}, "filtered_resps": ["2"]}
            for name, scores in (("strict-match", (1.0, 0.0)), ("flexible-extract", (1.0, 1.0))) for index, score in enumerate(scores)
        ]  # fmt: skip
        (folder / f"samples_gsm8k_{STAMP}.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    return path


def test_lm_eval_with_samples(store: Store, tmp_path: Path, validate: Callable[[Path], None]) -> None:
    found = import_results(lm_eval_file(tmp_path / "out"), store)
    by_task = {one.task.name: one for one in found}
    assert set(by_task) == {"mmlu", "gsm8k"}
    mmlu = by_task["mmlu"]
    assert (mmlu.summary.score, mmlu.summary.n, mmlu.task.shots, mmlu.task.aggregate) == (
        pytest.approx(4 / 6),
        6,
        5,
        "items",
    )
    assert (mmlu.model.name, mmlu.model.developer, mmlu.model.kind, mmlu.model.parameters) == (
        "org/name",
        "org",
        "published",
        123,
    )
    assert (mmlu.imported, mmlu.settings.seed, mmlu.settings.limit, mmlu.harness) == (
        "lm_eval",
        7,
        4,
        {"lm_eval": "0.4.13"},
    )
    assert [(part.name, part.n) for part in mmlu.summary.subtasks] == [("anatomy", 4), ("law", 2)]
    first = mmlu.items()[0]
    assert (first.id, first.answer, first.target, first.loglikelihoods) == ("anatomy/0", 0, (0,), (-1.0, -2.0, -3.0))
    assert first.choices == ("mmlu_anatomy", "wrong", "第三") and first.question == "Question 0 羊?"
    gsm = by_task["gsm8k"]
    assert [(item.score, item.answer) for item in gsm.items()] == [(1.0, "2"), (0.0, "2")]
    assert gsm.task.metric == "exact_match" and "filter strict-match" in gsm.task.notes
    for one in found:
        validate(one.path)


def test_lm_eval_without_samples_has_the_published_error(store: Store, tmp_path: Path) -> None:
    mmlu = {one.task.name: one for one in import_results(lm_eval_file(tmp_path, samples=False), store)}["mmlu"]
    assert mmlu.items() == () and mmlu.summary.standard_error == 0.19 and mmlu.summary.n == 6
    assert {part.name: part.score for part in mmlu.summary.subtasks} == {"anatomy": 0.75, "law": 0.5}


def test_lm_eval_samples_of_another_run_are_refused(store: Store, tmp_path: Path) -> None:
    path = lm_eval_file(tmp_path)
    value = json.loads(path.read_text())
    value["results"]["mmlu"]["acc,none"] = 0.9
    value["results"]["gsm8k"]["exact_match,strict-match"] = 0.7
    path.write_text(json.dumps(value))
    with pytest.raises(
        PunaError, match=r"2 mistakes: mmlu: the samples give 0\.666667.*gsm8k: the samples give"
    ) as caught:
        import_results(path, store)
    assert "\n" not in str(caught.value) and store.results() == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"results": {}}, "no task"),
        ({"results": {"mmlu": {"acc,none": float("nan")}}}, "no metric that is a number"),
        ({"results": {"mmlu": {"acc,none": 63.2}}}, "63.2, which is no share"),
        ({"config": {}}, "does not name its model"),
    ],
)
def test_lm_eval_mistakes(store: Store, tmp_path: Path, change: dict[str, Any], words: str) -> None:
    with pytest.raises(PunaError, match=words):
        import_results(lm_eval_file(tmp_path, samples=False, **{"group_subtasks": {}, **change}), store)
    assert store.results() == []


def test_a_group_of_a_group_and_one_without_a_score(store: Store, tmp_path: Path) -> None:
    value = json.loads(lm_eval_file(tmp_path / "a").read_text())
    value["results"] |= {"mmlu_stem": {"acc,none": 4 / 6}, "leaderboard": {" ": " ", "alias": "leaderboard"}}
    value["group_subtasks"] = {
        "mmlu_stem": ["mmlu_anatomy", "mmlu_law"],
        "mmlu": ["mmlu_stem"],
        "leaderboard": ["mmlu", "gsm8k"],
    }
    path = tmp_path / "a" / f"results_{STAMP}.json"
    path.write_text(json.dumps(value))
    assert sorted(one.task.name for one in import_results(path, store)) == ["gsm8k", "mmlu"]


@pytest.mark.slow
def test_what_lm_eval_itself_writes(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lm_eval = pytest.importorskip("lm_eval")
    from lm_eval.loggers import EvaluationTracker
    from lm_eval.tasks import TaskManager

    for name, place in (("HF_DATASETS_OFFLINE", "1"), ("HF_DATASETS_CACHE", str(tmp_path / "cache"))):
        monkeypatch.setenv(name, place)
    rows = [{"question": f"What is {i}?", "choices": ["a", f"b{i}", "a longer one"], "gold": i % 3} for i in range(9)]
    (tmp_path / "toy.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "toy.yaml").write_text(
        f"task: toy\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {tmp_path}/toy.jsonl}}}}\ntest_split: test\n"
        'output_type: multiple_choice\ndoc_to_text: "Q: {{question}}\\nA:"\ndoc_to_choice: "{{choices}}"\ndoc_to_target: gold\n'
        "metric_list:\n - {metric: acc, aggregation: mean, higher_is_better: true}\n"
        " - {metric: acc_norm, aggregation: mean, higher_is_better: true}\n"
    )
    tracker = EvaluationTracker(output_path=str(tmp_path / "out"))
    manager = TaskManager(include_path=str(tmp_path / "tasks"), include_defaults=False)
    found = lm_eval.simple_evaluate(
        model="dummy", tasks=["toy"], task_manager=manager, log_samples=True, bootstrap_iters=0
    )
    samples = found.pop("samples")
    tracker.save_results_aggregated(results=found, samples=samples)
    tracker.save_results_samples(task_name="toy", samples=samples["toy"])
    (one,) = import_results(tmp_path / "out", store, model="org/dummy")
    assert one.summary.score == pytest.approx(found["results"]["toy"]["acc_norm,none"])
    assert len(one.items()) == 9 and all(item.answer is not None for item in one.items())


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
    assert again.measurement() == measurement() and again.id == first.id
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
    with pytest.raises(PunaError, match="holds no results"):
        (tmp_path / "empty").mkdir()
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


# --- Yi-34B and its rivals --------------------------------------------------------------------------------------------

LEADERBOARD = Path(__file__).resolve().parents[3] / "recipes" / "leaderboard-2023.csv"
FOUR = ("arc_challenge", "hellaswag", "mmlu", "truthfulqa_mc2")
SIX = (*FOUR, "winogrande", "gsm8k")
STATED = {  # the means that the boards showed
    "01-ai/Yi-34B": (70.72, 69.42, 68.68), "meta-llama/Llama-2-70b-hf": (67.35, None, None), "Qwen/Qwen-72B": (None, 73.60, None),
    "chargoddard/Yi-34B-Llama": (None, 70.95, None), "upstage/SOLAR-10.7B-v1.0": (None, 66.04, None), "01-ai/Yi-6B": (None, None, 53.06),
    "OpenAssistant/llama2-70b-oasst-sft-v10": (None, None, 57.58), "psmathur/model_420_preview": (None, None, 55.99),
    "oh-yeontaek/llama-2-70B-LoRA-assemble-v2": (None, None, 59.93), "mistralai/Mixtral-8x7B-Instruct-v0.1": (None, 72.62, None),
    "upstage/SOLAR-10.7B-Instruct-v1.0": (None, 74.20, None), "Stellar Bright": (74.10, None, None),
    "meta-llama/Llama-2-70b-chat-hf": (66.80, None, None),
}  # fmt: skip


def test_yi_and_its_rivals_have_the_means_that_the_boards_showed(store: Store) -> None:
    found: dict[str, dict[str, float]] = {}
    for one in import_results(LEADERBOARD, store):
        assert one.summary.score is not None and one.summary.standard_error and one.summary.interval and one.imported
        found.setdefault(one.model.name, {})[one.task.name] = 100 * one.summary.score
    for model, means in STATED.items():
        for tasks, mean in zip((FOUR, SIX, (*SIX, "drop")), means, strict=True):
            if mean is not None:
                assert sum(found[model][task] for task in tasks) / len(tasks) == pytest.approx(mean, abs=0.0075), model
    assert "drop" not in found["Qwen/Qwen-72B"]
    with open(LEADERBOARD, encoding="utf-8") as stream:
        rows = list(csv.DictReader(line for line in stream if not line.startswith("#")))
    assert all(row["url"] or "model card" in row["notes"] for row in rows)
