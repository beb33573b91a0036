"""What became of one tensor: how large the change is, and of which kind.

Comes in: a tensor of MODEL and the one it comes from, brought to one shape and order. Goes out: `Difference`. Must never happen: a kind
named that a part of the tensor only seems to have; large tensors are looked at in drawn rows, and `rows` says how many.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

_MOST_ROWS = 2048  # of a large matrix: spectra and grids of so many rows tell the kind
_SEED = 11
_RANK_ENERGY, _RANK_SHARE = (
    0.999,
    0.5,
)  # of the difference's squares; a rank counts as low up to this share of the smaller side
_GROUPS = (16, 32, 64, 128)  # columns that share one scale in the usual formats; a whole row besides


@dataclass(frozen=True)
class Difference:
    """`relative`: ||W - W'|| / ||W'||. `slope`: a of the least-squares W ~ a·W'. `changed`: share of entries that differ at all.

    `low_rank`: the least rank that holds 99.9 % of the difference's squares, None where that is more than half the smaller side.
    `flatness`: the difference's top singular value over that of white noise as large (Marchenko and Pastur 1967: sqrt(n) + sqrt(m)).
    `grid_bits`: 8 or 4 where W lies on so coarse a grid and W' does not; `grid_explains`: W is then W' rounded to it.
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
    zeros: float = 0.0
    zeros_explain: bool = False
    rows: int = 0


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
    changed = float((change != 0).float().mean())
    plain = Difference(relative, max(-1.0, min(1.0, cosine)), slope, changed)
    if not kind or ours.ndim != 2 or squares == 0 or min(ours.shape) < 4:
        return plain
    rows = min(len(ours), _MOST_ROWS)
    if rows < len(ours):
        drawn = torch.randperm(len(ours), generator=torch.Generator().manual_seed(_SEED))[:rows]
        ours, theirs, change = ours[drawn], theirs[drawn], change[drawn]
    low_rank, flatness = _spectrum(change)
    bits = _grid(ours, theirs)
    zeros = (ours == 0) & (theirs != 0)
    elsewhere = float(change[~zeros].abs().max()) if bool((~zeros).any()) else 0.0
    return Difference(
        relative, plain.cosine, slope, changed, low_rank=low_rank, flatness=flatness, kurtosis=_kurtosis(change), grid_bits=bits,
        grid_explains=bits is not None and _on_grid(change, ours, bits), zeros=float(zeros.float().mean()),
        zeros_explain=elsewhere <= 1e-6 * float(theirs.abs().max()), rows=rows,
    )  # fmt: skip


def _spectrum(change: Float[Tensor, "n m"]) -> tuple[int | None, float]:
    values = torch.linalg.svdvals(change).double()
    energy = values.square()
    total = float(energy.sum())
    rank = int((energy.cumsum(0) < _RANK_ENERGY * total).sum()) + 1
    n, m = change.shape
    white = math.sqrt(total / (n * m)) * (math.sqrt(n) + math.sqrt(m))
    return (rank if rank <= _RANK_SHARE * min(n, m) else None), float(values[0]) / white


def _kurtosis(change: Tensor) -> float:
    """Of the entries: 3 for a normal distribution."""
    flat = change.flatten().double()
    flat = flat - flat.mean()
    variance = float(flat.square().mean())
    return float(flat.pow(4).mean()) / variance**2 if variance > 0 else 0.0


def _grid(ours: Float[Tensor, "n m"], theirs: Float[Tensor, "n m"]) -> int | None:
    """The bits of the coarsest usual grid on which every drawn group of W lies and groups of W' do not."""
    for bits in (4, 8):
        for width in (*_GROUPS, ours.shape[1]):
            if ours.shape[1] % width or (2**bits >= 2 * width and bits == 8 and width < ours.shape[1]):
                continue
            groups = ours.reshape(-1, width)[:256]
            others = theirs.reshape(-1, width)[:256]
            if bool(_few_steps(groups, bits).all()) and float(_few_steps(others, bits).float().mean()) < 0.1:
                return bits
    return None


def _few_steps(groups: Float[Tensor, "g w"], bits: int) -> Tensor:
    """Which groups are whole multiples of one step, at most 2^(bits - 1) of it: the step is found from the largest entry."""
    top = groups.abs().amax(dim=1, keepdim=True)
    best = torch.zeros(len(groups), dtype=torch.bool)
    half = 2 ** (bits - 1)
    # The largest entry is some whole number of steps: half or half - 1 in the usual formats, fewer where a scale was searched for.
    for steps in range(half, max(half // 2, half - 40) - 1, -1):
        at = groups / torch.where(top > 0, top / steps, torch.ones_like(top))
        best |= ((at - at.round()).abs() < 0.01 + 0.004 * at.abs()).all(dim=1)
    return best


def _on_grid(change: Float[Tensor, "n m"], ours: Float[Tensor, "n m"], bits: int) -> bool:
    """Whether the change is no more than the rounding to such a grid: a step is the row's largest entry over 2^(bits - 1) or less."""
    step = ours.abs().amax(dim=1, keepdim=True) / (2 ** (bits - 1) - 1)
    return float((change.abs() <= 1.05 * step).float().mean()) > 0.99


def _dot(a: Tensor, b: Tensor) -> float:
    """The sum of products; rows in fp32, their sum in fp64."""
    if a.ndim < 2:
        return float((a.double() * b.double()).sum())
    return float(torch.einsum("nd,nd->n", a.flatten(0, -2), b.flatten(0, -2)).double().sum())
