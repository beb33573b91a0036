"""Two models on one task: the difference, item by item where there are items, and whether it can be told from nought.

Comes in: two measurements of one task, or two published numbers. Goes out: a `Comparison`, or the reason why there is
none. Must never happen: a difference between measurements of unequal definitions, data or metrics; a pair of items that
were not asked alike; a paired test that takes items of one passage for independent ones.
"""

import math
from collections.abc import Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict

from puna.judge.distributions import normal_p, sign_p, student_p
from puna.judge.lining import Prepared, Shared, line_up
from puna.judge.measured import Measurement
from puna.judge.normalised import unclipped_values
from puna.judge.stats import (
    _Z,
    DRAWS,
    Floats,
    Ids,
    Interval,
    items_needed,
    mean_estimate,
    ratio_estimate,
    smallest_visible,
)
from puna.judge.store.known import SHOTS_NOT_STATED
from puna.judge.summary import summarise


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Comparison(_Frozen):
    """The first model less the second, in the task's own unit. What cannot be said is None."""

    difference: float
    standard_error: float | None = None
    interval: Interval | None = None  # 95 %
    p: float | None = None  # two-sided; the null hypothesis: no difference
    n: int = 0  # items that both have; of the smaller side where unpaired
    clusters: int = 0  # what of these is independent
    paired: bool = True
    method: str = ""  # in words
    higher: int = 0  # items where the first scores higher
    lower: int = 0
    equal: int = 0
    both: int | None = None  # of the equal ones: both right; None where scores are not all 0 or 1
    sign_p: float | None = None  # sign test of higher and lower (mid-p), where items are independent
    items_needed: int | None = None  # to see a difference as large as this one with 80 % power at 5 %
    smallest_visible: float | None = None  # the difference that n items show with 80 % power at 5 %
    left_out_first: int = 0  # items that only the first has
    left_out_second: int = 0
    unlike: int = 0  # items that both have and that were not asked alike: left out too
    reason: str = ""  # why it is not paired

    @property
    def variance(self) -> float | None:
        """The square of the standard error: what `difference_of_means` takes."""
        return None if self.standard_error is None else self.standard_error**2


class NotComparable(_Frozen):
    """Why there is no difference to be told, as one plain sentence."""

    reason: str


class MeanDifference(_Frozen):
    """The difference of two models' means over tasks."""

    difference: float
    standard_error: float
    interval: Interval
    p: float


