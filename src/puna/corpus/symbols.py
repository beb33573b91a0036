"""The share of a text that is no letter.

Comes in: texts. Goes out: a share for each. Must never happen: a letter of any script counted as a symbol.
"""

import sys
import unicodedata
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

_LETTER, _SPACE = 1, 2


def shares(texts: Sequence[str]) -> npt.NDArray[np.float64]:
    """Of the characters other than spaces, the share that are neither letters nor marks of letters (Unicode L and M): (n,).

    1 for a text of spaces.
    """
    kinds = _kinds()
    out = np.ones(len(texts))
    for place, text in enumerate(texts):
        found = kinds[np.frombuffer(text.encode("utf-32-le"), "<u4")]
        solid = len(found) - int(np.count_nonzero(found == _SPACE))
        if solid:
            out[place] = 1.0 - int(np.count_nonzero(found == _LETTER)) / solid
    return out


@lru_cache(maxsize=1)
def _kinds() -> npt.NDArray[np.uint8]:
    kinds = np.zeros(sys.maxunicode + 1, np.uint8)
    for point in range(0x32400):  # no letter has a code point beyond
        char = chr(point)
        if char.isspace():
            kinds[point] = _SPACE
        elif unicodedata.category(char)[0] in "LM":
            kinds[point] = _LETTER
    return kinds
