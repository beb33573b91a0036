"""The held-out side of a corpus: which units, and the writing of both sides.

Comes in: the shelf "finished". Goes out: what to judge by as one table, what to train on as the shelf "train". Must never happen:
a word judged twice. A module's docstrings stand in its source already, so of its documentation page only what the source does
not have (what is written in C) is judged.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from puna.corpus import near
from puna.corpus.clean import cut_at_paragraph
from puna.corpus.cleaning import DOCUMENTS
from puna.corpus.context import BATCH, Setting
from puna.corpus.documents import FINAL_SCHEMA, WORK_SCHEMA, TableWriter, batched, read_batches
from puna.corpus.finishing import SHELF as FINISHED
from puna.corpus.split import Candidates, choose, families, sample_of
from puna.corpus.steps import Step
from puna.recipe.corpus import PYTHON_SOURCE

SHELF = "train"
STEPS = ("hold out", "near-duplicates of held-out text")
LEVELS = {"source": "file", "document": "document"}  # the units, the larger first, and what a user calls them
_NAMED = 300  # held-out units that corpus.json names
_MOST_HELDOUT = 16 << 20  # bytes, of each source: more text judges no better, and takes longer
Row = dict[str, Any]


@dataclass
class Plan:
    """What is held out: of each source its level and units, or the last characters of its documents; and what to say of it."""

    taken: dict[str, tuple[str, frozenset[str]]] = field(default_factory=dict)
    cuts: dict[str, int] = field(default_factory=dict)  # name of a row -> how many of its last characters, about
    report: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def units(self) -> set[str]:
        """All held-out units."""
        return {name for _, names in self.taken.values() for name in names}

    def parts(self, row: Row) -> tuple[str, str]:
        """What of a row is trained on, and what is held out."""
        level, names = self.taken.get(row["label"], ("document", frozenset[str]()))
        text, cut = row["text"], self.cuts.get(row["id"], 0)
        if row[level] in names or cut >= len(text):
            return "", text
        if not cut:
            return text, ""
        at = cut_at_paragraph(text, cut / len(text))
        return text[:at].rstrip("\n"), text[at:].strip("\n")


class _Tables:
    """The finished parts' tables: narrow columns first, texts only of what is asked for."""

    def __init__(self, setting: Setting) -> None:
        shelf = setting.shelf(FINISHED)
        self.files = [shelf.file(part, DOCUMENTS) for part in shelf.names()]

    def narrow(self) -> Iterator[pa.Table]:
        """id, label, source, document, chars and size (bytes) of each part's rows."""
        for path in self.files:
            with pq.ParquetFile(path) as file:
                for group in range(file.metadata.num_row_groups):
                    table = file.read_row_group(group, columns=["id", "label", "source", "document", "chars", "text"])
                    sizes = pc.binary_length(table.column("text")).cast(pa.int64())
                    yield table.drop_columns(["text"]).append_column("size", sizes)

    def rows(self, wanted: Callable[[Row], bool]) -> Iterator[Row]:
        """Whole rows of those that are wanted, asked by their narrow columns; in reading order."""
        for path in self.files:
            with pq.ParquetFile(path) as file:
                for group in range(file.metadata.num_row_groups):
                    keys = file.read_row_group(group, columns=["id", "label", "source", "document"]).to_pylist()
                    places = [place for place, row in enumerate(keys) if wanted(row)]
                    if places:
                        yield from pc.take(file.read_row_group(group), pa.array(places)).to_pylist()


def plan_holdout(setting: Setting, pinned: Collection[str]) -> Plan:
    """Choose what is held out: every source gives about heldout_share of its bytes, none of the `pinned` units."""
    tables, plan = _Tables(setting), Plan()
    candidates: dict[str, dict[str, Candidates]] = {}
    for table in tables.narrow():
        for label, source, document, size in zip(
            *(table.column(n).to_pylist() for n in ("label", "source", "document", "size")), strict=True
        ):
            levels = candidates.setdefault(label, {level: Candidates() for level in LEVELS})
            levels["source"].add(source, size)
            levels["document"].add(document, size)
    total = sum(levels["source"].total for levels in candidates.values())
    for label in sorted(candidates):
        if not any(
            _take(setting, tables, label, level, found, pinned, total, plan)
            for level, found in candidates[label].items()
        ):
            _cut_tails(setting, tables, label, plan)
    return plan


