"""The residual stream of two models: is it one and the same, in another order, turned, cut, or a stranger's?

Comes in: two views and the tokens that both vocabularies have. Goes out: the `Basis` in which MODEL is to be looked at, and the exact
test of the stream's dimensions. Must never happen: a basis fitted so closely that strangers look alike in it.

Each dimension of the stream is a column of the embedding: a list of numbers, one a token. Their order means nothing in a model that was
trained from its own random start, so columns that are alike *in place* show a common descent, whatever was done to the layers
(`places.py`). Where they are not, a copy may hide behind another order or a rotation of the stream (RMSNorm does not see one once its
gains are folded): these are fitted on one half of the tokens and believed only if they explain the other half.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from puna.lineage.verdict import Test
from puna.lineage.weights.places import NULL, in_place
from puna.lineage.weights.statistics import spearman
from puna.lineage.weights.view import SAME, Basis, View

MOST_TOKENS = 4096  # drawn from the shared ones; enough to tell 8,192 columns apart
LAP_AT_MOST = 2048  # columns; above, the nearest column stands for the assignment
EXPLAINS = 0.5  # of the held-out half of the tokens: strangers trained on the same text stay under it (docs/lineage.md)
CLEARER = 0.15  # what a fitted basis must explain beyond the plain one
_SEED = 20231106


@dataclass(frozen=True)
class Stream:
    """`basis`: None where no relation between the two streams is known, so that what needs one cannot run. `explains`: R² held out."""

    basis: Basis | None
    test: Test
    explains: float | None = None
    tokens: int = 0


def find_stream(ours: View, theirs: View, tokens: Int[Tensor, "n 2"]) -> Stream:
    """The relation between two streams, from the embeddings of `tokens` (pairs of ids that mean the same bytes)."""
    title = "dimensions of the stream in place"
    sizes = ours.checkpoint.sizes, theirs.checkpoint.sizes
    same_width = sizes[0].hidden == sizes[1].hidden
    if len(tokens) < 64:
        why = f"the vocabularies share {len(tokens)} entries, too few to compare columns"
        return Stream(SAME if same_width else None, Test(name="stream", title=title, why_not=why))
    chosen = tokens[torch.randperm(len(tokens), generator=torch.Generator().manual_seed(_SEED))[:MOST_TOKENS]]
    a, b = ours.embed_rows(chosen[:, 0]), theirs.embed_rows(chosen[:, 1])
    a, b = _centred(a), _centred(b)
    half = len(chosen) // 2
    if same_width:
        found = in_place(a.T.contiguous(), b.T.contiguous())
        test = Test(
            name="stream", title=title, null=NULL.format(what="stream dimensions"), exact=True, log10_p=found.log10_p,
            p_value=10**found.log10_p, statistic=found.cosine, statistic_name="mean correlation of columns in place",
            details={"z": found.z, "by_chance": found.expected, "tokens": len(chosen)},
        )  # fmt: skip
    else:
        test = _ordered_test(a, b, title)
    plain = _explained(a[half:], b[half:]) if same_width else 0.0
    if same_width and (plain > EXPLAINS or (test.log10_p or 0.0) < -12):
        return Stream(SAME, test, plain, len(chosen))
    basis, explained = _best_fit(a, b, half)
    if basis is not None and explained > max(EXPLAINS, plain + CLEARER):
        return Stream(basis, test, explained, len(chosen))
    return Stream(SAME if same_width else None, test, plain if same_width else explained, len(chosen))


def _best_fit(a: Float[Tensor, "t m"], b: Float[Tensor, "t r"], half: int) -> tuple[Basis | None, float]:
    """Another order, or a rotation, fitted on the first half of the tokens; R² on the second."""
    matrix, name = _assigned(a[:half], b[:half])
    explained = _explained(a[half:] @ matrix, b[half:])
    best, best_name = matrix, name
    if a.shape[1] == b.shape[1] and explained < 0.9 and half >= a.shape[1]:
        left, _, right = torch.linalg.svd(a[:half].T @ b[:half])
        turned = left @ right  # orthogonal Procrustes (Schönemann 1966)
        by_turning = _explained(a[half:] @ turned, b[half:])
        if by_turning > explained + CLEARER:
            explained, best, best_name = by_turning, turned, "stream rotated"
    return Basis(matrix=best, name=best_name), explained


def _assigned(a: Float[Tensor, "t m"], b: Float[Tensor, "t r"]) -> tuple[Float[Tensor, "m r"], str]:
    """The one-to-one matching of columns by |correlation|, with signs, as a matrix."""
    alike = _unit(a).T @ _unit(b)
    if max(alike.shape) <= LAP_AT_MOST:
        rows, columns = linear_sum_assignment(-alike.abs().double().numpy())
    else:
        rows, columns = np.arange(alike.shape[0]), alike.abs().argmax(dim=1).numpy()
    rows, columns = torch.as_tensor(rows), torch.as_tensor(columns)
    signs = alike[rows, columns].sign()
    matrix = torch.zeros_like(alike)
    matrix[rows, columns] = signs
    words = "stream permuted" if alike.shape[0] == alike.shape[1] else "stream cut"
    return matrix, words + (", signs turned" if (signs < 0).float().mean() > 0.2 else "")


def _ordered_test(a: Float[Tensor, "t m"], b: Float[Tensor, "t r"], title: str) -> Test:
    """Streams of two widths: do the matched columns keep their order, as they do when a model is cut? Exact as well: any
    injection would be as likely."""
    matrix, _ = _assigned(a, b)
    wide = matrix.shape[0] < matrix.shape[1]
    order = (matrix if wide else matrix.T).abs().argmax(dim=1).numpy()
    rho, log10_p = spearman(order)
    return Test(
        name="stream", title=title, null=NULL.format(what="stream dimensions"), exact=True, log10_p=log10_p, p_value=10**log10_p,
        statistic=rho, statistic_name="rank correlation of matched columns", details={"widths": list(matrix.shape)},
    )  # fmt: skip


def _explained(a: Float[Tensor, "t d"], b: Float[Tensor, "t d"]) -> float:
    """The share of b's squares that c·a explains, c the best number: the squared cosine of the two."""
    product, norms = (a * b).sum().double(), a.double().square().sum() * b.double().square().sum()
    return float(product.clamp(min=0).square() / norms) if norms > 0 else 0.0


def _centred(rows: Float[Tensor, "t d"]) -> Float[Tensor, "t d"]:
    """Without the mean row: it is what all tokens share, and strangers' could be alike in size."""
    return rows - rows.mean(dim=0, keepdim=True)


def _unit(columns: Float[Tensor, "t d"]) -> Float[Tensor, "t d"]:
    norms = columns.norm(dim=0, keepdim=True)
    return columns / torch.where(norms > 0, norms, torch.ones_like(norms))
