"""A reply in Markdown, cut into blocks while it grows.

In: text, a few characters at a time. Out: blocks that nothing to come can change, and the one that is still open.
Must never happen: a character of the reply is in no block, or a block that was given out as closed would be another one
after the next character.

CommonMark closes blocks line by line: once a block at the top level has begun, the one before it is over for good. An
unfinished line says nothing yet ("#" may become "#hashtag", which belongs to the quotation before it), so only whole lines
close blocks.
"""

import re
from dataclasses import dataclass

from markdown_it import MarkdownIt
from markdown_it.token import Token

from puna.cli.chatting.wrap import breaks

MOST = (
    8000  # characters of an open block; beyond, its first part is given out: what is drawn again and again stays small
)
_NESTING = (
    100  # levels; deeper ones would be dropped by the parser in silence (the screen shows such blocks as they are)
)

# HTML, links, pictures, entities and link definitions stay as they were written: nothing is hidden behind a text, nothing
# is left out, and no entity (`&#13;`) becomes a control character. Line ends within a paragraph stay line ends.
PARSER = (
    MarkdownIt("commonmark", {"html": False, "maxNesting": _NESTING})
    .enable(["table", "strikethrough"])
    .disable(["link", "image", "autolink", "entity", "reference", "newline"])
)


_BLANK = re.compile(r"[ \t]*\n")


@dataclass(frozen=True)
class Block:
    """One block's Markdown. `joined`: it goes on where the block before was cut, with no space between."""

    source: str
    joined: bool = False


class Blocks:
    """A growing reply. `add` text; `closed` gives each closed block out once; `open` is the rest."""

    def __init__(self) -> None:
        self._text = ""
        self._joined = False
        self._lines_seen = 0  # characters of whole lines at the last look: without a new line nothing closes

    def add(self, text: str) -> None:
        """Grow."""
        self._text += text

    @property
    def open(self) -> Block:
        """What is not closed yet; its source may be empty or blank."""
        return self._block(len(self._text))

    def closed(self) -> list[Block]:
        """The blocks that have closed since the last call."""
        whole = self._text.rfind("\n") + 1
        if whole == self._lines_seen:
            return []
        starts = [first for first, _ in _spans(PARSER.parse(self._text[:whole]), level=0)]
        found = []
        for lines in reversed(_counts(starts)):
            found.append(self._take(_length(self._text, lines)))
        self._lines_seen = self._text.rfind("\n") + 1
        return found

    def cut(self, width: int) -> Block | None:
        """Close the first part of an open block that has grown too large; None where it holds nothing to cut.

        Code is cut between lines and a list between items, with nothing lost; text of one line where a row of `width`
        cells ends. A pair of marks around that place is shown as it was written. A table is left whole up to `MOST`.
        """
        whole = self._text.rfind("\n") + 1  # its whole lines are one block: more of them would have been closed
        tokens = PARSER.parse(self._text[:whole] or self._text)
        kind = tokens[0].type if tokens else ""
        if kind == "fence":
            return self._cut_fence(tokens[0], whole)
        if kind.endswith("_list_open"):
            items = _spans(tokens, level=1)
            if len(items) > 1:
                return self._take(_length(self._text, items[-1][0]), joined=True)
        if kind in ("paragraph_open", "code_block", "blockquote_open") or len(self._text) > MOST:
            last = (
                self._text.rfind("\n", 0, max(0, whole - 1)) + 1
            )  # where the last whole line begins: it may head a table
            place = last or whole or breaks(self._text, width)[-1:]
            return self._take(place if isinstance(place, int) else place[0], joined=True) if place else None
        return None

    def _cut_fence(self, fence: Token, whole: int) -> Block | None:
        """The whole lines of code but the last; the rest opens with the same fence."""
        start = _length(self._text, fence.map[0] if fence.map else 0)
        code = self._text.find("\n", start) + 1
        last = self._text.rfind("\n", 0, max(0, whole - 1)) + 1
        if not 0 < code < last:
            return None
        block, opening = self._block(last), self._text[start:code]
        self._text, self._joined, self._lines_seen = opening + self._text[last:], True, 0
        return block

    def _take(self, length: int, joined: bool = False) -> Block:
        block = self._block(length)
        self._text, self._joined, self._lines_seen = self._text[length:], joined, 0
        return block

    def _block(self, length: int) -> Block:
        after_blank = _BLANK.match(self._text) is not None  # then it does not go on with what was cut
        return Block(self._text[:length], self._joined and not after_blank)


def _spans(tokens: list[Token], level: int) -> list[tuple[int, int]]:
    """The lines of the blocks at one level: first, and the one after the last."""
    return [
        (token.map[0], token.map[1])
        for token in tokens
        if token.level == level and token.nesting >= 0 and token.map and token.type != "inline"
    ]


def _counts(starts: list[int]) -> list[int]:
    """How many lines each closed block takes, the last one first."""
    if len(starts) < 2:
        return []
    edges = [0, *starts[1:]]
    return [after - before for before, after in zip(edges, edges[1:], strict=False)][::-1]


def _length(text: str, lines: int) -> int:
    """The characters of the first `lines` lines."""
    end = 0
    for _ in range(lines):
        end = text.index("\n", end) + 1
    return end
