"""What became of one tensor: how large the change is, and of which kind.

Comes in: a tensor of MODEL and the one it comes from, brought to one shape and order. Goes out: `Difference`. Must never happen: a kind
named that a part of the tensor only seems to have; large tensors are looked at in drawn rows, and `rows` says how many.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from puna.lineage.weights.grid import find_grid, grain_of

_MOST_ROWS = 2048  # of a large matrix: spectra and grids of so many rows tell the kind
_SEED = 11
_RANK_ENERGY = 0.999  # of the difference's squares
_RANK_SHARE = 0.5  # a rank counts as low up to this share of the smaller side
_EXACT = 512  # rows whose products are summed in fp64
# Of a difference that was stored in bf16 or fp16: how far it must be above the rounding, what the rounding may leave, and by how much its
# singular values may exceed those of even noise, as large numbers are rounded more than small ones; and the fall from the last that counts.
_ABOVE, _LEFT, _UNEVEN, _FALL = 4.0, 1.5, 1.1, 1.4


@dataclass(frozen=True)
class Difference:
    """`relative`: ||W - W'|| / ||W'||. `slope`: a of the least-squares W ~ a·W'. `changed`: share of entries that differ beyond the
    rounding of the type that W is held in; `rows_changed`: share of rows with such an entry.

    `low_rank`: the least rank that holds 99.9 % of the difference's squares, or all but what storing in bf16 or fp16 adds; None where
    that is more than half the smaller side. `flatness`: the difference's top singular value over that of white noise as large
    (Marchenko and Pastur 1967: sqrt(n) + sqrt(m)).
    `grid_bits`: where W lies on so coarse a grid and W' does not; `grid_explains`: W is then W' rounded to it; `grid_width`: the
    numbers that share a scale.
    `zeros`: share of W's exact zeros where W' has none; `zeros_explain`: elsewhere nothing changed.
    """

    relative: float
    cosine: float
    slope: float
    changed: float
    low_rank: int | None = None
    flatness: float | None = None
    kurtosis: float | None = None
    grid_bits: int | None = None
    grid_explains: bool = False
    grid_width: int | None = None
    zeros: float = 0.0
    zeros_explain: bool = False
    rows: int = 0
    rows_changed: float = 0.0


def measure(ours: Tensor, theirs: Tensor, *, kind: bool = True) -> Difference:
    """The difference of two tensors of one shape, fp32; without `kind`, its size alone. Raises `ValueError` where the shapes differ."""
    if ours.shape != theirs.shape:
        raise ValueError(f"a difference needs one shape, not {tuple(ours.shape)} and {tuple(theirs.shape)}")
    own, other, inner = _dot(ours, ours), _dot(theirs, theirs), _dot(ours, theirs)
    change = ours - theirs
    squares = _dot(change, change)
    relative = math.sqrt(squares / other) if other > 0 else float(own > 0)
    cosine = inner / math.sqrt(own * other) if own > 0 and other > 0 else 0.0
    slope = inner / other if other > 0 else 0.0
    grain = grain_of(ours)
    differs = change.abs() > grain * torch.maximum(ours.abs(), theirs.abs())
    plain = Difference(
        relative, max(-1.0, min(1.0, cosine)), slope, float(differs.float().mean()) if differs.numel() else 0.0,
        rows_changed=float(differs.any(dim=-1).float().mean()) if differs.ndim == 2 and differs.numel() else 0.0,
    )  # fmt: skip
    if not kind or ours.ndim != 2 or squares == 0 or min(ours.shape) < 4:
        return plain
    rows = min(len(ours), _MOST_ROWS)
    if rows < len(ours):
        drawn = torch.randperm(len(ours), generator=torch.Generator().manual_seed(_SEED))[:rows]
        ours, theirs, change = ours[drawn], theirs[drawn], change[drawn]
    low_rank, flatness = _spectrum(change, _rounding(ours, grain))
    grid = find_grid(ours, theirs)
    zeros = (ours == 0) & (theirs != 0)
    elsewhere = float(change[~zeros].abs().max()) if bool((~zeros).any()) else 0.0
    return Difference(
        relative, plain.cosine, slope, plain.changed, rows_changed=plain.rows_changed, low_rank=low_rank, flatness=flatness,
        kurtosis=_kurtosis(change), grid_bits=grid.bits if grid else None, grid_explains=grid is not None and grid.explains,
        grid_width=grid.width if grid else None, zeros=float(zeros.float().mean()),
        zeros_explain=elsewhere <= 1e-6 * float(theirs.abs().max()), rows=rows,
    )  # fmt: skip


def _spectrum(change: Float[Tensor, "n m"], rounding: float) -> tuple[int | None, float | None]:
    """(low rank, flatness). `rounding`: the squares that storing W has added to the difference.

    Singular values are the roots of the eigenvalues of the smaller Gram matrix: ten times faster than the decomposition itself, and as
    good for the large ones that are asked for here.
    """
    n, m = change.shape
    wide = change if n <= m else change.T
    exact = wide.double() if len(wide) <= _EXACT else wide
    energy = torch.linalg.eigvalsh(exact @ exact.T).double().flip(0).clamp(min=0)
    total = _dot(change, change)
    left = total - energy.cumsum(0)
    flatness = math.sqrt(float(energy[0])) / _edge(total, n, m) if total > 0 else None
    rank = int((left > (1 - _RANK_ENERGY) * total).sum()) + 1
    if rank > _RANK_SHARE * min(n, m) and total > _ABOVE * rounding > 0:
        # Above even noise of rounding there must be a fall: the spectrum of a training goes down into it step by step.
        values = energy.sqrt()
        falls = values[:-1] / values[1:].clamp(min=_UNEVEN * _edge(rounding, n, m))
        rank = int(falls.argmax()) + 1
        if float(falls[rank - 1]) < _FALL or float(left[rank - 1]) > _LEFT * rounding + (1 - _RANK_ENERGY) * total:
            return None, flatness
    return (rank if rank <= _RANK_SHARE * min(n, m) else None), flatness


def _edge(squares: float, n: int, m: int) -> float:
    """The top singular value of white noise of n rows and m columns whose squares add up to `squares`."""
    return math.sqrt(squares / (n * m)) * (math.sqrt(n) + math.sqrt(m))


def _rounding(ours: Tensor, grain: float) -> float:
    """The squares that rounding to the type W is held in adds: a twelfth of the squared unit of each number's last digit; 0 for fp32."""
    if grain < 2.0**-12:
        return 0.0
    _, exponent = torch.frexp(ours)
    return float((torch.ldexp(torch.full_like(ours, grain), exponent).square() / 12).double().sum())


def _kurtosis(change: Tensor) -> float:
    """Of the entries: 3 for a normal distribution."""
    flat = change.flatten().double()
    flat = flat - flat.mean()
    variance = float(flat.square().mean())
    return float(flat.pow(4).mean()) / variance**2 if variance > 0 else 0.0


def _dot(a: Tensor, b: Tensor) -> float:
    """The sum of products; rows in fp32, their sum in fp64."""
    if a.ndim < 2:
        return float((a.double() * b.double()).sum())
    return float(torch.einsum("nd,nd->n", a.flatten(0, -2), b.flatten(0, -2)).double().sum())
