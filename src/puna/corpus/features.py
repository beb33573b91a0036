"""What the learned scorers read: hashed tokens of many texts at once, and a table to look hashes up in.

Comes in: texts. Goes out: numpy arrays, one entry a token. Must never happen: a hash that depends on the process or on the
batch; memory that grows with one giant document (only its first LIMIT code points are read).

A token is a word (a run of letters, marks and digits; lower case; every digit counts as 0, as in CCNet), one character of
a script written without spaces (Chinese, Japanese, Thai and so on; a Korean syllable too), a punctuation mark (a run of the
same one is one token), or a line break.
"""

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from puna.errors import PunaError

U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]
F32 = npt.NDArray[np.float32]

WORD, CHARACTER, MARK, BREAK = 1, 2, 3, 4  # the kinds of token; 0 is white space, which is none
LIMIT = 1 << 20  # code points of one document that are read: evidence enough, and a bound on memory
_CHUNK = 1 << 18  # code points that are worked on at once: the arrays of one chunk fit the second-level cache

_TABLE = 0x33480  # behind the last ideograph of Unicode 16; what lies beyond counts as a mark
_UNSPACED = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x1000, 0x109F),  # Myanmar
    (0x1100, 0x11FF),  # Hangul Jamo
    (0x1780, 0x17FF),  # Khmer
    (0x3005, 0x3007),
    (0x3040, 0x30FF),  # kana
    (0x3100, 0x318F),
    (0x31F0, 0x31FF),
    (0x3400, 0x4DBF),  # ideographs
    (0x4E00, 0x9FFF),
    (0xAC00, 0xD7A3),  # Hangul syllables
    (0xF900, 0xFAFF),
    (0x20000, _TABLE),
)
_POSITIONS = 256  # letters of a word that tell by their place; behind them only by what they are


@dataclass(frozen=True, slots=True)
class Tokens:
    """The tokens of n texts: `codes` (t,) 64-bit hashes, `kinds` (t,), `starts` and `ends` (t,) as code points within its
    own text, and `offsets` (n + 1,): those of text i are [offsets[i], offsets[i + 1])."""

    codes: U64
    kinds: npt.NDArray[np.uint8]
    starts: I64
    ends: I64
    offsets: I64

    def lengths(self) -> I64:
        """The number of tokens of each text: (n,)."""
        return np.diff(self.offsets)


def mix(values: U64) -> U64:
    """The finaliser of splitmix64 (Steele, Lea and Flood 2014): every bit of the answer depends on every bit of `values`."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


@lru_cache(maxsize=1)
def _tables() -> tuple[npt.NDArray[np.uint8], U64, U64]:
    """By code point: its kind and the random number of what it folds to; by place in the word: an odd factor."""
    kinds = np.full(_TABLE + 1, MARK, np.uint8)
    folded = np.arange(_TABLE + 1, dtype=np.uint64)
    for code in range(_TABLE):
        character = chr(code)
        category = unicodedata.category(character)
        if category[0] in "LMN":
            kinds[code] = WORD
            small = character.lower()
            folded[code] = ord("0") if category == "Nd" else ord(small) if len(small) == 1 else code
        elif character in "\n\r\v\f\x85\u2028\u2029":
            kinds[code] = BREAK
            folded[code] = ord("\n")
        elif category[0] == "Z" or category in {"Cc", "Cf"}:
            kinds[code] = 0
    for first, last in _UNSPACED:
        span = slice(first, last + 1)
        kinds[span] = np.where(kinds[span] == WORD, CHARACTER, kinds[span])
    numbers = mix(folded * np.uint64(0x9E3779B97F4A7C15) + np.uint64(1))
    places = mix(np.arange(1, _POSITIONS + 1, dtype=np.uint64) * np.uint64(0xD1B54A32D192ED03)) | np.uint64(1)
    return kinds, numbers, places


def chunks(texts: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Ranges [first, last) of texts that are worked on at once; each answer depends on its own text alone."""
    first, size = 0, 0
    for place, text in enumerate(texts):
        length = min(len(text), LIMIT)
        if size and size + length > _CHUNK:
            yield first, place
            first, size = place, 0
        size += length
    if first < len(texts):
        yield first, len(texts)


