"""The record that the documents are written from, and the sentences that several of them share."""

import pytest
from pydantic import ValidationError
from tests_ledger_evidence import CHILD, LITTLE, evidence

from puna.ledger.evidence import Evidence, Measure, beginning, energy, trained


def test_what_is_no_number_is_refused() -> None:
    for value in (float("nan"), float("inf")):
        with pytest.raises(ValidationError):
            Measure(task="quiz", metric="accuracy", value=value)
    with pytest.raises(ValidationError):
        Evidence.model_validate({**evidence().model_dump(), "guess": 1})


def test_a_model_of_the_run_is_no_parent_from_elsewhere() -> None:
    llama, before = CHILD["ancestors"]
    assert evidence().from_scratch and evidence(ancestors=(before,)).from_scratch
    child = evidence(**CHILD)
    assert not child.from_scratch and child.parents == (llama,)


def test_sentences_say_what_is_not_known() -> None:
    assert "random weights" in beginning(evidence()) and "e" * 64 in beginning(evidence())
    assert "not logged" in beginning(evidence(**LITTLE))
    assert beginning(evidence(**CHILD)) == "Began with the weights of llama."
    assert (
        energy(evidence()) == "energy was not measured"
        and energy(evidence(joules=1234.0)) == "1,234 joules were measured"
    )
    assert trained(evidence().training[0]) == "pretraining: 1,000 tokens in 10 steps, AdamW"
    assert "not logged" in trained(evidence().training[0].model_copy(update={"tokens": None, "steps": None}))
