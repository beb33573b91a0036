"""MinHash signatures (Broder 1997): what two texts' shingles have in common, told from 112 numbers each.

Comes in: texts, or their tokens. Goes out: signatures, and the keys of the bands in which near-duplicates meet. Must never
happen: a signature that another process, batch or release of numpy would make otherwise.

Shingles are near.py's: 5 words, or 10 characters where one begins with a Chinese, Japanese or Korean one, lower case and
without punctuation. 14 bands of 8 rows are FineWeb's: two texts with a share s of shingles in common meet in a band with
probability 1 - (1 - s^8)^14: 0.92 at s = 0.8, half at 0.69, 0.05 at 0.5.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from puna.corpus import near
from puna.corpus.segment import Batch, Hashes, Mask, Places, mix, segment

Signatures = npt.NDArray[np.uint32]

BUCKETS, ROWS = 14, 8
HASHES = BUCKETS * ROWS
EMPTY = np.uint32(0xFFFFFFFF)  # every value of a text with too few shingles
_SEED = 20261101
_AT_ONCE = 1 << 15  # shingles worked on together: two arrays of 128 kB stay in the cache nearest to the core


def signatures(texts: Sequence[str] | Batch) -> Signatures:
    """The MinHash signatures of n texts: (n, 112); a text with under near.MIN_SHINGLES shingles has EMPTY throughout.

    Value k is the least (a_k * low + high) mod 2^32 over the shingles, low and high the halves of a shingle's 64-bit hash, a_k
    an odd constant: pairwise independent (Dietzfelbinger et al. 1997), and two 32-bit operations a shingle.
    """
    hashes, offsets = near.shingles_in(texts if isinstance(texts, Batch) else segment(texts))
    result = np.full((len(offsets) - 1, HASHES), EMPTY, np.uint32)
    enough = np.flatnonzero(np.diff(offsets) >= near.MIN_SHINGLES)
    first = 0
    while first < len(enough):
        last = int(np.searchsorted(offsets[enough + 1], offsets[enough[first]] + _AT_ONCE, "right"))
        last = max(last, first + 1)
        rows = enough[first:last]
        result[rows] = _least(hashes[offsets[rows[0]] : offsets[rows[-1] + 1]], offsets, rows)
        first = last
    return result


def _least(hashes: Hashes, offsets: Places, rows: Places) -> Signatures:
    """The signatures of the texts `rows` (r,), whose shingles (and those of too short texts between) are `hashes`."""
    # Between two rows there may stand a text with too few shingles: it is left out.
    kept = _shingles_of_rows(hashes, offsets, rows)
    counts = np.diff(offsets)[rows]
    starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)[:-1]])
    low, high = kept.astype(np.uint32), (kept >> np.uint64(32)).astype(np.uint32)
    values = np.empty_like(low)
    least = np.empty((HASHES, len(rows)), np.uint32)
    for k, factor in enumerate(_factors()):
        np.multiply(low, factor, out=values)
        values += high
        np.minimum.reduceat(values, starts, out=least[k])
    return least.T


def _shingles_of_rows(hashes: Hashes, offsets: Places, rows: Places) -> Hashes:
    if rows[-1] - rows[0] + 1 == len(rows):
        return hashes
    base = offsets[rows[0]]
    return np.concatenate([hashes[offsets[row] - base : offsets[row + 1] - base] for row in rows])


def _factors() -> Signatures:
    """112 fixed odd numbers, from splitmix64: no library's generator has a say."""
    return (mix(np.arange(_SEED, _SEED + HASHES, dtype=np.uint64)) >> np.uint64(32)).astype(np.uint32) | np.uint32(1)


def bands(found: Signatures, buckets: int = BUCKETS, rows: int = ROWS) -> tuple[Hashes, Mask]:
    """The band keys of signatures (n, h): (n, buckets) uint64, and which texts have any (n,): those with enough shingles.

    Two texts meet in band b where their keys [:, b] are equal; keys of different bands differ even where the rows agree.
    Raises ValueError where `buckets` * `rows` is over h.
    """
    if buckets * rows > found.shape[1]:
        raise ValueError(f"{buckets} x {rows} rows, but only {found.shape[1]} hashes")
    parts = found[:, : buckets * rows].reshape(len(found), buckets, rows).astype(np.uint64)
    keys = np.broadcast_to(mix(np.arange(buckets, dtype=np.uint64)), parts.shape[:2])
    for row in range(rows):
        keys = mix(keys ^ parts[:, :, row])
    return keys, ~(found == EMPTY).all(axis=1)


def similarity(one: Signatures, other: Signatures) -> npt.NDArray[np.float64]:
    """The estimated Jaccard similarity of the shingles of pairs of texts, (n, h) each: (n,), standard error sqrt(s(1-s)/h)."""
    return np.asarray((one == other).mean(axis=1), np.float64)
