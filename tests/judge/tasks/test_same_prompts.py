"""Prompts, choices and targets equal those that lm_eval builds itself from its own task files, letter by letter.

lm_eval compiles a template anew for every text, so only the first items of each file are compared.
"""

import csv
import io
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from puna.judge.tasks import catalog, forms, harness
from puna.judge.tasks.reading import read_task

SEED = 1234


def official(path: str, splits: dict[str, list[dict[str, Any]]], **more: Any) -> Any:
    """lm_eval's own task from its own YAML, over these rows in the published form."""
    harness.lm_eval_here()
    import lm_eval
    from datasets import Dataset
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.tasks._yaml_loader import load_yaml

    config = load_yaml(Path(lm_eval.__file__).parent / "tasks" / path, resolve_func=True)
    made = {name: Dataset.from_list(rows) for name, rows in splits.items()}
    config |= {"custom_dataset": lambda **_: made, "metadata": {}, **more}
    config = {key: value for key, value in config.items() if key not in ("include", "group", "tag")}
    with harness.quiet():
        task = ConfigurableTask(config=config)
    task.set_config("num_fewshot", task.config.num_fewshot or 0)
    task.set_fewshot_seed(SEED)
    return task


def asked(task: Any, most: int = 10**6) -> list[tuple[Any, ...]]:
    """What a model is given: (context, continuation) of every request, the generation's settings included."""
    with harness.quiet():
        task.build_all_requests(limit=None)
    return [request.args for request in task.instances][:most]


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [placed.row for placed in forms.rows(path, "rows", forms.read_text_of(path))]


def arc(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            "id": str(place), "question": row["query"].removeprefix("Question: "), "answerKey": "ABCD"[row["gold"]],
            "choices": {"text": row["choices"], "label": list("ABCD")},
        }
        for place, row in enumerate(rows)
    ]  # fmt: skip


def ours(name: str, folder: Path, limit: int | None = None) -> dict[str, Any]:
    return harness.build(read_task(catalog.bundled_task(name), folder, limit, SEED))


@pytest.fixture
def first(data: Path, tmp_path: Path) -> Callable[..., list[dict[str, Any]]]:
    """The first `most` rows (of each subject) of a real file, written out for our reader under `to`, and given for lm_eval's."""

    def cut(name: str, most: int, to: str = "") -> list[dict[str, Any]]:
        counts: Counter[str] = Counter()
        kept = []
        for row in rows_of(data / f"{name}.jsonl.zst"):
            counts[row.get("subject", "")] += 1
            if counts[row.get("subject", "")] <= most:
                kept.append(row)
        path = tmp_path / f"{to or name}.jsonl"
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in kept))
        return kept

    return cut


def test_arc_with_a_train_split_is_lm_evals_own(first: Any, tmp_path: Path) -> None:
    items = first("llm_foundry/arc_challenge", 10)
    train = first("llm_foundry/arc_easy", 200, to="llm_foundry/arc_challenge_train")  # stands for the train split
    theirs = official(
        "arc/arc_challenge.yaml", {"train": arc(train), "test": arc(items)}, num_fewshot=25, validation_split=None
    )
    (mine,) = ours("arc_challenge", tmp_path).values()
    requests = asked(mine)
    assert requests == asked(theirs) and len(requests) == 40
    assert requests[0][0].count("Question: ") == 26
    for row, doc in zip(theirs.eval_docs, mine.eval_docs, strict=True):
        assert theirs.doc_to_choice(row) == mine.doc_to_choice(doc)
        assert theirs.doc_to_target(row) == mine.doc_to_target(doc)
    some = [args for one in ours("arc_challenge", tmp_path, 4).values() for args in asked(one)]
    assert len(some) == 16 and set(some) <= set(requests)  # a sample gets the prompts of the whole


def test_examples_of_the_items_themselves_are_drawn_as_lm_eval_does(first: Any, tmp_path: Path) -> None:
    items = first("llm_foundry/arc_challenge", 28)
    theirs = official(
        "arc/arc_challenge.yaml", {"test": arc(items)}, num_fewshot=25, fewshot_split="test", training_split=None,
        validation_split=None,
    )  # fmt: skip
    (mine,) = ours("arc_challenge", tmp_path).values()
    requests = asked(mine)
    assert requests == asked(theirs)
    for (context, _), doc in zip(requests[::4], mine.eval_docs, strict=True):
        assert context.count(doc["query"]) == 1 and context.endswith(doc["query"])
    some = [args for one in ours("arc_challenge", tmp_path, 9).values() for args in asked(one)]
    assert len(some) == 36 and set(some) <= set(requests)


