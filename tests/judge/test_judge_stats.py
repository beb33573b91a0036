"""Intervals and p-values against known values and by simulation."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from puna.judge.compare import paired, verdict
from puna.judge.stats import LEAST_UNITS, Units, binomial_p_value, effective_n, ratio_interval, wilson

QUARTER = Fraction(1, 4)


def test_wilson_against_published_values() -> None:
    # Newcombe 1998, Statistics in Medicine 17, table I (method 3, without continuity correction)
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(15, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert wilson(1, 29) == pytest.approx((0.0061, 0.1718), abs=5e-5)


@given(n=st.integers(1, 2000), data=st.data())
def test_wilson_holds_the_share_and_stays_in_bounds(n: int, data: st.DataObject) -> None:
    hits = data.draw(st.integers(0, n))
    low, high = wilson(hits, n)
    assert 0 <= low <= hits / n + 1e-12
    assert hits / n - 1e-12 <= high <= 1


def test_binomial_p_value_is_exact() -> None:
    assert binomial_p_value(0, 10, QUARTER) == 1.0
    assert binomial_p_value(10, 10, QUARTER) == 0.25**10
    assert binomial_p_value(9, 10, QUARTER) == 0.25**10 + 10 * 0.25**9 * 0.75
    by_hand = sum(math.comb(300, k) * 0.25**k * 0.75 ** (300 - k) for k in range(95, 301))
    assert binomial_p_value(95, 300, QUARTER) == pytest.approx(by_hand, rel=1e-9)
    assert binomial_p_value(300, 300, QUARTER) == pytest.approx(4.0**-300)


def test_bootstrap_draws_sources_not_documents() -> None:
    sources = [f"m{i // 10}" for i in range(400)]
    effect = np.repeat(np.random.default_rng(0).normal(size=40), 10)  # all documents of a source are alike
    units = Units.of(sources)
    assert (units.kind, units.count) == ("sources", 40)
    low, high = ratio_interval(units.sums(effect), units.sums(np.ones(400)), 2000, 1)
    naive = ratio_interval(effect, np.ones(400), 2000, 1)
    expected = 2 * 1.96 * effect[::10].std() / math.sqrt(40)
    assert high - low == pytest.approx(expected, rel=0.1)
    assert naive[1] - naive[0] < 0.5 * (high - low)


def test_few_units_have_no_interval() -> None:
    ones = np.ones(LEAST_UNITS)
    assert ratio_interval(np.arange(LEAST_UNITS - 1.0), ones[1:], 500, 3) is None
    assert ratio_interval(np.arange(float(LEAST_UNITS)), ones, 500, 3) is not None


def test_kin_are_worth_fewer_trials() -> None:
    assert effective_n(400, 0.5, wilson(200, 400)) == pytest.approx(400, abs=6)
    low, high = wilson(200, 400)
    assert effective_n(400, 0.5, (0.5 - (high - low), 0.5 + (high - low))) == pytest.approx(100, abs=2)
    assert effective_n(400, 0.5, None) == effective_n(400, 1.0, (0.9, 1.0)) == 400


def test_bootstrap_is_a_pure_function_of_the_seed() -> None:
    values = np.arange(20.0)
    assert ratio_interval(values, np.ones(20), 500, 3) == ratio_interval(values, np.ones(20), 500, 3)
    assert ratio_interval(values, np.ones(20), 500, 3) != ratio_interval(values, np.ones(20), 500, 4)
    assert ratio_interval(values[:1], np.ones(1), 500, 3) is None


def test_bootstrap_covers_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(5)
    hit = 0
    for trial in range(200):
        low, high = ratio_interval(rng.gamma(2, 1, 40), np.ones(40), 300, trial)
        hit += low <= 2 <= high
    assert 0.87 <= hit / 200 <= 0.99


def test_units_fall_back_to_documents_and_join_into_blocks() -> None:
    assert (Units.of(["a", "a", "a"]).kind, Units.of(["a", "a", "a"]).count) == ("documents", 3)
    units = Units.of([f"s{i}" for i in range(100)])
    blocks = units.blocks(7)
    assert blocks.count == 7
    assert blocks.kind == "blocks of sources"
    assert np.all(np.diff(blocks.index) >= 0)
    sizes = blocks.sums(np.ones(100))
    assert sizes.min() >= 14
    assert sizes.max() <= 15


def test_paired_interval_is_narrower_and_decides() -> None:
    rng = np.random.default_rng(2)
    hard = rng.gamma(4, 1, 30) * 1000  # sources differ much more than the two models
    sizes = np.full(30, 1000.0)
    better = paired(hard * 0.95, hard, sizes, "sources", 1000, 1)
    assert better["interval"][1] < 0
    said = verdict("ngram5", better)
    assert said["holds"] is True
    assert "beats the 5-gram model" in said["words"]
    assert verdict("xz_primed", paired(hard, hard * 0.95, sizes, "sources", 1000, 1))["holds"] is False
    level = paired(hard, hard + rng.normal(size=30), sizes, "sources", 1000, 1)
    assert verdict("xz", level)["holds"] is None
    assert verdict("xz", paired(hard[:1], hard[:1], sizes[:1], "documents", 1000, 1))["holds"] is None
