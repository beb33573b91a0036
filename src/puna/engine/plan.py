"""What is read together: rows to leaves, leaves to groups, groups to packs and batches.

In: rows of (prompt ids, continuation ids), a model's config. Out: batches, each with the tokens that stand before all of it. Must
never happen: a row left out, or a batch of more tokens than is allowed where it could be less.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from puna.engine.scoring import Row
from puna.engine.sharing import Run, best_runs, common, sort_key
from puna.errors import PunaError
from puna.model.decoder import Decoder

_COPY_BYTES = 128 << 20  # one layer's keys and values of a pack, the copies of its prefix included
_MOST_BEHIND = 1024  # places behind one trunk: they are attended to with a mask, whose cost grows with their square
_SHORTEST_PREFIX = 16
_WASTE = 0.05  # of a pack's tokens, in padding, from which on it is closed where that costs more than one more
_RUN_COST = 4.0  # tokens: what a trunk with branches costs beside its tokens
_COPY = 0.05  # tokens: what it costs a row to have one token of a prefix before it


@dataclass
class Leaf:
    """Rows with the same input (all tokens but the last)."""

    ids: NDArray[np.uint32]
    rows: list[int]
    first: int  # the first place that any of its rows scores


@dataclass
class Group:
    """Leaves that share a trunk of `trunk` tokens. `head` tokens of it are a prefix read before."""

    leaves: list[Leaf]
    trunk: int
    head: int = 0

    @property
    def behind(self) -> int:
        """Tokens of all branches."""
        return sum(len(leaf.ids) - self.trunk for leaf in self.leaves)


def input_of(row: Row) -> bytes:
    """What is fed of a row, as `sort_key` writes it: all its tokens but the last, which is only predicted."""
    return (sort_key(row[0]) + sort_key(row[1]))[:-4]


def leaf_of(key: bytes) -> Leaf:
    """A leaf without rows."""
    ids = np.frombuffer(key, dtype=">u4")  # four bytes a token: a benchmark's prompts as lists would fill the memory
    return Leaf(ids, [], len(ids))


def leaves_of(rows: Sequence[Row], context: int) -> list[tuple[bytes, Leaf]]:
    """Rows by their input, sorted by it."""
    leaves: dict[bytes, Leaf] = {}
    for number, row in enumerate(rows):
        if not row[0] or not row[1]:
            what = (
                "prompt: its first token has no condition" if not row[0] else "continuation: there is nothing to score"
            )
            raise ValueError(f"row {number} has an empty {what}")
        if len(row[0]) + len(row[1]) - 1 > context:
            raise PunaError(
                f"row {number} has {len(row[0]) + len(row[1])} tokens and the model's context is {context}",
                mend="score a shorter text, or one window of it after another",
            )
        key = input_of(row)
        leaf = leaves.get(key)
        if leaf is None:
            leaf = leaves[key] = leaf_of(key)
        leaf.rows.append(number)
        leaf.first = min(leaf.first, len(row[0]) - 1)
    return sorted(leaves.items(), key=lambda pair: pair[0])


class Cost:
    """What reading costs, in tokens that pass the layers: a pair of query and key costs `pair` of that.

    On a CPU a pair takes about 2.7 ns a head whatever its width, a parameter 0.018 ns a token, a layer's calls 80 us a pass and
    50 us a pack, and weights come from memory once a pass (measured): so small models are bound by attention and calls. A wrong
    figure costs time, never a result.
    """

    def __init__(self, model: Decoder) -> None:
        config = model.config
        per_layer = (config.parameters - model.head_weight().numel()) / config.num_hidden_layers
        self.pair = 150 * config.num_attention_heads / max(per_layer, 1.0)
        self.one_pack = 8 + 3e6 / max(per_layer, 1.0)
        self.one_pass = 48 + 4.4e6 / max(per_layer, 1.0)
        self.kv_bytes = 2 * config.num_key_value_heads * config.head_dim * model.head_weight().element_size()

    def trunks(self, count: int, total: float, squares: float) -> float:
        """Reading `count` whole rows of `total` tokens, with the sum of their lengths' squares."""
        return total + self.pair * squares / 2

    def behind_prefix(self, depth: int, count: int, total: float, squares: float) -> float:
        """Reading `depth` tokens once, then the rest of such rows behind them: Σ r·(d + r) = Σ p² - d·Σ p with p = d + r."""
        rest = total - count * depth + self.pair * (squares - depth * total)
        return self.trunks(1, depth, depth**2) + rest + _COPY * count * depth + 2 * self.one_pass

    def behind(self, queries: float, before: float) -> float:
        """Reading `queries` tokens that see `before` tokens and each other under a mask."""
        return queries + self.pair * queries * (before + queries)


