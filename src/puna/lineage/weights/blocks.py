"""Which block of MODEL comes from which block of REFERENCE: phi_MATCH over all pairs.

Comes in: two views. Goes out: the block map, the order of hidden units in each mapped pair, and the test. Must never happen: a map that
was found among many pairs and is told as if it had been the only one looked at.

phi_MATCH (Zhu et al., ICML 2025, section 2.3) matches a block's hidden units twice, once by what their gates read and once by what their
ups read, and asks whether the two matchings agree: in strangers they have no reason to, in copies they do whatever the order of the units.
Here agreement is counted: with g and u the two matchings, K = number of units with g = u. Were one of them shuffled, K would be Poisson
distributed with mean sum of n_g(j)·n_u(j) / n, which is 1 for two permutations. A count sees 30 agreeing units among 11,008, where a rank
correlation sees nothing. The null is not exact, as two models may learn alike from the same text; what it does on such pairs is measured
in the zoo.

Large blocks are looked at in two steps, as most pairs are strangers': p1 from a few units; where it is above `_GOES_ON`, it is the p-value,
else `_GOES_ON` times that of other units, which has the right size if the two are independent: P(p <= x) = x on both branches.

A pair is also looked at in place (`places.py`), which sees less change and no reordering; the smaller of the two p-values counts, twice.
"""

import math
from dataclasses import dataclass, field
from functools import cached_property, partial

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from puna.lineage.verdict import DERIVED_BELOW, Test
from puna.lineage.weights.matching import Effort, match_rows, nearest_rows
from puna.lineage.weights.places import in_place, joined, rows_in_place
from puna.lineage.weights.statistics import holm
from puna.lineage.weights.view import View
from puna.progress import QUIET, Progress

TITLE = "phi_MATCH: gates and ups matched alike"
NULL = "how a block's gates resemble the other's has nothing to do with how its ups do"
_SEED = 2502
_ORDER_AT_MOST = 2048  # units up to which their order is an assignment; above, the nearest
_FIRST, _GOES_ON = 128, 0.05  # units looked at first, in blocks of twice as many or more
_KEPT_BYTES = 2 << 30  # of REFERENCE's blocks, held while MODEL's go by
_LEAST_COLUMNS = 24


@dataclass(frozen=True)
class BlockMap:
    """`log10_p[i, j]`: block i of MODEL from block j of REFERENCE; `holm`: the same over all pairs. `sources[i]`: the block that i comes
    from. `units[(i, expert)][k]`: the unit of the source that unit k is. `test`: phi_MATCH over the best pairs."""

    log10_p: Float[ndarray, "m r"]
    holm: Float[ndarray, "m r"]
    sources: tuple[int | None, ...]
    runner_up: tuple[int | None, ...]
    units: dict[tuple[int, int | None], ndarray] = field(default_factory=dict)
    test: Test = field(default_factory=lambda: Test(name="phi_MATCH", title=TITLE))


