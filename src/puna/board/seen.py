"""What is known of the questions that a model had read before it was asked: its own text, its likelihoods.

Comes in: a result's contamination report, which may be a stranger's. Goes out: sentences, passages and rows for a page. Must never
happen: a report of an unknown form that breaks the page, or text of a stranger's taken for ours.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from puna import words

OWN_TEXT, LIKELIHOOD = "own_text", "likelihood"
_SHOWN = 20  # passages on a page; the result itself names more
_LONGEST = 600  # characters of a passage, and of what stands around it


@dataclass(frozen=True)
class Passage:
    """One place of the training text that holds an item."""

    item: str
    share: float
    document: str  # where it stands, and in how many documents besides
    before: str
    text: str
    after: str


@dataclass(frozen=True)
class Seen:
    """What stands on the page of a result."""

    says: tuple[str, ...] = ()
    passages: tuple[Passage, ...] = ()
    more: int = 0  # found items that are not shown
    rows: tuple[tuple[str, str], ...] = ()  # other methods, as they name things

    def __bool__(self) -> bool:
        return bool(self.says or self.passages or self.rows)


def seen(contamination: Mapping[str, Any]) -> Seen:
    """A result's report for people; empty where it holds none."""
    own = contamination.get(OWN_TEXT)
    own = own if isinstance(own, dict) else {}
    says = [_text(own.get("says")), *_texts(own.get("inherited")), *_texts(own.get("missing"))]
    rest = {key: value for key, value in contamination.items() if key != OWN_TEXT}
    rows = flat(rest)
    found = [one for one in _list(own.get("found")) if isinstance(one, dict)]
    passages = [passage for one in found[:_SHOWN] if (passage := _passage(one)) is not None]
    lost = own.get("found_not_named")
    more = len(found) - len(passages) + (lost if isinstance(lost, int) and lost > 0 else 0)
    return Seen(tuple(line for line in says if line), tuple(passages), more if found else 0, tuple(rows))


def _passage(found: Mapping[str, Any]) -> Passage | None:
    places = [place for place in _list(found.get("places")) if isinstance(place, dict)]
    share = found.get("share")
    if not places or not isinstance(share, int | float):
        return None
    place = places[0]
    name = ", ".join(part for part in (_text(place.get(key)) for key in ("corpus", "source", "document")) if part)
    others = found.get("documents")
    if isinstance(others, int) and others > 1:
        name += f"; {words.counted(others, 'document')} in all"
    before, text, after = (_text(place.get(key))[:_LONGEST] for key in ("before", "passage", "after"))
    return Passage(_text(found.get("id")), float(share), name, before, text, after)


def flat(value: Any, key: str = "", depth: int = 0) -> list[tuple[str, str]]:
    """Any JSON as rows of (name, value)."""
    if isinstance(value, dict) and depth < 4:
        rows: list[tuple[str, str]] = []
        for name, inner in list(value.items())[:60]:
            rows += flat(inner, f"{key}, {words.label(str(name))}" if key else words.label(str(name)), depth + 1)
        return rows[:200]
    if isinstance(value, list) and value and all(isinstance(one, dict) for one in value):
        return [row for number, one in enumerate(value[:20], 1) for row in flat(one, f"{key} {number}", depth + 1)]
    return [(words.brief(key, 80), words.plain(value))] if key else []


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _texts(value: Any) -> list[str]:
    return [_text(one) for one in _list(value)]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
