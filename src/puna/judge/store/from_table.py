"""Published scores as a plain table: CSV or JSON, one score a row. For numbers from papers, model cards and old boards.

Comes in: rows of model, task, metric, score, unit and more. Goes out: measurements without items. Must never happen: a unit guessed,
a row without a source, or two different scores of one model on one task from one source and date.

| column | | |
|---|---|---|
| model, task, score, unit, source | needed | unit: `percent`, `share` or `points` |
| metric, n, shots, standard_error, date, url, notes | where known | of a test that Puna knows: metric, n and shots are filled in |
| developer, parameters, train_tokens, licence | where known | of the model |
"""

import csv
import io
import re
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from puna.errors import PunaError
from puna.judge.measured import Measurement, Origin, Published, TaskFacts
from puna.judge.store import known
from puna.judge.store.foreign import (
    MAX_NAME,
    MAX_ROWS,
    PERCENT,
    POINTS,
    SHARE,
    UNITS,
    Mistakes,
    in_unit,
    model_named,
    number_of,
    share_of,
    size_of,
)
from puna.judge.store.samples import mistakes as all_of
from puna.judge.store.samples import strict_json
from puna.reading import read_text

NEEDED = ("model", "task", "score", "unit", "source")
OPTIONAL = ("metric", "n", "shots", "standard_error", "date", "url", "notes")
OF_THE_MODEL = ("developer", "parameters", "train_tokens", "licence")
COLUMNS = NEEDED + OPTIONAL + OF_THE_MODEL

_DATE = re.compile(r"\d{4}(-\d{2}(-\d{2}(T[0-9:.+Z-]+)?)?)?")


