"""Second pass: what can be said of a document without knowing the others.

Comes in: a raw part. Goes out: the shelf "clean": the part's documents extracted, repaired, identified, measured, filtered and
corrected; its steps, histograms and document keys. Must never happen: a document that leaves without a step that counted it.

The order is Yi's (2024, figure 1) as far as it goes without the other documents: language, metrics, repetition, correction;
before it what makes text of bytes, after it personal data, and the two filters that hold for every document.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from puna.corpus import clean, filters, language, metrics, paragraphs, personal, symbols
from puna.corpus.context import BATCH, Setting, applies
from puna.corpus.correct import correct, load_blocklist
from puna.corpus.documents import WORK_SCHEMA, TableWriter, read_batches
from puna.corpus.extract import main_text
from puna.corpus.histograms import Histograms
from puna.corpus.passages import passages
from puna.corpus.reading import SHELF as RAW
from puna.corpus.reading import pieces_of
from puna.corpus.steps import Step
from puna.corpus.tables import write_keys
from puna.corpus.thresholds import load_thresholds

SHELF = "clean"
DOCUMENTS, KEYS = "documents.parquet", "keys.parquet"
STEPS = ("extract", "repair", "split long documents", "blocked addresses", "language", "metrics", "repetition", "correction",
         "personal data", "length", "symbols")  # fmt: skip
Row = dict[str, Any]


def part_name(piece: str) -> str:
    """The name of a part from its raw piece's: "000003/00001" -> "000003-00001"."""
    return piece.replace("/", "-")


class Clean:
    """The job of this pass. `pieces` are all raw parts in reading order: a part's place gives its documents their order."""

    def __init__(self, setting: Setting, pieces: list[str]) -> None:
        self.setting = setting
        self.places = {part_name(piece): place for place, piece in enumerate(pieces)}
        self.pieces = {part_name(piece): piece for piece in pieces}

    @cached_property
    def thresholds(self) -> Any:
        """The table of the recipe, or the one that ships with Puna."""
        own = self.setting.config.thresholds
        return load_thresholds(Path(own) if own else None)

    @cached_property
    def blocked(self) -> Callable[[str], bool]:
        """Whether an address is blocked by the recipe's list."""
        own = self.setting.config.correct.blocklist
        if own is None:
            return lambda url: False
        return load_blocklist(Path(own)).blocked

    def __call__(self, part: str) -> None:
        """Clean one part and put it on the shelf."""
        work = _Part(self)
        task, number = self.pieces[part].split("/")
        raw = self.setting.shelf(RAW).file(task, f"{number}.parquet")
        facts: dict[str, Any] = {}
        first = self.places[part] << 32
        keys = []
        web = prose = 0
        with self.setting.shelf(SHELF).writing(part, facts) as folder:
            with TableWriter(folder / DOCUMENTS, WORK_SCHEMA) as writer:
                for rows in read_batches(raw, BATCH):
                    done = work.batch(rows)
                    for row in done:
                        row["order"] = first + writer.rows
                        web, prose = web + row["web"], prose + (row["kind"] == "text")
                        writer.add(row)
                    keys.append(paragraphs.document_keys([row["text"] for row in done], [row["order"] for row in done],
                                                         [row["kind"] for row in done]))  # fmt: skip
            hashes, orders, places = (np.concatenate([key[column] for key in keys]) for column in range(3))
            write_keys(folder / KEYS, hashes, orders, places)
            facts |= {"rows": writer.rows, "bytes": writer.bytes, "web": web, "prose": prose, "steps": [step.report() for step in work.steps.values()],
                      "histograms": work.histograms.report(), "personal": dict(work.personal)}  # fmt: skip


