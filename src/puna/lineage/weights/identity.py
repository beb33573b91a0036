"""Which tensors of two models are the same numbers: as they are, rounded, scaled, turned, or in another order.

Comes in: two checkpoints. Goes out: for each tensor of MODEL the one of REFERENCE with the same numbers, wherever it stands and whatever it
is called. Must never happen: a vector of ones taken for evidence; a whole model in memory.

Each tensor is read once and kept as four small fingerprints that do not depend on where numbers stand: sums of hashes of its values as
they are, as bf16 and as fp16, and its moments over its root mean square. Two independent tensors share none of the hashes by chance; like
moments are only believed once the sorted values agree. What the fingerprints pair is then told apart by looking: equal in place, transposed, rows or columns in another order.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from puna.lineage.weights.reading import Checkpoint, unsound
from puna.progress import QUIET, Progress

Kind = Literal["equal", "rounded", "scaled", "transposed", "permuted"]
_LEAST = 256  # numbers below which a tensor is no evidence
_DISTINCT = 64  # and distinct values: gains that are all 1, a mask, a table of angles' few values
_CHUNK, _MASK = 1 << 15, (1 << 64) - 1  # values hashed at once: in the cache, and below what torch spreads over threads
_SCALED_DIGITS = 5  # of moments: a scaled copy in bf16 keeps them, strangers of a million values differ in the fourth


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
    rounded: tuple[str, ...]  # after bf16 and fp16, as far as these are coarser than what is stored
    scaled: str
    size: float  # root mean square
    shape: tuple[int, ...]


def find_identities(model: Checkpoint, reference: Checkpoint, progress: Progress = QUIET) -> dict[str, Identity]:
    """MODEL's stored name -> the tensor of REFERENCE with the same numbers. Trivial tensors and unreadable ones are left out."""
    theirs = fingerprints(reference, "fingerprints of the reference", progress)
    by_raw: dict[str, list[str]] = {}
    by_rounded: dict[str, list[str]] = {}
    by_scaled: dict[str, list[str]] = {}
    for name, made in theirs.items():
        by_raw.setdefault(made.raw, []).append(name)
        for digest in dict.fromkeys(made.rounded):
            by_rounded.setdefault(digest, []).append(name)
        by_scaled.setdefault(made.scaled, []).append(name)
    found: dict[str, Identity] = {}
    for name, made in fingerprints(model, "fingerprints of the model", progress).items():
        tables: tuple[tuple[tuple[str, ...], dict[str, list[str]], Kind], ...] = (
            ((made.raw,), by_raw, "equal"), (made.rounded, by_rounded, "rounded"), ((made.scaled,), by_scaled, "scaled"),
        )  # fmt: skip
        for digests, table, kind in tables:
            names = [one for digest in digests for one in table.get(digest, ())]
            if names:
                partner = name if name in names else names[0]
                identity = _told_apart(model, name, reference, partner, kind, made, theirs)
                if identity is not None:
                    found[name] = identity
                break
    return found


def fingerprints(checkpoint: Checkpoint, title: str = "fingerprints", progress: Progress = QUIET) -> dict[str, _Print]:
    """Stored name -> fingerprint, kept with the checkpoint; each tensor is read once, and what is wrong with it is noted on the way."""
    if "prints" in checkpoint.kept:
        known: dict[str, _Print] = checkpoint.kept["prints"]
        return known
    made, wrong = {}, {}
    progress.start(title, len(checkpoint.stored), "tensors")
    for done, (name, stored) in enumerate(checkpoint.stored.items(), start=1):
        tensor = stored.read()
        if why := unsound(tensor):
            wrong[name] = why
        elif (one := _print(tensor.flatten().to(torch.float32), tuple(tensor.shape), stored.dtype)) is not None:
            made[name] = one
        progress.update(done)
    progress.finish()
    checkpoint.kept.update(prints=made, unsound=wrong)
    return made


