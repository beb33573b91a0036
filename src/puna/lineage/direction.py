"""Who came first, where something shows it.

Comes in: what was found of the weights and of the ledgers. Goes out: `verdict.Direction`. Must never happen: a direction read off a symmetric
test, or off the order in which two models were named.

What a model lost, nothing brings back: rounded numbers, a coarse grid, zeros, blocks and units that were cut. Where MODEL has less and what is left
is REFERENCE's number for number (or rounded), REFERENCE was there first. A change that only adds (training, noise) could have gone either way; so could
growth: a deeper model can be the original of a pruned one. Kurtosis, which moves one way along training in some families (Horwitz et al. 2025, "MoTHer"),
is not used: docs/LOG.md has what it did on the zoo.
"""

from puna.lineage.verdict import DataLayer, Direction, Weights
from puna.lineage.weights import relation as named

_LOST = {
    named.ROUNDED: "MODEL is REFERENCE rounded to fewer digits",
    named.QUANTISED: "MODEL is REFERENCE rounded to a coarse grid",
    named.SPARSE: "MODEL is REFERENCE with small weights set to zero",
}
_EXACT = 1e-6
_SYMMETRIC = "These tests are symmetric: they say that two models are related, not which of them came first."


def direction(weights: Weights, data: DataLayer) -> Direction:
    """From the ledger first, then from what was lost."""
    if data.verdict == "derived":
        return Direction(
            known=True, sentence="REFERENCE came first: MODEL's ledger names its weights.", evidence=(data.sentence,)
        )
    lost = _LOST.get(weights.relation or "")
    if lost is not None:
        return Direction(
            known=True,
            sentence=f"REFERENCE came first: {lost}, and digits that are lost do not come back.",
            evidence=(lost,),
        )
    if weights.relation in (named.PRUNED_DEPTH, named.PRUNED_WIDTH) and _untouched(weights):
        return Direction(
            known=False,
            sentence="MODEL holds a part of REFERENCE, number for number. Either it was cut out of it, or REFERENCE was grown from it.",
        )
    return Direction(sentence=_SYMMETRIC)


def _untouched(weights: Weights) -> bool:
    sizes = [one.difference for one in weights.tensors if one.difference is not None]
    return bool(sizes) and max(sizes) <= _EXACT
