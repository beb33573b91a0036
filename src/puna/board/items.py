"""Items for the page of two models: the questions of a task once, each model's answers beside them, in scripts of bounded size.

Comes in: the measurements in the table. Goes out: `items/TASK/q<k>.js` and `items/TASK/MODEL.js`. Must never happen: a file for every pair
(60 models make 1,770), a text without a bound, or an answer beside another item's question.

Pages opened from a disk may not read JSON, but may load scripts: so each file puts one value into `PUNA_ITEMS`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from puna.board.data import Board
from puna.board.writing import Folder, script_json
from puna.judge.measured import Item, Measurement

CHUNK = 50  # questions in one file
MOST = 20_000  # items of a task; MMLU has 14,042
_TEXT = 6_000  # characters of a question, of the prompt's own part, of an answer
_HEAD = 24_000  # of the examples before it
_CHOICE, _CHOICES = 1_000, 40
_BUDGET = 24 << 20  # characters of examples for one task, and of prompts of a model's own
_HOME = "(window.PUNA_ITEMS = window.PUNA_ITEMS || {})"


@dataclass
class Kept:
    """What of a task's items stands on the board."""

    chunk: int = CHUNK
    chunks: int = 0
    n: int = 0
    head_note: str = ""
    models: set[int] = field(default_factory=set)  # whose answers are there
    example: Item | None = None  # the first one, for the task's page


class Items:
    """All tasks' items, as results are read one after the other."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._writers: dict[int, _Writer] = {}

    def add(self, board: Board, model: int, task: int, measured: Measurement) -> None:
        """Write one model's answers on one task, and the questions that no model was asked before."""
        if measured.items:
            writer = self._writers.setdefault(task, _Writer(self._folder, board.tasks[task].slug))
            writer.add(model, board.models[model].slug, measured)

    def finish(self, board: Board) -> list[Kept | None]:
        """Write what waits; [task] what was kept, None where no item is known."""
        return [self._writers[t].finish() if t in self._writers else None for t in range(len(board.tasks))]


class _Writer:
    """The items of one task. The first model's items are the order; what only later ones have comes after."""

    def __init__(self, folder: Folder, task: str) -> None:
        self.folder, self.task, self.kept = folder, task, Kept()
        self.places: dict[tuple[str, str], int] = {}
        self.prompts: list[int] = []  # a mark of each item's prompt, to see where a model's own differs
        self.waiting: list[dict[str, Any]] = []
        self.heads: dict[str, int] = {}
        self.spent = 0

    def add(self, model: int, slug: str, measured: Measurement) -> None:
        """A model's answers, and the questions that nobody was asked before."""
        own: dict[int, Item] = {}
        self.kept.example = self.kept.example or measured.items[0]
        for item in measured.items:
            place = self.places.get((item.subtask, item.id))
            if place is None:
                if len(self.places) >= MOST:
                    self.kept.head_note = f"only the first {MOST:,} items are shown"
                    continue
                place = len(self.places)
                self.places[item.subtask, item.id] = place
                self.prompts.append(hash(item.prompt))
                self._question(item)
            own[place] = item
        self._save(f"{self.task}/{slug}", answers(own, len(self.places), self._own_prompts(own)))
        self.kept.models.add(model)

    def _own_prompts(self, own: Mapping[int, Item]) -> dict[int, str]:
        found, spent = {}, 0
        for place, item in own.items():
            if hash(item.prompt) != self.prompts[place]:
                spent += min(len(item.prompt), _HEAD)
                if spent > _BUDGET:
                    break
                found[place] = _short(item.prompt, _HEAD)
        return found

    def _question(self, item: Item) -> None:
        head, rest = split_prompt(item)
        number = None
        if head:
            number = self.heads.get(head)
            if number is None:
                self.spent += min(len(head), _HEAD)
                if self.spent <= _BUDGET:
                    number = self.heads[head] = len(self.heads)
                else:
                    self.kept.head_note = (
                        "the examples before the question are left out of this board for their size: the store has them"
                    )
        self.waiting.append(
            {
                "id": item.id, "sub": item.subtask, "cluster": item.cluster, "q": _short(item.question, _TEXT), "head": number,
                "prompt": _short(rest, _TEXT), "choices": [_short(choice, _CHOICE) for choice in item.choices[:_CHOICES]],
                "target": [_short(target, _CHOICE) if isinstance(target, str) else target for target in item.target[:_CHOICES]],
            }
        )  # fmt: skip
        if len(self.waiting) == CHUNK:
            self._flush()

    def _flush(self) -> None:
        heads = [_short(head, _HEAD) for head in self.heads]
        self._save(f"{self.task}/q{self.kept.chunks}", {"heads": heads, "items": self.waiting})
        self.kept.chunks += 1
        self.waiting, self.heads = [], {}

    def _save(self, key: str, value: Any) -> None:
        self.folder.text(f"items/{key}.js", f"{_HOME}[{script_json(key)}] = {script_json(value)};\n")

    def finish(self) -> Kept:
        """Write what waits."""
        if self.waiting:
            self._flush()
        self.kept.n = len(self.places)
        return self.kept


def answers(own: Mapping[int, Item], count: int, prompts: Mapping[int, str]) -> dict[str, Any]:
    """A model's answers in the order of the questions [count]; null where it was not asked."""
    items: Sequence[Item | None] = [own.get(place) for place in range(count)]
    return {
        "scores": [None if item is None else _figures(item.score) for item in items],
        "answers": [None if item is None else _answer(item.answer) for item in items],
        "ll": [None if item is None or not item.loglikelihoods else [_figures(value) for value in item.loglikelihoods[:_CHOICES]] for item in items],
        "asked": "".join("0" if item is None else "1" for item in items),
        "cut": {place: item.truncated for place, item in own.items() if item.truncated},
        "tie": [place for place, item in sorted(own.items()) if item.tie],
        "dirty": {place: _figures(item.dirty) for place, item in own.items() if item.dirty},
        "prompts": prompts,
    }  # fmt: skip


def split_prompt(item: Item) -> tuple[str, str]:
    """(the examples before the question, the rest): cut at the last blank line before the item's own text; "" where none is found."""
    start = item.prompt.rfind(item.question[:80]) if item.question else -1
    cut = item.prompt.rfind("\n\n", 0, start if start >= 0 else len(item.prompt.rstrip()))
    return ("", item.prompt) if cut < 0 else (item.prompt[: cut + 2], item.prompt[cut + 2 :])


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most // 2]} […] {text[-(most // 2) :]}"


def _figures(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(f"{value:.7g}")


def _answer(value: int | str | None) -> int | str | None:
    return _short(value, _TEXT) if isinstance(value, str) else value
