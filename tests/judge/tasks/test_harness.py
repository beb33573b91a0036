"""Scores against those computed by hand, through lm_eval's own evaluation."""

import logging
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from puna.errors import PunaError
from puna.judge.tasks import catalog, harness
from puna.judge.tasks.items import prompt_digest
from puna.judge.tasks.reading import Task, read_task, text_task
from puna.judge.tasks.spec import TaskSpec, placed

HOSTILE = "<script>alert(1)</script> & {{ 7 * 7 }} {% for %} \x1b[31m 羊驼 \u202e"


def task_of(folder: Path, limit: int | None = None, **values: Any) -> Task:
    spec = TaskSpec.model_validate({"task": "mine", "data": "mine.jsonl", **values})
    return read_task(placed(spec, "mine", folder), None, limit)


CHOICES = {"kind": "choices", "query": "{{ q }}", "choices": "o", "gold": "g"}


def test_choices_by_hand(tmp_path: Path, jsonl: Any, rule_model: Any, rule: Any) -> None:
    rows = [
        {"q": f"Q{n}", "o": ["short", f"a much longer one {n}", "羊"], "g": n % 3, "p": f"p{n // 2}"} for n in range(30)
    ]
    jsonl("mine.jsonl", rows)
    task = task_of(tmp_path, **CHOICES, metric="acc_norm", also=["acc", "acc_bytes", "mc2"], cluster="p")
    items = harness.evaluate(rule_model(), task)
    assert [item.id for item in items] == [f"mine:{n}" for n in range(1, 31)]
    for row, item in zip(rows, items, strict=True):
        lls = [rule(row["q"], " " + choice) for choice in row["o"]]
        by = {
            "acc": lls,
            "acc_norm": [ll / len(choice) for ll, choice in zip(lls, row["o"], strict=True)],
            "acc_bytes": [ll / len(choice.encode()) for ll, choice in zip(lls, row["o"], strict=True)],
        }
        expected = {name: float(values.index(max(values)) == row["g"]) for name, values in by.items()}
        mass = [math.exp(ll) for ll in lls]
        assert item.scores.pop("mc2") == pytest.approx(mass[row["g"]] / sum(mass))
        assert item.scores == expected and item.score == expected["acc_norm"]
        assert item.answer == by["acc_norm"].index(max(by["acc_norm"]))
        assert item.loglikelihoods == tuple(lls) and item.target == (row["g"],) and item.cluster == row["p"]
        assert item.prompt == row["q"] and item.choices == tuple(row["o"]) and not item.tie
    assert 3 < sum(item.score or 0 for item in items) < 20


def test_lm_evals_own_metrics_where_mc2_is_not_asked(tmp_path: Path, jsonl: Any, rule_model: Any) -> None:
    rows = [{"q": f"Q{n}", "o": ["short", f"a much longer one {n}"], "g": n % 2} for n in range(30)]
    jsonl("mine.jsonl", rows)
    theirs = harness.evaluate(rule_model(), task_of(tmp_path, **CHOICES, metric="acc", also=["acc_norm"]))
    ours = harness.evaluate(rule_model(), task_of(tmp_path, **CHOICES, metric="acc", also=["acc_norm", "mc2"]))
    for their, our in zip(theirs, ours, strict=True):
        assert their.scores == {name: our.scores[name] for name in ("acc", "acc_norm")}


def test_several_right_choices(tmp_path: Path, jsonl: Any, rule_model: Any, rule: Any) -> None:
    rows = [{"q": f"Q{n}", "o": ["a", "b", "c"], "g": [0, 2] if n % 2 else 1} for n in range(20)]
    jsonl("mine.jsonl", rows)
    task = task_of(tmp_path, **CHOICES, shots=2, fewshot_else="items")
    assert task.facts.chance == pytest.approx((10 * 2 / 3 + 10 / 3) / 20)
    for row, item in zip(rows, harness.evaluate(rule_model(), task), strict=True):
        lls = [rule(item.prompt, " " + choice) for choice in row["o"]]
        gold = row["g"] if isinstance(row["g"], list) else [row["g"]]
        assert item.score == float(lls.index(max(lls)) in gold) and item.target == tuple(gold)


