"""Near-duplicates: shingles, their index, and the passages of a text that stand in the index already.

Comes in: texts. Goes out: 64-bit shingle hashes and shares of containment. Must never happen: a hash that changes from one
process to the next.

A shingle is 5 words in a row, or 10 characters where it begins with a Chinese, Japanese or Korean one (five would be a
common phrase). Containment of A in B is |S(A) & S(B)| / |S(A)| (Broder 1997): a copied passage has a share near 1, two
texts of one kind well below 0.2.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from zlib import crc32

import numpy as np
import numpy.typing as npt

Shingles = npt.NDArray[np.uint64]

WORDS, CHARACTERS = 5, 10
MIN_SHINGLES = 8  # fewer say nothing
PASSAGE_BYTES = 400  # smallest passage that is judged by itself
_LARGE_BYTES = 4000
_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uac00-\ud7a3"
_TOKEN = re.compile(f"[{_CJK}]|[^\\W{_CJK}]+")
_BLANK_LINE = re.compile(r"\n[ \t]*\n")
_TOP_LEVEL = re.compile(r"\n[ \t]*\n(?=[^\s)\]}])")
_FIRST_CJK = "\u3040"


def shingles(text: str) -> Shingles:
    """The hashes of a text's shingles, in order: shape (n,), n at most its number of words and characters."""
    tokens = _TOKEN.findall(text.lower())
    if len(tokens) < WORDS:
        return np.empty(0, np.uint64)
    codes = _mix(np.array([crc32(token.encode()) for token in tokens], np.uint64))
    words = _windows(codes, WORDS)
    cjk = np.array([len(token) == 1 and token >= _FIRST_CJK for token in tokens])
    if not cjk.any():
        return words
    characters = _windows(codes, CHARACTERS)
    starts = cjk[: len(words)]
    return np.concatenate([words[~starts], characters[cjk[: len(characters)]]])


def _mix(values: Shingles) -> Shingles:
    # The finaliser of splitmix64 (Steele et al. 2014) spreads 32-bit sums over 64 bits.
    with np.errstate(over="ignore"):
        values = (values + np.uint64(0x9E3779B97F4A7C15)) * np.uint64(0xBF58476D1CE4E5B9)
        values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _windows(codes: Shingles, length: int) -> Shingles:
    count = max(0, len(codes) - length + 1)
    total = np.zeros(count, np.uint64)
    with np.errstate(over="ignore"):
        for offset in range(length):
            total = total * np.uint64(0x100000001B3) + codes[offset : offset + count]
    return _mix(total)


def index_of(texts: Iterable[str]) -> Shingles:
    """The sorted, distinct shingles of many texts."""
    parts = [shingles(text) for text in texts]
    return np.unique(np.concatenate(parts)) if parts else np.empty(0, np.uint64)


def known(index: Shingles, found: Shingles) -> npt.NDArray[np.bool_]:
    """Which of `found` (n,) stand in the sorted `index`: booleans (n,)."""
    if len(index) == 0:
        return np.zeros(len(found), bool)
    places = np.minimum(np.searchsorted(index, found), len(index) - 1)
    return np.asarray(index[places] == found)


def containment(index: Shingles, text: str) -> float:
    """The share of a text's shingles that stand in `index`; 0 for a text with under MIN_SHINGLES of them."""
    found = shingles(text)
    return float(known(index, found).mean()) if len(found) >= MIN_SHINGLES else 0.0


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
    copied = [containment(index, part) >= threshold for part in parts]
    gone = [part for part, is_copy in zip(parts, copied, strict=True) if is_copy]
    lost = sum(len(part.encode()) for part in gone)
    if lost * 2 >= size:
        return Kept("", 0, size, text[:200], True)
    kept = "".join(part for part, is_copy in zip(parts, copied, strict=True) if not is_copy)
    return Kept(kept.strip("\n"), len(gone), lost, gone[0].strip()[:200] if gone else "", False)
