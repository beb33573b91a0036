"""Text in, clean documents out: the way through the room.

Comes in: `[corpus]` of the recipe. Goes out: a folder with train.parquet, heldout.parquet, corpus.json and, for the default
corpus, functions.jsonl. Must never happen: a document lost without a count, or text on both sides of the split.
"""

import errno
import hashlib
import platform
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from puna.corpus import clean, frames, functions, near, python, sources
from puna.corpus.documents import FINAL_SCHEMA, WORK_SCHEMA, Document, TableWriter, as_rows, read_rows
from puna.corpus.holdout import Holdout, hold_out
from puna.corpus.readers import Tally
from puna.corpus.steps import Step
from puna.errors import PunaError
from puna.files import write_json
from puna.progress import QUIET, Progress
from puna.recipe.schema import PYTHON_SOURCE, Corpus

PARAGRAPH_BYTES = 200  # shorter paragraphs (headings, "All rights reserved.") may stand in many documents


def build_documents(config: Corpus, out: Path, progress: Progress = QUIET) -> dict[str, Any]:
    """Read, repair, filter, deduplicate, hold out and decontaminate; write the artefact to `out`; return corpus.json.

    Equal sources, recipe and library versions give equal bytes. Raises PunaError for sources that are missing, empty,
    binary, damaged or hostile, and where too little text is left to train on or to judge with.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(prefix=".corpus-", dir=out) as work:
            return _Build(config, out, Path(work), progress).run()
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise PunaError("the disk is full", where=str(out), mend="free some space and run it again") from error
        raise


def read_documents(folder: Path, split: str) -> pa.Table:
    """The documents of a finished artefact, `split` "train" or "heldout", with the columns of FINAL_SCHEMA."""
    if split not in ("train", "heldout"):
        raise ValueError(f"split must be 'train' or 'heldout'; got {split!r}")
    path = Path(folder) / f"{split}.parquet"
    try:
        return pq.read_table(path, schema=FINAL_SCHEMA)
    except (pa.ArrowException, OSError) as error:
        raise PunaError(
            f"is not a table of documents ({error})", where=str(path), mend="build the corpus again"
        ) from error


class _Build:
    def __init__(self, config: Corpus, out: Path, work: Path, progress: Progress) -> None:
        self.config, self.out, self.work, self.progress = config, out, work, progress
        self.tally = Tally()
        self.steps: list[Step] = []
        self.python: python.PythonCorpus | None = None
        # The source that each split unit came from, so that every source gives its own share.
        self.labels: dict[str, str] = {}
        self.languages: Counter[str] = Counter()  # bytes to train on

    def run(self) -> dict[str, Any]:
        digests = sources.source_digest(self.config)["sources"]
        raw, kept, parted = (self.work / f"{name}.parquet" for name in ("raw", "kept", "parted"))
        self.read(raw)
        self.filter(raw, kept)
        self.progress.start("choosing what is held out")
        pinned = python.PINNED if self.python is not None else frozenset()
        holdout = hold_out(kept, parted, self.config, self.labels, pinned, self.steps)
        self.progress.finish()
        for note in holdout.notes:
            self.progress.note(note)
        totals = self.write(parted, holdout)
        self.progress.note(self._told(totals))
        if self.python is not None:
            step = functions.write(self.python, holdout.units, self.config.near_duplicate, self.out / "functions.jsonl")
            self.steps.append(step)
        report = {
            **totals,
            "steps": [step.report() for step in self.steps],
            "sources": digests,
            "python": platform.python_version() if self.python is not None else None,
            "languages": dict(self.languages.most_common()),
            "encodings": dict(sorted(self.tally.encodings.items())),
            "skipped": dict(sorted(self.tally.skipped.items())),
            "split": holdout.report,
        }
        write_json(self.out / "corpus.json", report)
        return report

    def _told(self, totals: dict[str, Any]) -> str:
        documents, size = totals["documents"], totals["bytes"]
        sides = (("train", "to train on"), ("heldout", "to judge by"))
        told = ", ".join(
            f"{documents[side]:,} document{'s' * (documents[side] != 1)} ({_size(size[side])}) {use}"
            for side, use in sides
        )
        skipped = ", ".join(f"{count:,} {why}" for why, count in sorted(self.tally.skipped.items()) if count)
        return f"  {told}" + (f"; skipped: {skipped}" if skipped else "")

    def read(self, path: Path) -> None:
        """All sources, repaired and cut into documents of at most max_chars, to `path`."""
        read, repair, split = Step("read"), Step("repair"), Step("split long documents")
        self.steps += [read, repair, split]
        with TableWriter(path, WORK_SCHEMA) as writer:
            order = 0
            for row in as_rows(self.documents()):
                size = len(row["text"].encode("utf-8", "surrogatepass"))
                for step in (read, repair):
                    step.enter(size)
                read.leave(size)
                text, repairs = clean.repair(row["text"])
                repair.changed.update(repairs)
                if not text.strip():
                    repair.remove("nothing but blanks", row["source"], row["text"].encode("utf-8", "replace").decode())
                    continue
                size = len(text.encode())
                repair.leave(size)
                split.enter(size)
                for number, piece in enumerate(clean.split_long(text, self.config.max_chars)):
                    split.leave(len(piece.encode()))
                    if number:
                        split.changed["pieces cut off"] += 1
                    name = f"{row['id']}/{number}" if number else row["id"]
                    writer.add({**row, "order": order, "id": name, "text": piece})
                    order += 1

    def documents(self) -> Iterator[Document]:
        if PYTHON_SOURCE in self.config.sources:
            self.progress.start("reading the running Python")
            self.python = python.collect()
            self.progress.finish()
            self.tally.encodings += self.python.encodings
            self.tally.skipped += self.python.skipped
            for document in self.python.documents:
                self.labels[document.source] = PYTHON_SOURCE
                yield document
            # The texts are on disk now.
            self.python.documents = []
        for source in sources.user_sources(self.config):
            for document in sources.read_user_source(source, self.config, self.tally, self.progress):
                self.labels[document.source] = source.label
                yield document

    def filter(self, raw: Path, kept: Path) -> None:
        """Length, symbols, exact duplicates of documents and paragraphs: `raw` to `kept`, with the measured columns."""
        self.progress.start("measuring and filtering", unit="documents")
        measured = frames.measure(raw)
        columns = {name: frames.as_array(measured, name) for name in measured.column_names}
        length, symbols = Step("length"), Step("symbols")
        documents, paragraphs = Step("duplicate documents"), Step("duplicate paragraphs")
        self.steps += [length, symbols, documents, paragraphs]
        seen_documents: set[int] = set()
        seen: set[bytes] = set()
        with TableWriter(kept, WORK_SCHEMA) as writer:
            for row in read_rows(raw):
                at = row["order"]
                size, row["chars"] = int(columns["bytes"][at]), int(columns["chars"][at])
                row["symbol_share"] = round(float(columns["symbol_share"][at]), 4)
                if not self._passes(row, size, length, symbols):
                    continue
                documents.enter(size)
                first = int(columns["first"][at])
                if self.config.deduplicate and first in seen_documents:
                    documents.remove("the same text came before", row["source"], row["text"])
                    continue
                seen_documents.add(first)
                documents.leave(size)
                paragraphs.enter(size)
                if self._without_repeats(row, seen, paragraphs):
                    paragraphs.leave(len(row["text"].encode()))
                    writer.add(row)
        self.progress.finish()
        if writer.rows == 0:
            raise PunaError(
                "no document is left after the filters", where="corpus", mend="see min_chars and max_symbol_share"
            )

    def _passes(self, row: dict[str, Any], size: int, length: Step, symbols: Step) -> bool:
        length.enter(size)
        if row["chars"] < self.config.min_chars:
            length.remove(f"under {self.config.min_chars} characters", row["source"], row["text"])
            return False
        length.leave(size)
        symbols.enter(size)
        if row["symbol_share"] > self.config.max_symbol_share:
            symbols.remove(f"over {self.config.max_symbol_share:.0%} symbols", row["source"], row["text"])
            return False
        symbols.leave(size)
        return True

    def _without_repeats(self, row: dict[str, Any], seen: set[bytes], step: Step) -> bool:
        # Code is not prose: a class that repeats another's lines is no class without them.
        if not self.config.deduplicate or row["kind"] == "source":
            return True
        parts = row["text"].split("\n\n")
        kept: list[str] = []
        for part in parts:
            body = part.strip().encode()
            if len(body) >= PARAGRAPH_BYTES:
                key = hashlib.blake2b(row["kind"].encode() + b"\0" + body, digest_size=12).digest()
                if key in seen:
                    step.remove("the same paragraph came before", row["source"], part)
                    continue
                seen.add(key)
            kept.append(part)
        if len(kept) == len(parts):
            return True
        row["text"] = "\n\n".join(kept).strip("\n")
        row["chars"] = len(row["text"])
        if row["chars"] < self.config.min_chars:
            step.remove("document too short without its repeated paragraphs", row["source"], row["text"])
            return False
        return True

    def write(self, parted: Path, holdout: Holdout) -> dict[str, Any]:
        """heldout.parquet, and train.parquet without what nearly duplicates it."""
        self.progress.start("taking out near-duplicates of held-out text")
        step = Step("near-duplicates of held-out text")
        self.steps.append(step)
        index = near.index_of(row["text"] for row in read_rows(holdout.path))
        changed = {row["order"]: row for row in frames.take_out(parted, index, self.config.near_duplicate).to_pylist()}
        with TableWriter(self.out / "train.parquet", FINAL_SCHEMA) as train:
            for row in read_rows(parted):
                size = len(row["text"].encode())
                step.enter(size)
                change = changed.get(row["order"])
                if change is not None and not self._decontaminate(row, change, step):
                    continue
                size = len(row["text"].encode())
                step.leave(size)
                self.languages[row["lang"]] += size
                train.add(row)
        with TableWriter(self.out / "heldout.parquet", FINAL_SCHEMA) as heldout:
            for row in read_rows(holdout.path):
                heldout.add(row)
        self.progress.finish()
        for side, writer in (("train on", train), ("judge with", heldout)):
            if writer.rows == 0:
                removed = [
                    f"{count:,} {why} ({made.name})"
                    for made in self.steps
                    for why, count in made.removed.items()
                    if count
                ]
                told = f"; taken out: {', '.join(removed)}" if removed else ""
                raise PunaError(f"too little text: nothing is left to {side}{told}", where="corpus",
                                mend="give more, or other, text")  # fmt: skip
        return {
            "documents": {"train": train.rows, "heldout": heldout.rows},
            "bytes": {"train": train.bytes, "heldout": heldout.bytes},
        }

    def _decontaminate(self, row: dict[str, Any], change: dict[str, Any], step: Step) -> bool:
        if change["whole"]:
            step.remove("whole document", row["source"], change["sample"])
            return False
        step.remove("passage of a longer document", row["source"], change["sample"], count=change["passages"])
        row["text"] = change["text"]
        row["chars"] = len(row["text"])
        if row["chars"] < self.config.min_chars:
            step.remove("document too short without its copied passages", row["source"], change["sample"])
            return False
        return True


def _size(count: int) -> str:
    return f"{count / 1e6:,.1f} MB" if count >= 1e6 else f"{count / 1e3:,.0f} kB"
