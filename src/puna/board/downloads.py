"""What others may take away: all results and all pairs as tables, all results as JSON, and the results' own files.

Comes in: a board and its results. Goes out: files under `downloads/`. Must never happen: a cell that a spreadsheet runs as a formula,
or a download so large that the board cannot be put on a server.
"""

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from puna.board.data import Board
from puna.board.gather import Gathered, Shown
from puna.board.writing import Folder
from puna.errors import PunaError
from puna.files import canonical_json
from puna.judge.store.form import folder_of
from puna.judge.store.store import MAX_RECORD, StoredResult
from puna.reading import read_bytes
from puna.visible import clean

MOST_SAMPLES = 32 << 20  # bytes of one result's items
MOST_IN_ALL = 256 << 20

RESULTS = (
    "model", "developer", "task", "metric", "unit", "score", "low", "high", "standard_error", "n", "clusters", "chance", "p_chance",
    "normalised", "normalised_clipped", "failed", "truncated_items", "ties", "looked_for", "dirty_items", "clean_score", "dirty_score",
    "parameters", "train_tokens", "train_flops", "licence", "parents", "weights_sha256", "tokenizer_sha256", "task_sha256", "data_sha256",
    "prompts_sha256", "harness", "source", "in_table", "result", "command",
)  # fmt: skip
PAIRS = (
    "task", "first", "second", "difference", "low", "high", "standard_error", "p", "paired", "n", "only_first_right",
    "only_second_right", "items_needed", "test",
)  # fmt: skip


def write_downloads(folder: Folder, gathered: Gathered) -> dict[str, tuple[str, str]]:
    """Write all downloads. Returns {result id: (its record's file, its items' file or "")}, paths inside the board."""
    board = gathered.board
    folder.text("downloads/results.csv", table(RESULTS, (result_row(board, one) for one in gathered.results)))
    folder.text("downloads/pairs.csv", table(PAIRS, pair_rows(board)))
    folder.data("downloads/results.json", canonical_json(results_json(gathered)) + b"\n")
    files, spent = {}, 0
    for one in gathered.results:
        place = f"downloads/{folder_of(one.result.model, one.result.task)}/{one.result.id}"
        try:
            record = read_bytes(one.result.path, MAX_RECORD)
            items = _samples(one.result, MOST_IN_ALL - spent)
        except PunaError:
            continue  # it was removed or changed meanwhile
        folder.data(f"{place}.json", record)
        if items is not None:
            folder.data(f"{place}_samples.jsonl", items)
            spent += len(items)
        files[one.result.id] = f"{place}.json", f"{place}_samples.jsonl" if items is not None else ""
    return files


def _samples(result: StoredResult, left: int) -> bytes | None:
    path: Path | None = result.samples
    if path is None or path.stat().st_size > min(MOST_SAMPLES, left):
        return None
    return read_bytes(path, MOST_SAMPLES)


def table(columns: Sequence[str], rows: Iterable[dict[str, Any]]) -> str:
    """RFC 4180 CSV, UTF-8. Text that a spreadsheet would take for a formula gets an apostrophe before it (OWASP, CSV injection)."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, columns, lineterminator="\r\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: _cell(value) for key, value in row.items()})
    return stream.getvalue()


def _cell(value: Any) -> Any:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, str):
        return value
    text = clean(value)
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r", "\n") else text


def result_row(board: Board, one: Shown) -> dict[str, Any]:
    """A result as a row of results.csv."""
    model, task, score = one.result.model, one.result.task, one.score
    low, high = score.interval or (None, None)
    dirt = score.dirt
    parents = "; ".join(
        f"{p.relation or 'stems'} from {p.name} ({p.evidence or 'no evidence given'})" for p in model.parents
    )
    return {
        "model": model.name, "developer": model.developer, "task": task.name, "metric": task.metric, "unit": task.unit,
        "score": score.value, "low": low, "high": high, "standard_error": None if score.variance is None else score.variance**0.5,
        "n": score.n, "clusters": score.clusters, "chance": score.chance, "p_chance": score.above_chance, "normalised": score.norm,
        "normalised_clipped": score.clipped, "failed": score.failed or "", "truncated_items": score.truncated, "ties": score.ties,
        "looked_for": dirt.decidable if dirt else None, "dirty_items": dirt.dirty if dirt else None,
        "clean_score": dirt.clean_value if dirt else None, "dirty_score": dirt.dirty_value if dirt else None,
        "parameters": model.parameters, "train_tokens": model.train_tokens, "train_flops": model.flops, "licence": model.licence or "",
        "parents": parents, "weights_sha256": model.digest or "", "tokenizer_sha256": model.tokenizer_digest or "",
        "task_sha256": task.digest, "data_sha256": task.data_digest, "prompts_sha256": task.prompt_digest,
        "harness": " ".join(f"{name} {version}" for name, version in sorted(one.result.harness.items())), "source": score.source,
        "in_table": not one.why, "result": one.result.id, "command": score.command,
    }  # fmt: skip


def pair_rows(board: Board) -> Iterable[dict[str, Any]]:
    """The rows of pairs.csv: first minus second."""
    for t, column in enumerate(board.tasks):
        for (i, j), found in sorted(board.pairs[t].items()):
            low, high = found.interval or (None, None)
            yield {
                "task": column.slug, "first": board.models[i].slug, "second": board.models[j].slug, "difference": found.value,
                "low": low, "high": high, "standard_error": None if found.variance is None else found.variance**0.5, "p": found.p,
                "paired": found.paired, "n": found.n or None, "only_first_right": found.first_only if found.binary else None,
                "only_second_right": found.second_only if found.binary else None, "items_needed": found.more, "test": found.test,
            }  # fmt: skip


def results_json(gathered: Gathered) -> dict[str, Any]:
    """All results with all that the board knows of them, without items."""
    board = gathered.board
    return {
        "form": "puna-results/1",
        "title": board.title,
        "models": [{"slug": row.slug, **row.facts.model_dump(mode="json")} for row in board.models],
        "tasks": [{"slug": column.slug, **column.facts.model_dump(mode="json")} for column in board.tasks],
        "results": [
            {
                "model": board.models[one.model].slug, "task": board.tasks[one.task].slug, "in_table": not one.why,
                "settings": one.result.settings.model_dump(mode="json"), "harness": one.result.harness,
                "contamination": one.result.contamination, "score": {k: v for k, v in asdict(one.score).items() if k != "path"},
            }
            for one in gathered.results
        ],
        "refused": [{"path": path, "why": why} for path, why in board.refused],
    }  # fmt: skip