def test_equal_items_are_no_examples_of_each_other(jsonl: Any, tmp_path: Path) -> None:
    rows = [{"query": f"Question: {n // 2}", "choices": ["a", "b", "c", f"{n // 2}"], "gold": 3} for n in range(60)]
    jsonl("llm_foundry/arc_challenge.jsonl", rows)
    (mine,) = ours("arc_challenge", tmp_path).values()
    for (context, _), doc in zip(asked(mine)[::4], mine.eval_docs, strict=True):
        assert context.count(doc["query"]) == 1


def test_mmlu_is_lm_evals_own_in_all_subjects(first: Any, tmp_path: Path) -> None:
    items, dev = first("mmlu/test", 1), first("mmlu/dev", 5)
    built = ours("mmlu", tmp_path)
    assert len(built) == 57
    for subject, mine in built.items():
        part = [row for row in items if row["subject"] == subject]
        shots = [row for row in dev if row["subject"] == subject]
        theirs = official(f"mmlu/default/mmlu_{subject}.yaml", {"test": part, "dev": shots}, num_fewshot=5)
        assert asked(mine) == asked(theirs), subject
        assert [mine.doc_to_target(doc) for doc in mine.eval_docs] == [row["answer"] for row in part]


def test_cmmlu_is_lm_evals_own(first: Any, tmp_path: Path) -> None:
    items, dev = first("cmmlu/test", 1), first("cmmlu/dev", 5)

    def published(rows: list[dict[str, Any]], subject: str) -> list[dict[str, Any]]:
        return [
            {
                "Question": row["question"],
                **dict(zip("ABCD", row["choices"], strict=True)),
                "Answer": "ABCD"[row["answer"]],
            }
            for row in rows
            if row["subject"] == subject
        ]

    built = ours("cmmlu", tmp_path)
    assert len(built) == 34
    for subject, mine in built.items():
        splits = {"test": published(items, subject), "dev": published(dev, subject)}
        theirs = official(f"cmmlu/cmmlu_{subject}.yaml", splits, num_fewshot=5)
        assert asked(mine) == asked(theirs), subject


