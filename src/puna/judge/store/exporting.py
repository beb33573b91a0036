"""Results for others: a tree of Every Eval Ever, and `.eval_results` files for a model's repository on the Hugging Face hub.

Comes in: stored results. Goes out: files in a folder. Must never happen: a file that its public schema refuses, or a result that
cannot be told in a form written down as something else (it is left out, and the caller learns why).
"""

import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from puna.errors import PunaError
from puna.files import atomic_file
from puna.judge.store import known
from puna.judge.store.form import model_folder
from puna.judge.store.names import safe_name
from puna.judge.store.store import Store, StoredResult
from puna.ledger.hub import FOLDER, eval_result, scaled
from puna.progress import QUIET, Progress

_BLOCK = 1 << 20


def export_eee(results: Sequence[StoredResult], folder: Path, progress: Progress = QUIET) -> list[Path]:
    """Write records and samples as ``FOLDER/data/TASK/DEVELOPER/MODEL/ID.json``, each verified once more. Returns what was
    written. Raises `PunaError`.

    The records are the store's own: they are valid as they are, and a Puna that imports them gets the same results back.
    """
    written: list[Path] = []
    target = Store(folder)
    progress.start("Exporting", len(results), "results")
    for number, one in enumerate(results, 1):
        inside = one.path.relative_to(one.path.parents[4])
        target.make_folder(str(inside.parent))
        place = folder / inside
        try:
            if one.samples is not None:
                _copy(one.samples, place.with_name(one.samples.name))
                written.append(place.with_name(one.samples.name))
            _copy(one.path, place)
        except OSError as error:
            raise PunaError(f"cannot be written ({error.strerror})", where=str(place)) from None
        target.load(place)  # it was verified when it was listed; a change since then is seen here
        written.append(place)
        progress.update(number)
    progress.finish()
    return written


def export_hf(results: Sequence[StoredResult], folder: Path, left_out: list[str] | None = None) -> list[Path]:
    """Write ``FOLDER/DEVELOPER/MODEL/.eval_results/TASK.yaml``, to be put into the models' repositories. Raises `PunaError`.

    Scores are in percent, and `notes` say so, with metric, shots, n, standard error and what measured. A result is left out where it
    has no score, or where its task has no data set on the hub that is known to the project; `left_out` takes "MODEL on TASK: why".
    """
    import yaml

    written: list[Path] = []
    reasons = [] if left_out is None else left_out
    entries: dict[Path, list[dict[str, Any]]] = {}
    for one in results:
        who, hub = f"{one.model.name} on {one.task.name}", known.on_hub(one.task.name)
        if one.summary.score is None:
            reasons.append(f"{who}: failed ({one.failed})")
        elif hub is None:
            reasons.append(f"{who}: its data set has no name on the hub that is known here")
        else:
            home = folder / model_folder(one.model) / FOLDER
            entries.setdefault(home / f"{safe_name(one.task.name)}.yaml", []).append(_entry(one, hub))
    for path, found in entries.items():
        text = yaml.safe_dump(found, sort_keys=False, allow_unicode=True, width=1000)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_file(path) as stream:
                stream.write(text.encode())
        except OSError as error:
            raise PunaError(f"cannot be written ({error.strerror})", where=str(path)) from None
        written.append(path)
    return written


def _entry(one: StoredResult, hub: tuple[str, str]) -> dict[str, Any]:
    share, summary, origin = one.task.unit == "share", one.summary, one.facts().origin
    notes = [f"metric: {one.task.metric}", f"shots: {one.task.shots}"]
    if summary.n is not None:
        notes.append(f"n: {summary.n}")
    if summary.standard_error is not None:
        notes.append(f"standard error: {scaled(summary.standard_error, share):.6g}")
    if one.settings.limit is not None:
        notes.append(f"a sample of {one.settings.limit} items by seed {one.settings.seed}")
    if one.harness:
        notes.append("measured with " + ", ".join(f"{name} {version}" for name, version in sorted(one.harness.items())))
    date = origin.date if origin is not None else datetime.fromtimestamp(int(one.retrieved), UTC).isoformat()
    source = {"url": origin.url, "name": origin.name} if origin is not None and origin.url else None
    return eval_result(hub, summary.score or 0.0, percent=share, notes=notes, date=date, source=source)


def _copy(source: Path, target: Path) -> None:
    if target.is_symlink():
        raise PunaError("is a link", where=str(target), mend="export into a folder of its own")
    with open(source, "rb") as stream, atomic_file(target) as out:
        shutil.copyfileobj(stream, out, _BLOCK)
