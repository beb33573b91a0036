"""Documents to fixed rows on disk, without padding.

Comes in: token ids of documents, and for chat which of them carry loss. Goes out: a folder that `puna.tokens.loader`
maps into memory. Must never happen: a token lost without being counted, or a target across two pieces.

    tokens.bin  little-endian uint16 (vocabulary up to 65,536) or uint32, [rows, context + 1]
    starts.bin  uint8, [rows, context + 1]: 1 where a piece begins, 2 on padding, else 0
    loss.bin    uint8, [rows, context + 1]: 1 where a token is learned; only if loss masks were given
    pack.json   the counts

A row holds one token more than the context, so that it yields `context` inputs, each with its next token.
"""

import tempfile
from array import array
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from jaxtyping import Bool, Int, Int64, Integer, UInt8
from numpy import ndarray

from puna.errors import PunaError
from puna.files import atomic_file, write_json
from puna.progress import QUIET, Progress
from puna.tokens.fit import Layout, lay_out_turns

BEGIN, PADDING = 1, 2
FORMAT = 1
_BLOCK_TOKENS = 1 << 22

Ids = Integer[ndarray, " tokens"] | Sequence[int]
Mask = Bool[ndarray, " tokens"] | Sequence[bool]


def pack_documents(
    documents: Iterable[tuple[Ids, Mask | None]], context: int, out: Path, *, vocab_size: int, split_long: bool = True,
    pad_id: int = 0, turns: Callable[[], Sequence[int]] | None = None, progress: Progress = QUIET,
) -> dict[str, Any]:  # fmt: skip
    """Pack documents, each with its end token already, into rows of `context` + 1 tokens; write them into `out`.

    `split_long` (pretraining): every token is kept, every row is full but for the end of the last one. Otherwise
    (chat): a document longer than a row is truncated, one that keeps no learned token is left out, and rows are
    padded; all of it is counted. `pad_id` fills the padding; it is never an input of a target and never a target.

    `turns`, asked when all documents have come, gives the number of the first document of each turn: no row holds documents of
    two turns, so the copies of a document that is read several times, one in each turn, never stand in one row.

    Memory is that of the lengths and the layout; the tokens go through a nameless file in `out`.
    Returns pack.json's value: rows, context, dtype, vocab_size, documents, tokens, pieces, targets, splits, truncated,
    truncated_tokens, dropped, empty, padding, has_loss.
    Raises `PunaError` where there is nothing to pack, an id is outside the vocabulary, or masks and ids do not agree.
    """
    if context < 1 or not 0 <= pad_id < vocab_size:
        raise ValueError(f"context {context} and pad id {pad_id} of {vocab_size} are out of bounds")
    out.mkdir(parents=True, exist_ok=True)
    dtype = np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")
    capacity = context + 1
    with tempfile.TemporaryFile(dir=out) as token_file, tempfile.TemporaryFile(dir=out) as loss_file:
        spool = _Spool(token_file, loss_file, dtype, vocab_size, None if split_long else capacity)
        spool.fill(documents, progress)
        layout = lay_out_turns(spool.lengths_kept(), turns() if turns else (0,), capacity, split_long)
        targets = _write_rows(spool, layout, capacity, pad_id, out, progress)
    kept = int(layout.length.sum())
    report: dict[str, Any] = {
        "format": FORMAT, "rows": layout.rows, "context": context, "dtype": "uint16" if dtype.itemsize == 2 else "uint32",
        "vocab_size": vocab_size, "documents": len(spool.lengths), "tokens": kept, "pieces": len(layout.row),
        "targets": targets, "splits": len(layout.row) - len(spool.lengths), "truncated": spool.truncated,
        "truncated_tokens": spool.truncated_tokens, "dropped": spool.dropped, "empty": spool.empty,
        "padding": layout.rows * capacity - kept, "has_loss": bool(spool.has_loss),
    }  # fmt: skip
    write_json(out / "pack.json", report)
    return report


