"""The held-out side of a corpus: which units, and the writing of both sides.

Comes in: filtered documents. Goes out: one table to train on (still to be cleared of near-duplicates), one to judge with.
Must never happen: a word judged twice. A module's docstrings stand in its source already, so of its documentation page only
what the source does not have (what is written in C) is judged.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from puna.corpus import near
from puna.corpus.clean import cut_at_paragraph
from puna.corpus.documents import WORK_SCHEMA, TableWriter, read_rows
from puna.corpus.split import choose, families, sample_of
from puna.corpus.steps import Step
from puna.recipe.schema import PYTHON_SOURCE, Corpus

_NAMED = 300  # held-out units that corpus.json names


@dataclass
class Holdout:
    """What was held out: the table's path, the units' names, the report for corpus.json, and lines for the user."""

    path: Path
    units: set[str] = field(default_factory=set)
    report: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    by_document: set[str] = field(default_factory=set)  # labels of sources whose split unit is the document


@dataclass
class _Unit:
    size: int = 0
    shingles: list[near.Shingles] = field(default_factory=list)


def hold_out(
    kept: Path, parted: Path, config: Corpus, labels: Mapping[str, str], pinned: Collection[str], steps: list[Step]
) -> Holdout:
    """Choose what is held out of `kept`; write the training side to `parted`, the held-out side beside it.

    `labels` gives each split unit's source; every source gives about `config.heldout_share` of its bytes.
    """
    holdout = Holdout(parted.with_name("heldout.parquet"))
    units, rows = _survey(kept, labels, steps[-1].bytes_out)
    chosen: set[int] = set()  # orders of rows that are held out whole
    cuts: dict[int, int] = {}  # order of a row -> how many of its last characters are held out, about
    for label in sorted(rows):
        _choose_for(label, units[label], rows[label], config, pinned, holdout, chosen, cuts)
    step = Step("hold out")
    once = Step("held-out text judged once")
    steps += [step, once]
    held: list[dict[str, Any]] = []
    common: list[str] = []
    with TableWriter(parted, WORK_SCHEMA) as train:
        order = 0
        for row in read_rows(kept):
            step.enter(len(row["text"].encode()))
            if labels[row["source"]] in holdout.by_document:
                row["source"] = row["document"]
            for text, goes in _parts(row, chosen, cuts):
                piece = {**row, "text": text, "chars": len(text), "order": order}
                order += 1
                if goes:
                    step.removed["held out"] += 1
                    held.append(piece)
                else:
                    step.leave(len(text.encode()))
                    train.add(piece)
                    if row["source"] in pinned:
                        common.append(text)
    _write_heldout(held, common, config, holdout.path, once)
    return holdout


@dataclass(frozen=True, slots=True)
class _Row:
    order: int
    source: str
    document: str
    size: int
    chars: int


_Levels = dict[str, dict[str, _Unit]]  # "source" or "document" -> name -> unit


def _survey(kept: Path, labels: Mapping[str, str], total: int) -> tuple[dict[str, _Levels], dict[str, list[_Row]]]:
    """Of each source: its rows without their text, and its units on both levels, "source" (file) and "document"."""
    units: dict[str, _Levels] = {}
    rows: dict[str, list[_Row]] = {}
    for row in read_rows(kept):
        label = labels[row["source"]]
        size = len(row["text"].encode())
        rows.setdefault(label, []).append(_Row(row["order"], row["source"], row["document"], size, row["chars"]))
        levels = units.setdefault(label, {"source": {}, "document": {}})
        found = sample_of(near.shingles(row["text"]), total)
        for level in levels:
            unit = levels[level].setdefault(row[level], _Unit())
            unit.size += size
            unit.shingles.append(found)
    return units, rows


def _choose_for(
    label: str,
    levels: _Levels,
    rows: list[_Row],
    config: Corpus,
    pinned: Collection[str],
    holdout: Holdout,
    chosen: set[int],
    cuts: dict[int, int],
) -> None:
    words = {"source": "module" if label == PYTHON_SOURCE else "file", "document": "document"}
    for level, units in levels.items():
        names = list(units)
        if len(names) < 2:
            continue
        sizes = {name: unit.size for name, unit in units.items()}
        joined = [np.concatenate(units[name].shingles) for name in names]
        family = families(names, joined, config.near_duplicate)
        taken = choose(sizes, config.heldout_share, pinned=pinned, family=family)
        if not taken and family:
            # One family holds nearly everything (forms, statutes): removal of near-duplicates then does the parting.
            family = {}
            taken = choose(sizes, config.heldout_share, pinned=pinned)
        if taken:
            orders = [row.order for row in rows if getattr(row, level) in taken]
            chosen.update(orders)
            holdout.units.update(taken)
            if level == "document":
                holdout.by_document.add(label)
            holdout.report.append(
                {
                    "source": label,
                    "by": words[level],
                    "units": len(names),
                    "heldout_units": len(taken),
                    "families": len(set(family.values())),
                    "units_in_families": len(family),
                    "bytes_heldout": sum(sizes[name] for name in taken),
                    "heldout": sorted(taken)[:_NAMED],
                }
            )
            return
    _cut_tails(label, rows, config.heldout_share, holdout, chosen, cuts)


def _cut_tails(
    label: str, rows: list[_Row], share: float, holdout: Holdout, chosen: set[int], cuts: dict[int, int]
) -> None:
    """Hold out the end of each document: whole rows of it, and in `cuts` how many last characters of one row."""
    documents: dict[str, list[_Row]] = {}
    for row in rows:
        documents.setdefault(row.document, []).append(row)
    for pieces in documents.values():
        wish = share * sum(piece.chars for piece in pieces)
        for piece in reversed(pieces):
            if piece.chars <= wish:
                chosen.add(piece.order)
                wish -= piece.chars
            else:
                if wish >= 1:
                    cuts[piece.order] = round(wish)
                break
    total = sum(piece.size for piece in rows)
    holdout.report.append({"source": label, "by": "tail", "units": len(documents), "heldout_units": len(documents)})
    holdout.notes.append(
        f"{label}: too few documents to hold whole ones out; the last {share:.0%} of each is held out, about "
        f"{share * total:,.0f} of {total:,} bytes, so the score says how the model continues these texts, not how it reads new ones"
    )


def _parts(row: dict[str, Any], chosen: set[int], cuts: dict[int, int]) -> list[tuple[str, bool]]:
    if row["order"] in chosen:
        return [(row["text"], True)]
    if row["order"] not in cuts:
        return [(row["text"], False)]
    text = row["text"]
    at = cut_at_paragraph(text, cuts[row["order"]] / len(text))
    parts = [(text[:at].rstrip("\n"), False), (text[at:].strip("\n"), True)]
    return [part for part in parts if part[0].strip()]


def _write_heldout(held: list[dict[str, Any]], common: list[str], config: Corpus, path: Path, step: Step) -> None:
    # `common` is what is always trained on (built-ins, language reference): where a held-out module quotes it, the
    # quotation is not judged, because it cannot be taken out of the other side.
    sources = [row["text"] for row in held if row["kind"] == "source"]
    indices = {"documented in its source": near.index_of(sources), "quoted from the built-ins": near.index_of(common)}
    with TableWriter(path, WORK_SCHEMA) as writer:
        for row in held:
            step.enter(len(row["text"].encode()))
            for reason, index in indices.items():
                if row["kind"] == "source" and reason == "documented in its source":
                    continue
                change = near.take_out(index, row["text"], config.near_duplicate, row["kind"] == "source")
                if change.whole or change.passages:
                    step.remove(reason, row["source"], change.sample, count=max(1, change.passages))
                row["text"] = change.text
            row["chars"] = len(row["text"])
            if row["chars"] < config.min_chars:
                step.removed[f"under {config.min_chars} characters"] += 1
                continue
            step.leave(len(row["text"].encode()))
            writer.add(row)
