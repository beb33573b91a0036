"""A stored result and its second run, side by side, item by item.

Comes in: a `StoredResult` and the `Measurement` that its command made again. Goes out: a report with a verdict. Must never happen:
"the same" where an answer changed that was no tie.
"""

import math
from typing import Literal

from pydantic import BaseModel, ConfigDict

from puna.judge.measured import Item, Measurement
from puna.judge.store.store import StoredResult
from puna.judge.summary import summarise

# Nats of one choice: fp32 sums in another order, on another processor, differ by less on every model that was measured.
TOLERANCE = 1e-3
_NAMED = 20


class Reproduced(BaseModel):
    """What the second run came to."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    id: str
    verdict: Literal["equal to the bit", "equal within the tolerance", "different"]
    items: int
    missing: int  # items that only one of the two runs has
    other_answers: int  # that are no near ties
    near_ties: int  # other answers whose two likelihoods differ by less than the tolerance
    largest: float  # difference of a log-likelihood, nats
    tolerance: float = TOLERANCE
    score_then: float | None
    score_now: float | None
    harness: dict[str, tuple[str, str]]  # versions that differ: then, now
    changed: list[str]  # ids of items with another answer

    @property
    def holds(self) -> bool:
        """True where the number was made again."""
        return self.verdict != "different"


def compare_runs(stored: StoredResult, now: Measurement) -> Reproduced:
    """Both runs by the ids of their items."""
    then = {(item.subtask, item.id): item for item in stored.measurement().items}
    again = {(item.subtask, item.id): item for item in now.items}
    shared = [(then[key], again[key]) for key in then if key in again]
    missing = len(then.keys() ^ again.keys())
    largest = max((_distance(one, other) for one, other in shared), default=0.0)
    others = [(one, other) for one, other in shared if one.answer != other.answer or one.score != other.score]
    # A written answer has no likelihoods to be near: any other text counts. Bits per byte have no answer, only numbers.
    near = [pair for pair in others if _near(*pair)]
    changed = [one.id for one, other in others if not _near(one, other)]
    prompts = stored.task.prompt_digest == now.task.prompt_digest
    same = not missing and prompts and not changed and largest <= TOLERANCE
    exact = same and not others and largest == 0
    return Reproduced(
        id=stored.id, verdict="equal to the bit" if exact else "equal within the tolerance" if same else "different",
        items=len(shared), missing=missing, other_answers=len(changed), near_ties=len(near), largest=largest,
        score_then=stored.summary.score, score_now=summarise(now).score,
        harness={name: (stored.harness.get(name, "none"), now.harness.get(name, "none"))
                 for name in sorted({*stored.harness, *now.harness}) if stored.harness.get(name) != now.harness.get(name)},
        changed=changed[:_NAMED],
    )  # fmt: skip


def _distance(one: Item, other: Item) -> float:
    """The largest difference between two log-likelihoods of an item, nats; infinite where only one run has a number."""
    if len(one.loglikelihoods) != len(other.loglikelihoods):
        return math.inf
    return max((_apart(a, b) for a, b in zip(one.loglikelihoods, other.loglikelihoods, strict=True)), default=0.0)


def _apart(a: float | None, b: float | None) -> float:
    if a is None or b is None:
        return 0.0 if a is b else math.inf
    return abs(a - b)


def _near(one: Item, other: Item) -> bool:
    """True where two runs chose between choices that are equally likely but for the tolerance, or where only digits moved."""
    if isinstance(one.answer, int) and isinstance(other.answer, int) and one.answer != other.answer:
        first, second = one.loglikelihoods[one.answer], one.loglikelihoods[other.answer]
        lengths = [max(1, len(one.choices[place])) for place in (one.answer, other.answer)] if one.choices else [1, 1]
        if first is None or second is None:
            return False
        return min(abs(first - second), abs(first / lengths[0] - second / lengths[1]) * max(lengths)) <= 2 * TOLERANCE
    if one.answer == other.answer and one.score is not None and other.score is not None and one.loglikelihoods:
        return abs(one.score - other.score) <= TOLERANCE * max(1.0, abs(one.score))
    return False
