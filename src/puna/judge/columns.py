"""Text in columns for the console: 80 wide, no colour, and letters that take two columns counted as two.

Comes in: text. Goes out: lines. Must never happen: a line wider than the console's.
"""

import textwrap
import unicodedata
from collections.abc import Sequence

WIDTH = 80


def fit(text: str, width: int, *, right: bool = False) -> str:
    """`text` padded or cut to `width` columns, to the left or to the right; Chinese characters take two."""
    kept, used = "", 0
    for char in text:
        size = 2 if unicodedata.east_asian_width(char) in "WF" else 1
        if used + size > width:
            break
        kept, used = kept + char, used + size
    space = " " * (width - used)
    return space + kept if right else kept + space


def wrap(text: str) -> list[str]:
    """A sentence in lines of the console's width, the further ones indented."""
    return textwrap.wrap(text, WIDTH, subsequent_indent="  ")


def cell(value: float, interval: Sequence[float] | None, sign: str = "") -> str:
    """A number with three decimals and its 95 % interval in 30 columns; `sign` "+" writes the plus too."""
    within = "-" if interval is None else f"{interval[0]:{sign}.3f} to {interval[1]:{sign}.3f}"
    return f"{value:{sign}.3f}".rjust(9) + within.rjust(21)