def test_gsm8k_is_lm_evals_own(first: Any, tmp_path: Path) -> None:
    items, train = first("gsm8k/test", 40), first("gsm8k/train", 100)
    theirs = official("gsm8k/gsm8k.yaml", {"test": items, "train": train})
    (mine,) = ours("gsm8k", tmp_path).values()
    expected, found = asked(theirs), asked(mine)
    assert [context for context, _ in found] == [context for context, _ in expected]
    settings = {**found[0][1]}
    assert settings.pop("max_gen_toks") == 256 and settings == expected[0][1]
    say = ["so it is #### 18.", "18", "$1,800 then #### 1,800", "nothing", "#### 3 and then 5"]
    for one in (theirs, mine):
        for place, instance in enumerate(one.instances):
            instance.resps.append(items[place]["answer"] if place % 2 else say[place // 2 % len(say)])
        one.apply_filters()
    right = 0
    for row, doc, their, my in zip(theirs.eval_docs, mine.eval_docs, theirs.instances, mine.instances, strict=True):
        assert theirs.doc_to_target(row) == mine.doc_to_target(doc)
        assert list(their.filtered_resps) == list(my.filtered_resps) == ["strict-match", "flexible-extract"]
        for name in my.filtered_resps:
            score = mine.process_results(doc, [my.filtered_resps[name]])
            assert score == theirs.process_results(row, [their.filtered_resps[name]])
            right += score["exact_match"]
    assert 40 <= right < 60


def test_winogrande_is_lm_evals_own(first: Any, tmp_path: Path) -> None:
    rows = first("llm_foundry/winogrande", 60)
    published = []
    for row in rows:
        one, two = row["context_options"]
        start = next((at for at, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), min(len(one), len(two)))
        published.append(
            {
                "sentence": f"{one[:start]}_ {row['continuation']}", "option1": one[start:], "option2": two[start:],
                "answer": str(row["gold"] + 1),
            }
        )  # fmt: skip
    theirs = official(
        "winogrande/default.yaml", {"validation": published}, num_fewshot=5, training_split=None, validation_split=None,
        fewshot_split="validation", test_split="validation",
    )  # fmt: skip
    (mine,) = ours("winogrande", tmp_path).values()
    requests = asked(mine)
    assert requests == asked(theirs) and len(requests) == 120
    assert requests[0][1].startswith(" ") and requests[0][0].count("\n\n") == 5


def test_truthfulqa_is_lm_evals_own(data: Path) -> None:
    text = forms.read_text_of(data / "TruthfulQA.csv.zst")
    published = []
    for row in csv.DictReader(io.StringIO(text, newline="")):
        true, false = (
            [one.strip().removesuffix(".") + "." for one in row[key].split(";") if one.strip()]
            for key in ("Correct Answers", "Incorrect Answers")
        )
        # The project's file is a JSON object, answer -> label: an answer stands once.
        labels = dict([*((one, 1) for one in true), *((one, 0) for one in false if one not in true)])
        targets = {"choices": list(labels), "labels": list(labels.values())}
        published.append({"question": row["Question"].strip(), "mc1_targets": targets, "mc2_targets": targets})
    part = [*published[:40], *published[-40:]]
    theirs = official("truthfulqa/truthfulqa_mc1.yaml", {"validation": part}, doc_to_choice="{{mc2_targets.choices}}")
    (mine,) = ours("truthfulqa_mc2", data).values()
    requests, expected = asked(mine), asked(theirs)
    count = sum(len(row["mc2_targets"]["labels"]) for row in part[:40])
    assert requests[:count] == expected[:count] and requests[count - len(expected) :] == expected[count:]
    assert [doc["gold"] for doc in mine.eval_docs] == [
        [place for place, label in enumerate(row["mc2_targets"]["labels"]) if label] for row in published
    ]


def test_hellaswag_text_is_what_lm_eval_makes_of_the_published_rows(data: Path) -> None:
    """The published row of an item is guessed from the text, then read by lm_eval: all but the capital letters must agree."""
    mine = read_task(catalog.bundled_task("hellaswag"), data, 400, SEED)
    text = forms.read_text_of(data / "hellaswag/hellaswag_val_full.txt.bz2").split("\n")
    harness.lm_eval_here()
    from lm_eval.tasks.hellaswag.utils import preprocess

    for doc in mine.docs:
        head, _, *endings = text[6 * doc.place : 6 * doc.place + 6]
        assert doc.query.lower() == preprocess(head).lower()
        assert list(doc.choices) == [preprocess(ending) for ending in endings]


def test_hellaswag_published_rows_are_read_too(jsonl: Any) -> None:
    harness.lm_eval_here()
    from datasets import Dataset
    from lm_eval.tasks.hellaswag.utils import process_docs

    rows = [
        {"activity_label": "Canoeing", "ctx_a": "Two women are in a canoe.", "ctx_b": "the child and a Man", "label": 2,
         "endings": ["go.", "[header] Stay [title] here  now.", "swim", "look."]},
        {"activity_label": "Roof", "ctx_a": "[header] How to [title] Begin. [step] Take it.", "ctx_b": "", "label": "0",
         "endings": ["a", "b", "c", "d"]},
    ]  # fmt: skip
    path = jsonl("hellaswag.jsonl", rows)
    mine = [placed.row for placed in forms.rows(path, "hellaswag", path.read_text())]
    theirs = process_docs(Dataset.from_list([{**row, "label": str(row["label"])} for row in rows]))
    for own, other in zip(mine, theirs, strict=True):
        assert (own["query"], own["choices"], int(own["gold"])) == (other["query"], other["choices"], other["gold"])
    assert mine[0]["query"] == "Canoeing: Two women are in a canoe. The child and a man"


def test_lambada_boolq_blimp_are_lm_evals_own(first: Any, tmp_path: Path) -> None:
    rows = first("llm_foundry/lambada_openai", 100)
    published = [{"text": f"{row['context']} {row['continuation'].strip()}"} for row in rows]
    theirs = official("lambada/lambada_openai.yaml", {"test": published})
    (mine,) = ours("lambada", tmp_path).values()
    assert all(" " not in row["continuation"].strip() for row in rows)  # lm_eval cuts at the last space
    assert asked(mine) == asked(theirs)

    published = []
    for row in first("llm_foundry/boolq", 50):
        passage, _, question = row["query"].removeprefix("Passage: ").rpartition("\nQuestion: ")
        published.append({"passage": passage, "question": question.removesuffix("?"), "label": row["gold"]})
    theirs = official("super_glue/boolq/default.yaml", {"validation": published}, training_split=None)
    (mine,) = ours("boolq", tmp_path).values()
    assert asked(mine) == asked(theirs)

    rows = first("blimp/adjunct_island", 100)
    theirs = official("blimp/adjunct_island.yaml", {"train": rows})
    assert asked(ours("blimp", tmp_path)["adjunct_island"]) == asked(theirs)
