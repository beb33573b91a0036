"""A task file: what it may hold, and that all its mistakes are told at once."""

from pathlib import Path

import pytest

from puna.errors import PunaError
from puna.judge.tasks import catalog
from puna.judge.tasks.spec import read_spec

GOOD = """
task: mine
kind: choices
data: mine.jsonl
query: "{{ q }}"
choices: options
gold: right
"""


def told(tmp_path: Path, text: str) -> str:
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(PunaError) as error:
        read_spec(path)
    assert error.value.where == str(path)
    return error.value.what


def test_a_short_file_is_a_task(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(GOOD)
    spec = read_spec(tmp_path / "mine.yaml")
    assert (spec.task, spec.data, spec.metrics, spec.shots, spec.folder) == (
        "mine",
        ("mine.jsonl",),
        ("acc",),
        0,
        tmp_path,
    )
    assert spec.typed == str(tmp_path / "mine.yaml")


def test_all_mistakes_are_told(tmp_path: Path) -> None:
    bad = """
task: "two words"
kind: choices
data: a.jsonl
shots: five
qery: "{{ q }}"
query: "{{ q"
choices: "{{ options }}"
metric: f1
also: [acc, perplexity]
continuation: x
aggregate: subtasks
extract: [{name: a, regex: "("}]
chance: 2
notes: 5
language: [en]
delimiter: 3
description: "{{ ''.__class__ }}"
stop: 1
"""
    what = told(tmp_path, bad)
    for key in (
        "task: must be 1 to 64", "shots: must be a whole number", "qery: no such key (did you mean query?)", "query: unexpected end",
        "choices: is written without braces", "gold: is missing", "metric: kind choices knows no 'f1'", "also: kind choices knows no",
        "continuation: means nothing for kind choices", "aggregate: subtasks needs the key subtask", "extract.0.regex: is no regular",
        "extract: means nothing", "chance:", "notes: must be a list", "language: must be text", "delimiter: must be text",
        "description: may not reach .__class__", "stop:", "data: a.jsonl is not there",
    ):  # fmt: skip
        assert key in what, key
    assert what.startswith("19 mistakes: ")


@pytest.mark.parametrize(
    ("kind", "missing"),
    [
        ("contexts", ("choices", "gold", "continuation", "data")),
        ("cloze", ("query", "continuation", "data")),
        ("answer", ("query", "answer", "data")),
        ("text", ("text", "data")),
    ],
)
def test_what_a_kind_needs(tmp_path: Path, kind: str, missing: tuple[str, ...]) -> None:
    what = told(tmp_path, f"task: mine\nkind: {kind}\n")
    assert all(f"{key}: is missing" in what for key in missing), what


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: !!python/object/apply:os.system [echo]", "no plain YAML"),
        ("a: !!python/name:os.system", "no plain YAML"),
        ("query: !function utils.doc_to_text", "no plain YAML"),
        ("a: &x [1]\nb: *x", "alias"),
        ("task: a\ntask: b", "task: stands twice"),
        ("- 1", "no task"),
        ("", "no task"),
        ("a: [", "no plain YAML"),
        ("a: \x00", "no plain YAML"),
        ("a: 2001-99-99", "no plain YAML"),
        ("[" * 9000, "no plain YAML"),
        (GOOD + "# " + "x" * 70_000, "larger than"),
    ],
)
def test_a_hostile_file_is_refused(tmp_path: Path, text: str, says: str) -> None:
    assert says in told(tmp_path, text)


def test_examples_must_come_from_somewhere(tmp_path: Path) -> None:
    assert "fewshot: is missing" in told(tmp_path, GOOD + "shots: 3\n")
    assert "sampler: first needs" in told(tmp_path, GOOD + "shots: 3\nfewshot_else: items\nsampler: first\n")


def test_the_bundled_tasks_are_sound_and_say_where_they_are_from() -> None:
    specs = [catalog.bundled_task(name) for name in catalog.bundled()]
    assert {spec.task for spec in specs} >= {
        "arc_challenge", "arc_easy", "blimp", "boolq", "cmmlu", "copa", "gsm8k", "hellaswag", "lambada", "mmlu", "openbookqa",
        "truthfulqa_mc2", "winograd", "winogrande",
    }  # fmt: skip
    for spec in specs:
        if spec.kind not in ("quiz", "remote"):
            assert (
                spec.title
                and spec.source
                and spec.licence
                and spec.where
                and spec.folder is None
                and spec.typed == spec.task
            )
    protocol = {spec.task: (spec.shots, spec.metrics[0]) for spec in specs}
    assert {name: protocol[name] for name in catalog.GROUPS["leaderboard"]} == {
        "arc_challenge": (25, "acc_norm"), "hellaswag": (10, "acc_norm"), "mmlu": (5, "acc"), "truthfulqa_mc2": (0, "mc2"),
        "winogrande": (5, "acc"), "gsm8k": (5, "exact_match"),
    }  # fmt: skip


