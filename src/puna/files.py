"""Files that are whole or absent: digests, canonical JSON, atomic writes. Every room writes through here."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

_BLOCK = 1 << 20


def canonical_json(value: Any) -> bytes:
    """JSON bytes that are the same for equal values: sorted keys, no spaces, UTF-8, NaN refused."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def digest_of(value: Any) -> str:
    """SHA-256 (hex) of a JSON-able value in its canonical form."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def file_sha256(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes, read in blocks."""
    state = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(_BLOCK):
            state.update(block)
    return state.hexdigest()


def read_json(path: Path) -> Any:
    """A UTF-8 JSON file's value."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def fsync_directory(folder: Path) -> None:
    """Make a rename inside `folder` survive a power cut (a no-op where the system cannot)."""
    flags = getattr(os, "O_DIRECTORY", 0) | os.O_RDONLY
    handle = os.open(folder, flags)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Write a file that appears under its name only when it is complete and on disk.

    The temporary file stands beside the target; on any error it is removed and the target is untouched.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):  # absent, or in a folder that is closed to us: the first error is the one to tell
            temporary.unlink()
        raise
    fsync_directory(path.parent)


def remove_leftovers(folder: Path) -> None:
    """Remove the half-written files and folders (`*.tmp`) of a process that was killed. Nobody else may write there now."""
    for path in folder.glob("*.tmp"):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def write_json(path: Path, value: Any) -> None:
    """Write JSON for people (indented, sorted keys), atomically."""
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    with atomic_file(path) as stream:
        stream.write(text.encode() + b"\n")
