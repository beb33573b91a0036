"""What a measurement comes to: the score, how sure it is, and all that the board says beside it.

Comes in: a `Measurement`. Goes out: a `Summary`, a pure function of it. Must never happen: a score where an item
failed, an interval that takes items of one passage for independent, or torch imported here.
"""

import math
from collections.abc import Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict

from puna.corpus.decontaminate import CONTAMINATED
from puna.judge.distributions import guessing_p, student_upper_p
from puna.judge.measured import Item, Measurement, TaskFacts
from puna.judge.normalised import (
    above_chance,
    item_chances,
    leaderboard,
    leaderboard_interval,
    subtask_chance,
    task_chance,
    unclipped,
)
from puna.judge.stats import (
    LEAST_UNITS,
    Estimate,
    Floats,
    Ids,
    Interval,
    Seeds,
    binomial_variance,
    cluster_numbers,
    mean_estimate,
    over_seeds,
    ratio_estimate,
    share_interval,
    student_point,
)

DIRTY = (
    CONTAMINATED  # share of an item's n-grams in the model's own text from which it is dirty: the corpus' own threshold
)


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Part(_Frozen):
    """The score on some of the items."""

    n: int
    score: float | None = None
    standard_error: float | None = None
    interval: Interval | None = None  # 95 %


class Subtask(Part):
    """The score on one subtask."""

    name: str
    chance: float | None = None
    normalised: float | None = (
        None  # (score - chance) / (1 - chance), clipped at 0: the second leaderboard's, as a share
    )


class Dirt(_Frozen):
    """The items that the model has read, beside those that it has not: means over items, whatever the score is."""

    looked_for: int  # items of which it is known
    threshold: float = DIRTY
    clean: Part  # not found, or not enough of it
    dirty: Part
    touched: int | None = None  # of the clean: found in part, below the threshold; None: stored before this was counted
    difference: float | None = None  # dirty - clean
    interval: Interval | None = None  # 95 %, of the difference


class Summary(_Frozen):
    """The score and its company. `score` is None where the task failed, and `failed` says why."""

    score: float | None = None  # in the task's unit
    standard_error: float | None = None
    interval: Interval | None = None  # 95 %
    method: str = ""  # of the interval, in words
    n: int | None = None  # items; None: somebody else's score, and nobody said
    clusters: int | None = None  # what of these is independent
    failed: str | None = None
    failed_items: int = 0
    chance: float | None = (
        None  # of the items asked: the mean of their own chances; None: not known, 0: guessing gives nothing
    )
    p_chance: float | None = None  # one-sided; the null hypothesis: guessing
    p_method: str = ""
    normalised: float | None = None  # each item's own chance taken off, not clipped, mean over subtasks; a share
    normalised_error: float | None = None
    normalised_interval: Interval | None = None
    clipped: float | None = None  # the second leaderboard's way, a share
    clipped_interval: Interval | None = None
    subtasks: tuple[Subtask, ...] = ()
    truncated_items: int = 0
    truncated_tokens: int = 0
    ties: int = 0  # items on which another choice was exactly as likely as the chosen one
    dirt: Dirt | None = None  # None: not looked for

    @property
    def variance(self) -> float | None:
        """Of the score."""
        return None if self.standard_error is None else self.standard_error**2


class SeedSummary(_Frozen):
    """Several trainings of one recipe on one task."""

    mean: float
    deviation: float  # between the seeds' scores
    standard_error: float | None
    interval: Interval | None  # for other seeds and other items
    seeds: int
    n: int
    method: str


def clusters_of(items: Sequence[Item]) -> Ids | None:
    """The number of each item's cluster [n]; None where every item stands alone."""
    numbers = cluster_numbers([f"{item.subtask}\n{item.cluster}" if item.cluster else "" for item in items])
    return numbers if len(numbers) and int(numbers.max()) + 1 < len(numbers) else None


def strata_of(items: Sequence[Item]) -> Ids | None:
    """The number of each item's subtask [n], in order of appearance; None where there is one."""
    known: dict[str, int] = {}
    numbers = np.array([known.setdefault(item.subtask, len(known)) for item in items], np.int64)
    return numbers if len(known) > 1 else None


def estimate(task: TaskFacts, items: Sequence[Item], *, over_items: bool = False) -> Estimate:
    """The task's score on items that all have one: their mean, the mean of the subtasks' means, or a ratio of sums.

    `over_items`: the mean over items in any case. Raises ValueError without an item.
    """
    if not items:
        raise ValueError("a score needs an item")
    values, clusters = scores_of(items), clusters_of(items)
    if task.unit == "bits per byte":
        return ratio_estimate(values, weights_of(items), clusters=clusters)
    strata = strata_of(items) if task.aggregate == "subtasks" and not over_items else None
    share = task.unit == "share" and bool(np.all((values >= 0) & (values <= 1)))
    return mean_estimate(values, clusters=clusters, strata=strata, share=share)