def _take(
    setting: Setting,
    tables: _Tables,
    label: str,
    level: str,
    found: Candidates,
    pinned: Collection[str],
    total: int,
    plan: Plan,
) -> bool:
    """Whether whole units of this level could be held out."""
    config = setting.config
    if found.count < 2:
        return False
    names = list(found.sizes)
    wanted = set(names)
    shingles: dict[str, list[near.Shingles]] = {name: [] for name in names}
    own = tables.rows(lambda row: row["label"] == label and row[level] in wanted)
    for rows in batched(own, BATCH, lambda row: len(row["text"])):
        hashes, offsets = near.shingles_of([row["text"] for row in rows])
        for place, row in enumerate(rows):
            shingles[row[level]].append(sample_of(hashes[offsets[place] : offsets[place + 1]], total))
    joined = [np.concatenate([np.empty(0, np.uint64), *shingles[name]]) for name in names]
    family = families(names, joined, config.near_duplicate)
    share = min(config.heldout_share, _MOST_HELDOUT / max(1, found.total))
    taken = choose(found.sizes, share, pinned=pinned, family=family, total=found.total)
    if not taken and family:
        # One family holds nearly everything (forms, statutes): removal of near-duplicates then does the parting.
        family = {}
        taken = choose(found.sizes, share, pinned=pinned, total=found.total)
    if not taken:
        return False
    plan.taken[label] = (level, frozenset(taken))
    plan.report.append({
        "source": label, "by": "module" if label == PYTHON_SOURCE and level == "source" else LEVELS[level],
        "units": found.count, "heldout_units": len(taken), "families": len(set(family.values())),
        "units_in_families": len(family), "bytes_heldout": sum(found.sizes[name] for name in taken),
        "heldout": sorted(taken)[:_NAMED],
    })  # fmt: skip
    return True


def _cut_tails(setting: Setting, tables: _Tables, label: str, plan: Plan) -> None:
    """Hold out the end of each document: whole rows of it, and how many last characters of one row."""
    share, total = setting.config.heldout_share, 0
    documents: dict[str, list[tuple[str, int]]] = {}
    for table in tables.narrow():
        own = table.filter(pc.equal(table.column("label"), label))
        total += sum(own.column("size").to_pylist())
        for name, document, chars in zip(
            *(own.column(n).to_pylist() for n in ("id", "document", "chars")), strict=True
        ):
            documents.setdefault(document, []).append((name, chars))
    for pieces in documents.values():
        wish = share * sum(chars for _, chars in pieces)
        for name, chars in reversed(pieces):
            plan.cuts[name] = round(min(wish, chars))
            wish -= chars
            if wish < 1:
                break
    plan.report.append({"source": label, "by": "tail", "units": len(documents), "heldout_units": len(documents)})
    plan.notes.append(
        f"{label}: too few documents to hold whole ones out; the last {share:.0%} of each is held out, about "
        f"{share * total:,.0f} of {total:,} bytes, so the score says how the model continues these texts, not how it reads new ones"
    )


def write_heldout(setting: Setting, plan: Plan, pinned: Collection[str], out: Path) -> tuple[Step, TableWriter]:
    """The table to judge by. `pinned` units (built-ins, language reference) are always trained on: where a held-out module
    quotes them, the quotation is not judged, because it cannot be taken out of the other side."""
    tables, step = _Tables(setting), Step("held-out text judged once")
    held: list[Row] = []
    for row in tables.rows(lambda row: row["id"] in plan.cuts or _is_taken(plan, row)):
        _, text = plan.parts(row)
        if text.strip():
            held.append({**row, "text": text, "chars": len(text)})
    common = [row["text"] for row in tables.rows(lambda row: row["source"] in pinned)] if pinned else []
    sources = [row["text"] for row in held if row["kind"] == "source"]
    indices = {"documented in its source": near.index_of(sources), "quoted from the built-ins": near.index_of(common)}
    with TableWriter(out, FINAL_SCHEMA) as writer:
        for row in held:
            step.enter(len(row["text"].encode()))
            for reason, index in indices.items():
                if not len(index) or (row["kind"] == "source" and reason == "documented in its source"):
                    continue
                change = near.take_out(index, row["text"], setting.config.near_duplicate, row["kind"] == "source")
                if change.whole or change.passages:
                    step.remove(reason, row["source"], change.sample, count=max(1, change.passages))
                row["text"] = change.text
            row["chars"] = len(row["text"])
            if row["chars"] < setting.config.min_chars:
                step.removed[f"under {setting.config.min_chars} characters"] += 1
                continue
            step.leave(len(row["text"].encode()))
            writer.add({**row, "source": _unit(plan, row)})
    return step, writer


