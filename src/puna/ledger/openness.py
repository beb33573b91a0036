"""How open a release is by two public checklists, item by item: what is there, and what is not.

Comes in: a release's file names and evidence. Goes out: a table as data and as Markdown. Must never happen: an item ticked for which there is no
file, or a class claimed with one missing.
"""

import tomllib
from collections.abc import Sequence
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

from puna.ledger.evidence import Evidence, Part

_TABLE = Path(__file__).with_name("openness.toml")
_OPEN = frozenset(["apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "psf-2.0", "gpl-3.0", "agpl-3.0", "mpl-2.0", "isc", "zlib", "unlicense", "cc0-1.0",
                   "cc-by-4.0", "cc-by-sa-4.0"])  # fmt: skip
CLASSES = {3: "Class III, open model", 2: "Class II, open tooling", 1: "Class I, open science"}


class Item(Part):
    """One item: `found`: the files that are it; `note`: what else to know."""

    checklist: str
    item: str
    found: tuple[str, ...]
    met: bool
    mof_class: int | None = None
    note: str = ""


class Openness(Part):
    """Both checklists. `mof_class`: the best class whose items, and those of the classes below it, are all there; None: not even III."""

    items: tuple[Item, ...]
    osaid_met: bool
    mof_class: int | None
    missing: tuple[str, ...]


@cache
def _table() -> dict[str, Any]:
    return tomllib.loads(_TABLE.read_text(encoding="utf-8"))


def openness(evidence: Evidence, files: Sequence[str]) -> Openness:
    """Hold the release's `files` (paths from its folder) against both lists."""
    items = [_item("OSAID 1.0", one, evidence, files) for one in _table()["osaid"]] + [
        _item("MOF", one, evidence, files) for one in _table()["mof"]
    ]
    mof, reached = [one for one in items if one.checklist == "MOF"], None
    for number in (3, 2, 1):
        if not all(one.met for one in mof if one.mof_class is not None and one.mof_class >= number):
            break
        reached = number
    return Openness(
        items=tuple(items), osaid_met=all(one.met for one in items if one.checklist != "MOF"), mof_class=reached,
        missing=tuple(f"{one.checklist}: {one.item}" for one in items if not one.met),
    )  # fmt: skip


def openness_markdown(found: Openness) -> str:
    """The table for people."""
    reached = CLASSES[found.mof_class] if found.mof_class else "not even Class III: see what is missing"
    lines = [
        "# How open this release is", "",
        "Written from the files that are there, not declared by hand. Terms of a text's own licence are not judged here.", "",
        f"- Open Source AI Definition 1.0: {'every item is there' if found.osaid_met else 'not every item is there'}.",
        f"- Model Openness Framework: {reached}.", "", "| checklist | item | class | there | files, or what to know |", "|---|---|---|---|---|",
    ]  # fmt: skip
    for one in found.items:
        shown = ", ".join(f"`{name}`" for name in one.found[:4]) or "missing"
        lines.append(
            f"| {one.checklist} | {one.item} | {'I' * one.mof_class if one.mof_class else ''} | {'yes' if one.met else 'no'} | {shown}{f'; {one.note}' if one.note else ''} |"
        )
    return "\n".join(lines) + "\n"


def _item(checklist: str, one: dict[str, Any], evidence: Evidence, files: Sequence[str]) -> Item:
    patterns: list[str] = one.get("files", [])
    found = [name for pattern in patterns for name in files if fnmatchcase(name, pattern)]
    met = (
        all(any(fnmatchcase(name, pattern) for name in files) for pattern in patterns)
        if checklist != "MOF"
        else bool(found)
    )
    note = one.get("note", "")
    if "open_licence" in one.get("facts", []):
        licences = [
            evidence.licence,
            *(source.licence for source in evidence.sources),
            *(parent.licence for parent in evidence.ancestors),
        ]
        closed = [licence or "none stated" for licence in licences if (licence or "").lower() not in _OPEN]
        met, note = (
            not closed,
            f"not open, or not known: {', '.join(dict.fromkeys(closed))}" if closed else f"{evidence.licence}",
        )
    return Item(
        checklist=checklist,
        item=one["item"],
        found=tuple(dict.fromkeys(found)),
        met=met,
        mof_class=one.get("class"),
        note=note,
    )
