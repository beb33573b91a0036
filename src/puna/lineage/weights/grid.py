"""Whether a matrix was rounded to a few steps (quantised), and whether the matrix that it comes from explains it.

Comes in: W and W', of one shape and order. Goes out: a `Grid`, or None. Must never happen: a grid seen in numbers that any numbers would
have, or in W' as much as in W.

Formats share a scale among 16 to 128 numbers of a row, or a whole row. Two things show it, in a few groups drawn evenly:
* few levels: 4 bits leave at most 16 different numbers in a group, whatever the levels are (int4, NF4, with or without an offset, stored
  in any type); 8 bits 256 in a long row;
* even steps: all numbers of a group, or all less the least of them, are whole multiples of one step. The step is sought from the largest
  number (1 to 255 steps of it), refined by least squares, and believed where random numbers would pass in one of 10^5 groups or fewer: as
  W is stored in bf16 or fp16 its own rounding must be allowed for.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

WIDTHS = (16, 32, 64, 128)  # numbers that share one scale in the usual formats; a whole row besides
_GROUPS, _FIRST, _MOST_COLUMNS = 32, 6, 256
_MOST_STEPS, _MOST_BITS = 255, 8
_HIDDEN = -5.0  # log10 of the share of random groups that may pass
_ALL, _NONE = 0.9, 0.1  # of the groups of W, and of W'
_SLACK = 0.02  # of a step
# The share of a number that storing may move it: half a unit of the last of 8 and 11 binary digits, and fp32's own arithmetic.
_GRAINS = ((torch.bfloat16, 2.0**-8), (torch.float16, 2.0**-11))
_FINE = 2.0**-21


@dataclass(frozen=True)
class Grid:
    """`bits`: enough for the levels in use. `width`: numbers that share one scale. `explains`: W' put on this grid gives W, give or take
    one step, in 98 of 100 numbers."""

    bits: int
    width: int
    explains: bool


class _Fit(NamedTuple):
    fits: Bool[Tensor, " g"]
    step: Float[Tensor, " g"]
    levels: Float[Tensor, " g"]  # from the least to the largest number, in steps, and one


def find_grid(ours: Float[Tensor, "n m"], theirs: Float[Tensor, "n m"]) -> Grid | None:
    """The coarsest grid on which W lies and W' does not, with the widest groups."""
    found = []
    grain = grain_of(ours)
    for width in dict.fromkeys((*WIDTHS, ours.shape[1])):
        if width < WIDTHS[0] or ours.shape[1] % width:
            continue
        a, b = _drawn(ours, width), _drawn(theirs, width)
        grid = _even_steps(a, b, width, grain) or _few_levels(a, b, width)
        if grid is not None:
            found.append(grid)
    # Narrower groups lie on the grid of a wider one; several coarse grids in one group may pass for a finer one.
    return min(found, key=lambda grid: (grid.bits, -grid.width), default=None)


def grain_of(values: Tensor) -> float:
    """The share of a number by which storing may have moved it, by the coarsest type that holds the values as they are."""
    return next((grain for kind, grain in _GRAINS if torch.equal(values, values.to(kind).float())), _FINE)


def _drawn(matrix: Float[Tensor, "n m"], width: int) -> Float[Tensor, "g w"]:
    groups = matrix.reshape(-1, width)
    return groups[torch.linspace(0, len(groups) - 1, min(_GROUPS, len(groups))).long()]


def _few_levels(a: Float[Tensor, "g w"], b: Float[Tensor, "g w"], width: int) -> Grid | None:
    """Zeros do not count: a matrix that was thinned out holds many. Every level must come twice on average."""
    counts = []
    for ours, theirs in zip(a, b, strict=True):
        levels, others = (len(torch.unique(values[values != 0])) for values in (ours, theirs))
        if levels * 2 > int((ours != 0).sum()) or levels * 1.5 > others:
            return None
        counts.append(levels + 1)
    if not counts or max(counts) < 3:
        return None
    bits = math.ceil(math.log2(max(counts)) - 1e-9)
    return Grid(bits, width, _nearest_level(a, b)) if bits <= _MOST_BITS else None


def _nearest_level(a: Float[Tensor, "g w"], b: Float[Tensor, "g w"]) -> bool:
    """Whether each number of W is the level next to the number of W', or the one beside that (GPTQ moves some by a step)."""
    near = total = 0
    for ours, theirs in zip(a, b, strict=True):
        levels = torch.unique(ours)
        between = (levels[1:] + levels[:-1]) / 2
        apart = torch.bucketize(ours, between) - torch.bucketize(theirs.contiguous(), between)
        near, total = near + int((apart.abs() <= 1).sum()), total + apart.numel()
    return near >= 0.98 * total


def _even_steps(a: Float[Tensor, "g w"], b: Float[Tensor, "g w"], width: int, grain: float) -> Grid | None:
    """The coarser of two grids: one that holds zero, and one from the least number on. Few even levels off zero lie on a fine grid of the
    first kind as well."""
    found = []
    for offset in (False, True):
        if not bool(_fit(a[:_FIRST], offset, grain).fits.any()):
            continue
        ours = _fit(a, offset, grain)
        if float(ours.fits.float().mean()) < _ALL or float(_fit(b, offset, grain).fits.float().mean()) > _NONE:
            continue
        bits = math.ceil(math.log2(float(ours.levels[ours.fits].max())) - 1e-9)
        within = ((a - b).abs() <= 1.05 * ours.step[:, None])[ours.fits]
        if bits <= _MOST_BITS:
            found.append(Grid(max(1, bits), width, float(within.float().mean()) >= 0.98))
    return min(found, key=lambda grid: grid.bits, default=None)


def _fit(groups: Float[Tensor, "g w"], offset: bool, grain: float) -> _Fit:
    """The coarsest step of which a group's numbers, less the least where `offset`, are whole multiples."""
    low, high = groups.amin(dim=1, keepdim=True), groups.amax(dim=1, keepdim=True)
    if groups.shape[1] > _MOST_COLUMNS:  # some of a long row, and its extremes
        groups = torch.cat([groups[:, :: groups.shape[1] // _MOST_COLUMNS], low, high], dim=1)
    x = (groups - low if offset else groups)[:, None, :]  # [g, 1, w], beside every number of steps
    top = x.abs().amax(dim=2, keepdim=True)
    noise = grain * (groups.abs() + (low.abs() if offset else 0.0))[:, None, :]
    # Beyond 0.5 / grain steps the largest number's own rounding is half a step.
    steps = torch.arange(1, min(_MOST_STEPS, int(0.5 / grain)) + 1)[None, :, None]
    step = torch.where(top > 0, top, 1.0) / steps  # [g, s, 1]
    whole = (x / step).round()
    step = (x * whole).sum(2, keepdim=True) / whole.square().sum(2, keepdim=True).clamp(min=1.0)
    step = torch.where(step > 0, step, 1.0)
    at, allowed = x / step, (_SLACK + noise / step).clamp(max=0.5)
    # Zeros lie on every grid, and so does the number that the step was sought from.
    telling = (x != 0) & (groups != 0)[:, None, :] & (x.abs() < top)
    hidden = torch.where(telling, (2 * allowed).log10(), 0.0).sum(dim=2)
    fits = ((at - at.round()).abs() <= allowed).all(dim=2) & (hidden <= _HIDDEN)  # [g, s]
    first = fits.int().argmax(dim=1, keepdim=True)  # the coarsest
    best = step[..., 0].gather(1, first)[:, 0]
    return _Fit(fits.any(dim=1), best, ((high - low)[:, 0] / best).round() + 1)
