"""One model against a folder of others: small fingerprints first, then the exact comparison of the most suspicious.

Comes in: an opened model and a folder. Goes out: a `ScanRow` for each model there, the most suspicious first. Must never happen: a model
left out in silence, or one called unrelated because its fingerprint saw nothing.

Fingerprints are kept in FOLDER/.puna-fingerprints/NAME-DIGEST.json, the digest over the names, sizes and times of the model's files, so
that a changed model gets a new one. Whoever can write to that folder can put a false one there: `stored=False` makes them anew.
"""

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from puna.errors import PunaError
from puna.files import atomic_file, digest_of
from puna.lineage.fingerprint import (
    FORMAT,
    MAX_BYTES,
    Fingerprint,
    Kinship,
    kinship,
    make_fingerprint,
    parse_fingerprint,
)
from puna.lineage.opened import Opened, open_for_comparison
from puna.lineage.verdict import Lineage, Part
from puna.model.formats import model_file
from puna.progress import QUIET, Progress
from puna.reading import read_bytes
from puna.visible import clean

CACHE = ".puna-fingerprints"
SUSPICIOUS = -2.0  # log10 p of a fingerprint: from here on every model is compared exactly
MOST_SUSPICIOUS = 3  # compared exactly in any case
DEEPEST, MOST_MODELS = 3, 10_000
_RELEASE = "release"

Compare = Callable[[Opened, Opened], Lineage]


class ScanRow(Part):
    """One model of the folder. `kin`: of the fingerprints; `exact`: the full comparison where there was one; `why_not`: what failed."""

    name: str
    path: str
    kin: Kinship | None = None
    exact: Lineage | None = None
    why_not: str = ""
    fingerprint: Literal["", "stored", "made", "in memory"] = (
        ""  # "in memory": made, but the folder could not be written to
    )


@dataclass(frozen=True)
class Found:
    """A model of the folder: `name` is its path from the folder, a run's without "release"."""

    name: str
    path: Path


def scan(
    model: Opened, folder: Path, compare: Compare, *, most: int = MOST_SUSPICIOUS, stored: bool = True, progress: Progress = QUIET
) -> list[ScanRow]:  # fmt: skip
    """Compare `model` with every model under `folder`: by fingerprint, and by `compare` the `most` most suspicious and all whose p is
    below 0.01 or whose values are equal.

    `compare` gets (MODEL, REFERENCE); what it or a model's files raise as `PunaError` is told in the row. The model itself, where it
    lies in the folder, is left out with a note. Raises `PunaError` where there is no such folder or no model in it.
    """
    folder = Path(folder)
    found = [one for one in find_models(folder, progress) if not _is(one, model)]
    if not found:
        raise PunaError("holds no model to compare with", where=str(folder), mend="name a folder of models, or of runs")
    ours = make_fingerprint(model, progress)
    keep = _Kept(folder, stored, progress)
    looked = sorted(((keep.row(one, ours), one) for one in found), key=lambda pair: _suspicion(pair[0]))
    rows = []
    for number, (row, one) in enumerate(looked):
        suspicious = row.kin is not None and (
            number < most or row.kin.identical or (row.kin.log10_p or 0.0) < SUSPICIOUS
        )
        rows.append(_exactly(model, row, one, compare) if suspicious else row)
    return rows


def find_models(folder: Path, progress: Progress = QUIET) -> Iterator[Found]:
    """Models under `folder`, at most three folders deep, in the order of their names: model folders, .gguf files, .bin files of
    llama2.c, and of a run its release. What lies inside a model is not looked at, nor what is hidden or a link to a folder; a note tells
    of folders that are closed to us."""
    if not folder.is_dir():
        raise PunaError("is no folder", where=str(folder), mend="name a folder of models, or of runs")
    for count, one in enumerate(_below(folder, folder, DEEPEST, progress), start=1):
        if count > MOST_MODELS:
            raise PunaError(f"holds more than {MOST_MODELS:,} models", where=str(folder), mend="scan parts of it")
        yield one


