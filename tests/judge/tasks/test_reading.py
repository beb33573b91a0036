"""Items read from files: stable, sampled by seed, and everything broken named with its line."""

import bz2
import gzip
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard

from puna.errors import PunaError
from puna.judge.tasks import catalog
from puna.judge.tasks.reading import Task, check_files, missing_files, read_all, read_task, text_task
from puna.judge.tasks.spec import TaskSpec, placed, read_spec
from puna.judge.tasks.texts import block

ROWS = [
    {"q": f"问题 <script>{n}</script>?", "o": [f"a{n}", "b", f"c{n}"], "right": n % 3, "s": f"S{n % 2}"}
    for n in range(40)
]


def spec_of(tmp_path: Path, **more: Any) -> TaskSpec:
    import yaml

    values = {
        "task": "mine",
        "kind": "choices",
        "data": "mine.jsonl",
        "query": "{{ q }}",
        "choices": "o",
        "gold": "right",
    }
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({**values, **more}, allow_unicode=True))
    return read_spec(tmp_path / "mine.yaml")


def test_items_have_stable_ids_and_their_text_unchanged(tmp_path: Path, jsonl: Any) -> None:
    jsonl("mine.jsonl", ROWS)
    task = read_task(spec_of(tmp_path), None)
    assert [doc.id for doc in task.docs[:2]] == ["mine:1", "mine:2"]
    assert task.docs[3].query == task.docs[3].question == "问题 <script>3</script>?"
    assert (task.docs[4].choices, task.docs[4].gold) == (("a4", "b", "c4"), (1,))
    assert task.facts.chance == pytest.approx(1 / 3) and task.facts.items_in_all == 40 and task.counts == {"": 40}
    named = read_task(spec_of(tmp_path, id="q", subtask="s", aggregate="subtasks"), None)
    assert named.docs[0].id == "S0:问题 <script>0</script>?" and named.counts == {"S0": 20, "S1": 20}
    assert named.facts.chances == pytest.approx({"S0": 1 / 3, "S1": 1 / 3})


def test_a_limit_is_a_sample_by_seed_that_only_grows(tmp_path: Path, jsonl: Any) -> None:
    jsonl("mine.jsonl", ROWS)
    spec = spec_of(tmp_path)
    ids = {n: [doc.id for doc in read_task(spec, None, n).docs] for n in (5, 12, 40)}
    assert len(ids[5]) == 5 and set(ids[5]) < set(ids[12]) < set(ids[40])
    assert ids[12] == sorted(ids[12], key=lambda name: int(name.split(":")[1]))
    assert ids[5] != [doc.id for doc in read_task(spec, None, 5, seed=2).docs]
    assert ids[12] == [doc.id for doc in read_task(spec, None, 12).docs]
    parts = read_task(spec_of(tmp_path, subtask="s"), None, 5)
    assert [doc.subtask for doc in parts.docs] == ["S0"] * 5 + ["S1"] * 5
    with pytest.raises(PunaError, match="a limit of 0"):
        read_task(spec, None, 0)


def test_every_packing_gives_the_same_items_and_digest(tmp_path: Path, jsonl: Any) -> None:
    plain = jsonl("mine.jsonl", ROWS)
    data = plain.read_bytes()
    first = read_task(spec_of(tmp_path), None)
    plain.unlink()
    packed: dict[str, Callable[[bytes], bytes]] = {
        ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zst": zstandard.ZstdCompressor().compress,
    }  # fmt: skip
    for ending, pack in packed.items():
        path = tmp_path / f"mine.jsonl{ending}"
        path.write_bytes(pack(data))
        again = read_task(spec_of(tmp_path), None)
        assert [doc.query for doc in again.docs] == [doc.query for doc in first.docs]
        assert [doc.id for doc in again.docs] == [doc.id for doc in first.docs]
        assert again.facts.data_digest == first.facts.data_digest
        path.unlink()


