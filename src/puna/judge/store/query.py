"""Questions to the store in SQL, by DuckDB.

Comes in: a store and one SELECT. Goes out: columns and rows, or a table for a terminal. Must never happen: a file or an address read
by the SQL, a row of a result that was refused, or an answer without end.

Two tables, made in memory from the verified results alone:

    results   id, model, developer, kind, parameters, train_tokens, licence, task, title, metric, unit, shots, score, standard_error,
              low, high, n, clusters, chance, normalised, failed, imported, source_date, command, stored, path
    items     result, model, task, item, subtask, cluster, question, prompt, choices, target, answer, score, weight, truncated, tie,
              dirty
"""

import json
import re
import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from puna.errors import PunaError
from puna.judge.store.samples import answer_text, target_texts
from puna.judge.store.store import Store, StoredResult
from puna.words import cells, plain

MAX_ROWS = 10_000  # of an answer
MAX_SECONDS = 60.0
_MEMORY = "2GB"
_TEXT, _FLOAT, _INT, _BOOL = pa.string(), pa.float64(), pa.int64(), pa.bool_()
_RESULTS = pa.schema([
    ("id", _TEXT), ("model", _TEXT), ("developer", _TEXT), ("kind", _TEXT), ("parameters", _INT), ("train_tokens", _INT),
    ("licence", _TEXT), ("task", _TEXT), ("title", _TEXT), ("metric", _TEXT), ("unit", _TEXT), ("shots", _INT), ("score", _FLOAT),
    ("standard_error", _FLOAT), ("low", _FLOAT), ("high", _FLOAT), ("n", _INT), ("clusters", _INT), ("chance", _FLOAT),
    ("normalised", _FLOAT), ("failed", _TEXT), ("imported", _TEXT), ("source_date", _TEXT), ("command", _TEXT),
    ("stored", pa.timestamp("s")), ("path", _TEXT),
])  # fmt: skip
_ITEMS = pa.schema([
    ("result", _TEXT), ("model", _TEXT), ("task", _TEXT), ("item", _TEXT), ("subtask", _TEXT), ("cluster", _TEXT),
    ("question", _TEXT), ("prompt", _TEXT), ("choices", pa.list_(_TEXT)), ("target", pa.list_(_TEXT)), ("answer", _TEXT),
    ("score", _FLOAT), ("weight", _FLOAT), ("truncated", _INT), ("tie", _BOOL), ("dirty", _FLOAT),
])  # fmt: skip


def ask(
    store: Store,
    sql: str,
    *,
    older: bool = False,
    limit: int = MAX_ROWS,
    seconds: float = MAX_SECONDS,
    problems: list[PunaError] | None = None,
) -> tuple[list[str], list[tuple[Any, ...]]]:
    """The columns and rows of one SELECT over `results` and `items`. Raises `PunaError` for a mistake in it.

    `older`: also results of which there is a newer one. `problems`: takes the refused files (else the first one raises).
    """
    try:
        import duckdb
    except ImportError:
        raise PunaError("questions need DuckDB", mend='install it: pip install "puna[judge]"') from None
    base = duckdb.connect(":memory:", config={"memory_limit": _MEMORY, "threads": 2})
    try:
        _check(base, duckdb, sql)
        results = store.results(problems, older=older)
        # Loaded while Python's objects may still be seen; then everything outside is closed for good.
        base.from_arrow(pa.Table.from_pylist([_result_row(one) for one in results], schema=_RESULTS)).create("results")
        base.from_arrow(_ITEMS.empty_table()).create("items")
        if re.search(r"\bitems\b", sql, re.IGNORECASE):
            for one in results:
                base.from_arrow(_item_table(one)).insert_into("items")
        for setting in (
            "enable_external_access=false",
            "python_enable_replacements=false",
            "autoinstall_known_extensions=false",
            "autoload_known_extensions=false",
            "allow_community_extensions=false",
            "lock_configuration=true",
        ):
            base.execute(f"SET {setting}")
        clock = threading.Timer(seconds, base.interrupt)
        clock.start()
        try:
            answer = base.execute(sql)
            columns = [column[0] for column in answer.description]
            rows = answer.fetchmany(limit + 1)
        finally:
            clock.cancel()
    except duckdb.InterruptException:
        raise PunaError(f"took longer than {seconds:g} s", where="SQL") from None
    except duckdb.Error as error:
        raise PunaError(" ".join(str(error).split())[:400], where="SQL") from None
    finally:
        base.close()
    if len(rows) > limit:
        raise PunaError(f"the answer has more than {limit:,} rows", where="SQL", mend="add a LIMIT")
    return columns, rows