def test_contexts_and_cloze_by_hand(tmp_path: Path, jsonl: Any, rule_model: Any, rule: Any) -> None:
    rows = [{"c": [f"Ann {n}", f"Bob {n}"], "t": f"went {n}", "g": n % 2} for n in range(20)]
    jsonl("mine.jsonl", rows)
    task = task_of(
        tmp_path, kind="contexts", choices="c", continuation="{{ t }}", gold="g", shots=2, fewshot_else="items"
    )
    for row, item in zip(rows, harness.evaluate(rule_model(), task), strict=True):
        header = item.prompt.removesuffix(row["c"][0])
        assert header.count("\n\n") == 2 and row["t"] + "\n" not in header
        lls = [rule(header + context, f" {row['t']}") for context in row["c"]]
        assert item.score == float(lls.index(max(lls)) == row["g"]) and item.loglikelihoods == tuple(lls)
        assert item.question == f"{row['c'][0]} / {row['c'][1]} … {row['t']}" and item.continuation == f" {row['t']}"

    task = task_of(tmp_path, kind="cloze", query="{{ c[0] }}", continuation="{{ t }}")
    for row, item in zip(rows, harness.evaluate(rule_model(), task), strict=True):
        ll = rule(row["c"][0], f" {row['t']}")
        assert item.loglikelihoods == (ll,) and item.score == float(ll > -20)
        assert item.answer == (row["t"] if ll > -20 else "") and item.target == (row["t"],)


def test_answers_by_hand(tmp_path: Path, jsonl: Any, rule_model: Any) -> None:
    rows = [{"q": f"{n} + 1", "a": f"so #### {n + 1}"} for n in range(12)]
    jsonl("mine.jsonl", rows)
    extract = [{"name": "strict", "regex": r"#### (\d+)"}, {"name": "last", "regex": r"\d+", "take": "last"}]
    task = task_of(
        tmp_path, kind="answer", query="Q: {{ q }}\nA:", answer="{{ a }}", extract=extract, ignore=["(?s).*#### "],
        stop=["Q:"], max_tokens=9, shots=1, fewshot_else="items",
    )  # fmt: skip

    def say(context: str) -> str:
        number = int(context.rsplit("Q: ", 1)[1].split(" ")[0])
        return f"#### {number + 1}" if number % 2 else f"it is {number + 1}"

    model = rule_model(say)
    for number, item in enumerate(harness.evaluate(model, task)):
        assert item.scores == {"exact_match": float(number % 2), "exact_match,last": 1.0}
        assert (
            item.answer == say(item.prompt) and item.target == (f"so #### {number + 1}",) and item.loglikelihoods == ()
        )
    assert model.asked[0][1] == {"until": ["Q:"], "do_sample": False, "temperature": 0.0, "max_gen_toks": 9}


def test_any_of_several_answers_counts(tmp_path: Path, jsonl: Any, rule_model: Any) -> None:
    jsonl("mine.jsonl", [{"q": "capital?", "a": ["Bern", "Berne"]}, {"q": "river?", "a": ["Aare"]}])
    task = task_of(tmp_path, kind="answer", query="{{ q }}", answers="a", ignore_case=True)
    items = harness.evaluate(rule_model(lambda context: "berne" if "capital" in context else "Rhine"), task)
    assert [item.score for item in items] == [1.0, 0.0] and items[0].target == ("Bern", "Berne")


def test_bits_per_byte_by_hand(tmp_path: Path, rule_model: Any, rule: Any) -> None:
    (tmp_path / "a.txt").write_text("山上的风唱着歌。\n\nwind " + "x" * 3000, encoding="utf-8")
    items = harness.evaluate(rule_model(), text_task([tmp_path / "a.txt"]))
    assert len(items) == 3
    for item in items:
        assert item.score == pytest.approx(-rule("", item.question) / math.log(2)) and item.weight == len(
            item.question.encode()
        )
    assert [item.id for item in items] == ["a.txt:1", "a.txt:3", "a.txt:3.2"]
    assert sum(item.weight for item in items) == (tmp_path / "a.txt").stat().st_size
    assert [item.cluster for item in items] == ["a.txt, part 1", "a.txt, part 2", "a.txt, part 3"]


