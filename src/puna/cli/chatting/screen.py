"""Where replies and notices go.

In: pieces of a reply as they are made, and notices. Out: plain text, or on a terminal Markdown that is drawn while it grows.
Must never happen: a model's control characters reach the terminal, a notice stands in a one-shot reply, or drawing slows
the reply down that it shows.

Blocks that are over are written once and belong to the scroll-back; only the open one is drawn again, and only its rows that
differ. An open block taller than the screen is cut where its Markdown allows it; where it does not (a long table), its last
rows are shown until it is over.
"""

import os
import time
from typing import TYPE_CHECKING, Protocol, TextIO

from puna.cli.chatting.safe import visible

if TYPE_CHECKING:
    from puna.cli.chatting.blocks import Block

WIDEST = 100  # columns of text: longer rows are hard to read
_FRAME = 0.05  # seconds between two drawings, at the least
_SHARE = 10  # and at least so many times what the last one took: drawing takes at most a tenth of the time
_ROOM = 2  # rows of the screen that the open block leaves free


class Reply(Protocol):
    """One reply on the screen: `add` its pieces, then `close` it."""

    def add(self, text: str) -> None:
        """Show a piece."""

    def close(self) -> None:
        """Show what is left, and end the line."""


class Screen:
    """Where replies and notices go. On a terminal notices are dim and control characters are made visible."""

    def __init__(self, out: TextIO, notes: TextIO, plain: bool = False) -> None:
        self._out, self._notes = out, notes
        self.terminal = out.isatty()
        self.edits = self.terminal and os.environ.get("TERM", "dumb") != "dumb"
        """Whether the cursor can be moved: lines can be edited, and with colours, replies drawn."""
        self.can_draw = self.edits and "NO_COLOR" not in os.environ
        self.plain = plain or not self.can_draw
        self._dim, self._bold, self._end = ("\x1b[2m", "\x1b[1m", "\x1b[0m") if self.can_draw else ("", "", "")

    def open(self) -> Reply:
        """Begin a reply."""
        return PlainReply(self) if self.plain else MarkdownReply(self._out)

    def reply(self, text: str) -> None:
        """Show a piece of a reply at once, as it is."""
        if text:
            self._out.write(visible(text) if self.terminal else text)
            self._out.flush()

    def line_end(self) -> None:
        """End the reply's line."""
        self.reply("\n")

    def say(self, text: str) -> None:
        """A notice within the conversation, broken between words where it is wider than the terminal."""
        for row in self._broken(visible(text)) if self.edits else [visible(text) if self.terminal else text]:
            self._out.write(f"{self._dim}{row}{self._end}\n")
        self._out.flush()

    def _broken(self, text: str) -> list[str]:
        from puna.cli.chatting.wrap import breaks

        words = text.lstrip(" ")
        first = len(text) - len(words)
        rest = first + 2 if first else 0  # what goes on stands further in
        edges = [0, *breaks(words, max(8, _size(self._out).columns - 1 - rest)), len(words)]
        rows = [words[start:end].rstrip() for start, end in zip(edges, edges[1:], strict=False)]
        return [" " * (rest if place else first) + row for place, row in enumerate(rows)]

    def head(self, name: str) -> None:
        """A line that says whose reply follows."""
        self._out.write(f"{self._bold}── {visible(name) if self.terminal else name} ──{self._end}\n")
        self._out.flush()

    def warn(self, text: str) -> None:
        """A notice beside a reply that must stand alone on stdout."""
        self._notes.write(f"{text}\n")
        self._notes.flush()


def _size(out: TextIO) -> os.terminal_size:
    size = os.get_terminal_size(out.fileno())
    return os.terminal_size((size.columns or 80, size.lines or 24))  # a pseudo-terminal that was told no size says 0


class PlainReply:
    """A reply as it is, each piece at once."""

    def __init__(self, screen: Screen) -> None:
        self._screen, self._ended = screen, False

    def add(self, text: str) -> None:
        """Show a piece."""
        self._screen.reply(text)
        self._ended = text.endswith("\n") if text else self._ended

    def close(self) -> None:
        """End the line where the reply has not."""
        if not self._ended:
            self._screen.line_end()


class MarkdownReply:
    """A reply's Markdown, drawn while it grows."""

    def __init__(self, out: TextIO) -> None:
        from puna.cli.chatting.blocks import Blocks
        from puna.cli.chatting.region import Region

        self._out = out
        self._blocks, self._region = Blocks(), Region()
        self._any = False  # a block was shown: the next one stands apart from it
        self._size = _size(out)
        self._next = 0.0  # when it may be drawn again (time.monotonic)

    def add(self, text: str) -> None:
        """Take a piece; it is drawn now, or with one of the next ones."""
        self._blocks.add(visible(text))
        began = time.monotonic()
        if began >= self._next:
            self._draw()
            ended = time.monotonic()
            self._next = ended + max(_FRAME, _SHARE * (ended - began))

    def close(self) -> None:
        """Draw the rest: all of it is final now."""
        self._draw(ended=True)

    def _draw(self, ended: bool = False) -> None:
        written = self._resized()
        final: list[str] = []
        for block in self._blocks.closed():
            final += self._settled(block)
        if ended:
            final += self._settled(self._blocks.open)
            empty = not final and not self._any
            written += self._region.update([""] if empty else final, [])
        else:
            cut, rows = self._room()
            final += cut
            written += self._region.update(final, rows)
        self._out.write(written)
        self._out.flush()

    def _room(self) -> tuple[list[str], list[str]]:
        """Rows of an open block that was cut because it is too tall, and the rows that stay open."""
        from puna.cli.chatting.blocks import MOST

        tallest = max(1, self._size.lines - _ROOM)
        final: list[str] = []
        while True:
            rest = self._blocks.open
            rows = self._rendered(rest)
            if len(rows) <= tallest and len(rest.source) <= MOST:
                return final, rows
            part = self._blocks.cut(self._width)
            if part is None:
                return final, rows[-tallest:]
            final += self._settled(part)

    @property
    def _width(self) -> int:
        return min(max(self._size.columns - 1, 8), WIDEST)  # a full row would wrap, or leave the cursor in between

    def _rendered(self, block: "Block") -> list[str]:
        from puna.cli.chatting.markdown import render

        rows = render(block, self._width)
        return ["", *rows] if rows and self._any and not block.joined else rows

    def _settled(self, block: "Block") -> list[str]:
        rows = self._rendered(block)
        self._any = self._any or bool(rows)
        return rows

    def _resized(self) -> str:
        """What to write first where the terminal has become too small for what is drawn.

        Some terminals break such rows anew and some cut them off, and none tells: so what was drawn is left as it is, and
        the open block is drawn once more below. Nothing above it is touched.
        """
        before, self._size = self._size, _size(self._out)
        narrower, lower = self._size.columns < before.columns, self._size.lines < before.lines
        rows = self._region.rows
        if (narrower and self._widest() >= self._size.columns) or (lower and len(rows) >= self._size.lines):
            return self._region.leave()
        return ""

    def _widest(self) -> int:
        """Cells of the widest row that is drawn."""
        from rich.text import Text

        return max((Text.from_ansi(row).cell_len for row in self._region.rows), default=0)
