"""What was found about the weights, in words that a journalist understands.

Comes in: the filled `verdict.Weights`. Goes out: one plain sentence and the lines of evidence. Must never happen: a sentence stronger than its
figures, or one that leaves out what it rests on.
"""

from collections.abc import Mapping

from puna.lineage.verdict import NOTHING_ABOVE, Behaviour, Weights
from puna.lineage.weights.identity import Identity
from puna.lineage.weights.relation import AMBIGUOUS, Relation

_DONE = {
    "copy": "it is a copy",
    "renamed": "it is a copy whose tensors were given other names",
    "rounded": "it is a copy rounded to fewer digits",
    "quantised": "it is a copy rounded to a coarse grid (quantised)",
    "fine-tuned": "it was trained on from there, and changed little (fine-tuned)",
    "continued": "it was trained on from there, and changed much (continued)",
    "adapter merged": "a small low-rank change was added to it (an adapter merged in)",
    "noised": "random noise was added to it",
    "pruned by magnitude": "small weights in it were set to zero",
    "grown in depth": "blocks of it were repeated to make it deeper",
    "pruned in depth": "blocks of it were left out",
    "pruned in width": "it was made narrower",
    "merged from several": "it is a weighted sum of several models",
    "vocabulary rebuilt": "it was given another vocabulary",
    "upcycled to experts": "its MLPs were copied into experts",
}


def unnamed(share: float) -> Relation:
    """Where tensors are the same numbers and the tests that name a relation could not run."""
    return Relation(None, (), min(1.0, share))


def told(found: Weights, model: str, reference: str, identities: Mapping[str, Identity]) -> tuple[str, tuple[str, ...]]:
    """(sentence, evidence)."""
    evidence = list(_evidence(found, identities))
    if found.verdict == "same":
        return f"The weights of {model} are those of {reference}, number for number.", tuple(evidence)
    if found.verdict == "derived":
        done = _DONE.get(found.relation or "", "what was done to it cannot be named")
        share = (
            ""
            if found.share is None
            else f" {found.share:.0%} of its parameters stand in tensors that carry {reference}'s."
        )
        also = f" Besides: {', '.join(found.also)}." if found.also else ""
        how = (
            "the same numbers stand in both, which never happens by chance" if found.decided_by == "identity"
            else f"agreement like this would come about by chance once in 10^{-round(found.log10_p or 0)} cases"
        )  # fmt: skip
        doubt = f" {AMBIGUOUS[found.relation]}" if found.relation in AMBIGUOUS else ""
        return (
            f"The weights of {model} stem from those of {reference}: {how}. By the figures {done}.{also}{share}{doubt}",
            tuple(evidence),
        )
    if found.verdict == "independent":
        return (
            f"The weights of {model} show no trace of those of {reference}: every test finds as much agreement as between two strangers"
            f" (p = {found.p_value:.2g}). That both have the same architecture, or were trained on the same text, does not count here.",
            tuple(evidence),
        )  # fmt: skip
    if found.log10_p is None:
        return "Whether the weights are related cannot be told: no test could run (see below).", tuple(evidence)
    why = (
        f"the figures lie between what strangers and descendants show (p = {found.p_value:.2g})" if (found.p_value or 1) <= NOTHING_ABOVE
        else "the tests that would see a disguised copy could not run"
    )  # fmt: skip
    return f"Whether the weights are related cannot be told: {why}.", tuple(evidence)


def _evidence(found: Weights, identities: Mapping[str, Identity]) -> list[str]:
    lines = []
    kinds: dict[str, int] = {}
    for identity in identities.values():
        kinds[identity.kind] = kinds.get(identity.kind, 0) + 1
    if kinds:
        lines.append("tensors with the same numbers: " + ", ".join(f"{count} {kind}" for kind, count in kinds.items()))
    else:
        lines.append("no tensor of the one holds the same numbers as a tensor of the other")
    mapped = sum(block.source is not None for block in found.blocks)
    if found.blocks:
        lines.append(f"{mapped} of {len(found.blocks)} blocks have a source in the reference")
    lines += [f"not read: {line}" for line in found.missing[:8]]
    if len(found.missing) > 8:
        lines.append(f"not read: {len(found.missing) - 8} more")
    return lines


def with_behaviour(found: Weights, behaviour: Behaviour) -> Weights:
    """The same with what the two models say, which never changes the verdict: a student speaks like its teacher."""
    told_apart = ""
    if found.verdict == "independent" and behaviour.alike:
        told_apart = " They speak alike all the same, as a model does that was trained on another's answers, or on the same text."
    return found.model_copy(update={"behaviour": behaviour, "sentence": found.sentence + told_apart})
