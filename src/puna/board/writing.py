"""A board on disk: names for its files, JSON for its scripts, and a folder that is swapped in whole.

Comes in: names and values of any origin. Goes out: a folder. Must never happen: a stranger's text that ends a script or names a
file outside the board; a half-written board in the place of a whole one; a folder replaced that is not a board of ours.
"""

import hashlib
import json
import os
import re
import shutil
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from puna.errors import PunaError
from puna.files import atomic_file, canonical_json, fsync_directory
from puna.reading import read_object
from puna.visible import clean

MARK = "BOARD.json"  # what tells a board of ours from any other folder
FORM = "puna-board/1"
_LONGEST = 60  # characters of a file's name without its ending
_DEVICES = re.compile(
    r"(con|prn|aux|nul|com\d|lpt\d|q\d+)"
)  # names that Windows keeps for itself; and those of questions in items/


def slugs(keys: Sequence[tuple[str, str]]) -> list[str]:
    """A file name for each (name, what else tells it apart): a-z, 0-9 and hyphens, unique, the same in any order of `keys`.

    Names that lose letters on the way, or that would share a file, end in eight digits of their digest.
    """
    plain = [_plain(name) for name, _ in keys]
    shared = Counter(plain)
    found = []
    for (name, more), base in zip(keys, plain, strict=True):
        lossy = not base or bool(re.search(r"[^\w\s./:+()-]", name, re.ASCII)) or len(name) > _LONGEST
        if lossy or shared[base] > 1 or _DEVICES.fullmatch(base):
            digest = hashlib.sha256(canonical_json([clean(name), more])).hexdigest()[:8]
            base = f"{base[: _LONGEST - 9].strip('-')}-{digest}".strip("-")
        found.append(base)
    if len(set(found)) != len(found):
        raise ValueError("two keys are equal")
    return found


def _plain(name: str) -> str:
    letters = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", letters).strip("-")[:_LONGEST].strip("-")


def script_json(value: Any) -> str:
    """JSON that may stand in a script: nothing in it ends the script, starts a comment or is a line end to JavaScript.

    Every string is cleaned; NaN and infinities are refused (ValueError).
    """
    text = json.dumps(_cleaned(value), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for letter in "<>&\u2028\u2029":  # only strings can hold these
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return text


def _cleaned(value: Any) -> Any:
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, dict):
        return {clean(str(key)): _cleaned(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_cleaned(inner) for inner in value]
    return value


class Folder:
    """A board that is being written: files by their path inside it, counted and named in its mark at the end."""

    def __init__(self, root: Path) -> None:
        self.root, self.names, self.bytes = root, list[str](), 0

    def text(self, name: str, text: str) -> None:
        """Write one UTF-8 file. A lone surrogate becomes a question mark: no page may fail for a stranger's byte."""
        self.data(name, text.encode("utf-8", "replace"))

    def data(self, name: str, data: bytes) -> None:
        """Write one file."""
        path = self.root / name
        if not path.resolve().is_relative_to(self.root.resolve()):
            raise ValueError(f"{name} leaves the board")
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as stream:
            stream.write(data)
        self.names.append(name)
        self.bytes += len(data)


def replace_board(out: Path, fill: Callable[[Folder], None]) -> Folder:
    """Write a new board beside `out` with `fill`, then put it in the place of the old one.

    Raises `PunaError` where `out` is anything but absent, empty, or a board of ours with no other file in it.
    """
    out = Path(os.path.abspath(out))
    check_place(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PunaError(f"cannot be made ({error.strerror})", where=str(out.parent)) from error
    stem = f".{out.name}.{os.getpid()}"
    fresh, old = out.with_name(f"{stem}.tmp"), out.with_name(f"{stem}.old.tmp")
    shutil.rmtree(fresh, ignore_errors=True)
    try:
        fresh.mkdir()
        folder = Folder(fresh)
        fill(folder)
        folder.data(MARK, canonical_json({"form": FORM, "files": sorted([*folder.names, MARK])}) + b"\n")
        check_place(out)  # somebody may have put a file there meanwhile
        if out.exists():
            os.rename(out, old)
        try:
            os.rename(fresh, out)
        except OSError:
            if old.exists():
                os.rename(old, out)
            raise
    except BaseException as error:
        with suppress(OSError):
            shutil.rmtree(fresh)
        if isinstance(error, OSError):
            raise PunaError(f"the board cannot be written ({error.strerror})", where=str(out)) from error
        raise
    fsync_directory(out.parent)
    shutil.rmtree(old, ignore_errors=True)
    return folder


def check_place(out: Path) -> None:
    """Raise `PunaError` where a board may not be written."""
    if out.is_symlink():
        raise PunaError("is a link", where=str(out), mend="name the folder itself")
    if not out.exists():
        return
    if not out.is_dir():
        raise PunaError("is a file", where=str(out), mend="name a folder for the board")
    there = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_symlink() or not path.is_dir()}
    if not there:
        return
    mark = read_object(out, MARK)
    if mark.get("form") != FORM or not isinstance(mark.get("files"), list):
        raise PunaError("is not a board of Puna's and not empty", where=str(out), mend="name another folder with --out")
    foreign = sorted(there - set(map(str, mark["files"])))
    if foreign:
        shown = ", ".join(foreign[:3]) + (f" and {len(foreign) - 3} more" if len(foreign) > 3 else "")
        raise PunaError(
            f"holds files that the board did not write ({shown})",
            where=str(out),
            mend="move them, or name another folder with --out",
        )
