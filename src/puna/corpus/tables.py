"""Narrow tables of keys, and what stands in them more than once: the barrier of every deduplication, in bounded memory.

Comes in: one Parquet file of keys per partition (hash, order, place), in reading order. Goes out: files with every occurrence
of a hash that occurs more than once, beside its first occurrence in reading order. Must never happen: an answer that depends
on how many ranges, files or workers there were, or memory that grows with the number of keys or with how often one repeats.

The keys are cut by their hash into ranges, so many that one range fits into the memory that was asked for; a range is worked
out by itself, so ranges may run one after another or anywhere.
A file is sorted by hash and its row groups are small: a range reads its own slice of it and no more. A hash that stands a
million times costs one row per file, because each file is reduced to its distinct hashes before files are joined.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

Hashes = npt.NDArray[np.uint64]
Orders = npt.NDArray[np.int64]
Places = npt.NDArray[np.int32]
Mask = npt.NDArray[np.bool_]
Keep = Callable[[Orders], Mask]  # which of these documents still stand: orders (n,) -> booleans (n,)
Job = Callable[[str], None]
Run = Callable[[Job, Sequence[str]], None]  # calls a job once for each name, here or in other processes

KEYS = pa.schema([("hash", pa.uint64()), ("order", pa.int64()), ("place", pa.int32())])
OCCURRENCES = pa.schema(
    [
        ("order", pa.int64()),
        ("place", pa.int32()),
        ("first_order", pa.int64()),
        ("first_place", pa.int32()),
        ("count", pa.int64()),
    ]
)
_ROW_GROUP = 8192  # rows; what a range reads beyond its slice is at most two of these per file
_BYTES_PER_KEY = 80  # one key of a range in memory: its three columns, twice, and the sort's index with room to spare


@dataclass(frozen=True, slots=True)
class Occurrences:
    """Occurrences (n,) of what occurs more than once, sorted by (order, place), beside each one's first occurrence.

    `count` is how often it occurs in the whole corpus (in documents that stand).
    """

    order: Orders
    place: Places
    first_order: Orders
    first_place: Places
    count: npt.NDArray[np.int64]

    def is_first(self) -> Mask:
        """Which of them are the first occurrence themselves: (n,)."""
        return np.asarray((self.order == self.first_order) & (self.place == self.first_place))

    def of(self, order: int) -> "Occurrences":
        """Those in one document."""
        low, high = np.searchsorted(self.order, [order, order + 1])
        return Occurrences(*(getattr(self, name)[low:high] for name in OCCURRENCES.names))


@dataclass(frozen=True, slots=True)
class Without:
    """The `Keep` that leaves out the documents whose orders stand in a sorted array (n,)."""

    orders: Orders

    def __call__(self, orders: Orders) -> Mask:
        """Which of `orders` (n,) are not left out: (n,)."""
        if len(self.orders) == 0:
            return np.ones(len(orders), bool)
        places = np.minimum(np.searchsorted(self.orders, orders), len(self.orders) - 1)
        return np.asarray(self.orders[places] != orders)


def write_keys(path: Path, hashes: Hashes, orders: Orders, places: Places) -> None:
    """One partition's keys, (n,) each, given in reading order (by order, then place); the file is sorted by hash."""
    by_hash = np.argsort(hashes, kind="stable")
    table = pa.table([hashes[by_hash], orders[by_hash], places[by_hash].astype(np.int32)], schema=KEYS)
    pq.write_table(table, path, compression="zstd", compression_level=1, use_dictionary=["order"],
                   row_group_size=_ROW_GROUP)  # fmt: skip


