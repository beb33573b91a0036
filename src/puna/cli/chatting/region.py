"""The rows at the end of a terminal that may still change.

In: rows that are final and rows that are not. Out: what to write so that the screen shows them, once.
Must never happen: a row above the region is touched, a row that has scrolled away is drawn again, or the screen flickers
(only rows that differ are written, and in one piece).

The cursor stands behind the region's last row. A row is never as wide as the terminal, so none wraps by itself.
"""

from collections.abc import Sequence

CLEAR_ROW, CLEAR_BELOW = "\x1b[K", "\x1b[J"


class Region:
    """What is drawn and may change. `update` gives back what to write."""

    def __init__(self) -> None:
        self._drawn: list[str] = []

    def update(self, final: Sequence[str], open_rows: Sequence[str]) -> str:
        """Replace the region by `final`, which leaves it for the scroll-back, and `open_rows`, which are the region then."""
        rows, before = [*final, *open_rows], self._drawn
        same = 0
        while same < min(len(rows), len(before)) and rows[same] == before[same]:
            same += 1
        if len(rows) < len(before):
            same = max(0, min(same, len(rows) - 1))  # what stands below must be cleared from a row that is written
        self._drawn = [*open_rows]
        pieces = []
        if same < len(before):
            up = len(before) - 1 - same
            pieces.append("\r" + (f"\x1b[{up}A" if up else ""))
        elif before and same < len(rows):
            pieces.append("\n")
        pieces.append("\n".join(f"{CLEAR_ROW}{row}" for row in rows[same:]))
        if len(rows) < len(before):
            pieces.append(CLEAR_BELOW)
        if final and not open_rows:
            pieces.append("\n")  # the region is empty: it begins at the left again
        return "".join(pieces)

    def leave(self) -> str:
        """Let the rows stand as they are and begin anew below: after the terminal has changed its size, no row is where it was."""
        written = "\n" if self._drawn else ""
        self._drawn = []
        return written

    @property
    def rows(self) -> list[str]:
        """What is drawn and may change."""
        return self._drawn
