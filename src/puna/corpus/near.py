"""Near-duplicates: shingles, their index, and the passages of a text that stand in the index already.

Comes in: texts. Goes out: 64-bit shingle hashes and shares of containment. Must never happen: a hash that changes from one
process to the next.

A shingle is 5 words in a row, or 10 characters where it begins with a Chinese, Japanese or Korean one (five would be a
common phrase). Containment of A in B is |S(A) & S(B)| / |S(A)| (Broder 1997): a copied passage has a share near 1, two
texts of one kind well below 0.2.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from puna.corpus import segment
from puna.corpus.documents import batched

Shingles = segment.Hashes

WORDS, CHARACTERS = 5, 10
MIN_SHINGLES = 8  # fewer say nothing
PASSAGE_BYTES = 400  # smallest passage that is judged by itself
_LARGE_BYTES = 4000
_BLANK_LINE = re.compile(r"\n[ \t]*\n")
_TOP_LEVEL = re.compile(r"\n[ \t]*\n(?=[^\s)\]}])")
_BATCH = 1 << 20  # characters worked on together
_SHIFT = np.uint64(64 - 25)
_STEP = np.uint64(0xC2B2AE3D27D4EB4F)


def shingles(text: str) -> Shingles:
    """The hashes of a text's shingles, in order: shape (n,), n at most its number of words and characters."""
    return shingles_of([text])[0]


def shingles_of(texts: Sequence[str]) -> tuple[Shingles, segment.Places]:
    """The shingles of many texts: hashes (s,) and offsets (len(texts) + 1,); text i has hashes[offsets[i]:offsets[i + 1]]."""
    return shingles_in(segment.segment(texts))


def shingles_in(batch: segment.Batch) -> tuple[Shingles, segment.Places]:
    """As shingles_of, of texts that are cut into tokens already."""
    count = len(batch.codes)
    limit = np.repeat(batch.offsets[1:], np.diff(batch.offsets))
    places = np.arange(count)
    words = np.flatnonzero(~batch.cjk & (places + WORDS <= limit))
    codes = np.empty(count, np.uint64)
    codes[words] = _windows(batch.codes, WORDS)[words]
    kept = np.zeros(count, bool)
    kept[words] = True
    if batch.cjk.any():
        characters = np.flatnonzero(batch.cjk & (places + CHARACTERS <= limit))
        codes[characters] = _windows(batch.codes, CHARACTERS)[characters]
        kept[characters] = True
    return segment.mix(codes[kept]), np.concatenate(
        [np.zeros(1, np.int64), np.cumsum(segment.per_text(kept, batch.offsets))]
    )


def _windows(codes: Shingles, length: int) -> Shingles:
    """The polynomial sum of `length` codes from each place on, modulo 2^64: (max(0, len(codes) - length + 1),)."""
    total = np.zeros(max(0, len(codes) - length + 1), np.uint64)
    for offset in range(length):
        total *= _STEP
        total += codes[offset : offset + len(total)]
    return total


def index_of(texts: Iterable[str]) -> Shingles:
    """The sorted, distinct shingles of many texts. Holds some texts at a time, and twice the index."""
    index, new, waiting = np.empty(0, np.uint64), list[Shingles](), 0
    for batch in batched(texts, _BATCH, len):
        new.append(np.unique(shingles_of(batch)[0]))
        waiting += len(new[-1])
        if waiting > len(index):
            index, new, waiting = np.unique(np.concatenate([index, *new])), [], 0
    return np.unique(np.concatenate([index, *new]))


class Filter:
    """A table that says of most shingles outside an index, without a search in it, that they are not in it: 32 MB."""

    def __init__(self, index: Shingles) -> None:
        self._index = index
        self._table = np.zeros(1 << 25, bool)
        self._table[index >> _SHIFT] = True

    def known(self, found: Shingles) -> npt.NDArray[np.bool_]:
        """As `known`, of the same index: booleans (n,)."""
        mask = self._table[found >> _SHIFT]
        maybe = np.flatnonzero(mask)
        mask[maybe] = known(self._index, found[maybe])
        return mask


def known(index: Shingles, found: Shingles) -> npt.NDArray[np.bool_]:
    """Which of `found` (n,) stand in the sorted `index`: booleans (n,)."""
    if len(index) == 0:
        return np.zeros(len(found), bool)
    places = np.minimum(np.searchsorted(index, found), len(index) - 1)
    return np.asarray(index[places] == found)


def containment(index: Shingles, text: str) -> float:
    """The share of a text's shingles that stand in `index`; 0 for a text with under MIN_SHINGLES of them."""
    return float(contained(index, [text])[0])


def contained(index: Shingles, texts: Sequence[str]) -> npt.NDArray[np.float64]:
    """The containment of each of n texts in `index`: (n,)."""
    found, offsets = shingles_of(texts)
    counts = np.diff(offsets)
    hits = segment.per_text(known(index, found), offsets)
    return np.where(counts >= MIN_SHINGLES, hits / np.maximum(counts, 1), 0.0)


def passages(text: str, code: bool) -> list[str]:
    """A text cut at blank lines into passages of at least PASSAGE_BYTES; joined they are the text.

    Code is cut where a definition at the top level begins, so that what stays is whole; only a passage of over 4,000 bytes
    (a long class) is cut at any blank line.
    """
    parts = _cut(text, _TOP_LEVEL if code else _BLANK_LINE, PASSAGE_BYTES)
    if not code:
        return parts
    cut: list[str] = []
    for part in parts:
        cut.extend([part] if len(part.encode()) <= _LARGE_BYTES else _cut(part, _BLANK_LINE, PASSAGE_BYTES))
    return cut


def _cut(text: str, boundary: re.Pattern[str], least: int) -> list[str]:
    parts: list[str] = []
    start = 0
    for match in boundary.finditer(text):
        if len(text[start : match.end()].encode()) >= least:
            parts.append(text[start : match.end()])
            start = match.end()
    rest = text[start:]
    if rest and parts and len(rest.encode()) < least:
        parts[-1] += rest
    elif rest:
        parts.append(rest)
    return parts


@dataclass(frozen=True, slots=True)
class Kept:
    """What stays of a text, and what was taken out: passages, bytes, the first of them; `whole` if nothing stays."""

    text: str
    passages: int
    bytes: int
    sample: str
    whole: bool


def take_out(index: Shingles, text: str, threshold: float, code: bool) -> Kept:
    """A training text without the passages that share `threshold` or more of their shingles with `index`.

    The text goes as a whole where it reaches the threshold as a whole, or where passages with half of its bytes do.
    """
    size = len(text.encode())
    found = shingles(text)
    hits = known(index, found)
    if len(found) >= MIN_SHINGLES and hits.mean() >= threshold:
        return Kept("", 0, size, text[:200], True)
    if hits.sum() < MIN_SHINGLES:
        return Kept(text, 0, 0, "", False)
    parts = passages(text, code)
    copied = contained(index, parts) >= threshold
    gone = [part for part, is_copy in zip(parts, copied, strict=True) if is_copy]
    lost = sum(len(part.encode()) for part in gone)
    if lost * 2 >= size:
        return Kept("", 0, size, text[:200], True)
    kept = "".join(part for part, is_copy in zip(parts, copied, strict=True) if not is_copy)
    return Kept(kept.strip("\n"), len(gone), lost, gone[0].strip()[:200] if gone else "", False)