class _Sheet:
    """A block (or expert) as it is compared: the drawn columns of gate, up and down side by side, each part of length 1."""

    def __init__(self, view: View, layer: int, expert: int | None, columns: Tensor | None) -> None:
        self.rows: Float[Tensor, "n 3c"] = joined(view.mlp(layer, expert), columns)

    @property
    def gate(self) -> Float[Tensor, "n c"]:
        return self.rows[:, : self.rows.shape[1] // 3]

    @property
    def up(self) -> Float[Tensor, "n c"]:
        return self.rows[:, self.rows.shape[1] // 3 : 2 * (self.rows.shape[1] // 3)]

    @cached_property
    def gram(self) -> Float[Tensor, "3c 3c"]:
        return (self.rows.T @ self.rows).double()

    @cached_property
    def whole(self) -> bool:
        """Whether no unit has a gate, an up or a down of zeros."""
        return bool((self.rows.unflatten(1, (3, -1)) != 0).any(dim=2).all())


class _Sheets:
    """The sheets of one model, each kept once made."""

    def __init__(self, view: View, columns: Tensor | None) -> None:
        self.view, self.columns = view, columns
        self.experts: list[int | None] = list(range(view.experts)) if view.experts else [None]
        self._kept: dict[tuple[int, int | None], _Sheet] = {}

    def block(self, layer: int, expert: int | None) -> _Sheet:
        if (layer, expert) not in self._kept:
            self._kept[layer, expert] = _Sheet(self.view, layer, expert, self.columns)
        return self._kept[layer, expert]

    def forget(self, layer: int) -> None:
        for expert in self.experts:
            self._kept.pop((layer, expert), None)


def map_blocks(ours: View, theirs: View, effort: Effort | None = None, progress: Progress = QUIET) -> BlockMap:
    """All pairs of blocks. MODEL's blocks are read once each, REFERENCE's drawn columns are kept in memory."""
    sizes = theirs.checkpoint.sizes
    effort = effort or Effort.for_sizes(sizes.hidden, max(sizes.ffn, ours.checkpoint.sizes.ffn))
    columns = _columns(theirs, effort)
    own, other = _Sheets(ours, columns), _Sheets(theirs, columns)
    table = np.zeros((ours.layers, theirs.layers))
    matched = np.zeros_like(table)
    best_expert: dict[tuple[int, int], dict[int | None, int | None]] = {}
    progress.start("block map", ours.layers, "blocks")
    for i in range(ours.layers):
        for j in range(theirs.layers):
            table[i, j], matched[i, j], best_expert[i, j] = _pair(own, other, i, j, effort)
        own.forget(i)
        progress.update(i + 1)
    progress.finish()
    found = chosen(table, matched, _said(columns, sizes.hidden, sizes.ffn, effort))
    sources, units = list(found.sources), {}
    for i, source in enumerate(found.sources):
        if source is None:
            continue
        sources[i] = source = _likest(own, other, i, _as_sure(table[i], source), best_expert)
        for expert, partner in best_expert[i, source].items():
            units[i, expert] = unit_order(own.block(i, expert).rows, other.block(source, partner).rows)
        own.forget(i)
    runner_up = [_second(table[i], found.holm[i], source) for i, source in enumerate(sources)]
    return BlockMap(table, found.holm, tuple(sources), tuple(runner_up), units, found.test)


def chosen(table: Float[ndarray, "m r"], matched: Float[ndarray, "m r"], sampled: str) -> BlockMap:
    """The map that the log10 p of all pairs give, and the test: `matched` are those of phi_MATCH alone."""
    adjusted = np.asarray(holm(table.flatten().tolist())).reshape(table.shape)
    limit = math.log10(DERIVED_BELOW)
    sources: list[int | None] = []
    for i, row in enumerate(table):
        best = int(np.argmin(row))
        sources.append(min(_as_sure(row, best), key=lambda j: abs(j - i)) if adjusted[i, best] < limit else None)
    runner_up = [_second(table[i], adjusted[i], source) for i, source in enumerate(sources)]
    best_of_row = matched.min(axis=1) + math.log10(table.shape[1])
    deciding = min(0.0, float(min(holm(best_of_row.tolist()))))
    test = Test(
        name="phi_MATCH", title=TITLE, null=NULL, log10_p=deciding, p_value=10**deciding, statistic=float(np.mean(best_of_row < limit)),
        statistic_name="share of MODEL's blocks with a clear source", sampled=sampled,
    )  # fmt: skip
    return BlockMap(table, adjusted, tuple(sources), tuple(runner_up), {}, test)


def _columns(theirs: View, effort: Effort) -> Tensor | None:
    """The drawn columns of each matrix: a third of `effort.columns`, fewer where REFERENCE's blocks would not fit into memory."""
    sizes = theirs.checkpoint.sizes
    count = sizes.hidden if effort.columns is None else min(sizes.hidden, max(1, effort.columns // 3))
    most = _KEPT_BYTES // max(1, 12 * sizes.ffn * theirs.layers * max(1, theirs.experts))
    count = min(count, max(_LEAST_COLUMNS, most))
    if count >= sizes.hidden:
        return None
    return torch.randperm(sizes.hidden, generator=torch.Generator().manual_seed(_SEED))[:count]


def _said(columns: Tensor | None, hidden: int, ffn: int, effort: Effort) -> str:
    parts = [] if columns is None else [f"{len(columns):,} of {hidden:,} columns"]
    if effort.units is not None and effort.units < ffn:
        parts.append(f"{effort.units:,} of {ffn:,} units")
    return ", ".join(parts)


def _as_sure(row: Float[ndarray, " r"], best: int) -> list[int]:
    """Blocks of REFERENCE with the same least p: copies of one another."""
    return [int(j) for j in np.flatnonzero(row <= row[best] + 1e-9)]


def _second(row: Float[ndarray, " r"], adjusted: Float[ndarray, " r"], source: int | None) -> int | None:
    """The next best block of REFERENCE, where it is significant too."""
    clear = [
        int(j) for j in np.argsort(row, kind="stable") if adjusted[j] < math.log10(DERIVED_BELOW) and int(j) != source
    ]
    return clear[0] if clear else None


def _likest(
    own: _Sheets, other: _Sheets, i: int, among: list[int], experts: dict[tuple[int, int], dict[int | None, int | None]]
) -> int:
    """Of sources that are as sure the one whose units are nearest; of equal ones the one of the nearest place."""

    def likeness(j: int) -> float:
        expert, partner = next(iter(experts[i, j].items()))
        a, b = own.block(i, expert).rows, other.block(j, partner).rows
        order = unit_order(a, b)
        return float((a * b[torch.as_tensor(order)])[torch.as_tensor(order >= 0)].sum()) / (3 * len(a))

    return among[0] if len(among) == 1 else max(among, key=lambda j: (round(likeness(j), 4), -abs(j - i)))


def _pair(
    own: _Sheets, other: _Sheets, i: int, j: int, effort: Effort
) -> tuple[float, float, dict[int | None, int | None]]:
    """(log10 p of the pair, of phi_MATCH alone, which expert of REFERENCE's block each of MODEL's is most like)."""
    least, least_matched, partners = 0.0, 0.0, {}
    tried = math.log10(len(own.experts) * len(other.experts))
    for expert in own.experts:
        best = 1.0
        for partner in other.experts:
            a, b = own.block(i, expert), other.block(j, partner)
            by_match = agreement(a.gate, a.up, b.gate, b.up, effort, ready=a.whole and b.whole)
            both = by_match if a.rows.shape != b.rows.shape else min(by_match, _by_place(a, b)) + math.log10(2)
            if both < best:
                best, partners[expert] = both, partner
            least, least_matched = min(least, both + tried), min(least_matched, by_match + tried)
    return least, least_matched, partners


def _by_place(a: _Sheet, b: _Sheet) -> float:
    """log10 p of the units in place."""
    if a.whole and b.whole:
        return rows_in_place(a.rows, b.rows, a.gram, b.gram).log10_p
    return in_place(a.rows, b.rows).log10_p


def agreement(
    gate: Float[Tensor, "n d"],
    up: Float[Tensor, "n d"],
    gate_theirs: Float[Tensor, "m d"],
    up_theirs: Float[Tensor, "m d"],
    effort: Effort,
    *,
    ready: bool = False,
) -> float:
    """log10 p of phi_MATCH for one pair of blocks: too many units whose gate and whose up are matched to one and the same unit.

    `ready`: see `nearest_rows`; where all is looked at by assignment, it changes nothing.
    """
    n = len(gate)
    if n < 2 * _FIRST and (effort.units is None or effort.units >= n):
        return _log10_agree(match_rows(gate, gate_theirs), match_rows(up, up_theirs, lot=1))
    drawn = torch.randperm(n, generator=torch.Generator().manual_seed(_SEED))[: effort.units]
    first, rest = drawn[:_FIRST], drawn[_FIRST:]
    nearest = partial(nearest_rows, ready=ready)
    begun = _log10_agree(nearest(gate[first], gate_theirs), nearest(up[first], up_theirs))
    if begun > math.log10(_GOES_ON) or not len(rest):
        return begun
    if effort.units is None:
        found = _log10_agree(match_rows(gate[rest], gate_theirs), match_rows(up[rest], up_theirs, lot=1))
    else:
        found = _log10_agree(nearest(gate[rest], gate_theirs), nearest(up[rest], up_theirs))
    return math.log10(_GOES_ON) + found


def _log10_agree(by_gate: ndarray, by_up: ndarray) -> float:
    """log10 P of as many equal entries, were one of the lists shuffled; never below that of one order. Places with -1 do not count."""
    kept = (by_gate >= 0) & (by_up >= 0)
    by_gate, by_up = by_gate[kept], by_up[kept]
    n = len(by_gate)
    if not n:
        return 0.0
    size = 1 + int(max(by_gate.max(), by_up.max()))
    by_chance = float(np.bincount(by_gate, minlength=size) @ np.bincount(by_up, minlength=size)) / n
    return max(log10_poisson_tail(int((by_gate == by_up).sum()), by_chance), -math.lgamma(n + 1) / math.log(10))


def log10_poisson_tail(count: int, mean: float) -> float:
    """log10 of P(K >= count), K Poisson with this mean."""
    if count <= 0:
        return 0.0
    if mean <= 0:
        mean = 1e-9
    terms = [k * math.log(mean) - mean - math.lgamma(k + 1) for k in range(count, max(count, math.ceil(mean)) + 200)]
    most = max(terms)
    return min(0.0, (most + math.log(sum(math.exp(term - most) for term in terms))) / math.log(10))


def unit_order(ours: Float[Tensor, "n d"], theirs: Float[Tensor, "m d"]) -> ndarray:
    """Unit k of `ours` is unit order[k] of `theirs`. The order as it is, where that is as good as any; units of zeros keep their place."""
    n = min(len(ours), len(theirs))
    if len(ours) == len(theirs) and in_place(ours, theirs).log10_p < -8:
        return np.arange(n)
    # A wider block has units of its own: each beside the one most like it.
    order = match_rows(ours, theirs) if len(ours) <= len(theirs) <= _ORDER_AT_MOST else nearest_rows(ours, theirs)
    zero = np.flatnonzero(order < 0)
    order[zero] = zero % len(theirs)
    return order
