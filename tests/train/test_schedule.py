"""Rates are pure functions of the step, and end where they should."""

import itertools
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from puna.recipe.scaling import Plan
from puna.train.schedule import cosine, rate_share, wsd


def test_wsd_rises_stays_and_falls() -> None:
    shares = [wsd(step, steps=100, warmup_steps=10, decay_share=0.2, final_share=0.0) for step in range(100)]
    assert shares[0] == pytest.approx(0.1)
    assert shares[9] == 1.0
    assert set(shares[10:80]) == {1.0}
    assert shares[81] < 1.0
    assert shares[99] == pytest.approx(1 / 20)
    assert all(a >= b for a, b in itertools.pairwise(shares[80:]))


def test_wsd_that_decays_all_the_way() -> None:
    shares = [wsd(step, steps=50, warmup_steps=5, decay_share=1.0, final_share=0.1) for step in range(50)]
    assert max(shares) == shares[5]
    assert shares[-1] == pytest.approx(0.1 + 0.9 / 45)


def test_cosine_ends_at_its_floor() -> None:
    shares = [cosine(step, steps=100, warmup_steps=10, final_share=0.1) for step in range(100)]
    assert shares[10] == pytest.approx(1.0)
    assert shares[99] == pytest.approx(0.1)
    assert shares[55] == pytest.approx(0.55, abs=0.02)


def test_the_method_chooses(make_plan: Callable[..., Plan]) -> None:
    puna, reference = make_plan(steps=100), make_plan(steps=100, method="reference", final_share=0.1)
    assert rate_share(puna, 40) == 1.0
    assert rate_share(reference, 99) == pytest.approx(0.1)


@given(st.integers(1, 500), st.integers(0, 600), st.floats(0, 1), st.floats(0, 1))
def test_every_share_lies_between_0_and_1(steps: int, warmup: int, decay: float, final: float) -> None:
    for step in range(steps):
        assert 0 <= wsd(step, steps=steps, warmup_steps=warmup, decay_share=decay, final_share=final) <= 1
        assert 0 <= cosine(step, steps=steps, warmup_steps=warmup, final_share=final) <= 1
