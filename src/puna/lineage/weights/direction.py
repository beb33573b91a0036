"""Which of two related models came first, where that can be known.

Comes in: two checkpoints that are known to be related, and what else the caller knows: dates, verified ledgers, a run's checkpoints. Goes out:
a `Direction`. Must never happen: a hint told as a proof; a date believed that nobody gave.

All tests of likeness are symmetric. What is not:
- a start proven to be one's own (its ledger's seed gives the start, its segments replay): such a model stems from nobody;
- dates: what existed before the other was begun cannot stem from it, as far as the dates are right;
- lost digits: a model that is the other one rounded, put on a grid or with weights set to zero holds less than the other, and what is
  lost does not come back (it can only be made up, on purpose);
- a run's checkpoints: a model that stands beside the middle or the end of a run, close by, has the noise of that run in it. Nearer to the end than
  to the beginning is not enough: of two fine-tunes of one base on one text, 40 steps each, each stands nearest to the other's end (82 % of
  its way lies on the other's path; docs/lineage.md), and neither stems from the other;
- the weights' kurtosis, which falls in fine-tuning (MoTHer, arXiv 2405.18432): a hint that was right about as often as a coin on
  small models, so it is shown and never counts.
"""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from puna.lineage.verdict import Direction, Weights
from puna.lineage.weights.difference import measure
from puna.lineage.weights.reading import Checkpoint, Role
from puna.lineage.weights.relation import EQUAL, GROWN, MERGED, UPCYCLED
from puna.progress import QUIET, Progress
from puna.visible import clean

Side = Literal["model", "reference"]
SYMMETRIC = "These tests are symmetric: they say that two models are related, not which of them came first."
DATES = ("model_begun", "model_public", "reference_begun", "reference_public")
_MATRICES = ("q", "k", "v", "o", "gate", "up", "down")
_MOST_TENSORS, _MOST_ROWS = 28, 256  # looked at: what was rounded was rounded everywhere
_MOST = 0.8  # of the changed tensors, those that must say the same
_GROUPS, _WHOLE = (16, 32, 64, 128), 2e-3  # columns that share one scale; how far from a whole number a multiple may be
_ZEROS = 0.02  # of a tensor, from which zeros are no accident
_ON_PATH = 0.99  # of a model's way from a run's beginning, its square, that the nearest checkpoint explains
_FEWEST = 3  # checkpoints of a run


@dataclass(frozen=True)
class _Sign:
    """`first`: who came first by this; None where it points nowhere. `proof`: whether it decides by itself."""

    first: Side | None
    proof: bool
    words: str


def direction(
    model: Checkpoint,
    reference: Checkpoint,
    *,
    names: tuple[str, str] = ("MODEL", "REFERENCE"),
    found: Weights | None = None,
    dates: Mapping[str, date] | None = None,
    from_scratch: Collection[Side] = (),
    trajectory: Sequence[Checkpoint] = (),
    trajectory_of: Side = "reference",
    progress: Progress = QUIET,
) -> Direction:
    """Who stems from whom; `known` only where a proof says so and no other contradicts it.

    `found`: the comparison of the two, whose relation and block map hint (copies of one block, a sum of several). `dates`: any of `DATES`;
    "begun" is when the model's training was committed to or admitted to have begun, "public" when its weights were out. `from_scratch`: whose
    random start was regenerated and whose training was replayed (`puna verify --step0 --replay`). `trajectory`: checkpoints of one
    training run in order, the last being the model named by `trajectory_of`, which the other model is held against.
    Raises `ValueError` for an unknown date.
    """
    if dates and (unknown := set(dates) - set(DATES)):
        raise ValueError(f"unknown dates {sorted(unknown)}: known are {DATES}")
    said = {"model": clean(names[0]), "reference": clean(names[1])}
    if found is not None and found.verdict not in ("same", "derived"):
        return Direction(
            sentence="The two are not known to be related, so there is nothing of which to ask who came first."
        )
    signs = [
        *_starts(from_scratch, said),
        *_dated(dates or {}, said),
        *_lost(model, reference, said, progress),
        *_built(found, said),
    ]
    if trajectory:
        signs.append(_path(reference if trajectory_of == "model" else model, trajectory, trajectory_of, said, progress))
    signs.append(_kurtosis_sign(model, reference, said))
    evidence = tuple(sign.words for sign in signs)
    proofs = [sign for sign in signs if sign.proof]
    first = {sign.first for sign in proofs}
    if len(first) > 1:
        return Direction(
            sentence="What should show the direction contradicts itself, so it is not known: see the evidence.",
            evidence=evidence,
        )
    if not proofs:
        return Direction(sentence=SYMMETRIC, evidence=evidence)
    earlier, later = ("reference", "model") if first == {"reference"} else ("model", "reference")
    return Direction(known=True, sentence=f"{said[later]} stems from {said[earlier]}, not the other way round: {proofs[0].words}",
                     evidence=evidence)  # fmt: skip


def _other(side: Side) -> Side:
    return "reference" if side == "model" else "model"


