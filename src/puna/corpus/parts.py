"""The parts of a corpus between its passes: pieces of bounded size, each complete or absent.

Comes in: what a pass makes of one part. Goes out: a folder a part, with a manifest. Must never happen: a part that a kill cut
short taken for a whole one, or memory that grows with the number of parts.

A shelf is the output of one pass: `<shelf>/<part>/`, written beside it as `.<part>.tmp`, MANIFEST.json last, then renamed. Parts
sort by their names in reading order. A build that is run again takes what stands on the shelf.
"""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from puna.errors import PunaError
from puna.files import file_sha256, fsync_directory, read_json, write_json

MANIFEST = "MANIFEST.json"


@dataclass(frozen=True)
class Shelf:
    """The parts that one pass has finished."""

    folder: Path

    def has(self, part: str) -> bool:
        """Whether a part is there."""
        return (self.folder / part / MANIFEST).is_file()

    def names(self) -> list[str]:
        """All finished parts in reading order."""
        if not self.folder.is_dir():
            return []
        return sorted(
            path.name for path in self.folder.iterdir() if not path.name.startswith(".") and self.has(path.name)
        )

    def holds(self, part: str, name: str) -> bool:
        """Whether the pass wrote a file of that name for a part."""
        return name in read_json(self.folder / part / MANIFEST)["files"]

    def file(self, part: str, name: str) -> Path:
        """One file of a finished part. Raises PunaError where it is not as long as its manifest says."""
        path = self.folder / part / name
        expected = read_json(self.folder / part / MANIFEST)["files"][name]["bytes"]
        size = path.stat().st_size if path.is_file() else -1
        if size != expected:
            raise PunaError(f"is cut short: {max(size, 0):,} of {expected:,} bytes", where=str(path),
                            mend="remove this folder and make again")  # fmt: skip
        return path

    def facts(self, part: str) -> dict[str, Any]:
        """What the pass noted about a finished part."""
        facts: dict[str, Any] = read_json(self.folder / part / MANIFEST)["facts"]
        return facts

    def verify(self) -> None:
        """Before a build goes on after a kill: throw away parts whose bytes differ from their manifests, and leftovers."""
        if not self.folder.is_dir():
            return
        for path in sorted(self.folder.iterdir()):
            if path.is_dir() and (path.name.startswith(".") or not self.has(path.name) or not _is_whole(path)):
                shutil.rmtree(path)

    @contextmanager
    def writing(self, part: str, facts: dict[str, Any]) -> Iterator[Path]:
        """A folder to fill with a part's files; it takes its place when the block ends without an error.

        `facts` may be filled until then. A part that stands there already is left as it is.
        """
        temporary = (
            self.folder / f".{part}.{os.getpid()}.{secrets.token_hex(4)}.tmp"
        )  # machines of a cluster share numbers
        temporary.mkdir(parents=True)
        try:
            yield temporary
            files = {}
            for path in sorted(p for p in temporary.rglob("*") if p.is_file()):
                with open(path, "rb") as stream:
                    os.fsync(stream.fileno())
                name = path.relative_to(temporary).as_posix()
                files[name] = {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
            write_json(temporary / MANIFEST, {"files": files, "facts": facts})
            try:
                os.replace(temporary, self.folder / part)
            except OSError:
                # A cluster may run a task twice; both make the same bytes.
                if not self.has(part):
                    raise
            fsync_directory(self.folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _is_whole(folder: Path) -> bool:
    files = read_json(folder / MANIFEST)["files"]
    return all(
        (folder / name).is_file() and file_sha256(folder / name) == entry["sha256"] for name, entry in files.items()
    )
