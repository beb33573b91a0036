"""Layer 1: the smallest map between the names of two models' tensors.

Comes in: two checkpoints. Goes out: `verdict.Names`. Must never happen: a tensor listed where a pattern would do, or a likeness of names
taken for a likeness of weights.

Names that differ only in numbers are one pattern, `model.layers.{}.ln1.weight`. Equal patterns map to themselves; of the rest, patterns of
one shape are paired: by their role where the names state one, else by how many tensors they cover, the words they share, their place,
and the values of one tensor of each. Names that only count, t_001 to t_291, are one pattern for everything: where the shapes say that
they count another model's tensors in an order of its own, that is one entry as well.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from functools import cache
from math import prod

from puna.lineage.verdict import Names, Renamed
from puna.lineage.weights.identity import Values, values_of
from puna.lineage.weights.reading import Checkpoint, Role, role_of

IN_ORDER = "(every tensor, in order)"
_NUMBER = re.compile(r"(?<![A-Za-z0-9_])\d+(?![A-Za-z0-9_])")
_MOST_SHOWN, _MOST_LETTERS = 12, 200
_MOST_NUMBERS = 100_000_000  # of a tensor whose values may tell which one it is
_MOST_PAIRS = 40_000  # of patterns: a model has some 15; only a file made to annoy has 200 that nothing else has


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
    counted = _counted(model, reference) if not equal else None
    if counted is not None:
        ours = {counted.model: _Pattern(counted.model, 0, counted.model, tensors=counted.tensors)}
        renames, left, right = [counted], {}, {}
    else:
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


def roles_by(model: Checkpoint, reference: Checkpoint) -> dict[str, Role]:
    """MODEL's stored name -> the role that the map of names gives it, from REFERENCE's roles."""
    roles = {source.name: role for role, source in reference.roles.items() if source.rows is None}
    if (pairs := _in_order(model, reference)) is not None and _anonymous(model) is not None:
        return {ours: roles[theirs] for ours, theirs in pairs.items() if theirs in roles}
    renames = {one.model: one.reference for one in compare_names(model, reference).renames}
    found = {}
    for name in model.stored:
        pattern, numbers = numbered(name)
        partner = renames.get(pattern, "")
        if partner and partner.count("{}") == len(numbers):
            called = partner.replace("{}", "\0")
            for number in numbers:
                called = called.replace("\0", number, 1)
            role = roles.get(called) or role_of(called)
            if role is not None:
                found[name] = role
    return found


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


def _anonymous(checkpoint: Checkpoint) -> str | None:
    """The one pattern of names that only count, "t_{}"; None where they say more."""
    patterns = {re.sub(r"\d+", "{}", name) for name in checkpoint.stored}
    return patterns.pop() if len(patterns) == 1 and len(checkpoint.stored) > 1 else None


def _counted(model: Checkpoint, reference: Checkpoint) -> Renamed | None:
    pattern = _anonymous(model)
    if pattern is None or _in_order(model, reference) is None:
        return None
    return Renamed(model=pattern, reference=IN_ORDER, tensors=len(model.stored))


def _in_order(model: Checkpoint, reference: Checkpoint) -> dict[str, str] | None:
    """MODEL's names, by their numbers, beside REFERENCE's in the first order in which all shapes agree: by blocks, as an alphabet has
    them, as they are stored; None where none does."""
    if len(model.stored) != len(reference.stored):
        return None
    ours = sorted(model.stored, key=_natural)
    orders = (
        sorted(reference.stored, key=_by_block),
        sorted(reference.stored, key=_natural),
        sorted(reference.stored),
        list(reference.stored),
    )
    for theirs in orders:
        if all(model.stored[a].shape == reference.stored[b].shape for a, b in zip(ours, theirs, strict=True)):
            return dict(zip(ours, theirs, strict=True))
    return None


def _natural(name: str) -> list[tuple[int, int, str]]:
    """A key by which part 9 stands before part 10."""
    return [(1, int(part), "") if part.isdigit() else (0, 0, part) for part in re.findall(r"\d{1,18}|\D+", name)]


def _by_block(name: str) -> tuple[int, int, int, str]:
    """A key for the order in which a model computes: the embedding, each block's parts, the last norm, the head."""
    role = role_of(name)
    if role is None:
        return (2**31, 0, 0, name)
    ends = {"embed": -1, "norm": 2**30, "head": 2**30 + 1}
    return (
        ends.get(role.kind, role.layer or 0),
        _IN_BLOCK.index(role.kind) if role.kind in _IN_BLOCK else 99,
        role.expert or 0,
        name,
    )


_IN_BLOCK = (
    "attn_norm",
    "q",
    "q_bias",
    "k",
    "k_bias",
    "v",
    "v_bias",
    "q_norm",
    "k_norm",
    "o",
    "mlp_norm",
    "router",
    "gate",
    "up",
    "down",
)


def _paired(
    left: Mapping[str, _Pattern], right: Mapping[str, _Pattern], model: Checkpoint, reference: Checkpoint
) -> list[Renamed]:
    """One-to-one pairs, the surest first."""

    @cache
    def values(checkpoint: int, name: str) -> Values | None:  # each tensor is read once
        stored = (model, reference)[checkpoint].stored[name]
        return values_of(stored) if prod(stored.shape) <= _MOST_NUMBERS else None

    scored = []
    few = len(left) * len(right) <= _MOST_PAIRS
    for ours, theirs in ((a, b) for a in left.values() for b in right.values()) if few else ():
        score = _likeness(ours, theirs, len(left), len(right))
        if score > 0 and not (ours.kind and theirs.kind):
            score += _values_alike(values(0, ours.first), values(1, theirs.first))
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


def _values_alike(ours: Values | None, theirs: Values | None) -> float:
    """Where words say nothing, numbers may: 0 for strangers, up to 3 for tensors alike in place, or with the same values in another order.

    Only which of several tensors of one shape is which is asked here (gate or up, key or value): whether the weights are related is not.
    """
    return 0.0 if ours is None or theirs is None else 3.0 * ours.likeness(theirs)


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