@dataclass
class _Spool:
    """Documents one after the other in a nameless file, with the counts of what did not get in."""

    tokens: BinaryIO
    loss: BinaryIO
    dtype: "np.dtype[Any]"
    vocab_size: int
    longest: int | None  # None: documents of any length

    def __post_init__(self) -> None:
        self.lengths = array("q")
        self.has_loss: bool | None = None
        self.truncated = self.truncated_tokens = self.dropped = self.empty = 0

    def fill(self, documents: Iterable[tuple[Ids, Mask | None]], progress: Progress) -> None:
        progress.start("packing", unit="tokens")
        total = 0
        for number, (ids, mask) in enumerate(documents, 1):
            total += self._add(np.asarray(ids), mask, f"document {number}")
            progress.update(total, documents=f"{number:,}")
        progress.finish()
        if not self.lengths:
            raise PunaError("there are no documents to pack", mend="look at what the corpus filters removed")
        self.tokens.flush()
        self.loss.flush()

    def _add(self, ids: Integer[ndarray, " tokens"], mask: Mask | None, where: str) -> int:
        if self.has_loss is None:
            self.has_loss = mask is not None
        if self.has_loss != (mask is not None):
            raise PunaError("either every document has a loss mask or none", where=where)
        if len(ids) == 0:
            self.empty += 1
            return 0
        if ids.ndim != 1 or not np.issubdtype(ids.dtype, np.integer):
            raise PunaError(f"ids must be whole numbers in one row; got {ids.dtype} {list(ids.shape)}", where=where)
        if int(ids.min()) < 0 or int(ids.max()) >= self.vocab_size:
            raise PunaError(f"ids {ids.min()} to {ids.max()} do not fit a vocabulary of {self.vocab_size}", where=where)
        kept = len(ids) if self.longest is None else min(len(ids), self.longest)
        if mask is not None:
            flags = np.asarray(mask, dtype=bool)
            if flags.shape != ids.shape:
                raise PunaError(f"its loss mask has {flags.size} entries for {len(ids)} ids", where=where)
            # The first token of a piece is never a target.
            if self.longest is not None and not flags[1:kept].any():
                self.dropped += 1
                return 0
            self.loss.write(flags[:kept].astype(np.uint8).tobytes())
        if kept < len(ids):
            self.truncated += 1
            self.truncated_tokens += len(ids) - kept
        self.tokens.write(ids[:kept].astype(self.dtype).tobytes())
        self.lengths.append(kept)
        return kept

    def lengths_kept(self) -> Int64[ndarray, " documents"]:
        return np.array(self.lengths, dtype=np.int64)


def _write_rows(spool: _Spool, layout: Layout, capacity: int, pad_id: int, out: Path, progress: Progress) -> int:
    """Write the three files, block by block; returns the count of positions with a target."""
    lengths = spool.lengths_kept()
    source = (np.cumsum(lengths) - lengths)[layout.document] + layout.offset
    before = np.cumsum(layout.length) - layout.length  # tokens before a piece in writing order
    first = np.searchsorted(layout.row, np.arange(layout.rows + 1))
    target = layout.row * capacity + before - before[first[layout.row]]
    tokens = np.memmap(spool.tokens, dtype=spool.dtype, mode="r")
    loss = np.memmap(spool.loss, dtype=np.uint8, mode="r") if spool.has_loss else None
    if loss is None:
        (out / "loss.bin").unlink(missing_ok=True)  # of an earlier packing into this folder
    step = max(1, _BLOCK_TOKENS // capacity)
    valid = 0
    progress.start("writing rows", layout.rows, "rows")
    with (atomic_file(out / "tokens.bin") as to_tokens, atomic_file(out / "starts.bin") as to_starts,
          (nullcontext() if loss is None else atomic_file(out / "loss.bin")) as to_loss):  # fmt: skip
        for row in range(0, layout.rows, step):
            end = min(row + step, layout.rows)
            pieces = slice(first[row], first[end])
            take, put = _indices(source[pieces], target[pieces] - row * capacity, layout.length[pieces])
            shape = (end - row, capacity)
            ids = np.full(shape, pad_id, dtype=spool.dtype)
            ids.reshape(-1)[put] = tokens[take]
            starts = np.full(shape, PADDING, dtype=np.uint8)
            starts.reshape(-1)[put] = 0
            starts.reshape(-1)[target[pieces] - row * capacity] = BEGIN
            has_target = starts[:, 1:] == 0
            to_tokens.write(ids.tobytes())
            to_starts.write(starts.tobytes())
            if loss is not None and to_loss is not None:
                learned: UInt8[ndarray, "rows capacity"] = np.zeros(shape, dtype=np.uint8)
                learned.reshape(-1)[put] = loss[take]
                to_loss.write(learned.tobytes())
                has_target &= learned[:, 1:] == 1
            valid += int(has_target.sum())
            progress.update(end)
    progress.finish()
    return valid


def _indices(
    source: Int[ndarray, " pieces"], target: Int[ndarray, " pieces"], length: Int[ndarray, " pieces"]
) -> tuple[Int[ndarray, " tokens"], Int[ndarray, " tokens"]]:
    """Where each token of some pieces is read, and where it is written."""
    before = np.cumsum(length) - length
    count = np.arange(int(length.sum()), dtype=np.int64)
    return count + np.repeat(source - before, length), count + np.repeat(target - before, length)
