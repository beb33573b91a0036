"""The numbers for the scripts: scores, and for each pair and task the difference and its variance, from which any choice is ranked.

Comes in: a board. Goes out: `data/board.js` and `data/pairs.js`. Must never happen: a number here that is not the page's, or text that
ends the script.
"""

from typing import Any

from puna import words
from puna.board.choice import SCALES, Z, ranking, rounded
from puna.board.data import Board, Difference, Ranking, Score
from puna.board.items import Kept
from puna.board.writing import script_json
from puna.judge.ranks import LEVEL


def board_script(board: Board, kept: list[Kept | None]) -> str:
    """data/board.js: `window.PUNA_BOARD`. Its form is described in docs/board.md."""
    value = {
        "format": 1,
        "title": board.title,
        "models": [
            {
                "slug": row.slug, "name": row.facts.name, "lang": words.language(row.facts.name), "kind": row.facts.kind,
                "parameters": row.facts.parameters, "train_tokens": row.facts.train_tokens, "flops": row.facts.flops,
                "licence": row.facts.licence,
            }
            for row in board.models
        ],
        "tasks": [
            {
                "slug": column.slug, "name": column.facts.name, "title": column.facts.title, "unit": column.facts.unit,
                "kind": column.facts.kind, "higher": column.facts.higher_is_better, "chance": column.facts.chance, "in_mean": column.in_mean,
                "n": max((score.n or 0 for row in board.scores if (score := row[t]) is not None), default=0),
            }
            for t, column in enumerate(board.tasks)
        ],
        "scores": [[_score(score) for score in row] for row in board.scores],
        "pairs": [_pairs(board, t) for t in range(len(board.tasks))],
        "level": LEVEL,
        "z": Z,
        "presets": [{"id": one.id, "label": one.label, "tasks": one.tasks} for one in board.presets],
        "start": board.presets[board.start].id if board.presets else None,
        "expected": {
            one.id: {scale: _ranking(ranking(board, one.tasks, scale)) for scale in SCALES} for one in board.presets
        },
        "items": [
            None if one is None else {"chunk": one.chunk, "chunks": one.chunks, "n": one.n, "head_note": one.head_note} for one in kept
        ],
        "answers": [[one is not None and i in one.models for one in kept] for i in range(len(board.models))],
    }  # fmt: skip
    return f"window.PUNA_BOARD = {script_json(value)};\n"


def pairs_script(board: Board) -> str:
    """data/pairs.js: what the page of two models says of each pair."""
    value = [[_detail(found) for found in _in_order(board, t)] for t in range(len(board.tasks))]
    return f"window.PUNA_BOARD.pairs_detail = {script_json(value)};\n"


def _in_order(board: Board, task: int) -> list[Difference | None]:
    """The pairs of a task, i < j, by i and then by j."""
    count = len(board.models)
    return [board.pairs[task].get((i, j)) for i in range(count) for j in range(i + 1, count)]


def _score(score: Score | None) -> dict[str, Any] | None:
    if score is None:
        return None
    if score.value is None:
        return {"failed": score.failed or "no score"}
    low, high = score.interval or (None, None)
    return {
        "v": rounded(score.value), "lo": rounded(low), "hi": rounded(high), "var": rounded(score.variance), "n": score.n,
        "norm": rounded(score.norm), "norm_var": rounded(score.norm_variance), "clip": rounded(score.clipped), "items": score.paired,
    }  # fmt: skip


def _pairs(board: Board, task: int) -> dict[str, Any]:
    every = _in_order(board, task)
    return {
        "d": [rounded(one.value) if one else None for one in every],
        "v": [rounded(one.variance) if one else None for one in every],
        "dn": [rounded(one.norm) if one else None for one in every],
        "vn": [rounded(one.norm_variance) if one else None for one in every],
        "paired": "".join("x" if one is None or one.variance is None else "1" if one.paired else "0" for one in every),
    }


def _detail(found: Difference | None) -> dict[str, Any] | None:
    if found is None:
        return None
    low, high = found.interval or (None, None)
    counts = (found.both, found.first_only, found.second_only, found.neither) if found.binary else (None,) * 4
    return {
        "n": found.n or None, "both": counts[0], "a_only": counts[1], "b_only": counts[2], "neither": counts[3],
        "p": rounded(found.p), "lo": rounded(low), "hi": rounded(high), "test": found.test, "more": found.more, "visible": rounded(found.visible),
    }  # fmt: skip


def _ranking(found: Ranking) -> dict[str, Any]:
    return {
        "rows": [
            {
                "m": row.model, "mean": row.mean, "lo": row.interval[0] if row.interval else None,
                "hi": row.interval[1] if row.interval else None, "low": row.low, "high": row.high,
            }
            for row in found.rows
        ],
        "lacking": [{"m": model, "tasks": tasks} for model, tasks in found.lacking],
        "apart": [f"{better}-{worse}" for better, worse in sorted(found.apart)],
    }  # fmt: skip
