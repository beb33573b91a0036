"""What is measured of a text: Gopher's, C4's and FineWeb's quality heuristics, and repetition, for a batch at once.

Comes in: texts and their languages. Goes out: one array of numbers a measure (thresholds.MEASURES names them). Must never
happen: a measure that depends on the batch, or a text that costs more than its length.

What each one means is datatrove's reading (Apache-2.0, pipeline/filters) of Rae et al. 2021, Raffel et al. 2020 and Penedo
et al. 2024, with three differences. Words are cut by segment.words. Space at the end of a line hides no punctuation, and a
line of nothing but space is an empty one. C4 takes lines out and counts what is left; here the same lines are left out of
`sentences`, and the text itself stays as it is.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from puna.corpus.repetition import Found, Measures, measure_repetition, share
from puna.corpus.segment import (
    ALPHA,
    CLOSING,
    KIND,
    LETTERLIKE,
    OTHER,
    TERMINAL,
    Chunk,
    Hashes,
    Mask,
    Places,
    case_kept,
    chunks,
    hashes_of,
    lines,
    owners_of,
    per_text,
    running_sum,
    word_hash,
    words,
)
from puna.corpus.thresholds import MEASURES, Thresholds, load_thresholds

SHORT_LINE = 30  # characters: FineWeb's short_line_length
LONGEST_WORD, FEWEST_WORDS = 1000, 3  # C4: a line with a longer word, or fewer words, is no line of text
_HASH, _STOP, _ELLIPSIS, _BRACE, _BULLET, _DASH = map(ord, "#.…{•-")
_SCRIPT = ("javascript",)
_POLICY = ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies")
_LOREM = "lorem ipsum"


def measure(texts: Sequence[str], langs: Sequence[str], thresholds: Thresholds | None = None) -> Measures:
    """All measures of n texts: {measure: float64 (n,)}, in the order of thresholds.MEASURES.

    langs: the language of each text, ISO 639-1. thresholds: whose stop words are counted; None: those that ship with Puna.
    """
    stops = _StopWords(load_thresholds() if thresholds is None else thresholds)
    parts = [_measure_chunk(chunk, langs[chunk.first : chunk.first + len(chunk)], stops) for chunk in chunks(texts)]
    return {name: np.concatenate([np.empty(0), *(part[name] for part in parts)]) for name in MEASURES}


def _measure_chunk(chunk: Chunk, langs: Sequence[str], stops: "_StopWords") -> Measures:
    starts, ends = words(chunk, langs)
    line_starts, line_ends, line_offsets = lines(chunk)
    first = np.searchsorted(starts, line_starts)  # the first word of each line
    beyond = np.searchsorted(starts, line_ends)
    sums = running_sum(case_kept(chunk.points))
    found = Found(
        sums=sums,
        codes=hashes_of(sums, starts, ends),
        starts=starts,
        ends=ends,
        offsets=np.searchsorted(starts, chunk.offsets),
        line_starts=line_starts,
        line_ends=line_ends,
        line_offsets=line_offsets,
        blank=first == beyond,
    )
    result = _of_words(chunk, found, langs, stops)
    result.update(_of_lines(chunk, found, first, beyond))
    result.update(measure_repetition(chunk, found))
    return result


def _of_words(chunk: Chunk, found: Found, langs: Sequence[str], stops: "_StopWords") -> Measures:
    starts, ends, offsets = found.starts, found.ends, found.offsets
    total = np.diff(offsets)
    bits = _bits_of_words(chunk, found)
    real = (bits & LETTERLIKE) != 0
    lengths = ends - starts
    count = per_text(real, offsets)
    sign = chunk.points[starts]
    # Words that are a run of one sign: "#", "…", and "..." once for each three dots.
    hashes = per_text(np.where(sign == _HASH, lengths, 0), offsets)
    dots = per_text(np.where(sign == _ELLIPSIS, lengths, 0) + np.where(sign == _STOP, lengths // 3, 0), offsets)
    return {
        "words": count.astype(np.float64),
        "mean_word_length": share(per_text(lengths * real, offsets), count),
        "hashes": share(hashes, total),
        "ellipses": share(dots, total),
        "alphabetic_words": share(per_text((bits & ALPHA) != 0, offsets), total),
        "stop_words": stops.count(found.codes, offsets, langs),
        "newlines": share(np.diff(found.line_offsets) - 1, total),
        "braces": np.diff(np.searchsorted(np.flatnonzero(chunk.points == _BRACE), chunk.offsets)).astype(np.float64),
    }


def _bits_of_words(chunk: Chunk, found: Found) -> "np.ndarray[tuple[int], np.dtype[np.uint16]]":
    """The flags that any character of each word has (w,). What stands between two words is space, which has none."""
    if len(found.starts) == 0:
        return np.empty(0, np.uint16)
    return np.bitwise_or.reduceat(chunk.flags & (LETTERLIKE | ALPHA), found.starts)


def _of_lines(chunk: Chunk, found: Found, first: Places, beyond: Places) -> Measures:
    points, flags, offsets = chunk.points, chunk.flags, found.line_offsets
    visible = ~found.blank
    # A blank line has no first and no last word; its values are never used, so any place will do.
    safe_first, safe_last = np.minimum(first, len(found.starts) - 1), np.maximum(beyond - 1, 0)
    if len(found.starts) == 0:
        none = np.zeros(len(chunk))
        names = ("bullet_lines", "ellipsis_lines", "punctuated_lines", "short_lines")
        return dict.fromkeys((*names, "sentences", "whole_lines", "script_lines", "policy_lines", "lorem_ipsum"), none)
    opening = points[found.starts[safe_first]]
    closing = found.ends[safe_last] - 1
    dots = (points[closing] == _STOP) & (found.ends[safe_last] - found.starts[safe_last] >= 3)
    ellipsis = visible & (dots | (points[closing] == _ELLIPSIS))
    bullets = visible & ((opening == _BULLET) | (opening == _DASH))
    ended = visible & ((flags[closing] & TERMINAL) != 0)
    # What str.splitlines counts: no empty line after the last line feed.
    count = np.diff(offsets) - (found.line_starts[offsets[1:] - 1] == found.line_ends[offsets[1:] - 1])
    seen = per_text(visible, offsets)
    short = visible & (found.line_ends - found.line_starts <= SHORT_LINE)
    script, policy, lorem = _phrases(chunk, found)
    kept, sentences = _whole_lines(chunk, found, first, beyond, script | policy)
    complete = ended | (visible & ((flags[closing] & CLOSING) != 0)) & ~dots
    return {
        "bullet_lines": share(per_text(bullets, offsets), count),
        "ellipsis_lines": share(per_text(ellipsis, offsets), count),
        "punctuated_lines": share(per_text(ended, offsets), seen),
        "short_lines": share(per_text(short, offsets), seen),
        "sentences": per_text(np.where(kept, sentences + (visible & ~complete & ~dots), 0), offsets).astype(np.float64),
        "whole_lines": share(per_text(kept & complete & ~dots, offsets), seen),
        "script_lines": share(per_text(script, offsets), seen),
        "policy_lines": share(per_text(policy, offsets), seen),
        "lorem_ipsum": per_text(lorem, offsets).astype(np.float64),
    }


def _whole_lines(chunk: Chunk, found: Found, first: Places, beyond: Places, odd: Mask) -> tuple[Mask, Places]:
    """Which lines C4 keeps whatever they end in, and how many sentences end in each line: two arrays (l,)."""
    ranges = np.append(first, beyond[-1:])
    real = (chunk.flags[found.starts] & KIND) != OTHER
    long = found.ends - found.starts > LONGEST_WORD
    stops = (chunk.flags[found.starts] & TERMINAL) != 0
    stops[1:] &= ~stops[:-1] | (found.starts[1:] != found.ends[:-1])  # "?!" ends one sentence
    kept = (per_text(real, ranges) >= FEWEST_WORDS) & (per_text(long, ranges) == 0) & ~odd
    return kept, per_text(stops, ranges)


def _phrases(chunk: Chunk, found: Found) -> tuple[Mask, Mask, Mask]:
    """The lines that speak of JavaScript, of cookies and terms of use, that hold lorem ipsum: three arrays (l,)."""
    text = chunk.joined.lower()
    if len(text) != len(chunk.joined):  # some capital has a lower case of two characters: keep the places true
        capital = (chunk.points >= ord("A")) & (chunk.points <= ord("Z"))
        lowered = np.where(capital, chunk.points + np.uint32(32), chunk.points).astype("<u4")
        text = lowered.tobytes().decode("utf-32-le", "surrogatepass")
    result = []
    for phrases in (_SCRIPT, _POLICY, (_LOREM,)):
        hits = np.zeros(len(found.line_ends), bool)
        for phrase in phrases:
            hits[np.searchsorted(found.line_ends, _places_of(phrase, text))] = True
        result.append(hits)
    return result[0], result[1], result[2]


def _places_of(phrase: str, text: str) -> Places:
    places = []
    place = text.find(phrase)
    while place >= 0:
        places.append(place)
        place = text.find(phrase, place + len(phrase))
    return np.array(places, np.int64)


@lru_cache(maxsize=4096)
def _hash_of(word: str) -> int:
    return word_hash(word)


class _StopWords:
    """The stop words of all languages as hashes, and which of them are whose."""

    def __init__(self, thresholds: Thresholds) -> None:
        tables = {"": thresholds.default, **thresholds.languages}
        self._codes = np.array(sorted({_hash_of(w) for t in tables.values() for w in t.stop_words}), np.uint64)
        self._whose = {
            lang: np.isin(self._codes, np.array([_hash_of(word) for word in table.stop_words], np.uint64))
            for lang, table in tables.items()
        }
        # Most words are none: 16 bits of their hash say so before any search.
        self._maybe = np.zeros(1 << 16, bool)
        self._maybe[(self._codes & np.uint64(0xFFFF)).astype(np.int64)] = True

    def count(
        self, codes: Hashes, offsets: Places, langs: Sequence[str]
    ) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
        """How many different stop words of its language each text holds: (n,)."""
        seen = np.zeros((len(langs), len(self._codes)), bool)
        if len(self._codes):
            places = np.flatnonzero(self._maybe[(codes & np.uint64(0xFFFF)).astype(np.uint16)])
            which = np.minimum(np.searchsorted(self._codes, codes[places]), len(self._codes) - 1)
            hit = self._codes[which] == codes[places]
            seen[owners_of(offsets)[places[hit]], which[hit]] = True
        own = np.array([self._whose[lang if lang in self._whose else ""] for lang in langs])
        return (seen & own.reshape(seen.shape)).sum(axis=1).astype(np.float64)
