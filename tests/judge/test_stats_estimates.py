"""One model's score: distributions against scipy, standard errors against their definitions, intervals against the truth."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from puna.judge.distributions import guessing_p, normal_p, sign_p, student_p, student_point, student_upper_p
from puna.judge.stats import (
    LEAST_UNITS,
    binomial_variance,
    cluster_numbers,
    cluster_variance,
    items_needed,
    mean_estimate,
    over_seeds,
    perplexity_interval,
    ratio_estimate,
    smallest_visible,
    strata_draws,
    strata_variance,
    wilson,
)


@given(df=st.floats(1, 1e5), t=st.floats(-60, 60))
def test_student_against_scipy(df: float, t: float) -> None:
    assert student_p(t, df) == pytest.approx(2 * scipy_stats.t.sf(abs(t), df), rel=1e-7, abs=1e-300)
    assert student_upper_p(t, df) == pytest.approx(scipy_stats.t.sf(t, df), rel=1e-7, abs=1e-300)


@given(df=st.floats(1, 1e6), share=st.sampled_from([0.9, 0.975, 0.999]))
def test_student_point_against_scipy(df: float, share: float) -> None:
    assert student_point(df, share) == pytest.approx(scipy_stats.t.ppf(share, df), rel=1e-4 if df > 1e4 else 1e-8)


def test_tails_keep_their_digits() -> None:
    assert normal_p(30) == pytest.approx(2 * scipy_stats.norm.sf(30), rel=1e-9)
    assert guessing_p(4300, [0.25] * 14042) == pytest.approx(scipy_stats.binom.sf(4299, 14042, 0.25), rel=1e-6)
    assert 0 < guessing_p(200, [0.25] * 200) == pytest.approx(0.25**200, rel=1e-9)


def test_guessing_with_chances_that_differ_is_exact() -> None:
    chances = [0.1, 0.25, 0.25, 0.5]
    by_hand = np.zeros(5)
    for bits in range(16):
        hits = [bits >> i & 1 for i in range(4)]
        by_hand[sum(hits)] += math.prod(c if h else 1 - c for c, h in zip(chances, hits, strict=True))
    for hits in range(5):
        assert guessing_p(hits, chances) == pytest.approx(by_hand[hits:].sum(), rel=1e-12)
    assert guessing_p(3, [0.0, 1.0, 1.0, 1.0]) == 1.0
    with pytest.raises(ValueError):
        guessing_p(1, [1.5])


@given(wins=st.integers(0, 400), losses=st.integers(0, 400))
def test_sign_test_against_scipy(wins: int, losses: int) -> None:
    exact = scipy_stats.binomtest(wins, wins + losses).pvalue if wins + losses else 1.0
    assert sign_p(wins, losses, mid=False) == pytest.approx(exact, rel=1e-9)
    assert sign_p(wins, losses) <= sign_p(wins, losses, mid=False)
    assert sign_p(wins, losses) == sign_p(losses, wins)


def test_mid_p_of_a_published_table() -> None:
    # Fagerland, Lydersen & Laake 2013, table 1: airway hyper-responsiveness, 7 and 1 discordant pairs of 21
    assert sign_p(1, 7, mid=False) == pytest.approx(0.0703, abs=5e-5)
    assert sign_p(1, 7) == pytest.approx(0.0391, abs=5e-5)


def by_definition(values: np.ndarray, clusters: np.ndarray) -> tuple[float, float]:
    """CR2 and the degrees of freedom of Bell & McCaffrey 2002 with whole matrices, for a regression on a constant."""
    n = len(values)
    hat = np.full((n, n), 1 / n)
    rest, residuals, meat, columns = np.eye(n) - hat, values - values.mean(), 0.0, []
    for number in np.unique(clusters):
        own = clusters == number
        vectors, sizes, _ = np.linalg.svd(np.eye(own.sum()) - hat[np.ix_(own, own)])
        root = vectors @ np.diag(sizes**-0.5) @ vectors.T
        meat += float((root @ residuals[own]).sum()) ** 2
        columns.append(rest[:, own] @ root @ np.ones(own.sum()) / n)
    inner = np.array(columns) @ np.array(columns).T
    values = np.linalg.eigvalsh(inner)
    return meat / n**2, values.sum() ** 2 / (values**2).sum()


@settings(deadline=None)
@given(sizes=st.lists(st.integers(1, 6), min_size=2, max_size=9), seed=st.integers(0, 99))
def test_clustered_variance_by_its_definition(sizes: list[int], seed: int) -> None:
    clusters = np.repeat(np.arange(len(sizes)), sizes)
    values = np.random.default_rng(seed).normal(size=len(clusters))
    order = np.random.default_rng(seed).permutation(len(values))
    variance, df, units = cluster_variance(values[order], clusters[order])
    expected, freedom = by_definition(values, clusters)
    assert (variance, df, units) == (pytest.approx(expected), pytest.approx(freedom), len(sizes))


def test_items_alone_are_the_central_limit_theorem() -> None:
    values = np.random.default_rng(1).normal(size=50)
    alone = cluster_variance(values)
    assert alone == pytest.approx((values.var(ddof=1) / 50, 49, 50))
    assert cluster_variance(values, np.arange(50)) == pytest.approx(alone)
    assert cluster_variance(values, np.zeros(50, np.int64))[0] == math.inf


def test_items_without_a_cluster_stand_alone() -> None:
    assert cluster_numbers(["a", "", "a", "", "b"]).tolist() == [0, 1, 0, 2, 3]


def test_subtasks_of_unequal_sizes_weigh_the_same() -> None:
    rng = np.random.default_rng(3)
    strata = np.repeat([5, 2, 9], [10, 40, 100])  # numbers with gaps, not in order
    values = rng.normal(size=150) + strata
    clusters = np.arange(150) // 2
    mean, variance, df, units, collapsed = strata_variance(values, strata, clusters)
    parts = [cluster_variance(values[strata == k], clusters[strata == k]) for k in (2, 5, 9)]
    assert mean == pytest.approx(np.mean([values[strata == k].mean() for k in (2, 5, 9)]))
    assert variance == pytest.approx(sum(part[0] for part in parts) / 9)
    assert df == pytest.approx(sum(p[0] for p in parts) ** 2 / sum(p[0] ** 2 / p[1] for p in parts))
    assert (units, collapsed) == (75, False)
    draws = strata_draws(values, strata, clusters, draws=4000).mean(axis=1)
    assert draws.std() == pytest.approx(math.sqrt(variance), rel=0.1)


def test_binary_subtasks_are_drawn_alike_with_and_without_clusters() -> None:
    rng = np.random.default_rng(4)
    strata, values = np.repeat(np.arange(4), 50), (rng.random(200) < 0.4).astype(float)
    quick = strata_draws(values, strata, draws=4000).mean(axis=1).std()
    slow = strata_draws(values, strata, np.arange(200), draws=4000).mean(axis=1).std()
    assert quick == pytest.approx(slow, rel=0.1)


def test_one_item_of_each_subtask_collapses() -> None:
    values = np.random.default_rng(5).normal(size=20)
    found = mean_estimate(values, strata=np.arange(20))
    assert found.standard_error == pytest.approx(values.std(ddof=1) / math.sqrt(20))
    assert "between subtasks" in found.method
    assert mean_estimate(values[:5], strata=np.arange(5)).interval is None


def test_few_units_have_no_interval_and_say_so() -> None:
    values = np.array([0.0, 1.0] * 20)
    found = mean_estimate(values, clusters=np.arange(40) // 10, share=True)
    assert (found.value, found.units, found.standard_error, found.interval) == (0.5, 4, None, None)
    assert str(LEAST_UNITS) in found.method
    with pytest.raises(ValueError):
        mean_estimate(np.array([]))


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_all_right_or_all_wrong_is_no_certainty(share: float) -> None:
    values = np.full(100, share)
    low, high = mean_estimate(values, share=True).interval
    assert (low, high) == pytest.approx(wilson(100 * share, 100))
    low, high = mean_estimate(values, clusters=np.arange(100) // 10, share=True).interval
    assert (low, high) == pytest.approx(wilson(10 * share, 10))


@given(seed=st.integers(0, 200), level=st.floats(0.001, 0.999), size=st.integers(1, 12))
def test_intervals_of_shares_stay_inside(seed: int, level: float, size: int) -> None:
    rng = np.random.default_rng(seed)
    values = (rng.random(120) < level).astype(float)
    found = mean_estimate(values, clusters=np.arange(120) // size, share=True)
    assert 0 <= found.interval[0] <= found.value <= found.interval[1] <= 1


def test_independent_shares_have_wilsons_interval() -> None:
    values = np.repeat([1.0, 0.0], [810, 1820])
    assert mean_estimate(values, share=True).interval == pytest.approx(wilson(810, 2630), abs=2e-4)


def test_ratio_agrees_with_the_delta_method() -> None:
    rng = np.random.default_rng(6)
    sizes = np.exp(rng.normal(size=900) * 0.5) * 300
    bits = sizes * np.exp(rng.normal(size=900) * 0.2)
    found = ratio_estimate(bits, sizes)
    rest = bits - found.value * sizes
    assert found.value == pytest.approx(bits.sum() / sizes.sum())
    assert found.standard_error == pytest.approx(math.sqrt((rest**2).sum()) / sizes.sum(), rel=0.1)
    kin = ratio_estimate(np.repeat(bits, 3), np.repeat(sizes, 3), clusters=np.repeat(np.arange(900), 3))
    assert kin.standard_error == pytest.approx(found.standard_error, rel=1e-9)
    assert (kin.units, kin.n) == (900, 2700)
    assert ratio_estimate(bits[:7], sizes[:7]).interval is None
    assert ratio_estimate(sizes * 2, sizes).interval == pytest.approx((2, 2))
    assert ratio_estimate(bits, sizes) == found  # no draw from global state


def test_perplexity_is_the_raised_interval() -> None:
    rng = np.random.default_rng(7)
    nats, words = rng.gamma(3, 10, 60), np.full(60, 10.0)
    inner = ratio_estimate(nats, words).interval
    assert perplexity_interval(nats, words) == pytest.approx((math.exp(inner[0]), math.exp(inner[1])))
    assert perplexity_interval(nats[:3], words[:3]) is None


def test_power_against_the_published_example() -> None:
    # reference: three points, 80 % power, 5 %: about 1,000 questions with a paired variance of 1/9 (Miller 2024)
    error = math.sqrt(1 / 9 / 500)
    assert items_needed(500, error, 0.03) == pytest.approx(969, abs=2)
    assert items_needed(500, error, smallest_visible(error)) == 500
    assert items_needed(500, error, 0.0) is None
    assert items_needed(500, error, 1e-17) is None
    assert items_needed(500, 0.0, 0.0) is None


def test_seeds_add_their_variance() -> None:
    items = mean_estimate(np.random.default_rng(8).normal(size=400))
    found = over_seeds([0.1, 0.3], items)
    assert found.deviation == pytest.approx(0.1 * math.sqrt(2))
    assert found.standard_error == pytest.approx(math.sqrt(0.02 / 2 + items.variance))
    assert found.interval[1] - found.mean > 5 * found.standard_error  # t with 1.6 degrees of freedom
    alike = over_seeds([0.2, 0.2, 0.2], items)
    assert alike.standard_error == pytest.approx(items.standard_error)
    with pytest.raises(ValueError):
        over_seeds([0.1], items)


def test_a_published_share_is_never_certain() -> None:
    assert binomial_variance(0.5, 1000) == pytest.approx(0.25 / 1000, rel=0.01)
    assert binomial_variance(1.0, 50) > 0
    with pytest.raises(ValueError):
        binomial_variance(70.7, 1000)
