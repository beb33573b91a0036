"""Direction: what proves it, what only hints, and what contradicts."""

import datetime
from typing import Any, cast

import pytest
import torch

from puna.lineage.verdict import Block, Coefficient, Weights
from puna.lineage.weights import relation as named
from puna.lineage.weights.direction import SYMMETRIC, direction, kurtosis, way
from puna.lineage.weights.reading import Checkpoint
from puna.lineage.zoo import changes, training
from puna.lineage.zoo.training import CONFIG, State
from puna.model import weights as model_weights
from puna.model.decoder import Decoder

EARLY, LATE = datetime.date(2023, 11, 2), datetime.date(2023, 11, 15)


def checkpoint(state: State) -> Checkpoint:
    return Checkpoint.of(model_weights.Weights(CONFIG, lambda name: state[name]))


@pytest.fixture(scope="module")
def run(family: Any) -> list[State]:
    """A random start and four checkpoints of its training."""
    model = Decoder(CONFIG)
    model.init_weights(77)
    states = [{name: tensor.detach().clone() for name, tensor in model.state_dict().items()}]
    for number in range(4):
        states.append(training.further(states[-1], family.ground.prose, order=70 + number, steps=4, rate=training.RATE))
    return states


def test_without_evidence_the_tests_are_symmetric(family: Any) -> None:
    found = direction(checkpoint(family["longer"]), checkpoint(family["first"]))
    assert not found.known and found.sentence == SYMMETRIC
    assert len(found.evidence) == 1 and "kurtosis" in found.evidence[0] and "does not count" in found.evidence[0]


def test_strangers_have_no_direction(family: Any) -> None:
    found = direction(
        checkpoint(family["second"]), checkpoint(family["first"]), found=Weights(verdict="independent", sentence="")
    )
    assert not found.known and "not known to be related" in found.sentence


@pytest.mark.parametrize("how", ["bf16", "fp16", "int8", "int4", "zeros"])
def test_lost_digits_show_which_came_first(family: Any, how: str) -> None:
    state = family["first"]
    made = {
        "bf16": lambda: changes.rounded(state),
        "fp16": lambda: {name: tensor.half() for name, tensor in state.items()},
        "int8": lambda: changes.coarse(state, 8),
        "int4": lambda: changes.coarse(state, 4),
        "zeros": lambda: changes.each_matrix(state, lambda matrix: matrix * (matrix.abs() > 0.3 * matrix.std())),
    }[how]()
    fine, coarse = checkpoint(state), checkpoint(made)
    found = direction(coarse, fine, names=("child", "parent"))
    assert found.known and found.sentence.startswith("child stems from parent"), found
    found = direction(fine, coarse, names=("parent", "child"))
    assert found.known and found.sentence.startswith("child stems from parent"), found


@pytest.mark.parametrize("name", ["tuned", "longer", "adapter", "sibling"])
def test_training_loses_no_digits(family: Any, name: str) -> None:
    both = checkpoint(family[name]), checkpoint(family["first"])
    assert not direction(*both).known and not direction(both[1], both[0]).known


def test_a_copy_has_no_direction(family: Any) -> None:
    assert not direction(checkpoint(family["first"]), checkpoint(dict(family["first"]))).known


def test_two_roundings_of_one_model_do_not_point_at_each_other(family: Any) -> None:
    half = {name: tensor.half().float() for name, tensor in family["first"].items()}
    found = direction(checkpoint(half), checkpoint(changes.rounded(family["first"])))
    assert not found.known


def test_dates(family: Any) -> None:
    pair = checkpoint(family["tuned"]), checkpoint(family["first"])
    found = direction(*pair, dates={"reference_public": EARLY, "model_begun": LATE})
    assert found.known and "MODEL stems from REFERENCE" in found.sentence and "2023-11-02" in found.sentence
    assert (
        "REFERENCE stems from MODEL"
        in direction(*pair, dates={"model_public": EARLY, "reference_begun": LATE}).sentence
    )
    hint = direction(*pair, dates={"model_public": LATE, "reference_public": EARLY})
    assert not hint.known and "hint" in hint.evidence[0]
    with pytest.raises(ValueError, match="unknown dates"):
        direction(*pair, dates={"modle_public": EARLY})


def test_a_proven_start_and_a_contradiction(family: Any) -> None:
    pair = checkpoint(family["tuned"]), checkpoint(family["first"])
    assert "MODEL stems from REFERENCE" in direction(*pair, from_scratch=["reference"]).sentence
    found = direction(*pair, from_scratch=["reference"], dates={"model_public": EARLY, "reference_begun": LATE})
    assert not found.known and "contradicts" in found.sentence and len(found.evidence) == 3


