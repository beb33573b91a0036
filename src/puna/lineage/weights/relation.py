"""From what was measured to the name of what was done: fine-tuned, merged, grown, ...

Comes in: the two models' sizes, each tensor's difference, what had to be undone. Goes out: one relation, what else was done, the share
inherited. Must never happen: a name that the figures do not bear; where two names fit, the sentence says so (`AMBIGUOUS`).

The rules, in order; the cuts were chosen on one zoo and measured on others (docs/lineage.md):
1. Another structure names itself: experts, more or fewer blocks, narrower, another vocabulary.
2. A sum of several given parents: two or more coefficients clear of zero that together explain the weights.
3. What happened to the blocks' matrices: nothing, rounded, on a grid, a low-rank sum, white noise, training.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from puna.lineage.verdict import TensorDifference
from puna.lineage.weights.difference import Difference
from puna.lineage.weights.merged import Mixture
from puna.lineage.weights.reading import Sizes

COPY, RENAMED, ROUNDED, QUANTISED = "copy", "renamed", "rounded", "quantised"
FINE_TUNED, CONTINUED, ADAPTER, NOISED = "fine-tuned", "continued", "adapter merged", "noised"
GROWN, PRUNED_DEPTH, PRUNED_WIDTH = "grown in depth", "pruned in depth", "pruned in width"
MERGED, VOCABULARY, UPCYCLED, SPARSE = (
    "merged from several",
    "vocabulary rebuilt",
    "upcycled to experts",
    "pruned by magnitude",
)

EQUAL = 1e-6  # relative difference that only another order of sums can leave
TURNED = 3e-3  # the same where a rotation had to be fitted, and may have been stored in bf16
ROUNDING = 6e-3  # of bf16: half of 2^-7, relative
COARSE = 0.2  # relative difference, about the most that rounding to 4 bits leaves
LITTLE = 0.05  # relative difference up to which training is called fine-tuning and not continued pretraining
WHITE = 1.25  # top singular value of the difference over that of white noise of its size
_SILENT = 0.999  # zeros in a tensor that says nothing
CLEAR, SUM_EXPLAINS = 0.03, 0.9  # of a mixture: the least coefficient that counts, and the share of squares to explain

AMBIGUOUS = {
    FINE_TUNED: "The name goes by the size of the change alone; what it was trained on cannot be seen.",
    CONTINUED: "A long training, a merge with a model that was not given, or two trainings from the same random start look alike here.",
}


@dataclass(frozen=True)
class Measured:
    """One tensor: what the reader sees, and the facts behind it. `matrix`: of a block, with two dimensions."""

    shown: TensorDifference
    facts: Difference
    matrix: bool


@dataclass(frozen=True)
class Relation:
    """`name`: None where nothing fits; `also`: what else was done; `share`: of MODEL's parameters, those that carry REFERENCE's."""

    name: str | None
    also: tuple[str, ...]
    share: float


def relate(
    ours: Sizes, theirs: Sizes, tensors: Sequence[Measured], sources: Sequence[int | None], *, parameters: int, renames: int,
    vocabulary_changed: bool, mixture: Mixture | None = None,
) -> Relation:  # fmt: skip
    """The relation of a model that is known to stem from REFERENCE. `mixture`: over all references that were given together."""
    structure = _structure(ours, theirs, sources, vocabulary_changed)
    merged = mixture is not None and _is_merged(mixture)
    body = _body([one for one in tensors if one.matrix])
    undone = dict.fromkeys(word for one in tensors for word in one.shown.undone if not word.startswith("times "))
    also = [*structure[1:], *undone]
    if structure:
        name: str | None = structure[0]
        also += [body] if body not in (None, COPY) else []
    elif merged:
        name = MERGED
    else:
        name = body
        if name == COPY and renames and not undone:
            name, renames = RENAMED, 0
    if renames:
        also.append("names changed")
    inherited = sum(one.shown.parameters for one in tensors if _carries(one))
    return Relation(name, tuple(dict.fromkeys(also)), min(1.0, inherited / parameters) if parameters else 0.0)


def _structure(ours: Sizes, theirs: Sizes, sources: Sequence[int | None], vocabulary_changed: bool) -> list[str]:
    found = []
    if ours.experts and not theirs.experts:
        found.append(UPCYCLED)
    known = [source for source in sources if source is not None]
    if ours.layers > theirs.layers or len(set(known)) < len(known):
        found.append(GROWN)
    elif ours.layers < theirs.layers:
        found.append(PRUNED_DEPTH)
    narrower = (ours.ffn < theirs.ffn and not ours.experts) or ours.hidden < theirs.hidden or ours.heads < theirs.heads
    if narrower:
        found.append(PRUNED_WIDTH)
    if vocabulary_changed:
        found.append(VOCABULARY)
    return found


def _is_merged(mixture: Mixture) -> bool:
    clear = [c for c in mixture.coefficients if c.low > CLEAR]
    return len(clear) >= 2 and mixture.explained > SUM_EXPLAINS


def _body(matrices: Sequence[Measured]) -> str | None:
    """What happened to the blocks' matrices."""
    if not matrices:
        return None
    matrices = [
        one for one in matrices if one.facts.zeros < _SILENT
    ] or matrices  # a silent block's zeros are part of the growth
    sizes = [one.facts.relative for one in matrices]
    turned = any("rotated" in word for one in matrices for word in one.shown.undone)
    if max(sizes) <= (TURNED if turned else EQUAL):
        return COPY
    changed = [one for one in matrices if one.facts.relative > EQUAL]
    if all(one.shown.identity == "rounded" for one in changed):
        return ROUNDED
    if _most(changed, lambda one: one.facts.grid_bits is not None and one.facts.grid_explains):
        return QUANTISED
    if max(sizes) < ROUNDING and median(sizes) < ROUNDING / 2:
        return ROUNDED
    if _most(changed, lambda one: one.facts.low_rank is not None):
        return ADAPTER
    if _most(changed, lambda one: one.facts.zeros > 0.05 and one.facts.zeros_explain):
        return SPARSE
    white = _most(changed, lambda one: one.facts.flatness is not None and one.facts.flatness < WHITE)
    if white and median(sizes) < COARSE and _most(changed, lambda one: (one.facts.kurtosis or 9) < 2.6):
        return QUANTISED  # an even spread over a step, of a grid that is not one of the usual ones
    if white and abs(median(one.facts.slope for one in changed) - 1) > 0.1:
        return MERGED  # a part of REFERENCE, and something else as large that was not given
    if white:
        return NOISED
    return FINE_TUNED if median(sizes) < LITTLE else CONTINUED


def _most(some: Sequence[Measured], holds) -> bool:  # type: ignore[no-untyped-def]
    return sum(bool(holds(one)) for one in some) >= 0.8 * len(some) > 0


def _carries(one: Measured) -> bool:
    """Whether a tensor's numbers come from REFERENCE: equal, or far more alike than strangers of its size."""
    if one.shown.identity:
        return True
    cosine = one.shown.cosine or 0.0
    return cosine > max(0.05, 6 / max(one.shown.parameters, 1) ** 0.5)
