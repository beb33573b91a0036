"""Repair of one text, and cutting of long ones.

Comes in: text as it was decoded. Goes out: NFC text with "\\n" line ends, no control characters, no lone surrogates,
in pieces of at most `max_chars`. Must never happen: a repair that nobody counts.
"""

import re
import unicodedata
from collections.abc import Iterator

_LINE_ENDS = re.compile(r"\r\n?|\x85|\u2028|\u2029")
# C0 and C1 controls but tab and line feed, noncharacters, and marks of byte order inside text.
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x84\x86-\x9f\ufeff\ufffe\uffff]")
_SURROGATES = re.compile(r"[\ud800-\udfff]")
_TRAILING = re.compile(r"[ \t]+\n")
_BLANK_RUN = re.compile(r"\n{4,}")


def repair(text: str) -> tuple[str, list[str]]:
    """The repaired text and the names of the repairs that changed it."""
    done: list[str] = []

    def step(name: str, new: str, old: str) -> str:
        if new != old:
            done.append(name)
        return new

    text = step("line ends", _LINE_ENDS.sub("\n", text), text)
    text = step("lone surrogates", _SURROGATES.sub("\ufffd", text), text)
    text = step("control characters", _CONTROLS.sub("", text), text)
    if not unicodedata.is_normalized("NFC", text):
        text = step("NFC", unicodedata.normalize("NFC", text), text)
    text = step("trailing blanks", _BLANK_RUN.sub("\n\n\n", _TRAILING.sub("\n", text)), text)
    return text.strip("\n"), done


def split_long(text: str, max_chars: int) -> Iterator[str]:
    """Pieces of at most `max_chars` characters: cut at a line end, else at a sentence's end or a space, else anywhere.

    Joined again the pieces are the text, but for line feeds at the cuts.
    """
    start = 0
    while len(text) - start > max_chars:
        end = _cut(text, start, start + max_chars)
        piece = text[start:end].strip("\n")
        if piece:
            yield piece
        start = end
    rest = text[start:].strip("\n")
    if rest or start == 0:
        yield rest


def _cut(text: str, start: int, limit: int) -> int:
    # A cut in the first half would make many small pieces of a text with one early line end.
    floor = start + (limit - start) // 2
    for mark in ("\n", "。", ". ", " "):
        found = text.rfind(mark, floor, limit)
        if found > floor:
            return found + len(mark)
    return limit


def cut_at_paragraph(text: str, share: float) -> int:
    """Where to cut `text` so that about its last `share` falls away: the boundary nearest to that point.

    Boundaries are, in this order, blank lines, line ends, sentence ends; the first kind found within a tenth of the
    text from the wished point wins. With none of them the wished point itself.
    """
    wish = int(len(text) * (1 - share))
    reach = max(1, len(text) // 10)
    low, high = max(0, wish - reach), min(len(text), wish + reach)
    for mark in ("\n\n", "\n", "。", ". "):
        before, after = text.rfind(mark, low, wish), text.find(mark, wish, high)
        places = [place + len(mark) for place in (before, after) if place >= 0]
        if places:
            return min(places, key=lambda place: abs(place - wish))
    return wish
