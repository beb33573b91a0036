"""The artefact store of one run: folders that are complete or absent.

Comes in: a stage's name and digest, and a function that fills a folder. Goes out: `runs/<name>/<stage>-<digest>/` with a
`MANIFEST.json`. Must never happen: a half-written artefact under its final name, or a damaged one taken for whole.
"""

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from puna.errors import PunaError
from puna.files import digest_of, file_sha256, fsync_directory, read_json, remove_leftovers, write_json

MANIFEST = "MANIFEST.json"
LOG = "log"  # what stands here (metrics with times) is checked like the rest but is not part of an artefact's identity


class Store:
    """The artefacts of one run."""

    def __init__(self, run: Path) -> None:
        self.run = run

    def folder(self, stage: str, digest: str) -> Path:
        """Where the artefact stands once it is complete."""
        return self.run / f"{stage}-{digest[:12]}"

    def work(self, stage: str, digest: str) -> Path:
        """Where a long stage keeps its checkpoints until it is complete; survives a kill."""
        return self.run / ".work" / f"{stage}-{digest[:12]}"

    def find(self, stage: str, digest: str) -> Path | None:
        """The complete artefact, or None. Sizes are compared here; `verify` compares contents.

        Raises `PunaError` where a finished artefact has lost or gained bytes since.
        """
        folder = self.folder(stage, digest)
        if not (folder / MANIFEST).is_file():
            return None
        manifest = read_manifest(folder)
        for name, entry in manifest["files"].items():
            path = folder / name
            if not path.is_file() or path.stat().st_size != entry["bytes"]:
                raise PunaError(f"{name} was changed or lost since it was built", where=str(folder),
                                mend="remove this folder and make again")  # fmt: skip
        return folder

    def build(self, stage: str, digest: str, fill: Callable[[Path], dict[str, Any]], about: dict[str, Any]) -> Path:
        """Run `fill(folder)` in a temporary folder and put it in its place, manifest last.

        `about` and what `fill` returns (facts) go into the manifest. On any error the temporary folder is removed.
        """
        final = self.folder(stage, digest)
        temporary = self.run / f".{final.name}.tmp"
        shutil.rmtree(temporary, ignore_errors=True)  # left by a kill: nobody else builds here, the run is locked
        temporary.mkdir(parents=True)
        try:
            facts = fill(temporary)
            files = _sync_and_digest(temporary)
            manifest = {**about, "stage": stage, "digest": digest, "content": content_digest(files), "facts": facts,
                        "files": files, "created": datetime.now(UTC).isoformat(timespec="seconds")}  # fmt: skip
            write_json(temporary / MANIFEST, manifest)
            os.replace(temporary, final)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        fsync_directory(self.run)
        shutil.rmtree(self.work(stage, digest), ignore_errors=True)
        return final

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run for one build. Raises `PunaError` where another build holds it; a kill lets go of it."""
        try:
            self.run.mkdir(parents=True, exist_ok=True)
        except (NotADirectoryError, FileExistsError, PermissionError) as error:
            raise PunaError(f"cannot be made: {error.strerror}", where=str(self.run),
                            mend="name a folder that you may write to with --runs") from error  # fmt: skip
        with open(self.run / ".lock", "a+") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                handle.seek(0)
                owner = handle.read().strip()
                raise PunaError(f"another build of this run is going on (process {owner})", where=str(self.run),
                                mend="wait for it, or give this one another name with --set name=...") from None  # fmt: skip
            handle.truncate(0)
            handle.write(str(os.getpid()))
            handle.flush()
            remove_leftovers(self.run)
            yield


def read_manifest(folder: Path) -> dict[str, Any]:
    """An artefact's manifest. Raises `PunaError` where it is absent or not one."""
    try:
        manifest = read_json(folder / MANIFEST)
        if not isinstance(manifest["files"], dict):
            raise TypeError("files")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PunaError(
            "has no readable manifest", where=str(folder), mend="remove this folder and make again"
        ) from error
    return manifest


def verify(folder: Path) -> None:
    """Compare every file's digest with the manifest. Raises `PunaError` naming the first that differs."""
    for name, entry in read_manifest(folder)["files"].items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != entry["bytes"] or file_sha256(path) != entry["sha256"]:
            raise PunaError(
                f"{name} differs from its manifest", where=str(folder), mend="remove this folder and make again"
            )


def content_digest(files: dict[str, dict[str, Any]]) -> str:
    """The identity of an artefact's contents, its log left out: what later stages depend on."""
    return digest_of(identity_of_files(files))


def identity_of_files(files: dict[str, dict[str, Any]]) -> dict[str, str]:
    """{name: SHA-256} of the files that make an artefact's content, its log left out."""
    return {name: entry["sha256"] for name, entry in files.items() if not name.startswith(f"{LOG}/")}


def _sync_and_digest(folder: Path) -> dict[str, dict[str, Any]]:
    files = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        with open(path, "rb") as stream:
            os.fsync(stream.fileno())
        files[path.relative_to(folder).as_posix()] = {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
    for path in sorted(p for p in folder.rglob("*") if p.is_dir()):
        fsync_directory(path)
    return files
