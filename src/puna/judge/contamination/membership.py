"""How well a number parts a task's items from texts that the model cannot have seen.

Comes in: one number for each item and for each other text, higher where a text looks more as if it had been read (see likelihood).
Goes out: the area under the ROC curve with an interval and a p-value, beside control models where there are any. Must never happen: a
difference between two sorts of text told as one between read and unread.

AUC = P(item's number > other text's) + P(equal) / 2 (Mann & Whitney 1947; Hanley & McNeil 1982): 0.5 where the number does not part them.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from puna.corpus.segment import segment
from puna.errors import PunaError
from puna.judge.contamination import words
from puna.judge.stats import LEAST_UNITS, LEVEL

Floats = npt.NDArray[np.float64]
Places = npt.NDArray[np.int64]
DRAWS = 2000


@dataclass(frozen=True)
class Membership:
    """AUC of items against other texts; `interval` (95 %) and `p` (two-sided, null hypothesis: AUC 0.5) are None below 8 of either."""

    auc: float
    interval: tuple[float, float] | None
    p: float | None
    items: int
    others: int
    says: str


@dataclass(frozen=True)
class BesideControl:
    """The model's AUC minus a control model's, on the same texts. `p`: two-sided, from the bootstrap."""

    control: str
    control_auc: float
    difference: float
    interval: tuple[float, float] | None
    p: float | None


def membership(
    items: npt.ArrayLike, others: npt.ArrayLike, *, clusters: Sequence[str] | None = None, draws: int = DRAWS, seed: int = 0
) -> Membership:  # fmt: skip
    """The AUC of `items` [n] against `others` [m]; both are drawn anew in each bootstrap sample, and labels are permuted for p.

    clusters: of each item, where some share a passage ("": it stands alone); they are drawn and permuted whole.
    Raises PunaError where one of the two is empty or holds a number that is not finite.
    """
    own, rest = _numbers(items), _numbers(others)
    found, units = auc(own, rest), _units(len(own), clusters)
    told = Membership(found, None, None, len(own), len(rest), words.LIKELIHOOD)
    if min(len(units), len(rest)) < LEAST_UNITS:
        return replace(told, says=f"Fewer than {LEAST_UNITS} texts of one kind cannot tell. {words.LIKELIHOOD}")
    rng = np.random.default_rng([seed, len(own), len(rest), draws])
    drawn = [auc(own[_draw(units, rng)], rng.choice(rest, len(rest))) for _ in range(draws)]
    # Under the null hypothesis every whole unit could as well be of the other kind.
    both = np.concatenate([own, rest])
    pieces = [*units, *(np.array([len(own) + n]) for n in range(len(rest)))]
    as_far = 0
    for _ in range(draws):
        order = [pieces[n] for n in rng.permutation(len(pieces))]
        left, right = (np.concatenate(part) for part in (order[: len(units)], order[len(units) :]))
        as_far += abs(auc(both[left], both[right]) - 0.5) >= abs(found - 0.5) - 1e-12
    return replace(told, interval=_percentiles(drawn), p=(as_far + 1) / (draws + 1))


def _units(count: int, clusters: Sequence[str] | None) -> list[Places]:
    """The places of the items of each unit."""
    groups: dict[str, list[int]] = {}
    for number in range(count):
        name = clusters[number] if clusters is not None else ""
        groups.setdefault(name or f"\0{number}", []).append(number)
    return [np.array(group, np.int64) for group in groups.values()]


def _draw(units: Sequence[Places], rng: np.random.Generator) -> Places:
    return np.concatenate([units[n] for n in rng.integers(len(units), size=len(units))])


def beside_controls(
    items: npt.ArrayLike, others: npt.ArrayLike, controls: Mapping[str, tuple[npt.ArrayLike, npt.ArrayLike]], *,
    clusters: Sequence[str] | None = None, draws: int = DRAWS, seed: int = 0,
) -> list[BesideControl]:  # fmt: skip
    """The model's AUC beside each control model's. All read the same texts in the same order, and the same texts are drawn for both, so
    what parts the two sorts of text for every model falls away.

    Raises PunaError where a control has other counts than the model, and as `membership`.
    """
    own, rest = _numbers(items), _numbers(others)
    found, units = auc(own, rest), _units(len(own), clusters)
    rows = []
    for name, (their_items, their_others) in controls.items():
        theirs, their_rest = _numbers(their_items), _numbers(their_others)
        if (len(theirs), len(their_rest)) != (len(own), len(rest)):
            raise PunaError(f"{name} read {len(theirs)} and {len(their_rest)} texts, the model {len(own)} and {len(rest)}", where="Min-K%++",
                            mend="give both the same texts")  # fmt: skip
        other = auc(theirs, their_rest)
        if min(len(units), len(rest)) < LEAST_UNITS:
            rows.append(BesideControl(name, other, found - other, None, None))
            continue
        rng = np.random.default_rng([seed, len(own), len(rest), draws, 2])
        drawn = np.empty(draws)
        for draw in range(draws):
            a, b = _draw(units, rng), rng.integers(len(rest), size=len(rest))
            drawn[draw] = auc(own[a], rest[b]) - auc(theirs[a], their_rest[b])
        tail = min((drawn <= 0).sum(), (drawn >= 0).sum())
        rows.append(
            BesideControl(name, other, found - other, _percentiles(drawn), min(1.0, 2 * float(tail + 1) / (draws + 1)))
        )
    return rows


def auc(own: Floats, rest: Floats) -> float:
    """P(own > rest) + P(own = rest) / 2, from the ranks."""
    ordered = np.sort(rest)
    below = np.searchsorted(ordered, own, side="left")
    equal = np.searchsorted(ordered, own, side="right") - below
    return float((below + equal / 2).sum() / (len(own) * len(rest)))


def twin(text: str, seed: int = 0) -> str:
    """The text with its words in another order: within each sentence they are shuffled by `seed`; Chinese, Japanese and Korean ones by
    word as puna.corpus.segment has them (a character each).

    No model has read it, and no text looks like it: every model finds it less expected than the text. So it tells something only beside
    control models (`beside_controls`), never by itself.
    """
    rng = np.random.default_rng([seed, len(text)])
    return "".join(_shuffled(part, rng) for part in re.split(r"(?<=[.!?。！？\n])", text))


def _shuffled(sentence: str, rng: np.random.Generator) -> str:
    batch = segment([sentence])
    pieces = [sentence[start:end] for start, end in zip(batch.starts.tolist(), batch.ends.tolist(), strict=True)]
    order = rng.permutation(len(pieces))
    out, last = "", 0
    for place, (start, end) in enumerate(zip(batch.starts.tolist(), batch.ends.tolist(), strict=True)):
        out += sentence[last:start] + pieces[order[place]]
        last = end
    return out + sentence[last:]


def _numbers(values: npt.ArrayLike) -> Floats:
    numbers = np.asarray(values, np.float64).reshape(-1)
    if not len(numbers) or not np.isfinite(numbers).all():
        raise PunaError("no texts, or a number that is not finite", where="Min-K%++")
    return numbers


def _percentiles(drawn: Sequence[float] | Floats) -> tuple[float, float]:
    low, high = np.quantile(np.asarray(drawn), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
