"""Which tensors of two models are the same numbers: as they are, rounded, scaled, turned, or in another order.

Comes in: two checkpoints. Goes out: for each tensor of MODEL the one of REFERENCE with the same numbers, wherever it stands and whatever it
is called. Must never happen: a vector of ones, or a table that every program computes, taken for evidence; a whole model in memory.

Each tensor is read once and kept as a small fingerprint. Sums of hashes of its values, as they are and as bf16 and fp16, do not depend on
where numbers stand; strangers share none. Its moments over its root mean square do not depend on a factor either; what agrees in them
within the rounding of its type is only a candidate, and believed once every value agrees within that rounding. Then it is told apart by
looking: equal in place, transposed, rows or columns in another order.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from puna.lineage.weights.files import Stored
from puna.lineage.weights.reading import Checkpoint, unsound
from puna.progress import QUIET, Progress

Kind = Literal["equal", "rounded", "scaled", "transposed", "permuted"]
_LEAST = 256  # numbers below which a tensor is no evidence
_DISTINCT = 64  # and distinct values: gains that are all 1, a mask, a table of angles' few values
_COMPUTED = re.compile(
    r"rotary|inv_freq|freqs_cis|(?:cos|sin)_cached|position_ids|attention?_mask|\.masked_bias$|attn\.bias$"
)
_CHUNK, _MASK = 1 << 18, (1 << 64) - 1  # values hashed at once: they stay in the processor's cache
_SIDE = 12  # a fingerprint keeps so many times so many values, at the same shares of rows and columns of any matrix
_MOST_CANDIDATES = 4  # of like moments that are looked at
_MOST_SORTED = 1 << 26  # numbers: beyond, what is scaled and in another order at once is not looked for
# The most that storing moves a value, as a share of it, and the least step: half a unit of the last of 8, 11 and 24 binary digits.
_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
_GRAIN = {
    "bf16": 2.0**-8,
    "fp16": 2.0**-11,
    "": 2.0**-22,
}  # of fp32 two more: a product of two numbers was rounded as well
_LEAST_STEP = 2.0**-25  # of fp16


@dataclass(frozen=True)
class Identity:
    """`reference`: the stored name there. `factor`: MODEL's values over REFERENCE's, where they are scaled."""

    reference: str
    kind: Kind
    factor: float = 1.0
    detail: str = ""  # "rows in another order"; of what was turned: "scaled", "rounded"


@dataclass(frozen=True)
class _Print:
    digests: Mapping[str, str]  # "", "bf16", "fp16" -> hash of the values as they are, and as these types hold them
    moments: tuple[float, ...]  # E|x|, |E x^3|, E x^4 and the largest |x|, of x over the root mean square
    size: float  # root mean square
    shape: tuple[int, ...]
    half: bool  # stored in fp16
    few: Tensor  # [side, side]: values at fixed shares of the rows and columns; of a vector [side * side]

    @property
    def grain(self) -> str:
        """The coarsest type that holds the values as they are: what they were rounded to, whatever they are stored in."""
        return next((kind for kind in ("bf16", "fp16") if self.digests.get(kind) == self.digests[""]), "")

    @property
    def numbers(self) -> int:
        return torch.Size(self.shape).numel()


def find_identities(model: Checkpoint, reference: Checkpoint, progress: Progress = QUIET) -> dict[str, Identity]:
    """MODEL's stored name -> the tensor of REFERENCE with the same numbers. Trivial tensors and unreadable ones are left out."""
    theirs = fingerprints(reference, "fingerprints of the reference", progress)
    ours = fingerprints(model, "fingerprints of the model", progress)
    by_digest: dict[str, list[tuple[str, str]]] = {}
    for name, made in theirs.items():
        for kind, digest in made.digests.items():
            by_digest.setdefault(digest, []).append((name, kind))
    by_size = _by_size(theirs)
    found: dict[str, Identity] = {}
    progress.start("the same numbers", len(ours), "tensors")
    for done, (name, made) in enumerate(ours.items(), start=1):
        identity = _same_digest(model, name, made, reference, by_digest)
        if identity is None:
            identity = _same_moments(model, name, made, reference, theirs, by_size)
        if identity is not None:
            found[name] = identity
        progress.update(done)
    progress.finish()
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
        elif not _COMPUTED.search(name) and (one := _print(tensor.to(torch.float32), stored.dtype)) is not None:
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


