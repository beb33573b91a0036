"""What all foreign forms share: reading with a bound, mistakes collected, units by what a file states, models and sizes.

Comes in: values of a stranger's file. Goes out: checked numbers and facts. Must never happen: a share guessed from a percentage, or
one mistake told where there are five.
"""

import json
import math
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from puna.errors import PunaError
from puna.judge.measured import Measurement, ModelFacts
from puna.judge.store.known import Known
from puna.judge.store.samples import strict_json
from puna.reading import read_text

MAX_FILE = 64 << 20
MAX_ROWS = 100_000
MAX_NAME = 500  # letters of a model's or a task's name
MOST_TOLD = 20
SHARE, PERCENT, POINTS = "share", "percent", "points"
UNITS = {
    **dict.fromkeys((SHARE, "proportion", "fraction", "ratio"), SHARE),
    **dict.fromkeys((PERCENT, "percentage", "%", "pct"), PERCENT),
    **dict.fromkeys((POINTS, "score", "elo"), POINTS),
}


class Mistakes:
    """The mistakes of one file, told together."""

    def __init__(self, path: Path) -> None:
        self.path, self.found = path, list[str]()

    def add(self, what: str) -> None:
        """Remember a mistake."""
        self.found.append(what)

    def check(self) -> None:
        """Raise `PunaError` with all mistakes, if there are any."""
        if self.found:
            rest = f"; and {len(self.found) - MOST_TOLD} more" if len(self.found) > MOST_TOLD else ""
            count = f"{len(self.found)} mistakes: " if len(self.found) > 1 else ""
            raise PunaError(count + "; ".join(self.found[:MOST_TOLD]) + rest, where=str(self.path))


def read_value(path: Path) -> Any:
    """The value of a JSON file; NaN and infinity in it come as None, because lm_eval writes them. Raises `PunaError`."""
    text = read_text(path, MAX_FILE)
    try:
        value = json.loads(text, parse_constant=lambda name: None)
        json.dumps(value, ensure_ascii=False).encode()  # half a letter is refused here
        return value
    except (ValueError, RecursionError) as error:
        raise PunaError(f"not JSON ({str(error)[:80]})", where=str(path)) from None


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON lines file. Raises `PunaError` at the first bad line."""
    rows = []
    for number, line in enumerate(read_text(path, 16 * MAX_FILE).split("\n"), 1):
        if not line.strip():
            continue
        where = f"{path} line {number}"
        if number > 20 * MAX_ROWS:
            raise PunaError("too many lines", where=where)
        try:
            value = strict_json(line)
        except (ValueError, RecursionError) as error:
            raise PunaError(f"not JSON ({str(error)[:80]})", where=where) from None
        if not isinstance(value, dict):
            raise PunaError("not a JSON object", where=where)
        rows.append(value)
    return rows


def number_of(value: Any) -> float | None:
    """A finite number, or None where it is none (also for true and false)."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        found = float(value)
    except OverflowError:
        return None
    return found if math.isfinite(found) else None


def count_of(value: Any) -> int | None:
    """A positive whole number, or None."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 53 else None


def share_of(value: float | str) -> float:
    """A percentage as a share, by decimal arithmetic: 64.59 becomes 0.6459 and not 0.6459000000000001."""
    try:
        return float(Decimal(str(value)) / 100)
    except InvalidOperation:
        raise ValueError(f"{str(value)[:40]!r} is no number") from None


def in_unit(value: float, unit: str) -> float:
    """A score in a stated unit as the store keeps it. Raises `ValueError` where it lies outside the unit."""
    found = share_of(value) if unit == PERCENT else value
    if unit != POINTS and not 0 <= found <= 1:
        raise ValueError(f"{value:g} is no {unit}")
    return found


def model_named(name: str, **more: Any) -> ModelFacts:
    """A published model: what stands before the only slash of its name is its developer."""
    developer, slash, rest = name.partition("/")
    known = {"developer": developer} if slash and developer and rest and "/" not in rest else {}
    return ModelFacts.model_validate({"name": name, "kind": "published", **known, **more})


def size_of(test: Known | None, stated: int | None) -> tuple[int | None, str]:
    """How many items a score is a mean over, and how that is known."""
    if stated is not None:
        return stated, "the file"
    if test is not None:
        return test.n, test.source
    return None, ""


def by_name(measurements: list[Measurement]) -> list[Measurement]:
    """In an order that does not depend on the file's."""
    return sorted(measurements, key=lambda one: (one.model.name, one.task.name, one.task.metric))
