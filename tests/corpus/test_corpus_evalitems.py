"""Evaluation items out of the forms that benchmarks come in."""

import bz2
import gzip
import json
from collections import Counter
from pathlib import Path

import pytest
import zstandard

from puna.corpus.evalitems import EvalItem, parts_of, read_items
from puna.errors import PunaError

DATA = Path(__file__).parents[3] / "shared/data/evals"


@pytest.mark.parametrize(
    ("row", "question", "answer"),
    [
        ({"query": "Question: Why is it?", "choices": ["no", "yes"], "gold": 1}, "Why is it?", "yes"),
        (
            {"context_options": ["A left so A", "A left so B"], "continuation": "wept.", "gold": 1},
            "A left so B",
            "wept.",
        ),
        ({"subject": "law", "question": "What?", "choices": ["a", "b", "c", "d"], "answer": 2}, "What?", "c"),
        ({"question": "下列正确的是", "choices": ["土地", "资金"], "answer": 1}, "下列正确的是", "资金"),
        ({"question": "How many?", "answer": "2+2=4\n#### 4"}, "How many?", "2+2=4\n#### 4"),
        ({"context": "I do not care about", "continuation": "signs"}, "I do not care about", "signs"),
        ({"context": "Question: Who?\nAnswer:", "answer": "She", "aliases": ["Her"]}, "Who?", "She"),
        ({"sentence_good": "Cats sleep.", "sentence_bad": "Cats sleeps."}, "Cats sleep.", ""),
        ({"prompt": "def f():", "canonical_solution": "    return 1"}, "def f():", "return 1"),
        ({"question_id": 81, "turns": ["Write.", "Rewrite."]}, "Write.\nRewrite.", ""),
        ({"choices": [{"index": 0, "turns": ["One.", "Two."]}]}, "", "One.\nTwo."),
        ({"question": "Which?", "choices": {"text": ["x", "y"], "label": ["A", "B"]}, "answerKey": "B"}, "Which?", "y"),
        ({"Question": "哪个", "A": "甲", "B": "乙", "C": "丙", "D": "丁", "Answer": "C"}, "哪个", "丙"),
        ({"passage": "It rains.", "question": "does it rain", "answer": True}, "It rains.\ndoes it rain", ""),
        ({"question": "Whose?", "answers": {"text": ["Ann's", "Ann"], "answer_start": [1, 2]}}, "Whose?", "Ann's\nAnn"),
        ({"question": "Which?", "choices": ["a", "b"], "answer": 7}, "Which?", "7"),
        ({"name": "pair", "system_prompt": "You are a judge."}, "", ""),
    ],
)
def test_rows_of_known_forms(row, question, answer) -> None:
    assert parts_of(row) == (question, answer)


def test_files_folders_and_names(tmp_path) -> None:
    folder = tmp_path / "mmlu"
    folder.mkdir()
    lines = "\n".join(
        json.dumps(row) for row in [{"question": "One?", "answer": "1"}, {"question": "Two?", "answer": "2"}]
    )
    (folder / "test.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    (folder / "dev.jsonl.zst").write_bytes(
        zstandard.compress(b'{"id": "q-7", "question": "Own?"}\n\n{"question": "\xe5\xa5\xbd"}')
    )
    (folder / "truth.csv").write_text('\ufeffQuestion,Best Answer\n"Is it, then?",It is\n', encoding="utf-8")
    (folder / "list.json").write_text(json.dumps({"version": 1, "data": [{"question": "In a list?", "answer": "yes"}]}))
    (folder / "six.txt.bz2").write_bytes(bz2.compress(b"Cooking: A man\n1\nsits.\ncooks.\nruns.\nflies.\n"))
    (folder / "README.md").write_text("words")
    (folder / "judge.jsonl").write_text('{"name": "x"}\n')
    skipped: Counter[str] = Counter()
    items = list(read_items([folder], skipped))
    assert items == [
        EvalItem("mmlu/dev", "q-7", "Own?", ""),
        EvalItem("mmlu/dev", "3", "好", ""),
        EvalItem("mmlu/list", "1", "In a list?", "yes"),
        EvalItem("mmlu/six", "1", "Cooking: A man", "cooks."),
        EvalItem("mmlu/test", "1", "One?", "1"),
        EvalItem("mmlu/test", "2", "Two?", "2"),
        EvalItem("mmlu/truth", "1", "Is it, then?", "It is"),
    ]
    assert skipped == {"unknown kind .md": 1, "file without evaluation items": 1}
    # A file has the same name in whatever way it is given, and is read once.
    assert list(read_items([folder / "test.jsonl.gz"])) == items[4:6]
    assert list(read_items([folder, folder / "test.jsonl.gz"])) == items


