"""MODEL's tensors beside those of REFERENCE that they come from, with everything undone that changes no function.

Comes in: two views, which block comes from which, the order of units and heads. Goes out: pairs of tensors of one shape, one pair at a
time, and what had to be undone. Must never happen: a difference that is only another order, or a likeness made by the undoing.

Undone are: another order of hidden units, of heads, of the stream; a rotated stream; folded norm gains; scales of rows. What was not
needed is not done: a plain copy is compared number by number, as it is stored.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from puna.lineage.weights.reading import Role
from puna.lineage.weights.view import View

_MOST_TOKENS, _SEED = 8192, 13
_CLEARLY = 0.7  # an undoing is kept where it leaves less than this share of the difference
_ALIKE = (
    0.5  # and where a scale is undone, what is left must be the lesser part: shrinking anything makes it differ less
)


@dataclass(frozen=True)
class Origin:
    """Where the blocks of MODEL come from, and in which order their parts stand. Keys are (block, expert or None) and block."""

    sources: Sequence[int | None]
    units: Mapping[tuple[int, int | None], np.ndarray] = field(
        default_factory=dict
    )  # unit i of MODEL is unit order[i] of the source
    heads: Mapping[int, np.ndarray] = field(
        default_factory=dict
    )  # query head i of MODEL is head order[i] of the source
    kv_heads: Mapping[int, np.ndarray] = field(default_factory=dict)
    tokens: Float[Tensor, "n 2"] | None = None  # shared ids; None: the vocabularies are one and the same


@dataclass(frozen=True)
class Pair:
    """`ours` and `theirs` have one shape, rows being units, heads' dimensions or tokens. `undone`: in words."""

    role: Role
    name: str
    reference: str
    ours: Tensor
    theirs: Tensor
    undone: tuple[str, ...]
    parameters: int


def pairs(ours: View, theirs: View, origin: Origin) -> Iterator[Pair]:
    """Every tensor of MODEL that has a partner, in the file's order of blocks."""
    for role, source in ours.checkpoint.roles.items():
        partner = _partner(role, theirs, origin)
        if partner is None:
            continue
        found = _pair(ours, theirs, role, partner, origin)
        if found is None or not all(math.isfinite(float(one.sum())) for one in found[:2]):
            continue  # a NaN in it was told already (`reading.unsound`)
        a, b, undone = found
        parameters = int(np.prod(ours.checkpoint.stored[source.name].shape))
        if source.rows is not None:
            parameters = parameters // ours.checkpoint.stored[source.name].shape[0] * (source.rows[1] - source.rows[0])
        name = theirs.checkpoint.roles.get(partner)
        yield Pair(role, source.name, name.name if name else "", a, b, undone, parameters)


def _partner(role: Role, theirs: View, origin: Origin) -> Role | None:
    """The role in REFERENCE: of the source block, and of the one MLP where only MODEL has experts."""
    layer = role.layer
    if layer is not None:
        layer = origin.sources[layer] if layer < len(origin.sources) else None
        if layer is None:
            return None
    expert = role.expert if theirs.experts else None
    partner = Role(role.kind, layer, expert)
    checkpoint = theirs.checkpoint
    if partner in checkpoint.roles or (role.kind == "head" and checkpoint.sizes.tied and checkpoint.has("embed")):
        return partner
    return None


def _pair(
    ours: View, theirs: View, role: Role, partner: Role, origin: Origin
) -> tuple[Tensor, Tensor, tuple[str, ...]] | None:
    plain = ours.basis.matrix is None and ours.basis.order is None
    raw = _ordered(_rows(ours, role, folded=False), _rows(theirs, partner, folded=False), role, origin)
    words = [raw[2]] if raw[2] else []
    if plain and raw[0].shape == raw[1].shape:
        best = (raw[0], raw[1], tuple(words))
        best = _rescaled(*best)
        if role.kind.endswith("norm") or _difference(best[0], best[1]) < 1e-3:
            return best
        folded = _ordered(_rows(ours, role, folded=True), _rows(theirs, partner, folded=True), role, origin)
        other = _rescaled(folded[0], folded[1], (*words, "gains folded"))
        return other if _difference(other[0], other[1]) < _CLEARLY * _difference(best[0], best[1]) else best
    if role.kind.endswith("norm") or raw[0].ndim == 1:
        return None  # in another basis a gain is part of the matrices behind it
    a, b, _ = _ordered(_rows(ours, role, folded=True), _rows(theirs, partner, folded=True), role, origin)
    kept = torch.ones(b.shape[1], dtype=torch.bool)
    if ours.basis.matrix is not None:
        kept = ours.basis.matrix.abs().sum(dim=0) > 0
    elif ours.basis.order is not None:
        kept = ours.basis.order >= 0
    a, b = ours.basis.apply(a)[:, kept], b[:, kept]
    if a.shape != b.shape:
        return None
    return _rescaled(a, b, (*words, ours.basis.name))


