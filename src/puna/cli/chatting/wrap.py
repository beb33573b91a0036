"""Where a line of text breaks on a terminal, English and Chinese alike.

In: text and a width in cells. Out: the places where a new row begins.
Must never happen: a row wider than the terminal, or a Chinese full stop alone at the begin of a row.

Rich breaks at spaces alone: a Chinese sentence is one word to it and would begin on a row of its own. Here a row also ends
between two wide characters, but not before closing punctuation nor after an opening one (the first rule of JIS X 4051 and
of GB/T 15834).
"""

from rich.cells import get_character_cell_size as cells
from rich.text import Text

_NEVER_FIRST = frozenset("，。、；：！？）】》」』〉〕”’…—％·,.;:!?)]}")
_NEVER_LAST = frozenset("（【《「『〈〔“‘([{")


def breaks(text: str, width: int) -> list[int]:
    """The places in a text without line ends at which its 2nd, 3rd, ... row begins, each row at most `width` cells wide.

    Spaces at a row's end may stand over its edge: they are not shown.
    """
    found: list[int] = []
    start, used, chance = 0, 0, 0  # chance: the last place in this row where it may end
    for place, letter in enumerate(text):
        size = cells(letter)
        if place > start and _may_break(text[place - 1], letter):
            chance = place
        if used + size > width and letter != " " and place > start:
            start = chance if chance > start else place
            found.append(start)
            used = sum(cells(one) for one in text[start:place])
            chance = start
        used += size
    return found


def _may_break(before: str, after: str) -> bool:
    if after in _NEVER_FIRST or before in _NEVER_LAST:
        return False
    if before == " ":
        return after != " "
    return after != " " and (cells(before) == 2 or cells(after) == 2)


def rows(text: Text, width: int, between_words: bool = True) -> list[Text]:
    """A text with line ends as rows of at most `width` cells; `between_words=False` breaks anywhere, as code wants it."""
    made = []
    for line in text.split("\n", allow_blank=True):
        plain = line.plain
        places = breaks(plain, width) if between_words else _anywhere(plain, width)
        for row in line.divide(places) if places else [line]:
            if between_words:
                row.rstrip()
            made.append(row)
    return made


def _anywhere(text: str, width: int) -> list[int]:
    found: list[int] = []
    used = 0
    for place, letter in enumerate(text):
        size = cells(letter)
        if used + size > width and used:
            found.append(place)
            used = 0
        used += size
    return found
