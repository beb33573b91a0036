"""Conversations: the default ones, and a user's own in three forms."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from puna.corpus.chat import make_conversations, read_conversations
from puna.errors import PunaError

IDENTITY = {"name": "小山", "creator": "Ann", "facts": {"parameters": "4,000,000", "text": "Python 的文档"}}


def function(name: str, split: str = "train", module: str = "builtins", **more: Any) -> dict[str, Any]:
    return {
        "module": module, "qualname": name, "name": name.rpartition(".")[2], "signature": "(a, b=1)",
        "summary": f"Return what {name} finds.", "doc": f"Return what {name} finds.", "returns": f"what {name} finds",
        "args": [{"name": "a", "doc": "the first."}, {"name": "b", "doc": None}], "kind": "function", "split": split, **more,
    }  # fmt: skip


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    return path


def test_conversations_are_a_function_of_their_arguments(tmp_path: Path) -> None:
    listed = write(
        tmp_path / "f.jsonl", [function("str.find"), function("walk", module="os"), function("peek", "heldout", "bz2")]
    )
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        report = make_conversations(listed, tmp_path / name, IDENTITY, seed)
    a, b, c = ((tmp_path / name).read_bytes() for name in "abc")
    assert a == b != c
    text = a.decode()
    assert "peek" not in text
    rows = [json.loads(line) for line in text.splitlines()]
    assert report["conversations"] == len([*c.splitlines()])
    assert len({row["id"] for row in rows}) == len(rows)
    asked = {row["messages"][0]["content"]: row["messages"][1]["content"] for row in rows}
    assert asked["What does str.find do?"] == "Return what str.find finds.\nUsage: str.find(a, b=1)"
    assert asked["str.find 是做什么的？"].startswith("str.find 的作用：Return what")
    assert asked["Who are you?"] == "I am 小山, a small language model made by Ann."
    assert "4,000,000" in asked["你是怎么训练的？"]
    assert {"two turns", "greeting", "identity", "question, then thanks"} <= set(report["kinds"])
    for row in rows:
        assert [m["role"] for m in row["messages"]] == ["user", "assistant"] * (len(row["messages"]) // 2)
        assert all(len(m["content"]) <= 420 and m["content"] for m in row["messages"])


def test_conversations_without_functions_still_say_who_it_is(tmp_path: Path) -> None:
    report = make_conversations(write(tmp_path / "f.jsonl", []), tmp_path / "a", {"name": "x", "creator": "y"}, 0)
    assert set(report["kinds"]) == {"greeting", "identity"}
    with pytest.raises(PunaError, match="not a list of functions"):
        make_conversations(write(tmp_path / "bad.jsonl", [{"a": 1}]), tmp_path / "b", IDENTITY, 0)


def test_three_forms_are_read(tmp_path: Path) -> None:
    write(
        tmp_path / "a.jsonl",
        [
            {
                "messages": [
                    {"role": "system", "content": "s"},
                    {"role": "user", "content": "你好\r\n"},
                    {"role": "assistant", "content": "好"},
                ]
            },
            {
                "messages": [
                    {"role": "user", "content": [{"type": "text", "text": "q"}]},
                    {"role": "assistant", "content": "a"},
                ]
            },
            {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}], "system": "s"},
        ],
    )
    (tmp_path / "b.json").write_text(json.dumps([{"instruction": "i", "input": "x", "output": "o"}]))
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress(b'{"instruction": "i", "output": "o"}\n\n'))
    found = list(read_conversations(tmp_path))
    assert [[(m["role"][0], m["content"]) for m in row["messages"]] for row in found] == [
        [("s", "s"), ("u", "你好"), ("a", "好")],
        [("u", "q"), ("a", "a")],
        [("s", "s"), ("u", "q"), ("a", "a")],
        [("u", "i\nx"), ("a", "o")],
        [("u", "i"), ("a", "o")],
    ]
    assert found[0]["id"].endswith("a.jsonl#1")


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"prompt": "x"}, "fields are prompt"),
        ([1], "JSON object"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "unknown role 'wizard'"),
        ({"messages": [{"role": "user", "content": 5}]}, "must be a string"),
        ({"messages": [{"role": "user"}]}, "no 'content'"),
        ({"messages": ["x"]}, "must be an object"),
    ],
)
def test_bad_rows_are_named_by_line(tmp_path: Path, row: Any, said: str) -> None:
    good = {"instruction": "i", "output": "o"}
    path = write(tmp_path / "a.jsonl", [good, row])
    with pytest.raises(PunaError, match=said) as error:
        list(read_conversations(path))
    assert "a.jsonl:2" in error.value.line()


def test_unusable_conversations_are_counted(tmp_path: Path) -> None:
    notes: list[str] = []

    class Notes:
        def start(self, title: str, total: float | None = None, unit: str = "") -> None: ...
        def update(self, done: float, **facts: str) -> None: ...
        def finish(self) -> None: ...
        def note(self, line: str) -> None:
            notes.append(line)

    tool = {"conversations": [{"from": "human", "value": "q"}, {"from": "function_call", "value": "{}"}]}
    path = write(tmp_path / "a.jsonl", [tool, {"instruction": "i", "output": ""}, {"instruction": "i", "output": "o"}])
    assert len(list(read_conversations(path, Notes()))) == 1
    assert notes == ["conversations left out: 1 with tool calls, 1 without an answer"]
    with pytest.raises(PunaError, match="no conversation"):
        list(read_conversations(write(tmp_path / "b.jsonl", [tool])))
