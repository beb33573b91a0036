"""Bytes of strangers' files as bounded text: encodings, lines, pieces.

Comes in: a path. Goes out: decoded blocks and lines, none longer than a bound. Must never happen: memory that grows with
what a file claims (a 2 GB line), or a guess at an encoding that is not reported.
"""

import codecs
import io
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from puna.corpus.charset import guess_encoding, looks_binary
from puna.corpus.compressed import Hostile, Readable, open_bytes
from puna.corpus.compressed import unreadable as unreadable
from puna.errors import PunaError

LINE_LIMIT = 64 << 20  # bytes of one line
WHOLE_LIMIT = 256 << 20  # bytes of a file that must be read whole (one JSON value)
_BLOCK = 1 << 20
_SAMPLE = 1 << 18
_WHOLE_PER_DAMAGED = 20  # whole characters for each damaged place that make a file UTF-8; other encodings give about 0
_FOREIGN = re.compile(rb"[\x80-\xff]")
_NOT_ASCII = re.compile(r"[^\x00-\x7f]+")

_BOMS = [
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
]


@dataclass(frozen=True, slots=True)
class Encoding:
    """How a file is decoded. `name` is for the report; `codec` and `errors` are for Python."""

    name: str
    codec: str
    errors: str = "strict"


def find_encoding(path: Path, *, lines: bool, limit: int | None = None) -> Encoding | None:
    """How to decode a file, from one pass over its bytes (the first `limit` of them); None if it is binary.

    A mark of byte order decides; else the whole file as UTF-8; else, if whole UTF-8 characters far outnumber the damaged
    places, UTF-8 with replacement; else a guess from the bytes outside ASCII. With `lines`, a line over LINE_LIMIT raises
    PunaError here.
    """
    with open_bytes(path, Counter()) as stream:
        return encoding_of(stream, path, lines=lines, limit=limit)


def encoding_of(
    stream: Readable, path: Path = Path(), *, lines: bool = False, limit: int | None = None
) -> Encoding | None:
    """How to decode the bytes of `stream`, as `find_encoding` does; `path` is for errors alone."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    bad = run = whole = seen = 0
    bom: str | None = None
    head = b""
    sample = bytearray()
    while (limit is None or seen < limit) and (block := stream.read(_BLOCK)):
        seen += len(block)
        if not head:
            head = block[:8192]
            bom = next((codec for mark, codec in _BOMS if head.startswith(mark)), None)
            if bom is None and looks_binary(head):
                return None
        if lines:
            run = _longest_run(block, run, path)
        foreign = _FOREIGN.search(block)
        if foreign is None and decoder.getstate()[0] == b"":
            continue
        if foreign is not None and len(sample) < _SAMPLE:
            sample += block[max(0, foreign.start() - 64) : foreign.start() + _SAMPLE // 8]
        text = decoder.decode(block)
        replaced = text.count("\ufffd") - block.count(b"\xef\xbf\xbd")
        bad += max(0, replaced)
        whole += sum(map(len, _NOT_ASCII.findall(text))) - replaced
    if not head:
        return Encoding("empty", "utf-8")
    if bom is not None:
        return Encoding(bom, bom, "replace")
    if bad == 0:
        return Encoding("utf-8", "utf-8", "replace")  # what is left to replace is a sequence cut by the file's end
    if whole > _WHOLE_PER_DAMAGED * bad:
        return Encoding("utf-8, damaged", "utf-8", "replace")
    codec = guess_encoding(bytes(sample))
    return None if codec is None else Encoding(f"{codec}, guessed", codec, "replace")


def _longest_run(block: bytes, run: int, path: Path) -> int:
    first, last = block.find(b"\n"), block.rfind(b"\n")
    # A block is far smaller than the bound, so only a line that crosses blocks can be too long.
    if run + (len(block) if first < 0 else first) > LINE_LIMIT:
        raise too_long(path)
    return run + len(block) if last < 0 else len(block) - last - 1


def too_long(path: Path) -> PunaError:
    """The error for a line that is longer than any text has."""
    return Hostile(
        f"one line is longer than {LINE_LIMIT >> 20} MiB", where=str(path), mend="break it into lines, or leave it out"
    )


def read_blocks(path: Path, encoding: Encoding, skipped: Counter[str] | None = None) -> Iterator[str]:
    """A file's text in blocks of about a mebibyte, never cut inside a character; `skipped` as in `open_bytes`."""
    decoder: Any = codecs.getincrementaldecoder(encoding.codec)(encoding.errors)
    with open_bytes(path, skipped) as stream:
        while block := stream.read(_BLOCK):
            if text := decoder.decode(block):
                yield text
        if text := decoder.decode(b"", True):
            yield text


def read_whole(path: Path, encoding: Encoding, skipped: Counter[str] | None = None, limit: int = WHOLE_LIMIT) -> str:
    """A whole file's text; Hostile over `limit` characters."""
    parts: list[str] = []
    size = 0
    for block in read_blocks(path, encoding, skipped):
        size += len(block)
        if size > limit:
            raise Hostile(
                f"is larger than {limit >> 20} MiB and would have to be read whole",
                where=str(path),
                mend="split it, or use JSON lines",
            )
        parts.append(block)
    return "".join(parts)


