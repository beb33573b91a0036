"""What comparisons of weights say of a board's models: parents found, parents' claims tested.

Comes in: the facts of a model, and comparisons (`puna lineage`). Goes out: the same facts with evidence. Must never happen: a claim overwritten
by a test, or a test by a claim: both are told, also where they disagree.
"""

from collections.abc import Sequence

from puna.judge.measured import ModelFacts, Parent
from puna.lineage.verdict import Lineage, Subject

_UNCHECKED = " (not yet checked against other models)"


def with_descent(facts: ModelFacts, comparisons: Sequence[Lineage]) -> ModelFacts:
    """The facts with what the comparisons of this model say; without any, as they are."""
    own = [one for one in comparisons if _is(one.model_facts, one.model, facts.digest, facts.name)]
    parents, notes = list(facts.parents), list(facts.notes)
    strangers = []
    for one in own:
        weights = one.layers.weights
        at = next(
            (
                i
                for i, parent in enumerate(parents)
                if _is(one.reference_facts, one.reference, parent.digest, parent.name)
            ),
            None,
        )
        if weights.verdict in ("same", "derived"):
            said = (
                f"the weights show it (p {_power(weights.log10_p)})"
                if weights.decided_by != "identity"
                else "the weights show it: the same numbers"
            )
            if at is None:
                digest = one.reference_facts.digest if one.reference_facts else None
                parents.append(
                    Parent(
                        name=one.reference,
                        relation=weights.relation or "",
                        digest=digest,
                        evidence=f"{said}; its maker does not name it",
                    )
                )
            else:
                known = parents[at]
                parents[at] = known.model_copy(update={"relation": known.relation or weights.relation or "",
                                                       "evidence": _joined(known.evidence, said)})  # fmt: skip
        elif weights.verdict == "independent":
            strangers.append(one.reference)
            if at is not None:
                said = f"but its weights show no trace of it (p {_power(weights.log10_p)})"
                parents[at] = parents[at].model_copy(update={"evidence": _joined(parents[at].evidence, said)})
        else:
            notes.append(f"whether its weights stem from {one.reference} cannot be told")
    if not own:
        return facts
    no_parent = facts.no_parent
    if strangers:
        notes.append(
            f"compared number by number with {', '.join(strangers)}: no trace of {'it' if len(strangers) == 1 else 'them'}"
        )
        checked = (
            f" (its weights show no trace of {len(strangers)} compared {'model' if len(strangers) == 1 else 'models'})"
        )
        no_parent = no_parent.replace(_UNCHECKED, checked)
    return facts.model_copy(
        update={
            "parents": tuple(parents),
            "notes": tuple(dict.fromkeys(notes)),
            "no_parent": "" if parents else no_parent,
        }
    )


def _is(subject: Subject | None, called: str, digest: str | None, name: str) -> bool:
    """Whether a side of a comparison is a model: by digest where both have one, else by name."""
    if subject is not None and subject.digest and digest:
        return subject.digest == digest
    return called == name


def _joined(known: str, said: str) -> str:
    """A claim and what the weights say of it."""
    for words in ("; not yet checked against the weights", " (not yet checked against the weights)"):
        known = known.replace(words, "")
    return f"{known}; {said}" if known else said


def _power(log10_p: float | None) -> str:
    if log10_p is None:
        return "unknown"
    return f"= {10**log10_p:.2g}" if log10_p > -4 else f"= 1e{round(log10_p)}"
