"""The block map: which block comes from which, in spite of another order of units, blocks or stream; and nothing among strangers."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from puna.lineage.verdict import DERIVED_BELOW
from puna.lineage.weights.activations import collect, phi_match_activations, random_ids
from puna.lineage.weights.blocks import BlockMap, agreement, log10_poisson_tail, map_blocks, unit_order
from puna.lineage.weights.files import Stored
from puna.lineage.weights.matching import FULL, Effort
from puna.lineage.weights.reading import Checkpoint, assembled
from puna.lineage.weights.view import View
from puna.lineage.zoo import changes, training
from puna.lineage.zoo.training import CONFIG, State
from puna.model.config import ModelConfig
from puna.model.weights import Weights

LIMIT = math.log10(DERIVED_BELOW)


def corpus(seed: int = 5) -> torch.Tensor:
    """A text in which each token has eight followers: something to learn alike from."""
    draw = torch.Generator().manual_seed(seed)
    followers = torch.randint(512, (512, 8), generator=draw)
    ids, at = [], 0
    for choice in torch.randint(8, (20_000,), generator=draw).tolist():
        at = int(followers[at, choice])
        ids.append(at)
    return torch.tensor(ids)


@pytest.fixture(scope="module")
def strangers() -> list[State]:
    """Two models from scratch on one text, their batches the same too: all but the random start is shared."""
    ids = corpus()
    return [training.from_scratch(ids, init=seed, order=9, steps=40) for seed in (21, 22)]


def view(state: State, config: ModelConfig = CONFIG) -> View:
    return View(Checkpoint.of(Weights(config, lambda name: state[name])))


def mapped(changed: changes.Changed | State, parent: State, effort: Effort | None = None) -> BlockMap:
    if isinstance(changed, dict):
        return map_blocks(view(changed), view(parent), effort)
    stored = {
        name: Stored(tuple(tensor.shape), "F32", lambda tensor=tensor: tensor) for name, tensor in changed.state.items()
    }
    return map_blocks(View(assembled("changed", changed.config.to_hf() | changed.hf, stored)), view(parent), effort)


@pytest.mark.parametrize("effort", [None, Effort(units=128, columns=96)])
def test_strangers_have_no_map(strangers: list[State], effort: Effort | None) -> None:
    found = map_blocks(view(strangers[0]), view(strangers[1]), effort)
    assert found.sources == (None,) * 4
    assert found.runner_up == (None,) * 4
    assert (found.test.log10_p or 0) > -3
    assert found.holm.min() > -3


@pytest.mark.parametrize("effort", [None, Effort(units=128, columns=96)])
def test_permuted_units_are_found_again(strangers: list[State], effort: Effort | None) -> None:
    parent = strangers[0]
    child = changes.units_permuted(changes.noised(parent, 0.3, 1), 2)
    found = mapped(child, parent, effort)
    assert found.sources == (0, 1, 2, 3)
    assert (found.test.log10_p or 0) < -20
    for layer in range(4):
        name = f"model.layers.{layer}.mlp.up_proj.weight"
        back = parent[name][torch.as_tensor(found.units[layer, None])]
        assert float((child[name] - back).norm() / back.norm()) < 0.5


@pytest.mark.parametrize(
    ("how", "sources"),
    [("duplicate", (0, 1, 2, 1, 2, 3)), ("solar", (0, 1, 2, 1, 2, 3)), ("silent", (0, 1, 1, 2, 2, 3))],
)
def test_grown_in_depth(strangers: list[State], how: str, sources: Sequence[int]) -> None:
    assert mapped(changes.grown(strangers[0], how), strangers[0]).sources == sources


def test_pruned_reordered_and_permuted_at_once(strangers: list[State]) -> None:
    parent = strangers[0]
    made = changes.shallower(parent, [0, 1, 3])
    assert mapped(replace(made, state=changes.units_permuted(made.state, 8, made.config)), parent).sources == (0, 1, 3)
    turned = {
        name.replace("layers.1.", "layers.x.")
        .replace("layers.2.", "layers.1.")
        .replace("layers.x.", "layers.2."): tensor
        for name, tensor in parent.items()
    }
    assert mapped(turned, parent).sources == (0, 2, 1, 3)


def test_twins_in_the_reference_are_told_apart(strangers: list[State]) -> None:
    """REFERENCE was grown and its copies trained a little: each block of its descendant goes to its own, and the twin is the runner-up."""
    grown = changes.grown(strangers[0], "duplicate")
    parent = changes.noised(grown.state, 0.02, 3)
    own, other = view(parent, grown.config), view(changes.noised(parent, 0.005, 4), grown.config)
    found = map_blocks(other, own)
    assert found.sources == (0, 1, 2, 3, 4, 5)
    assert found.runner_up == (None, 3, 4, 1, 2, None)


def test_every_expert_of_an_upcycled_block(strangers: list[State]) -> None:
    found = mapped(changes.upcycled(strangers[0], 4, 3), strangers[0])
    assert found.sources == (0, 1, 2, 3)
    assert set(found.units) == {(layer, expert) for layer in range(4) for expert in range(4)}
    assert all(np.array_equal(order, np.arange(176)) for order in found.units.values())


def test_a_mixed_model_names_only_the_blocks_that_it_took(strangers: list[State]) -> None:
    parent, other = strangers
    child = {name: other[name] if "layers.2." in name else tensor for name, tensor in parent.items()}
    assert mapped(child, parent).sources == (0, 1, None, 3)


def test_agreement_counts_beyond_chance_and_in_two_steps() -> None:
    draw = torch.Generator().manual_seed(2)
    gate, up = torch.randn(600, 48, generator=draw), torch.randn(600, 48, generator=draw)
    order = torch.randperm(600, generator=draw)
    near = [part[order] + 1.5 * torch.randn(600, 48, generator=draw) for part in (gate, up)]
    for effort in (FULL, Effort(units=300), Effort(units=64)):
        assert agreement(*near, gate, up, effort) < LIMIT
    far = [
        agreement(near[0], near[1][torch.randperm(600, generator=draw)], gate, up, Effort(units=300))
        for _ in range(200)
    ]
    p = 10 ** np.asarray(far)
    assert (p <= 0.05).mean() <= 0.11  # of 200; the size is 0.05 at most
    assert p.min() > 1e-5


def test_padding_agrees_with_nothing() -> None:
    draw = torch.Generator().manual_seed(2)
    parts = [torch.randn(200, 48, generator=draw) for _ in range(4)]
    for part in parts:
        part[150:] = 0
    for effort in (FULL, Effort(units=100)):
        assert agreement(*parts, effort) > -3
    order = unit_order(parts[0], parts[0][torch.randperm(200, generator=draw)])
    assert order.min() >= 0


def test_poisson_tail() -> None:
    from scipy import stats

    for count, mean in ((1, 1.0), (5, 0.02), (30, 1.0), (40, 35.0), (150, 20.0)):
        assert log10_poisson_tail(count, mean) == pytest.approx(
            stats.poisson.logsf(count - 1, mean) / math.log(10), rel=1e-6
        )
    assert -360 < log10_poisson_tail(400, 20.0) < -356  # where SciPy says minus infinity
    assert log10_poisson_tail(0, 1.0) == 0.0


# By what the units do


def decoder(changed: changes.Changed | State):  # type: ignore[no-untyped-def]
    return (
        training.decoder_of(changed)
        if isinstance(changed, dict)
        else training.decoder_of(changed.state, changed.config)
    )


@pytest.mark.parametrize("what", ["text", "random"])
def test_activations_see_through_a_rotation_and_other_orders(strangers: list[State], what: str) -> None:
    parent, stranger = strangers
    ids = corpus()[:1024].view(16, 64) if what == "text" else random_ids(512)
    turned = changes.stream_rotated(changes.units_permuted(changes.noised(parent, 0.1, 3), 4), 5)
    known = collect(decoder(parent), ids)
    assert known.gate[0].shape == (176, 1024)
    found = phi_match_activations(collect(decoder(turned), ids), known)
    assert found.sources == (0, 1, 2, 3)
    assert (found.test.log10_p or 0) < -50
    grown = phi_match_activations(collect(decoder(changes.grown(parent, "duplicate")), ids), known)
    assert grown.sources[:3] == (0, 1, 2)
    apart = phi_match_activations(collect(decoder(stranger), ids), known)
    assert apart.sources == (None,) * 4
    assert (apart.test.log10_p or 0) > -4


def test_activations_at_other_positions_are_refused(strangers: list[State]) -> None:
    model = decoder(strangers[0])
    few, more = collect(model, random_ids(512), 100), collect(model, random_ids(512), 200)
    with pytest.raises(ValueError, match="different texts"):
        phi_match_activations(few, more)


def test_collecting_leaves_no_hook(strangers: list[State]) -> None:
    model = decoder(strangers[0])
    collect(model, random_ids(512), 10)
    assert not any(
        layer.mlp.gate_proj._forward_hooks or layer.mlp.up_proj._forward_hooks for layer in model.model.layers
    )
