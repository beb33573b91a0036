"""Repetition inside a document: lines, paragraphs and n-grams that it says again (Rae et al. 2021, table A1).

Comes in: a chunk of texts and where its words stand. Goes out: shares between 0 and 1, one array a measure. Must never
happen: a share that depends on the other texts of the chunk.

What each share means is datatrove's reading of the paper (Apache-2.0, pipeline/filters/gopher_repetition_filter.py). An
n-gram is looked at only where its two (n-1)-grams come back in the same text: all others cannot come back.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from puna.corpus.segment import Chunk, Hashes, Mask, Places, hashes_of, owners_of, per_text
from puna.corpus.thresholds import DUPLICATE_SIZES, TOP_SIZES

Measures = dict[str, npt.NDArray[np.float64]]

_PLACE_BITS = np.uint64(18)  # a place in a chunk; the other 46 bits of a sorting key are of the hash
_PACKED = 1 << int(_PLACE_BITS)
_STEP = np.uint64(0xD6E8FEB86659FD93)
_FIRST_BITS = 40


@dataclass(frozen=True, slots=True)
class Found:
    """Where the words and lines of a chunk stand: starts and ends in characters, offsets by text.

    sums: the running sum over the chunk's characters, case kept (see segment.running_sum); codes: the words' hashes; blank:
    lines of nothing but space.
    """

    sums: Hashes
    codes: Hashes
    starts: Places
    ends: Places
    offsets: Places
    line_starts: Places
    line_ends: Places
    line_offsets: Places
    blank: Mask


def measure_repetition(chunk: Chunk, found: Found) -> Measures:
    """All measures of thresholds.REPETITION for the texts of a chunk: {measure: (len(chunk),)}; 0 for an empty text."""
    sizes = np.diff(chunk.offsets) - 1
    return {**_paragraphs(chunk, found, sizes), **_lines(found, sizes), **_ngrams(found, sizes)}


def share(part: npt.NDArray[np.int64], whole: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """part / whole (n,), 0 where `whole` is 0."""
    return np.asarray(part / np.maximum(whole, 1), np.float64)


def said_before(codes: Hashes, owners: Places) -> Mask:
    """Which of the stretches with hashes `codes` (k,) stood earlier in the same text; `owners` (k,) ascend."""
    order, heads = _groups(codes, owners)
    again = np.zeros(len(codes), bool)
    again[order[~heads]] = True
    return again


def _groups(codes: Hashes, owners: Places) -> tuple[Places, Mask]:
    """The places 0..k-1 ordered so that equal (owner, code) stand together, earlier ones first; whether one begins a group.

    The lowest 18 bits of a code are not looked at. Sorting one packed number is several times faster than an argsort.
    """
    if len(codes) <= _PACKED:
        packed = np.sort((codes >> _PLACE_BITS << _PLACE_BITS) | np.arange(len(codes), dtype=np.uint64))
        order = (packed & np.uint64(_PACKED - 1)).astype(np.int64)
        codes = packed >> _PLACE_BITS
    else:
        order = np.argsort(codes >> _PLACE_BITS, kind="stable")
        codes = codes[order] >> _PLACE_BITS
    heads = np.ones(len(codes), bool)
    owners = owners[order]
    heads[1:] = (codes[1:] != codes[:-1]) | (owners[1:] != owners[:-1])
    return order, heads


def _lines(found: Found, sizes: Places) -> Measures:
    """Gopher cuts at runs of line feeds, so a blank line counts at the two ends of a text alone; FineWeb leaves all of them out."""
    starts, ends, offsets = found.line_starts, found.line_ends, found.line_offsets
    owners = owners_of(offsets)
    lengths = ends - starts
    some = ~found.blank
    again = np.zeros(len(starts), bool)
    again[some] = said_before(hashes_of(found.sums, starts[some], ends[some]), owners[some])
    breaks = np.diff(offsets) - 1
    first, last = found.blank[offsets[:-1]], found.blank[offsets[1:] - 1] & (breaks > 0)
    again_chars = per_text(again * lengths, offsets)
    return {
        "duplicate_lines": share(per_text(again, offsets) + (first & last), per_text(some, offsets) + first + last),
        "duplicate_line_characters": share(again_chars, sizes),
        "repeated_text": share(again_chars, sizes - breaks),
    }


def _paragraphs(chunk: Chunk, found: Found, sizes: Places) -> Measures:
    """Paragraphs are what two line feeds or more part in the text without the space around it."""
    owners = owners_of(found.line_offsets)
    bare = np.concatenate([found.starts, chunk.offsets[-1:]])
    opening = bare[found.offsets[:-1]][owners]
    bare = np.concatenate([np.zeros(1, np.int64), found.ends])
    closing = bare[found.offsets[1:]][owners]
    starts, ends = np.maximum(found.line_starts, opening), np.minimum(found.line_ends, closing)
    filled = (starts < ends) & ~found.blank
    same = owners[1:] == owners[:-1]
    first, last = filled.copy(), filled.copy()
    first[1:] &= ~(filled[:-1] & same)
    last[:-1] &= ~(filled[1:] & same)
    starts, ends, owners = starts[first], ends[last], owners[first]
    again = said_before(hashes_of(found.sums, starts, ends), owners)
    offsets = np.searchsorted(owners, np.arange(len(chunk) + 1))
    return {
        "duplicate_paragraphs": share(per_text(again, offsets), np.diff(offsets)),
        "duplicate_paragraph_characters": share(per_text(again * (ends - starts), offsets), sizes),
    }


def _ngrams(found: Found, sizes: Places) -> Measures:
    """Top n-grams are counted with one space between words; of duplicate ones, overlapping copies count once."""
    words, offsets, count = found.codes, found.offsets, len(found.codes)
    owners = owners_of(offsets)
    limit = offsets[1:][owners]
    lengths = np.zeros(count + 1, np.int64)
    np.cumsum(found.ends - found.starts, out=lengths[1:])
    result: Measures = {}
    places = np.flatnonzero(np.arange(count) + 2 <= limit)
    codes = words[places]
    for n in range(2, DUPLICATE_SIZES[-1] + 1):
        codes = codes * _STEP + words[places + n - 1]
        order, heads = _groups(codes, owners[places])
        begins = np.flatnonzero(heads)
        counts = np.diff(begins, append=len(order))
        many = np.flatnonzero(counts > 1)
        first = places[order[begins[many]]]
        if n in TOP_SIZES:
            best, times = _commonest(first, counts[many], owners, offsets, n)
            chars = lengths[np.minimum(best + n, count)] - lengths[best] + n - 1
            result[f"top_{n}_gram"] = share(np.where(times > 0, chars * times, 0), sizes)
        back = order[np.repeat(counts > 1, counts)]
        group = np.full(count + 1, -1, np.int64)
        group[places[back]] = np.repeat(many, counts[many])
        if n in DUPLICATE_SIZES:
            taken = _copies(group, first, n)
            chars = lengths[taken + n] - lengths[taken]
            result[f"duplicate_{n}_grams"] = share(per_text(chars, np.searchsorted(taken, offsets)), sizes)
        inside = (group[places] >= 0) & (group[places + 1] >= 0) & (places + n < limit[places])
        places, codes = places[inside], codes[inside]
    return result


def _commonest(first: Places, counts: Places, owners: Places, offsets: Places, n: int) -> tuple[Places, Places]:
    """Of each text, the place and the count of its commonest n-gram, the earliest of equals; count 0: too few words.

    `first` (k,) is where each n-gram that comes back stands first, `counts` (k,) how often it stands.
    """
    top = (1 << _FIRST_BITS) - 1
    best = np.where(np.diff(offsets) >= n, (1 << _FIRST_BITS) | (top - offsets[:-1]), 0)
    np.maximum.at(best, owners[first], (counts << _FIRST_BITS) | (top - first))
    return np.where(best > 0, top - (best & top), 0), best >> _FIRST_BITS


def _copies(group: Places, first: Places, n: int) -> Places:
    """Where copies of n-grams begin, taken from left to right without overlap: ascending places.

    group: for each place, a number for the n-grams that are equal in the same text, -1 for one without an equal; first: the
    places where each group stands first. An n-gram that begins inside a copy that was taken is neither counted nor remembered.
    """
    places = np.flatnonzero(group >= 0)
    is_first = np.zeros(len(group), bool)
    is_first[first] = True
    copies = places[~is_first[places]]
    # Most first ones lie in no copy that could be taken, and are remembered for certain: only the rest is gone through.
    before = np.searchsorted(copies, first)
    safe = first[(before == 0) | (first - copies[np.maximum(before, 1) - 1] >= n)] if len(copies) else first
    seen = set(group[safe].tolist())
    left = group >= 0
    left[safe] = False
    places = np.flatnonzero(left)
    beyond = np.cumsum(left)[
        places + n - 1
    ].tolist()  # for each, the next one that is no part of the copy beginning there
    keys = group[places].tolist()
    taken: list[int] = []
    at = 0
    while at < len(keys):
        if keys[at] in seen:
            taken.append(at)
            at = beyond[at]
        else:
            seen.add(keys[at])
            at += 1
    return places[np.array(taken, np.int64)]