def ranges_for(files: Sequence[Path], memory_bytes: int) -> int:
    """Into how many ranges the keys of `files` are cut so that the work on one takes about `memory_bytes`."""
    rows = sum(int(pq.read_metadata(path).num_rows) for path in files)
    return max(1, -(-rows * _BYTES_PER_KEY // max(1, memory_bytes)))


def in_turn(job: Job, names: Sequence[str]) -> None:
    """The simplest `Run`: one after the other, here."""
    for name in names:
        job(name)


@dataclass(frozen=True, slots=True)
class RangeJob:
    """The work on one range, for any process that sees the files; called twice, it writes the same bytes twice."""

    files: tuple[Path, ...]
    out: Path
    parts: int
    keep: Keep | None = None

    def __call__(self, part: str) -> None:
        """Find the repeats of range number `part`."""
        low, high = ((int(part) + step << 64) // self.parts for step in (0, 1))  # hashes in [low, high)
        path = _range_file(self.out, int(part))
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        _write_repeats(self.files, temporary, low, high, self.keep)
        os.replace(temporary, path)


def find_repeats(
    files: Sequence[Path], out: Path, memory_bytes: int, keep: Keep | None = None, run: Run = in_turn
) -> list[Path]:
    """Every occurrence of a hash that occurs more than once: files of OCCURRENCES in the folder `out`, sorted by order.

    `files` are write_keys' in reading order (ValueError where they are not). Documents that `keep` denies count as absent.
    `run` calls a RangeJob once for each range, at once or in turn; each takes about `memory_bytes`. Every file is read
    twice, whatever the number of ranges.
    """
    out.mkdir(parents=True, exist_ok=True)
    parts = ranges_for(files, memory_bytes)
    run(RangeJob(tuple(files), out, parts, keep), [str(part) for part in range(parts)])
    return [_range_file(out, part) for part in range(parts)]


def of_partition(repeats: Sequence[Path], first: int, end: int) -> Occurrences:
    """What find_repeats found in the documents whose order is in [first, end), sorted by order and place."""
    tables = []
    for path in repeats:
        with pq.ParquetFile(path) as file:
            groups = _groups_between(file, OCCURRENCES.get_field_index("order"), first, end)
            table = file.read_row_groups(groups, use_threads=False)
        orders = table.column("order").to_numpy()
        low, high = np.searchsorted(orders, [first, end])
        tables.append(table.slice(low, high - low))
    table = pa.concat_tables(tables) if tables else OCCURRENCES.empty_table()
    columns = [table.column(name).to_numpy() for name in OCCURRENCES.names]
    by_place = np.lexsort((columns[1], columns[0]))
    return Occurrences(*(column[by_place] for column in columns))


def _range_file(out: Path, part: int) -> Path:
    return out / f"repeats-{part:05d}.parquet"


def _write_repeats(files: tuple[Path, ...], path: Path, low: int, high: int, keep: Keep | None) -> None:
    hashes, orders, places, counts = _first_occurrences(files, low, high, keep)
    with pq.ParquetWriter(path, OCCURRENCES, compression="zstd", compression_level=1) as writer:
        for file in files if len(hashes) else ():
            found = _slice(file, low, high, keep)
            at = np.minimum(np.searchsorted(hashes, found[0]), len(hashes) - 1)
            known = hashes[at] == found[0]
            order, place, at = found[1][known], found[2][known], at[known]
            by_place = np.lexsort((place, order))
            order, place, at = order[by_place], place[by_place], at[by_place]
            columns: list[Any] = [order, place, orders[at], places[at], counts[at]]
            writer.write_table(pa.table(columns, schema=OCCURRENCES), row_group_size=_ROW_GROUP)


def _first_occurrences(
    files: tuple[Path, ...], low: int, high: int, keep: Keep | None
) -> tuple[Hashes, Orders, Places, npt.NDArray[np.int64]]:
    """The sorted hashes in [low, high) that occur more than once; of each the first order and place, and how often."""
    hashes, orders, places, counts = [], [], [], []
    before = np.iinfo(np.int64).min
    for file in files:
        hash_, order, place = _slice(file, low, high, keep)
        if len(hash_) == 0:
            continue
        if order.min() < before:
            raise ValueError(f"{file}: the files of keys are not in reading order")
        before = order.max()
        first, count = _runs(hash_)
        hashes.append(hash_[first])
        orders.append(order[first])
        places.append(place[first])
        counts.append(count)
    if not hashes:
        nothing = np.empty(0, np.int64)
        return nothing.astype(np.uint64), nothing, nothing.astype(np.int32), nothing
    every = np.concatenate(hashes)
    by_hash = np.argsort(every, kind="stable")  # stable: of equal hashes the first file, so the first in reading order
    every = every[by_hash]
    first, _ = _runs(every)
    count = np.add.reduceat(np.concatenate(counts)[by_hash], first)
    more = count > 1
    at = by_hash[first[more]]
    return every[first[more]], np.concatenate(orders)[at], np.concatenate(places)[at], count[more]


def _runs(values: Hashes) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Where each run of equal values begins in sorted `values` (n > 0), and how long it is."""
    first = np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1]]))
    return first, np.diff(first, append=len(values))


def _slice(path: Path, low: int, high: int, keep: Keep | None) -> tuple[Hashes, Orders, Places]:
    """The keys of one file with hashes in [low, high), sorted by hash and then in reading order."""
    with pq.ParquetFile(path) as file:
        table = file.read_row_groups(_groups_between(file, 0, low, high), use_threads=False)
    hashes, orders, places = (table.column(name).to_numpy() for name in KEYS.names)
    begin = int(np.searchsorted(hashes, np.uint64(low)))
    end = len(hashes) if high >= 1 << 64 else int(np.searchsorted(hashes, np.uint64(high)))
    hashes, orders, places = hashes[begin:end], orders[begin:end], places[begin:end]
    if keep is not None:
        stands = keep(orders)
        hashes, orders, places = hashes[stands], orders[stands], places[stands]
    return hashes, orders, places


def _groups_between(file: pq.ParquetFile, column: int, low: int, high: int) -> list[int]:
    """The row groups whose sorted column has values in [low, high)."""
    groups = []
    for group in range(file.metadata.num_row_groups):
        bounds = file.metadata.row_group(group).column(column).statistics
        if bounds is None or not bounds.has_min_max or (bounds.max >= low and bounds.min < high):
            groups.append(group)
    return groups