def _is_taken(plan: Plan, row: Row) -> bool:
    level, names = plan.taken.get(row["label"], ("document", frozenset[str]()))
    return row[level] in names


def _unit(plan: Plan, row: Row) -> str:
    """What the judge draws as a whole: the unit of the split."""
    by_document = plan.taken.get(row["label"], ("source",))[0] == "document"
    return str(row["document"] if by_document else row["source"])


class Separate:
    """The job of the last pass: what is trained on, without what is held out and what nearly duplicates it."""

    def __init__(self, setting: Setting, plan: Plan, index: Path) -> None:
        self.setting, self.plan, self._index = setting, plan, index

    @cached_property
    def index(self) -> near.Shingles:
        """The shingles of all held-out text; all processes share one file's pages."""
        found: near.Shingles = np.load(self._index, mmap_mode="r", allow_pickle=False)
        return found

    @cached_property
    def filter(self) -> near.Filter:
        """What spares most searches in the index."""
        return near.Filter(self.index)

    def __call__(self, part: str) -> None:
        """Separate one part and put it on the shelf."""
        facts: dict[str, Any] = {"changed": 0}
        out, away = (Step(name) for name in STEPS)
        with self.setting.shelf(SHELF).writing(part, facts) as folder:
            with TableWriter(folder / DOCUMENTS, WORK_SCHEMA) as writer:
                for rows in read_batches(self.setting.shelf(FINISHED).file(part, DOCUMENTS), BATCH):
                    for row in self._without_copies(list(self._without_held(rows, out)), away):
                        row["source"] = _unit(self.plan, row)
                        facts["changed"] += bool(row["changed"])
                        writer.add(row)
            facts |= {"rows": writer.rows, "bytes": writer.bytes, "steps": [out.report(), away.report()]}

    def _without_held(self, rows: list[Row], step: Step) -> Iterator[Row]:
        for row in rows:
            step.enter(len(row["text"].encode()))
            text, held = self.plan.parts(row)
            step.removed["held out"] += bool(held.strip())
            if text.strip():
                if text != row["text"]:
                    row |= {"text": text, "chars": len(text), "changed": True}
                step.leave(len(text.encode()))
                yield row

    def _without_copies(self, rows: list[Row], step: Step) -> Iterator[Row]:
        threshold, least = self.setting.config.near_duplicate, self.setting.config.min_chars
        for row, hits in zip(rows, _hits(self.filter, [row["text"] for row in rows]), strict=True):
            step.enter(len(row["text"].encode()))
            if hits >= near.MIN_SHINGLES:
                change = near.take_out(self.index, row["text"], threshold, row["kind"] == "source")
                if change.whole:
                    step.remove("whole document", row["source"], change.sample)
                    continue
                if change.passages:
                    step.remove("passage of a longer document", row["source"], change.sample, count=change.passages)
                    if len(change.text) < least:
                        step.remove("document too short without its copied passages", row["source"], change.sample)
                        continue
                    row |= {"text": change.text, "chars": len(change.text), "changed": True}
            step.leave(len(row["text"].encode()))
            yield row


def write_index(heldout: Path, index: Path) -> None:
    """The shingles of the table to judge by, for `Separate`."""
    rows = (row for batch in read_batches(heldout, BATCH) for row in batch)
    np.save(index, near.index_of(row["text"] for row in rows), allow_pickle=False)


def _hits(filter_: near.Filter, texts: Sequence[str]) -> list[int]:
    """How many shingles of each text stand in the index."""
    hashes, offsets = near.shingles_of(texts)
    sums = np.concatenate([[0], np.cumsum(filter_.known(hashes))])
    return [int(n) for n in sums[offsets[1:]] - sums[offsets[:-1]]]
