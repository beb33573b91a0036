"""A web page's encoding, and the text of pages that are too hostile for a parser (`extract` reads the others).

Comes in: a page's bytes or markup. Goes out: its text, one block a line, without navigation, scripts and forms.
Must never happen: time that grows faster than the page. The standard `html.parser` needs over ten seconds for 200 kB of
"<!--" on Python 3.11 (CVE-2025-6069), so this scanner reads from left to right and never goes back.
"""

import io
import re
from html import unescape

from puna.corpus import streams

_DROP_TAGS = """
script style noscript template svg math nav header footer aside button select option iframe object figure canvas video audio
dialog menu
"""
_BLOCK_TAGS = """
address article aside blockquote body br center dd details div dl dt fieldset figcaption figure footer form h1 h2 h3 h4 h5 h6
head header hr html li main nav ol p pre section summary table tbody td tfoot th thead title tr ul
"""
_DROP = frozenset(_DROP_TAGS.split())
_BLOCK = frozenset(_BLOCK_TAGS.split())
# What stands inside is not markup at all: only the closing tag ends it.
_RAW = frozenset(["script", "style", "textarea", "title", "noscript", "iframe"])
_MAIN = frozenset(["main", "article"])
# A page that forgets to close one of the first is not lost: a tag of the second kind ends them, as it does in browsers.
_SMALL = frozenset(["svg", "math", "button", "select", "option", "object", "canvas", "video", "audio"])
_BREAKS_OUT = frozenset(["p", "h1", "h2", "h3", "h4", "h5", "h6", "article", "main", "section"])
_NAME = re.compile(r"[a-zA-Z][a-zA-Z0-9:-]*")
_SPACES = re.compile(r"[ \t\r\n\f\xa0\u3000]+")
_MAIN_SHARE = 0.3  # of the page's text: a smaller <main> or <article> is a teaser, not the text
_CHARSET = re.compile(rb"""<meta[^>]{0,200}?charset\s{0,8}=\s{0,8}["']?\s{0,8}([A-Za-z0-9_:.-]{2,40})""", re.IGNORECASE)


_HEAD = 1 << 16  # bytes in which a page declares its encoding

# Encodings that a page may declare, as browsers read them. An open list would let a page name "punycode" or "unicode_escape".
_DECLARED = {
    "gb2312": "gb18030", "gbk": "gb18030", "gb18030": "gb18030", "big5": "big5hkscs", "shift_jis": "cp932",
    "euc-jp": "euc_jp", "euc-kr": "cp949", "iso-8859-1": "cp1252", "koi8-r": "koi8_r",
    **{f"windows-{page}": f"cp{page}" for page in range(1250, 1259)},
    **{f"iso-8859-{part}": f"iso8859_{part}" for part in (2, 3, 4, 5, 6, 7, 8, 10, 13, 14, 15, 16)},
}  # fmt: skip


def decode_page(data: bytes, charset: str = "") -> tuple[str, str] | None:
    """A page's markup and the name of its encoding; None if it is binary or in no known encoding.

    What is whole UTF-8, or has a mark of byte order, is that, whatever the page says. Else the first known encoding that
    the server (`charset`) or a <meta> names, where "UTF-8" does not count, since it is not true. Else a guess.
    """
    encoding = streams.encoding_of(io.BytesIO(data))
    if encoding is None or encoding.name.endswith("guessed"):
        names = [charset, *(name.decode("ascii") for name in _CHARSET.findall(data[:_HEAD]))]
        codec = next((_DECLARED[name] for name in map(str.lower, names) if name in _DECLARED), None)
        if codec is not None and b"\0" not in data[:_HEAD]:
            encoding = streams.Encoding(f"{codec}, declared", codec, "replace")
    return None if encoding is None else (data.decode(encoding.codec, encoding.errors), encoding.name)


class _Page:
    """What is collected while the scanner goes over a page."""

    def __init__(self) -> None:
        self.lines: list[tuple[bool, str]] = []  # (inside <main> or <article>, text of one block)
        self._parts: list[str] = []
        self._dropping: dict[str, int] = {}
        self._main = 0
        self._pre = 0

    def text(self, raw: str) -> None:
        if not self._dropping and raw:
            self._parts.append(raw)

    def end_block(self) -> None:
        text = unescape("".join(self._parts))
        self._parts = []
        pieces = text.split("\n") if self._pre else [_SPACES.sub(" ", text)]
        for piece in pieces:
            line = piece.rstrip() if self._pre else piece.strip()
            if line.strip():
                self.lines.append((self._main > 0, line))

    def tag(self, name: str, closing: bool) -> None:
        if name in _BLOCK:
            self.end_block()
        change = -1 if closing else 1
        if name in _BREAKS_OUT and not closing and self._dropping:
            self._dropping = {kept: depth for kept, depth in self._dropping.items() if kept not in _SMALL}
        if name in _DROP:
            depth = self._dropping.get(name, 0) + change
            # Only the name that opened a dropped part can close it; a stray closing tag opens nothing.
            self._dropping.pop(name, None)
            if depth > 0:
                self._dropping[name] = depth
        elif name in _MAIN:
            self._main = max(0, self._main + change)
        elif name == "pre":
            self._pre = max(0, self._pre + change)


def main_text(markup: str) -> str:
    """The text of a page: of <main> or <article> where that holds a good part of it, else of the whole body."""
    page = _Page()
    lower = _ascii_lower(markup)
    place, end = 0, len(markup)
    while place < end:
        opening = markup.find("<", place)
        if opening < 0:
            page.text(markup[place:])
            break
        page.text(markup[place:opening])
        place = _markup_end(markup, lower, opening, page)
    page.end_block()
    inside = [line for main, line in page.lines if main]
    everything = [line for _, line in page.lines]
    size = sum(map(len, everything))
    chosen = inside if sum(map(len, inside)) >= _MAIN_SHARE * size and inside else everything
    return "\n".join(chosen)


def _markup_end(markup: str, lower: str, opening: int, page: _Page) -> int:
    # The index after the markup that opens at `opening`; a "<" that opens none is text.
    if markup.startswith("<!--", opening):
        return _after(markup, "-->", opening + 4)
    if markup.startswith(("<!", "<?"), opening):
        return _after(markup, ">", opening + 2)
    closing = markup.startswith("</", opening)
    name_at = opening + (2 if closing else 1)
    found = _NAME.match(markup, name_at)
    if found is None:
        page.text("<")
        return opening + 1
    name = found.group().lower()
    end = _after(markup, ">", found.end())
    self_closed = markup.endswith("/>", opening, end) and name not in _RAW
    if not self_closed or (name in _BLOCK and name not in _DROP):
        page.tag(name, closing)
    if name in _RAW and not closing:
        stop = lower.find(f"</{name}", end)
        stop = len(markup) if stop < 0 else stop
        if name == "title":
            page.text(markup[end:stop])
        return stop
    return end


def _after(markup: str, mark: str, start: int) -> int:
    found = markup.find(mark, start)
    return len(markup) if found < 0 else found + len(mark)


_LOWER = {upper: upper + 32 for upper in range(65, 91)}


def _ascii_lower(text: str) -> str:
    # str.lower changes the length of some letters, and places in both strings must agree.
    return text.translate(_LOWER)
