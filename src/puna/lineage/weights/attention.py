"""Queries and keys in the common stream: a second opinion after AWM; and which head is which.

Comes in: two views in one stream. Goes out: a test, and the order of heads. Must never happen: heads matched across groups that share other
keys; a spread taken for chance that is too narrow, because what many layers have in common was drawn anew for each.

"Unbiased CKA of Q and K" is the statistic of AWM (arXiv 2510.06738, ICLR 2026): how alike two projections weigh the directions of the
stream, whatever their heads' order and whatever rotation inside them. (AWM first assigns the stream's dimensions, with signs, by the
embeddings of shared tokens: that is `stream.find_stream`, and the views hold its result.) AWM's z is against unrelated models. Here the
null is that any relative order of the two streams' dimensions is as likely, one order for all layers. With the kernels centred without
bias, rows and columns sum to zero, and the moments over all n! orders are known: E T = 0 and, a_kl and b_kl being the CKA of kernels
k and l inside the one model and inside the other,

    Var T = 2 / (n(n-3)) · mean over k, l of a_kl·b_kl

(Mantel 1967, for matrices whose rows sum to zero). A few strong directions make T lean to the right; how far is seen in drawn
orders, and the tail is that of Pearson's type III (a shifted gamma) with these three moments.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from scipy.optimize import linear_sum_assignment
from scipy.stats import gamma
from torch import Tensor

from puna.lineage.verdict import Test
from puna.lineage.weights.places import NULL
from puna.lineage.weights.view import Attention, View

TITLE = "queries and keys (unbiased CKA)"
_MOST_DIMENSIONS = 1024  # of the stream: a kernel of so many takes 4 MB, and drawn ones are as exchangeable as all
_MOST_LAYERS, _ORDERS, _SEED = 8, 200, 2510
_LEAST_SKEW = 0.05  # a gamma as good as normal


def attention_alike(ours: View, theirs: View, blocks: Sequence[tuple[int, int]]) -> Test:
    """The mean unbiased CKA of Q and of K over (up to eight of) the pairs (block of MODEL, block of REFERENCE) in one stream.

    The p-value is not exact: its first two moments are, its shape is drawn. Where the stream had to be fitted (permuted, rotated), the
    order of its dimensions was chosen by the embeddings, and the null holds only as far as these know nothing of queries and keys.
    """
    name = "attention"
    if not blocks:
        return Test(name=name, title=TITLE, why_not="no block of one is beside a block of the other")
    width = theirs.checkpoint.sizes.hidden
    if width < 8:
        return Test(name=name, title=TITLE, why_not=f"a stream of {width} dimensions has too few orders")
    draw = torch.Generator().manual_seed(_SEED)
    drawn = torch.randperm(width, generator=draw)[:_MOST_DIMENSIONS] if width > _MOST_DIMENSIONS else None
    chosen = _spaced(blocks)
    left, right, told = [], [], []
    for i, j in chosen:
        a, b = ours.attention(i), theirs.attention(j)
        for kind, one, other in (("q", a.q, b.q), ("k", a.k, b.k)):
            first, second = _kernel(one, drawn), _kernel(other, drawn)
            if first is not None and second is not None:
                left.append(first)
                right.append(second)
                told.append([i, j, kind, float((first * second).sum())])
    if not left:
        return Test(name=name, title=TITLE, why_not="the projections are all zero, or read all of the stream alike")
    statistic, sd, skew = _moments(torch.stack(left), torch.stack(right), draw)
    z = statistic / sd
    p = _log10_gamma_tail(z, skew, len(left[0]))
    return Test(
        name=name, title=TITLE, null=NULL.format(what="stream dimensions"), log10_p=p, p_value=10**p, statistic=statistic,
        statistic_name=f"mean unbiased CKA of Q and K over {len(chosen)} pairs of blocks",
        sampled="" if drawn is None and len(chosen) == len(blocks)
        else f"{len(chosen)} of {len(blocks)} blocks, {len(left[0]):,} of {width:,} dimensions",
        details={"z": z, "by_chance_sd": sd, "skew": skew, "stream": ours.basis.name, "cka": told},
    )  # fmt: skip


def _spaced(blocks: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Up to eight of them, from the first to the last."""
    at = np.linspace(0, len(blocks) - 1, min(len(blocks), _MOST_LAYERS)).round().astype(int)
    return [blocks[i] for i in dict.fromkeys(at.tolist())]


def _kernel(heads: Float[Tensor, "h e d"], drawn: Tensor | None) -> Float[Tensor, "d d"] | None:
    """Wᵀ·W with its diagonal taken out and centred without bias (Song et al. 2012, equation 3), at length 1; None where nothing is left.

    Rows and columns sum to zero, so that the sum of products of two such kernels is their unbiased CKA.
    """
    rows = heads.flatten(0, 1)
    rows = rows if drawn is None else rows[:, drawn]
    kernel = rows.T @ rows
    d = len(kernel)
    whole = float(kernel.norm())
    kernel.fill_diagonal_(0)
    sums = kernel.sum(dim=1)
    kernel = kernel - (sums[:, None] + sums[None, :]) / (d - 2) + sums.sum() / ((d - 1) * (d - 2))
    kernel.fill_diagonal_(0)
    norm = float(kernel.norm())
    return kernel / norm if norm > 1e-5 * whole else None


