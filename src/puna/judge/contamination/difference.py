"""Clean against dirty items of one task, and the same difference beside a control model's.

Comes in: items with `dirty` set, of one model or of two. Goes out: scores side by side, differences with an interval and a p-value.
Must never happen: items that share a passage drawn apart, or an item that could not be looked for counted on either side.

A difference in differences takes away what the items themselves bring along: (dirty - clean) of the model minus (dirty - clean) of a
control model on the same items, which is the dirty items' mean of (model - control) minus the clean items'.

Intervals: percentiles of a bootstrap that draws clusters (Efron & Tibshirani 1993, ch. 13). p: the share of permutations of the labels
dirty and clean over the clusters with a difference at least as large, itself counted (Phipson & Smyth 2010, eq. 2); the null hypothesis
is that the labels say nothing of the score.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from puna.errors import PunaError
from puna.judge.contamination import words
from puna.judge.contamination.exact import DIRTY
from puna.judge.measured import Item, TaskFacts
from puna.judge.stats import LEAST_UNITS, LEVEL

Floats = npt.NDArray[np.float64]
DRAWS = 10_000
_AT_ONCE = 500  # draws; memory is this times the clusters


@dataclass(frozen=True)
class Difference:
    """Dirty items' mean minus clean items' mean. `interval` and `p` are None where one side has too few clusters to tell."""

    dirty: float | None  # the mean over dirty items
    clean: float | None
    dirty_items: int
    clean_items: int
    dirty_clusters: int
    clean_clusters: int
    difference: float | None
    interval: tuple[float, float] | None
    p: float | None
    says: str


def clean_and_dirty(
    items: Sequence[Item], *, dirty_from: float = DIRTY, draws: int = DRAWS, seed: int = 0
) -> Difference:
    """One model's score on dirty items (`dirty` >= dirty_from) and on the others, and the difference with a p-value.

    Items without a score, or not looked for, are on neither side. The sides are those of puna.judge.summary.
    """
    rows = [(item, item.score) for item in items if item.score is not None]
    return _compare([item for item, _ in rows], np.array([score for _, score in rows]), dirty_from, draws, seed,
                    words.SPLIT)  # fmt: skip


def difference_in_differences(
    model: Sequence[Item], control: Sequence[Item], *, tasks: tuple[TaskFacts, TaskFacts] | None = None,
    dirty_from: float = DIRTY, draws: int = DRAWS, seed: int = 0,
) -> Difference:  # fmt: skip
    """How much more than a control model the model gains on dirty items over clean ones. `dirty` is the model's own.

    `dirty` and `clean` are then means of (model - control). Only items that both have a score for count.
    `tasks`: of the model's and of the control's run. Raises PunaError where the two have no item in common, one of them has an item
    twice, an item was asked in other words, or the tasks differ in definition or data: an id alone is a place in a file.
    """
    if tasks is not None and _task(tasks[0]) != _task(tasks[1]):
        raise PunaError("the model and its control were asked other tasks, or other data", where="contamination")
    theirs = _by_key(control)
    pairs = [(item, item.score, theirs[key].score) for key, item in _by_key(model).items() if key in theirs]
    unlike = [
        item.id for key, item in _by_key(model).items() if key in theirs and as_given(item) != as_given(theirs[key])
    ]
    if unlike:
        raise PunaError(f"item {unlike[0][:60]} was asked of the control in other words", where="contamination",
                        mend="compare runs with the same data, examples and format")  # fmt: skip
    both = [(item, own - other) for item, own, other in pairs if own is not None and other is not None]
    if not both:
        raise PunaError("the model and its control have no item in common", where="contamination")
    return _compare([item for item, _ in both], np.array([gain for _, gain in both]), dirty_from, draws, seed,
                    "The same difference of a control model is taken away, so that easier items do not count. " + words.EXACT)  # fmt: skip


def as_given(item: Item) -> tuple[object, ...]:
    """What a model was given of an item: where it is another, the items are not the same, whatever their ids."""
    return item.question, item.prompt, item.choices, item.target


def _task(facts: TaskFacts) -> tuple[str, ...]:
    return facts.name, facts.digest, facts.data_digest, facts.metric


def _by_key(items: Sequence[Item]) -> dict[tuple[str, str], Item]:
    found = {(item.subtask, item.id): item for item in items}
    if len(found) != len(items):
        raise PunaError("two items of one task have one name", where="contamination")
    return found


def _compare(items: Sequence[Item], values: Floats, dirty_from: float, draws: int, seed: int, says: str) -> Difference:
    known = [(number, float(item.dirty)) for number, item in enumerate(items) if item.dirty is not None]
    sides = {number: share >= dirty_from for number, share in known}
    chosen = list(sides)
    side = np.array([sides[number] for number in chosen], bool)
    value = values[chosen].astype(np.float64) if chosen else np.empty(0)
    # A cluster with items of both kinds is one unit in the draws and two in the permutation, where each has one label.
    names = [(items[n].subtask, items[n].cluster) if items[n].cluster else ("", f"\0{n}") for n in chosen]
    units = _numbered(names)
    halves = _numbered([(*name, bool(is_dirty)) for name, is_dirty in zip(names, side, strict=True)])
    counts = [len(set(units[side == one].tolist())) for one in (True, False)]
    means = [float(value[side == one].mean()) if (side == one).any() else None for one in (True, False)]
    told = Difference(
        dirty=means[0], clean=means[1], dirty_items=int(side.sum()), clean_items=int((~side).sum()), dirty_clusters=counts[0],
        clean_clusters=counts[1], difference=None, interval=None, p=None, says=says,
    )  # fmt: skip
    if means[0] is None or means[1] is None:
        return replace(told, says=f"There are no dirty items, or no clean ones, to compare. {says}")
    difference = means[0] - means[1]
    if min(counts) < LEAST_UNITS:
        few = f"With fewer than {LEAST_UNITS} independent items on one side the difference has no interval."
        return replace(told, difference=difference, says=f"{few} {says}")
    interval = _interval(value, side, units, draws, seed)
    p = _p(value, side, halves, abs(difference), draws, seed)
    return replace(told, difference=difference, interval=interval, p=p)


def _numbered(names: Sequence[object]) -> npt.NDArray[np.int64]:
    known = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return np.array([known[name] for name in names], np.int64)


def _interval(value: Floats, side: npt.NDArray[np.bool_], units: npt.NDArray[np.int64], draws: int, seed: int) -> tuple[float, float]:  # fmt: skip
    count = int(units.max()) + 1
    sums = [np.bincount(units, np.where(side == one, value, 0.0), count) for one in (True, False)]
    sizes = [np.bincount(units, (side == one).astype(float), count) for one in (True, False)]
    rng = np.random.default_rng([seed, count, draws])
    drawn: list[Floats] = []
    for first in range(0, draws, _AT_ONCE):
        weights = rng.multinomial(count, np.full(count, 1 / count), size=min(_AT_ONCE, draws - first)).astype(float)
        with np.errstate(invalid="ignore", divide="ignore"):  # a draw without a dirty item tells nothing
            drawn.append((weights @ sums[0]) / (weights @ sizes[0]) - (weights @ sums[1]) / (weights @ sizes[1]))
    low, high = np.nanquantile(np.concatenate(drawn), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _p(value: Floats, side: npt.NDArray[np.bool_], units: npt.NDArray[np.int64], found: float, draws: int, seed: int) -> float:  # fmt: skip
    count = int(units.max()) + 1
    sums, sizes = np.bincount(units, value, count), np.bincount(units, minlength=count).astype(float)
    label = np.zeros(count)
    label[units] = side
    rng = np.random.default_rng([seed, count, draws, 1])
    as_large = 0
    for first in range(0, draws, _AT_ONCE):
        labels = rng.permuted(np.tile(label, (min(_AT_ONCE, draws - first), 1)), axis=1)
        dirty = (labels @ sums) / (labels @ sizes)
        clean = ((1 - labels) @ sums) / ((1 - labels) @ sizes)
        as_large += int((np.abs(dirty - clean) >= found - 1e-12).sum())
    return (as_large + 1) / (draws + 1)