def read_lines(path: Path, encoding: Encoding, skipped: Counter[str] | None = None) -> Iterator[str]:
    """Lines with their ends, cut at "\\n" alone (JSON strings may hold other separators); Hostile over LINE_LIMIT."""
    pending: list[str] = []
    held = 0
    for block in read_blocks(path, encoding, skipped):
        pieces = block.split("\n")
        for piece in pieces[:-1]:
            pending.append(piece + "\n")
            yield "".join(pending)
            pending, held = [], 0
        pending.append(pieces[-1])
        held += len(pieces[-1])
        if held > LINE_LIMIT:
            raise too_long(path)
    if rest := "".join(pending):
        yield rest


class Utf8:
    """A stream of UTF-16 or UTF-32 as UTF-8, so that lines can be cut as bytes."""

    def __init__(self, stream: Readable, codec: str) -> None:
        self._stream, self._held = stream, b""
        self._decoder: Any = codecs.getincrementaldecoder(codec)("replace")

    def read(self, size: int, /) -> bytes:
        """The next bytes, at most `size`."""
        while not self._held:
            block = self._stream.read(_BLOCK)
            self._held = self._decoder.decode(block, not block).encode("utf-8", "replace")
            if not block:
                break
        data, self._held = self._held[:size], self._held[size:]
        return data


def byte_lines(stream: Readable, start: int, stop: int | None, skipped: Counter[str]) -> Iterator[tuple[int, bytes]]:
    """(offset, line) of the lines that begin in [start, stop); of `start` > 0 the stream begins at `start` - 1.

    So the lines of [a, b) and [b, c) are those of [a, c) wherever b is. Lines keep no end. One over LINE_LIMIT is passed
    over with a count, and no more than the limit of it is held.
    """
    offset = max(0, start - 1)
    inside = start > 0  # a line that began before `start`, and is not ours
    pending: list[bytes] = []
    held, long = 0, False
    while block := stream.read(_BLOCK):
        *ends, rest = block.split(b"\n")
        for piece in ends:
            if not inside:
                if stop is not None and offset >= stop:
                    return
                if long:
                    skipped[f"line longer than {LINE_LIMIT >> 20} MiB"] += 1
                else:
                    yield offset, b"".join([*pending, piece])
            offset += held + len(piece) + 1
            pending, held, long, inside = [], 0, False, False
        held += len(rest)
        long = long or held > LINE_LIMIT
        if long or inside:
            pending = []
        else:
            pending.append(rest)
        if stop is not None and not inside and offset >= stop:
            return
    if held and not inside and (stop is None or offset < stop):
        if long:
            skipped[f"line longer than {LINE_LIMIT >> 20} MiB"] += 1
        else:
            yield offset, b"".join(pending)


def byte_pieces(
    stream: Readable, start: int, stop: int | None, size: int, skipped: Counter[str]
) -> Iterator[tuple[int, bytes]]:
    """(number, bytes) of a text's pieces: piece k is all lines that begin in [k * size, (k + 1) * size).

    `start` and `stop` are multiples of `size`; of `start` > 0 the stream begins at `start` - 1. A piece that no line begins
    in is left out. A line over LINE_LIMIT is passed over with a count.
    """
    held = bytearray()
    base = max(0, start - 1)  # the offset of held[0]
    foreign = start > 0  # up to the next line end it is not ours
    while block := stream.read(_BLOCK):
        held += block
        if foreign:
            cut = held.find(b"\n") + 1
            base += cut or len(held)
            del held[: cut or len(held)]
            foreign = not cut
        while held:
            if stop is not None and base >= stop:
                return
            number = base // size
            cut = held.find(b"\n", max(0, (number + 1) * size - base - 1)) + 1
            foreign = not cut and len(held) > size + LINE_LIMIT
            if foreign:
                skipped[f"line longer than {LINE_LIMIT >> 20} MiB"] += 1
                cut = held.rfind(b"\n") + 1
            if cut:
                yield number, bytes(held[:cut])
                base += cut
                del held[:cut]
            if foreign:
                base += len(held)
                held.clear()
            if not cut:
                break
    if held and (stop is None or base < stop):
        yield base // size, bytes(held)


def read_all(stream: Readable, limit: int) -> bytes:
    """A stream's bytes, at most `limit` of them."""
    parts: list[bytes] = []
    while limit > 0 and (block := stream.read(min(limit, _BLOCK))):
        parts.append(block)
        limit -= len(block)
    return b"".join(parts)


def decode_line(line: bytes, codec: str) -> tuple[str, str] | None:
    """A line's text and a note on its encoding ("" where it is sound in `codec`); None where no encoding fits it."""
    try:
        return line.decode(codec), ""
    except UnicodeDecodeError:
        pass
    if codec != "utf-8":
        return line.decode(codec, "replace"), ""
    found = encoding_of(io.BytesIO(line))
    return None if found is None else (line.decode(found.codec, found.errors), f"{found.name}, in a line")