def test_csv_and_json(tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text('q,A,B,right\n"one, two",x,y,B\nthree,"a\nb",c,A\n')
    spec = spec_of(tmp_path, data="mine.csv", choices=["{{ A }}", "{{ B }}"])
    docs = read_task(spec, None).docs
    assert [(doc.query, doc.choices, doc.gold) for doc in docs] == [
        ("one, two", ("x", "y"), (1,)),
        ("three", ("a\nb", "c"), (0,)),
    ]
    (tmp_path / "mine.json").write_text('{"version": 1, "data": [{"q": "?", "o": ["x", "y"], "right": "y"}]}')
    assert read_task(spec_of(tmp_path, data="mine.json"), None).docs[0].gold == (1,)
    (tmp_path / "mine.csv").write_text("q,A,B,right\nx,y\n")
    with pytest.raises(PunaError, match="another number of fields"):
        read_task(spec, None)


def test_missing_files_are_all_named(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, data=["a.jsonl", "more/*.jsonl"], fewshot="dev.jsonl", shots=2, where="ask Ada for them")
    with pytest.raises(PunaError) as error:
        read_task(spec, None)
    told = error.value.line()
    for part in ("a.jsonl", "more/*.jsonl", "dev.jsonl", str(tmp_path), "ask Ada for them"):
        assert part in told
    with pytest.raises(PunaError, match="give --data DIR"):
        read_task(catalog.bundled_task("mmlu"), None)
    with pytest.raises(
        PunaError, match=r"mmlu: mmlu/test.jsonl, mmlu/dev.jsonl are not there .* published test and dev"
    ):
        read_task(catalog.bundled_task("mmlu"), tmp_path)


def test_broken_items_are_all_named_with_their_lines(tmp_path: Path, jsonl: Any) -> None:
    good = {"q": "?", "o": ["x", "y"], "right": 0}
    bad = [
        ({"right": 2}, "gold 2 is out of range: there are 2 choices"), ({"right": -1}, "gold -1 is out of range"),
        ({"right": "z"}, "gold 'z' is no"), ({"right": True}, "gold 'True' is no"), ({"right": None}, "gold 'None'"),
        ({"right": []}, "has no right choice"), ({"o": []}, "has no choices"), ({"o": ["x"]}, "has 1 choice"),
        ({"o": ["x", " "]}, "choice 1 is empty"), ({"o": "xy"}, "choices is no list"), ({"o": [1, 2]}, "choices is no list"),
        ({"q": "\ud800"}, "holds half of a surrogate pair"), ({"q": ["?"]}, "query: a list"), ({"q": None}, "query: a list, a table or nothing"),
    ]  # fmt: skip
    import json

    lines = [good, *({**good, **change} for change, _ in bad)]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
    with pytest.raises(PunaError) as error:
        read_task(spec_of(tmp_path), None)
    told = error.value.line()
    assert told.startswith("mine: 14 broken items: ")
    for number, (_, says) in enumerate(bad, 2):
        assert f"mine.jsonl:{number}: {says}" in told


def test_template_mistakes_on_the_first_row_are_all_told(tmp_path: Path, jsonl: Any) -> None:
    jsonl("mine.jsonl", ROWS)
    with pytest.raises(PunaError) as error:
        read_task(spec_of(tmp_path, query="{{ question }}", gold="label", cluster="passage"), None)
    told = error.value.line()
    assert told.startswith("mine on ") and "mine.jsonl:1: 3 mistakes: " in told
    assert all(f"'{name}' is undefined" in told for name in ("question", "label", "passage"))


def test_other_bad_files(tmp_path: Path, jsonl: Any) -> None:
    path = jsonl("mine.jsonl", [*ROWS[:2], ["no", "row"]])
    with pytest.raises(PunaError, match="mine.jsonl:3: is no row"):
        read_task(spec_of(tmp_path), None)
    path.write_text('{"q": 1')
    with pytest.raises(PunaError, match="mine.jsonl:1: is not valid JSON"):
        read_task(spec_of(tmp_path), None)
    path.write_text("\n")
    with pytest.raises(PunaError, match="holds no items"):
        read_task(spec_of(tmp_path), None)
    path.write_bytes(b'{"q": "\xff"}')
    with pytest.raises(PunaError, match="is no UTF-8"):
        read_task(spec_of(tmp_path), None)
    jsonl("mine.jsonl", [{**ROWS[0], "id": 7}, {**ROWS[1], "id": 7}])
    with pytest.raises(PunaError, match="its id '7' stands twice"):
        read_task(spec_of(tmp_path, id="id"), None)
    with pytest.raises(PunaError, match="2 examples, and the task shows 2"):
        read_task(spec_of(tmp_path, shots=2, fewshot_else="items"), None)
    with pytest.raises(PunaError, match="stays inside its folder"):
        read_task(spec_of(tmp_path, data="../*.jsonl"), None)
    (tmp_path / "mine.txt").write_text("a\n1\nb\nc\n")
    with pytest.raises(PunaError, match="4 lines, and an item has 6"):
        read_task(spec_of(tmp_path, data="mine.txt", form="hellaswag"), None)
    with pytest.raises(PunaError, match="plain text, which holds no rows"):
        read_task(spec_of(tmp_path, data="mine.txt"), None)


def test_digests_know_what_counts(tmp_path: Path, jsonl: Any) -> None:
    jsonl("mine.jsonl", ROWS)
    facts = read_task(spec_of(tmp_path), None).facts
    same = read_task(spec_of(tmp_path, title="Other", notes=["x"]), None, 3).facts
    assert (same.digest, same.data_digest) == (facts.digest, facts.data_digest)
    assert read_task(spec_of(tmp_path, delimiter=""), None).facts.digest != facts.digest
    jsonl("mine.jsonl", ROWS[:-1])
    assert read_task(spec_of(tmp_path), None).facts.data_digest != facts.data_digest


def test_boolq_items_of_a_passage_are_a_cluster(data: Path) -> None:
    task = read_task(catalog.bundled_task("boolq"), data)
    assert (len(task.docs), len({doc.cluster for doc in task.docs})) == (3270, 2938)
    assert all(doc.question.startswith(doc.cluster) and "\nQuestion: " not in doc.cluster for doc in task.docs[:200])


def test_notes_say_where_examples_are_from(data: Path, tmp_path: Path, jsonl: Any) -> None:
    def from_others(task: Task) -> bool:
        return any("from the other items" in note for note in task.facts.notes)

    spec = catalog.bundled_task("winogrande")
    assert from_others(read_task(spec, data, 5))
    rows = [{"context_options": [f"x{n}", f"y{n}"], "continuation": "z", "gold": 0} for n in range(9)]
    jsonl("llm_foundry/winogrande.jsonl", rows)
    jsonl("llm_foundry/winogrande_train.jsonl", rows)
    beside = read_task(spec, tmp_path, 5)
    assert not from_others(beside) and len(beside.fewshot[""]) == 9
    assert not from_others(read_task(catalog.bundled_task("gsm8k"), data, 1))
    cmmlu = read_task(catalog.bundled_task("cmmlu"), data, 1)
    assert cmmlu.facts.notes[-1].startswith("Of the published 67 subtasks 34 are there")


def test_text_is_cut_at_paragraphs_and_nothing_is_left_out(tmp_path: Path, jsonl: Any) -> None:
    text = "".join(f"第{n}段。" * 40 + "\n\n" for n in range(30)) + "word " * 900 + "\n \n" + "羊" * 3000
    (tmp_path / "a.md").write_text(text, encoding="utf-8")
    task = text_task([tmp_path / "a.md"])
    assert "".join(doc.answers[0] for doc in task.docs) == text
    sizes = [len(doc.answers[0].encode()) for doc in task.docs]
    assert max(sizes) <= 2000 and sum(sizes) / len(sizes) > 1500
    assert len({doc.cluster for doc in task.docs}) == len(task.docs) and task.docs[0].id == "a.md:1"
    assert (task.facts.unit, task.facts.higher_is_better, task.facts.metric) == (
        "bits per byte",
        False,
        "bits_per_byte",
    )
    rows = jsonl("b.jsonl", [{"text": "eins"}, {"text": "zwei"}])
    both = text_task([tmp_path / "a.md", rows])
    assert [(doc.id, doc.cluster) for doc in both.docs[-2:]] == [("b.jsonl:1", ""), ("b.jsonl:2", "")]
    (named,) = catalog.find_tasks([f"text:{tmp_path / 'a.md'}"])
    assert len(read_task(named, None).docs) == len(task.docs) and len(read_task(named, None, 3).docs) == 3
    (tmp_path / "empty.txt").write_text(" \n")
    with pytest.raises(PunaError, match="holds no text"):
        text_task([tmp_path / "empty.txt"])
    jsonl("c.jsonl", [{"body": "x"}])
    with pytest.raises(PunaError, match="c.jsonl:1: has no field text or content"):
        text_task([tmp_path / "c.jsonl"])


def test_a_text_has_an_interval(tmp_path: Path, jsonl: Any) -> None:
    """Rows stand alone, and a plain file is blocks of neighbours: at least 20, so that a bootstrap has something to draw from."""
    (tmp_path / "long.txt").write_text("".join(f"{n} " + "word " * 300 + "\n\n" for n in range(500)))
    docs = text_task([tmp_path / "long.txt"]).docs
    clusters = list(dict.fromkeys(doc.cluster for doc in docs))
    assert len(docs) == 500 and len(clusters) == 63  # 8 to a block, the cube root
    assert [doc.cluster for doc in docs] == sorted((doc.cluster for doc in docs), key=clusters.index)  # neighbours
    for count in (1, 19, 20, 39, 40, 100, 10_000):
        assert -(-count // block(count)) >= min(count, 20)
    rows = jsonl("rows.jsonl", [{"text": f"Row {n}."} for n in range(30)])
    assert {doc.cluster for doc in text_task([rows]).docs} == {""}


def test_a_strangers_task_file_reads_nothing_outside_its_folder(tmp_path: Path, jsonl: Any) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("top secret")
    home, data = tmp_path / "home", tmp_path / "data"
    home.mkdir()
    data.mkdir()
    (data / "shared.txt").write_text("shared")
    (home / "link.txt").symlink_to(secret)
    (home / "loop.txt").symlink_to(home / "loop.txt")
    (home / "beside.txt").symlink_to(data / "shared.txt")
    (home / "own.txt").write_text("own")
    (home / "own.conf").write_text("own")
    (home / "up").symlink_to(tmp_path)

    def read(name: str, form: str = "paragraphs") -> Task:
        path = home / "task.yaml"
        path.write_text(f"task: t\nkind: text\nform: {form}\ntext: '{{{{ text }}}}'\ndata: '{name}'\n")
        return read_task(read_spec(path), data)

    for name in (
        "../secret.txt", str(secret), "link.txt", "*.txt", "up/secret.txt", "up/*.txt", "../home/../secret.txt", "/etc/passwd",
        "../../../../../../etc/passwd", "/dev/zero", "loop.txt",
    ):  # fmt: skip
        with pytest.raises(PunaError, match=r"outside the folder|stays inside|is no path|not there"):
            read(name)
    jsonl("rows.jsonl", [{"text": "a"}])
    with pytest.raises(PunaError, match="outside the folder"):
        read("../rows.jsonl", "rows")
    with pytest.raises(PunaError, match="is no kind of task file"):
        read("own.conf")
    assert read("own.txt").docs[0].answers == ("own",) and read("beside.txt").docs[0].answers == ("shared",)
    (home / "shots.yaml").write_text(
        "task: t\nkind: cloze\nquery: '{{ text }}'\ncontinuation: '{{ text }}'\ndata: own.jsonl\nfewshot: ../rows.jsonl\nshots: 1\n"
    )
    (home / "own.jsonl").write_text('{"text": "a"}\n')
    with pytest.raises(PunaError, match="outside the folder"):
        read_task(read_spec(home / "shots.yaml"), None)
    (typed,) = catalog.find_tasks([f"text:{home / 'own.conf'}"])
    assert read_task(typed, data).docs[0].answers == ("own",)


def test_a_limit_of_none_is_refused_everywhere(tmp_path: Path) -> None:
    from puna.judge.tasks.quiz_task import read_quiz

    (remote,) = catalog.find_tasks(["lm_eval:arc_easy"])
    for limit in (0, -3):
        with pytest.raises(PunaError, match=f"a limit of {limit}"):
            read_task(remote, None, limit)
        with pytest.raises(PunaError, match=f"a limit of {limit}"):
            read_quiz(tmp_path, limit)


def test_an_answer_that_patterns_would_take_long_on_is_refused(tmp_path: Path, jsonl: Any) -> None:
    jsonl("mine.jsonl", [{"q": "?", "a": "1" * 10_001}])
    given = {"task": "mine", "kind": "answer", "data": "mine.jsonl", "query": "{{ q }}", "answer": "{{ a }}"}
    plain = placed(TaskSpec.model_validate(given), "mine", tmp_path)
    assert len(read_task(plain, None).docs) == 1
    with pytest.raises(PunaError, match="longer than the 10,000 characters"):
        read_task(placed(TaskSpec.model_validate({**given, "ignore": [","]}), "mine", tmp_path), None)


def test_missing_files_of_all_tasks_are_named_at_once(tmp_path: Path, jsonl: Any) -> None:
    jsonl("llm_foundry/copa.jsonl", [{"query": "q", "choices": ["a", "b"], "gold": 0}])
    specs = catalog.find_tasks(["leaderboard", "copa", "lm_eval:pubmedqa"])
    lacking = missing_files(specs, tmp_path)
    assert [one.task for one in lacking] == [*catalog.GROUPS["leaderboard"]]  # copa is there, pubmedqa is lm_eval's
    assert lacking[2].files == ("mmlu/test.jsonl", "mmlu/dev.jsonl") and lacking[2].folder == tmp_path
    for data in (tmp_path, None):
        with pytest.raises(PunaError) as error:
            read_all(specs, data)
        line = error.value.line()
        for spec in specs[:6]:
            needed = (*spec.data, *(spec.fewshot if spec.fewshot_else == "refuse" else ()))
            assert all(part in line for part in (spec.task, spec.where, *needed)), spec.task
        assert ("--data DIR" in line) == (data is None) and (str(tmp_path) in line) == (data is not None)
        assert ("copa.jsonl" in line) == (data is None)
    outside = spec_of(tmp_path, data="../a.jsonl")
    with pytest.raises(PunaError, match=r"^2 tasks lack files.*mine: .*data: .*lies outside.*boolq.jsonl is not there"):
        check_files([outside, catalog.bundled_task("boolq")], tmp_path)
    check_files(specs[6:], tmp_path)
    jsonl("mine.jsonl", ROWS)
    both = read_all([spec_of(tmp_path), specs[6]], tmp_path, 3, 7)
    assert [(task.facts.name, len(task.docs), task.seed) for task in both] == [("mine", 3, 7), ("copa", 1, 7)]


def test_lines_that_are_no_rows_are_told_with_the_broken_items(tmp_path: Path) -> None:
    good = '{"q": "?", "o": ["x", "y"], "right": 0}'
    lines = ["{", good, "[1]", '{"o": ["x", "y"], "right": 0}', '"text"', good.replace("0", "9"), '{"q": }']
    path = tmp_path / "mine.jsonl"
    path.write_text("\n".join(lines))
    with pytest.raises(PunaError) as error:
        read_task(spec_of(tmp_path), None)
    line = error.value.line()
    for says in (
        "1: is not valid JSON",
        "3: is no row",
        "4: query: 'q' is undefined",
        "5: is no row",
        "6: gold 9",
        "7: is not valid",
    ):
        assert f"mine.jsonl:{says}" in line, says
    assert line.startswith("mine: 6 broken items: ") and "mine.jsonl:2" not in line
    path.write_text("\n".join([good, *["{"] * 25]))
    with pytest.raises(PunaError, match=r"25 broken items: .*mine.jsonl:21: .*; and 5 more"):
        read_task(spec_of(tmp_path), None)
    path.write_text("\n".join([good, "{", good]))
    with pytest.raises(
        PunaError, match=r"mine.jsonl:1 and every other row .*'label' is undefined; .*mine.jsonl:2: is not"
    ):
        read_task(spec_of(tmp_path, gold="label"), None)
    (tmp_path / "mine.csv").write_text("q,A,B,right\nx,y\nq,a,b,Z\nq,a\n")
    with pytest.raises(
        PunaError, match=r"3 broken items: .*row 1: has another.*mine.csv:2: gold 'Z'.*row 3: has another"
    ):
        read_task(spec_of(tmp_path, data="mine.csv", choices=["{{ A }}", "{{ B }}"]), None)
    (tmp_path / "text.jsonl").write_text('{"text": "a"}\n{"body": "a"}\n[\n')
    with pytest.raises(
        PunaError, match=r"2 broken items: .*text.jsonl:2: has no field .*text.jsonl:3: is not valid JSON"
    ):
        text_task([tmp_path / "text.jsonl"])