def scores_of(items: Sequence[Item]) -> Floats:
    """The items' scores [n]; NaN where there is none."""
    return np.array([math.nan if item.score is None else item.score for item in items], np.float64)


def weights_of(items: Sequence[Item]) -> Floats:
    """The items' weights [n]."""
    return np.array([item.weight for item in items], np.float64)


def summarise(measurement: Measurement) -> Summary:
    """All that the statistics say of a measurement. One failed item, and there is no score."""
    if measurement.published is not None and not measurement.items:
        return _published(measurement)
    task, items = measurement.task, measurement.items
    lost = sum(item.score is None for item in items)
    counts = Summary(
        n=len(items),
        failed_items=lost,
        truncated_items=sum(item.truncated > 0 for item in items),
        truncated_tokens=sum(item.truncated for item in items),
        ties=sum(item.tie for item in items),
        subtasks=_subtasks(task, items),
    )
    failed = measurement.failed
    if failed is None and not items:
        failed = "no items"
    if failed is None and lost:
        failed = f"{lost} of {len(items)} items have no score"
    if failed is None and task.unit == "bits per byte" and not weights_of(items).sum() > 0:
        failed = "no bytes"
    if failed is not None:
        return counts.model_copy(update={"failed": failed})
    whole = estimate(task, items)
    told: dict[str, object] = {"score": whole.value, "standard_error": whole.standard_error, "interval": whole.interval,
            "method": whole.method, "clusters": whole.units, "dirt": _dirt(task, items)}  # fmt: skip
    if task.unit == "share":
        told |= _chance(task, items, whole)
    return counts.model_copy(update=told)


def _subtasks(task: TaskFacts, items: Sequence[Item]) -> tuple[Subtask, ...]:
    groups: dict[str, list[Item]] = {}
    for item in items:
        if item.subtask:
            groups.setdefault(item.subtask, []).append(item)
    rows = []
    for name, own in groups.items():
        part = _part(task, own)
        chance = subtask_chance(task, name) if task.unit == "share" else None
        above = None if part.score is None or chance is None else leaderboard(part.score, chance)
        rows.append(Subtask(name=name, chance=chance, normalised=above, **part.model_dump()))
    return tuple(rows)


def _part(task: TaskFacts, items: Sequence[Item]) -> Part:
    if not items or any(item.score is None for item in items):
        return Part(n=len(items))
    if task.unit == "bits per byte" and not weights_of(items).sum() > 0:
        return Part(n=len(items))
    found = estimate(task, items, over_items=True)
    return Part(n=len(items), score=found.value, standard_error=found.standard_error, interval=found.interval)


def _chance(task: TaskFacts, items: Sequence[Item], whole: Estimate) -> dict[str, object]:
    """Chance level, test against it, and both ways of taking it off."""
    values, clusters, strata = scores_of(items), clusters_of(items), strata_of(items)
    chances = item_chances(task, items)
    over = strata if task.aggregate == "subtasks" else None
    if chances is None:  # not known: then nothing can be taken off
        return {}
    level = mean_estimate(chances, strata=over).value
    told: dict[str, object] = {"chance": level}
    if chances.any():
        if clusters is None and np.all((values == 0) | (values == 1)):
            told["p_chance"] = guessing_p(int(values.sum()), chances.tolist())
            told["p_method"] = "exact binomial test of all items"
        elif whole.standard_error and whole.df:
            told["p_chance"] = student_upper_p((whole.value - level) / whole.standard_error, whole.df)
            told["p_method"] = (
                "one-sided t test by the " + ("clustered " if clusters is not None else "") + "standard error"
            )
    honest = unclipped(values, chances, clusters=clusters, strata=strata)
    told |= {
        "normalised": honest.value,
        "normalised_error": honest.standard_error,
        "normalised_interval": honest.interval,
    }
    names = list(dict.fromkeys(item.subtask for item in items))
    known = [subtask_chance(task, name) for name in names]
    levels = {number: chance for number, chance in enumerate(known) if chance is not None}
    if len(levels) < len(names):
        return told
    parts = np.zeros(len(items), np.int64) if strata is None else strata
    told["clipped"] = float(np.mean([leaderboard(float(values[parts == k].mean()), levels[k]) for k in levels]))
    if whole.units >= LEAST_UNITS:
        if strata is None and whole.interval is not None:  # one subtask: the interval of the raw score, taken along
            told["clipped_interval"] = tuple(leaderboard(end, levels[0]) for end in whole.interval)
        else:
            told["clipped_interval"] = leaderboard_interval(values, parts, levels, clusters=clusters)
    return told