def compare_scores(
    first: Floats,
    second: Floats,
    *,
    clusters: Ids | None = None,
    strata: Ids | None = None,
    weights: Floats | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> Comparison:
    """The paired difference of scores of the same items [n], first - second.

    - `weights` (bytes; the score is bits): difference of the ratios of sums, bootstrap-t over whole clusters
      (`ratio_estimate`);
    - scores of 0 and 1, no `clusters`, no `strata`: McNemar's test on the discordant pairs with mid-p, which keeps 5 %
      and is less timid than the exact conditional one (Fagerland, Lydersen & Laake 2013, BMC Med. Res. Methodol.
      13:91), and the interval of Bonett & Price 2012 (J. Educ. Behav. Stat. 37, 479-488): with
      p_10 = (higher + 1) / (n + 2) and p_01 likewise, p_10 - p_01 +- z sqrt((p_10 + p_01 - (p_10 - p_01)^2) / (n + 2));
    - all else: the mean of the differences, its clustered standard error and t (Miller 2024, arXiv 2411.00640;
      the corrections of `cluster_variance`); for `strata` the plain mean of their means.

    Where the differences do not vary at all, each cluster is one trial of the sign test.
    """
    gap = first - second
    higher, lower = int((gap > 0).sum()), int((gap < 0).sum())
    binary = weights is None and bool(np.all((first == 0) | (first == 1)) and np.all((second == 0) | (second == 1)))
    kin = clusters is not None and int(np.bincount(clusters).max()) > 1
    if weights is not None:
        found = ratio_estimate(gap, weights, clusters=clusters, draws=draws, seed=seed)
    else:
        found = mean_estimate(gap, clusters=clusters if kin else None, strata=strata)
    known = Comparison(difference=found.value, n=len(gap), clusters=found.units, method=found.method,
                       higher=higher, lower=lower, equal=len(gap) - higher - lower,
                       both=int(((first == 1) & (second == 1)).sum()) if binary else None,
                       sign_p=None if kin else sign_p(higher, lower))  # fmt: skip
    if found.standard_error is None or found.df is None:
        return known
    if binary and not kin and strata is None:
        return _mcnemar(known, len(gap), higher, lower)
    if found.standard_error <= 1e-12 * max(1.0, abs(found.value)):
        more, less = (round(found.units * count / len(gap)) for count in (higher, lower))
        if binary:
            return _mcnemar(known, found.units, more, less)
        words = "no variance: sign test of the clusters"
        return known.model_copy(update={"standard_error": 0.0, "p": sign_p(more, less), "method": words})
    way = found.method if weights is not None else found.method.replace("t interval", "t test")
    p = student_p(found.value / found.standard_error, found.df)
    return _with_power(known, found.standard_error, found.interval, p, f"paired {way}")


def _mcnemar(known: Comparison, n: int, higher: int, lower: int) -> Comparison:
    more, less = (higher + 1) / (n + 2), (lower + 1) / (n + 2)
    error = math.sqrt((more + less - (more - less) ** 2) / (n + 2))
    interval = max(-1.0, more - less - _Z * error), min(1.0, more - less + _Z * error)
    words = "McNemar's test (mid-p), interval of Bonett and Price"
    return _with_power(known, error, interval, sign_p(higher, lower), words)


def _with_power(known: Comparison, error: float, interval: Interval | None, p: float, method: str) -> Comparison:
    needed = items_needed(known.n, error, known.difference)
    told = {"standard_error": error, "interval": interval, "p": p, "method": method}
    return known.model_copy(update=told | {"items_needed": needed, "smallest_visible": smallest_visible(error)})


# ---------------------------------------------------------------------------------------------------- two measurements


_EQUAL = (
    ("name", "they are different tasks"),
    ("metric", "the metrics differ"),
    ("unit", "the units differ"),
    ("higher_is_better", "one is better where it is higher, the other where it is lower"),
    ("aggregate", "one is a mean over items, the other over subtasks"),
    ("shots", "the numbers of examples before a question differ"),
)
_DIGESTS = (("digest", "the definitions of the task differ"), ("data_digest", "the data differ"))
_PRESUMED = ("aggregate", "shots")  # what a published score seldom says


def why_not(first: Measurement, second: Measurement) -> str | None:
    """Why two measurements make no difference, or None: same task, same data, same metric, no failure.

    A digest that one lacks is not known, and no hindrance; nor is what a published score is only presumed to be (its aggregate,
    and its examples where a note says that they are not stated). Whether the items were asked alike: `line_up`.
    """
    for field, words in _EQUAL:
        if getattr(first.task, field) != getattr(second.task, field) and not (
            field in _PRESUMED and any(presumed(side, field) for side in (first, second))
        ):
            return words
    if (
        first.settings.chat != second.settings.chat
        and first.task.kind != "quiz"
        and not first.origin
        and not second.origin
    ):
        return "one was asked in its chat format, the other in plain text"
    for field, words in _DIGESTS:
        one, two = getattr(first.task, field), getattr(second.task, field)
        if one and two and one != two:
            return words
    for side in (first, second):
        lost = sum(item.score is None for item in side.items)
        if side.failed or lost:
            return f"{side.model.name} failed: {side.failed or f'{lost} items have no score'}"
        if not side.items and side.published is None:
            return f"{side.model.name} has no items"
    return None


def presumed(measurement: Measurement, field: str = "shots") -> bool:
    """Whether a fact of somebody else's score is what such scores usually are, and not what its source says."""
    if measurement.origin is None or measurement.origin.form == "lm_eval":
        return False
    if field != "shots":
        return not measurement.items
    notes = measurement.task.notes
    silent = measurement.task.shots == 0 and measurement.origin.form != "eval_results"
    return silent or any(note in (SHOTS_NOT_STATED, "the protocol is not known") for note in notes)


def compare(
    first: Measurement | Prepared,
    second: Measurement | Prepared,
    *,
    normalised: bool = False,
    draws: int = DRAWS,
    seed: int = 0,
) -> Comparison | NotComparable:
    """The paired difference of two measurements of one task over the items that both were asked alike (`line_up`).

    Somebody else's score has no items: then, or where too few items are alike, it is `compare_unpaired`, and `reason` says why.
    `normalised`: of the scores with each item's chance taken off, not clipped, meaned over subtasks (`puna.judge.normalised`);
    only for shares whose chance is known. `NotComparable` where the task, its data or its metric differ, or where one failed.
    """
    one, two = (side if isinstance(side, Prepared) else Prepared.of(side) for side in (first, second))
    reason = why_not(one.measurement, two.measurement)
    if reason is not None:
        return NotComparable(reason=reason)
    shared = line_up(one, two) if len(one.keys) and len(two.keys) else "items unknown"
    if isinstance(shared, str):
        if normalised and one.measurement.task.unit != "share":
            return NotComparable(reason="only shares are normalised")
        found = _from_summaries(one.measurement, two.measurement, normalised)
        return found.model_copy(update={"reason": shared}) if isinstance(found, Comparison) else found
    return compare_shared(one, two, shared, normalised=normalised, draws=draws, seed=seed)


def compare_shared(
    one: Prepared, two: Prepared, shared: Shared, *, normalised: bool = False, draws: int = DRAWS, seed: int = 0
) -> Comparison | NotComparable:
    """The paired difference over items that were lined up: what `compare` makes of two measurements of which it has `line_up`."""
    task, mine, others = one.measurement.task, shared.first, shared.second
    if normalised and task.unit != "share":
        return NotComparable(reason="only shares are normalised")
    ratio = task.unit == "bits per byte"
    if ratio and not (np.array_equal(one.weights[mine], two.weights[others]) and one.weights[mine].sum() > 0):
        return NotComparable(reason="the same items have other numbers of bytes")
    strata = one.strata[mine] if one.strata is not None and (task.aggregate == "subtasks" or normalised) else None
    sides, scale = (one.scores[mine], two.scores[others]), 1.0
    if normalised:
        if one.chances is None or two.chances is None:
            return NotComparable(reason="the chance level is not known")
        chances = one.chances[mine]
        if np.all(chances == chances[0]):  # one chance for all: the same test on another scale
            scale = 1 / (1 - float(chances[0]))
        elif len(mine) == len(one.keys) == len(two.keys) and np.array_equal(chances, two.chances[others]):
            whole = one.taken_off, two.taken_off
            sides = tuple(side for side in whole if side is not None)  # type: ignore[assignment]
        else:
            sides = unclipped_values(sides[0], chances, strata), unclipped_values(sides[1], chances, strata)
    found = compare_scores(
        *sides,
        clusters=None if one.clusters is None else one.clusters[mine],
        strata=strata,
        weights=one.weights[mine] if ratio else None,
        draws=draws,
        seed=seed,
    )
    out = {"left_out_first": shared.left_out[0], "left_out_second": shared.left_out[1], "unlike": shared.unlike}
    return (found if scale == 1 else _scaled(found, scale)).model_copy(update=out)


def _scaled(found: Comparison, scale: float) -> Comparison:
    told = {name: value * scale for name in ("difference", "standard_error", "smallest_visible")
            if (value := getattr(found, name)) is not None}  # fmt: skip
    if found.interval is not None:
        told["interval"] = tuple(end * scale for end in found.interval)
    return found.model_copy(update=told)


def _from_summaries(first: Measurement, second: Measurement, normalised: bool) -> Comparison | NotComparable:
    one, two = summarise(first), summarise(second)
    if normalised:
        if one.normalised is None or two.normalised is None:
            return NotComparable(reason="the chance level, or the scores of the subtasks, are not known")
        errors = one.normalised_error, two.normalised_error
        values = one.normalised, two.normalised
    else:
        if one.score is None or two.score is None:
            return NotComparable(reason="one has no score")
        values, errors = (one.score, two.score), (one.standard_error, two.standard_error)
    sides = [(value, None if error is None else error**2) for value, error in zip(values, errors, strict=True)]
    return compare_unpaired(sides[0], sides[1], (one.n or 0, two.n or 0))


# ------------------------------------------------------------------------------------------------------ without items


def compare_unpaired(
    first: tuple[float, float | None], second: tuple[float, float | None], n: tuple[int, int] = (0, 0)
) -> Comparison:
    """The difference of two scores of which no items are known: (score, variance or None) each, z test.

    Taken as independent. Two models' scores on the same items mostly go together (Miller 2024 finds correlations of .3
    to .7), so the true variance is smaller: differences are found less often than they could be, and hardly ever
    wrongly. Without a variance (nobody said n) there is a difference and nothing else.
    """
    gap = first[0] - second[0]
    if first[1] is None or second[1] is None:
        return Comparison(difference=gap, paired=False, method="no test: the number of items is not known")
    error = math.sqrt(first[1] + second[1])
    least = min(n)
    if error == 0:
        return Comparison(difference=gap, paired=False, n=least, method="no test: no variance")
    return Comparison(
        difference=gap, standard_error=error, interval=(gap - _Z * error, gap + _Z * error), p=normal_p(gap / error),
        n=least, clusters=least, paired=False, method="unpaired z test, cautious where both are of the same items",
        smallest_visible=smallest_visible(error), items_needed=items_needed(least, error, gap) if least else None,
    )  # fmt: skip


def difference_of_means(differences: Sequence[float], variances: Sequence[float]) -> MeanDifference:
    """The difference of two models' plain means over T tasks, from each task's difference and its variance.

        difference = sum_t d_t / T,    SE = sqrt(sum_t v_t) / T,    p = P(|Z| >= |difference| / SE)

    Tasks are fixed and share no items, so their errors are independent. Raises ValueError for none or unequal numbers.
    """
    if not differences or len(differences) != len(variances):
        raise ValueError("as many variances as differences, and at least one")
    gap = math.fsum(differences) / len(differences)
    error = math.sqrt(math.fsum(variances)) / len(differences)
    p = normal_p(gap / error) if error > 0 else float(gap == 0)
    return MeanDifference(difference=gap, standard_error=error, interval=(gap - _Z * error, gap + _Z * error), p=p)
