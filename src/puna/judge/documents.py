"""The texts that are judged on, and the training texts that the baselines may learn from.

Comes in: the corpus folder. Goes out: documents in a fixed order, a seeded sample where there is too much. Must never
happen: more text than the limit (the judge's time is bounded by design, not by a clock), or a sample that is not told.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from puna.errors import PunaError

HELDOUT_BYTES = 1_000_000  # a small model reads this in well under a minute on two cores
TRAIN_BYTES = 24_000_000  # xz and the 5-gram learn from this in half a minute
LONG_LINE = 40  # characters; shorter lines recur in honest text ("return None", "import sys")


@dataclass(frozen=True)
class Documents:
    """Texts with their sources, the documents of one source side by side."""

    texts: list[str]
    sources: list[str]
    kinds: list[str]
    note: dict[str, Any]  # what was there, what was taken
    langs: list[str | None] = field(default_factory=list)  # as the corpus named them; empty where it named none

    @property
    def sizes(self) -> npt.NDArray[np.int64]:
        """UTF-8 bytes of each document [documents]."""
        return np.array([len(text.encode()) for text in self.texts], np.int64)


def load(corpus: Path, split: str, limit: int, seed: int) -> Documents:
    """The documents of one split ("train" or "heldout"); where they exceed `limit` bytes, a seeded sample of that size.

    Raises `PunaError` where the file is missing, not a corpus table, or without text.
    """
    path = corpus / f"{split}.parquet"
    try:
        with pq.ParquetFile(path) as file:
            sizes = np.concatenate(
                [np.zeros(0, np.int64), *(_sizes(batch) for batch in file.iter_batches(columns=["text"]))]
            )
        taken, cut = _sample(sizes, limit, seed)
        with pq.ParquetFile(path) as file:
            columns = [name for name in ("text", "source", "kind", "lang") if name in file.schema_arrow.names]
            rows = _rows(file, columns, taken)
    except FileNotFoundError:
        raise PunaError("there is no such file", where=str(path), mend="give a corpus folder") from None
    except (pa.ArrowException, KeyError) as problem:
        raise PunaError(f"not a table of documents: {problem}", where=str(path)) from problem
    if not rows:
        raise PunaError("there is no text", where=str(path), mend="give more text, or a larger corpus.heldout_share")
    if cut is not None:
        rows[cut[0]]["text"] = rows[cut[0]]["text"].encode()[: cut[1]].decode(errors="ignore")
    order = {source: number for number, source in enumerate(dict.fromkeys(row["source"] for row in rows))}
    rows.sort(key=lambda row: order[row["source"]])
    note = {"documents": len(sizes), "bytes": int(sizes.sum()), "documents_used": len(rows),
            "bytes_used": sum(len(row["text"].encode()) for row in rows), "sampled": cut is not None}  # fmt: skip
    langs = [row["lang"] for row in rows] if "lang" in columns else []
    return Documents(
        [row["text"] for row in rows],
        [row["source"] for row in rows],
        [row.get("kind", "text") for row in rows],
        note,
        langs if any(langs) else [],
    )


def _sizes(batch: pa.RecordBatch) -> npt.NDArray[np.int64]:
    return np.asarray(pc.fill_null(pc.binary_length(batch.column("text")), 0).to_numpy(zero_copy_only=False), np.int64)


def _sample(sizes: npt.NDArray[np.int64], limit: int, seed: int) -> tuple[set[int], tuple[int, int] | None]:
    """Which documents, and (place among the taken, bytes kept) of the one that is cut so that the limit holds."""
    if sizes.sum() <= limit:
        return set(np.flatnonzero(sizes).tolist()), None
    taken, left = [], limit
    for index in np.random.default_rng([seed, 1]).permutation(np.flatnonzero(sizes)).tolist():
        taken.append(index)
        if sizes[index] >= left:
            return set(taken), (sorted(taken).index(index), left)
        left -= int(sizes[index])
    raise AssertionError("the documents exceed the limit and yet all fit")


def _rows(file: pq.ParquetFile, columns: list[str], taken: set[int]) -> list[dict[str, Any]]:
    rows, start = [], 0
    for batch in file.iter_batches(columns=columns):
        wanted = [number for number in range(len(batch)) if start + number in taken]
        rows += batch.take(pa.array(wanted, pa.int64())).to_pylist()
        start += len(batch)
    return rows


def verbatim_share(train: Sequence[str], heldout: Sequence[str]) -> float:
    """Share of the held-out text (characters of lines of LONG_LINE or more) whose line stands word for word in `train`."""
    known = {line for text in train for raw in text.splitlines() if len(line := raw.strip()) >= LONG_LINE}
    lines = [line for text in heldout for raw in text.splitlines() if len(line := raw.strip()) >= LONG_LINE]
    found = sum(len(line) for line in lines if line in known)
    return found / max(1, sum(map(len, lines)))