def as_table(columns: Sequence[str], rows: Sequence[Sequence[Any]], width: int = 80) -> str:
    """An answer as a table of at most `width` columns of a terminal; what does not fit ends with a sign."""
    grid = [[*columns], *([_shown(value) for value in row] for row in rows)]
    grid = [[plain(cell).replace("\n", " ").replace("\t", " ") for cell in row] for row in grid]
    if not columns:
        return ""
    room = max(len(columns), width - 2 * (len(columns) - 1))
    widths = [max(1, max(cells(row[index]) for row in grid)) for index in range(len(columns))]
    while sum(widths) > room and max(widths) > 1:
        widths[widths.index(max(widths))] -= 1
    numeric = [
        all(row[index] is None or isinstance(row[index], int | float) for row in rows) and bool(rows)
        for index in range(len(columns))
    ]
    lines = []
    for row in grid:
        parts = [_fit(cell, size, right) for cell, size, right in zip(row, widths, numeric, strict=True)]
        lines.append("  ".join(parts).rstrip())
    lines.insert(1, "  ".join("-" * size for size in widths))
    return "\n".join(lines)


def _check(base: Any, duckdb: Any, sql: str) -> None:
    statements = base.extract_statements(sql)
    if len(statements) != 1 or statements[0].type not in (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN):
        raise PunaError("must be one SELECT", where="SQL", mend="results and items are read, never written")


def _result_row(one: StoredResult) -> dict[str, Any]:
    model, task, summary = one.model, one.task, one.summary
    low, high = summary.interval if summary.interval is not None else (None, None)
    origin = one.facts().origin
    return {
        "id": one.id,
        "model": model.name,
        "developer": model.developer,
        "kind": model.kind,
        "parameters": model.parameters,
        "train_tokens": model.train_tokens,
        "licence": model.licence,
        "task": task.name,
        "title": task.title,
        "metric": task.metric,
        "unit": task.unit,
        "shots": task.shots,
        "score": summary.score,
        "standard_error": summary.standard_error,
        "low": low,
        "high": high,
        "n": summary.n,
        "clusters": summary.clusters,
        "chance": summary.chance,
        "normalised": summary.normalised,
        "failed": one.failed,
        "imported": one.imported,
        "source_date": origin.date if origin else None,
        "command": one.command,
        "stored": datetime.fromtimestamp(int(one.retrieved), UTC).replace(tzinfo=None),
        "path": str(one.path),
    }


def _item_table(one: StoredResult) -> pa.Table:
    items = one.items()
    columns: dict[str, list[Any]] = {
        "result": [one.id] * len(items),
        "model": [one.model.name] * len(items),
        "task": [one.task.name] * len(items),
        "item": [item.id for item in items],
        "choices": [list(item.choices) for item in items],
        "target": [target_texts(item) for item in items],
        "answer": [answer_text(item) for item in items],
    }
    for name in _ITEMS.names:
        if name not in columns:
            columns[name] = [getattr(item, name) for item in items]
    return pa.Table.from_pydict(columns, schema=_ITEMS)


def _shown(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1e-3 or abs(value) >= 1e6 else f"{value:.4f}"
    if isinstance(value, list | dict | tuple):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)


def _fit(text: str, size: int, right: bool) -> str:
    if cells(text) > size:
        kept = ""
        for letter in text:
            if cells(kept + letter) > size - 1:
                break
            kept += letter
        text = f"{kept}…"
    space = " " * (size - cells(text))
    return space + text if right else text + space
