"""The members of tar and zip archives, one after the other.

Comes in: an archive. Goes out: its members as temporary files, one at a time, in the archive's order. Must never happen: a
path out of an archive used as a path, an archive inside an archive opened, or a disk filled by a few bytes.
"""

import lzma
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

from puna.corpus.compressed import RATIO_FLOOR, RATIO_LIMIT, Damaged, Hostile, Readable, open_bytes
from puna.corpus.tally import Tally

MEMBER_LIMIT = 16 << 30  # bytes of one member, which lies on disk while it is read
MEMBERS_LIMIT = 1_000_000  # their names are held, so that two of one name are told apart
_HEADER_LIMIT = 1 << 20  # bytes of one tar header that holds names; tarfile takes it into memory whole
_BLOCK = 1 << 20
_ENCRYPTED = 1
_EMPTY_READS = 8  # after the end; a sound archive sees one or two
_LONG = frozenset(
    [tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE]
)
# What reading a member raises. An OSError is not among them: it is the disk's.
_BAD_MEMBER = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    NotImplementedError,
    ValueError,
)


@dataclass(frozen=True, slots=True)
class Member:
    """One file of an archive: its name there, and where its bytes lie until the next one is asked for."""

    name: str
    path: Path


def members(path: Path, suffix_of: Callable[[str], str | None], tally: Tally) -> Iterator[Member]:
    """The members of an archive that can be read; the rest is counted in `tally`.

    `suffix_of` gives the ending under which a member of some name is read (".jsonl.gz"), None where it is passed over (and
    counts that). A member that is damaged is counted; an archive that is cut short gives those before the cut. Raises
    PunaError where nothing can be read, Hostile for a bomb.
    """
    seen: Counter[str] = Counter()
    read = damaged = 0
    zipped = path.suffix.lower() == ".zip"
    # What a zip archive may unpack to; a tar archive is bounded by the stream that it comes from.
    left = max(RATIO_FLOOR, RATIO_LIMIT * path.stat().st_size) if zipped else sys.maxsize
    with tempfile.TemporaryDirectory(prefix="puna-archive-") as folder:
        for number, (name, opened) in enumerate(_zip(path, tally) if zipped else _tar(path, tally), 1):
            if number > MEMBERS_LIMIT:
                raise Hostile(f"holds over {MEMBERS_LIMIT:,} files", where=str(path), mend="unpack it first")
            if (suffix := suffix_of(name)) is None:
                continue
            seen[name] += 1
            place = Path(folder, f"member{suffix}")
            try:
                left -= _copy(opened, place, path, left)
            except _BAD_MEMBER:
                tally.skipped["archive member cut short or damaged"] += 1
                damaged += 1
                continue
            read += 1
            yield Member(name if seen[name] == 1 else f"{name}~{seen[name]}", place)
            place.unlink()
    if damaged and not read:
        raise Damaged("holds no file that is not damaged", where=str(path))


def _copy(opened: Callable[[], Any], place: Path, archive: Path, left: int) -> int:
    """Bytes copied to `place`. Raises one of _BAD_MEMBER for what cannot be read, Hostile over a limit."""
    size = 0
    with opened() as stream, open(place, "wb") as out:
        while block := stream.read(_BLOCK):
            size += len(block)
            if size > left:
                raise Hostile(
                    f"expands to over {RATIO_LIMIT} times its size",
                    where=str(archive),
                    mend="if it is not a bomb, unpack it first",
                )
            if size > MEMBER_LIMIT:
                raise Hostile(f"holds a file of over {MEMBER_LIMIT >> 30} GiB", where=str(archive))
            out.write(block)
    return size


def _tar(path: Path, tally: Tally) -> Iterator[tuple[str, Callable[[], Any]]]:
    damage = Counter[str]()

    class Info(tarfile.TarInfo):
        """A header; tarfile would take what is no header for the end, and a header's own length at its word."""

        @classmethod
        def frombuf(cls, buf: Any, encoding: Any, errors: str) -> Self:
            try:
                info = super().frombuf(buf, encoding, errors)
            except tarfile.HeaderError:
                if bytes(buf).strip(b"\0"):
                    damage["archive with damaged headers"] = 1
                raise
            if info.size < 0 or (info.type in _LONG and info.size > _HEADER_LIMIT):
                raise Hostile("a tar header claims an absurd size", where=str(path))
            return info

    with open_bytes(path, tally.skipped) as raw:
        try:
            stream: Any = _Exact(raw)
            with tarfile.open(fileobj=stream, mode="r|", tarinfo=Info, ignore_zeros=True) as tar:
                while (info := tar.next()) is not None:
                    tar.members.clear()  # type: ignore[attr-defined]  # else it keeps all of them
                    if info.isreg() and not info.issparse():
                        yield info.name, partial(tar.extractfile, info)
                    elif not info.isdir():
                        tally.skipped["archive member that is no plain file"] += 1
        except (tarfile.TarError, ValueError, OverflowError) as error:
            if "unexpected end" not in str(error):
                raise Damaged(f"is not a tar archive that can be read ({error})", where=str(path)) from error
            tally.skipped["archive cut short"] += 1
    tally.skipped.update(damage)


class _Exact:
    """A stream whose reads are short only at its end, for tarfile takes any short read for that.

    tarfile passes over a member by reading for as long as its header says, petabytes too, whether anything comes or not.
    """

    def __init__(self, stream: Readable) -> None:
        self._stream, self._empty = stream, 0

    def read(self, size: int, /) -> bytes:
        parts: list[bytes] = []
        while size > 0 and (block := self._stream.read(size)):
            parts.append(block)
            size -= len(block)
        self._empty += not parts
        if self._empty > _EMPTY_READS:
            raise tarfile.ReadError("unexpected end of data")
        return b"".join(parts)


def _zip(path: Path, tally: Tally) -> Iterator[tuple[str, Callable[[], Any]]]:
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, ValueError, OverflowError, OSError, NotImplementedError) as error:
        raise Damaged(f"is not a zip archive that can be read ({error})", where=str(path)) from error
    with archive:
        for info in archive.infolist():
            if info.flag_bits & _ENCRYPTED:
                tally.skipped["archive member that is encrypted"] += 1
            elif not info.is_dir():
                yield info.filename, partial(archive.open, info)
