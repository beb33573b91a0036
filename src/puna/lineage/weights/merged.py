"""How much of each of several parents a model holds: W = sum of c_k · W_k, in place.

Comes in: a model and references of the same shapes. Goes out: coefficients with 95 % intervals, and how much they explain together.
Must never happen: an interval that takes the millions of weights of a tensor for millions of witnesses.

Least squares over all matrices at once; every tensor gives its own normal equations. The interval comes from drawing tensors anew
(bootstrap over tensors: within one, the weights share what happened to it).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from puna.lineage.verdict import Coefficient
from puna.lineage.weights.reading import Checkpoint

_DRAWS = 1000
_MATRICES = ("embed", "q", "k", "v", "o", "gate", "up", "down", "head")


@dataclass(frozen=True)
class Mixture:
    """`explained`: the share of MODEL's squares that the sum explains; `alone`: of each reference by itself."""

    coefficients: tuple[Coefficient, ...]
    explained: float
    alone: tuple[float, ...]
    tensors: int


def mixture(model: Checkpoint, references: Sequence[tuple[str, Checkpoint]]) -> Mixture | None:
    """The coefficients of `references` in `model`; None where no matrix has the same shape in all of them."""
    grams, products, squares = [], [], []
    for role in model.roles:
        if role.kind not in _MATRICES or not all(role in reference.roles for _, reference in references):
            continue
        ours = model.read(*role)
        theirs = [reference.read(*role) for _, reference in references]
        if any(other.shape != ours.shape for other in theirs) or not all(
            torch.isfinite(t).all() for t in (ours, *theirs)
        ):
            continue
        grams.append(torch.tensor([[_dot(a, b) for b in theirs] for a in theirs], dtype=torch.float64))
        products.append(torch.tensor([_dot(ours, a) for a in theirs], dtype=torch.float64))
        squares.append(_dot(ours, ours))
    if not grams:
        return None
    gram, product, square = torch.stack(grams), torch.stack(products), torch.tensor(squares, dtype=torch.float64)
    weights = torch.ones(1, len(gram), dtype=torch.float64)
    found = _solve(weights, gram, product)[0]
    draws = torch.randint(len(gram), (_DRAWS, len(gram)), generator=torch.Generator().manual_seed(0))
    counts = torch.zeros(_DRAWS, len(gram), dtype=torch.float64).scatter_add_(
        1, draws, torch.ones_like(draws, dtype=torch.float64)
    )
    spread = _solve(counts, gram, product)
    low, high = torch.quantile(spread, torch.tensor([0.025, 0.975], dtype=torch.float64), dim=0)
    whole = gram.sum(0)
    explained = float((2 * found @ product.sum(0) - found @ whole @ found) / square.sum().clamp(min=1e-300))
    alone = tuple(
        float(p.clamp(min=0) ** 2 / (g * square.sum()).clamp(min=1e-300))
        for p, g in zip(product.sum(0), whole.diagonal(), strict=True)
    )
    coefficients = tuple(
        Coefficient(reference=name, value=float(c), low=float(a), high=float(b))
        for (name, _), c, a, b in zip(references, found, low, high, strict=True)
    )
    return Mixture(coefficients, explained, alone, len(gram))


def _solve(
    counts: Float[Tensor, "s t"], gram: Float[Tensor, "t k k"], product: Float[Tensor, "t k"]
) -> Float[Tensor, "s k"]:
    """The least-squares coefficients for each row of tensor weights; equal references share theirs (least norm)."""
    left = torch.einsum("st,tij->sij", counts, gram)
    right = counts @ product
    return torch.linalg.lstsq(left, right.unsqueeze(-1), driver="gelsd").solution.squeeze(-1)


def _dot(a: Tensor, b: Tensor) -> float:
    return float(torch.einsum("i,i->", a.flatten(), b.flatten()))
