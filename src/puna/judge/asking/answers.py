"""Answers that models gave, kept on disk: what was asked once is not asked again, and a killed run goes on where it was.

Comes in: a key over all that decides an answer, and the answer. Goes out: the answer, to the last bit. Must never happen: an answer
of another model, request or setting; one that was damaged on disk; or a run that dies because another writes to the same file.

One SQLite file (its transactions survive a kill at any moment, its locks hold between processes). A value is JSON text, in which
Python writes a float so that it reads the same float again; beside each stands a digest of key and value.
"""

import hashlib
import json
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from puna.errors import PunaError
from puna.files import digest_of

FLUSH_ROWS, FLUSH_SECONDS = 256, 10.0  # what a kill can cost, by count and by time
_KEEP = "INSERT OR IGNORE INTO answers VALUES (?, ?, ?)"
_REPLACE = "INSERT OR REPLACE INTO answers VALUES (?, ?, ?)"
_WAIT = 60.0  # seconds for another process's transaction
_APPLICATION = 0x50554E41  # "PUNA": tells this file from other programs' databases
_VERSION = 1
_CHECK = 8  # bytes of the digest beside each value
_MEND = "remove the file: the answers in it are asked again"


class Unusable(PunaError):
    """The file of answers cannot be used: no task's fault, so no task's failure."""


def answer_key(model: Mapping[str, Any], kind: str, arguments: Any, settings: Mapping[str, Any]) -> str:
    """SHA-256 (hex) over all that decides an answer.

    `model`: digests of weights and tokenizer. `kind`: of the request. `arguments`: its own. `settings`: what else changes the
    number, such as the precision. All must be what JSON can hold.
    """
    return digest_of({"model": dict(model), "kind": kind, "arguments": arguments, "settings": dict(settings)})


class Answers:
    """The answers in one file, which is made where there is none. Close it, or use it in a `with`: then the last are written too."""

    def __init__(self, path: Path, *, fresh: bool = False) -> None:
        """`fresh`: what was kept before is not read, and what is asked now takes its place.

        Raises `PunaError` where the file is damaged, is not ours, or cannot be opened.
        """
        self.path, self.fresh = Path(path), fresh
        self._waiting: dict[str, str] = {}
        self._own: set[str] = set()  # keys of what this object was given, where it is `fresh`
        self._written = time.monotonic()
        self.hits = self.misses = 0
        if self.path.exists() and not self.path.is_file():
            raise Unusable("is not an ordinary file", where=str(self.path), mend="name another file for the answers")
        with self._mistakes():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._data = sqlite3.connect(self.path, timeout=_WAIT, isolation_level=None)
        try:
            with self._mistakes():
                self._prepare()
        except BaseException:
            self._data.close()
            raise

    def _prepare(self) -> None:
        """Make the table in a new file; refuse another program's, or another version's."""
        self._data.execute("BEGIN IMMEDIATE")  # of two processes that make the file, one waits for the other
        (application,) = self._data.execute("PRAGMA application_id").fetchone()
        (version,) = self._data.execute("PRAGMA user_version").fetchone()
        (tables,) = self._data.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if tables == 0 and application == 0:
            self._data.execute(f"PRAGMA application_id = {_APPLICATION}")
            self._data.execute(f"PRAGMA user_version = {_VERSION}")
            self._data.execute("CREATE TABLE answers (key BLOB PRIMARY KEY, value TEXT, digest BLOB) WITHOUT ROWID")
        elif (application, version) != (_APPLICATION, _VERSION):
            raise Unusable("is a database, but not one of answers that this version keeps", where=str(self.path),
                            mend="name another file for the answers")  # fmt: skip
        self._data.execute("COMMIT")

    def get(self, key: str) -> Any:
        """The answer under `key`, None where there is none. Raises `PunaError` where the file is damaged."""
        text = self._waiting.get(key)
        if text is None and self.fresh and key not in self._own:
            self.misses += 1
            return None
        if text is None:
            with self._mistakes():
                row = self._data.execute(
                    "SELECT value, digest FROM answers WHERE key = ?", (bytes.fromhex(key),)
                ).fetchone()
            if row is None:
                self.misses += 1
                return None
            text, digest = row
            if not isinstance(text, str) or digest != _digest(key, text):
                raise Unusable("an answer in it was damaged or altered", where=str(self.path), mend=_MEND)
        self.hits += 1
        return json.loads(text)

    def put(self, key: str, value: Any) -> None:
        """Keep an answer, a value that JSON has (numbers that are none included). Written now and then, and by `flush`."""
        self._waiting[key] = json.dumps(value, ensure_ascii=True)
        if self.fresh:
            self._own.add(key)
        if len(self._waiting) >= FLUSH_ROWS or time.monotonic() - self._written > FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write what waits, in one transaction. An answer that another process wrote meanwhile stays, but for a `fresh` one."""
        rows = [(bytes.fromhex(key), text, _digest(key, text)) for key, text in self._waiting.items()]
        if rows:
            with self._mistakes():
                self._data.execute("BEGIN IMMEDIATE")
                self._data.executemany(_REPLACE if self.fresh else _KEEP, rows)
                self._data.execute("COMMIT")
        self._waiting.clear()
        self._written = time.monotonic()

    def close(self) -> None:
        """Write what waits and close the file."""
        try:
            self.flush()
        finally:
            self._data.close()

    def __len__(self) -> int:
        with self._mistakes():
            (count,) = self._data.execute("SELECT count(*) FROM answers").fetchone()
        return int(count) + len(self._waiting)

    def __enter__(self) -> "Answers":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextmanager
    def _mistakes(self) -> Iterator[None]:
        """What SQLite or the system says of the file, as the user's mistake."""
        try:
            yield
        except sqlite3.OperationalError as error:  # locked for a minute, a full disk, a closed folder
            self._undo()
            mend = _MEND if "malformed" in str(error) else "name another file, or end the program that holds it"
            raise Unusable(f"the file of answers cannot be used ({error})", where=str(self.path), mend=mend) from error
        except sqlite3.DatabaseError as error:
            self._undo()
            raise Unusable(f"is damaged, or no file of answers ({error})", where=str(self.path), mend=_MEND) from error
        except OSError as error:
            raise Unusable(f"cannot be made ({error.strerror})", where=str(self.path)) from error

    def _undo(self) -> None:
        data = getattr(self, "_data", None)
        if data is not None and data.in_transaction:
            data.rollback()


def _digest(key: str, text: str) -> bytes:
    return hashlib.sha256(f"{key}\n{text}".encode()).digest()[:_CHECK]
