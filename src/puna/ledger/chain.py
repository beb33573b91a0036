"""A hash-chained, append-only log: one canonical JSON object a line.

Comes in: a kind and a JSON-able body. Goes out: a line on disk that holds the hash of the line before it.
Must never happen: a line changed, dropped, added or moved inside the file that `verify` passes over.

What it proves: the order and the integrity of what was logged, up to the last hash that somebody else has seen. It does
NOT prove that what was logged is true, that all was logged, or that the times are right (they are this machine's clock):
whoever holds the whole file can write another one. Publish the head hash early where that matters.
"""

import errno
import fcntl
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

from puna.errors import PunaError
from puna.files import canonical_json, digest_of, fsync_directory

Entry = dict[str, Any]
GENESIS = "0" * 64  # `previous` of the first entry
MAX_LINE = 16 << 20  # bytes; a ledger from a stranger may hold one endless line
_KEYS = frozenset({"n", "time", "kind", "body", "previous", "hash"})
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")


@dataclass(frozen=True)
class Verified:
    """What `verify` found: number of entries, the last hash (GENESIS when empty), whether the last line is torn."""

    entries: int
    head: str
    torn_bytes: int = 0


def utc_now() -> str:
    """The machine's clock in UTC, to the microsecond: ``2026-01-31T23:59:59.000000Z``."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class Ledger:
    """Appends to the log at `path`, which is made with its first entry. Safe between processes (an advisory lock)."""

    def __init__(self, path: Path, *, clock: Callable[[], str] = utc_now) -> None:
        self.path = Path(path)
        self._clock = clock
        self._verified: tuple[int, Verified] | None = None  # file size, and the chain's state up to there

    def append(self, kind: str, body: dict[str, Any]) -> Entry:
        """Write one entry through to the disk and return it.

        A last line that a killed process left unfinished is cut off first, and an entry of kind "repair" says how many
        bytes went and their SHA-256. Raises `PunaError` where the chain before it is broken or the disk is full.
        """
        created = not self.path.exists()
        with self._locked() as stream:
            state = self._state(stream)
            if state.torn_bytes:
                state = self._repair(stream, state)
            entry = self._write(stream, state, kind, body)
        if created:
            fsync_directory(self.path.parent)
        return entry

    def append_once(self, kind: str, body: dict[str, Any]) -> Entry:
        """As `append`, but where an entry of this kind and body is there already, that one is returned.

        For what a build tells again when it was killed between an artefact and its entry.
        """
        wanted = json.loads(canonical_json(body))
        for entry in self.entries():
            if entry["kind"] == kind and entry["body"] == wanted:
                return entry
        return self.append(kind, body)

    def entries(self) -> list[Entry]:
        """All whole entries, verified. A torn last line is left out. Raises `PunaError` as `verify` does."""
        if not self.path.exists():
            return []
        with open(self.path, "rb") as stream:
            return [entry for _, entry in _whole_entries(stream, self.path)]

    @staticmethod
    def verify(path: Path) -> Verified:
        """See the module's `verify`."""
        return verify(path)

    @contextmanager
    def _locked(self) -> Iterator[BinaryIO]:
        handle = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        with os.fdopen(handle, "r+b") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            yield stream

    def _state(self, stream: BinaryIO) -> Verified:
        size = os.fstat(stream.fileno()).st_size
        if self._verified and self._verified[0] == size:
            return self._verified[1]
        return _scan(stream, self.path)

    def _repair(self, stream: BinaryIO, state: Verified) -> Verified:
        whole = os.fstat(stream.fileno()).st_size - state.torn_bytes
        stream.seek(whole)
        torn = stream.read(state.torn_bytes)
        stream.truncate(whole)
        state = Verified(state.entries, state.head)
        note = {"bytes": len(torn), "sha256": hashlib.sha256(torn).hexdigest(), "reason": "last line was unfinished"}
        entry = self._write(stream, state, "repair", note)
        return Verified(entry["n"] + 1, entry["hash"])

    def _write(self, stream: BinaryIO, state: Verified, kind: str, body: dict[str, Any]) -> Entry:
        body = json.loads(canonical_json(body))  # what a reader will see: string keys, lists for tuples
        entry: Entry = {"n": state.entries, "time": self._clock(), "kind": kind, "body": body, "previous": state.head}
        entry["hash"] = digest_of(entry)
        line = canonical_json(entry) + b"\n"
        if len(line) > MAX_LINE:
            raise PunaError(f"an entry of {len(line):,} bytes is larger than {MAX_LINE:,}", where=str(self.path))
        start = stream.seek(0, os.SEEK_END)
        try:
            stream.write(line)
            stream.flush()
            os.fsync(stream.fileno())
        except OSError as problem:
            os.ftruncate(stream.fileno(), start)
            if problem.errno in (errno.ENOSPC, errno.EDQUOT):
                raise PunaError("the disk is full", where=str(self.path), mend="free some space") from problem
            raise
        self._verified = (start + len(line), Verified(entry["n"] + 1, entry["hash"]))
        return entry


def verify(path: Path) -> Verified:
    """Check every line's form, number, link and hash.

    Raises `PunaError` that names the first bad line, or that the file is not there. A torn last line (no line end) is
    not an error of the chain: it is told in `torn_bytes`, and the entries before it count.
    """
    path = Path(path)
    if not path.is_file():
        raise PunaError("there is no ledger", where=str(path))
    with open(path, "rb") as stream:
        return _scan(stream, path)


def _scan(stream: BinaryIO, path: Path) -> Verified:
    count, head, end = 0, GENESIS, 0
    for offset, entry in _whole_entries(stream, path):
        count, head, end = count + 1, entry["hash"], offset
    return Verified(count, head, os.fstat(stream.fileno()).st_size - end)


def _whole_entries(stream: BinaryIO, path: Path) -> Iterator[tuple[int, Entry]]:
    """(offset of the line's end, entry) for every line that has a line end; raises at the first bad one."""
    stream.seek(0)
    end, previous, number = 0, GENESIS, 0
    while line := stream.readline(MAX_LINE + 1):
        if len(line) > MAX_LINE:
            raise PunaError(f"the line is longer than {MAX_LINE:,} bytes", where=f"{path}:{number + 1}")
        if not line.endswith(b"\n"):
            return
        entry = _entry(line[:-1], number, previous, f"{path}:{number + 1}")
        end, previous, number = end + len(line), entry["hash"], number + 1
        yield end, entry


def _entry(line: bytes, number: int, previous: str, where: str) -> Entry:
    try:
        entry = json.loads(line)
        canonical = canonical_json(entry)
    except (ValueError, RecursionError):
        raise PunaError("the line is not JSON", where=where) from None
    # Only one spelling of an entry is allowed, so that no two readers can take one line for different values.
    if not isinstance(entry, dict) or set(entry) != _KEYS or canonical != line or type(entry["n"]) is not int:
        raise PunaError("the line is not a ledger entry in canonical form", where=where)
    if not isinstance(entry["time"], str) or not _TIME.fullmatch(entry["time"]) or not isinstance(entry["kind"], str):
        raise PunaError("the entry's time or kind is malformed", where=where)
    if digest_of({key: value for key, value in entry.items() if key != "hash"}) != entry["hash"]:
        raise PunaError("the entry was changed: its hash does not match its content", where=where)
    if entry["n"] != number or entry["previous"] != previous:
        raise PunaError("the chain is broken: an entry was removed, added or moved before this line", where=where)
    return entry
