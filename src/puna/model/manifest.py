"""The list of digests that may stand beside a model: `MANIFEST.json`, or `puna/MANIFEST.json` in a release.

Comes in: a folder. Goes out: a yes for each file, or an error. Must never happen: a file that differs from its line.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from puna.errors import PunaError
from puna.files import file_sha256

_PLACES = ("MANIFEST.json", "puna/MANIFEST.json")
_MAX_BYTES = 64 << 20


@dataclass
class Manifest:
    """Files of `folder` with their sizes and digests; paths are relative to `folder`. Empty where there is no list."""

    folder: Path
    source: Path | None = None
    files: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def find(cls, folder: Path) -> "Manifest":
        """The manifest of a model folder, or of the release that it stands in; raises `PunaError` where one stands there and cannot be read."""
        for place in _PLACES:
            path = folder / place
            if path.is_file():
                return cls(folder, path, _read(path))
        above, name = folder.resolve().parent / _PLACES[1], folder.resolve().name  # the base model inside a release
        if above.is_file():
            inner = {path[len(name) + 1 :]: line for path, line in _read(above).items() if path.startswith(f"{name}/")}
            if inner:
                return cls(folder, above, inner)
        return cls(folder)

    def verify_all(self, names: Sequence[str]) -> None:
        """Verify those of `names` that stand in the folder; raises `PunaError` also where a listed one is missing."""
        for name in names:
            if (self.folder / name).is_file():
                self.verify(self.folder / name)
            elif name in self.files:
                raise PunaError("is missing, and the manifest lists it", where=str(self.folder / name))

    def verify(self, path: Path) -> bool:
        """True where the file agrees with its line, False where there is no manifest; raises `PunaError` otherwise."""
        if self.source is None:
            return False
        line = self.files.get(path.relative_to(self.folder).as_posix())
        if line is None:
            raise PunaError("is not listed in the manifest beside it", where=str(path))
        size = path.stat().st_size
        if size != line["bytes"]:
            raise PunaError(f"has {size:,} bytes, the manifest says {line['bytes']:,}", where=str(path))
        if file_sha256(path) != line["sha256"]:
            raise PunaError("was altered or damaged: its digest is not the manifest's", where=str(path))
        return True


def _read(path: Path) -> dict[str, Any]:
    """The `files` of a manifest, each line with `bytes` and `sha256`."""
    if path.stat().st_size > _MAX_BYTES:
        raise PunaError("is too large for a manifest", where=str(path))
    try:
        files = json.loads(path.read_bytes().decode("utf-8"))["files"]
        sound = all(type(line["bytes"]) is int and isinstance(line["sha256"], str) for line in files.values())
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise PunaError("is not a manifest", where=str(path)) from error
    if not sound:
        raise PunaError("has a file without bytes and sha256", where=str(path))
    return dict(files)