def test_names_of_strangers_are_made_visible(family: Any) -> None:
    found = direction(
        checkpoint(family["tuned"]), checkpoint(family["first"]), names=("a\x1b[31m", "b"), from_scratch=["reference"]
    )
    assert "\x1b" not in found.sentence


# Along a run


def test_what_was_tuned_from_the_end_holds_the_run(family: Any, run: list[State]) -> None:
    tuned = training.further(run[-1], family.ground.code, order=5, steps=4, rate=training.FINE_RATE / 4)
    checkpoints = [checkpoint(state) for state in run]
    found = direction(checkpoint(tuned), checkpoints[-1], trajectory=checkpoints)
    assert found.known and "MODEL stems from REFERENCE" in found.sentence and "checkpoint 5 of 5" in found.sentence
    other_way = direction(checkpoints[-1], checkpoint(tuned), trajectory=checkpoints, trajectory_of="model")
    assert other_way.known and "REFERENCE stems from MODEL" in other_way.sentence


def test_a_checkpoint_of_the_run_itself(run: list[State]) -> None:
    checkpoints = [checkpoint(state) for state in run]
    found = direction(checkpoints[2], checkpoints[-1], trajectory=checkpoints)
    assert found.known and "checkpoint 3 of 5" in found.sentence
    first = direction(checkpoints[0], checkpoints[-1], trajectory=checkpoints)
    assert first.known and "REFERENCE stems from MODEL" in first.sentence and "begins at MODEL" in first.sentence


def test_a_sibling_and_a_long_training_are_hints(family: Any, run: list[State]) -> None:
    checkpoints = [checkpoint(state) for state in run]
    sibling = training.further(run[0], family.ground.prose, order=6, steps=16, rate=training.RATE)
    longer = training.further(run[-1], family.ground.code, order=8, steps=12, rate=training.RATE)
    for state in (sibling, longer):
        found = direction(checkpoint(state), checkpoints[-1], trajectory=checkpoints)
        assert not found.known and any("hint" in line or "both began" in line for line in found.evidence)


def test_two_tunings_of_one_base_prove_nothing(family: Any) -> None:
    """The trap: nearest to the other's end, and no child of it."""
    base, code = family["first"], family.ground.code
    run = [base]
    for number in range(2):
        run.append(training.further(run[-1], code, order=40 + number, steps=6, rate=training.FINE_RATE))
    other = training.further(base, code, order=50, steps=12, rate=training.FINE_RATE)
    checkpoints = [checkpoint(state) for state in run]
    distances, _ = way(checkpoint(other), checkpoints)
    assert distances[2] < distances[0]
    assert not direction(checkpoint(other), checkpoints[-1], trajectory=checkpoints).known


def test_a_way_needs_three_checkpoints_and_one_shape(family: Any, run: list[State]) -> None:
    checkpoints = [checkpoint(state) for state in run]
    few = direction(checkpoints[2], checkpoints[-1], trajectory=checkpoints[:2])
    assert not few.known and any("3 or more" in line for line in few.evidence)
    with pytest.raises(ValueError, match="3 or more"):
        way(checkpoints[0], checkpoints[:2])
    broken = {name: torch.full_like(tensor, float("nan")) for name, tensor in run[0].items()}
    found = direction(checkpoint(broken), checkpoints[-1], trajectory=checkpoints)
    assert not found.known and any("NaN" in line for line in found.evidence)


# Hints from the structure, and kurtosis


def test_copies_and_sums_are_hints(family: Any) -> None:
    pair = checkpoint(family["tuned"]), checkpoint(family["first"])
    blocks = tuple(Block(block=i, source=source) for i, source in enumerate((0, 1, 1, 2)))
    coefficients = tuple(Coefficient(reference=name, value=0.5, low=0.4, high=0.6) for name in "ab")
    for relation, word in ((named.GROWN, "1 blocks"), (named.UPCYCLED, "experts"), (named.MERGED, "sum of 2")):
        weights = Weights(verdict="derived", sentence="", relation=relation, blocks=blocks, coefficients=coefficients)
        found = direction(*pair, found=weights)
        assert not found.known and word in found.evidence[0] and "hint" in found.evidence[0]


def test_kurtosis_is_three_for_a_random_start_and_more_for_heavy_tails(run: list[State]) -> None:
    assert kurtosis(checkpoint(run[0])) == pytest.approx(3.0, abs=0.05)
    heavy = {name: tensor**3 for name, tensor in run[0].items()}
    assert kurtosis(checkpoint(heavy)) > 10
    assert kurtosis(checkpoint({name: tensor * 0 for name, tensor in run[0].items()})) == 0.0


def test_what_is_said_is_a_string(family: Any) -> None:
    found = direction(checkpoint(family["tuned"]), checkpoint(family["first"]))
    assert all(isinstance(line, str) for line in cast(tuple[str, ...], found.evidence))