def _moments(
    left: Float[Tensor, "m d d"], right: Float[Tensor, "m d d"], draw: torch.Generator
) -> tuple[float, float, float]:
    """(mean CKA as it is, its standard deviation over all orders of the dimensions, its skewness over drawn ones)."""
    m, n = left.shape[0], left.shape[1]
    a, b = left.flatten(1), right.flatten(1)
    sd = math.sqrt(2 / (n * (n - 3)) * float(((a @ a.T) * (b @ b.T)).double().mean()))
    seen = []
    for _ in range(_ORDERS):
        order = torch.randperm(n, generator=draw)
        seen.append(float((left * right[:, order][:, :, order]).sum()) / m)
    skew = float(np.mean((np.asarray(seen) / sd) ** 3))
    return float((a * b).sum()) / m, sd, max(skew, _LEAST_SKEW)


def _log10_gamma_tail(z: float, skew: float, n: int) -> float:
    """log10 P(Z >= z) of a gamma variable with mean 0, spread 1 and this skewness (Pearson's type III); never below 1 / n!."""
    shape = 4 / skew**2
    at = shape + z * math.sqrt(shape)
    least = -math.lgamma(n + 1) / math.log(10)
    if at <= 0:
        return 0.0
    tail = float(gamma.sf(at, shape))
    if tail > 1e-290:
        return max(least, math.log10(tail))
    # Far out the upper incomplete gamma function is x^(k-1)·e^(-x) / (1 - (k-1)/x) (its continued fraction's first step).
    log = (shape - 1) * math.log(at) - at - math.lgamma(shape) - math.log1p(-(shape - 1) / at)
    return max(least, log / math.log(10))


# Which head is which

_KNOWN = 0.3  # mean likeness of heads' rows from which they are believed to be the same rows; strangers' are under 0.1
_CLEARER = 0.05  # what another order must win over the one that stands
_INSIDE = 512  # columns that a rotation inside the heads is looked at in: it does not mix columns


def match_heads(ours: Attention, theirs: Attention) -> tuple[ndarray, ndarray]:
    """(order of query heads, order of key-value heads): head h of `ours` is head order[h] of `theirs`, -1 where none was left for it.

    A query head is known by its rows of q and o, a key-value head by those of k and v, each part at its own scale (q·s with k/s is the
    same head). Key-value groups are matched first, then the query heads inside each. Where no rows are alike, heads may have been turned
    inside (v by any matrix, o by its inverse): then by what no rotation inside a head changes, q_hᵀ·q_h and its like. The order as it
    is, where no other is clearly better.
    """
    alike = _by_rows if ours.q.shape[1] == theirs.q.shape[1] else _by_kernels
    heads, kv, likeness = _matched(ours, theirs, alike)
    if likeness < _KNOWN and alike is _by_rows:
        heads, kv, _ = _matched(ours, theirs, _by_kernels)
    return heads, kv


def _matched(ours: Attention, theirs: Attention, alike) -> tuple[ndarray, ndarray, float]:  # type: ignore[no-untyped-def]
    groups, other_groups = len(ours.k), len(theirs.k)
    kv = _order(alike((ours.k, ours.v), (theirs.k, theirs.v)))
    per, other_per = len(ours.q) // groups, len(theirs.q) // other_groups
    between = alike((ours.q, ours.o), (theirs.q, theirs.o))
    heads = np.full(len(ours.q), -1)
    for group, partner in enumerate(kv):
        if partner < 0:
            continue
        own, other = slice(group * per, (group + 1) * per), slice(partner * other_per, (partner + 1) * other_per)
        inner = _order(between[own, other])
        heads[own] = np.where(inner >= 0, inner + partner * other_per, -1)
    known = heads >= 0
    likeness = (
        float(between[torch.as_tensor(np.flatnonzero(known)), torch.as_tensor(heads[known])].mean())
        if known.any()
        else 0.0
    )
    return heads, kv, likeness


Parts = tuple[Float[Tensor, "h e d"], Float[Tensor, "h e d"]]


def _by_rows(ours: Parts, theirs: Parts) -> Float[Tensor, "n m"]:
    """The mean over both parts of the |cosine| of heads as they are: a head may have changed its sign."""
    found = [_unit(a.flatten(1)) @ _unit(b.flatten(1)).T for a, b in zip(ours, theirs, strict=True)]
    return (found[0].abs() + found[1].abs()) / 2


def _by_kernels(ours: Parts, theirs: Parts) -> Float[Tensor, "n m"]:
    """The mean over both parts of the cosine of heads' kernels: <aᵀa, bᵀb> = ||a·bᵀ||²."""
    step = max(1, ours[0].shape[2] // _INSIDE)
    found = []
    for a, b in zip(ours, theirs, strict=True):
        a, b = a[:, :, ::step], b[:, :, ::step]
        products = torch.einsum("hed,gfd->hgef", a, b).square().sum(dim=(2, 3))
        own, other = (torch.einsum("hed,hfd->hef", one, one).flatten(1).norm(dim=1) for one in (a, b))
        found.append(products / (own[:, None] * other[None, :]).clamp(min=1e-30))
    return (found[0] + found[1]) / 2


def _unit(rows: Float[Tensor, "h f"]) -> Float[Tensor, "h f"]:
    return rows / rows.norm(dim=1, keepdim=True).clamp(min=1e-30)


def _order(alike: Float[Tensor, "n m"]) -> ndarray:
    rows, columns = linear_sum_assignment(alike.numpy(), maximize=True)
    order = np.full(alike.shape[0], -1)
    order[rows] = columns
    best, plain = float(alike[rows, columns].mean()), float(alike.diagonal().mean())
    return np.arange(len(order)) if alike.shape[0] == alike.shape[1] and plain >= best - _CLEARER else order