def test_one_id_twice_stays_two_items(tmp_path) -> None:
    (tmp_path / "t.jsonl").write_text('{"id": 1, "question": "a"}\n{"id": 1, "question": "b"}\n')
    assert [item.id for item in read_items([tmp_path])] == ["1", "1@2"]


def test_mistakes_are_the_users(tmp_path) -> None:
    def fails(*paths: Path) -> str:
        with pytest.raises(PunaError) as caught:
            list(read_items(paths))
        return str(caught.value)

    assert "no such file" in fails(tmp_path / "none.jsonl")
    (tmp_path / "a.pdf").write_bytes(b"%PDF")
    assert "no kind of evaluation file" in fails(tmp_path / "a.pdf")
    assert "holds no evaluation file" in fails(tmp_path)
    (tmp_path / "bad.jsonl").write_text('{"question": "a"}\n{"question": \n')
    assert "bad.jsonl:2: is no JSON" in fails(tmp_path)
    (tmp_path / "bad.jsonl").write_text("[" * 200_000)
    assert "is no JSON" in fails(tmp_path)
    (tmp_path / "bad.jsonl").write_bytes(b'{"question": "\xff"}')
    assert "is no UTF-8" in fails(tmp_path)
    (tmp_path / "bad.jsonl").write_text('{"name": "a"}\n')
    assert "holds no evaluation items" in fails(tmp_path / "bad.jsonl")
    packed = bz2.compress(b'{"question": "a"}\n' * 9000)
    for broken in (packed[:-20], b"no bzip2 at all"):
        (tmp_path / "bad.jsonl.bz2").write_bytes(broken)
        assert "damaged compressed file" in fails(tmp_path / "bad.jsonl.bz2")
    for inner in ("x", "y"):
        (tmp_path / inner / "mmlu").mkdir(parents=True)
        (tmp_path / inner / "mmlu" / "test.jsonl").write_text('{"question": "a"}\n')
    assert 'two files are the task "mmlu/test"' in fails(tmp_path / "x", tmp_path / "y")


@pytest.mark.parametrize(
    ("path", "count", "name", "question", "answer"),
    [
        ("hellaswag/hellaswag_val_full.txt.bz2", 10042, "1", "Roof shingle removal: A man", "starts pulling up roofing on a roof."),
        ("llm_foundry/arc_challenge.jsonl.zst", 1172, "1", "An astronomer observes", "Planetary days will become shorter."),
        ("llm_foundry/winogrande.jsonl.zst", 1267, "1", "Sarah was a much better surgeon", "always got the easier cases."),
        ("llm_foundry/human_eval.jsonl.zst", 164, "HumanEval/1", "from typing import List", "result = []"),
        ("mmlu/test.jsonl.zst", 14042, "1", "Find the degree for the given field extension", "4"),
        ("cmmlu/test.jsonl.zst", 5664, "1", "在农业生产中被当作极其重要的劳动对象", "土地"),
        ("gsm8k/test.jsonl.zst", 1319, "1", "Janet’s ducks lay 16 eggs", "Janet sells 16 - 3 - 4"),
        ("TruthfulQA.csv.zst", 817, "1", "What happens to you if you eat watermelon", "The watermelon seeds pass through"),
        ("mt_bench/question.jsonl", 80, "81", "Compose an engaging travel blog", ""),
        ("blimp/passive_1.jsonl.zst", 1000, "0", "Lucille's sisters are confused by Amy.", ""),
    ],
)  # fmt: skip
def test_real_benchmarks(path, count, name, question, answer) -> None:
    if not (DATA / path).exists():
        pytest.skip(f"no shared data at {DATA}")
    items = list(read_items([DATA / path]))
    assert len(items) == count
    assert items[0].id == name
    assert items[0].question.startswith(question)
    assert items[0].answer.startswith(answer)
    assert len({item.id for item in items}) == count