def _below(folder: Path, root: Path, depth: int, progress: Progress) -> Iterator[Found]:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        progress.note(f"{clean(str(folder))}: not looked into ({error.strerror})")
        return
    for entry in entries:
        path = Path(entry.path)
        if entry.name.startswith("."):
            continue
        if entry.is_dir(follow_symlinks=False):
            if _looks_like_model(path):
                yield Found(str(path.relative_to(root)), path)
            elif _looks_like_model(path / _RELEASE):
                yield Found(str(path.relative_to(root)), path / _RELEASE)
            elif depth > 1:
                yield from _below(path, root, depth - 1, progress)
        elif entry.is_file() and _is_model_file(path):
            yield Found(str(path.relative_to(root)), path)


def _looks_like_model(folder: Path) -> bool:
    if (folder / "config.json").is_file():
        return True
    try:
        return folder.is_dir() and model_file(folder) is not None
    except PunaError:
        return False  # several files: each stands for itself


def _is_model_file(path: Path) -> bool:
    return path.suffix.lower() == ".gguf" or (path.suffix.lower() == ".bin" and not path.name.startswith("tok"))


def _is(one: Found, model: Opened) -> bool:
    return model.path is not None and one.path.resolve() == Path(model.path).resolve()


@dataclass
class _Kept:
    """The fingerprints of a folder."""

    folder: Path
    stored: bool
    progress: Progress
    writable: bool = True

    def row(self, one: Found, ours: Fingerprint) -> ScanRow:
        """The row of a model, its fingerprint read or made."""
        name, path = clean(one.name), clean(str(one.path))
        try:
            theirs, how = self._fingerprint(one)
        except PunaError as error:
            return ScanRow(name=name, path=path, why_not=error.line())
        return ScanRow(name=name, path=path, kin=kinship(ours, theirs), fingerprint=how)

    def _fingerprint(self, one: Found) -> tuple[Fingerprint, Literal["stored", "made", "in memory"]]:
        path = self._place(one)
        if self.stored and path.is_file() and not path.is_symlink():
            try:
                return parse_fingerprint(read_bytes(path, MAX_BYTES), str(path)), "stored"
            except PunaError as error:
                self.progress.note(f"{error.line()}; made anew")
        made = make_fingerprint(open_for_comparison(one.path, clean(one.name)), self.progress)
        return made, "made" if self._write(path, made) else "in memory"

    def _place(self, one: Found) -> Path:
        plain = "".join(
            letter if letter.isascii() and (letter.isalnum() or letter in "._-") else "_" for letter in one.name
        )[-80:]
        # Two names that differ only in what was replaced must not share a file.
        tail = hashlib.sha256(os.fsencode(one.name) + b"\0" + files_digest(one.path).encode()).hexdigest()[:16]
        return self.folder / CACHE / f"{plain}-{tail}.json"

    def _write(self, path: Path, made: Fingerprint) -> bool:
        if self.writable:
            try:
                path.parent.mkdir(exist_ok=True)
                with atomic_file(path) as stream:
                    stream.write(made.model_dump_json().encode())
            except OSError as error:
                self.writable = False  # said once: the whole folder is read-only, or the disk is full
                self.progress.note(
                    f"{self.folder}: fingerprints cannot be kept there ({error.strerror}); they are made each time"
                )
        return self.writable


def files_digest(path: Path) -> str:
    """SHA-256 (hex) over the names, sizes and times of a model's files: of a folder those at its top. Contents are not read: a file
    changed without either is not noticed."""
    files = [path] if path.is_file() else sorted(entry for entry in path.iterdir() if entry.is_file())
    return digest_of(
        [FORMAT, [[os.fsencode(file.name).hex(), file.stat().st_size, file.stat().st_mtime_ns] for file in files]]
    )


def _suspicion(row: ScanRow) -> tuple[float, ...]:
    """For sorting: equal values first, then small p, then likeness; what could not be read last."""
    if row.kin is None:
        return (1.0, 0.0, 0.0, 0.0)
    return (0.0, float(-row.kin.identical), row.kin.log10_p or 0.0, -(row.kin.likeness or 0.0))


def _exactly(model: Opened, row: ScanRow, one: Found, compare: Compare) -> ScanRow:
    try:
        return row.model_copy(update={"exact": compare(model, open_for_comparison(one.path, row.name))})
    except PunaError as error:
        return row.model_copy(update={"why_not": error.line()})