def test_ties_and_numbers_that_are_none(tmp_path: Path, jsonl: Any, rule_model: Any) -> None:
    jsonl("mine.jsonl", [{"q": f"Q{n}", "o": ["aa", "bbbb", "cc"], "g": 0} for n in range(4)])
    rules = {"Q0": (-1, -1, -2), "Q1": (-2, -4, -5), "Q2": (-1, math.nan, -2), "Q3": (-1, -math.inf, -2)}
    model = rule_model(rule=lambda context, choice: rules[context][("aa", "bbbb", "cc").index(choice.strip())])
    items = harness.evaluate(model, task_of(tmp_path, **CHOICES, metric="acc", also=["mc2"]))
    assert [item.tie for item in items] == [True, False, False, False]
    assert [item.score for item in items] == [1.0, 1.0, None, None]
    assert items[2].loglikelihoods == (-1, None, -2) and items[2].answer is None and items[2].scores == {}
    normed = harness.evaluate(model, task_of(tmp_path, **CHOICES, metric="acc_norm"))
    assert [item.tie for item in normed] == [False, True, False, False] and normed[0].answer == 1


def test_strange_text_passes_unchanged(tmp_path: Path, jsonl: Any, rule_model: Any) -> None:
    rows = [{"q": f"{HOSTILE}{n}", "o": [HOSTILE, "7"], "g": 0} for n in range(5)]
    jsonl("mine.jsonl", rows)
    model = rule_model()
    items = harness.evaluate(
        model, task_of(tmp_path, **CHOICES, shots=2, fewshot_else="items", description=HOSTILE[:25])
    )
    for row, item in zip(rows, items, strict=True):
        assert item.question == row["q"] and item.choices == (HOSTILE, "7") and item.prompt.startswith(HOSTILE[:25])
        assert item.prompt.endswith(row["q"]) and item.prompt.count(f"{HOSTILE}\n\n") == 2
    assert ("7 * 7" in model.asked[0][0]) and model.asked[0][1] == " " + HOSTILE
    digits = [{"q": "42", "o": ["1", "2"], "g": 0}]  # lm_eval's own templates would make numbers of these
    jsonl("mine.jsonl", digits)
    assert harness.evaluate(rule_model(), task_of(tmp_path, **CHOICES))[0].prompt == "42"


def test_truncation_is_taken_from_the_model(tmp_path: Path, jsonl: Any, rule_model: Any) -> None:
    jsonl("mine.jsonl", [{"q": f"Q{n}", "o": ["a", "b"], "g": 0} for n in range(3)])
    model = rule_model()
    model.truncated = {("Q1", " b"): 17, ("Q1", " a"): 3, "Q2": 5}
    assert [item.truncated for item in harness.evaluate(model, task_of(tmp_path, **CHOICES))] == [0, 17, 5]


def test_the_same_twice_in_any_order(data: Path, rule_model: Any) -> None:
    task = read_task(catalog.bundled_task("cmmlu"), data, 2)
    once, again = harness.evaluate(rule_model(), task), harness.evaluate(rule_model(), task)
    assert once == again and len(once) == 68 and [item.id for item in once] == [doc.id for doc in task.docs]
    assert prompt_digest(once) == prompt_digest(again) != prompt_digest(once[1:])
    other = harness.evaluate(rule_model(), read_task(catalog.bundled_task("winogrande"), data, 3))
    seeded = harness.evaluate(rule_model(), read_task(catalog.bundled_task("winogrande"), data, 3), seed=7)
    assert prompt_digest(other) != prompt_digest(seeded)


def test_lm_evals_seeds_change_nothing(data: Path) -> None:
    """Whoever gives these tasks to another backend may set its seeds: the prompts stay."""
    (task,) = harness.build(read_task(catalog.bundled_task("winogrande"), data, 3)).values()
    doc = task.eval_docs[0]
    first = task.fewshot_context(doc, num_fewshot=5)
    task.set_fewshot_seed(99)
    assert task.fewshot_context(doc, num_fewshot=5) == first


def test_it_is_quiet(tmp_path: Path, jsonl: Any, rule_model: Any, capfd: pytest.CaptureFixture[str]) -> None:
    jsonl("mine.jsonl", [{"q": f"Q{n}", "o": ["a", "b"], "g": 0} for n in range(3)])
    level = logging.getLogger("lm_eval").level
    harness.evaluate(rule_model(), task_of(tmp_path, **CHOICES, shots=1, fewshot_else="items"))
    assert capfd.readouterr() == ("", "") and logging.getLogger("lm_eval").level == level