def tokenise(texts: Sequence[str]) -> Tokens:
    """The tokens of `texts`, of each its first LIMIT code points."""
    kinds, numbers, places = _tables()
    texts = [text[:LIMIT] for text in texts]
    lengths = np.array([len(text) for text in texts], np.int64)
    bounds = np.concatenate([[0], np.cumsum(lengths)])
    points = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), np.uint32)
    points = np.minimum(points, np.uint32(_TABLE))
    kind = kinds[points]
    inside = kind != 0
    begins = np.empty(len(points), bool)
    if len(points):
        # A token begins where the kind changes, at every character, and at a mark that differs from the one before.
        begins[0] = True
        np.not_equal(kind[1:], kind[:-1], out=begins[1:])
        begins[1:] |= kind[1:] == CHARACTER
        begins[1:] |= (kind[1:] == MARK) & (points[1:] != points[:-1])
        begins[bounds[:-1][lengths > 0]] = True
        begins &= inside
    where = np.flatnonzero(inside)
    first = np.flatnonzero(begins[where])  # of each token, in `where`
    starts = where[first]
    sizes = np.diff(np.append(first, len(where)))
    letters = numbers[points[where]]
    place = np.minimum(np.arange(len(where)) - np.repeat(first, sizes), _POSITIONS - 1)
    collapsed = np.isin(kind[starts], (MARK, BREAK))
    letters *= places[place]
    codes = np.add.reduceat(letters, first) if len(first) else np.empty(0, np.uint64)
    codes[collapsed] = numbers[points[starts[collapsed]]] * places[0]
    found = kind[starts]
    token_bounds = np.searchsorted(starts, bounds)
    # A blank line is no second break.
    keep = np.ones(len(starts), bool)
    keep[1:] = (found[1:] != BREAK) | (found[:-1] != BREAK)
    keep[token_bounds[:-1][np.diff(token_bounds) > 0]] = True
    before = np.concatenate([[0], np.cumsum(keep)])
    shift = np.repeat(bounds[:-1], np.diff(token_bounds))
    return Tokens(
        mix(codes[keep]),
        found[keep],
        (starts - shift)[keep],
        (starts + sizes - shift)[keep],
        before[token_bounds],
    )


def longer(shorter: U64, codes: U64) -> U64:
    """The hashes of the n-grams that end at each place (t,), from those of one token less (t,) and the tokens (t,).

    The first n - 1 of a text reach into the text before it: who calls masks them (`places_in_text`).
    """
    before = np.append(np.zeros(1, np.uint64), shorter[:-1])[: len(codes)]
    return joined(before, codes)


def joined(shorter: U64, codes: U64) -> U64:
    """The hashes of n-grams (t,) and of one more token each (t,): those of the longer n-grams (t,)."""
    return mix(shorter * np.uint64(0x9FB21C651E98DF25) + codes)


def words_at(texts: Sequence[str], tokens: Tokens, which: I64) -> list[str]:
    """The tokens at the places `which` (m,) as they are written, in lower case and cut to 64 letters: (m,)."""
    rows = (np.searchsorted(tokens.offsets, which, side="right") - 1).tolist()
    starts = tokens.starts[which]
    ends = np.minimum(tokens.ends[which], starts + 64)
    return [texts[row][a:b].lower() for row, a, b in zip(rows, starts.tolist(), ends.tolist(), strict=True)]


def letters(words: Sequence[str]) -> tuple[U64, I64, I64]:
    """The letters of words, each followed by an end: hashes (t,), how many stand before each in its word (t,), and the
    bounds of the words (n + 1,)."""
    numbers = _tables()[1]
    sizes = np.array([len(word) + 1 for word in words], np.int64)
    bounds = np.concatenate([[0], np.cumsum(sizes)])
    points = np.frombuffer(("\n".join(words) + "\n").encode("utf-32-le", "surrogatepass"), np.uint32)
    codes = numbers[np.minimum(points, np.uint32(_TABLE))][: bounds[-1]]
    return codes, np.arange(bounds[-1]) - np.repeat(bounds[:-1], sizes), bounds


def places_in_text(tokens: Tokens) -> I64:
    """How many tokens of its own text stand before each token: (t,)."""
    return np.arange(len(tokens.codes)) - np.repeat(tokens.offsets[:-1], tokens.lengths())