def looks_like(value: Any) -> bool:
    """Whether a JSON value is such a table: a list of objects with a model and a task."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(row, dict) and {"model", "task"} <= set(row) for row in value)
    )


def read(path: Path) -> list[Measurement]:
    """The measurements of a table, the older dates first. Raises `PunaError` with all mistakes."""
    told = Mistakes(path)
    rows = _json_rows(path) if path.suffix.lower() == ".json" else _csv_rows(path, told)
    found: dict[tuple[str, ...], Measurement] = {}
    for where, row in rows:
        problems: list[str] = []
        one = _measurement(row, problems)
        for problem in problems:
            told.add(f"{where}: {problem}")
        if one is None or one.origin is None:
            continue
        key = (one.model.name, one.task.name, one.task.metric, str(one.task.shots), one.origin.name, one.origin.date)
        if key in found:
            told.add(f"{where}: {one.model.name[:80]} on {one.task.name[:80]} stands twice")
        found[key] = one
    if not rows:
        told.add("has no row")
    told.check()
    return sorted(
        found.values(), key=lambda one: (one.origin.date if one.origin else "", one.model.name, one.task.name)
    )


def _csv_rows(path: Path, told: Mistakes) -> list[tuple[str, dict[str, str]]]:
    text = read_text(path).removeprefix("\ufeff")
    lines = [line for line in text.splitlines(keepends=True) if not line.startswith("#")]
    reader = csv.reader(io.StringIO("".join(lines), newline=""), strict=True)
    comments = len(text.splitlines()) - len(lines)
    rows: list[tuple[str, dict[str, str]]] = []
    try:
        head = [name.strip().lower() for name in next(reader, [])]
        missing = [name for name in NEEDED if name not in head]
        unknown = [name[:40] for name in head if name not in COLUMNS]
        if missing or unknown or len(set(head)) != len(head):
            raise PunaError(
                f"needs the columns {', '.join(NEEDED)}; lacks {', '.join(missing) or 'none'}, does not know "
                f"{', '.join(unknown[:8]) or 'none'}",
                where=str(path),
                mend=f"all columns are {', '.join(COLUMNS)}",
            )
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            where = f"line {reader.line_num + comments}"
            if len(rows) >= MAX_ROWS:
                raise PunaError(f"more than {MAX_ROWS:,} rows", where=str(path))
            if len(cells) != len(head):
                told.add(f"{where}: {len(cells)} cells, the head has {len(head)}")
                continue
            rows.append((where, {name: cell.strip() for name, cell in zip(head, cells, strict=True)}))
    except csv.Error as error:
        raise PunaError(f"not CSV ({str(error)[:80]})", where=f"{path} line {reader.line_num}") from None
    return rows


def _json_rows(path: Path) -> list[tuple[str, dict[str, str]]]:
    try:
        value = strict_json(read_text(path))
    except (ValueError, RecursionError) as error:
        raise PunaError(f"not JSON ({str(error)[:80]})", where=str(path)) from None
    if not looks_like(value) or len(value) > MAX_ROWS:
        raise PunaError("is no list of rows with model and task", where=str(path))
    unknown = sorted({str(key)[:40] for row in value for key in row if key not in COLUMNS})
    if unknown:
        raise PunaError(
            f"does not know {', '.join(unknown[:8])}", where=str(path), mend=f"all keys are {', '.join(COLUMNS)}"
        )
    rows: list[tuple[str, dict[str, str]]] = []
    for number, row in enumerate(value, 1):
        rows.append((f"row {number}", {key: "" if cell is None else str(cell).strip() for key, cell in row.items()}))
    return rows


def _measurement(row: dict[str, str], problems: list[str]) -> Measurement | None:
    cell = {name: row.get(name, "") for name in COLUMNS}
    problems += [f"no {name}" for name in NEEDED if not cell[name]]
    problems += [
        f"{name} is too long" for name in COLUMNS if len(cell[name]) > (4000 if name in ("notes", "url") else MAX_NAME)
    ]
    unit = UNITS.get(cell["unit"].lower())
    if cell["unit"] and unit is None:
        problems.append(f"unit {cell['unit'][:40]!r} is none of {SHARE}, {PERCENT}, {POINTS}")
    if cell["date"] and not _DATE.fullmatch(cell["date"]):
        problems.append(f"date {cell['date'][:40]!r} is not like 2023-11-08")
    counts = {name: _count(cell, name, problems) for name in ("n", "shots", "parameters", "train_tokens")}
    score = _number(cell, "score", unit, problems)
    error = _number(cell, "standard_error", unit, problems)
    if problems or score is None or unit is None:
        return None
    test = known.find(cell["task"])
    n, n_source = size_of(test, counts["n"])
    told: dict[str, Any] = {"unit": POINTS if unit == POINTS else SHARE, "source": test.title if test else cell["task"]}
    if counts["shots"] is not None:
        told["shots"] = counts["shots"]
    if cell["metric"]:
        told["metric"] = cell["metric"]
    try:
        if test is not None:
            task = known.facts(test, **told)
        else:
            more = {"kind": "remote", "metric": "score", "notes": ("chance level not known",), **told}
            task = TaskFacts.model_validate({"name": cell["task"], "title": cell["task"], **more})
        model: dict[str, Any] = {
            name: counts[name] for name in ("parameters", "train_tokens") if counts[name] is not None
        }
        model |= {name: cell[name] for name in ("developer", "licence") if cell[name]}
        return Measurement(
            model=model_named(cell["model"], **model),
            task=task,
            origin=Origin(form="table", name=cell["source"], url=cell["url"], date=cell["date"], notes=cell["notes"]),
            published=Published(score=score, n=n, n_source=n_source, standard_error=error, scores={task.metric: score}),
        )
    except ValidationError as failure:
        problems.append(all_of(failure))
        return None


def _count(cell: dict[str, str], name: str, problems: list[str]) -> int | None:
    text = cell[name].replace(",", "").replace("_", "")
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 17) or (name != "shots" and int(text) == 0):
        problems.append(f"{name} {cell[name][:40]!r} is no whole number")
        return None
    return int(text)


def _number(cell: dict[str, str], name: str, unit: str | None, problems: list[str]) -> float | None:
    text = cell[name].removesuffix("%").strip()
    if not text:
        return None
    try:
        found = number_of(float(text))
        if found is None or not re.fullmatch(r"[+-]?[0-9.]+([eE][+-]?[0-9]+)?", text):
            raise ValueError
        if unit is None:
            return None
        if unit == PERCENT:
            found = share_of(text)
            return in_unit(found, SHARE)
        return in_unit(found, unit)
    except ValueError:
        problems.append(f"{name} {cell[name][:40]!r} is no {unit or 'number'}")
        return None