class _Part:
    """The steps of one part while its documents pass through them."""

    def __init__(self, job: Clean) -> None:
        self.job, self.config = job, job.setting.config
        self.steps = {name: Step(name) for name in STEPS}
        self.histograms = Histograms(job.thresholds)
        self.personal: Counter[str] = Counter()

    def batch(self, rows: list[Row]) -> list[Row]:
        """What is left of some neighbouring documents."""
        for stage in (self.extract, self.repair, self.split, self.block, self.identify, self.measure, self.correct,
                      self.hide, self.length, self.symbols):  # fmt: skip
            rows = list(stage(rows))
        return rows

    def _changed(
        self, name: str, rows: list[Row], change: Callable[[Row], tuple[str, Any]], empty: str
    ) -> Iterator[Row]:
        """The rows with their texts as `change` makes them, its names counted; what is blank then leaves as `empty`."""
        step = self.steps[name]
        for row in rows:
            step.enter(len(row["text"].encode()))
            text, names = change(row)
            step.changed.update(names)
            if not text.strip():
                step.remove(empty, row["source"], row["text"])
                continue
            if text != row["text"]:
                row["text"], row["changed"] = text, True
            step.leave(len(text.encode()))
            yield row

    def extract(self, rows: list[Row]) -> Iterator[Row]:
        """Markup becomes text. What a page's maker wrote is what is read: extraction changes nothing of it."""

        def change(row: Row) -> tuple[str, list[str]]:
            return (main_text(row["text"], row["url"]), ["page"]) if row["kind"] == "html" else (row["text"], [])

        for row in self._changed("extract", rows, change, "a page without a main text"):
            if row["kind"] == "html":
                row["kind"], row["changed"] = "text", False
            yield row

    def repair(self, rows: list[Row]) -> Iterator[Row]:
        """What makes it text at all: line ends, control characters, NFC."""
        return self._changed("repair", rows, lambda row: clean.repair(row["text"]), "nothing but blanks")

    def split(self, rows: list[Row]) -> Iterator[Row]:
        """Documents of at most max_chars."""
        step = self.steps["split long documents"]
        for row in rows:
            step.enter(len(row["text"].encode()))
            for number, piece in enumerate(self._pieces(row)):
                step.leave(len(piece.encode()))
                step.changed["pieces cut off"] += bool(number)
                name = f"{row['id']}/{number}" if number else row["id"]
                # What is cut in two is changed: neither piece is the document that was read.
                cut = bool(number) or len(piece) < len(row["text"])
                yield {
                    **row,
                    "id": name,
                    "document": row["id"],
                    "text": piece,
                    "changed": bool(row.get("changed")) or cut,
                }

    def _pieces(self, row: Row) -> Iterator[str]:
        near = self.config.near
        for piece in clean.split_long(row["text"], self.config.max_chars):
            yield from passages(piece) if near.passages and applies(near.apply, row) else [piece]

    def block(self, rows: list[Row]) -> Iterator[Row]:
        """Pages of addresses that the recipe blocks."""
        blocked = self.job.blocked

        def reason(row: Row) -> str:
            return (
                "on the blocklist"
                if row["url"] and applies(self.config.correct.apply, row) and blocked(row["url"])
                else ""
            )

        return self.steps["blocked addresses"].through(rows, reason)

    def identify(self, rows: list[Row]) -> Iterator[Row]:
        """Label every document's language; drop those that the recipe does not keep, and those that nobody can tell."""
        open_ = [row for row in rows if row["lang"] in ("", "und")]
        found = language.identify([row["text"] for row in open_])
        for place, row in enumerate(open_):
            row["lang"], row["script"] = found.code[place], found.script[place]
            row["lang_score"] = round(float(found.score[place]), 4)
        config = self.config.language
        asked = [row for row in rows if row.get("lang_score") is not None and applies(config.apply, row)]
        for lang in sorted({row["lang"] for row in asked}):
            scores = [row["lang_score"] for row in asked if row["lang"] == lang]
            self.histograms.add(lang, "language_score", scores, (config.min_score, None))
        judged = {id(row) for row in asked}

        def reason(row: Row) -> str:
            if id(row) not in judged:
                return ""
            if config.keep and row["lang"] not in config.keep:
                return f"{row['lang']} is not kept"
            return (
                f"{row['lang']}, certain to under {config.min_score:g}" if row["lang_score"] < config.min_score else ""
            )

        return self.steps["language"].through(rows, reason)

    def measure(self, rows: list[Row]) -> Iterator[Row]:
        """The heuristics' measures, and the two steps that judge by them."""
        stages = {"metrics": self.config.metrics.apply, "repetition": self.config.repetition.apply}
        asked = [row for row in rows if any(applies(apply, row) for apply in stages.values())]
        langs = [row["lang"] for row in asked]
        measured = metrics.measure([row["text"] for row in asked], langs, self.job.thresholds)
        self.histograms.add_all(langs, measured)
        for stage, apply in stages.items():
            judged = filters.judge(measured, langs, self.job.thresholds, stages=(stage,))
            rules = {id(row): rule for row, rule in zip(asked, judged.rules, strict=True) if applies(apply, row)}

            def reason(row: Row, stage: str = stage, rules: dict[int, str] = rules) -> str:
                return rules.get(id(row), "").removeprefix(f"{stage}: ")

            rows = list(self.steps[stage].through(rows, reason))
        return iter(rows)

    def correct(self, rows: list[Row]) -> Iterator[Row]:
        """Rule-based correction."""

        def change(row: Row) -> tuple[str, Any]:
            return correct(row["text"], row["lang"]) if applies(self.config.correct.apply, row) else (row["text"], [])

        return self._changed("correction", rows, change, "nothing but boilerplate")

    def hide(self, rows: list[Row]) -> Iterator[Row]:
        """Personal data become stand-ins."""

        def change(row: Row) -> tuple[str, Any]:
            if not applies(self.config.personal.apply, row):
                return row["text"], []
            text, kinds = personal.replace(row["text"])
            self.personal.update(kinds)
            return text, kinds

        return self._changed("personal data", rows, change, "nothing but personal data")

    def length(self, rows: list[Row]) -> Iterator[Row]:
        """min_chars holds for every document."""
        for row in rows:
            row["chars"] = len(row["text"])
        least = self.config.min_chars
        return self.steps["length"].through(
            rows, lambda row: f"under {least} characters" if row["chars"] < least else ""
        )

    def symbols(self, rows: list[Row]) -> Iterator[Row]:
        """max_symbol_share holds for every document."""
        for row, share in zip(rows, symbols.shares([row["text"] for row in rows]), strict=True):
            row["symbol_share"] = round(float(share), 4)
        most = self.config.max_symbol_share
        return self.steps["symbols"].through(
            rows, lambda row: f"over {most:.0%} symbols" if row["symbol_share"] > most else ""
        )


def clean_parts(setting: Setting) -> tuple[Clean, list[str]]:
    """The job of this pass and the names of all its parts."""
    pieces = pieces_of(setting)
    return Clean(setting, pieces), [part_name(piece) for piece in pieces]
