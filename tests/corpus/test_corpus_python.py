"""The default corpus: what is read out of Python, and the whole build of it."""

import ast
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from puna.corpus import build_documents, docstrings, near, python, read_documents
from puna.corpus.chat import make_conversations
from puna.recipe.schema import Corpus

SOURCE = '''
"""A module. More."""
class Box:
    """A box, e.g. of wood. It holds things."""
    def __init__(self, size: int, *, lid=None): ...
    def open(self, force: bool = False) -> bool:
        """Open the box.

        force -- open it although
                 it is locked
        """
    @property
    def size(self):
        """Its size."""
    @staticmethod
    def make(n, /, *rest, **more):
        """Return a new box.

        :param n: how large.
        """
    def __eq__(self, other):
        """Dunder."""
try:
    import x
except ImportError:
    def hidden():
        """Found in a branch."""
async def wait(): "Wait."
def silent(): pass
'''


def test_source_is_parsed_not_imported() -> None:
    header, entries = docstrings.entries_of_source(SOURCE, "pkg.mod")
    assert header == "A module. More."
    assert [(e.qualname, e.kind, e.signature) for e in entries] == [
        ("Box", "class", "(size, *, lid=None)"),
        ("Box.open", "method", "(force=False)"),
        ("Box.make", "method", "(n, /, *rest, **more)"),
        ("hidden", "function", "()"),
        ("wait", "function", "()"),
    ]
    box, opening, make, *_ = entries
    assert docstrings.summary_of(box.doc) == "A box, e.g. of wood."
    assert docstrings.arguments_of(opening.signature, opening.doc) == [
        {"name": "force", "doc": "open it although it is locked"}
    ]
    assert [item["doc"] for item in docstrings.arguments_of(make.signature, make.doc)] == ["how large.", None, None]
    assert docstrings.returns_of(make.doc) == "a new box"
    assert (make.shown, make.public) == ("pkg.mod.Box.make", True)


def test_old_signature_lines_of_c_code() -> None:
    raw = {
        "module": "builtins",
        "name": "range",
        "kind": "class",
        "signature": "",
        "doc": "range(stop) -> range object\nrange(start, stop[, step]) -> range object\n\nReturn numbers.",
    }
    entry = docstrings.entry_of_builtin(raw)
    assert (entry.signature, entry.doc, entry.shown) == ("(stop)", "Return numbers.", "range")
    raw = {"module": "m", "name": "T.f", "kind": "method", "signature": "($self, a, /)", "doc": "T.f(a) -> x"}
    assert docstrings.entry_of_builtin(raw).signature == "(a, /)"
    assert docstrings.parameter_names("([source[, encoding[, errors]]])") == ["source", "encoding", "errors"]


def test_library_files_are_the_library() -> None:
    names = [name for name, _ in python.library_files()]
    assert names == sorted(names)
    assert {"json/decoder.py", "os.py"} <= set(names)
    assert not [n for n in names if "/tests/" in n or n.startswith(("test/", "site-packages")) or "_sysconfigdata" in n]
    assert python.module_of("json/__init__.py") == "json"


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("python")
    build_documents(Corpus(), out)
    return out


def functions_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "functions.jsonl").read_text(encoding="utf-8").splitlines()]


def test_the_default_corpus(built: Path) -> None:
    report = json.loads((built / "corpus.json").read_text(encoding="utf-8"))
    assert report["python"]
    assert report["bytes"]["train"] > 8_000_000
    assert 0.03 < report["bytes"]["heldout"] / report["bytes"]["train"] < 0.07
    assert report["split"][0]["heldout_units"] >= 20
    assert report["sources"] == [python.digest()]
    train, heldout = read_documents(built, "train"), read_documents(built, "heldout")
    assert set(train["kind"].to_pylist()) == {"source", "docstring", "reference"}
    assert not set(train["source"].to_pylist()) & set(heldout["source"].to_pylist())
    assert "builtins" in set(train["source"].to_pylist())
    text = train.filter(__import__("pyarrow").compute.equal(train["id"], "docstring:builtins"))["text"][0].as_py()
    assert "str.split(sep=None, maxsplit=-1)\n\n    Return a list" in text


