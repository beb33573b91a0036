"""Others' results into the store.

Comes in: a file, or a folder of files, of one of four forms. Goes out: stored results that say whose they are. Must never happen: a
part of a file taken in where another part of it is wrong, or a number without its source.

- `lm_eval`: `results_*.json`, with the `samples_*.jsonl` beside it
- Hugging Face: `.eval_results/*.yaml`
- Every Eval Ever 0.3.0: JSON, with its `_samples.jsonl`
- a table: CSV or JSON with the columns of `from_table`
"""

import os
from collections.abc import Callable
from pathlib import Path

from puna.errors import PunaError
from puna.judge.measured import Measurement
from puna.judge.store import from_eee, from_hub, from_lm_eval, from_table
from puna.judge.store.foreign import UNITS, read_value
from puna.judge.store.store import Store, StoredResult
from puna.progress import QUIET, Progress

MAX_FILES = 20_000
MAX_DEPTH = 8
_FORMS = "lm_eval results, .eval_results/*.yaml, Every Eval Ever 0.3.0, or a table (CSV, JSON)"


def import_results(
    path: Path, store: Store, *, model: str | None = None, unit: str | None = None, progress: Progress = QUIET
) -> list[StoredResult]:
    """Store all results of a file or of a folder; nothing of it where there is a mistake.

    `model`: whose results they are, where the files do not say so. `unit`: "share" or "percent", of the scores of `.eval_results`
    files that do not say so. Raises `PunaError`.
    """
    if unit is not None and unit not in UNITS:
        raise PunaError(f"unit {unit[:40]!r} is none of share, percent, points")
    measurements = [one for file, read in _readers(Path(path), model, unit) for one in _read(file, read)]
    progress.start("Importing", len(measurements), "results")
    stored = []
    for number, one in enumerate(measurements, 1):
        stored.append(store.add(one))
        progress.update(number)
    progress.finish()
    return stored


_Read = Callable[[Path], list[Measurement]]


def _read(file: Path, read: _Read) -> list[Measurement]:
    try:
        return read(file)
    except RecursionError:
        raise PunaError("is nested too deeply", where=str(file)) from None


def _readers(path: Path, model: str | None, unit: str | None) -> list[tuple[Path, _Read]]:
    """What reads each file. Raises `PunaError` where there is none."""
    if path.is_dir():
        found = [(file, read) for file in _files(path) if (read := _reader(file, model, unit)) is not None]
        if not found:
            raise PunaError(f"holds no results ({_FORMS})", where=str(path))
        return found
    read = _reader(path, model, unit)
    if read is None:
        raise PunaError("is none of the known forms", where=str(path), mend=f"those are {_FORMS}")
    return [(path, read)]


def _reader(file: Path, model: str | None, unit: str | None) -> _Read | None:
    kind = file.suffix.lower()
    if kind in (".yaml", ".yml"):
        return lambda one: from_hub.read(one, model=model, unit=unit)
    if kind == ".csv":
        return from_table.read
    if kind != ".json":
        if not file.exists():
            raise PunaError("no such file", where=str(file))
        return None
    value = read_value(file)
    if from_eee.looks_like(value):
        return from_eee.read
    if from_lm_eval.looks_like(value):
        return lambda one: from_lm_eval.read(one, model=model)
    return from_table.read if from_table.looks_like(value) else None


def _files(folder: Path) -> list[Path]:
    """The files below a folder that may hold results, in the order of their paths. Links are passed over."""
    found, seen = [], 0
    for home, folders, names in os.walk(folder):
        depth = len(Path(home).relative_to(folder).parts)
        if depth >= MAX_DEPTH:
            folders.clear()
        folders[:] = sorted(one for one in folders if one == ".eval_results" or not one.startswith("."))
        for name in sorted(names):
            seen += 1
            if seen > MAX_FILES:
                raise PunaError(f"holds more than {MAX_FILES:,} files", where=str(folder))
            file = Path(home) / name
            if file.is_symlink() or name.startswith("."):
                continue
            yaml = file.suffix.lower() in (".yaml", ".yml") and file.parent.name == ".eval_results"
            if yaml or file.suffix.lower() in (".json", ".csv"):
                found.append(file)
    return found