def _starts(from_scratch: Collection[Side], said: Mapping[str, str]) -> Iterator[_Sign]:
    sides: tuple[Side, ...] = ("model", "reference")
    for side in sides:
        if side in from_scratch:
            yield _Sign(
                side,
                True,
                f"{said[side]} was shown to begin at its own random start, by making that again and replaying its training.",
            )


def _dated(dates: Mapping[str, date], said: Mapping[str, str]) -> Iterator[_Sign]:
    sides: tuple[Side, ...] = ("model", "reference")
    for side in sides:
        out, begun = dates.get(f"{side}_public"), dates.get(f"{_other(side)}_begun")
        if out is not None and begun is not None and out < begun:
            yield _Sign(side, True, f"{said[side]} was out on {out.isoformat()}, before {said[_other(side)]} was begun on {begun.isoformat()}, "
                                    "by the dates that were given.")  # fmt: skip
    ours, theirs = dates.get("model_public"), dates.get("reference_public")
    if ours is not None and theirs is not None and ours != theirs:
        side = "model" if ours < theirs else "reference"
        yield _Sign(side, False, f"{said[side]} was out first, on {min(ours, theirs).isoformat()}, the other on {max(ours, theirs).isoformat()}. "
                                 "A model may lie unpublished for long, so this is a hint.")  # fmt: skip


# What rounding loses


def _lost(model: Checkpoint, reference: Checkpoint, said: Mapping[str, str], progress: Progress) -> Iterator[_Sign]:
    """One of the two is the other with digits lost."""
    ways: dict[tuple[Side, str], int] = {}
    changed = looked = 0
    roles = _shared(model, reference)
    progress.start("lost digits", len(roles), "tensors")
    for done, role in enumerate(roles, start=1):
        ours, theirs = _some_rows(model.read(*role)), _some_rows(reference.read(*role))
        if not bool(torch.isfinite(ours).all() & torch.isfinite(theirs).all()):
            continue
        looked += 1
        if not torch.equal(ours, theirs):
            changed += 1
            sides: tuple[tuple[Side, Tensor, Tensor], ...] = (("model", ours, theirs), ("reference", theirs, ours))
            for coarse, one, other in sides:
                if how := _coarser(one, other):
                    ways[coarse, how] = ways.get((coarse, how), 0) + 1
        progress.update(done)
    progress.finish()
    if not ways:
        return
    (coarse, how), count = max(ways.items(), key=lambda item: item[1])
    if count < _MOST * changed or any(side != coarse for side, _ in ways):
        return
    fine = _other(coarse)
    yield _Sign(fine, True, f"{said[coarse]} is {said[fine]} {how} ({count} of {looked} tensors looked at). What that loses does not come back, "
                            "so the finer one was there first, unless somebody made up its lost digits on purpose.")  # fmt: skip


