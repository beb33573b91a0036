"""What comparisons of weights add to the parents that a model's maker names."""

from puna.board.descent import with_descent
from puna.judge.measured import ModelFacts, Parent
from puna.lineage.verdict import (
    Architecture,
    DataLayer,
    Layers,
    Licence,
    Lineage,
    Names,
    Subject,
    TokenizerLayer,
    Weights,
)


def compared(
    verdict: str,
    *,
    model: str = "mine",
    reference: str = "llama",
    digests: tuple[str | None, str | None] = ("m", "r"),
    **weights: object,
) -> Lineage:
    layers = Layers(
        names=Names(verdict="same", sentence=""), architecture=Architecture(verdict="same", sentence=""), tokenizer=TokenizerLayer(verdict="same", sentence=""),
        weights=Weights(verdict=verdict, sentence="", **weights), data=DataLayer(verdict="not decidable from outside", sentence=""),
        licence=Licence(verdict="cannot tell", sentence=""),
    )  # fmt: skip
    return Lineage(model=model, reference=reference, layers=layers, model_facts=Subject(name=model, digest=digests[0]),
                   reference_facts=Subject(name=reference, digest=digests[1]))  # fmt: skip


DECLARED = Parent(
    name="llama",
    relation="continued",
    digest="r",
    evidence="its ledger says so (entries 3; not yet checked against the weights)",
)


def test_without_a_comparison_nothing_changes() -> None:
    facts = ModelFacts(name="mine", digest="m", parents=(DECLARED,))
    assert with_descent(facts, []) is facts
    assert with_descent(facts, [compared("derived", digests=("other", "r"))]) is facts  # the same name, other weights


def test_a_parent_that_the_maker_names_is_confirmed_with_its_p_value() -> None:
    (parent,) = with_descent(
        ModelFacts(name="mine", digest="m", parents=(DECLARED,)),
        [compared("derived", log10_p=-120.0, relation="fine-tuned", decided_by="in_place")],
    ).parents
    assert parent.relation == "continued"  # the ledger's word stays
    assert (
        "its ledger says so" in parent.evidence
        and "1e-120" in parent.evidence
        and "not yet checked" not in parent.evidence
    )


def test_a_parent_that_nobody_named_is_added_and_said_to_be_so() -> None:
    (parent,) = with_descent(
        ModelFacts(name="mine", digest="m"),
        [compared("derived", log10_p=-50.0, relation="merged from several", decided_by="stream")],
    ).parents
    assert (parent.name, parent.relation, parent.digest) == (
        "llama",
        "merged from several",
        "r",
    ) and "does not name it" in parent.evidence


def test_a_claim_that_the_weights_deny_stays_and_is_contradicted() -> None:
    (parent,) = with_descent(
        ModelFacts(name="mine", digest="m", parents=(DECLARED,)), [compared("independent", log10_p=-0.3)]
    ).parents
    assert "its ledger says so" in parent.evidence and "no trace" in parent.evidence


def test_strangers_are_counted_where_no_parent_is_known() -> None:
    facts = ModelFacts(
        name="mine",
        digest="m",
        no_parent="its ledger says that it began with random weights (not yet checked against other models)",
    )
    found = with_descent(
        facts,
        [
            compared("independent", log10_p=-0.3),
            compared("independent", reference="yi", digests=("m", "y"), log10_p=-0.1),
        ],
    )
    assert found.parents == () and "no trace of 2 compared models" in found.no_parent
    assert any("llama, yi" in note for note in found.notes)


def test_what_cannot_be_told_is_told() -> None:
    found = with_descent(ModelFacts(name="mine"), [compared("cannot tell", digests=(None, None))])
    assert found.parents == () and "cannot be told" in found.notes[0]
