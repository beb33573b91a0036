"""Items of two models lined up: which were asked alike, which only one has.

Comes in: measurements with their texts. Goes out: `Prepared` columns, and for two of them the places of the items to be paired.
Must never happen: a pair of items that were not asked alike; pairing by the order of items instead of by their ids.
"""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from puna.judge.measured import Item, Measurement
from puna.judge.normalised import item_chances, unclipped_values
from puna.judge.stats import Floats, Ids
from puna.judge.summary import clusters_of, scores_of, strata_of, weights_of


def _number(*parts: object) -> int:
    """64 bits of BLAKE2b."""
    return int.from_bytes(hashlib.blake2b(json.dumps(parts).encode(), digest_size=8).digest(), "big", signed=True)


def _asked(item: Item) -> int:
    """A mark of all that the model was given: the prompt, the question, the choices; 0 where none of them is known."""
    given = item.prompt, item.continuation, item.question, item.choices
    return (_number(*given) or 1) if item.prompt or item.question or any(item.choices) else 0


@dataclass(frozen=True)
class Prepared:
    """A measurement and its items as columns: to be made once where a model is compared with many.

    Items stand by rising mark of subtask and id, so two models' are lined up without a look at their names. The texts are in
    `asked` as marks: `measurement` may be exchanged for one without texts.
    """

    measurement: Measurement
    keys: Ids  # [n], rising: marks of subtask and id
    asked: Ids  # [n], marks of prompt, question and choices; 0: not known
    scores: Floats  # [n]
    weights: Floats
    chances: Floats | None  # None: not known
    clusters: Ids | None
    strata: Ids | None

    @classmethod
    def of(cls, measurement: Measurement) -> "Prepared":
        """The columns of a measurement."""
        pairs = sorted(((_number(item.subtask, item.id), item) for item in measurement.items), key=lambda pair: pair[0])
        items = [item for _, item in pairs]
        keys, asked = np.array([key for key, _ in pairs], np.int64), np.array([_asked(i) for i in items], np.int64)
        return cls(measurement, keys, asked, scores_of(items), weights_of(items), item_chances(measurement.task, items),
                   clusters_of(items), strata_of(items))  # fmt: skip

    @cached_property
    def twice(self) -> bool:
        """Whether two items have one id: then nothing can be lined up by it."""
        return bool(np.any(self.keys[1:] == self.keys[:-1]))

    @cached_property
    def taken_off(self) -> Floats | None:
        """The scores with chance taken off, of all items."""
        return None if self.chances is None else unclipped_values(self.scores, self.chances, self.strata)


@dataclass(frozen=True)
class Shared:
    """The items that two models were asked alike, by their places in each, and what is left out."""

    first: Ids
    second: Ids
    left_out: tuple[int, int]  # items that only one has
    unlike: int  # items that both have, with another prompt, question or choice


def line_up(one: Prepared, two: Prepared) -> Shared | str:
    """The items to be paired, or why there is no pairing: too few are alike.

    An item is shared where subtask and id, the prompt, the question and the choices are equal. Of the side with fewer items at
    least half must be: a smaller sample lies in a larger one, but what two other sets happen to share stands for neither.
    """
    if one.twice or two.twice:
        return "two items have one id"
    if np.array_equal(one.keys, two.keys):
        mine = others = np.arange(len(one.keys))
    else:
        _, mine, others = np.intersect1d(one.keys, two.keys, assume_unique=True, return_indices=True)
    least, common = min(len(one.keys), len(two.keys)), len(mine)
    left, right = one.asked[mine], two.asked[others]
    alike = (left == right) & (left != 0)
    count = int(alike.sum())
    if not common:
        return "they share no item"
    if not count or 2 * count < least:
        if common == count:
            return f"they share only {count:,} of {least:,} items"
        if not left.any() or not right.any():
            return "the prompts are not known"
        return f"the prompts differ: {count:,} of {least:,} items were asked alike"
    if count < common:
        mine, others = mine[alike], others[alike]
    return Shared(mine, others, (len(one.keys) - common, len(two.keys) - common), common - count)
