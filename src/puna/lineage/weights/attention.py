"""Queries and keys in the common stream: a second opinion after AWM; and which head is which.

Comes in: two views in one stream. Goes out: a test, and the order of heads. Must never happen: heads matched across groups that share other
keys.

"Unbiased CKA of Q and K" is the statistic of AWM (arXiv 2510.06738, ICLR 2026): how alike two projections weigh the directions of the
stream, whatever their heads' order and whatever rotation inside them. AWM holds it against unrelated models; here the dimensions of one
stream are put in other orders, which leaves a stranger's value as it is.
"""

import math

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from puna.lineage.verdict import Test
from puna.lineage.weights.places import NULL, log10_tail
from puna.lineage.weights.view import Attention, View

TITLE = "queries and keys (unbiased CKA)"
_ORDERS, _MOST_LAYERS, _SEED = 64, 6, 2510


def attention_alike(ours: View, theirs: View, blocks: list[tuple[int, int]]) -> Test:
    """The mean unbiased CKA of Q and of K over (up to six of) `blocks`, against 64 other orders of the stream's dimensions; the p-value is
    that of a normal distribution with their mean and spread."""
    if not blocks:
        return Test(name="attention", title=TITLE, why_not="no block of one is beside a block of the other")
    step = max(1, len(blocks) // _MOST_LAYERS)
    values, others = [], []
    draw = torch.Generator().manual_seed(_SEED)
    for i, j in blocks[::step][:_MOST_LAYERS]:
        a, b = ours.attention(i), theirs.attention(j)
        for one, other in ((a.q, b.q), (a.k, b.k)):
            left, right = _kernel(one.flatten(0, 1)), _kernel(other.flatten(0, 1))
            norm = math.sqrt(_dot(left, left) * _dot(right, right))
            if norm <= 0:
                continue
            values.append(_dot(left, right) / norm)
            orders = (torch.randperm(len(left), generator=draw) for _ in range(_ORDERS))
            others.append([_dot(left, right[order][:, order]) / norm for order in orders])
    if not values:
        return Test(name="attention", title=TITLE, why_not="the projections are all zero")
    shuffled = np.asarray(others).mean(axis=0)
    z = float((np.mean(values) - shuffled.mean()) / max(shuffled.std(ddof=1), 1e-12))
    p = log10_tail(z, ours.checkpoint.sizes.hidden)
    return Test(
        name="attention", title=TITLE, null=NULL.format(what="stream dimensions"), log10_p=p, p_value=10**p, statistic=float(np.mean(values)),
        statistic_name="mean unbiased CKA", details={"z": z, "by_chance": float(shuffled.mean()), "orders": _ORDERS},
    )  # fmt: skip


def _kernel(rows: Float[Tensor, "n d"]) -> Float[Tensor, "d d"]:
    """Wᵀ·W with its diagonal taken out and centred without bias (Song et al. 2012, equation 3)."""
    kernel = rows.T @ rows
    d = len(kernel)
    kernel.fill_diagonal_(0)
    sums = kernel.sum(dim=1)
    kernel = kernel - (sums[:, None] + sums[None, :]) / (d - 2) + sums.sum() / ((d - 1) * (d - 2))
    kernel.fill_diagonal_(0)
    return kernel


def _dot(a: Tensor, b: Tensor) -> float:
    return float(torch.einsum("ij,ij->i", a, b).double().sum())


def match_heads(ours: Attention, theirs: Attention) -> tuple[ndarray, ndarray]:
    """(order of query heads, order of key-value heads): head h of `ours` is head order[h] of `theirs`.

    A query head is known by what it writes for what it reads, invariant under its own scale: the rows of o and v; key-value groups are
    matched first, then the query heads inside each. The order as it is, where no other is clearly better.
    """
    groups, other_groups = len(ours.k), len(theirs.k)
    a, b = _signature(ours.k, ours.v), _signature(theirs.k, theirs.v)
    kv = _order(a @ b.T)
    per, other_per = len(ours.q) // groups, len(theirs.q) // other_groups
    heads = np.full(len(ours.q), -1)
    for group, partner in enumerate(kv):
        if partner < 0:
            continue
        own, other = slice(group * per, (group + 1) * per), slice(partner * other_per, (partner + 1) * other_per)
        inner = _order(_signature(ours.q[own], ours.o[own]) @ _signature(theirs.q[other], theirs.o[other]).T)
        heads[own] = np.where(inner >= 0, inner + partner * other_per, -1)
    return heads, kv


def _signature(first: Float[Tensor, "h e d"], second: Float[Tensor, "h e d"]) -> Float[Tensor, "h f"]:
    """A head as one vector of length 1, each of its two parts at equal weight."""
    parts = [part.flatten(1) / part.flatten(1).norm(dim=1, keepdim=True).clamp(min=1e-30) for part in (first, second)]
    return torch.cat(parts, dim=1) / math.sqrt(2)


def _order(alike: Float[Tensor, "n m"]) -> ndarray:
    rows, columns = linear_sum_assignment(alike.numpy(), maximize=True)
    order = np.full(alike.shape[0], -1)
    order[rows] = columns
    if alike.shape[0] == alike.shape[1] and float(alike.diagonal().mean()) >= float(alike[rows, columns].mean()) - 0.05:
        return np.arange(len(order))
    return order
