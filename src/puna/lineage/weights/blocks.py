"""Which block of MODEL comes from which block of REFERENCE: phi_MATCH over all pairs.

Comes in: two views. Goes out: the block map, the order of hidden units in each mapped pair, and the test. Must never happen: a map that
was found among many pairs and is told as if it had been the only one looked at.

phi_MATCH (Zhu et al., ICML 2025, section 2.3) matches a block's hidden units twice, once by what their gates read and once by what their
ups read, and asks whether the two matchings agree: in strangers they have no reason to, in copies they do whatever the order of the units.
Here agreement is counted: with g and u the two matchings, K = number of units with g = u. Were one of them shuffled, K would be Poisson
distributed with mean sum of n_g(j)·n_u(j) / n, which is 1 for two permutations. A count sees 30 agreeing units among 11,008, where a rank
correlation sees nothing. The null is not exact, as two models may learn alike from the same text; what it does on such pairs is measured
in the zoo.

A pair is also looked at in place (`places.py`), which sees less change and no reordering; the smaller of the two p-values counts, twice.
"""

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from puna.lineage.verdict import DERIVED_BELOW, Test
from puna.lineage.weights.matching import Effort, match_rows, nearest_rows
from puna.lineage.weights.places import in_place, joined
from puna.lineage.weights.statistics import holm
from puna.lineage.weights.view import View
from puna.progress import QUIET, Progress

TITLE = "phi_MATCH: gates and ups matched alike"
NULL = "how a block's gates resemble the other's has nothing to do with how its ups do"
_SEED = 2502
_ORDER_AT_MOST = 2048  # units up to which their order is an assignment; above, the nearest


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


class _Sheets:
    """The blocks of one model as they are compared: drawn columns only, each kept once read."""

    def __init__(self, view: View, columns: Tensor | None) -> None:
        self.view, self.columns = view, columns
        self.experts = list(range(view.experts)) if view.experts else [None]
        self._kept: dict[tuple[int, int | None], tuple[Tensor, Tensor, Tensor]] = {}

    def block(self, layer: int, expert: int | None) -> tuple[Tensor, Tensor, Tensor]:
        """(gate, up, all three joined) of a block."""
        if (layer, expert) not in self._kept:
            mlp = self.view.mlp(layer, expert)
            gate, up = (part if self.columns is None else part[:, self.columns] for part in mlp[:2])
            self._kept[layer, expert] = (gate.contiguous(), up.contiguous(), joined(mlp, self.columns))
        return self._kept[layer, expert]

    def forget(self, layer: int) -> None:
        for expert in self.experts:
            self._kept.pop((layer, expert), None)


