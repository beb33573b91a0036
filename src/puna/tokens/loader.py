"""Packed rows to batches, as a pure function of (seed, step).

Comes in: a folder written by `pack_documents`. Goes out: tensors. Must never happen: a batch that depends on what was
read before it, on the number of processes, or on a file that is not of the size its pack.json says.
"""

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int, Int32, Int64
from numpy import ndarray
from torch import Tensor

from puna.errors import PunaError
from puna.tokens.order import order_of_epoch
from puna.tokens.pack import BEGIN, FORMAT, PADDING

NO_TARGET = -100
_NAMED_ROWS = 16


@dataclass(frozen=True)
class Batch:
    """Rows of one step for one process; b rows of t tokens.

    `targets` is the next token, or -100 where there is none: at the end of a piece, on padding, where no loss is due.
    `segments` numbers the pieces of a row from 0 (padding is one of its own), to keep attention inside a document.
    `identity` names step, epoch and rows, for error messages.
    """

    inputs: Int64[Tensor, "b t"]
    targets: Int64[Tensor, "b t"]
    segments: Int32[Tensor, "b t"]
    identity: str


class Batches:
    """Batches of `rows` rows (over all processes), memory-mapped. A cursor counts rows on and on, epoch after epoch.

    Each epoch is its own permutation of all rows, drawn from (seed, epoch); a batch may lie across two epochs.
    Raises `PunaError` where the folder's files do not agree with its pack.json.
    """

    def __init__(self, folder: Path, rows: int, seed: int) -> None:
        if rows < 1 or seed < 0:
            raise ValueError(f"a batch needs at least one row and a seed from 0 on; got {rows} and {seed}")
        self.folder, self.rows, self.seed = Path(folder), rows, seed
        pack = _read_pack(self.folder / "pack.json")
        self.total_rows: int = pack["rows"]
        self.context: int = pack["context"]
        self.vocab_size: int = pack["vocab_size"]
        self.targets: int = pack["targets"]
        dtype = "<u2" if pack["dtype"] == "uint16" else "<u4"
        self._tokens = self._map("tokens.bin", dtype)
        self._starts = self._map("starts.bin", "u1")
        self._loss = self._map("loss.bin", "u1") if pack["has_loss"] else None
        self._order = lru_cache(maxsize=2)(self._permutation)  # a step needs one epoch, and two where it lies across

    @property
    def steps_per_epoch(self) -> int:
        """Steps after which every row has been seen at least once."""
        return -(-self.total_rows // self.rows)

    def batch(self, step: int, rank: int = 0, world: int = 1) -> Batch:
        """The rows of `step` (from 0) that process `rank` of `world` trains on; ranks in order make the global batch.

        Raises `PunaError` where the batch does not divide among the processes, or a row holds an impossible value.
        """
        if step < 0 or not 0 <= rank < world:
            raise ValueError(f"step {step}, rank {rank} of {world} is out of bounds")
        if self.rows % world:
            raise PunaError(
                f"{self.rows} rows a batch do not divide among {world} processes", where="train.batch_tokens"
            )
        share = self.rows // world
        cursor = step * self.rows + rank * share
        rows = self.row_numbers(cursor, share)
        identity = f"step {step} rank {rank}/{world} epoch {cursor // self.total_rows} rows {_names(rows)} of {self.folder.name}"
        return self._read(rows, identity)

    def row_numbers(self, cursor: int, count: int) -> Int64[ndarray, " count"]:
        """Which rows stand at `cursor` and after, in the order of training."""
        places = np.arange(cursor, cursor + count, dtype=np.int64)
        epochs, places = np.divmod(places, self.total_rows)
        numbers = np.empty(count, dtype=np.int64)
        for epoch in np.unique(epochs).tolist():
            here = epochs == epoch
            numbers[here] = self._order(epoch)[places[here]]
        return numbers

    def _permutation(self, epoch: int) -> Int64[ndarray, " rows"]:
        return order_of_epoch(self.seed, epoch, self.total_rows)

    def _read(self, rows: Int64[ndarray, " b"], identity: str) -> Batch:
        tokens: Int64[ndarray, "b t1"] = self._tokens[rows].astype(np.int64)
        starts = self._starts[rows]
        if int(tokens.max()) >= self.vocab_size or int(starts.max()) > PADDING or (starts[:, 0] == 0).any():
            raise PunaError(
                f"damaged rows ({identity})", where=str(self.folder), mend="remove the folder and build again"
            )
        has_target = starts[:, 1:] == 0
        if self._loss is not None:
            has_target &= self._loss[rows][:, 1:] == 1
        targets = np.where(has_target, tokens[:, 1:], NO_TARGET)
        padding_begins = (starts == PADDING) & (np.roll(starts, 1, axis=1) != PADDING)
        segments = np.cumsum((starts == BEGIN) | padding_begins, axis=1, dtype=np.int32)[:, :-1] - 1
        return Batch(
            inputs=torch.from_numpy(np.ascontiguousarray(tokens[:, :-1])), targets=torch.from_numpy(targets),
            segments=torch.from_numpy(np.ascontiguousarray(segments, dtype=np.int32)), identity=identity,
        )  # fmt: skip

    def _map(self, name: str, dtype: str) -> Int[ndarray, "rows t1"]:
        path = self.folder / name
        shape = (self.total_rows, self.context + 1)
        expected = shape[0] * shape[1] * np.dtype(dtype).itemsize
        size = path.stat().st_size if path.is_file() else None
        if size != expected:
            found = "is missing" if size is None else f"has {size:,} bytes"
            raise PunaError(
                f"{found}; pack.json says {expected:,} bytes", where=str(path), mend="remove the folder and build again"
            )
        return np.memmap(path, dtype=dtype, mode="r", shape=shape)


def _read_pack(path: Path) -> dict[str, Any]:
    try:
        pack = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise PunaError("no such file", where=str(path), mend="not a folder of packed rows") from None
    except (ValueError, RecursionError) as error:
        raise PunaError(f"not JSON ({error})", where=str(path)) from None
    counts = ("rows", "context", "vocab_size", "targets")
    good = (
        isinstance(pack, dict) and pack.get("format") == FORMAT and pack.get("dtype") in ("uint16", "uint32")
        and isinstance(pack.get("has_loss"), bool)
        and all(type(pack.get(key)) is int and 0 <= pack[key] < 2**62 for key in counts)
        and pack["rows"] > 0 and pack["context"] > 0
    )  # fmt: skip
    if not good:
        raise PunaError("not the description of packed rows", where=str(path), mend="remove the folder and build again")
    return pack


def _names(rows: Int64[ndarray, " b"]) -> str:
    named = ",".join(map(str, rows[:_NAMED_ROWS].tolist()))
    return named if len(rows) <= _NAMED_ROWS else f"{named} and {len(rows) - _NAMED_ROWS} more"
