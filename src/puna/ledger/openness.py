"""How open a release is by two public checklists, item by item: what is there, and what is not.

Comes in: a release's file names and evidence. Goes out: a table as data and as Markdown. Must never happen: an item ticked for which there is no
file, or a class claimed with one missing.
"""

import re
import tomllib
from collections.abc import Sequence
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

from puna.ledger.evidence import Evidence, Part
from puna.visible import clean

_TABLE = Path(__file__).with_name("openness.toml")
OSAID, MOF = "OSAID 1.0", "MOF"
CLASSES = {3: "Class III, open model", 2: "Class II, open tooling", 1: "Class I, open science"}


class Item(Part):
    """One item. `found`: the files that are it; `met`: whether it is all there; `note`: what is missing of it, or what else to know."""

    checklist: str
    item: str
    asks: str = ""
    found: tuple[str, ...]
    met: bool
    mof_class: int | None = None
    optional: bool = False
    note: str = ""


class Openness(Part):
    """Both checklists. `mof_class`: the best class whose items, and those of the classes below it, are all there under an open licence; None: none.

    `missing`: what is not there, optional items apart; `next_class`: what of it keeps the release from the next class.
    """

    items: tuple[Item, ...]
    osaid_met: bool
    mof_class: int | None
    missing: tuple[str, ...]
    next_class: tuple[str, ...]


@cache
def _table() -> dict[str, Any]:
    return tomllib.loads(_TABLE.read_text(encoding="utf-8"))


def openness(evidence: Evidence, files: Sequence[str]) -> Openness:
    """Hold the release's `files` (paths from its folder) against both lists."""
    items = [
        _item(name, one, evidence, files) for name, key in ((OSAID, "osaid"), (MOF, "mof")) for one in _table()[key]
    ]
    mof, licence = [one for one in items if one.checklist == MOF], _closed(evidence)
    lacks = {
        number: [one.item for one in mof if one.mof_class == number and not one.met and not one.optional]
        for number in CLASSES
    }
    if licence:
        lacks[3].append(f"an open licence ({licence})")
    reached = None
    for number in (3, 2, 1):
        if lacks[number]:
            break
        reached = number
    return Openness(
        items=tuple(items), osaid_met=all(one.met for one in items if one.checklist == OSAID), mof_class=reached,
        missing=tuple(f"{one.checklist}: {one.item}" for one in items if not one.met and not one.optional),
        next_class=tuple(lacks[(reached or 4) - 1]) if reached != 1 else (),
    )  # fmt: skip


def openness_markdown(found: Openness) -> str:
    """The table for people."""
    osaid = [one.item for one in found.items if one.checklist == OSAID and not one.met]
    reached = CLASSES[found.mof_class] if found.mof_class else "no class"
    lacking = f"not met; missing: {', '.join(osaid)}" if osaid else "every item is there"
    wants = (
        f". For {CLASSES[(found.mof_class or 4) - 1]} it lacks: {_cell(', '.join(found.next_class))}"
        if found.next_class
        else ""
    )
    lines = [
        "# How open this release is", "",
        "Written from the files that are there, not declared by hand. An item counts only with the file that is named beside it. Code counts where",
        "the ledger names Puna's published source (Apache-2.0) by its digest; the code itself is not in this folder.", "",
        f"- Open Source AI Definition 1.0: {lacking}.",
        f"- Model Openness Framework: {reached}{wants}.", "",
        "Who made this list is the program that made the release. Neither the Open Source Initiative nor the framework's authors have looked at it.",
    ]  # fmt: skip
    for name in (OSAID, MOF):
        lines += ["", f"## {name}", "", "| item | class | there | files | note |", "|---|---|---|---|---|"]
        for one in found.items:
            if one.checklist == name:
                there = "yes" if one.met else "no, optional" if one.optional else "no"
                shown = ", ".join(f"`{file}`" for file in one.found[:4]) or "none"
                lines.append(
                    f"| {one.item} | {'I' * (one.mof_class or 0)} | {there} | {shown} | {_cell(one.note or one.asks)} |"
                )
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    """A text of strangers in a table's cell: one line that starts nothing."""
    return re.sub(r"([\\`*_{}\[\]<>#|~&$])", r"\\\1", " ".join(clean(text).split()))


def _item(checklist: str, one: dict[str, Any], evidence: Evidence, files: Sequence[str]) -> Item:
    patterns: list[str] = one.get("files", [])
    having = [[name for name in files if fnmatchcase(name, pattern)] for pattern in patterns]
    there = (any if one.get("any") else all)(having) if patterns else True
    lacks = [told for need in one.get("needs", []) if (told := _NEEDS[need](evidence))]
    return Item(
        checklist=checklist, item=one["item"], asks=one.get("asks", ""), found=tuple(dict.fromkeys(name for names in having for name in names)),
        met=bool(there) and not lacks, mof_class=one.get("class"), optional=one.get("optional", False), note="; ".join(lacks) or one.get("note", ""),
    )  # fmt: skip


def is_open(licence: str | None) -> bool:
    """Whether a licence is on the table's list of open ones."""
    return (licence or "").strip().lower() in _table()["open"]


def _closed(evidence: Evidence) -> str:
    """What of the licences is not open; empty where all are."""
    told = [("the release", evidence.licence), *((one.name, one.licence) for one in evidence.parents)]
    return "; ".join(f"{name}: {licence or 'none stated'}" for name, licence in told if not is_open(licence))


def _code(evidence: Evidence) -> str:
    if evidence.code.digest is None:
        return "the ledger does not name the code"
    return "the code that ran differs from its commit, and is published nowhere" if evidence.code.changed else ""


def _own_data(evidence: Evidence) -> str:
    return (
        ""
        if evidence.from_scratch
        else f"what {', '.join(one.name for one in evidence.parents)} was trained on is not described here"
    )


def _samples(evidence: Evidence) -> str:
    return "" if evidence.samples else "the results hold no text of the model's"


_NEEDS = {"code": _code, "own_data": _own_data, "samples": _samples, "open_licence": _closed}
