"""A choice of tasks: each model's mean, and the rank set that the data allow it.

Comes in: a board's scores and differences. Goes out: a `Ranking`. Must never happen: a rank for a model that lacks a chosen task, or
a mean of units that do not add.

static/rank.js does the same sums in the browser, from the same rounded numbers (`rounded`); `PUNA_BOARD.expected` holds what is found
here, and a test has a browser compare the two. Holm, rank sets and the test itself are the judge's (ranks.py, pairs.py).
"""

import math
from collections import Counter
from collections.abc import Sequence

from puna.board.data import Board, Column, Preset, Ranked, Ranking, Score
from puna.judge.distributions import normal_point
from puna.judge.pairs import difference_of_means
from puna.judge.ranks import rank_sets

Z = normal_point(0.975)
SCALES = ("raw", "clipped", "unclipped")
FOUR = ("arc_challenge", "hellaswag", "mmlu", "truthfulqa_mc2")
SIX = (*FOUR, "winogrande", "gsm8k")
SEVEN = (*SIX, "drop")
_KNOWN = (("four", "4 tasks of November 2023", FOUR), ("six", "6 tasks", SIX), ("seven", "7 tasks", SEVEN))


def rounded(value: float | None) -> float | None:
    """A number as it stands in the scripts' data: nine figures, so that all sums start from the same."""
    return None if value is None else float(f"{value:.9g}")


def presets(tasks: Sequence[Column], scores: Sequence[Sequence[Score | None]]) -> tuple[list[Preset], int]:
    """The named choices whose tasks are all here, and the number of the one to begin with.

    To begin with: the tasks that all models have; where there is no such task, the set that most models have (of equally common
    ones the larger). Only tasks with `in_mean` count.
    """
    usable = [t for t, column in enumerate(tasks) if column.in_mean]
    has = [tuple(t for t in usable if (score := row[t]) is not None and score.value is not None) for row in scores]
    common = tuple(t for t in usable if has and all(t in own for own in has))
    if not common and any(has):
        # A set counts for every model that has all of it.
        counted = {own: sum(set(own) <= set(other) for other in has) for own in Counter(has) if own}
        common = max(counted, key=lambda own: (counted[own], len(own), [-t for t in own]))
    found = [
        Preset(id_, label, chosen) for id_, label, names in _KNOWN if (chosen := _named(tasks, scores, usable, names))
    ]
    if usable and all(set(preset.tasks) != set(usable) for preset in found):
        found.append(Preset("all", "all tasks", tuple(usable)))
    if common and all(set(preset.tasks) != set(common) for preset in found):
        found.insert(
            0,
            Preset(
                "common",
                "tasks that all have" if all(set(common) <= set(own) for own in has) else "tasks that most have",
                common,
            ),
        )
    start = next((place for place, preset in enumerate(found) if set(preset.tasks) == set(common)), 0)
    return found, start


def _named(
    tasks: Sequence[Column], scores: Sequence[Sequence[Score | None]], usable: Sequence[int], names: Sequence[str]
) -> tuple[int, ...]:
    """The tasks of these names, of each the column with most scores, then the first; nothing where one is missing."""

    def count(t: int) -> int:
        return sum((score := row[t]) is not None and score.value is not None for row in scores)

    own = [[t for t in usable if tasks[t].facts.name == name] for name in names]
    return tuple(max(found, key=lambda t: (count(t), -t)) for found in own) if all(own) else ()


def ranking(board: Board, tasks: Sequence[int], scale: str = "raw") -> Ranking:
    """All models under one choice. Raises ValueError for a task that cannot be averaged or a scale that is none.

    Means: plain, over tasks. Interval: z times the root of the summed variances over T. Tests of pairs are on the raw scale for
    "raw", on the normalised scale without clipping for the other two: a clipped score hides how far below chance it lies.
    """
    if scale not in SCALES or any(not board.tasks[t].in_mean for t in tasks):
        raise ValueError(f"no choice that can be averaged: {tasks}, {scale}")
    rows: list[tuple[int, float, tuple[float, float] | None]] = []
    lacking = []
    for model in range(len(board.models)):
        scores = [board.at(model, t) for t in tasks]
        missing = tuple(
            t for t, score in zip(tasks, scores, strict=True) if score is None or _value(score, scale) is None
        )
        if missing or not tasks:
            lacking.append((model, missing))
            continue
        present = [score for score in scores if score is not None]
        mean = sum(rounded(_value(score, scale)) or 0.0 for score in present) / len(tasks)
        variances = [rounded(score.variance if scale == "raw" else score.norm_variance) for score in present]
        rows.append((model, mean, _interval(mean, variances)))
    pairs = {
        (a, b): mean_difference(board, tasks, rows[a][0], rows[b][0], normalised=scale != "raw")
        for a in range(len(rows))
        for b in range(a + 1, len(rows))
    }
    # A pair that cannot be compared counts as a test that found nothing, so no other pair gains by it.
    sets = rank_sets(len(rows), {pair: (found[0], found[2]) if found else (0.0, 1.0) for pair, found in pairs.items()})
    ranked, apart = [], set()
    for (model, mean, interval), own in zip(rows, sets, strict=True):
        low, high = (own.lower, own.upper) if own else (1, 1)  # one model alone
        ranked.append(Ranked(model, mean, interval, low, high))
        apart |= {(model, rows[other][0]) for other in (own.worse if own else ())}
    ranked.sort(key=lambda row: (-round(row.mean, 12), row.model))
    return Ranking(tuple(tasks), scale, tuple(ranked), tuple(lacking), frozenset(apart))


def mean_difference(
    board: Board, tasks: Sequence[int], first: int, second: int, *, normalised: bool = False
) -> tuple[float, float, float] | None:
    """(difference, standard error, p) of two models' means over tasks; None where one task cannot tell them apart."""
    low, high, sign = (first, second, 1.0) if first < second else (second, first, -1.0)
    gaps, variances = [], []
    for t in tasks:
        found = board.pairs[t].get((low, high))
        gap = rounded(found.norm if normalised else found.value) if found else None
        variance = rounded(found.norm_variance if normalised else found.variance) if found else None
        if gap is None or variance is None:
            return None
        gaps.append(sign * gap)
        variances.append(variance)
    if not gaps:
        return None
    told = difference_of_means(gaps, variances)
    return told.difference, told.standard_error, told.p


def _value(score: Score, scale: str) -> float | None:
    return {"raw": score.value, "clipped": score.clipped, "unclipped": score.norm}[scale]


def _interval(mean: float, variances: Sequence[float | None]) -> tuple[float, float] | None:
    known = [variance for variance in variances if variance is not None]
    if len(known) < len(variances):
        return None
    half = Z * math.sqrt(sum(known)) / len(variances)
    return mean - half, mean + half
