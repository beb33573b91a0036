"""p-values in powers of ten: held against exact counts, SciPy, and against being uniform where nothing is to be found."""

import math
from itertools import permutations

import mpmath
import numpy as np
import pytest
from scipy import stats

from puna.lineage.weights.statistics import fisher, holm, log10_t_tail, rate, spearman


def exact_tail(n: int) -> np.ndarray:
    """P(Σ d² <= D) at index D, over all n! orders: filled in place by place, the set of values used as a bit mask."""
    counts: dict[int, np.ndarray] = {0: np.eye(1, n * (n * n - 1) // 3 + 1)[0]}
    for place in range(n):
        after: dict[int, np.ndarray] = {}
        for used, row in counts.items():
            for value in range(n):
                if not used >> value & 1:
                    moved = np.zeros_like(row)
                    shift = (place - value) ** 2
                    moved[shift:] = row[: len(row) - shift]
                    after[used | 1 << value] = after.get(used | 1 << value, 0) + moved
        counts = after
    return np.cumsum(counts[(1 << n) - 1]) / math.factorial(n)


def order_with(n: int, squares: int, draw: np.random.Generator) -> np.ndarray:
    """An order of n with Σ d² near `squares` from below: neighbours swapped until it is reached."""
    order = np.arange(n)
    while True:
        other = order.copy()
        at = draw.integers(n - 1)
        other[[at, at + 1]] = other[[at + 1, at]]
        reached = int(((other - np.arange(n)) ** 2).sum())
        if reached > squares:
            return order
        order = other
        if reached == squares:
            return order


def test_rho_is_scipys_also_with_ties() -> None:
    draw = np.random.default_rng(1)
    for values in (draw.permutation(30), draw.integers(0, 9, 40), draw.integers(0, 3, 6)):
        assert spearman(values)[0] == pytest.approx(stats.spearmanr(values, np.arange(len(values))).statistic)


@pytest.mark.parametrize("values", [[0, 2, 1, 3, 4], [1, 1, 0, 2, 2, 3], [2, 1, 0], [0, 1, 2, 3, 4, 5, 6]])
def test_few_rows_are_enumerated(values: list[int]) -> None:
    ranks, places = stats.rankdata(values), np.arange(len(values))
    reached = np.mean([np.dot(order, places) >= ranks @ places - 1e-9 for order in permutations(ranks)])
    assert spearman(values)[1] == pytest.approx(math.log10(reached))


@pytest.mark.parametrize("n", [9, 12])
def test_the_tail_is_the_exact_one_down_to_the_last_orders(n: int) -> None:
    exact, draw = exact_tail(n), np.random.default_rng(n)
    for squares in (2, 4, 8, 12, 20, 30, 50):
        order = order_with(n, squares, draw)
        true = math.log10(exact[int(((order - np.arange(n)) ** 2).sum())])
        found = spearman(order)[1]
        assert true - 0.04 < found < true + (0.15 if squares > 4 else 0.8), squares
    assert (
        math.log10(exact[4]) > log10_t_tail(0.985 * math.sqrt((n - 2) / (1 - 0.985**2)), n - 2) + 0.8
    )  # what t would say


def test_a_perfect_order_has_the_chance_of_one_order() -> None:
    assert spearman(np.arange(200))[1] == pytest.approx(-math.lgamma(201) / math.log(10))
    assert spearman(np.repeat([0, 1], 5))[1] == pytest.approx(-math.log10(math.comb(10, 5)))
    assert spearman(np.arange(11008))[1] == pytest.approx(-math.lgamma(11009) / math.log(10))


@pytest.mark.parametrize("n", [64, 176, 2000])
def test_p_falls_with_every_step_and_never_below_one_order(n: int) -> None:
    draw = np.random.default_rng(n)
    found = [
        spearman(np.argsort(np.arange(n) + spread * draw.standard_normal(n)))[1]
        for spread in (2 * n, n / 2, n / 10, n / 60, 1)
    ]
    assert all(later < before for before, later in zip(found, found[1:], strict=False))
    assert found[-1] > -math.lgamma(n + 1) / math.log(10)
    assert spearman(np.arange(n)[::-1])[1] > -1e-6


@pytest.mark.parametrize("ties", [False, True])
def test_p_is_uniform_under_the_null(ties: bool) -> None:
    draw = np.random.default_rng(7)
    values = draw.integers(0, 25, 40) if ties else np.arange(40)
    found = np.array([10 ** spearman(draw.permutation(values))[1] for _ in range(2500)])
    assert stats.kstest(found, "uniform").pvalue > 1e-3
    assert stats.binomtest(int((found < 0.01).sum()), 2500, 0.01).pvalue > 1e-3  # in the tail, which is not Student's


def test_the_far_tail_holds_under_tilted_sampling() -> None:
    """P(rho >= r) for n = 40 by Metropolis moves in five steps, each conditioned on the last: 1e-7, where plain draws see nothing."""
    n, draw = 40, np.random.default_rng(3)
    places = np.arange(n)
    levels = [0.0, 0.2, 0.35, 0.48, 0.6, 0.7]
    orders = np.array([draw.permutation(n) for _ in range(4000)])
    log10_p = 0.0
    for level in levels:
        least = level * n * (n * n - 1) / 12 + n * ((n - 1) / 2) ** 2
        reached = orders @ places >= least
        log10_p += math.log10(reached.mean())
        orders = orders[draw.choice(np.flatnonzero(reached), len(orders))]
        for _ in range(400):
            i, j = draw.integers(n, size=(2, len(orders)))
            rows = np.arange(len(orders))
            change = (orders[rows, j] - orders[rows, i]) * (i - j)
            go = orders @ places + change >= least
            orders[rows[go], i[go]], orders[rows[go], j[go]] = orders[rows[go], j[go]], orders[rows[go], i[go]].copy()
    n_rho = 0.7
    at = order_with(n, round((1 - n_rho) * n * (n * n - 1) / 6), draw)
    assert -8 < log10_p < -6
    assert spearman(at)[1] == pytest.approx(log10_p, abs=0.35)


def test_students_tail_where_it_underflows() -> None:
    for t, freedom in ((40.0, 1000), (1e80, 3), (300.0, 400), (38.0, 100_000)):
        with mpmath.workdps(60):
            x = mpmath.mpf(freedom) / (freedom + mpmath.mpf(t) ** 2)
            tail = mpmath.betainc(mpmath.mpf(freedom) / 2, mpmath.mpf(1) / 2, 0, x, regularized=True) / 2
            true = float(mpmath.log10(tail))
        assert log10_t_tail(t, freedom) == pytest.approx(true, abs=0.01), (t, freedom)


def test_fisher_is_scipys_and_does_not_underflow() -> None:
    ps = [0.2, 0.03, 0.7, 1e-4]
    assert fisher([math.log10(p) for p in ps]) == pytest.approx(math.log10(stats.combine_pvalues(ps, "fisher").pvalue))
    assert fisher([-3.0]) == pytest.approx(-3.0)
    assert fisher([]) == 0.0
    assert fisher([0.0, 0.0]) == 0.0
    assert -32 * 500 < fisher([-500.0] * 32) < -32 * 490


def test_fisher_is_uniform_under_the_null() -> None:
    draw = np.random.default_rng(5)
    found = [10 ** fisher(np.log10(draw.random(6)).tolist()) for _ in range(3000)]
    assert stats.kstest(found, "uniform").pvalue > 1e-3


def test_holm() -> None:
    assert [10**p for p in holm([math.log10(p) for p in (0.01, 0.04, 0.03, 0.005)])] == pytest.approx(
        [0.03, 0.06, 0.06, 0.02]
    )
    assert holm([-400.0, 0.0]) == pytest.approx([-400 + math.log10(2), 0.0])


def test_rate_is_clopper_and_pearsons() -> None:
    for hits, n in ((0, 528), (3, 40), (40, 40)):
        found = rate(hits, n, "pairs")
        known = stats.binomtest(hits, n).proportion_ci(0.95, method="exact")
        assert (found.low, found.high) == pytest.approx((known.low, known.high))
    with pytest.raises(ValueError, match="no count"):
        rate(3, 2)