@dataclass(frozen=True)
class Values:
    """What may tell which of several tensors one is: its fingerprint, and values drawn evenly."""

    made: _Print | None
    some: Float[Tensor, " n"]
    shape: tuple[int, ...]

    def likeness(self, other: "Values") -> float:
        """1 for the same values in any order; else the cosine of those in the same places, or 0.7 for like moments; 0 for strangers."""
        if self.shape != other.shape:
            return 0.0
        if self.made and other.made and set(self.made.digests.values()) & set(other.made.digests.values()):
            return 1.0
        a, b = self.some - self.some.mean(), other.some - other.some.mean()
        near = float(torch.cosine_similarity(a, b, dim=0).abs())
        moments = self.made is not None and other.made is not None and all(
            abs(x - y) <= _LIKE * max(1.0, x) for x, y in zip(self.made.moments, other.made.moments, strict=True)
        )  # fmt: skip
        return max(near if near > _NEAR else 0.0, 0.7 if moments else 0.0)


_SOME, _NEAR, _LIKE = 1 << 16, 0.1, 3e-3


def values_of(stored: Stored) -> Values:
    """One tensor, read."""
    tensor = stored.read().to(torch.float32)
    flat = tensor.flatten()
    some = flat[:: max(1, len(flat) // _SOME)].clone()
    return Values(
        _print(tensor, stored.dtype) if bool(torch.isfinite(flat).all()) else None, some.nan_to_num(), stored.shape
    )


def _print(tensor: Tensor, dtype: str) -> _Print | None:
    """None where a tensor is no evidence: too small, too few distinct values."""
    flat = tensor.flatten()
    n = flat.numel()
    if n < _LEAST:
        return None
    some = flat[:: max(1, n // 4096)]
    if len(torch.unique(some)) < min(_DISTINCT, len(some) // 4) and len(torch.unique(flat)) < _DISTINCT:
        return None
    # A type changes nothing that is stored in it, and next to nothing in fp16 that was bf16: two hashes less.
    held = {"BF16": "bf16", "F16": "fp16"}.get(dtype, "")
    kinds = {"bf16": [], "fp16": ["bf16"]}.get(held, ["bf16", "fp16"])
    hashes, sums = dict.fromkeys(["", *kinds], 0), torch.zeros(4, dtype=torch.float64)
    for part in flat.split(_CHUNK):
        part = part + 0.0  # -0.0 and 0.0 are one number
        for kind in hashes:
            values = part.to(_TYPES[kind]).float() if kind else part
            hashes[kind] = (hashes[kind] + _hash_sum(values)) & _MASK
        square = part * part
        sums += torch.stack(
            [square.sum(), part.abs().sum(), (square * part).sum().abs(), torch.dot(square, square)]
        ).double()
    digests = {kind: f"{n}:{value}" for kind, value in hashes.items()}
    if held:
        digests[held] = digests[""]
    size = float((sums[0] / n).sqrt())
    moments = (*(float(sums[power]) / n / size**degree for power, degree in ((1, 1), (2, 3), (3, 4))),
               max(map(abs, map(float, torch.aminmax(flat)))) / size)  # fmt: skip
    return _Print(digests, moments, size, tuple(tensor.shape), held == "fp16", _few(tensor))


def _few(tensor: Tensor) -> Tensor:
    """Some values whose places depend on the shape alone, and turn with the matrix."""
    if tensor.ndim != 2:
        flat = tensor.flatten()
        return flat[torch.linspace(0, len(flat) - 1, _SIDE * _SIDE).long()]
    rows, columns = (torch.linspace(0, size - 1, _SIDE).long() for size in tensor.shape)
    return tensor[rows][:, columns].contiguous()


def _hash_sum(values: Tensor) -> int:
    """The sum of a hash of every value's bits: the same in any order (a multiset hash; multiply and shift, as in Knuth vol. 3, 6.4)."""
    bits = values.view(torch.int32) * -1640531527
    bits ^= bits >> 15
    bits *= -2048144789
    return int(bits.sum())


def _same_digest(
    model: Checkpoint, name: str, made: _Print, reference: Checkpoint, by_digest: Mapping[str, Sequence[tuple[str, str]]]
) -> Identity | None:  # fmt: skip
    """The same values, or the same after rounding one or both, in whatever place."""
    for level, digest in made.digests.items():
        partners = by_digest.get(digest, ())
        if not partners:
            continue
        partner, other_level = next((one for one in partners if one[0] == name), partners[0])
        ours, theirs = _read(model, name), _read(reference, partner)
        coarse = other_level or level
        if coarse:
            ours, theirs = (one.to(_TYPES[coarse]).float() for one in (ours, theirs))
        kind: Kind = "rounded" if coarse and not torch.equal(_read(model, name), _read(reference, partner)) else "equal"
        return _placed(ours, theirs, partner, kind)
    return None


def _placed(ours: Tensor, theirs: Tensor, partner: str, kind: Kind) -> Identity | None:
    """Two tensors of one multiset of values: where do they stand? None where the hash was all that they shared."""
    if ours.shape == theirs.shape and torch.equal(ours, theirs):
        return Identity(partner, kind)
    if ours.ndim == 2 and ours.T.shape == theirs.shape and torch.equal(ours.T, theirs):
        return Identity(partner, "transposed", 1.0, "" if kind == "equal" else kind)
    if _second_hash(ours) != _second_hash(theirs):
        return None
    return Identity(partner, "permuted", 1.0, _what_moved(ours, theirs))


def _second_hash(values: Tensor) -> int:
    """Another multiset hash, of 64 bits, for what the first one has paired (the finaliser of SplitMix64, Steele et al. 2014)."""
    total = 0
    for part in values.flatten().split(_CHUNK):
        bits = (part + 0.0).view(torch.int32).to(torch.int64) * -7046029254386353131
        bits = (bits ^ (bits >> 30)) * -4658895280553007687
        bits = (bits ^ (bits >> 27)) * -7723592293110705685
        total = (total + int((bits ^ (bits >> 31)).sum())) & _MASK
    return total


def _same_moments(
    model: Checkpoint, name: str, made: _Print, reference: Checkpoint, theirs: Mapping[str, _Print],
    by_size: Mapping[int, "_OfOneSize"],
) -> Identity | None:  # fmt: skip
    """The same values but for a factor or a rounding: candidates by moments, then every value is looked at."""
    for partner in _candidates(name, made, by_size):
        other = theirs[partner]
        near, least = _tolerance(made, other)
        for turned in (False, True):
            if turned and made.few.ndim != 2:
                continue
            if _factor(made.few.T if turned else made.few, other.few, near, least) is None:
                continue
            ours, theirs_ = _read(model, name), _read(reference, partner)
            ours = ours.T if turned else ours
            found = _factor(ours, theirs_, near, least)
            if found is None:
                continue
            same = abs(found - 1) <= near
            if same and made.grain == other.grain and _factor(ours, theirs_, _GRAIN[""], least) is None:
                continue  # two of one grain that differ: neither is the other rounded, but for fp16's least step
            word: Kind = "rounded" if same else "scaled"
            return Identity(partner, "transposed" if turned else word, 1.0 if same else found, word if turned else "")
        if not _in_place(made.few, other.few) and made.numbers <= _MOST_SORTED:
            moved = _scaled_and_moved(_read(model, name), _read(reference, partner), made, other)
            if moved is not None:
                return Identity(partner, "permuted", moved[0], moved[1])
    return None


class _OfOneSize(NamedTuple):
    """The tensors of so many numbers, by their first moment; `errors`: what rounding may have changed in each moment."""

    names: list[str]
    moments: Float[ndarray, "k 4"]
    errors: Float[ndarray, "k 4"]
    widest: float  # error of a first moment


def _by_size(prints: Mapping[str, _Print]) -> dict[int, _OfOneSize]:
    sizes: dict[int, list[str]] = {}
    for name in sorted(prints, key=lambda name: prints[name].moments[0]):
        sizes.setdefault(prints[name].numbers, []).append(name)
    made = {}
    for numbers, names in sizes.items():
        errors = np.array([_moment_errors(numbers, prints[name].grain) for name in names])
        moments = np.array([prints[name].moments for name in names])
        made[numbers] = _OfOneSize(names, moments, errors, float(errors[:, 0].max()))
    return made


def _candidates(name: str, made: _Print, by_size: Mapping[int, _OfOneSize]) -> list[str]:
    """Tensors of REFERENCE whose moments agree as far as rounding lets them, the one of the same name first."""
    if made.numbers not in by_size:
        return []
    names, moments, errors, widest = by_size[made.numbers]
    own, own_errors = np.array(made.moments), np.array(_moment_errors(made.numbers, made.grain))
    most = max(widest, own_errors[0])
    begin, end = np.searchsorted(moments[:, 0], (own[0] - most, own[0] + most))
    gaps = np.abs(moments[begin:end] - own)
    near = (gaps <= np.maximum(errors[begin:end], own_errors) * np.maximum(1.0, own)).all(axis=1)
    found = sorted((names[begin + i] != name, gaps[i, 0], names[begin + i]) for i in np.flatnonzero(near))
    return [partner for _, _, partner in found[:_MOST_CANDIDATES]]


def _moment_errors(numbers: int, grain: str) -> tuple[float, ...]:
    """What rounding may change in the moments: five spreads of the mean of so many roundings, and fp32's own sums; of the largest
    value, its own rounding."""
    spread = 5 * _GRAIN[grain] / 3**0.5 / numbers**0.5
    return 1e-5 + spread, 3e-5 + 12 * spread, 3e-5 + 40 * spread, 1e-5 + 2.5 * _GRAIN[grain]


def _tolerance(made: _Print, other: _Print) -> tuple[float, float]:
    """(share of a value, absolute step in MODEL's units) that the roundings of both may leave."""
    half = made.half or other.half or "fp16" in (made.grain, other.grain)
    near = 1.02 * (_GRAIN[made.grain] + _GRAIN[other.grain])
    return near, _LEAST_STEP * (1 + made.size / other.size) if half else 0.0


def _factor(ours: Tensor, theirs: Tensor, near: float, least: float) -> float | None:
    """The least-squares factor, None where a value of `ours` is further from it than its rounding."""
    if ours.shape != theirs.shape:
        return None
    parts = list(zip(ours.flatten().split(_CHUNK), theirs.flatten().split(_CHUNK), strict=True))
    inner = sum(float(torch.dot(a.double(), b.double())) for a, b in parts)
    own = sum(float(b.double().square().sum()) for _, b in parts)
    if own == 0 or inner == 0:
        return None
    factor = inner / own
    near *= 1 + 3 / ours.numel() ** 0.5  # the factor bears the roundings of all values, a share of them each
    for a, b in parts:
        expected = factor * b
        if bool(((a - expected).abs() > near * torch.maximum(a.abs(), expected.abs()) + least).any()):
            return None
    return factor


def _in_place(ours: Tensor, theirs: Tensor) -> bool:
    """Whether some values show that the tensors stand as they stood, only changed: then no other order is looked for."""
    pairs = [(ours, theirs)] + ([(ours.T, theirs)] if ours.ndim == 2 else [])
    return any(
        a.shape == b.shape and abs(float(torch.cosine_similarity(a.flatten(), b.flatten(), dim=0))) > 0.5
        for a, b in pairs
    )


def _scaled_and_moved(ours: Tensor, theirs: Tensor, made: _Print, other: _Print) -> tuple[float, str] | None:
    """(factor, what moved) where the sorted values agree but for a factor; its sign is the one that fits."""
    near, least = _tolerance(made, other)
    size = made.size / other.size
    ours_sorted, theirs_sorted = ours.flatten().sort().values, theirs.flatten().sort().values
    for sign in (1.0, -1.0):
        expected = sign * size * (theirs_sorted if sign > 0 else theirs_sorted.flip(0))
        # Neighbours may change places when rounded, and the factor is known to some 7 digits: twice the rounding of one value.
        if bool(((ours_sorted - expected).abs() <= 2 * near * expected.abs() + 2 * least + 1e-6 * made.size).all()):
            return sign * size, _what_moved(ours / (sign * size), theirs)
    return None


def _what_moved(ours: Tensor, theirs: Tensor) -> str:
    """Rows that change places leave the sums over each column where they are; and the other way round."""
    if ours.ndim != 2 or ours.shape != theirs.shape:
        return "the same numbers in other places"
    columns, rows = ((ours.sum(d), theirs.sum(d)) for d in (0, 1))
    if _close(*columns):
        return "rows in another order"
    if _close(*rows):
        return "columns in another order"
    if all(_close(a.sort().values, b.sort().values) for a, b in (rows, columns)):
        return "rows and columns in another order"
    return "the same numbers in other places"


def _close(a: Tensor, b: Tensor) -> bool:
    """Sums of rounded numbers: within a thousandth of the largest."""
    return bool((a - b).abs().max() <= 1e-3 * b.abs().max())


def _read(checkpoint: Checkpoint, name: str) -> Tensor:
    return checkpoint.stored[name].read().to(torch.float32)
