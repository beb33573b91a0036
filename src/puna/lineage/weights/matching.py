"""Which row of one matrix is which row of another: by assignment, or by the nearest.

Comes in: rows. Goes out: indices. Must never happen: an n-by-n table larger than `effort` allows.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from scipy.optimize import linear_sum_assignment
from torch import Tensor

_CHUNK = 2048  # rows whose likeness to all others is held at once


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


def match_rows(ours: Float[Tensor, "n d"], theirs: Float[Tensor, "m d"]) -> ndarray:
    """For each row of `ours` its partner in `theirs`, no partner twice, the summed cosine as large as can be; -1 where n > m left none.

    The assignment problem, O(n³) in SciPy.
    """
    alike = unit_rows(ours) @ unit_rows(theirs).T
    rows, columns = linear_sum_assignment(alike.numpy(), maximize=True)
    order = np.full(len(ours), -1)
    order[rows] = columns
    return order


def nearest_rows(ours: Float[Tensor, "n d"], theirs: Float[Tensor, "m d"]) -> ndarray:
    """For each row of `ours` the row of `theirs` with the largest cosine; one may be the nearest of several."""
    target = unit_rows(theirs).T.contiguous()
    found = [(unit_rows(ours[at : at + _CHUNK]) @ target).argmax(dim=1) for at in range(0, len(ours), _CHUNK)]
    return torch.cat(found).numpy()