def _groups(leaves: list[tuple[bytes, Leaf]], cost: Cost) -> list[tuple[bytes, Group]]:
    """Trunks with branches, where that is cheaper than whole rows; in the leaves' order."""
    lengths = np.array([len(leaf.ids) for _, leaf in leaves], dtype=np.float64)
    sums, squares = (np.concatenate(([0.0], part.cumsum())) for part in (lengths, lengths**2))

    def gain(run: Run) -> float:
        count, total = run.end - run.start, sums[run.end] - sums[run.start]
        behind = total - count * run.depth
        if run.depth == 0 or behind > _MOST_BEHIND:
            return -1.0
        square = squares[run.end] - squares[run.start]
        apart = cost.trunks(count, total, square)
        if run.depth >= _SHORTEST_PREFIX:  # the other way to share: better for many, or long, ends
            apart = min(apart, cost.behind_prefix(run.depth, count, total, square))
        return apart - cost.trunks(1, run.depth, run.depth**2) - cost.behind(behind, run.depth) - _RUN_COST

    runs = best_runs([common(leaves[i][0], leaves[i + 1][0]) for i in range(len(leaves) - 1)], gain)
    out: list[tuple[bytes, Group]] = []
    place = 0
    for run in [*runs, Run(len(leaves), len(leaves), 0)]:
        out += [(key, Group([leaf], len(leaf.ids))) for key, leaf in leaves[place : run.start]]
        if run.end > run.start:
            members = [leaf for _, leaf in leaves[run.start : run.end]]
            out.append((leaves[run.start][0][: 4 * run.depth], Group(members, run.depth)))
        place = run.end
    return out


def _heads(groups: list[tuple[bytes, Group]], cost: Cost) -> list[tuple[int, list[Group]]]:
    """Groups with the number of first tokens that they get from one prefix; 0 and all the others last."""
    lengths = np.array([group.trunk for _, group in groups], dtype=np.float64)
    sums, squares = (np.concatenate(([0.0], part.cumsum())) for part in (lengths, lengths**2))
    # No scored place may lie in a prefix, and a trunk keeps at least one token of its own.
    most = [min(group.trunk - 1, *(leaf.first for leaf in group.leaves)) for _, group in groups]
    shared = [min(common(groups[i][0], groups[i + 1][0]), most[i], most[i + 1]) for i in range(len(groups) - 1)]

    def gain(run: Run) -> float:
        count, total, square = (
            run.end - run.start,
            sums[run.end] - sums[run.start],
            squares[run.end] - squares[run.start],
        )
        if run.depth < _SHORTEST_PREFIX:
            return -1.0
        return cost.trunks(count, total, square) - cost.behind_prefix(run.depth, count, total, square)

    out: list[tuple[int, list[Group]]] = []
    free: list[Group] = []
    place = 0
    for run in [*best_runs(shared, gain), Run(len(groups), len(groups), 0)]:
        free += [group for _, group in groups[place : run.start]]
        if run.end > run.start:
            members = [group for _, group in groups[run.start : run.end]]
            for group in members:
                group.head = run.depth
            out.append((run.depth, members))
        place = run.end
    out.sort(key=lambda pair: -max(group.trunk + group.behind for group in pair[1]))
    return [*out, (0, free)] if free else out


def batches_of(
    cost: Cost, leaves: list[tuple[bytes, Leaf]], batch_tokens: int
) -> Iterator[tuple[Sequence[int], list[list[Group]]]]:
    """(the prefix's ids, packs of groups of like lengths), longest first; batches of one prefix follow each other."""
    for head, members in _heads(_groups(leaves, cost), cost):
        prefix = members[0].leaves[0].ids[:head].tolist()
        members.sort(key=lambda group: (-_bucket(group.trunk - head), -group.behind, -group.trunk))
        batch: list[list[Group]] = []
        tokens = 0  # places of the batch's packs but the last
        last = _Sizes(head)
        for group in members:
            wider = last.with_one(group)
            if last.count and wider.waste > cost.one_pack and wider.waste > _WASTE * wider.padded:
                tokens, wider = tokens + last.padded, _Sizes(head).with_one(group)
                batch.append([])
            if (batch and tokens + wider.padded > batch_tokens) or (
                wider.count > 1 and wider.bytes(cost) > _COPY_BYTES
            ):
                yield prefix, [pack for pack in batch if pack]
                batch, tokens, wider = [], 0, _Sizes(head).with_one(group)
            if not batch:
                batch.append([])
            batch[-1].append(group)
            last = wider
        if batch:
            yield prefix, batch


@dataclass(frozen=True)
class _Sizes:
    """How large a pack is: of `count` rows, each as wide as the widest trunk and the longest branches."""

    head: int
    count: int = 0
    trunk: int = 0
    behind: int = 0
    real: int = 0

    def with_one(self, group: Group) -> "_Sizes":
        own = group.trunk - self.head
        wide, long = max(self.trunk, own), max(self.behind, group.behind)
        return _Sizes(self.head, self.count + 1, wide, long, self.real + own + group.behind)

    @property
    def padded(self) -> int:
        return self.count * (self.trunk + self.behind)

    @property
    def waste(self) -> int:
        return self.padded - self.real

    def bytes(self, cost: Cost) -> int:
        """Of one layer's keys and values, the prefix's copies included."""
        return self.count * (self.head + self.trunk + self.behind) * cost.kv_bytes


def _bucket(length: int) -> int:
    """Lengths within about a tenth of each other, or a few tokens, get the same number: within it, what is behind decides."""
    return int(8 * math.log2(length + 8))
