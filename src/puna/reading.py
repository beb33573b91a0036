"""Files that a stranger made, opened with care: ordinary ones, of bounded size, inside the folder they are named in.

Comes in: a path. Goes out: bytes, text or a JSON object. Must never happen: a read without a bound, a link followed out of
the folder, or a pipe that never ends.
"""

import json
import re
import stat
from pathlib import Path
from typing import Any

from puna.errors import PunaError

MAX_BYTES = 256 << 20  # the largest published tokenizer.json is about 35 MB
MAX_JSON = 32 << 20  # vocab.json, tokenizer_config.json and their like; the largest known have a few megabytes


def find_inside(folder: Path, name: str) -> Path | None:
    """The file `name` of a folder, or None where there is none.

    Raises `PunaError` where it is no ordinary file, or a link that leads out of the folder. One layout of links is the
    Hugging Face hub's own (`models--ORG--NAME/snapshots/REVISION/FILE` -> `../../blobs/DIGEST`): there the model's cache
    folder counts.
    """
    path, home = folder / name, folder.resolve()
    if home.parent.name == "snapshots" and home.parent.parent.name.startswith("models--"):
        home = home.parent.parent
    try:
        kind = path.stat().st_mode
        real = path.resolve(strict=True)
    except FileNotFoundError as error:
        if path.is_symlink():
            raise PunaError("is a link to nothing", where=str(path)) from error
        return None
    except (OSError, RuntimeError, ValueError) as error:  # a circle of links, a closed folder, a NUL in the name
        raise PunaError(f"cannot be read ({str(error)[:80]})", where=str(path)) from error
    if not stat.S_ISREG(kind):
        raise PunaError("is not an ordinary file", where=str(path))
    if not real.is_relative_to(home):
        raise PunaError("is a link that leaves its folder", where=str(path), mend="put the file itself there")
    return path


def read_bytes(path: Path, limit: int = MAX_BYTES) -> bytes:
    """All bytes of an ordinary file of at most `limit` bytes. Raises `PunaError`."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise PunaError("is not an ordinary file", where=str(path))
        if status.st_size > limit:
            raise PunaError(f"larger than {limit >> 20} MiB", where=str(path))
        return path.read_bytes()
    except FileNotFoundError:
        raise PunaError("no such file", where=str(path)) from None
    except (OSError, ValueError) as error:
        raise PunaError(f"cannot be read ({str(error)[:80]})", where=str(path)) from None


def read_text(path: Path, limit: int = MAX_BYTES) -> str:
    """The text of a UTF-8 file of at most `limit` bytes, its line ends as they are. Raises `PunaError`."""
    try:
        return read_bytes(path, limit).decode("utf-8")
    except UnicodeDecodeError as error:
        raise PunaError(f"not UTF-8 (byte {error.start})", where=str(path)) from None


def read_object(folder: Path, name: str) -> dict[str, Any]:
    """The JSON object in a folder's file, empty where there is no such file. Raises `PunaError`."""
    path = find_inside(folder, name)
    if path is None:
        return {}
    try:
        text = read_text(path, MAX_JSON)
        value = json.loads(text)
        if re.search(r"\\u[dD][89a-fA-F]", text):
            json.dumps(value, ensure_ascii=False).encode()  # a lone surrogate, which no text can hold, is refused here
    except (ValueError, RecursionError) as error:
        raise PunaError(f"not JSON ({str(error)[:80]})", where=str(path)) from None
    if not isinstance(value, dict):
        raise PunaError("not a JSON object", where=str(path))
    return value
