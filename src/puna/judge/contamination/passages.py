"""Which evaluation items stand in training text, in which documents and where: one scan, kept between runs.

Comes in: an index of items, the folders of corpora and conversations. Goes out: for each item the greatest share of its n-grams in one
document, and the documents that hold most of it with the passage. Must never happen: more of a corpus in memory than a batch of
documents, or a kept scan taken for another text's or another index's.

A scan is a pure function of the text and of the index, so it is kept under the digests of both. Time is linear in the text.
"""

import heapq
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from puna.corpus.conversations import read_conversations
from puna.corpus.itemindex import Hits, ItemIndex
from puna.errors import PunaError
from puna.files import digest_of, file_sha256, write_json
from puna.judge.contamination.origin import TABLE, TALKS
from puna.progress import QUIET, Progress
from puna.reading import MAX_JSON, find_inside, read_bytes

_VERSION = 1
_NAMED = 3  # documents that are named for an item, those that hold most of it
_PASSAGE, _AROUND = 400, 80  # characters of a passage that are kept, and on either side of it
_BATCH_ROWS, _BATCH_CHARS = 256, 4 << 20
_TALKS = 500


class _Kept(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Place(_Kept):
    """Where a document holds an item."""

    document: str  # the document's id in its corpus
    source: str  # the file or module that the document is of
    share: float  # of the item's n-grams
    copies: int = 1  # times that the document is read in a pass over the corpus
    before: str = ""  # text around the longest passage
    passage: str = ""
    after: str = ""


class Found(_Kept):
    """What training text holds of one item of the index."""

    item: int  # its number in the index
    share: float = 0.0  # the greatest in one document, word for word
    near: float = 0.0  # the greatest in the near tier: a suspicion
    documents: int = 0  # that hold an n-gram of it word for word
    places: list[Place] = Field(default_factory=list)  # the documents that hold most, most first


class Scan(_Kept):
    """What one artefact of text holds of the items of one index."""

    version: int
    text: str  # digest of the artefact's text
    index: str  # digest of the items and of how they are looked for
    documents: int
    characters: int
    seconds: float
    found: list[Found]


def index_digest(index: ItemIndex) -> str:
    """SHA-256 (hex) of the items and of the lengths of n-grams that they are looked for by."""
    return digest_of([_VERSION, index.digest, index.words, index.characters])


def scan_texts(index: ItemIndex, folder: Path, progress: Progress = QUIET, cache: Path | None = None) -> Scan:
    """What the training text in `folder` (`train.parquet` of a corpus, or `chat.jsonl`) holds of the items of `index`.

    `cache`: a folder in which scans are kept; None: none is. Raises PunaError for a folder that holds neither, or a damaged table.
    """
    table, talks = find_inside(folder, TABLE), find_inside(folder, TALKS)
    file = table or talks
    if file is None:
        raise PunaError(f"holds neither {TABLE} nor {TALKS}", where=str(folder))
    text, items = file_sha256(file), index_digest(index)
    kept = None if cache is None else cache / f"{text[:20]}-{items[:20]}.json"
    if kept is not None and (known := _read(kept, text, items, len(index))) is not None:
        return known
    begin = time.monotonic()
    total = _rows(table) if table is not None else None
    progress.start(f"looking for {len(index):,} items in {folder.name}", total, "documents")
    seen: dict[int, Found] = {}
    documents = characters = 0
    for batch in _documents(table) if table is not None else _talks(file):
        texts = [row["text"] for row in batch]
        _gather(seen, index.scan(texts), batch)
        documents += len(batch)
        characters += sum(map(len, texts))
        progress.update(documents)
    progress.finish()
    found = [seen[number] for number in sorted(seen)]
    made = Scan(version=_VERSION, text=text, index=items, documents=documents, characters=characters,
                seconds=round(time.monotonic() - begin, 2), found=found)  # fmt: skip
    if kept is not None:
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_json(kept, made.model_dump())
    return made


def _read(path: Path, text: str, items: str, count: int) -> Scan | None:
    """The kept scan, or None where there is none, or one that is damaged or another's: then it is made again."""
    if not path.is_file():
        return None
    try:
        scan = Scan.model_validate_json(read_bytes(path, MAX_JSON))
    except (PunaError, ValidationError):
        return None
    right = (scan.version, scan.text, scan.index) == (_VERSION, text, items)
    return scan if right and all(0 <= found.item < count for found in scan.found) else None


def _gather(seen: dict[int, Found], hits: Hits, batch: Sequence[dict[str, Any]]) -> None:
    """Add the hits of one batch. Which documents are named does not depend on how the text was cut into batches."""
    order = np.lexsort((hits.span_item, hits.span_document))
    pairs = hits.span_document[order], hits.span_item[order]
    for document, item, share, near in zip(
        *(column.tolist() for column in (hits.document, hits.item, hits.share, hits.near)), strict=True
    ):
        one = seen.setdefault(item, Found(item=item))
        one.near = max(one.near, round(near, 4))
        if not share:
            continue
        one.share = max(one.share, round(share, 4))
        one.documents += 1
        if len(one.places) == _NAMED and share <= one.places[-1].share:
            continue  # of equal shares the earlier documents stay
        first = int(np.searchsorted(pairs[0], document))
        last = int(np.searchsorted(pairs[0], document, side="right"))
        spans = order[first:last][pairs[1][first:last] == item]
        row = batch[document]
        longest = max(((int(hits.start[s]), int(hits.end[s])) for s in spans), key=lambda span: span[1] - span[0])
        place = Place(document=row["id"], source=row["source"], share=round(share, 4), copies=row["copies"],
                      **_around(row["text"], *longest))  # fmt: skip
        one.places = heapq.nsmallest(_NAMED, [*one.places, place], key=lambda place: -place.share)


def _around(text: str, start: int, end: int) -> dict[str, str]:
    stop = min(end, start + _PASSAGE)
    return {
        "before": text[max(0, start - _AROUND) : start],
        "passage": text[start:stop],
        "after": text[stop : stop + _AROUND],
    }


def _rows(table: Path) -> int:
    try:
        return int(pq.read_metadata(table).num_rows)
    except (pa.ArrowException, OSError) as error:
        raise PunaError(f"is not a table of documents ({error})", where=str(table)) from error


def _documents(table: Path) -> Iterator[list[dict[str, Any]]]:
    """The rows of a corpus' table, so many at a time that their text stays small."""
    rows: list[dict[str, Any]] = []
    size = 0
    try:
        with pq.ParquetFile(table) as file:
            missing = {"id", "text", "source"} - set(file.schema_arrow.names)
            if missing:
                raise PunaError(f"has no column {', '.join(sorted(missing))}", where=str(table))
            columns = [name for name in ("id", "text", "source", "copies") if name in file.schema_arrow.names]
            for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=columns):
                for row in batch.to_pylist():
                    rows.append({"id": str(row["id"]), "text": str(row["text"] or ""), "source": str(row["source"]),
                                 "copies": int(row.get("copies") or 1)})  # fmt: skip
                    size += len(rows[-1]["text"])
                    if size > _BATCH_CHARS:
                        yield rows
                        rows, size = [], 0
    except (pa.ArrowException, OSError) as error:
        raise PunaError(f"is not a table of documents ({error})", where=str(table)) from error
    if rows:
        yield rows


def _talks(file: Path) -> Iterator[list[dict[str, Any]]]:
    """Conversations as texts: their turns one under the other."""
    rows: list[dict[str, Any]] = []
    for number, talk in enumerate(read_conversations(file), 1):
        text = "\n".join(turn["content"] for turn in talk["messages"])
        rows.append({"id": f"line {number}", "text": text, "source": file.name, "copies": 1})
        if len(rows) == _TALKS:
            yield rows
            rows = []
    if rows:
        yield rows