def test_no_network_and_no_torch(tmp_path: Path) -> None:
    """Bundled tasks are asked in a process without sockets, and reading them loads neither lm_eval nor torch."""
    script = """
import json, socket, sys
def refuse(*arguments, **options): raise SystemExit("a socket was opened")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
from pathlib import Path
from puna.judge.tasks import catalog, harness
from puna.judge.tasks.reading import read_task
folder = Path(sys.argv[1])
(folder / "blimp").mkdir()
row = {"UID": "x", "pairID": "0", "sentence_good": "He is.", "sentence_bad": "He are."}
(folder / "blimp" / "x.jsonl").write_text(json.dumps(row))
task = read_task(catalog.bundled_task("blimp"), folder)
assert not {"torch", "lm_eval", "datasets"} & set(sys.modules), "heavy"
harness.lm_eval_here()
from lm_eval.api.model import LM
class Model(LM):
    def loglikelihood(self, requests, disable_tqdm=False): return [(-float(len(one.args[1])), False) for one in requests]
    loglikelihood_rolling = generate_until = None
Model.__abstractmethods__ = frozenset()
print(harness.evaluate(Model(), task)[0].score)
"""
    quiet = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        capture_output=True,
        text=True,
        env={**quiet, "HF_HOME": str(tmp_path / "hf")},
    )
    assert (done.stdout, done.returncode) == ("1.0\n", 0), done.stderr
    assert done.stderr == ""


@pytest.mark.slow  # lm_eval reads all its task files first
def test_an_unknown_lm_eval_name() -> None:
    (spec,) = catalog.find_tasks(["lm_eval:no_such_task_there"])
    with pytest.raises(PunaError, match="lm_eval knows no such task"):
        read_task(spec, None)


def test_the_chat_format_takes_examples_as_turns(tmp_path: Path, jsonl: Any, rule_model: Any) -> None:
    jsonl("mine.jsonl", [{"q": f"Q{n}", "o": ["a", "b"], "g": 0} for n in range(4)])

    class Chat(rule_model):  # type: ignore[misc]
        tokenizer_name = "chat"

        def apply_chat_template(self, turns: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
            return "".join(f"<{one['role']}>{one['content']}" for one in turns) + "<assistant>" * add_generation_prompt

    task = task_of(tmp_path, **CHOICES, shots=1, fewshot_else="items", description="Answer.")
    items = harness.evaluate(Chat(), task, chat=True)
    assert all(re.fullmatch(r"<system>Answer.<user>Q\d<assistant>a<user>Q\d<assistant>", item.prompt) for item in items)


def test_a_task_of_lm_evals_own(rule_model: Any, rule: Any) -> None:
    """As `lm_eval:NAME` gives it, but over rows that are here: the network is what a test cannot have."""
    harness.lm_eval_here()
    from datasets import Dataset
    from lm_eval.api.task import ConfigurableTask

    from puna.judge.tasks import remote

    rows = [{"q": f"Q{n}", "o": ["aa", "bbbb"], "g": n % 2} for n in range(9)]
    config = {
        "task": "theirs", "custom_dataset": lambda **_: {"test": Dataset.from_list(rows)}, "test_split": "test", "num_fewshot": 0,
        "output_type": "multiple_choice", "doc_to_text": "{{q}}:", "doc_to_choice": "{{o}}", "doc_to_target": "g", "metadata": {},
        "metric_list": [{"metric": "acc_norm", "aggregation": "mean", "higher_is_better": True}],
    }  # fmt: skip
    (spec,) = catalog.find_tasks(["lm_eval:theirs"])
    with harness.quiet():
        task = remote._task(spec, {"theirs": ConfigurableTask(config=config)}, 5, 1234)
    assert (task.facts.metric, task.facts.chance, task.facts.items_in_all, len(task.docs)) == ("acc_norm", 0.5, 9, 5)
    for doc, item in zip(task.docs, harness.evaluate(rule_model(), task), strict=True):
        row = rows[doc.place]
        values = [rule(f"{row['q']}:", f" {choice}") / len(choice) for choice in row["o"]]
        assert item.score == float(values.index(max(values)) == row["g"]) and item.prompt == f"{row['q']}:", doc
        assert item.answer == values.index(max(values)) and item.target == (row["g"],)


def test_patterns_see_the_start_of_a_long_answer_only(tmp_path: Path, jsonl: Any, rule_model: Any) -> None:
    jsonl("mine.jsonl", [{"q": "near"}, {"q": "far"}])
    extract = [{"name": "number", "regex": r"#(\d)", "take": "last"}]
    task = task_of(tmp_path, kind="answer", query="{{ q }}", answer="7", extract=extract)
    items = harness.evaluate(
        rule_model(lambda context: "x" * 20_000 + "#7" if context == "far" else "#7" + "x" * 20_000), task
    )
    assert [item.score for item in items] == [1.0, 0.0] and {len(str(item.answer)) for item in items} == {10_000}
