"""functions.jsonl: the documented functions of the default corpus, each on the side of its module.

Comes in: the functions and the held-out modules. Goes out: JSON lines. Must never happen: a function to train on whose
documentation is that of a held-out one; the quiz would ask for what was learnt by heart.
"""

from collections.abc import Collection
from pathlib import Path
from typing import Any

from puna.corpus import near
from puna.corpus.python import PINNED, PythonCorpus
from puna.corpus.steps import Step
from puna.files import atomic_file, canonical_json

_LIKE_HELDOUT = "training function documented like a held-out one"
_EXACT_CHARS = 20  # shorter docstrings ("Close it.") say the same of many things by chance


def _plain(doc: str) -> str:
    return " ".join(doc.split()).lower()


class _Documented:
    """The docstrings of some functions, to be asked whether one is among them."""

    def __init__(self, functions: list[dict[str, Any]], threshold: float) -> None:
        self._threshold = threshold
        self._exact = {_plain(item["doc"]) for item in functions} | {_plain(item["summary"]) for item in functions}
        self._index = near.index_of(item["doc"] for item in functions)

    def has(self, item: dict[str, Any]) -> bool:
        plain = [_plain(item["doc"]), _plain(item["summary"])]
        if any(len(text) >= _EXACT_CHARS and text in self._exact for text in plain):
            return True
        return near.containment(self._index, item["doc"]) >= self._threshold


def write(corpus: PythonCorpus, heldout: Collection[str], threshold: float, path: Path) -> Step:
    """Give each function its split and write those that stay, in order; the step says what was taken out.

    A held-out function documented like a built-in one leaves the held-out side, because built-ins are always trained on;
    any other pair of alike ones leaves the training side.
    """
    step = Step("functions")
    sides: dict[str, list[dict[str, Any]]] = {"pinned": [], "train": [], "heldout": []}
    for item in corpus.functions:
        step.enter(len(item["doc"].encode()))
        unit = corpus.units[item["module"]]
        sides["pinned" if unit in PINNED else "heldout" if unit in heldout else "train"].append(item)
    pinned = _Documented(sides["pinned"], threshold)
    held = [
        item
        for item in sides["heldout"]
        if not _drop(item, pinned, step, "held-out function documented like a built-in")
    ]
    judged = _Documented(held, threshold)
    names = {id(item) for item in held}
    dropped = {id(item) for item in sides["heldout"]} - names
    with atomic_file(path) as stream:
        for item in corpus.functions:
            if id(item) in dropped:
                continue
            if id(item) in names:
                item = {**item, "split": "heldout"}
            elif corpus.units[item["module"]] not in PINNED and _drop(item, judged, step, _LIKE_HELDOUT):
                continue
            step.leave(len(item["doc"].encode()))
            stream.write(canonical_json(item) + b"\n")
    return step


def _drop(item: dict[str, Any], others: _Documented, step: Step, reason: str) -> bool:
    if not others.has(item):
        return False
    step.remove(reason, item["module"], f"{item['qualname']}: {item['summary']}")
    return True
