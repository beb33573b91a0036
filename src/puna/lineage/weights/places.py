"""Are things more alike in place than in any other order? An exact question, and a cheap one.

Comes in: rows of MODEL and rows of REFERENCE (hidden units, or dimensions of the stream), as many of each. Goes out: how alike row i is
to row i, beside all other ways to pair them. Must never happen: a p-value that rests on what two models learnt alike.

Null hypothesis: the rows of one model are exchangeable given the other model. That holds for every network whose random start is the
same for each unit and whose training treats all alike: then no index means anything, whatever both have learnt from the same text.
The statistic is T = sum of S[i, i], S[i, j] the cosine of row i and row j. Over all n! ways to pair the rows

    E T = n·m,   Var T = sum of (S[i, j] - r[i] - c[j] + m)² / (n - 1)

with r, c, m the means of S over rows, columns and both (Hoeffding 1951, "A combinatorial central limit theorem"; its theorem gives the
normal limit). Everything needs only products of the rows' own sizes: S itself, 11,008 squared for LLaMA-7B, is never made.

Phi_U of Zhu et al. (2025) asks the same question by way of an assignment; it sees less where the likeness of each single unit is below
the noise of the others (a merge that holds a tenth of the parent), and costs n³.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from puna.lineage.verdict import Test
from puna.lineage.weights.matching import unit_rows
from puna.lineage.weights.statistics import fisher
from puna.lineage.weights.view import Mlp, View
from puna.progress import QUIET, Progress

NULL = "the places of one model's {what} mean nothing to the other: any other order would be as likely"


@dataclass(frozen=True)
class InPlace:
    """`cosine`: the mean over rows in place; `expected`: the mean over all pairs; `z`: (T - E T) / sd T; `log10_p`: one-sided."""

    cosine: float
    expected: float
    z: float
    log10_p: float


def in_place(ours: Float[Tensor, "n d"], theirs: Float[Tensor, "n d"]) -> InPlace:
    """The test for one matrix. Rows that are all zeros in either model are left out: padding stands at the end of any matrix, and would
    be alike in place in strangers. Raises `ValueError` where the shapes differ."""
    if ours.shape != theirs.shape or ours.ndim != 2:
        raise ValueError(f"rows in place need equal shapes, not {tuple(ours.shape)} and {tuple(theirs.shape)}")
    kept = (ours != 0).any(dim=1) & (theirs != 0).any(dim=1)
    if not bool(kept.all()):
        ours, theirs = ours[kept], theirs[kept]
    a, b = unit_rows(ours), unit_rows(theirs)
    return rows_in_place(a, b, a.T @ a, b.T @ b)


def rows_in_place(
    a: Float[Tensor, "n d"], b: Float[Tensor, "n d"], gram_a: Float[Tensor, "d d"], gram_b: Float[Tensor, "d d"]
) -> InPlace:
    """The same of rows as they are, S being their products, with aᵀa and bᵀb at hand: where one matrix is held beside many."""
    n = len(a)
    trace = torch.dot(a.flatten(), b.flatten()).double().item()  # by sums of parts: nothing of the rows' size is made
    sum_a, sum_b = a.sum(0).double(), b.sum(0).double()
    rows, columns = (a @ sum_b.float()).double() / max(n, 1), (b @ sum_a.float()).double() / max(n, 1)
    mean = (sum_a @ sum_b).item() / max(n, 1) ** 2
    squares = torch.einsum("ij,ij->", gram_a.double(), gram_b.double()).item()
    spread = squares - n * (rows.square().sum() + columns.square().sum()).item() + (n * mean) ** 2
    if n < 2 or spread <= 1e-6 * max(squares, 1e-30):  # all rows alike: every order is the same
        return InPlace(trace / max(n, 1), mean, 0.0, 0.0)
    z = (trace - n * mean) / math.sqrt(spread / (n - 1))
    return InPlace(trace / n, mean, z, log10_tail(z, n))


def log10_tail(z: float, n: int) -> float:
    """log10 of the normal tail above `z`, never below log10(1 / n!): there are no more orders than that."""
    tail = torch.special.log_ndtr(torch.tensor(-z, dtype=torch.float64)).item() / math.log(10)
    return max(tail, -math.lgamma(n + 1) / math.log(10))


MOST_COLUMNS = 4096  # of gate, up and down together; beyond, a drawn part of them serves
_SEED = 15


def joined(mlp: Mlp, columns: Int[Tensor, " c"] | None = None) -> Float[Tensor, "ffn c"]:
    """What a hidden unit reads and writes as one row: gate, up and down, each of length 1, so that no rescaling of one shows."""
    parts = [part if columns is None else part[:, columns] for part in mlp]
    return torch.cat([unit_rows(part) for part in parts], dim=1)


def units_in_place(ours: View, theirs: View, progress: Progress = QUIET) -> Test:
    """Hidden units in place, block by block, combined by Fisher. With as many blocks in both, block i stands beside block i; else each
    block of MODEL beside all of REFERENCE's, the best taken times their number (Bonferroni). A block of experts counts for its best expert
    in the same way.

    The orders of two blocks' units are independent under the null, so Fisher's method holds.
    """
    title = "hidden units in place"
    sizes = ours.checkpoint.sizes, theirs.checkpoint.sizes
    if sizes[0].ffn != sizes[1].ffn:
        return Test(
            name="in_place", title=title, why_not=f"the blocks have {sizes[0].ffn:,} and {sizes[1].ffn:,} hidden units"
        )
    width = theirs.checkpoint.sizes.hidden
    columns = None
    if 3 * width > MOST_COLUMNS:
        columns = torch.randperm(width, generator=torch.Generator().manual_seed(_SEED))[: MOST_COLUMNS // 3]
    equal = ours.layers == theirs.layers
    found: list[tuple[int, float, InPlace]] = []
    progress.start("hidden units in place", ours.layers, "blocks")
    for layer in range(ours.layers):
        experts = range(ours.experts) if ours.experts else [None]
        tried = []
        for source in [layer] if equal else range(theirs.layers):
            for expert in experts:
                for other in range(theirs.experts) if theirs.experts else [None]:
                    a, b = ours.mlp(layer, expert), theirs.mlp(source, other)
                    tried.append((source, in_place(joined(a, columns), joined(b, columns))))
        source, best = min(tried, key=lambda pair: pair[1].log10_p)
        found.append((source, min(0.0, best.log10_p + math.log10(len(tried))), best))
        progress.update(layer + 1)
    progress.finish()
    log10_p = fisher([p for _, p, _ in found])
    return Test(
        name="in_place", title=title, null=NULL.format(what="hidden units"), exact=True, log10_p=log10_p, p_value=10**log10_p,
        statistic=sum(best.cosine for *_, best in found) / len(found), statistic_name="mean cosine of units in place",
        sampled="" if columns is None else f"{len(columns):,} of {width:,} columns of each matrix",
        details={"blocks": [[source, p] for source, p, _ in found], "by_chance": sum(b.expected for *_, b in found) / len(found)},
    )  # fmt: skip