def bags(tokens: Tokens, bins: int, most: int = LIMIT, *, terms: bool = False) -> Any:
    """The hashed n-grams of n texts, of each its first `most` tokens, as a scipy CSR matrix (n, bins): 1 + ln of the count,
    each row of length 1.

    n-grams: each token, each pair, and triples of characters of unspaced scripts; with `terms` what carries the matter
    alone, words and pairs of characters. `bins` is a power of two.
    """
    from scipy import sparse

    place = places_in_text(tokens)
    text = np.repeat(np.arange(len(tokens.offsets) - 1), tokens.lengths())
    shift = np.uint64(64 - (bins.bit_length() - 1))
    character = tokens.kinds == CHARACTER
    columns, rows = [], []
    grams = tokens.codes
    for order in (1, 2) if terms else (1, 2, 3):
        there = (place >= order - 1) & (place < most)
        if terms or order == 3:
            there &= tokens.kinds == WORD if order == 1 else character
        columns.append((grams[there] >> shift).astype(np.int32))
        rows.append(text[there].astype(np.int32))
        grams = longer(grams, tokens.codes)
    row, column = np.concatenate(rows), np.concatenate(columns)
    shape = (len(tokens.offsets) - 1, bins)
    counts = sparse.coo_matrix((np.ones(len(row), np.float32), (row, column)), shape=shape).tocsr()
    return unit_rows(counts)


def unit_rows(counts: Any, weights: F32 | None = None) -> Any:
    """1 + ln of each count, times the weight of its column, each row scaled to length 1: a CSR matrix, changed in place."""
    counts.sum_duplicates()
    counts.data = 1 + np.log(counts.data)
    if weights is not None:
        counts.data *= weights[counts.indices]
    length = np.sqrt(sums(np.square(counts.data, dtype=np.float64), counts.indptr.astype(np.int64)))
    counts.data /= np.repeat(np.maximum(length, 1e-12), np.diff(counts.indptr)).astype(np.float32)
    return counts


def sums(values: npt.NDArray[Any], offsets: I64) -> npt.NDArray[np.float64]:
    """The sum of each run [offsets[i], offsets[i + 1]) of `values` (t,): (n,), 0 for an empty one; added left to right
    within the run, so that it does not depend on what stands beside it."""
    total = np.zeros(len(offsets) - 1, np.float64)
    full = np.flatnonzero(np.diff(offsets) > 0)
    if len(full):
        total[full] = np.add.reduceat(values.astype(np.float64), offsets[full])
    return total


class Index:
    """Sorted distinct 64-bit hashes, found again in about two steps: they are spread evenly, so the leading bits of a hash
    say where it must stand."""

    def __init__(self, keys: U64) -> None:
        self.keys = keys
        self._bits = max(1, len(keys).bit_length())
        edges = np.arange((1 << self._bits) + 1, dtype=np.float64) * 2.0 ** (64 - self._bits)
        starts = np.searchsorted(keys, edges[:-1].astype(np.uint64)) if len(keys) else np.zeros(1 << self._bits)
        self._starts = starts.astype(np.int32)
        self._padded = np.append(keys, np.uint64(0xFFFFFFFFFFFFFFFF))

    def find(self, hashes: U64) -> npt.NDArray[np.int32]:
        """The place of each hash (t,) among the keys, -1 where it is none of them: (t,)."""
        places = self._starts[(hashes >> np.uint64(64 - self._bits)).astype(np.int64)]
        there = self._padded[places]
        late = np.flatnonzero(there < hashes)
        while len(late):
            places[late] += 1
            there[late] = step = self._padded[places[late]]
            late = late[step < hashes[late]]
        return np.where((there == hashes) & (places < len(self.keys)), places, np.int32(-1))


def load_arrays(path: Path, kind: str) -> dict[str, npt.NDArray[Any]]:
    """The arrays of a model file of this `kind`. Raises PunaError where it is no such file; pickle is never read."""
    try:
        with np.load(path, allow_pickle=False) as held:
            arrays = {name: held[name] for name in held.files}
    except (OSError, ValueError, EOFError, KeyError) as error:
        raise PunaError(f"no {kind} model can be read here: {error}", where=str(path)) from error
    if str(arrays.pop("kind", "")) != kind:
        raise PunaError(f"this file holds no {kind} model", where=str(path))
    return arrays


def save_arrays(path: Path, kind: str, arrays: dict[str, npt.NDArray[Any]]) -> None:
    """Writes a model file: .npz, whose members carry numpy's fixed date, so equal models are equal bytes."""
    with path.open("wb") as out:
        np.savez(out, allow_pickle=False, kind=np.array(kind), **{name: arrays[name] for name in sorted(arrays)})
