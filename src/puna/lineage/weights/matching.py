"""Which row of one matrix is which row of another: by assignment, or by the nearest.

Comes in: rows. Goes out: indices. Must never happen: a matching that is helped by the order in which the rows stand. Rows of zeros (padding
up to a round width, units that were cut) are alike to all and would be matched in that order, so they are matched to none.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from scipy.optimize import linear_sum_assignment
from torch import Tensor

_CHUNK = 2048  # rows whose likeness to all others is held at once
_SEED = 1031


@dataclass(frozen=True)
class Effort:
    """How much is looked at: hidden units of a block, columns of each matrix. None: all."""

    units: int | None = None
    columns: int | None = None

    @classmethod
    def for_sizes(cls, hidden: int, ffn: int) -> "Effort":
        """Everything where an assignment takes well under a second, else a part that still tells (docs/lineage.md)."""
        return cls(units=None if ffn <= 1024 else 512, columns=None if hidden <= 1024 else 1024)


FULL = Effort()


def unit_rows(rows: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """Each row at length 1; rows of zeros stay."""
    norms = rows.norm(dim=1, keepdim=True)
    return rows / torch.where(norms > 0, norms, torch.ones_like(norms))


def match_rows(ours: Float[Tensor, "n d"], theirs: Float[Tensor, "m d"], *, lot: int = 0) -> ndarray:
    """For each row of `ours` its partner in `theirs`, no partner twice, the summed cosine as large as can be; -1 for rows of zeros and
    where n > m left none.

    Of rows that are as good as one another one is taken by lot; two matchings of the same rows take two lots.

    If each row's nearest is another one, no assignment sums to more, and that is the answer: copies take one product of matrices. Else
    the assignment problem, O(n³) in SciPy; 8 n m bytes, which SciPy copies once.
    """
    own, other = _drawn(ours, 2 * lot), _drawn(theirs, 2 * lot + 1)
    order = np.full(len(ours), -1)
    if not len(own) or not len(other):
        return order
    a, b = unit_rows(ours[own]), unit_rows(theirs[other])
    if len(a) > len(b):  # the smaller side chooses
        chosen = _assigned(b, a)
        order[own[chosen].numpy()] = other.numpy()
    else:
        order[own.numpy()] = other[_assigned(a, b)].numpy()
    return order


def nearest_rows(ours: Float[Tensor, "n d"], theirs: Float[Tensor, "m d"], *, ready: bool = False) -> ndarray:
    """For each row of `ours` the row of `theirs` with the largest cosine; one may be the nearest of several. -1 for rows of zeros.

    `ready`: all rows have one length already and none is zero; then nothing is copied, and of equals the first is taken.
    """
    if ready:
        return _nearest(ours, theirs).numpy()
    other = _drawn(theirs, 1)
    order = np.full(len(ours), -1)
    if len(other):
        found = other[_nearest(unit_rows(ours), unit_rows(theirs[other]))].numpy()
        order = np.where((ours != 0).any(dim=1).numpy(), found, -1)
    return order


def _drawn(rows: Float[Tensor, "n d"], side: int) -> Tensor:
    """The places of the rows that are not zero, in a drawn order: what is as good as another is taken by lot, not by place."""
    places = (rows != 0).any(dim=1).nonzero()[:, 0]
    return places[torch.randperm(len(places), generator=torch.Generator().manual_seed(_SEED + side))]


def _assigned(a: Float[Tensor, "n d"], b: Float[Tensor, "m d"]) -> Tensor:
    """The assignment of unit rows, n <= m: places in `b`."""
    nearest = _nearest(a, b)
    if len(torch.unique(nearest)) == len(a):
        return nearest
    costs = np.empty((len(a), len(b)))  # in SciPy's own type, so that it makes no copy to convert it
    for at in range(0, len(a), _CHUNK):
        costs[at : at + _CHUNK] = -(a[at : at + _CHUNK] @ b.T).numpy()
    return torch.as_tensor(linear_sum_assignment(costs)[1])


def _nearest(a: Float[Tensor, "n d"], b: Float[Tensor, "m d"]) -> Tensor:
    # NumPy's argmax along rows is ten times as fast as torch's on a CPU.
    found = [(a[at : at + _CHUNK] @ b.T).numpy().argmax(axis=1) for at in range(0, len(a), _CHUNK)]
    return torch.as_tensor(np.concatenate(found))
