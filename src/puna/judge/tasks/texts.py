"""Any text as items for bits per byte.

Comes in: a file. Goes out: pieces of it, each with its place. Must never happen: a byte of the text left out without a word, or a
piece that grows with the file.
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from puna.judge.tasks import forms

PIECE = 2000  # bytes that paragraphs are gathered to: longer than stories260K's context in bytes, short enough for many items
LEAST_BLOCKS = 20  # of a plain file, where it has so many pieces: fewer give no interval to speak of
_BLANK = re.compile(r"(\n[ \t\r]*\n\s*)")
_FIELDS = ("text", "content")


def holds_rows(path: Path) -> bool:
    """Whether a file is read row by row; else it is plain text."""
    return forms.form_of(path) in (".jsonl", ".ndjson", ".json", ".csv", ".tsv")


def block(count: int) -> int:
    """How many neighbouring pieces of a plain file of `count` are one cluster: the cube root of their number, which is the order of
    the best block of a bootstrap of a mean (Hall, Horowitz and Jing 1995, Biometrika 82), and LEAST_BLOCKS blocks at least."""
    return max(1, min(count // LEAST_BLOCKS, round(count ** (1 / 3))))


def pieces(path: Path, whole: str, broken: Callable[[str], None]) -> Iterator[tuple[str, str]]:
    """(place, text) of a file whose text is `whole`: its rows' `text` (or `content`), or its paragraphs gathered to about PIECE bytes.

    A plain file's pieces make up the whole file, but for blank pieces: nothing else of it is left out. A paragraph over PIECE
    bytes is cut at a space, or where it has none, between two characters. What is no row, and a row without text, is told to `broken` with its line.
    """
    if holds_rows(path):
        for placed in forms.rows(path, "rows", whole, broken):
            text = next((placed.row[key] for key in _FIELDS if isinstance(placed.row.get(key), str)), None)
            if text is None:
                broken(f"{placed.where}: has no field {' or '.join(_FIELDS)}")
            elif not _is_text(text):
                broken(f"{placed.where}: holds half of a surrogate pair, which is no text")
            elif text.strip():
                yield str(placed.number), text
        return
    line, before, again = 1, 0, 1
    for piece in _gathered(whole):
        if piece.strip():
            again = again + 1 if line == before else 1
            yield (
                (f"{line}.{again}" if again > 1 else str(line)),
                piece,
            )  # of a long line each piece has a name of its own
            before = line
        line += piece.count("\n")


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _gathered(text: str) -> Iterator[str]:
    parts = _BLANK.split(text)
    paragraphs = [part + blank for part, blank in zip(parts[::2], [*parts[1::2], ""], strict=True)]
    held, size = "", 0
    for paragraph in (short for long in paragraphs for short in _cut(long)):
        length = len(paragraph.encode())
        if held and size + length > PIECE:
            yield held
            held, size = "", 0
        held, size = held + paragraph, size + length
    if held:
        yield held


def _cut(paragraph: str) -> Iterator[str]:
    while len(data := paragraph.encode()) > PIECE:
        whole = data[:PIECE].decode(errors="ignore")
        at = max(whole.rfind(" "), whole.rfind("\n")) + 1
        head = whole[: at or len(whole)]
        yield head
        paragraph = paragraph[len(head) :]
    if paragraph:
        yield paragraph
