"""What lm_eval wrote comes in with its items, where they are those of its scores."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from puna.errors import PunaError
from puna.judge.store import known
from puna.judge.store.importing import import_results
from puna.judge.store.store import Store

STAMP = "2026-11-28T03-17-17.765012"


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


def one_task(folder: Path, name: str, metrics: dict[str, float], **more: Any) -> Path:
    plain: dict[str, Any] = {
        "results": {name: {"alias": name, **metrics}}, "groups": {}, "group_subtasks": {}, "n-shot": {name: 0}, "higher_is_better": {},
        "configs": {name: {"task": name, "output_type": "multiple_choice"}}, "n-samples": {},
    }  # fmt: skip
    return lm_eval_file(folder, samples=False, **(plain | more))


def test_truthfulqa_joins_mc2_whatever_lm_eval_calls_its_metric(store: Store, tmp_path: Path) -> None:
    (found,) = import_results(
        one_task(tmp_path, "truthfulqa_mc2", {"acc,none": 0.5623, "acc_stderr,none": 0.015}), store
    )
    assert (found.task.name, found.task.metric, found.summary.score) == ("truthfulqa_mc2", "mc2", 0.5623)
    assert found.summary.normalised == pytest.approx((0.5623 - 0.4643) / (1 - 0.4643))


def test_a_test_that_is_not_known_has_no_chance_level(store: Store, tmp_path: Path) -> None:
    (found,) = import_results(one_task(tmp_path, "some_choices", {"acc,none": 0.6}), store)
    assert (found.summary.score, found.summary.chance, found.summary.normalised, found.summary.clipped) == (
        0.6,
        None,
        None,
        None,
    )


def test_where_guessing_gives_nothing_that_is_said() -> None:
    for name in ("gsm8k", "drop", "lambada", "ifeval", "leaderboard_math_hard"):
        assert known.find(name).chance == 0.0, name  # type: ignore[union-attr]
    assert known.find("boolq").chance == 0.5  # type: ignore[union-attr]


def test_the_second_leaderboards_tests_have_their_chance_levels(store: Store, tmp_path: Path) -> None:
    lists = pytest.importorskip("lm_eval")
    folder = Path(lists.__file__).parent / "tasks" / "leaderboard" / "bbh_mc"
    told = {path.stem: path.read_text().split("doc_to_choice:")[1] for path in folder.glob("[a-z]*.yaml")}
    choices = {
        name: json.loads(text.split("]")[0].replace("'", '"') + "]") for name, text in told.items() if "]" in text
    }
    bbh = known.find("leaderboard_bbh")
    assert bbh is not None and len(bbh.chances) == 24
    assert choices and {name: 1 / len(own) for name, own in choices.items()}.items() <= bbh.chances.items()
    own = {"boolean_expressions": 0.6, "geometric_shapes": 0.05}
    results = {f"leaderboard_bbh_{name}": {"acc_norm,none": score} for name, score in own.items()}
    path = one_task(
        tmp_path, "leaderboard_bbh", {"acc_norm,none": 0.325}, results={"leaderboard_bbh": {"acc_norm,none": 0.325}, **results},
        group_subtasks={"leaderboard_bbh": list(results)},
    )  # fmt: skip
    (found,) = import_results(path, store)
    assert found.task.name == "bbh" and [part.chance for part in found.summary.subtasks] == [1 / 2, 1 / 11]
    assert found.summary.clipped == pytest.approx((0.2 + 0) / 2)
    assert {name: known.find(f"leaderboard_{name}").chance for name in ("gpqa", "mmlu_pro", "ifeval")} == {  # type: ignore[union-attr]
        "gpqa": 0.25, "mmlu_pro": 0.1, "ifeval": 0.0,
    }  # fmt: skip
    assert known.find("leaderboard_musr").chances["object_placements"] == 0.2  # type: ignore[union-attr]