def test_no_training_document_nearly_duplicates_the_heldout_text(built: Path) -> None:
    index = near.index_of(read_documents(built, "heldout")["text"].to_pylist())
    shares = [near.containment(index, text) for text in read_documents(built, "train")["text"].to_pylist()]
    assert max(shares) < 0.5


def test_the_code_pages_are_one_family(built: Path) -> None:
    sides = {
        split: {s for s in read_documents(built, split)["source"].to_pylist() if s.startswith("encodings.cp125")}
        for split in ("train", "heldout")
    }
    assert not (sides["train"] and sides["heldout"])


def test_functions_of_the_default_corpus(built: Path) -> None:
    functions = functions_of(built)
    count = Counter(item["split"] for item in functions)
    assert count["heldout"] >= 200
    assert count["train"] >= 4000
    by_name = {(item["module"], item["qualname"]): item for item in functions}
    assert len(by_name) == len(functions)
    split = by_name["builtins", "str.split"]
    assert split["signature"] == "(sep=None, maxsplit=-1)"
    assert split["summary"].startswith("Return a list of the substrings")
    assert split["args"][1]["doc"].startswith("Maximum number of splits")
    assert (split["split"], split["kind"], split["name"]) == ("train", "method", "split")
    for name in ("len", "dict.get", "print", "open"):
        assert ("builtins", name) in by_name
    for place in (("math", "sqrt"), ("itertools", "count"), ("os", "getcwd"), ("array", "array.append")):
        assert place in by_name
    heldout = set(read_documents(built, "heldout")["source"].to_pylist())
    assert {i["module"] for i in functions if i["split"] == "heldout"} & heldout
    for item in functions:
        assert set(item) == {
            "module",
            "qualname",
            "name",
            "signature",
            "summary",
            "doc",
            "args",
            "returns",
            "kind",
            "split",
        }
        assert " at 0x" not in item["signature"]
    plain = {" ".join(i["doc"].split()).lower() for i in functions if i["split"] == "heldout"}
    same = [
        i
        for i in functions
        if i["split"] == "train" and len(i["doc"]) > 30 and " ".join(i["doc"].split()).lower() in plain
    ]
    assert same == []


def test_most_signatures_are_python(built: Path) -> None:
    functions = [item for item in functions_of(built) if item["signature"]]
    good = 0
    for item in functions:
        try:
            ast.parse(f"def f{item['signature']}: pass")
            good += 1
        except SyntaxError:
            pass
    assert good > 0.9 * len(functions)


def test_chat_of_the_default_corpus(built: Path, tmp_path: Path) -> None:
    identity = {"name": "Tiny", "creator": "Ann", "facts": {"parameters": "4M"}}
    report = make_conversations(built / "functions.jsonl", tmp_path / "chat.jsonl", identity, 1)
    assert 8_000 <= report["conversations"] <= 22_000
    rows = [json.loads(line) for line in (tmp_path / "chat.jsonl").read_text(encoding="utf-8").splitlines()]
    asked = {row["messages"][0]["content"]: row["messages"][1]["content"] for row in rows}
    assert asked["What does str.split do?"].startswith("Return a list of the substrings")
    assert "str.split" in asked["str.split 是做什么的？"]
    assert asked["你好"].startswith("你好")
    held = {f"{i['module']}.{i['qualname']}" for i in functions_of(built) if i["split"] == "heldout"}
    names = {f"What does {name} do?" for name in held}
    assert not names & set(asked)
    assert {i["module"] for i in functions_of(built) if i["split"] == "heldout"}.isdisjoint(
        row["source"].removeprefix("docstrings:") for row in rows
    )
