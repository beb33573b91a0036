"""What was typed in earlier sessions, for recall and search.

In: messages and commands as they were sent. Out: the latest of them, oldest first.
Must never happen: somebody else may read the file, it grows without bound, or a file that cannot be written stops a talk.

One JSON text a line, in `$XDG_STATE_HOME/puna/chat_history` (`~/.local/state` where that is not set, as the XDG base
directory specification has it). Several sessions may add to it at once: each line is one write.
"""

import json
import os
import stat
from pathlib import Path
from typing import BinaryIO, cast

from puna.errors import PunaError
from puna.files import atomic_file

MOST = 1000  # entries that are kept; the file may hold twice as many before it is made small again
LONGEST = 16_384  # characters of an entry that is kept
_MOST_BYTES = 8 << 20  # read from the file's end, and at least that it may hold


def state_file() -> Path:
    """Where the history lies. A relative XDG_STATE_HOME counts as none: the specification says so."""
    given = Path(os.environ.get("XDG_STATE_HOME", ""))
    home = given if given.is_absolute() else Path.home() / ".local" / "state"
    return home / "puna" / "chat_history"


class History:
    """The file, opened. `entries` is what it held; `notice` what the user should be told, once."""

    def __init__(self, path: Path) -> None:
        """Read what is there. Raises PunaError where the file cannot be read or is not an ordinary one."""
        self.path = path
        self.notice = ""
        self.entries: list[str] = []
        try:
            self._read()
        except OSError as error:
            raise PunaError(f"the history cannot be kept: {error.strerror}", where=str(path)) from error

    def _read(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        new = not self.path.exists()
        with self._open(os.O_RDONLY | os.O_CREAT) as handle:
            size = os.fstat(handle.fileno()).st_size
            handle.seek(max(0, size - _MOST_BYTES))
            lines = handle.read(_MOST_BYTES).splitlines()
        if size > _MOST_BYTES:
            lines = lines[1:]  # begun before what was read
        damaged = 0
        for line in lines:
            entry = _entry(line)
            if entry is None:
                damaged += 1
            else:
                self.entries.append(entry)
        if new:
            self.notice = f"what you type is kept for recall in {self.path}; --no-history keeps nothing"
        elif damaged:
            self.notice = f"{damaged} lines of {self.path} are not readable and left out"
        if len(lines) > 2 * MOST or size > _MOST_BYTES:
            self._shorten()
        self.entries = self.entries[-MOST:]

    def _shorten(self) -> None:
        with atomic_file(self.path) as stream:
            os.fchmod(stream.fileno(), 0o600)
            stream.write(b"".join(_line(entry) for entry in self.entries[-MOST:]))

    def add(self, entry: str) -> None:
        """Keep what was sent. Raises PunaError where it cannot be written."""
        if not entry.strip() or len(entry) > LONGEST:
            return
        self.entries.append(entry)
        try:
            with self._open(os.O_RDWR | os.O_APPEND | os.O_CREAT) as handle:
                end = os.fstat(handle.fileno()).st_size
                torn = end > 0 and os.pread(handle.fileno(), 1, end - 1) != b"\n"  # by a power cut
                os.write(handle.fileno(), (b"\n" if torn else b"") + _line(entry))
        except OSError as error:
            raise PunaError(f"the history cannot be kept: {error.strerror}", where=str(self.path)) from error

    def _open(self, flags: int) -> BinaryIO:
        handle = os.open(self.path, flags | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
        kind = os.fstat(handle)
        if not stat.S_ISREG(kind.st_mode):
            os.close(handle)
            raise PunaError("the history cannot be kept: it is not an ordinary file", where=str(self.path))
        if stat.S_IMODE(kind.st_mode) != 0o600:
            os.fchmod(handle, 0o600)
        return cast(BinaryIO, os.fdopen(handle, "r+b" if flags & os.O_RDWR else "rb", buffering=0))


def _line(entry: str) -> bytes:
    return json.dumps(entry, ensure_ascii=False).encode("utf-8", "replace") + b"\n"


def _entry(line: bytes) -> str | None:
    """The text of one line; None where it holds none."""
    try:
        value = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, str) else None
