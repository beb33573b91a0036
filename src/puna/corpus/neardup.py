"""Near-duplicates: documents whose shingles are nearly the same, gathered into clusters.

Comes in: signatures and bands (signatures.py), one partition at a time. Goes out: of every document that has a near-duplicate
its cluster, the cluster's size, and whether it is the one that stands for it. Must never happen: two documents in a cluster
because two hashes met by chance, or a cluster that depends on ranges, workers or batches.

Locality-sensitive hashing (Indyk and Motwani 1998): documents that share a band's key are candidates, each with the first
document in reading order of its key. Of a candidate pair the similarity is then estimated from the low byte of each of their
112 values (b-bit MinHash, Li and Konig 2010; b = 8): a byte where the signature has four, for a standard error that is
hardly larger. Pairs at `threshold` or above are edges, and connected components of edges are the clusters.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from puna.corpus.components import Forest
from puna.corpus.signatures import Signatures, bands
from puna.corpus.tables import Keep, Mask, Orders, Run, find_repeats, in_turn, of_partition, write_keys

Sketches = npt.NDArray[np.uint8]

THRESHOLD = 0.7  # at which 14 bands of 8 rows find half of all pairs: nothing is lost that they were made to find
_ROW_GROUP = 8192
_AT_ONCE = 1 << 16  # pairs compared together


@dataclass(frozen=True, slots=True)
class Clusters:
    """The documents (n,) with near-duplicates, sorted; each one's cluster (its smallest order) and the cluster's size.

    A document that is not here is a cluster by itself.
    """

    order: Orders
    cluster: Orders
    size: npt.NDArray[np.int64]

    def of(self, first: int, end: int) -> "Clusters":
        """Those with orders in [first, end)."""
        low, high = np.searchsorted(self.order, [first, end])
        return Clusters(self.order[low:high], self.cluster[low:high], self.size[low:high])

    def representative(self) -> Mask:
        """Which of them stand for their cluster, being its first in reading order: (n,)."""
        return np.asarray(self.order == self.cluster)


def write_bands(keys: Path, sketches: Path, signatures: Signatures, orders: Orders) -> None:
    """One partition's band keys (for write_keys' form) and sketches; signatures (n, 112), orders (n,) rising.

    Documents with too few shingles stand in neither.
    """
    hashes, enough = bands(signatures)
    count, buckets = int(enough.sum()), hashes.shape[1]
    order = np.asarray(orders, np.int64)[enough]
    write_keys(keys, hashes[enough].ravel(), order.repeat(buckets), np.tile(np.arange(buckets, dtype=np.int32), count))
    low = np.ascontiguousarray(signatures[enough].astype(np.uint8))
    width = signatures.shape[1]
    bytes_ = pa.FixedSizeBinaryArray.from_buffers(pa.binary(width), count, [None, pa.py_buffer(low)])
    table = pa.table({"order": order, "sketch": bytes_})
    pq.write_table(table, sketches, compression="none", use_dictionary=False, row_group_size=_ROW_GROUP)


def find_clusters(
    keys: Sequence[Path],
    sketches: Sequence[Path],
    work: Path,
    memory_bytes: int,
    threshold: float = THRESHOLD,
    keep: Keep | None = None,
    run: Run = in_turn,
) -> Clusters:
    """The clusters of near-duplicates in the partitions whose files write_bands wrote, in reading order.

    `work` takes what does not fit into `memory_bytes`; keep and run as in find_repeats. What is held for the whole corpus is
    some 200 bytes per document that has a near-duplicate; PunaError where that is more than `memory_bytes`.
    """
    repeats = find_repeats(keys, work, memory_bytes, keep, run)
    bounds = [_bounds(path) for path in sketches]
    forest = Forest(memory_bytes)
    for first_orders, first_sketches in _firsts(repeats, sketches, bounds, memory_bytes):
        for path, (low, high) in zip(sketches, bounds, strict=True):
            if high <= first_orders[0]:
                continue  # a pair's second document comes after its first
            a, b = _candidates(repeats, low, high)
            wanted = (a >= first_orders[0]) & (a <= first_orders[-1])
            a, b = a[wanted], b[wanted]
            if len(a) == 0:
                continue
            orders, sketch = _read(path, b.min(), b.max() + 1)
            alike = _alike(
                first_sketches, np.searchsorted(first_orders, a), sketch, np.searchsorted(orders, b), threshold
            )
            forest.add(a[alike], b[alike])
    return Clusters(*forest.result())


def _candidates(repeats: Sequence[Path], low: int, high: int) -> tuple[Orders, Orders]:
    """The distinct pairs (first, other) that share a band, the other in [low, high): (m,), (m,)."""
    found = of_partition(repeats, low, high)
    other = found.order != found.first_order
    a, b = found.first_order[other], found.order[other]
    by_pair = np.lexsort((a, b))
    a, b = a[by_pair], b[by_pair]
    new = np.ones(len(a), bool)
    new[1:] = (a[1:] != a[:-1]) | (b[1:] != b[:-1])
    return a[new], b[new]


def _firsts(
    repeats: Sequence[Path], sketches: Sequence[Path], bounds: Sequence[tuple[int, int]], memory_bytes: int
) -> Iterator[tuple[Orders, Sketches]]:
    """The first documents of all candidate pairs with their sketches, (m,) and (m, 112), as many at once as memory holds."""
    orders: list[Orders] = []
    parts: list[Sketches] = []
    size = 0
    every = _distinct(_candidates(repeats, low, high)[0] for low, high in bounds)
    for path, (low, high) in zip(sketches, bounds, strict=True):
        begin, end = np.searchsorted(every, [low, high])
        if begin == end:
            continue
        known, sketch = _read(path, low, high)
        wanted = every[begin:end]
        orders.append(wanted)
        parts.append(sketch[np.searchsorted(known, wanted)])
        size += parts[-1].nbytes
        if size * 4 > memory_bytes:
            yield np.concatenate(orders), np.concatenate(parts)
            orders, parts, size = [], [], 0
    if orders:
        yield np.concatenate(orders), np.concatenate(parts)


def _distinct(parts: Iterator[Orders]) -> Orders:
    """The sorted distinct values of all parts, sorted again only as they double."""
    every, new, waiting = np.empty(0, np.int64), [], 0
    for part in parts:
        new.append(np.unique(part))
        waiting += len(new[-1])
        if waiting > len(every):
            every, new, waiting = np.unique(np.concatenate([every, *new])), [], 0
    return np.unique(np.concatenate([every, *new]))


def _alike(
    one: Sketches, a: npt.NDArray[np.int64], other: Sketches, b: npt.NDArray[np.int64], threshold: float
) -> Mask:
    """Whether the estimated similarity of one[a[i]] and other[b[i]] is at least `threshold`: (m,)."""
    width = one.shape[1]
    least = (threshold + (1 - threshold) / 256) * width  # one byte in 256 agrees by chance
    alike = np.empty(len(a), bool)
    for begin in range(0, len(a), _AT_ONCE):
        here = slice(begin, begin + _AT_ONCE)
        alike[here] = (one[a[here]] == other[b[here]]).sum(axis=1) >= least
    return alike


def _bounds(path: Path) -> tuple[int, int]:
    """The half-open range of orders in a file of sketches; (0, 0) where there is none."""
    metadata = pq.read_metadata(path)
    groups = [metadata.row_group(i).column(0).statistics for i in range(metadata.num_row_groups)]
    groups = [bounds for bounds in groups if bounds is not None and bounds.has_min_max]
    return (min(b.min for b in groups), max(b.max for b in groups) + 1) if groups else (0, 0)


def _read(path: Path, low: int, high: int) -> tuple[Orders, Sketches]:
    """The orders and sketches in one file of write_bands: (n,), (n, 112)."""
    with pq.ParquetFile(path) as file:
        table = file.read(use_threads=False)
    orders = table.column("order").to_numpy()
    column = pa.concat_arrays(table.column("sketch").chunks)
    sketch = np.frombuffer(column.buffers()[1], np.uint8).reshape(-1, column.type.byte_width)[: len(orders)]
    begin, end = np.searchsorted(orders, [low, high])
    return orders[begin:end], sketch[begin:end]
