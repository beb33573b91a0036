"""Every pair of models on one task: the difference, its variance, and what the two got right together and alone.

Comes in: measurements of one task, without their texts. Goes out: `Difference`s. Must never happen: a paired comparison of unequal
questions, or one that goes by the order of items instead of by their ids.

The tests are judge/pairs.py's. Here items are lined up once for all models: `pairs.compare` does it for each pair, which for 60 models
and 14,042 items takes minutes.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from puna.board.data import Difference, Score
from puna.judge.measured import Item, Measurement, TaskFacts
from puna.judge.normalised import item_chances, unclipped_values
from puna.judge.pairs import Comparison, compare_scores, compare_unpaired, why_not
from puna.judge.stats import Floats, Ids
from puna.judge.summary import clusters_of, scores_of, strata_of, weights_of

_MANY = 200  # pairs from which a bootstrap draws less: 60 models make 1,770
_DRAWS, _FEWER = 2000, 500


@dataclass(frozen=True)
class _Side:
    """One model's items, lined up: their places among the items of all models, rising, and what stands there."""

    measured: Measurement
    places: Ids  # [n]
    values: Floats  # [n]
    weights: Floats  # [n]


@dataclass(frozen=True)
class _Lined:
    """All items of a task, and the models that were asked them."""

    task: TaskFacts
    clusters: Ids | None  # [items]
    strata: Ids | None  # [items]
    chances: Floats  # [items]
    sides: dict[int, _Side]
    scaled: dict[int, Floats]  # of each side, chance taken off


def task_pairs(measured: Mapping[int, Measurement], scores: Mapping[int, Score]) -> dict[tuple[int, int], Difference]:
    """The difference of every two models that have a score on this task, (i, j) with i < j.

    Paired where both were asked the same questions with the same prompts; else as two independent scores, and `test` says why.
    """
    numbers = sorted(scores)
    if len(numbers) < 2:
        return {}
    lined = _lined_up(measured[numbers[0]].task, {i: measured[i] for i in numbers if measured[i].items})
    draws = _DRAWS if len(numbers) * (len(numbers) - 1) // 2 <= _MANY else _FEWER
    found = {}
    for place, i in enumerate(numbers):
        for j in numbers[place + 1 :]:
            found[i, j] = _pair(lined, i, j, scores, draws)
    return found


def _lined_up(task: TaskFacts, measured: Mapping[int, Measurement]) -> _Lined:
    known: dict[tuple[str, str], Item] = {}
    for one in measured.values():
        for item in one.items:
            known.setdefault((item.subtask, item.id), item)
    number = {key: place for place, key in enumerate(known)}
    sides = {}
    for i, one in measured.items():
        places = np.array([number[item.subtask, item.id] for item in one.items], np.int64)
        order = np.argsort(places, kind="stable")
        if len(np.unique(places)) == len(places):  # with two items of one id nothing can be lined up by it
            sides[i] = _Side(one, places[order], scores_of(one.items)[order], weights_of(one.items)[order])
    every = list(known.values())
    strata, chances = strata_of(every), item_chances(task, every)
    scaled = {
        i: unclipped_values(side.values, chances[side.places], None if strata is None else strata[side.places])
        for i, side in sides.items()
        if task.unit == "share"
    }
    return _Lined(task, clusters_of(every) if every else None, strata, chances, sides, scaled)


def _pair(lined: _Lined, i: int, j: int, scores: Mapping[int, Score], draws: int) -> Difference:
    task, first, second = lined.task, lined.sides.get(i), lined.sides.get(j)
    if first is None or second is None:
        return _unpaired(scores[i], scores[j], task, "items unknown")
    reason = why_not(first.measured, second.measured)
    if reason is not None:
        return _unpaired(scores[i], scores[j], task, reason)
    shared, a, b = np.intersect1d(first.places, second.places, assume_unique=True, return_indices=True)
    if not len(shared):
        return _unpaired(scores[i], scores[j], task, "they share no item")
    x, y, weights = first.values[a], second.values[b], first.weights[a]
    bits = task.unit == "bits per byte"
    if bits and not (np.array_equal(weights, second.weights[b]) and weights.sum() > 0):
        return _unpaired(scores[i], scores[j], task, "the same items have other numbers of bytes")
    clusters = None if lined.clusters is None else lined.clusters[shared]
    strata = None if lined.strata is None else lined.strata[shared]
    by_part = strata if task.aggregate == "subtasks" else None
    found = compare_scores(x, y, clusters=clusters, strata=by_part, weights=weights if bits else None, draws=draws)
    norm = _normalised(lined, found, i, j, x, y, shared) if task.unit == "share" else None
    binary = not bits and bool(np.all((x == 0) | (x == 1)) and np.all((y == 0) | (y == 1)))
    left = len(first.places) + len(second.places) - 2 * len(shared)
    words = found.method + (f"; {left} items that only one of them has are left out" if left else "")
    return Difference(
        value=found.difference, variance=found.variance, interval=found.interval, p=found.p,
        norm=norm[0] if norm else None, norm_variance=norm[1] if norm else None, paired=True, test=words, n=len(shared),
        both=int(((x == 1) & (y == 1)).sum()) if binary else 0, first_only=found.higher, second_only=found.lower,
        neither=int(((x == 0) & (y == 0)).sum()) if binary else 0, binary=binary, more=found.items_needed,
    )  # fmt: skip


def _normalised(
    lined: _Lined, raw: Comparison, i: int, j: int, x: Floats, y: Floats, shared: Ids
) -> tuple[float, float | None]:
    """(difference, variance) with each item's chance taken off, meaned over subtasks: the raw one scaled where that is the same."""
    chances, strata = lined.chances[shared], None if lined.strata is None else lined.strata[shared]
    if np.all(chances == chances[0]) and (strata is None or lined.task.aggregate == "subtasks"):
        scale = 1 / (1 - float(chances[0]))
        return raw.difference * scale, None if raw.variance is None else raw.variance * scale**2
    whole = len(x) == len(lined.sides[i].places) == len(lined.sides[j].places)
    one, two = (lined.scaled[i], lined.scaled[j]) if whole else (unclipped_values(v, chances, strata) for v in (x, y))
    found = compare_scores(one, two, clusters=None if lined.clusters is None else lined.clusters[shared], strata=strata)
    return found.difference, found.variance


def _unpaired(one: Score, two: Score, task: TaskFacts, reason: str) -> Difference:
    if one.value is None or two.value is None:
        raise ValueError("a difference needs two scores")
    n = min(one.n or 0, two.n or 0)
    found = compare_unpaired((one.value, one.variance), (two.value, two.variance), (one.n or 0, two.n or 0))
    norm = norm_variance = None
    if task.unit == "share" and one.norm is not None and two.norm is not None:
        scaled = compare_unpaired((one.norm, one.norm_variance), (two.norm, two.norm_variance))
        norm, norm_variance = scaled.difference, scaled.variance
    return Difference(
        value=found.difference, variance=found.variance, interval=found.interval, p=found.p, norm=norm, norm_variance=norm_variance,
        paired=False, test=f"{found.method} ({reason})", n=n, more=found.items_needed,
    )  # fmt: skip
