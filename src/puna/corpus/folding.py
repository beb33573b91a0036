"""Text with its differences of width and form taken out, and the way back to the places of the original.

Comes in: a text. Goes out: the same text with full-width, half-width, ligature and composed forms as one (NFKC), and for any
stretch of it the stretch of the original. Must never happen: a place that points beside the character it came from.

Only letters and digits are folded, for nothing else becomes a token; soft hyphens and zero-width spaces inside words go.
"""

import sys
import unicodedata
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

Places = npt.NDArray[np.int64]

_LAST = 0x20000  # the compatibility ideographs beyond are too rare to ask for
_INVISIBLE = dict.fromkeys((0xAD, 0x200B, 0x2060, 0xFEFF))
_COMBINING = ((0x300, 0x36F), (0x3099, 0x309A))
_CHANGES, _COMBINES = 1, 2


@dataclass(frozen=True, slots=True)
class Folded:
    """A folded text. Piece i, changed in folding, is text[begins[i]:ends[i]], and was original[was_begins[i]:was_ends[i]]."""

    text: str
    begins: Places
    ends: Places
    was_begins: Places
    was_ends: Places

    def original(self, places: Places, *, end: bool) -> Places:
        """The places in the original text of `places` in the folded one; inside a changed piece its beginning, or its end."""
        if not len(self.begins):
            return places
        before = np.searchsorted(self.ends, places, "right")  # pieces that lie wholly before each place
        shifts = np.concatenate([np.zeros(1, np.int64), self.was_ends - self.ends])
        inside = np.minimum(before, len(self.begins) - 1)
        within = (before < len(self.begins)) & (self.begins[inside] < places)
        return np.where(within, (self.was_ends if end else self.was_begins)[inside], places + shifts[before])


_NOWHERE = np.empty(0, np.int64)


def fold(text: str) -> Folded:
    """`text` with its letters and digits in NFKC; most texts are so already, and are returned as they are."""
    if text.isascii():
        return Folded(text, _NOWHERE, _NOWHERE, _NOWHERE, _NOWHERE)
    kinds = _kinds()[np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")]
    places = np.flatnonzero(kinds)
    if not len(places):
        return Folded(text, _NOWHERE, _NOWHERE, _NOWHERE, _NOWHERE)
    breaks = np.flatnonzero(np.diff(places, prepend=-2) > 1)
    begins, ends = places[breaks], places[np.append(breaks[1:], len(places)) - 1] + 1
    begins = np.where(
        (kinds[begins] == _COMBINES) & (begins > 0), begins - 1, begins
    )  # a mark belongs to the letter before
    parts: list[str] = []
    sizes: list[int] = []
    last = 0
    for begin, end in zip(begins.tolist(), ends.tolist(), strict=True):
        piece = unicodedata.normalize("NFKC", text[begin:end].translate(_INVISIBLE))
        parts += [text[last:begin], piece]
        sizes.append(len(piece))
        last = end
    parts.append(text[last:])
    size = np.array(sizes)
    grown = np.cumsum(size - (ends - begins))  # how many characters longer the text has become by the end of each piece
    return Folded("".join(parts), ends + grown - size, ends + grown, begins, ends)


@lru_cache(maxsize=1)
def _kinds() -> npt.NDArray[np.uint8]:
    """For each code point whether it is left as it is (0), changes in NFKC, or may combine with the one before it."""
    kinds = np.zeros(sys.maxunicode + 1, np.uint8)
    for point in range(0x80, _LAST):
        form = unicodedata.normalize("NFKC", char := chr(point))
        if form != char and any(c.isalnum() for c in form):
            kinds[point] = _CHANGES
    kinds[list(_INVISIBLE)] = _CHANGES
    for first, last in _COMBINING:
        kinds[first : last + 1] = _COMBINES
    return kinds


def canonical(text: str, starts: Places, ends: Places) -> str:
    """The tokens text[starts[i]:ends[i]] in lower case, a space between two: equal for equal tokens of segment()."""
    return " ".join([_lower(text[a:b]) for a, b in zip(starts.tolist(), ends.tolist(), strict=True)])


def _lower(token: str) -> str:
    if token.isascii():
        return token.lower()
    # Character by character, as segment() does: Σ is σ at the end of a word too.
    return "".join(small if len(small := char.lower()) == 1 else char for char in token)