def test_names(tmp_path: Path) -> None:
    assert [spec.task for spec in catalog.find_tasks(["leaderboard", "blimp", "mmlu"])] == [
        *catalog.GROUPS["leaderboard"],
        "blimp",
    ]
    (tmp_path / "mine.yaml").write_text(GOOD)
    (tmp_path / "text.md").write_text("x")
    mine, beside = catalog.find_tasks([str(tmp_path / "mine.yaml")]), catalog.find_tasks(["mine.yaml"], tmp_path)
    assert mine[0].folder == beside[0].folder == tmp_path
    text, remote = catalog.find_tasks([f"text:{tmp_path / 'text.md'}", "lm_eval:pubmedqa"])
    assert (text.kind, text.task, text.typed) == ("text", "text.text.md", f"text:{tmp_path / 'text.md'}")
    assert (remote.kind, remote.task, remote.data, remote.typed) == (
        "remote",
        "lm_eval.pubmedqa",
        ("pubmedqa",),
        "lm_eval:pubmedqa",
    )
    with pytest.raises(
        PunaError, match=r"no task 'helaswag' \(did you mean hellaswag\?\), no task 'qwxyz'; there are arc_challenge"
    ):
        catalog.find_tasks(["helaswag", "mmlu", "qwxyz"])
    with pytest.raises(PunaError, match="no such file"):
        catalog.find_tasks([str(tmp_path / "none.yaml")])
    (tmp_path / "other.yaml").write_text(GOOD.replace("mine", "blimp", 1))
    with pytest.raises(PunaError, match="two tasks are called blimp"):
        catalog.find_tasks(["blimp", str(tmp_path / "other.yaml")])


def test_a_pattern_that_can_take_for_ever_is_refused(tmp_path: Path) -> None:
    text = "task: mine\nkind: answer\ndata: a.jsonl\nquery: q\nanswer: a\nignore: ['(a+)+$', ',']\nextract: [{name: a, regex: '(.*,)*x'}]\n"
    what = told(tmp_path, text)
    assert "ignore: has an open-ended repeat in a repeat" in what and "extract.0.regex: has an open-ended" in what


def test_one_round_tells_missing_files_too_whatever_the_kind(tmp_path: Path) -> None:
    (tmp_path / "there.jsonl").write_text("{}")
    text = (
        "task: mine\nkind: {}\ndata: [gone.jsonl, ../out.jsonl, there.jsonl]\nfewshot: shots.jsonl\nshots: 2\n"
        "query: '{{{{ q'\nchoices: o\nmetric: f1\n"
    )
    for kind in ("choices", "choises", "7"):  # right, near to one, and none: the keys tell that it is one with choices
        what = told(tmp_path, text.format(kind))
        for says in (
            "data: gone.jsonl is not there (nor compressed), searched in", "../out.jsonl lies outside", "fewshot: shots.jsonl is not there",
            "query: unexpected end", "gold: is missing", "metric: ", "f1",
        ):  # fmt: skip
            assert says in what, (kind, says)
        assert "there.jsonl, " not in what and what.startswith("5" if kind == "choices" else "6")
    assert "metric: is no metric of kind" in told(tmp_path, "task: mine\nmetric: f1\ndata: there.jsonl\n")
    assert "fewshot: is missing" in told(tmp_path, "task: mine\nkind: choices\nshots: 1\nquery: '{{'\n")


def test_the_rule_of_a_name_is_told(tmp_path: Path) -> None:
    what = told(tmp_path, GOOD.replace("mine", "首都", 1))
    assert "task: must be 1 to 64 of A-Z, a-z, 0-9, dot, dash and underscore, a letter or digit first" in what
    assert "'首都'" in what and "title may be in any script" in what
    page = (Path(__file__).parents[3] / "docs/tasks.md").read_text(encoding="utf-8")
    assert "1 to 64 of `A-Z a-z 0-9 . _ -`" in page


def test_data_of_llm_foundry_have_an_address() -> None:
    told_of = [spec for name in catalog.bundled() if "local_data" in (spec := catalog.bundled_task(name)).where]
    assert len(told_of) == 8
    for spec in told_of:
        assert "scripts/eval/local_data/" in spec.where and "mosaicml/llm-foundry" in spec.where