def _rows(view: View, role: Role, *, folded: bool) -> Tensor:
    """The tensor with the stream along its columns (down and o are turned); `folded`: times the gain in front of it, in MODEL's own stream."""
    checkpoint = view.checkpoint
    tensor = checkpoint.read(role.kind, role.layer, role.expert)
    if tensor.ndim == 2 and role.kind in ("down", "o"):
        tensor = tensor.T
    if folded and tensor.ndim == 2:
        gain = {"gate": "mlp_norm", "up": "mlp_norm", "router": "mlp_norm", "q": "attn_norm", "k": "attn_norm", "v": "attn_norm",
                "head": "norm"}.get(role.kind)  # fmt: skip
        layer = None if gain == "norm" else role.layer
        if gain and checkpoint.has(gain, layer):
            tensor = tensor * checkpoint.read(gain, layer)
    return tensor


def _ordered(ours: Tensor, theirs: Tensor, role: Role, origin: Origin) -> tuple[Tensor, Tensor, str]:
    """REFERENCE's rows in MODEL's order; tokens that only one of them has are left out."""
    order, word = None, ""
    if role.kind in ("embed", "head"):
        if origin.tokens is not None:
            ids = origin.tokens.long()
            ids = ids[(ids[:, 0] < len(ours)) & (ids[:, 1] < len(theirs))]
            word = "" if len(ids) == len(ours) else "shared tokens only"
            ids = ids[_drawn(len(ids))]
            return ours[ids[:, 0]], theirs[ids[:, 1]], word
        n = min(len(ours), len(theirs))  # a vocabulary padded to another multiple
        return ours[:n][_drawn(n)], theirs[:n][_drawn(n)], ""
    if role.kind in ("gate", "up", "down") and role.layer is not None:
        order, word = origin.units.get((role.layer, role.expert)), "units permuted"
    elif role.kind in ("q", "k", "v", "o") and role.layer is not None:
        heads = (origin.heads if role.kind in ("q", "o") else origin.kv_heads).get(role.layer)
        if heads is not None and len(ours) % len(heads) == 0:
            width = len(ours) // len(heads)
            order = (np.asarray(heads)[:, None] * width + np.arange(width)[None, :]).reshape(-1)
            word = "heads permuted"
    if order is None:
        return ours, theirs, ""
    order = np.asarray(order)
    if len(order) != len(ours) or order.min() < 0 or order.max() >= len(theirs):
        return ours, theirs, ""
    same_length = len(ours) == len(theirs)
    if same_length and np.array_equal(order, np.arange(len(order))):
        return ours, theirs, ""
    rising = bool(np.all(np.diff(order) > 0))
    return ours, theirs[torch.as_tensor(order)], ("part of the units" if rising and word.startswith("units") else
                                                 "part of the heads" if rising else word)  # fmt: skip


def _drawn(rows: int) -> Tensor:
    """All rows of a vocabulary, or 8,192 of a large one: copies of a whole one of 128,000 tokens would not fit beside one another."""
    if rows <= _MOST_TOKENS:
        return torch.arange(rows)
    return torch.randperm(rows, generator=torch.Generator().manual_seed(_SEED))[:_MOST_TOKENS].sort().values


def _rescaled(ours: Tensor, theirs: Tensor, undone: tuple[str, ...]) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """`ours` brought to the scale of `theirs`: by one number, or by one a row, where that explains most of the difference."""
    if ours.ndim != 2:
        return ours, theirs, undone
    before = _difference(ours, theirs)
    if before < 1e-3:
        return ours, theirs, undone
    inner, own = (ours * theirs).sum(dim=1).double(), ours.square().sum(dim=1).double()
    scale = float(inner.sum() / own.sum()) if own.sum() > 0 else 1.0
    each = torch.where(own > 0, inner / own, torch.ones_like(own))
    by_row = ours * each[:, None].float()
    by_one, by_each = _difference(ours * scale, theirs), _difference(by_row, theirs)
    if by_each < 0.5 * by_one and by_each < _CLEARLY * before and by_each < _ALIKE:
        return by_row, theirs, (*undone, "rows rescaled")
    if scale and abs(scale - 1) > 0.02 and by_one < 0.5 * before and by_one < _ALIKE:
        return ours * scale, theirs, (*undone, f"times {1 / scale:.4g}")
    return ours, theirs, undone


def _difference(ours: Tensor, theirs: Tensor) -> float:
    """||W - W'|| / ||W'||."""
    size = float(theirs.norm())
    return float((ours - theirs).norm()) / size if size > 0 else float(ours.norm() > 0)