def unsound_tensors(checkpoint: Checkpoint, progress: Progress = QUIET) -> dict[str, str]:
    """Stored name -> what is wrong, of every tensor that is no evidence."""
    fingerprints(checkpoint, f"reading {checkpoint.path.name if checkpoint.path else 'the model'}", progress)
    wrong: dict[str, str] = checkpoint.kept["unsound"]
    return wrong


def _print(flat: Tensor, shape: tuple[int, ...], dtype: str) -> _Print | None:
    """None where a tensor is no evidence: too small, too few distinct values."""
    if flat.numel() < _LEAST:
        return None
    some = flat[:: max(1, flat.numel() // 4096)]
    if len(torch.unique(some)) < min(_DISTINCT, len(some) // 4) and len(torch.unique(flat)) < _DISTINCT:
        return None
    types = {"BF16": (), "F16": (torch.bfloat16,)}.get(dtype, (torch.bfloat16, torch.float16))
    hashes, moments = [0] * (1 + len(types)), torch.zeros(4, dtype=torch.float64)
    for part in flat.split(_CHUNK):
        part = part + 0.0  # -0.0 and 0.0 are one number
        for place, one in enumerate((part, *(part.to(kind).float() for kind in types))):
            hashes[place] = (hashes[place] + _hash_sum(one)) & _MASK
        square = part * part
        moments += torch.stack(
            [square.sum(), part.abs().sum(), (square * part).sum().abs(), torch.dot(square, square)]
        ).double()
    n, size = flat.numel(), float((moments[0] / flat.numel()).sqrt())
    scaled = [float(moments[1]) / n / size, float(moments[2]) / n / size**3, float(moments[3]) / n / size**4]
    raw, *rounded = (f"{n}:{value}" for value in hashes)
    return _Print(
        raw,
        tuple(rounded) or (raw,),
        f"{n}:" + ":".join(f"{value:.{_SCALED_DIGITS}f}" for value in scaled),
        size,
        shape,
    )


def _hash_sum(values: Tensor) -> int:
    """The sum of a hash of every value's bits: the same in any order (a multiset hash; multiply and shift, as in Knuth vol. 3, 6.4)."""
    bits = values.view(torch.int32) * -1640531527
    bits ^= bits >> 15
    bits *= -2048144789
    return int(bits.sum())


def _told_apart(
    model: Checkpoint, name: str, reference: Checkpoint, partner: str, kind: Kind, made: _Print, theirs: Mapping[str, _Print]
) -> Identity | None:  # fmt: skip
    """What joins two tensors of one fingerprint; None where like moments turn out to be all that they share."""
    ours, other = model.stored[name].read().to(torch.float32), reference.stored[partner].read().to(torch.float32)
    near = 0.0 if kind == "equal" else 1e-2
    if kind == "rounded":
        ours, other = ours.bfloat16().float(), other.bfloat16().float()
    factors = [1.0]
    if kind == "scaled":
        size = made.size / theirs[partner].size
        factors = [size, -size]
    for factor in factors:
        plain = ours / factor
        if plain.shape == other.shape and _same(plain, other, near):
            return Identity(partner, kind, factor)
        if plain.ndim == 2 and plain.T.shape == other.shape and _same(plain.T, other, near):
            return Identity(partner, "transposed", factor, "" if kind == "equal" else kind)
    for factor in factors:
        plain = ours / factor
        if kind != "scaled" or _same(plain.flatten().sort().values, other.flatten().sort().values, near):
            return Identity(partner, "permuted", factor, _what_moved(plain, other))
    return None


def _what_moved(ours: Tensor, other: Tensor) -> str:
    if ours.ndim != 2 or ours.shape != other.shape:
        return "the same numbers in other places"
    columns, rows = (_same(ours.sum(d), other.sum(d), 1e-3) for d in (0, 1))  # which sums are still in their places
    if columns and not rows:
        return "rows in another order"
    return "columns in another order" if rows and not columns else "rows and columns in another order"


def _same(a: Tensor, b: Tensor, near: float) -> bool:
    if near == 0.0:
        return torch.equal(a, b)
    size = float(b.abs().max())
    return bool((a - b).abs().max() <= near * size)
