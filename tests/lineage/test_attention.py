"""Queries and keys in the stream: the null's moments against all orders, its tail against drawn ones, what is found; heads by any dress."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from puna.lineage.weights.attention import _kernel, _log10_gamma_tail, _moments, attention_alike, match_heads
from puna.lineage.weights.reading import Checkpoint
from puna.lineage.weights.view import Attention, View
from puna.lineage.zoo import changes
from puna.lineage.zoo.training import CONFIG, State
from puna.model.weights import Weights

ALL = [(i, i) for i in range(4)]


def view(state: State) -> View:
    return View(Checkpoint.of(Weights(CONFIG, lambda name: state[name])))


def in_another_order(state: State, seed: int) -> State:
    return changes.stream_permuted(state, seed)


def test_the_moments_are_those_of_all_orders() -> None:
    draw = torch.Generator().manual_seed(1)
    left, right = (torch.stack([_kernel(torch.randn(2, 3, 7, generator=draw), None) for _ in "qk"]) for _ in "ab")
    every = [float((left * right[:, list(o)][:, :, list(o)]).sum()) / 2 for o in itertools.permutations(range(7))]
    value, sd, _ = _moments(left, right, draw)
    assert abs(np.mean(every)) < 1e-6
    assert sd == pytest.approx(float(np.std(every)), rel=1e-4)
    assert value == pytest.approx(every[0], abs=1e-6)


def test_a_kernel_is_blind_to_rotations_inside_heads_and_to_scale() -> None:
    draw = torch.Generator().manual_seed(2)
    heads = torch.randn(2, 8, 20, generator=draw)
    turn = torch.linalg.qr(torch.randn(16, 16, generator=draw)).Q
    turned = (3 * turn @ heads.flatten(0, 1)).unflatten(0, (2, 8))
    assert torch.allclose(_kernel(heads, None), _kernel(turned, None), atol=1e-5)
    assert _kernel(torch.zeros(2, 8, 20), None) is None
    assert _kernel(torch.ones(2, 8, 20), None) is None  # reads all of the stream alike: nothing is left


def test_the_gamma_tail_is_scipys_and_goes_on_beyond_it() -> None:
    for z, skew in ((-1.0, 0.5), (2.0, 0.05), (6.0, 1.0), (20.0, 0.3)):
        shape = 4 / skew**2
        wanted = float(stats.gamma.logsf(shape + z * math.sqrt(shape), shape)) / math.log(10)
        assert _log10_gamma_tail(z, skew, 1000) == pytest.approx(wanted, rel=1e-6)
    near, far = _log10_gamma_tail(36.0, 0.05, 10**6), _log10_gamma_tail(60.0, 0.05, 10**6)
    assert near == pytest.approx(float(stats.norm.logsf(36.0)) / math.log(10), rel=0.4)
    assert far < -290 and math.isfinite(far)
    assert _log10_gamma_tail(60.0, 0.05, 8) == pytest.approx(-math.log10(math.factorial(8)))


def test_trained_strangers_give_uniform_p_values_over_orders_of_the_stream(family: Any) -> None:
    """100 relative orders of two trained models' streams. Beyond 0.2 the distance is once in 1,000."""
    first = view(family["first"])
    found = [attention_alike(view(in_another_order(family["second"], seed)), first, ALL) for seed in range(100)]
    assert stats.kstest([one.p_value for one in found], "uniform").statistic < 0.2
    assert min(one.log10_p for one in found) > -5


@pytest.mark.parametrize("name", ["tuned", "longer", "adapter", "sibling"])
def test_what_shares_a_start_is_found(family: Any, name: str) -> None:
    found = attention_alike(view(family[name]), view(family["first"]), ALL)
    assert found.statistic > 0.5 and found.log10_p < -20


@pytest.mark.parametrize("name", ["second", "student"])
def test_strangers_and_students_are_not(family: Any, name: str) -> None:
    assert attention_alike(view(family[name]), view(family["first"]), ALL).log10_p > -4


