"""A stored result and its second run, side by side, item by item.

Comes in: a `StoredResult` and the `Measurement` that its command made again. Goes out: a report with a verdict. Must never happen:
"the same" where an answer changed that was no tie.
"""

import math
from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict

from puna.judge.measured import Item, Measurement, TaskFacts
from puna.judge.store.store import StoredResult
from puna.judge.summary import summarise

# Nats of one choice: fp32 sums in another order, on another processor, differ by less on every model that was measured.
TOLERANCE = 1e-3
# Nats a byte of a whole text, whose many tokens' roundings add up; a choice's allowance is the least.
TEXT_TOLERANCE = 1e-5
_NAMED = 20
_LENGTHS = {  # of a choice, by the metric that divides its likelihood by it
    "acc": lambda choice: 1, "acc_norm": len, "acc_bytes": lambda choice: len(choice.encode()),
}  # fmt: skip


class Reproduced(BaseModel):
    """What the second run came to."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    id: str
    verdict: Literal["equal to the bit", "equal within the tolerance", "different"]
    items: int
    missing: int  # items that only one of the two runs has
    other_answers: int  # that are no near ties; another value of any metric counts
    near_ties: int  # other answers whose two likelihoods differ by less than the tolerance
    largest: float  # difference of a log-likelihood beside what is allowed of it, nats
    tolerance: float = TOLERANCE  # what is allowed of that one, nats
    score_then: float | None
    score_now: float | None
    harness: dict[str, tuple[str, str]]  # versions that differ: then, now
    changed: list[str]  # ids of items with another answer
    marks: int = 0  # items that were marked as more or less contaminated than then
    not_again: list[str] = []  # what of the result was not made again, in sentences

    @property
    def holds(self) -> bool:
        """True where the number was made again."""
        return self.verdict != "different"


def compare_runs(stored: StoredResult, now: Measurement) -> Reproduced:
    """Both runs by the ids of their items: answers, likelihoods, every metric, and the marks of contamination."""
    then = {(item.subtask, item.id): item for item in stored.measurement().items}
    again = {(item.subtask, item.id): item for item in now.items}
    shared = [(then[key], again[key]) for key in then if key in again]
    missing = len(then.keys() ^ again.keys())
    apart = [(_distance(one, other), allowed(one, now.task)) for one, other in shared]
    largest, tolerance = max(apart, key=lambda pair: pair[0] / pair[1], default=(0.0, TOLERANCE))
    others = [(one, other) for one, other in shared if one.answer != other.answer or _scores(one) != _scores(other)]
    # A written answer has no likelihoods to be near: any other text counts. Bits per byte have no answer, only numbers.
    near = [pair for pair in others if _near(*pair, now.task)]
    changed = [one.id for one, other in others if not _near(one, other, now.task)]
    prompts = stored.task.prompt_digest == now.task.prompt_digest
    failed = (stored.failed is None) == (now.failed is None)
    marks = sum(one.dirty != other.dirty for one, other in shared if one.dirty is not None and other.dirty is not None)
    same = not missing and prompts and failed and not changed and not marks and largest <= tolerance
    exact = same and not others and largest == 0
    return Reproduced(
        id=stored.id, verdict="equal to the bit" if exact else "equal within the tolerance" if same else "different",
        items=len(shared), missing=missing, other_answers=len(changed), near_ties=len(near), largest=largest, tolerance=tolerance,
        score_then=stored.summary.score, score_now=summarise(now).score,
        harness={name: (stored.harness.get(name, "none"), now.harness.get(name, "none"))
                 for name in sorted({*stored.harness, *now.harness}) if stored.harness.get(name) != now.harness.get(name)},
        changed=changed[:_NAMED], marks=marks, not_again=_not_again(stored, shared),
    )  # fmt: skip


def allowed(item: Item, task: TaskFacts) -> float:
    """How far an item's log-likelihoods may lie apart in two runs, nats: of a whole text by its length in bytes."""
    return max(TOLERANCE, TEXT_TOLERANCE * item.weight) if task.kind == "text" else TOLERANCE


def _not_again(stored: StoredResult, shared: Sequence[tuple[Item, Item]]) -> list[str]:
    """What contamination the stored result tells of that the second run did not look for."""
    said = []
    lost = sum(one.dirty is not None and other.dirty is None for one, other in shared)
    if lost:
        said.append(f"{lost:,} items' marks in the model's own text were not made again: that text is not (all) here")
    rest = sorted(stored.contamination.keys() - {"own_text"})
    if rest:
        said.append(f"of the contamination report, {', '.join(rest)} was not made again: that needs the control models")
    return said


def _scores(item: Item) -> dict[str, float | None]:
    return {**item.scores, "": item.score}


def _distance(one: Item, other: Item) -> float:
    """The largest difference between two log-likelihoods of an item, nats; infinite where only one run has a number."""
    if len(one.loglikelihoods) != len(other.loglikelihoods):
        return math.inf
    return max((_apart(a, b) for a, b in zip(one.loglikelihoods, other.loglikelihoods, strict=True)), default=0.0)


def _apart(a: float | None, b: float | None) -> float:
    if a is None or b is None:
        return 0.0 if a is b else math.inf
    return abs(a - b)


def _near(one: Item, other: Item, task: TaskFacts) -> bool:
    """True where two runs chose between choices that are equally likely but for the tolerance, or where only digits moved."""
    if task.kind == "text":
        return _distance(one, other) <= allowed(one, task)
    if not one.loglikelihoods or (one.answer != other.answer and not _tied(one, one.answer, other.answer, task.metric)):
        return False
    then, now = _scores(one), _scores(other)
    if then.keys() != now.keys():
        return False
    # The main metric stands among `scores` too; an answer that moved by a near tie moves whatever is counted by it.
    return all(
        _small(then[name], now[name]) or one.answer != other.answer or _flipped(one, other, name) for name in then
    )


def _small(then: float | None, now: float | None) -> bool:
    if then is None or now is None:
        return then is now
    return abs(then - now) <= TOLERANCE * max(1.0, abs(then))


def _tied(item: Item, first: object, second: object, metric: str) -> bool:
    """True where two choices are as likely but for the tolerance, by the length that the metric divides by."""
    if not isinstance(first, int) or not isinstance(second, int):
        return False
    lengths = _all_lengths(item)
    return _close(item, first, second, lengths.get(metric, lengths["acc"]))


def _flipped(one: Item, other: Item, metric: str) -> bool:
    """True where a metric beside the main one takes another choice in the second run, and the two are near."""
    lengths = _all_lengths(one).get(metric)
    if lengths is None or not _whole(one) or not _whole(other) or len(one.loglikelihoods) != len(lengths):
        return False
    first, second = (_best(item, lengths) for item in (one, other))
    return first != second and _close(one, first, second, lengths)


def _all_lengths(item: Item) -> dict[str, list[int]]:
    choices = item.choices or ("",) * len(item.loglikelihoods)
    return {metric: [max(1, of(choice)) for choice in choices] for metric, of in _LENGTHS.items()}


def _whole(item: Item) -> bool:
    return None not in item.loglikelihoods


def _best(item: Item, lengths: Sequence[int]) -> int:
    values = [(value or 0.0) / length for value, length in zip(item.loglikelihoods, lengths, strict=True)]
    return values.index(max(values))


def _close(item: Item, first: int, second: int, lengths: Sequence[int]) -> bool:
    one, other = item.loglikelihoods[first], item.loglikelihoods[second]
    if one is None or other is None:
        return False
    most = max(lengths[first], lengths[second])
    return abs(one / lengths[first] - other / lengths[second]) * most <= 2 * TOLERANCE
