"""The training log: one JSON line per step, only ever appended to.

Comes in: a step's numbers. Goes out: `metrics.jsonl`. Must never happen: a line lost or counted twice because the run
was killed and resumed: a resumed run writes some steps again, and the reader keeps the last line of each.
"""

import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any

from puna.errors import PunaError
from puna.files import canonical_json


class MetricsLog:
    """Appends rows; a context manager. An unfinished last line, left by a kill, is cut off on opening."""

    def __init__(self, path: Path) -> None:
        self.path = path
        _cut_unfinished_line(path)
        self._stream = open(path, "ab")  # noqa: SIM115 - closed by __exit__

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.sync()
        self._stream.close()

    def write(self, row: dict[str, Any]) -> None:
        """One row, handed to the system at once."""
        self._stream.write(canonical_json(row) + b"\n")
        self._stream.flush()

    def sync(self) -> None:
        """Make all rows survive a power cut; done with every checkpoint."""
        os.fsync(self._stream.fileno())


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows by step; of a step written twice the last row counts. A line cut short at the end is left out.

    Raises `PunaError` naming file and line where any other line is not a row.
    """
    rows: dict[int, dict[str, Any]] = {}
    lines = Path(path).read_bytes().split(b"\n")
    for number, line in enumerate(lines[:-1], start=1):
        try:
            row = json.loads(line)
            rows[int(row["step"])] = row
        except (ValueError, KeyError, TypeError) as error:
            raise PunaError(f"not a row of metrics ({type(error).__name__})", where=f"{path}:{number}") from error
    return [rows[step] for step in sorted(rows)]


def _cut_unfinished_line(path: Path) -> None:
    if not path.exists():
        return
    with open(path, "r+b") as stream:
        size = stream.seek(0, os.SEEK_END)
        end = size
        while end > 0:
            start = max(0, end - 4096)
            stream.seek(start)
            found = stream.read(end - start).rfind(b"\n")
            if found >= 0:
                end = start + found + 1
                break
            end = start
        if end != size:
            stream.truncate(end)
