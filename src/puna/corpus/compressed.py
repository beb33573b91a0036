"""The bytes of strangers' files, decompressed within bounds.

Comes in: a path, or a compressed body. Goes out: a stream of its bytes. Must never happen: memory or time that grows with
what a file claims (a bomb), or bytes after a damaged place taken for its text.
"""

import bz2
import lzma
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import zstandard

from puna.errors import PunaError

RATIO_LIMIT = 300  # decompressed over compressed bytes; English text under `zstd -19` stays below 10, logs below 100
RATIO_FLOOR = 64 << 20  # decompressed bytes below which the ratio does not matter
COMPRESSED = frozenset([".gz", ".zst", ".bz2", ".xz"])
SHORT = {".tgz": ".gz", ".tzst": ".zst", ".tbz2": ".bz2", ".txz": ".xz"}  # of tar archives
_WINDOW_LIMIT = 1 << 27  # bytes; what `zstd --long` (27) needs
_XZ_LIMIT = 256 << 20  # bytes of memory; `xz -9` needs 65 MiB
_INPUT = 1 << 16  # compressed bytes read at once
_ZSTD_INPUT = 1 << 12  # what a bomb of 30,000 to 1 gives for so much still fits into memory


class Hostile(PunaError):
    """A file that goes over a stated limit: a bomb, or one that claims what no text has. It ends the run, with its name."""


class Damaged(PunaError):
    """A file that is not of its kind, or broken from the start. In a folder it is passed over with a count, by its name."""


class Readable(Protocol):
    """Anything whose bytes are read from front to back; b"" at the end."""

    def read(self, size: int, /) -> bytes:
        """At most `size` of the next bytes."""


class _Decoder(Protocol):
    """One frame of a compressed file, as `bz2` and `lzma` give it."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, size: int, /) -> bytes: ...


class _Gzip:
    def __init__(self) -> None:
        self._frame = zlib.decompressobj(31)

    @property
    def eof(self) -> bool:
        return self._frame.eof

    @property
    def needs_input(self) -> bool:
        return not self._frame.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._frame.unused_data

    def decompress(self, data: bytes, size: int, /) -> bytes:
        return self._frame.decompress(self._frame.unconsumed_tail + data, size)


class _Zstd:
    needs_input = True  # it gives all at once

    def __init__(self) -> None:
        self._frame = zstandard.ZstdDecompressor(max_window_size=_WINDOW_LIMIT).decompressobj()

    @property
    def eof(self) -> bool:
        return self._frame.eof

    @property
    def unused_data(self) -> bytes:
        return self._frame.unused_data

    def decompress(self, data: bytes, size: int, /) -> bytes:
        return self._frame.decompress(data)


_DECODERS: dict[str, Callable[[], _Decoder]] = {
    ".gz": _Gzip,
    ".zst": _Zstd,
    ".bz2": bz2.BZ2Decompressor,
    ".xz": lambda: lzma.LZMADecompressor(memlimit=_XZ_LIMIT),
}
_DAMAGE = (EOFError, zlib.error, lzma.LZMAError, zstandard.ZstdError)


class _Frames:
    """The frames of a compressed file one after the other; EOFError where it ends inside one."""

    def __init__(self, raw: Readable, suffix: str) -> None:
        self._raw, self._new = raw, _DECODERS[suffix]
        self._input = _ZSTD_INPUT if suffix == ".zst" else _INPUT
        self._frame: _Decoder | None = None
        self._read = self._held = b""

    def read(self, size: int, /) -> bytes:
        while not self._held:
            if not self._read and (self._frame is None or self._frame.needs_input):
                self._read = self._raw.read(self._input)
                if not self._read and self._frame is not None:
                    raise EOFError("it ends inside a frame")
            if self._frame is None:
                self._read = self._read.lstrip(b"\0")  # padding between frames
                if not self._read:
                    if self._raw_ended():
                        return b""
                    continue
                self._frame = self._new()
            data, self._read = self._read, b""
            self._held = self._frame.decompress(data, size)
            if self._frame.eof:
                self._read, self._frame = self._frame.unused_data, None
        block, self._held = self._held[:size], self._held[size:]
        return block

    def _raw_ended(self) -> bool:
        self._read = self._raw.read(self._input)
        return not self._read


class _Bounded:
    """A stream that stops a bomb while it goes off, and ends where a compressed file is damaged.

    What stands before the damage is kept and the damage counted in `skipped`; without `skipped`, or where nothing stands
    before it, it is a PunaError.
    """

    def __init__(self, stream: Readable, path: Path, compressed: int | None, skipped: Counter[str] | None) -> None:
        self._stream, self._path, self._compressed, self._skipped = stream, path, compressed, skipped
        self._count = 0
        self._ended = False

    def read(self, size: int, /) -> bytes:
        if self._ended:
            return b""
        try:
            block = self._stream.read(size)
        except OSError as error:
            if self._compressed is None or error.errno is not None:
                raise unreadable(self._path, error) from error
            return self._damaged(error)  # bz2 has no error of its own
        except _DAMAGE as error:
            return self._damaged(error)
        self._count += len(block)
        if (
            self._compressed is not None
            and self._count > RATIO_FLOOR
            and self._count > RATIO_LIMIT * max(1, self._compressed)
        ):
            raise Hostile(
                f"expands to over {RATIO_LIMIT} times its size",
                where=str(self._path),
                mend="if it is not a bomb, decompress it first",
            )
        return block

    def _damaged(self, error: Exception) -> bytes:
        if self._count == 0 or self._skipped is None:
            raise Damaged(f"damaged compressed file ({error})", where=str(self._path)) from error
        self._skipped["compressed file cut short" if isinstance(error, EOFError) else "compressed file damaged"] += 1
        self._ended = True
        return b""


def unreadable(path: Path, error: OSError) -> PunaError:
    """The error for a file or folder that the system will not let us read."""
    return PunaError(f"cannot be read ({error.strerror or error})", where=str(path))


@contextmanager
def open_bytes(path: Path, skipped: Counter[str] | None = None, *, start: int = 0) -> Iterator[Readable]:
    """A file's bytes from `start` on, decompressed where its name ends in .gz, .zst, .bz2, .xz or .tgz (`start` is 0 then).

    A compressed file that is cut short or damaged gives what stands before that, and one count in `skipped`; without
    `skipped` it is a PunaError, as is one of which nothing can be read. Raises Hostile for a bomb.
    """
    try:
        raw = open(path, "rb")  # noqa: SIM115 - the next `with` closes it; only its opening is guarded here
    except OSError as error:
        raise unreadable(path, error) from error
    with raw:
        suffix = path.suffix.lower()
        suffix = SHORT.get(suffix, suffix)
        if suffix in COMPRESSED:
            yield _Bounded(_Frames(raw, suffix), path, path.stat().st_size, skipped)
        else:
            raw.seek(start)
            yield _Bounded(raw, path, None, skipped)
