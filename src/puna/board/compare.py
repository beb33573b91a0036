"""Every pair of models on one task: the difference, its variance, and what the two got right together and alone.

Comes in: measurements of one task, prepared. Goes out: `Difference`s. Must never happen: a test that is not the judge's own. All of it
is judge/pairs.py's; here it is put into the words and figures of the board.
"""

from collections.abc import Mapping

from puna.board.data import Difference, Score
from puna.judge.lining import Prepared, Shared, line_up
from puna.judge.measured import TaskFacts
from puna.judge.pairs import Comparison, NotComparable, compare_shared, compare_unpaired, why_not

_MANY = 200  # pairs from which a bootstrap draws less: 60 models make 1,770
_DRAWS, _FEWER = 2000, 500


def task_pairs(measured: Mapping[int, Prepared], scores: Mapping[int, Score]) -> dict[tuple[int, int], Difference]:
    """The difference of every two models that have a score on this task, (i, j) with i < j.

    Paired over the items that both were asked alike. Where too few are: as two independent scores. Where definition, data or metric
    differ: without a test. `test` says why.
    """
    numbers = sorted(scores)
    draws = _DRAWS if len(numbers) * (len(numbers) - 1) // 2 <= _MANY else _FEWER
    return {
        (i, j): _pair(measured[i], measured[j], scores[i], scores[j], draws)
        for place, i in enumerate(numbers)
        for j in numbers[place + 1 :]
    }


def _pair(one: Prepared, two: Prepared, first: Score, second: Score, draws: int) -> Difference:
    task = one.measurement.task
    reason = why_not(one.measurement, two.measurement)
    if reason is not None:
        return _untested(first, second, reason)
    if not len(one.keys) or not len(two.keys):
        return _unpaired(first, second, task, "items unknown")
    shared = line_up(one, two)
    if isinstance(shared, str):
        return _unpaired(first, second, task, shared)
    found = compare_shared(one, two, shared, draws=draws)
    if isinstance(found, NotComparable):
        return _untested(first, second, found.reason)
    norm = compare_shared(one, two, shared, normalised=True, draws=draws) if task.unit == "share" else None
    return _paired(found, norm if isinstance(norm, Comparison) else None, shared)


def _paired(found: Comparison, norm: Comparison | None, shared: Shared) -> Difference:
    alone = sum(shared.left_out)
    words = found.method + (f"; {alone:,} items that only one of them has are left out" if alone else "")
    words += f"; {shared.unlike:,} items that were not asked alike are left out" if shared.unlike else ""
    both = found.both
    return Difference(
        value=found.difference, variance=found.variance, interval=found.interval, p=found.p,
        norm=norm.difference if norm else None, norm_variance=norm.variance if norm else None, paired=True, test=words, n=found.n,
        both=both or 0, first_only=found.higher, second_only=found.lower, neither=0 if both is None else found.equal - both,
        binary=both is not None, more=found.items_needed, visible=found.smallest_visible,
    )  # fmt: skip


def _values(one: Score, two: Score) -> tuple[float, float]:
    if one.value is None or two.value is None:
        raise ValueError("a difference needs two scores")
    return one.value, two.value


def _untested(one: Score, two: Score, reason: str) -> Difference:
    left, right = _values(one, two)
    return Difference(
        value=left - right, variance=None, interval=None, p=None, norm=None, norm_variance=None, paired=False,
        test=f"cannot be compared: {reason}", n=0,
    )  # fmt: skip


def _unpaired(one: Score, two: Score, task: TaskFacts, reason: str) -> Difference:
    left, right = _values(one, two)
    found = compare_unpaired((left, one.variance), (right, two.variance), (one.n or 0, two.n or 0))
    norm = norm_variance = None
    if task.unit == "share" and one.norm is not None and two.norm is not None:
        scaled = compare_unpaired((one.norm, one.norm_variance), (two.norm, two.norm_variance))
        norm, norm_variance = scaled.difference, scaled.variance
    return Difference(
        value=found.difference, variance=found.variance, interval=found.interval, p=found.p, norm=norm, norm_variance=norm_variance,
        paired=False, test=f"{found.method} ({reason})", n=min(one.n or 0, two.n or 0), more=found.items_needed,
        visible=found.smallest_visible,
    )  # fmt: skip
