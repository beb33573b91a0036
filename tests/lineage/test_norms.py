"""Norm gains: strangers' are alike to three digits and say nothing; centred they do."""

from typing import Any

import pytest
import torch
from scipy import stats

from puna.lineage.weights.norms import norm_gains
from puna.lineage.weights.reading import Checkpoint
from puna.lineage.zoo import changes
from puna.lineage.zoo.training import CONFIG, State
from puna.model.weights import Weights


def checkpoint(state: State) -> Checkpoint:
    return Checkpoint.of(Weights(CONFIG, lambda name: state[name]))


def test_raw_and_centred_stand_side_by_side(family: Any) -> None:
    """The case of January 2026: 0.99 between strangers."""
    found = norm_gains(checkpoint(family["second"]), checkpoint(family["first"]))
    assert found.details["raw_cosine"] > 0.999 and abs(found.statistic) < 0.15 and found.log10_p > -3
    assert len(found.details["norms"]) == 9
    for name, raw, centred in found.details["norms"]:
        assert name.endswith("norm.weight") and raw > 0.999 and abs(centred) < 0.5


@pytest.mark.parametrize("name", ["tuned", "longer", "adapter", "sibling"])
def test_what_shares_a_start_is_found(family: Any, name: str) -> None:
    found = norm_gains(checkpoint(family[name]), checkpoint(family["first"]))
    assert found.log10_p < -8 and found.statistic > 0.3


def test_the_student_is_a_stranger(family: Any) -> None:
    assert norm_gains(checkpoint(family["student"]), checkpoint(family["first"])).log10_p > -3


def test_strangers_are_uniform_over_orders_of_the_stream(family: Any) -> None:
    first = checkpoint(family["first"])
    found = [
        norm_gains(checkpoint(changes.stream_permuted(family["second"], seed)), first).p_value for seed in range(200)
    ]
    assert stats.kstest(found, "uniform").statistic < 0.14  # once in 1,000


def test_gains_that_were_never_learnt_are_no_evidence(family: Any) -> None:
    flat = {
        name: torch.full_like(tensor, 1.5) if tensor.ndim == 1 else tensor for name, tensor in family["first"].items()
    }
    assert "never learnt" in norm_gains(checkpoint(flat), checkpoint(family["first"])).why_not


def test_what_cannot_be_read_is_left_out(family: Any) -> None:
    broken = {name: torch.full_like(tensor, float("nan")) if tensor.ndim == 1 and "layers.1" in name else tensor
              for name, tensor in family["tuned"].items()}  # fmt: skip
    found = norm_gains(checkpoint(broken), checkpoint(family["first"]))
    assert len(found.details["norms"]) == 7 and found.log10_p < -8
    all_broken = {
        name: torch.full_like(tensor, float("nan")) if tensor.ndim == 1 else tensor
        for name, tensor in family["tuned"].items()
    }
    assert "can be read" in norm_gains(checkpoint(all_broken), checkpoint(family["first"])).why_not