def test_what_is_done_to_heads_does_not_hide_a_copy(family: Any) -> None:
    found = attention_alike(view(changes.heads_permuted(family["first"], 1)), view(family["first"]), ALL)
    assert found.statistic == pytest.approx(1.0, abs=1e-4)
    assert "pairs of blocks" in found.statistic_name and len(found.details["cka"]) == 8


def test_where_it_cannot_run_it_says_why(family: Any) -> None:
    assert "no block" in attention_alike(view(family["first"]), view(family["first"]), []).why_not
    dead = {
        name: tensor * 0 if "q_proj" in name or "k_proj" in name else tensor for name, tensor in family["first"].items()
    }
    assert "zero" in attention_alike(view(dead), view(family["first"]), ALL).why_not


# Heads


def shuffled(heads: Attention, seed: int) -> tuple[Attention, list[int], list[int]]:
    draw = torch.Generator().manual_seed(seed)
    groups, per = len(heads.k), len(heads.q) // len(heads.k)
    kv = torch.randperm(groups, generator=draw)
    order = torch.cat([group * per + torch.randperm(per, generator=draw) for group in kv])
    return Attention(heads.q[order], heads.k[kv], heads.v[kv], heads.o[order]), order.tolist(), kv.tolist()


def random_heads(seed: int, heads: int = 8, groups: int = 4) -> Attention:
    draw = torch.Generator().manual_seed(seed)
    return Attention(*(torch.randn(count, 6, 48, generator=draw) for count in (heads, groups, groups, heads)))


@pytest.mark.parametrize("dress", ["plain", "scaled", "signs", "turned inside", "noise"])
def test_heads_are_matched_in_any_order_and_dress(dress: str) -> None:
    theirs = random_heads(3)
    ours, heads, kv = shuffled(theirs, 4)
    draw = torch.Generator().manual_seed(5)
    if dress == "scaled":
        scale = torch.rand(4, 1, 1, generator=draw) + 0.5
        each = scale.repeat_interleave(2, dim=0)
        ours = Attention(ours.q * each, ours.k / scale, ours.v * scale, ours.o / each)
    if dress == "signs":
        ours = Attention(-ours.q, -ours.k, ours.v, ours.o)
    if dress == "turned inside":
        a, b = (torch.linalg.qr(torch.randn(6, 6, generator=draw)).Q for _ in "ab")
        ours = Attention(a @ ours.q, a @ ours.k, b @ ours.v, b @ ours.o)
    if dress == "noise":
        ours = Attention(*(part + torch.randn(part.shape, generator=draw) for part in ours))
    found = match_heads(ours, theirs)
    assert (found[0].tolist(), found[1].tolist()) == (heads, kv)


def test_heads_of_strangers_and_of_a_copy_stay_where_they_are() -> None:
    theirs = random_heads(6)
    assert match_heads(theirs, theirs)[0].tolist() == list(range(8))
    fewer = Attention(theirs.q[:4], theirs.k[2:], theirs.v[2:], theirs.o[4:])
    heads, kv = match_heads(Attention(theirs.q[4:], theirs.k[2:], theirs.v[2:], theirs.o[4:]), theirs)
    assert heads.tolist() == [4, 5, 6, 7] and kv.tolist() == [2, 3]  # pruned heads
    assert (match_heads(theirs, fewer)[1] >= 0).sum() == 2  # more heads than there are partners


def test_the_zoos_permuted_heads_are_put_back(family: Any) -> None:
    ours, theirs = view(changes.heads_permuted(family["longer"], 9)).attention(2), view(family["longer"]).attention(2)
    heads, kv = match_heads(ours, theirs)
    assert torch.equal(ours.q, theirs.q[torch.as_tensor(heads)]) and torch.equal(ours.v, theirs.v[torch.as_tensor(kv)])
