"""Leanings from the random start: found from step 0 on, uniform for strangers, and why tokens' outputs will not do."""

from typing import Any

import pytest
import torch

from puna.lineage.weights.initialisation import initialisation, leanings
from puna.lineage.zoo import changes
from puna.lineage.zoo.training import CONFIG, State, decoder_of
from puna.model.decoder import Decoder


def against_first(family: Any, state: State) -> Any:
    return initialisation(decoder_of(state), decoder_of(family["first"]))


@pytest.mark.parametrize("name, below", [("tuned", -20), ("adapter", -8), ("longer", -8), ("sibling", -8)])
def test_what_shares_a_start_is_found(family: Any, name: str, below: float) -> None:
    found = against_first(family, family[name])
    assert found.log10_p < below and found.exact and found.ran


@pytest.mark.parametrize("name", ["second", "student"])
def test_strangers_lean_otherwise_though_their_tokens_do_not(family: Any, name: str) -> None:
    found = against_first(family, family[name])
    assert found.log10_p > -3
    assert found.details["logits_tau_worthless"] > 0.3  # one text: the same frequent tokens


def test_a_trained_model_still_leans_as_its_start_did(family: Any) -> None:
    """The zoo's first begins at init 1, its second at init 3."""
    starts = {}
    for seed in (1, 3):
        starts[seed] = Decoder(CONFIG)
        starts[seed].init_weights(seed)
    own, other = (initialisation(starts[seed], decoder_of(family["first"])) for seed in (1, 3))
    assert own.log10_p < -3 < other.log10_p


def test_leanings_follow_the_streams_order(family: Any) -> None:
    """So that the rank correlation's null, all orders, is what strangers meet (its tail: test_statistics.py)."""
    ids = torch.arange(64).view(8, 8)
    order = torch.randperm(CONFIG.hidden_size, generator=torch.Generator().manual_seed(5))  # as the zoo draws it
    permuted = leanings(decoder_of(changes.stream_permuted(family["second"], 5)), ids)
    assert torch.allclose(permuted, leanings(decoder_of(family["second"]), ids)[order], atol=1e-5)
    assert (
        initialisation(decoder_of(changes.stream_permuted(family["first"], 5)), decoder_of(family["first"])).log10_p
        > -3
    )


def test_a_turned_stream_hides_from_it(family: Any) -> None:
    """A limit, stated in the docstring."""
    assert against_first(family, changes.stream_rotated(family["first"], 3)).log10_p > -3


def test_units_in_another_order_do_not(family: Any) -> None:
    assert against_first(family, changes.units_permuted(family["first"], 3)).statistic > 0.99


def test_where_it_cannot_run_it_says_why(family: Any) -> None:
    narrow = Decoder(CONFIG.model_copy(update={"hidden_size": 32}))
    narrow.init_weights(1)
    assert "64" in initialisation(narrow, decoder_of(family["first"])).why_not
    broken = dict(family["first"])
    broken["model.norm.weight"] = torch.full((64,), float("nan"))
    assert "not finite" in against_first(family, broken).why_not
    dead = dict(family["first"])
    dead["model.norm.weight"] = torch.zeros(64)
    assert "the same" in against_first(family, dead).why_not


def test_leanings_are_the_mean_over_positions(family: Any) -> None:
    model = decoder_of(family["first"])
    ids = torch.arange(40).view(20, 2)
    with torch.no_grad():
        wanted = model(ids).double().mean(dim=(0, 1))
    assert torch.allclose(leanings(model, ids), wanted, atol=1e-6)