def map_blocks(ours: View, theirs: View, effort: Effort | None = None, progress: Progress = QUIET) -> BlockMap:
    """All pairs of blocks. MODEL's blocks are read once each, REFERENCE's drawn columns are kept in memory."""
    sizes = theirs.checkpoint.sizes
    effort = effort or Effort.for_sizes(sizes.hidden, max(sizes.ffn, ours.checkpoint.sizes.ffn))
    columns = None
    if effort.columns is not None and sizes.hidden > effort.columns // 3:
        columns = torch.randperm(sizes.hidden, generator=torch.Generator().manual_seed(_SEED))[: effort.columns // 3]
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
    adjusted = np.asarray(holm(table.flatten().tolist())).reshape(table.shape)
    limit = math.log10(DERIVED_BELOW)
    sources, runner_up, units = [], [], {}
    for i in range(ours.layers):
        ranked = np.argsort(table[i], kind="stable")
        clear = [int(j) for j in ranked if adjusted[i, j] < limit]
        sources.append(_nearest_in_place(i, clear, table[i]) if clear else None)
        rest = [j for j in clear if j != sources[-1]]
        runner_up.append(rest[0] if rest else None)
        if (source := sources[-1]) is not None:
            for expert, partner in best_expert[i, source].items():
                units[i, expert] = unit_order(own.block(i, expert)[2], other.block(source, partner)[2])
            own.forget(i)
    best = matched.min(axis=1) + math.log10(theirs.layers)
    deciding = min(0.0, float(min(holm(best.tolist())))) if len(best) else 0.0
    test = Test(
        name="phi_MATCH", title=TITLE, null=NULL, log10_p=deciding, p_value=10**deciding, statistic=float(np.mean(best < limit)),
        statistic_name="share of MODEL's blocks with a clear source",
        sampled="" if columns is None else f"{len(columns):,} of {sizes.hidden:,} columns, {effort.units or sizes.ffn:,} units",
    )  # fmt: skip
    return BlockMap(table, adjusted, tuple(sources), tuple(runner_up), units, test)


def _nearest_in_place(block: int, clear: list[int], row: Float[ndarray, " r"]) -> int:
    """The best source; of sources that are as sure (copies of one another in REFERENCE), the one of the nearest place."""
    least = row[clear[0]]
    return min((j for j in clear if row[j] <= least + 1e-9), key=lambda j: abs(j - block))


def _pair(
    own: _Sheets, other: _Sheets, i: int, j: int, effort: Effort
) -> tuple[float, float, dict[int | None, int | None]]:
    """(log10 p of the pair, of phi_MATCH alone, which expert of REFERENCE's block each of MODEL's is most like)."""
    least, least_matched, partners = 0.0, 0.0, {}
    tried = len(own.experts) * len(other.experts)
    for expert in own.experts:
        best = 1.0
        for partner in other.experts:
            a, b = own.block(i, expert), other.block(j, partner)
            by_match = agreement(a[0], a[1], b[0], b[1], effort)
            both = by_match if a[2].shape != b[2].shape else min(by_match, in_place(a[2], b[2]).log10_p) + math.log10(2)
            if both < best:
                best, partners[expert] = both, partner
            least, least_matched = (
                min(least, both + math.log10(tried)),
                min(least_matched, by_match + math.log10(tried)),
            )
    return least, least_matched, partners


def agreement(
    gate: Float[Tensor, "n d"],
    up: Float[Tensor, "n d"],
    gate_theirs: Float[Tensor, "m d"],
    up_theirs: Float[Tensor, "m d"],
    effort: Effort,
) -> float:
    """log10 p of phi_MATCH for one pair of blocks: too many units whose gate and whose up are matched to one and the same unit."""
    if effort.units is not None and len(gate) > effort.units:
        rows = torch.randperm(len(gate), generator=torch.Generator().manual_seed(_SEED))[: effort.units]
        by_gate, by_up = nearest_rows(gate[rows], gate_theirs), nearest_rows(up[rows], up_theirs)
    else:
        by_gate, by_up = match_rows(gate, gate_theirs), match_rows(up, up_theirs)
        kept = (by_gate >= 0) & (by_up >= 0)
        by_gate, by_up = by_gate[kept], by_up[kept]
    if not len(by_gate):
        return 0.0
    agree = int((by_gate == by_up).sum())
    size = len(gate_theirs)
    by_chance = float(np.bincount(by_gate, minlength=size) @ np.bincount(by_up, minlength=size)) / len(by_gate)
    return max(log10_poisson_tail(agree, by_chance), -math.lgamma(len(by_gate) + 1) / math.log(10))


def log10_poisson_tail(count: int, mean: float) -> float:
    """log10 of P(K >= count), K Poisson with this mean."""
    if count <= 0:
        return 0.0
    if mean <= 0:
        mean = 1e-9
    terms = [k * math.log(mean) - mean - math.lgamma(k + 1) for k in range(count, count + 200)]
    most = max(terms)
    return min(0.0, (most + math.log(sum(math.exp(term - most) for term in terms))) / math.log(10))


def unit_order(ours: Float[Tensor, "n d"], theirs: Float[Tensor, "m d"]) -> ndarray:
    """Unit k of `ours` is unit order[k] of `theirs`. The order as it is, where that is as good as any."""
    n = min(len(ours), len(theirs))
    if len(ours) == len(theirs) and in_place(ours, theirs).log10_p < -8:
        return np.arange(n)
    if len(ours) <= len(theirs) <= _ORDER_AT_MOST:
        return match_rows(ours, theirs)
    return nearest_rows(ours, theirs)  # a wider block has units of its own: each beside the one most like it
