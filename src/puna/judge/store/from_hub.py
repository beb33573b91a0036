"""Scores that stand in a model's repository on the Hugging Face hub: `.eval_results/*.yaml`.

Comes in: such a file. Goes out: measurements without items. Must never happen: YAML that builds an object, or a percentage guessed.

A file is a list of ``{dataset: {id, task_id, revision}, value, date, source: {url, name, user | org}, notes}``. It does not name its
model (that is the repository it lies in) and not the unit of `value`: published files have both 20.9 and 0.412. The unit counts as
stated where `notes` say "unit: percent" or "unit: share", or where the caller says so.
"""

import re
from pathlib import Path
from typing import Any

from puna.errors import PunaError
from puna.judge.measured import Measurement, Origin, Published, TaskFacts
from puna.judge.store import known
from puna.judge.store.foreign import (
    MAX_NAME,
    MAX_ROWS,
    UNITS,
    Mistakes,
    by_name,
    in_unit,
    model_named,
    number_of,
    size_of,
)
from puna.reading import read_text

MAX_FILE = 256 << 10  # bytes: a result has about 300
MAX_DEPTH = 8  # nested lists and objects; a result has three
_UNIT = re.compile(r"\bunit: *(share|percent|points)\b")
_FACT = re.compile(r"\b(n|shots|metric): *([\w.,%-]+)")
_ENTRY = {"dataset", "value", "verifyToken", "date", "source", "notes"}


def read(path: Path, *, model: str | None = None, unit: str | None = None) -> list[Measurement]:
    """The measurements of a file. `model`: whose they are, else the repository's folder. Raises `PunaError` with all mistakes."""
    entries, mistakes = _entries(path), Mistakes(path)
    name = model or model_of(path)
    if name is None:
        mistakes.add("lies in no .eval_results folder of a model: say whose scores these are")
    found = []
    for number, entry in enumerate(entries, 1):
        try:
            found.append(_measurement(entry, name or "?", unit, path))
        except ValueError as error:
            mistakes.add(f"entry {number}: {error}")
    mistakes.check()
    return by_name(found)


def model_of(path: Path) -> str | None:
    """The model whose repository a file lies in: the folder around `.eval_results`, or what the hub's cache calls it."""
    folder = path.absolute().parent
    if folder.name != ".eval_results":
        return None
    home = folder.parent
    if home.parent.name == "snapshots" and home.parent.parent.name.startswith("models--"):
        return home.parent.parent.name.removeprefix("models--").replace("--", "/", 1)
    return home.name or None


def _entries(path: Path) -> list[Any]:
    import yaml

    text = read_text(path, MAX_FILE)
    try:
        depth = 0
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent):  # a few lines with aliases can unfold to gigabytes
                raise PunaError("has a YAML alias, which such a file does not need", where=str(path))
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_DEPTH:  # the time for nested lists grows with the square of their depth
                raise PunaError("is nested too deeply", where=str(path))
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise PunaError(f"not YAML ({' '.join(str(error).split())[:120]})", where=str(path)) from None
    if not isinstance(value, list) or not value or len(value) > MAX_ROWS:
        raise PunaError("is no list of results", where=str(path))
    return value


def _measurement(entry: Any, model: str, unit: str | None, path: Path) -> Measurement:
    if not isinstance(entry, dict) or not isinstance(entry.get("dataset"), dict):
        raise ValueError("is no {dataset, value, ...}")
    unknown = sorted(str(key)[:40] for key in set(map(str, entry)) - _ENTRY)
    if unknown:
        raise ValueError(f"has unknown keys: {', '.join(unknown[:8])}")
    dataset, source = entry["dataset"], entry.get("source") or {}
    hub, task_id = dataset.get("id"), dataset.get("task_id")
    if not isinstance(hub, str) or not isinstance(task_id, str) or not hub or not task_id:
        raise ValueError("dataset needs id and task_id")
    if not isinstance(source, dict):
        raise ValueError("source is no {url, name, ...}")
    value = number_of(entry.get("value"))
    if value is None:
        raise ValueError(f"value {str(entry.get('value'))[:40]!r} is no number")
    notes = str(entry.get("notes") or "")[:4000]
    stated = _UNIT.search(notes)
    which = UNITS.get(unit or (stated[1] if stated else ""))
    if which is None:
        raise ValueError(f"nobody says whether {value:g} is a share or a percentage: state the unit")
    score, test = in_unit(value, which), known.find_hub(hub, task_id)
    told = dict(_FACT.findall(notes))
    count, shots = told.get("n", ""), told.get("shots", "")
    n, n_source = size_of(test, int(count) if count.isdigit() and int(count[:16]) > 0 else None)
    more: dict[str, Any] = {
        "unit": "points" if which == "points" else "share",
        "shots": int(shots) if shots.isdigit() and len(shots) < 5 else test.shots if test else 0,
        "source": f"{hub}@{dataset['revision']}"[:MAX_NAME] if dataset.get("revision") else hub[:MAX_NAME],
        "notes": ("the protocol is not known",) if not shots else (),
    }
    if told.get("metric"):
        more["metric"] = told["metric"]
    if test is not None:
        task = known.facts(test, **more)
    else:
        name = (task_id if task_id != "default" else hub.rpartition("/")[2])[:MAX_NAME]
        task = TaskFacts.model_validate({"name": name, "title": name, "kind": "remote", "metric": "value", **more})
    who = source.get("name") or source.get("org") or source.get("user") or "the model's repository"
    return Measurement(
        model=model_named(model[:MAX_NAME]),
        task=task,
        origin=Origin(
            form="eval_results",
            name=str(who)[:MAX_NAME],
            url=str(source.get("url") or "")[:4000],
            date=str(entry.get("date") or "")[:40],
            notes=notes,
        ),
        published=Published(score=score, n=n, n_source=n_source, scores={task.metric: score}),
    )
