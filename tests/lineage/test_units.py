"""phi_U: what keeps the places of its hidden units, and what only looks as if it did."""

import numpy as np
import pytest
import torch
from scipy import stats

from puna.lineage.weights.matching import Effort, match_rows, nearest_rows
from puna.lineage.weights.places import in_place
from puna.lineage.weights.reading import Checkpoint
from puna.lineage.weights.units import phi_u
from puna.lineage.weights.view import Basis, View
from puna.lineage.zoo import changes
from puna.lineage.zoo.training import CONFIG, State
from puna.model.config import ModelConfig
from puna.model.decoder import Decoder
from puna.model.weights import Weights

PAIRS = [(i, i) for i in range(CONFIG.num_hidden_layers)]
PART = Effort(units=96, columns=48)


def random_state(seed: int, config: ModelConfig = CONFIG) -> State:
    """A model as it starts."""
    model = Decoder(config)
    model.init_weights(seed)
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def view(state: State, config: ModelConfig = CONFIG, basis: Basis | None = None) -> View:
    checkpoint = Checkpoint.of(Weights(config, lambda name: state[name]))
    return View(checkpoint) if basis is None else View(checkpoint, basis)


def test_rows_are_matched_whatever_side_is_wider() -> None:
    draw = torch.Generator().manual_seed(0)
    rows, order = torch.randn(90, 32, generator=draw), torch.randperm(90, generator=draw)
    other = rows[order] * 3 + 0.2 * torch.randn(90, 32, generator=draw)
    place = torch.empty(90, dtype=torch.long).scatter_(0, order, torch.arange(90))
    assert match_rows(rows, other).tolist() == place.tolist() == nearest_rows(rows, other).tolist()
    assert match_rows(rows[:50], other).tolist() == place[:50].tolist()
    fewer = match_rows(rows, other[:60])
    assert sorted(fewer[fewer >= 0].tolist()) == list(range(60))
    assert all(place[k] == found for k, found in enumerate(fewer) if found >= 0)


def test_the_assignment_is_the_best_one_where_the_nearest_collide() -> None:
    a = torch.tensor([[1.0, 0.0], [0.9, 0.3]])
    b = torch.tensor([[1.0, 0.1], [0.0, 1.0]])
    assert nearest_rows(a, b).tolist() == [0, 0]
    assert match_rows(a, b).tolist() == [0, 1]


@pytest.mark.parametrize("effort", [None, PART])
def test_a_descendant_keeps_its_places_and_a_stranger_has_none(effort: Effort | None) -> None:
    parent = random_state(1)
    child, stranger = changes.noised(parent, 1.0, 5), random_state(2)
    assert (phi_u(view(child), view(parent), PAIRS, effort).log10_p or 0) < -12
    found = phi_u(view(stranger), view(parent), PAIRS, effort)
    assert found.ran
    assert found.exact
    assert (found.log10_p or 0) > -3
    assert bool(found.sampled) == (effort is not None)


def test_permuted_units_are_not_seen_by_this_test() -> None:
    parent = random_state(1)
    assert (phi_u(view(changes.units_permuted(parent, 4)), view(parent), PAIRS).log10_p or 0) > -3


def test_a_narrower_model_keeps_the_order() -> None:
    parent = random_state(1)
    config = CONFIG.model_copy(update={"intermediate_size": 112})
    kept = torch.randperm(176, generator=torch.Generator().manual_seed(3))[:112].sort().values
    narrow = {name: (tensor[kept] if "gate_proj" in name or "up_proj" in name else tensor[:, kept] if "down_proj" in name else tensor)
              for name, tensor in parent.items()}  # fmt: skip
    assert (phi_u(view(narrow, config), view(parent), PAIRS).log10_p or 0) < -100
    assert (phi_u(view(parent), view(narrow, config), PAIRS).log10_p or 0) < -100
    assert (phi_u(view(random_state(2)), view(narrow, config), PAIRS).log10_p or 0) > -3


def test_experts_stand_beside_the_mlp_that_they_were() -> None:
    parent = random_state(1)
    made = changes.upcycled(parent, 4, 7)
    from puna.lineage.weights.files import Stored
    from puna.lineage.weights.reading import assembled

    stored = {
        name: Stored(tuple(tensor.shape), "F32", lambda tensor=tensor: tensor) for name, tensor in made.state.items()
    }
    experts = assembled("experts", made.config.to_hf() | made.hf, stored)
    assert experts.sizes.experts == 4
    assert (phi_u(View(experts), view(parent), PAIRS).log10_p or 0) < -100


def test_other_widths_and_no_pairs_say_why_not() -> None:
    parent = random_state(1)
    cut = Basis(order=torch.arange(48))
    assert "48 and 64 wide" in phi_u(view(parent, basis=cut), view(parent), PAIRS).why_not
    assert phi_u(view(parent), view(parent), []).why_not


@pytest.mark.parametrize("effort", [None, PART])
def test_p_is_uniform_over_shuffled_units_of_a_relative(effort: Effort | None) -> None:
    """The null itself: the units of a close relative in random orders. What both share must not show."""
    parent = random_state(1)
    child = view(changes.noised(parent, 0.5, 5))
    draw = [
        phi_u(child, view(changes.units_permuted(parent, seed)), [(seed % 4, seed % 4)], effort).log10_p or 0.0
        for seed in range(120)
    ]
    assert stats.kstest(10 ** np.asarray(draw), "uniform").pvalue > 1e-3


def test_padding_is_no_likeness() -> None:
    """Two strangers whose blocks end in as many units of zeros: by place they would be alike."""
    draw = torch.Generator().manual_seed(1)
    common = 0.5 * torch.randn(1, 64, generator=draw)
    a, b = (torch.randn(300, 64, generator=draw) + common for _ in range(2))
    a[220:], b[220:] = 0, 0
    assert (match_rows(a, b) >= 0).sum() == 220
    assert set(nearest_rows(a, b)[220:]) == {-1}
    assert max(match_rows(a, b)) < 220
    assert in_place(a, b).log10_p > -3
    first, second = random_state(1), random_state(2)
    for state in (first, second):
        for name, tensor in state.items():
            if "gate_proj" in name or "up_proj" in name:
                tensor[120:] = 0
    assert (phi_u(view(first), view(second), PAIRS).log10_p or 0) > -3
    assert (phi_u(view(first), view(second), PAIRS, PART).log10_p or 0) > -3
