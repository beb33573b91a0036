"""A small corpus of the standard library, a tokenizer trained on it, a random model: all made by the real parts."""

import ast
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from puna.engine import Engine

TRAIN = ("csv", "textwrap", "shlex", "fnmatch", "bisect", "heapq")
HELDOUT = ("posixpath", "string", "calendar", "statistics", "copy", "pprint", "difflib", "tabnanny")
CHINESE = "羊驼走过高原的草地。你好，世界。山上的风唱着歌，草地上有许多羊驼。" * 8


def documents(names: tuple[str, ...]) -> list[dict[str, str]]:
    folder = Path(ast.__file__).parent
    rows = [{"text": (folder / f"{name}.py").read_text()[:12_000], "source": name, "kind": "source"} for name in names]
    return [*rows, {"text": CHINESE + names[0], "source": f"{names[0]}.zh", "kind": "text"}]


def functions(names: tuple[str, ...], split: str) -> list[dict[str, object]]:
    found = []
    for name in names:
        tree = ast.parse((Path(ast.__file__).parent / f"{name}.py").read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and (doc := ast.get_docstring(node)):
                found.append({
                    "module": name, "qualname": node.name, "name": node.name, "signature": f"({ast.unparse(node.args)})",
                    "summary": doc.split("\n")[0], "doc": doc, "args": [], "returns": None, "kind": "function", "split": split,
                })  # fmt: skip
    return found


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    for split, names in (("train", TRAIN), ("heldout", HELDOUT)):
        pq.write_table(pa.Table.from_pylist(documents(names)), folder / f"{split}.parquet")
    lines = [json.dumps(row) for row in functions(TRAIN, "train") + functions(HELDOUT, "heldout")]
    (folder / "functions.jsonl").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[..., Path]) -> Path:
    texts = [row["text"] for row in documents(TRAIN)]
    return tiny_model(
        tmp_path_factory.mktemp("model"), texts, 600, max_position_embeddings=128, tie_word_embeddings=True
    )


@pytest.fixture(scope="session")
def engine(model_folder: Path) -> Engine:
    return Engine.load(model_folder, device="cpu")
