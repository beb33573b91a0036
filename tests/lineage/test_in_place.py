"""Rows in place: z held against all orders, p against what shuffled rows show; the tails against SciPy's."""

import math
from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from puna.lineage.weights.blocks import log10_poisson_tail
from puna.lineage.weights.places import in_place, log10_tail
from puna.lineage.weights.statistics import holm

_DRAWS, _FAR = 2000, 0.06  # the Kolmogorov-Smirnov distance of as many right p-values is beyond it once in 10^6


@pytest.mark.parametrize("what", ["noise", "common directions"])
def test_rows_in_place_are_uniform_over_other_orders(what: str) -> None:
    """Also where both models learnt the same few directions: only the order may count."""
    draw = torch.Generator().manual_seed(6)
    common = torch.randn(5, 40, generator=draw)
    a, b = (
        torch.randn(60, 40, generator=draw) + (0 if what == "noise" else torch.randn(60, 5, generator=draw) @ common)
        for _ in "ab"
    )
    found = [in_place(a, b[torch.randperm(60, generator=draw)]) for _ in range(_DRAWS)]
    assert stats.kstest([10**one.log10_p for one in found], "uniform").statistic < _FAR
    zs = torch.tensor([one.z for one in found])
    assert abs(float(zs.mean())) < 0.12 and abs(float(zs.std()) - 1) < 0.1  # E T and Var T are Hoeffding's


def test_the_moments_of_rows_in_place_are_those_of_all_orders() -> None:
    draw = torch.Generator().manual_seed(7)
    a, b = torch.randn(6, 4, generator=draw), torch.randn(6, 4, generator=draw)
    cosines = (a / a.norm(dim=1, keepdim=True)) @ (b / b.norm(dim=1, keepdim=True)).T
    every = torch.tensor([float(sum(cosines[i, j] for i, j in enumerate(order))) for order in permutations(range(6))])
    found = in_place(a, b)
    assert found.cosine * 6 == pytest.approx(float(cosines.trace()), abs=1e-5)
    assert found.expected * 6 == pytest.approx(float(every.mean()), abs=1e-5)
    assert found.z == pytest.approx(float((cosines.trace() - every.mean()) / every.std(correction=0)), rel=5e-3)


def test_rows_in_place_see_a_trace_and_no_scale() -> None:
    draw = torch.Generator().manual_seed(8)
    a, b = torch.randn(200, 50, generator=draw), torch.randn(200, 50, generator=draw)
    mixed = b + 0.3 * a
    found = in_place(a, mixed)
    assert found.log10_p < -50
    scales = torch.exp(torch.randn(200, 1, generator=draw))
    assert in_place(a * scales, mixed).z == pytest.approx(found.z, rel=1e-4)
    assert in_place(a, a).log10_p >= -math.lgamma(201) / math.log(10)


def test_rows_in_place_without_an_order_say_nothing() -> None:
    rows = torch.ones(30, 8)
    assert in_place(rows, torch.randn(30, 8, generator=torch.Generator().manual_seed(9))).log10_p == 0.0
    assert in_place(torch.zeros(30, 8), rows).log10_p == 0.0
    with pytest.raises(ValueError, match="equal shapes"):
        in_place(torch.ones(3, 4), torch.ones(4, 3))


def test_the_normal_tail_is_scipys_and_bounded_by_the_orders() -> None:
    for z in (-1.0, 0.0, 2.5, 8.0, 20.0):
        assert log10_tail(z, 1000) == pytest.approx(float(stats.norm.logsf(z)) / math.log(10), rel=1e-9)
    assert log10_tail(40.0, 5) == pytest.approx(-math.log10(120))


@pytest.mark.parametrize("count, mean", [(1, 1.0), (5, 1.0), (30, 1.0), (12, 8.5), (40, 0.01)])
def test_the_poisson_tail_is_scipys(count: int, mean: float) -> None:
    wanted = float(stats.poisson.logsf(count - 1, mean)) / math.log(10)
    assert log10_poisson_tail(count, mean) == pytest.approx(wanted, rel=1e-6)
    assert log10_poisson_tail(0, mean) == 0.0


@pytest.mark.parametrize("count, mean", [(1, 600.0), (100, 500.0), (300, 900.0), (511, 512.0)])
def test_the_poisson_tail_below_its_mean_is_scipys(count: int, mean: float) -> None:
    """Blocks whose units all have one nearest unit: many agree, and as many would by chance."""
    wanted = float(stats.poisson.logsf(count - 1, mean)) / math.log(10)
    assert log10_poisson_tail(count, mean) == pytest.approx(wanted, abs=1e-3)


@given(st.lists(st.floats(-300, 0), min_size=1, max_size=30))
def test_holm_against_its_definition(log10_ps: list[float]) -> None:
    order = sorted(range(len(log10_ps)), key=log10_ps.__getitem__)
    made = holm(log10_ps)
    for rank, i in enumerate(order):
        wanted = max(log10_ps[order[k]] + math.log10(len(order) - k) for k in range(rank + 1))
        assert made[i] == pytest.approx(min(0.0, wanted), abs=1e-9)


def test_holm_keeps_the_familywise_rate() -> None:
    draw = np.random.default_rng(5)
    wrong = sum(min(holm(np.log10(draw.random(10)).tolist())) < math.log10(0.05) for _ in range(_DRAWS))
    assert stats.binom.ppf(1e-6, _DRAWS, 0.0488) <= wrong <= stats.binom.isf(1e-6, _DRAWS, 0.05)
