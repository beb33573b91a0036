"""Layer 1: the smallest map between the names of two models' tensors.

Comes in: two checkpoints. Goes out: `verdict.Names`. Must never happen: a tensor listed where a pattern would do, or a likeness of names
taken for a likeness of weights.

Names that differ only in numbers are one pattern, `model.layers.{}.ln1.weight`. Equal patterns map to themselves; of the rest, patterns of
one shape are paired: by their role where the names state one, else by how many tensors they cover, the words they share and their place.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from math import prod

import torch

from puna.lineage.verdict import Names, Renamed
from puna.lineage.weights.files import Stored
from puna.lineage.weights.reading import Checkpoint, role_of

_NUMBER = re.compile(r"(?<![A-Za-z0-9_])\d+(?![A-Za-z0-9_])")
_MOST_SHOWN = 12
_MOST_NUMBERS = 100_000_000  # of a tensor whose values may tell which one it is


@dataclass
class _Pattern:
    """Tensors whose names differ only in numbers."""

    text: str
    place: int  # among the patterns, in the file's order
    first: str  # one tensor of it, by its stored name
    shapes: set[tuple[int, ...]] = field(default_factory=set)
    tensors: int = 0
    kind: str | None = None  # the role that the names state


def compare_names(model: Checkpoint, reference: Checkpoint) -> Names:
    """The map, its size, and a verdict: same, where a one-to-one map joins all patterns; cannot tell, where only some of them;
    independent, where hardly any."""
    ours, theirs = _patterns(model), _patterns(reference)
    equal = [text for text in ours if text in theirs]
    left = {text: pattern for text, pattern in ours.items() if text not in theirs}
    right = {text: pattern for text, pattern in theirs.items() if text not in ours}
    renames = _paired(left, right, model, reference)
    for one in renames:
        del left[one.model], right[one.reference]
    joined = sum(ours[text].tensors for text in equal) + sum(one.tensors for one in renames)
    share = joined / max(1, sum(pattern.tensors for pattern in ours.values()))
    evidence = [f"{len(equal)} of {len(ours)} patterns of names are equal"]
    evidence += [f"{one.model} is {one.reference} ({one.tensors} tensors)" for one in renames[:_MOST_SHOWN]]
    for only, whose in ((left, model), (right, reference)):
        if only:
            shown = ", ".join(list(only)[:_MOST_SHOWN])
            evidence.append(
                f"only in {'MODEL' if whose is model else 'REFERENCE'}: {shown}{', ...' if len(only) > _MOST_SHOWN else ''}"
            )
    if share > 0.999 and not left:
        count = len(renames)
        sentence = (
            "The tensors are called alike." if not renames
            else f"The names are the same after {count} rename{'s' if count > 1 else ''}."
        ) + " Names are a label: anyone may choose them, and the same ones make a model load in the same programs."  # fmt: skip
        verdict = "same"
    elif share > 0.5:
        verdict, sentence = (
            "cannot tell",
            f"Of the tensors, {share:.0%} have names that map; the others are in one model only.",
        )
    else:
        verdict, sentence = "independent", "Hardly any name of the one has a counterpart in the other."
    return Names(
        verdict=verdict, sentence=sentence, evidence=tuple(evidence), renames=tuple(renames), only_model=tuple(left)[:200],
        only_reference=tuple(right)[:200],
    )  # fmt: skip


def numbered(name: str) -> tuple[str, list[str]]:
    """(pattern, the numbers in it): "layers.3.up" is "layers.{}.up" and ["3"]."""
    return _NUMBER.sub("{}", name), _NUMBER.findall(name)


def _patterns(checkpoint: Checkpoint) -> dict[str, _Pattern]:
    found: dict[str, _Pattern] = {}
    for name, stored in checkpoint.stored.items():
        text, _ = numbered(name)
        if text not in found:
            role = role_of(name)
            found[text] = _Pattern(
                text,
                len(found),
                name,
                kind=role.kind + (".expert" if role.expert is not None else "") if role else None,
            )
        found[text].tensors += 1
        found[text].shapes.add(stored.shape)
    return found


def _paired(
    left: Mapping[str, _Pattern], right: Mapping[str, _Pattern], model: Checkpoint, reference: Checkpoint
) -> list[Renamed]:
    """One-to-one pairs, the surest first."""
    scored = []
    for ours in left.values():
        for theirs in right.values():
            score = _likeness(ours, theirs, len(left), len(right))
            if score > 0 and not (ours.kind and theirs.kind):
                score += _values_alike(model.stored[ours.first], reference.stored[theirs.first])
            if score > 0:
                scored.append((score, ours, theirs))
    scored.sort(key=lambda entry: (-entry[0], entry[1].place, entry[2].place))
    used_left, used_right, pairs = set(), set(), []
    for _, ours, theirs in scored:
        if ours.text not in used_left and theirs.text not in used_right:
            used_left.add(ours.text)
            used_right.add(theirs.text)
            pairs.append((ours.place, Renamed(model=ours.text, reference=theirs.text, tensors=ours.tensors)))
    return [pair for _, pair in sorted(pairs, key=lambda entry: entry[0])]


def _values_alike(ours: Stored, theirs: Stored) -> float:
    """Where words say nothing, numbers may: 0 for strangers, up to 3 for tensors alike in place, or with the same values in another order.

    Only which of several tensors of one shape is which is asked here (gate or up, key or value): whether the weights are related is not.
    """
    if ours.shape != theirs.shape or prod(ours.shape) > _MOST_NUMBERS:
        return 0.0
    a, b = (one.read().flatten().to(torch.float32) for one in (ours, theirs))
    near = float(torch.cosine_similarity(a - a.mean(), b - b.mean(), dim=0).abs())
    a, b = a.sort().values, b.sort().values
    same = bool((a - b).abs().max() <= 1e-2 * b.abs().max())
    return 3.0 if same else 3.0 * near if near > 0.1 else 0.0


def _likeness(ours: _Pattern, theirs: _Pattern, of_ours: int, of_theirs: int) -> float:
    """0: not the same thing. A stated role decides; else the shapes must agree, and words and places break ties."""
    if ours.kind and theirs.kind:
        return 10.0 if ours.kind == theirs.kind else 0.0
    if {len(shape) for shape in ours.shapes} != {len(shape) for shape in theirs.shapes}:
        return 0.0
    if not ours.shapes & theirs.shapes and not {tuple(sorted(s)) for s in ours.shapes} & {
        tuple(sorted(s)) for s in theirs.shapes
    }:
        return 0.0
    words = SequenceMatcher(None, ours.text, theirs.text, autojunk=False).ratio()
    places = 1 - abs(ours.place / max(1, of_ours) - theirs.place / max(1, of_theirs))
    return 1.0 + words + places + (2.0 if ours.tensors == theirs.tensors else 0.0)
