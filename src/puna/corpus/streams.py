"""Bytes of strangers' files as bounded text: decompression, encodings, lines.

Comes in: a path. Goes out: decoded blocks and lines, none longer than a bound. Must never happen: memory that grows with
what a file claims (a 2 GB line, a compressed bomb), or a guess at an encoding that is not reported.
"""

import codecs
import gzip
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import zstandard

from puna.corpus.charset import guess_encoding, looks_binary
from puna.errors import PunaError

LINE_LIMIT = 64 << 20  # bytes of one line
WHOLE_LIMIT = 256 << 20  # bytes of a file that must be read whole (one JSON value, one HTML page)
RATIO_LIMIT = 300  # decompressed over compressed bytes; English text under `zstd -19` stays below 10, logs below 100
RATIO_FLOOR = 64 << 20  # decompressed bytes below which the ratio does not matter
_WINDOW_LIMIT = 1 << 27  # bytes; what `zstd --long` (27) needs
_BLOCK = 1 << 20
_ZSTD_BLOCK = 1 << 12  # compressed bytes read at once: what a bomb of 30,000 to 1 gives for it still fits into memory
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


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


class _Bounded:
    """A decompressing stream that stops a bomb while it goes off."""

    def __init__(self, stream: _Readable, path: Path, compressed: int | None) -> None:
        self._stream, self._path, self._compressed, self._count = stream, path, compressed, 0

    def read(self, size: int, /) -> bytes:
        try:
            block = self._stream.read(size)
        except (EOFError, zlib.error, zstandard.ZstdError, gzip.BadGzipFile) as error:
            raise PunaError(f"damaged compressed file ({error})", where=str(self._path)) from error
        except OSError as error:
            raise unreadable(self._path, error) from error
        self._count += len(block)
        if (
            self._compressed is not None
            and self._count > RATIO_FLOOR
            and self._count > RATIO_LIMIT * max(1, self._compressed)
        ):
            raise PunaError(
                f"expands to over {RATIO_LIMIT} times its size",
                where=str(self._path),
                mend="if it is not a bomb, decompress it first",
            )
        return block


class _ZstdFrames:
    """The frames of a .zst file one after the other. The library's own reader takes a file cut short for a whole one."""

    def __init__(self, raw: _Readable) -> None:
        self._reader = zstandard.ZstdDecompressor(max_window_size=_WINDOW_LIMIT)
        self._raw, self._frame, self._read, self._held = raw, self._reader.decompressobj(), b"", b""
        self._inside = False  # a frame: it has begun and not ended

    def read(self, size: int, /) -> bytes:
        while not self._held:
            if not self._read and not (data := self._raw.read(_ZSTD_BLOCK)):
                if self._inside:
                    raise EOFError("it ends inside a frame")
                return b""
            self._held = self._frame.decompress(self._read or data)
            self._inside, self._read = not self._frame.eof, b""
            if self._frame.eof:
                self._read, self._frame = self._frame.unused_data, self._reader.decompressobj()
        block, self._held = self._held[:size], self._held[size:]
        return block


def unreadable(path: Path, error: OSError) -> PunaError:
    """The error for a file or folder that the system will not let us read."""
    return PunaError(f"cannot be read ({error.strerror or error})", where=str(path))


@contextmanager
def open_bytes(path: Path) -> Iterator[_Readable]:
    """A file's bytes, decompressed where its name ends in .gz or .zst. Raises PunaError for what cannot be read."""
    try:
        raw = open(path, "rb")  # noqa: SIM115 - the next `with` closes it; only its opening is guarded here
    except OSError as error:
        raise unreadable(path, error) from error
    with raw:
        size = path.stat().st_size
        suffix = path.suffix.lower()
        if suffix == ".gz":
            yield _Bounded(gzip.GzipFile(fileobj=raw), path, size)
        elif suffix == ".zst":
            yield _Bounded(_ZstdFrames(raw), path, size)
        else:
            yield _Bounded(raw, path, None)


@dataclass(frozen=True, slots=True)
class Encoding:
    """How a file is decoded. `name` is for the report; `codec` and `errors` are for Python."""

    name: str
    codec: str
    errors: str = "strict"


def find_encoding(path: Path, *, lines: bool) -> Encoding | None:
    """How to decode a file, from one pass over all of its bytes; None if it is binary.

    A mark of byte order decides; else the whole file as UTF-8; else, if whole UTF-8 characters far outnumber the damaged
    places, UTF-8 with replacement; else a guess from the bytes outside ASCII. With `lines`, a line over LINE_LIMIT raises
    PunaError here.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    bad = run = whole = 0
    bom: str | None = None
    head = b""
    sample = bytearray()
    with open_bytes(path) as stream:
        while block := stream.read(_BLOCK):
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
    return PunaError(
        f"one line is longer than {LINE_LIMIT >> 20} MiB", where=str(path), mend="break it into lines, or leave it out"
    )


def read_blocks(path: Path, encoding: Encoding) -> Iterator[str]:
    """A file's text in blocks of about a mebibyte, never cut inside a character."""
    decoder: Any = codecs.getincrementaldecoder(encoding.codec)(encoding.errors)
    with open_bytes(path) as stream:
        while block := stream.read(_BLOCK):
            if text := decoder.decode(block):
                yield text
        if text := decoder.decode(b"", True):
            yield text


def read_whole(path: Path, encoding: Encoding) -> str:
    """A whole file's text; PunaError over WHOLE_LIMIT characters."""
    parts: list[str] = []
    size = 0
    for block in read_blocks(path, encoding):
        size += len(block)
        if size > WHOLE_LIMIT:
            raise PunaError(
                f"is larger than {WHOLE_LIMIT >> 20} MiB and would have to be read whole",
                where=str(path),
                mend="split it, or use JSON lines",
            )
        parts.append(block)
    return "".join(parts)


def read_lines(path: Path, encoding: Encoding) -> Iterator[str]:
    """Lines with their ends, cut at "\\n" alone (JSON strings may hold other separators); PunaError over LINE_LIMIT."""
    pending: list[str] = []
    held = 0
    for block in read_blocks(path, encoding):
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