def _dirt(task: TaskFacts, items: Sequence[Item]) -> Dirt | None:
    known = [item for item in items if item.dirty is not None]
    if not known:
        return None
    marks = [item.dirty is not None and item.dirty >= DIRTY for item in known]
    sides = [[item for item, mark in zip(known, marks, strict=True) if mark is side] for side in (False, True)]
    clean, dirty = (_part(task, side) for side in sides)
    difference = interval = None
    if clean.score is not None and dirty.score is not None:
        difference = dirty.score - clean.score
        found = [estimate(task, side, over_items=True) for side in sides]
        interval = _welch(found[1], found[0])
    touched = sum(0 < (item.dirty or 0.0) < DIRTY for item in known)
    return Dirt(
        looked_for=len(known), clean=clean, dirty=dirty, touched=touched, difference=difference, interval=interval
    )


def _welch(first: Estimate, second: Estimate) -> Interval | None:
    """95 % interval of the difference of two independent estimates (Welch 1947)."""
    if first.variance is None or second.variance is None or not first.df or not second.df:
        return None
    variance = first.variance + second.variance
    if variance == 0:
        return None
    df = variance**2 / (first.variance**2 / first.df + second.variance**2 / second.df)
    gap, half = first.value - second.value, student_point(df) * math.sqrt(variance)
    return gap - half, gap + half


def _published(measurement: Measurement) -> Summary:
    """Somebody else's number: binomial variance where it is a share of known n and no error was published."""
    task, known = measurement.task, measurement.published
    if known is None:
        raise ValueError("no published score")
    if measurement.failed is not None:
        return Summary(failed=measurement.failed, n=known.n)
    share = task.unit == "share" and 0 <= known.score <= 1
    error, interval, method = known.standard_error, None, "the standard error that was published"
    if error is None and share and known.n:
        error, method = math.sqrt(binomial_variance(known.score, known.n)), "Wilson's interval of the published score"
    if error is None:
        method = (
            "no interval: the number of items is not known" if share else "no interval: no standard error was published"
        )
    elif share:
        interval = share_interval(known.score, error**2, math.inf, known.n or 1) if known.n or error > 0 else None
    else:
        interval = known.score - student_point(math.inf) * error, known.score + student_point(math.inf) * error
    rows = []
    for name, score in known.subtasks.items():
        chance = subtask_chance(task, name) if task.unit == "share" else None
        above = leaderboard(score, chance) if chance is not None else None
        rows.append(Subtask(name=name, n=known.subtask_n.get(name, 0), score=score, chance=chance, normalised=above))
    told: dict[str, object] = {}
    whole = task_chance(task)
    levels = [row.chance for row in rows] or ([] if task.chances and len(set(task.chances.values())) > 1 else [whole])
    if share and levels and None not in levels:
        scores = [row.score or 0.0 for row in rows] or [known.score]
        pairs = [(score, chance or 0.0) for score, chance in zip(scores, levels, strict=True)]
        told["normalised"] = float(np.mean([above_chance(*pair) for pair in pairs]))
        told["clipped"] = float(np.mean([leaderboard(*pair) for pair in pairs]))
        level = float(np.mean([chance for _, chance in pairs]))
        if len({chance for _, chance in pairs}) == 1 and error is not None:  # one chance: the same scale for all
            told["normalised_error"] = error / (1 - level)
            told["normalised_interval"] = interval and tuple(above_chance(end, level) for end in interval)
            if len(pairs) == 1:
                told["clipped_interval"] = interval and tuple(leaderboard(end, level) for end in interval)
    return Summary(score=known.score, standard_error=error, interval=interval, method=method, n=known.n,
                   chance=whole, subtasks=tuple(rows)).model_copy(update=told)  # fmt: skip


def summarise_seeds(measurements: Sequence[Measurement]) -> SeedSummary:
    """Trainings that differ by their seed alone, on the same items.

    Raises ValueError for fewer than two, and for items that differ or lack a score.
    """
    first = measurements[0] if measurements else None
    if first is None or len(measurements) < 2:
        raise ValueError("seeds are compared from two on")
    ids = [(item.subtask, item.id) for item in first.items]
    tables = [{(item.subtask, item.id): item for item in other.items} for other in measurements]
    if any(set(table) != set(ids) for table in tables) or any(i.score is None for m in measurements for i in m.items):
        raise ValueError("the seeds' items differ, or lack a score")
    scores = np.mean([scores_of([table[key] for key in ids]) for table in tables], axis=0)
    mean_items = [item.model_copy(update={"score": float(s)}) for item, s in zip(first.items, scores, strict=True)]
    items = estimate(first.task, mean_items)
    found: Seeds = over_seeds([estimate(first.task, other.items).value for other in measurements], items)
    return SeedSummary(mean=found.mean, deviation=found.deviation, standard_error=found.standard_error,
                       interval=found.interval, seeds=found.seeds, n=len(ids), method=found.method)  # fmt: skip
