"""Texts cut into passages at places that the text itself chooses, so that two editions are cut alike.

Comes in: a text. Goes out: its passages; joined they are the text. Must never happen: a cut that depends on how lines are
wrapped, on punctuation, or on text more than a passage away.

Content-defined chunking (Muthitacharoen et al. 2001) with local minima for cuts (Bjorner et al. 2010): a sentence's end is a
cut where the hash of the KEY letters after it is the smallest of all within LEAST letters before and behind. So no passage is
shorter than LEAST letters, the mean is twice that, and after a difference the cuts of two editions meet again at the next one.
"""

import re

import numpy as np
import numpy.typing as npt

from puna.corpus.segment import ALPHA, DIGIT, case_kept, chunks, hashes_of, running_sum

LEAST = 1000  # letters and digits: passages of some 1,400 to 4,500 characters of English
KEY = 12  # letters
_LONG = 8 * LEAST  # a passage of more letters is cut between words
_TOP = np.uint64(0xFFFFFFFFFFFFFFFF)
_SENTENCE = re.compile(r"[.!?…][\"'’”»)\]_*]*\s+|[。！？…][”’」』）]*\s*|\n[ \t\r]*\n\s*")
_PHRASE = re.compile(r"\s+|[，；、：]")


def passages(text: str, least: int = LEAST) -> list[str]:
    """The passages of a text, in order. Time and memory are linear in its length (some 40 bytes a character).

    A passage has at least `least` letters and digits, about twice that on average, and hardly ever 8 times that: one that
    is longer, having no sentences, is cut between words or phrases. A text with less than `least` is one passage.
    """
    parts = []
    for part in _cut(text, _SENTENCE, least):
        parts.extend(_cut(part, _PHRASE, least) if len(part) > _LONG else [part])
    return parts


def _cut(text: str, boundary: re.Pattern[str], least: int) -> list[str]:
    ends = np.fromiter((match.end() for match in boundary.finditer(text)), np.int64)
    if len(ends) == 0:
        return [text]
    (chunk,) = chunks([text])
    letters = np.flatnonzero(chunk.flags & (ALPHA | DIGIT))
    # A boundary's place is the number of letters before it; of several with one place the first counts.
    places, first = np.unique(np.searchsorted(letters, ends), return_index=True)
    inside = (places >= least) & (places <= len(letters) - least)
    places, ends = places[inside], ends[first][inside]
    if len(ends) == 0:
        return [text]
    sums = running_sum(case_kept(chunk.points[letters]))
    hashes = hashes_of(sums, places, np.minimum(places + KEY, len(letters)))
    cuts = ends[_smallest_around(places, hashes, least, len(letters))]
    bounds = [0, *cuts.tolist(), len(text)]
    return [text[begin:end] for begin, end in zip(bounds[:-1], bounds[1:], strict=True) if begin < end]


def _smallest_around(
    places: npt.NDArray[np.int64], hashes: npt.NDArray[np.uint64], least: int, count: int
) -> npt.NDArray[np.bool_]:
    """Which hashes are the smallest of those less than `least` places away, of equal ones the first: (n,)."""
    spread = np.full(count + 1, _TOP)
    spread[places] = hashes
    width = least - 1
    blocks = -(-len(spread) // width) + 2
    padded = np.full((blocks, width), _TOP)  # one block of nothing before, at least one behind
    padded.ravel()[width : width + len(spread)] = spread
    ahead = np.minimum.accumulate(padded, axis=1).ravel()
    behind = np.minimum.accumulate(padded[:, ::-1], axis=1)[:, ::-1].ravel()
    at = places + width
    # The `width` places before `at`, and those behind it (van Herk 1992).
    before = np.minimum(behind[at - width], ahead[at - 1])
    after = np.minimum(behind[at + 1], ahead[at + width])
    return np.asarray((hashes < before) & (hashes <= after))