def _shared(model: Checkpoint, reference: Checkpoint) -> list[Role]:
    """Matrices of blocks that both have in one shape, spaced over the model."""
    roles = [
        role
        for role, source in model.roles.items()
        if role.kind in _MATRICES
        and role in reference.roles
        and source.rows is None
        and reference.roles[role].rows is None
        and model.stored[source.name].shape == reference.stored[reference.roles[role].name].shape
    ]
    step = max(1, -(-len(roles) // _MOST_TENSORS))
    return roles[:: step + (step % len(_MATRICES) == 0)]  # never one kind alone


def _some_rows(tensor: Tensor) -> Tensor:
    step = max(1, len(tensor) // _MOST_ROWS)
    return tensor[::step][:_MOST_ROWS]


def _coarser(one: Tensor, other: Tensor) -> str:
    """How `one` comes from `other` by losing digits; "" where it does not."""
    for kind, name in ((torch.bfloat16, "bf16"), (torch.float16, "fp16")):
        if torch.equal(one, other.to(kind).float()):
            return f"rounded to {name}"
    if _eighths(one, other):
        return "put on a grid of 8 bits"
    found = measure(one, other)
    if found.grid_bits is not None and found.grid_explains:
        return f"put on a grid of {found.grid_bits} bits"
    if found.zeros > _ZEROS and found.zeros_explain:
        return "with weights set to zero"
    return ""


def _eighths(one: Tensor, other: Tensor) -> bool:
    """Whether groups of `one` are whole multiples of a 127th of their largest entry, as int8 formats store them, and `other` rounds to them.

    Exact to the rounding of fp32, so that sixteen numbers suffice: `measure` is for grids that were stored in bf16 besides.
    """
    if one.ndim != 2:
        return False
    for width in (*_GROUPS, one.shape[1]):
        if one.shape[1] % width == 0:
            groups, others = one.reshape(-1, width), other.reshape(-1, width)
            step = groups.abs().amax(dim=1, keepdim=True) / 127
            at = groups / torch.where(step > 0, step, torch.ones_like(step))
            if float((at - at.round()).abs().max()) < _WHOLE and bool(((groups - others).abs() <= 0.51 * step).all()):
                return True
    return False


# What the structure hints at


def _built(found: Weights | None, said: Mapping[str, str]) -> Iterator[_Sign]:
    if found is None:
        return
    sources = [block.source for block in found.blocks if block.source is not None]
    if found.relation == UPCYCLED:
        yield _Sign("reference", False, f"{said['model']} holds several experts of one MLP of {said['reference']}: who trains several does not begin "
                                        "with copies. A hint, as one may be taken out again.")  # fmt: skip
    if found.relation == GROWN and len(set(sources)) < len(sources):
        yield _Sign("reference", False, f"{said['model']} holds {len(sources) - len(set(sources))} blocks of {said['reference']} more than once. A hint: "
                                        "blocks that are trained apart do not become copies, but a copy may be taken out again.")  # fmt: skip
    if found.relation == MERGED and len(found.coefficients) > 1:
        yield _Sign("reference", False, f"{said['model']} is a sum of {len(found.coefficients)} models. A hint: a sum comes after its parts, unless they "
                                        "stem from it or from one another.")  # fmt: skip


# Along a run


def way(other: Checkpoint, run: Sequence[Checkpoint], progress: Progress = QUIET) -> tuple[list[float], float]:
    """(||other - c_k|| for each checkpoint of the run, ||c_1 - c_0||), over up to 28 matrices that all have in one shape.

    Raises `ValueError` where there are none, or fewer than three checkpoints.
    """
    if len(run) < _FEWEST:
        raise ValueError(f"a run of {len(run)} checkpoints shows no way: {_FEWEST} or more")
    common = set.intersection(*(set(_shared(other, one)) for one in run))
    roles = [role for role in _shared(other, run[0]) if role in common]
    if not roles:
        raise ValueError("the run's checkpoints and the model have no matrix in one shape")
    squares, step = np.zeros(len(run)), 0.0
    progress.start("along the run", len(roles), "tensors")
    for done, role in enumerate(roles, start=1):
        ours, begun = other.read(*role), run[0].read(*role)
        for k, checkpoint in enumerate(run):
            theirs = checkpoint.read(*role)
            squares[k] += float((ours - theirs).double().square().sum())
            step += float((theirs - begun).double().square().sum()) if k == 1 else 0.0
        progress.update(done)
    progress.finish()
    return np.sqrt(squares).tolist(), math.sqrt(step)


def _path(other: Checkpoint, run: Sequence[Checkpoint], of: Side, said: Mapping[str, str], progress: Progress) -> _Sign:
    if len(run) < _FEWEST:
        return _Sign(None, False, f"{len(run)} checkpoints show no way: {_FEWEST} or more are needed.")
    if any(not _shared(other, one) for one in run):
        return _Sign(None, False, "The run's checkpoints and the model have no matrix in one shape.")
    distances, step = way(other, run, progress)
    if not all(map(math.isfinite, distances)):
        return _Sign(None, False, "A checkpoint of the run holds NaN or infinity.")
    nearest = int(np.argmin(distances))
    who, whose = said[_other(of)], said[of]
    if nearest == 0:
        if distances[0] <= max(EQUAL, 1 - _ON_PATH) * step:
            return _Sign(
                _other(of), True, f"the training run of {whose} begins at {who}, as far as its checkpoints are true."
            )
        return _Sign(
            None,
            False,
            f"{who} stands nearest to the beginning of {whose}'s run: that run began from it, or both began from one model.",
        )
    share = 1 - (distances[nearest] / distances[0]) ** 2 if distances[0] > 0 else 0.0
    words = f"{share:.1%} of the way of {who} from the beginning of {whose}'s run (squared) leads to checkpoint {nearest + 1} of {len(run)}"
    if share >= _ON_PATH:
        return _Sign(of, True, f"{words}: it holds what that run alone has, as far as its checkpoints are true.")
    return _Sign(
        of, False, f"{words}. A hint: so may that of another training from the same beginning on the same text."
    )


def _kurtosis_sign(model: Checkpoint, reference: Checkpoint, said: Mapping[str, str]) -> _Sign:
    ours, theirs = kurtosis(model), kurtosis(reference)
    return _Sign(None, False, f"Mean kurtosis of the matrices: {said['model']} {ours:.3f}, {said['reference']} {theirs:.3f}. Fine-tuning is said to "
                              "lower it; on small models of known descent that was no better than a coin, so it does not count.")  # fmt: skip


def kurtosis(checkpoint: Checkpoint) -> float:
    """The mean over (up to 28, spaced) matrices of the blocks of E(w - m)⁴ / (E(w - m)²)², on up to 256 rows each: 3 for normal weights."""
    values = []
    for role in _shared(checkpoint, checkpoint):
        flat = _some_rows(checkpoint.read(*role)).double().flatten()
        square = (flat - flat.mean()).square()
        variance = float(square.mean())
        if 0 < variance < math.inf:
            values.append(float(square.square().mean()) / variance**2)
    return float(np.mean(values)) if values else 0.0
