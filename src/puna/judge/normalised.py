"""Scores with the chance level taken off: the second Open LLM Leaderboard's way, and one without its two faults.

Comes in: scores [n], their subtasks, the chance of each subtask or of each item. Goes out: an `Estimate` in shares
(the leaderboard prints them times 100). Must never happen: a model that guesses shown above nought on average, without
a word that it is so.

With s the score and r the chance level of a subtask, the leaderboard of June 2024 to March 2025 shows

    max(0, (s - r) / (1 - r)) * 100,   averaged over subtasks, then over tasks;   r = 0 where guessing gives nothing

1. The max clips noise on one side only: the mean over many subtasks of a model that guesses is above nought.
2. r is that of the subtask. In MMLU-Pro about 17 % of the questions have fewer than the ten options of r = 0.1 (the
   leaderboard's discussion 947), so a model that guesses is above nought again.

Guessing that gives nothing (chance 0) is not a chance level that nobody knows (None): of the latter nothing is normalised.

`unclipped` has neither: r is the mean of the items' own chances, and a score below chance stays below.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from puna.judge.measured import Item, TaskFacts
from puna.judge.stats import DRAWS, LEVEL, Estimate, Floats, Ids, Interval, mean_estimate, strata_draws

_FREE = ("answer", "cloze")  # kinds of task whose answers are written freely: there guessing gives nothing


def leaderboard(score: float, chance: float) -> float:
    """The second leaderboard's normalised score of a subtask, 0 to 1. Raises ValueError for a chance of 1 or more."""
    return max(0.0, above_chance(score, chance))


def above_chance(score: float, chance: float) -> float:
    """(score - chance) / (1 - chance): 0 for guessing, 1 for all right, below 0 for less than guessing."""
    if not 0 <= chance < 1:
        raise ValueError(f"a chance level of {chance}")
    return (score - chance) / (1 - chance)


def task_chance(task: TaskFacts) -> float | None:
    """What guessing gives on a task: what it says, else 0 where the answer is written freely, else None: not known."""
    return task.chance if task.chance is not None or task.kind not in _FREE else 0.0


def subtask_chance(task: TaskFacts, subtask: str) -> float | None:
    """The chance level of a subtask: its own, else the task's; None where it is not known."""
    return task.chances.get(subtask, task_chance(task))


def item_chances(task: TaskFacts, items: Sequence[Item]) -> Floats | None:
    """What guessing gives on each item [n]: right choices / choices where it has some, else its subtask's chance.

    All 0 where guessing gives nothing on the task, whatever an item looks like. None where the level of the task, or of one
    item without choices, is not known.
    """
    level = task_chance(task)
    if level is None and not task.chances:
        return None
    if not level and not task.chances:
        return np.zeros(len(items))
    found: list[float | None] = []
    for item in items:
        right = {place for place in item.target if isinstance(place, int) and 0 <= place < len(item.choices)}
        whole = len(item.choices) > 1 and 0 < len(right) < len(item.choices) and len(right) == len(set(item.target))
        found.append(len(right) / len(item.choices) if whole else subtask_chance(task, item.subtask))
    return None if None in found else np.array(found, np.float64)


def unclipped_values(values: Floats, chances: Floats, strata: Ids | None = None) -> Floats:
    """Values [n] whose mean (in each stratum) is (mean score - mean chance) / (1 - mean chance), for `mean_estimate`.

    The ratio sum(x - r) / sum(1 - r) written as a mean of its linearised values (delta method: Cochran 1977, ch. 6),
    so that the standard error knows of the items' different chances; with one chance they are just (x - r) / (1 - r).
    """
    made = np.empty(len(values))
    for own in _strata(strata, len(values)):
        rest = 1 - chances[own]
        ratio = (values[own] - chances[own]).sum() / rest.sum()
        made[own] = ratio + (values[own] - chances[own] - ratio * rest) / rest.mean()
    return made


def unclipped(values: Floats, chances: Floats, *, clusters: Ids | None = None, strata: Ids | None = None) -> Estimate:
    """The normalised score with each item's own chance and without clipping: mean over subtasks, t interval."""
    return mean_estimate(unclipped_values(values, chances, strata), clusters=clusters, strata=strata)


def leaderboard_interval(
    values: Floats,
    strata: Ids,
    chances: Mapping[int, float],
    *,
    clusters: Ids | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> Interval:
    """95 % percentile interval of the mean over subtasks of the clipped scores: items are drawn within each subtask.

    `chances` are by stratum number. At the clip a bootstrap is no longer exact (Andrews 2000, Econometrica 68,
    399-405): where many subtasks are at chance, read `unclipped`.
    """
    means = strata_draws(values, strata, clusters, draws=draws, seed=seed)
    levels = np.array([chances[int(number)] for number in np.unique(strata)])
    scores = np.maximum(0, (means - levels) / (1 - levels)).mean(axis=1)
    low, high = np.quantile(scores, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _strata(strata: Ids | None, n: int) -> list[Ids]:
    return [np.arange(n)] if strata is None else [np.flatnonzero(strata == number) for number in np.unique(strata)]
