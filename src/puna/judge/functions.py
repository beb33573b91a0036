"""The documented functions of a corpus, as quiz and parse test use them.

Comes in: the corpus folder. Goes out: typed functions of one split. Must never happen: a malformed line passed over.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from puna.errors import PunaError

_LONGEST_LINE = 4 << 20  # bytes


@dataclass(frozen=True)
class Function:
    """One documented function: `qualname` inside `module`, `name` its last part."""

    module: str
    qualname: str
    name: str
    signature: str
    summary: str
    kind: str
    split: str

    @property
    def shown(self) -> str:
        """Its full name as a reader would write it; built-in names go without their module."""
        return self.qualname if self.module in ("builtins", "") else f"{self.module}.{self.qualname}"


def read_functions(corpus: Path) -> list[Function] | None:
    """All functions of both splits, or None where the corpus has no functions.jsonl (it is not Python's).

    Raises `PunaError` that names file and line where a line is not a function.
    """
    path = corpus / "functions.jsonl"
    if not path.exists():
        return None
    functions = []
    with open(path, "rb") as stream:
        number = 0
        while line := stream.readline(_LONGEST_LINE):
            number += 1
            functions.append(_function(line, f"{path}:{number}"))
    return functions


def _function(line: bytes, where: str) -> Function:
    keys = ("module", "qualname", "name", "signature", "summary", "kind", "split")
    try:
        row = json.loads(line)
        values = [row[key] if row[key] is not None or key != "signature" else "" for key in keys]
    except (ValueError, KeyError, TypeError, RecursionError) as problem:
        raise PunaError(f"not a function ({type(problem).__name__}: {problem})", where=where) from None
    if not all(isinstance(value, str) for value in values):
        raise PunaError(f"one of {', '.join(keys)} is not text", where=where)
    return Function(*values)
