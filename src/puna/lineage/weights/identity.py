"""Which tensors of two models are the same numbers: as they are, rounded, scaled, turned, or in another order.

Comes in: two checkpoints. Goes out: for each tensor of MODEL the one of REFERENCE with the same numbers, wherever it stands and whatever it
is called. Must never happen: a vector of ones taken for evidence; a whole model in memory.

Each tensor is read once and kept as four small fingerprints that do not depend on where numbers stand: digests of its sorted values as
they are, as bf16 and as fp16, and divided by the root of their mean square. Two independent tensors of a thousand real numbers share none of these by
chance. What the fingerprints pair is then told apart by looking: equal in place, transposed, rows or columns in another order.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from puna.lineage.weights.reading import Checkpoint
from puna.progress import QUIET, Progress

Kind = Literal["equal", "rounded", "scaled", "transposed", "permuted"]
_LEAST = 256  # numbers below which a tensor is no evidence
_DISTINCT = 64  # and distinct values: gains that are all 1, a mask, a table of angles' few values
_SAMPLE = 1 << 16  # values, drawn by rank from the sorted ones: the same ranks in a permuted copy
_SCALED_DIGITS = 3


@dataclass(frozen=True)
class Identity:
    """`reference`: the stored name there. `factor`: MODEL's values over REFERENCE's, where they are scaled. `where`: the same name or place."""

    reference: str
    kind: Kind
    factor: float = 1.0
    detail: str = ""  # "rows in another order"


@dataclass(frozen=True)
class _Print:
    raw: str
    rounded: tuple[str, str]  # after bf16, fp16
    scaled: str
    size: float  # root mean square
    shape: tuple[int, ...]


def find_identities(model: Checkpoint, reference: Checkpoint, progress: Progress = QUIET) -> dict[str, Identity]:
    """MODEL's stored name -> the tensor of REFERENCE with the same numbers. Trivial tensors and unreadable ones are left out."""
    theirs = _prints(reference, "fingerprints of the reference", progress)
    by_raw: dict[str, list[str]] = {}
    by_rounded: dict[str, list[str]] = {}
    by_scaled: dict[str, list[str]] = {}
    for name, made in theirs.items():
        by_raw.setdefault(made.raw, []).append(name)
        for digest in dict.fromkeys(made.rounded):
            by_rounded.setdefault(digest, []).append(name)
        by_scaled.setdefault(made.scaled, []).append(name)
    found: dict[str, Identity] = {}
    for name, made in _prints(model, "fingerprints of the model", progress).items():
        for digests, table, kind in (((made.raw,), by_raw, "equal"), (made.rounded, by_rounded, "rounded"), ((made.scaled,), by_scaled, "scaled")):
            names = [one for digest in digests for one in table.get(digest, ())]
            if names:
                partner = name if name in names else names[0]
                found[name] = _told_apart(model, name, reference, partner, kind, made, theirs)  # type: ignore[arg-type]
                break
    return found


def _prints(checkpoint: Checkpoint, title: str, progress: Progress) -> dict[str, _Print]:
    if "prints" in checkpoint.kept:
        known: dict[str, _Print] = checkpoint.kept["prints"]
        return known
    made = {}
    progress.start(title, len(checkpoint.stored), "tensors")
    for done, (name, stored) in enumerate(checkpoint.stored.items(), start=1):
        one = _print(stored.read())
        if one is not None:
            made[name] = one
        progress.update(done)
    progress.finish()
    checkpoint.kept["prints"] = made
    return made


def _print(tensor: Tensor) -> _Print | None:
    """None where a tensor is no evidence: too small, too few distinct values, not finite."""
    flat = tensor.flatten().to(torch.float32)
    if flat.numel() < _LEAST or not bool(torch.isfinite(flat).all()):
        return None
    some = flat[:: max(1, flat.numel() // 4096)]
    if len(torch.unique(some)) < min(_DISTINCT, len(some) // 4) and len(torch.unique(flat)) < _DISTINCT:
        return None
    values = flat.sort().values
    if values.numel() > _SAMPLE:
        values = values[torch.linspace(0, values.numel() - 1, _SAMPLE, dtype=torch.float64).round().long()]
    size = float(flat.double().square().mean().sqrt())
    sign = 1.0 if float(values[0] + values[-1]) >= 0 else -1.0
    scaled = (values.double() * sign / size).sort().values
    # A few ranks and digits: a scaled copy differs in the last digits of each number.
    ranks = torch.linspace(0, len(scaled) - 1, 33, dtype=torch.float64).round().long()
    digits = torch.round(scaled[ranks] * 10**_SCALED_DIGITS).long()
    return _Print(_digest(values), (_digest(values.bfloat16()), _digest(values.half())), _digest(digits), size, tuple(tensor.shape))


def _digest(values: Tensor) -> str:
    values = values + 0 if values.is_floating_point() else values  # -0.0 and 0.0 are one number
    return hashlib.sha256(values.contiguous().view(torch.uint8).numpy().data).hexdigest()


def _told_apart(
    model: Checkpoint, name: str, reference: Checkpoint, partner: str, kind: Kind, made: _Print, theirs: Mapping[str, _Print]
) -> Identity:
    ours, other = model.stored[name].read().to(torch.float32), reference.stored[partner].read().to(torch.float32)
    factor = 1.0
    if kind == "scaled":
        factor = made.size / theirs[partner].size
        if float(ours.flatten().sort().values[-1] + ours.flatten().sort().values[0]) * float(other.max() + other.min()) < 0:
            factor = -factor
        ours = ours / factor
    if kind == "rounded":
        ours, other = ours.bfloat16().float(), other.bfloat16().float()
    near = 1e-2 if kind != "equal" else 0.0
    if ours.shape == other.shape and _same(ours, other, near):
        return Identity(partner, kind, factor)
    if ours.ndim == 2 and ours.T.shape == other.shape and _same(ours.T, other, near):
        return Identity(partner, "transposed", factor, "" if kind == "equal" else kind)
    detail = ""
    if ours.ndim == 2 and ours.shape == other.shape:
        rows = _same(ours.sort(dim=1).values.sum(1).sort().values, other.sort(dim=1).values.sum(1).sort().values, 1e-3)
        columns = _same(ours.sum(0).sort().values, other.sum(0).sort().values, 1e-3)
        rows_kept = _same(ours.sum(1).sort().values, other.sum(1).sort().values, 1e-3)
        detail = "rows in another order" if rows_kept and not columns else "columns in another order" if columns and not rows_kept else ""
        detail = detail or ("rows and columns in another order" if rows or columns else "")
    return Identity(partner, "permuted", factor, detail or "the same numbers in other places")


def _same(a: Tensor, b: Tensor, near: float) -> bool:
    if near == 0.0:
        return torch.equal(a, b)
    size = float(b.abs().max())
    return bool((a - b).abs().max() <= near * size)
