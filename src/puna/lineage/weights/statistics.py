"""p-values in powers of ten, so that none is ever nought; and rates with intervals.

Comes in: orders, p-values, counts. Goes out: log10 p. Must never happen: a p-value smaller than one over the number of orders there are.
"""

import math
from collections.abc import Sequence
from itertools import permutations

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from scipy import stats
from scipy.special import log_ndtr

from puna.lineage.verdict import Rate

_ENUMERATED = 7  # rows up to which all orders are counted
_PLAIN = -1.0  # log10 p down to which Student's t is good enough: 5 % of p at 0.1 and n = 9
_BINS = 128  # ranks beyond so many are taken together
_STEEPEST, _STEEPEST_FEW, _FEW = (
    64.0,
    1024.0,
    32,
)  # tilts beyond which scaling takes long: an order that is all but perfect
_LN10 = math.log(10)


def spearman(order: "ndarray | Sequence[int]") -> tuple[float, float]:
    """(rho, log10 p) between a sequence of matched indices and its places, one-sided: do they rise together?

    The null is that all orders of the given indices are equally likely, ties or not: that holds for a matching by nearest neighbour as
    well as for an assignment, if the places of one model mean nothing to the other. For let MODEL's rows be exchangeable given REFERENCE:
    a matching that treats rows alike then gives its list of indices in an order that is uniform among the orders of that list, however
    often an index stands in it; the distribution of rho given the list is the one over those orders, and that is what is computed here.

    Enumerated for up to 7 rows. Beyond, Student's t with n - 2 degrees of freedom (Kendall & Stuart, vol. 2, 31.19) where p > 0.1: far
    out it falls below the truth by 10^(n/2), so there the saddlepoint of `_log10_tail`. A perfect order has its exact chance, 1 / n!.
    """
    values = np.asarray(order, dtype=np.float64)
    n = len(values)
    if n < 3 or np.ptp(values) == 0:
        return 0.0, 0.0
    ranks, places = stats.rankdata(values), np.arange(n, dtype=np.float64)
    rho = float(np.corrcoef(ranks, places)[0, 1])
    if n <= _ENUMERATED:
        seen = np.asarray(list(permutations(ranks))) @ places
        return rho, math.log10(float((seen >= ranks @ places - 1e-9).mean()))
    if np.all(np.diff(ranks) >= 0):  # no order rises more: as likely as one arrangement of the ties is among all
        repeats = np.unique(ranks, return_counts=True)[1]
        return rho, (sum(math.lgamma(count + 1) for count in repeats) - math.lgamma(n + 1)) / _LN10
    if np.all(np.diff(ranks) <= 0):
        return rho, 0.0
    plain = log10_t_tail(rho * math.sqrt((n - 2) / (1 - rho * rho)), n - 2)
    return rho, plain if plain > _PLAIN else max(_log10_tail(ranks, rho), -math.lgamma(n + 1) / _LN10)


def _log10_tail(ranks: Float[ndarray, " n"], rho: float) -> float:
    """log10 P(Spearman >= rho) over all orders of `ranks`, for rho well above 0.

    With standardised x (ranks) and y (places), K(θ) = ln of the mean over orders of exp(θ Σ x y) is the permanent of exp(θ x_i y_j) over
    n!. Sinkhorn scaling makes that matrix doubly stochastic, Q / n; the scales give K's leading part, and what is left is
    per(Q / n) ≈ n! / nⁿ · det(I + J/n - QᵀQ/n²)^(-1/2) (McCullagh 2014, "An asymptotic approximation for the permanent and the doubly
    stochastic matrix"). The tail is Barndorff-Nielsen's: Φ(-r*), r* = w + ln(z / w) / w, w² = 2(θs - K), z = θ √K''. Against the exact
    counts for n = 9 to 14 it is below the truth by at most 0.03 of log10 p, and above it by 0.8 at the second-best order
    (tests/lineage/test_statistics.py). Above 128 rows the ranks are taken in bins: no coupling is narrower than those, p errs upwards.
    """
    n = len(ranks)
    x, a = _binned(np.sort(ranks))
    y, b = _binned(np.arange(n, dtype=np.float64))
    wanted = rho - 6.0 / n**3 if len(np.unique(ranks)) == n else rho  # half a step of Σ d², as whole numbers go by 2
    v = np.zeros(len(y))
    low, high, at_low = 0.0, 1.0, 0.0
    steepest = _STEEPEST_FEW if n <= _FEW else _STEEPEST
    while True:  # θ with K'(θ) / n = rho, bracketed, then by the rule of false position and halves
        coupling = _Coupling(x, y, a, b, high, v)
        if coupling.mean >= wanted or high >= steepest:
            break
        low, at_low, high, v = high, coupling.mean, 2 * high, coupling.v
    if coupling.mean < wanted:  # Chernoff's bound holds for every θ
        return ((coupling.k - high * wanted) * n - 0.5 * coupling.log_det) / _LN10
    at_high = coupling.mean
    for step in range(60):
        share = (wanted - at_low) / (at_high - at_low) if step % 3 else 0.5
        theta = low + (high - low) * min(max(share, 0.02), 0.98)
        coupling = _Coupling(x, y, a, b, theta, coupling.v)
        if abs(coupling.mean - wanted) < 1e-7 * (1 - wanted + 1e-3):
            break
        if coupling.mean < wanted:
            low, at_low = theta, coupling.mean
        else:
            high, at_high = theta, coupling.mean
    nudge = 1e-3 * theta
    spread = (
        _Coupling(x, y, a, b, theta + nudge, coupling.v).mean - _Coupling(x, y, a, b, theta - nudge, coupling.v).mean
    ) / (2 * nudge)
    w, z = math.sqrt(2 * n * max(theta * wanted - coupling.k, 1e-12)), theta * math.sqrt(n * max(spread, 1e-12))
    return float(log_ndtr(-(w + math.log(z / w) / w)) - 0.5 * coupling.log_det) / _LN10


class _Coupling:
    """The joint distribution of (x, y) with these margins that exp(θ x y) tilts: `mean` of x·y, `k` = K(θ) / n, `log_det`."""

    def __init__(self, x: ndarray, y: ndarray, a: ndarray, b: ndarray, theta: float, v: ndarray) -> None:
        tilt = theta * np.outer(x, y)
        for _ in range(2000):
            u = -_log_sum(tilt + v + np.log(b), 1)
            new = -_log_sum(tilt + u[:, None] + np.log(a)[:, None], 0)
            moved, v = float(np.abs(new - v).max()), new
            if moved < 1e-10:
                break
        joint = np.exp(tilt + u[:, None] + v) * a[:, None] * b
        self.v, self.mean, self.k = v, float(x @ joint @ y), -float(a @ u + b @ v)
        scaled = joint / np.sqrt(np.outer(a, b))
        root = np.sqrt(b)
        self.log_det = float(np.linalg.slogdet(np.eye(len(b)) + np.outer(root, root) - scaled.T @ scaled)[1])


def _log_sum(table: ndarray, axis: int) -> ndarray:
    most = table.max(axis=axis, keepdims=True)
    return np.log(np.exp(table - most).sum(axis=axis)) + most.squeeze(axis)


def _binned(rising: Float[ndarray, " n"]) -> tuple[ndarray, ndarray]:
    """(values of mean 0 and mean square 1, their shares), in at most `_BINS` bins of as many ranks as can be."""
    n = len(rising)
    edges = np.linspace(0, n, min(n, _BINS) + 1).round().astype(int)
    shares = np.diff(edges) / n
    values = np.add.reduceat(rising, edges[:-1]) / np.diff(edges)
    values = values - shares @ values
    return values / math.sqrt(shares @ values**2), shares


def log10_t_tail(t: float, freedom: int) -> float:
    """log10 of the upper tail of Student's t, also where it underflows: there by the tail's leading term."""
    tail = float(stats.t.sf(t, freedom))
    if tail > 1e-290:
        return math.log10(tail)
    # Far out sf(t) ≈ f(t) · (t/v + 1/t): the first term leads where t >> √v, the second (Mills' ratio) where t << √v.
    log_density = (
        math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2) - 0.5 * math.log(freedom * math.pi)
        - (freedom + 1) / 2 * math.log1p(t * t / freedom)
    )  # fmt: skip
    return (log_density + math.log(t) - math.log(freedom) + math.log1p(freedom / (t * t))) / math.log(10)


def fisher(log10_ps: Sequence[float]) -> float:
    """log10 of Fisher's combined p: the upper tail of chi-square with 2k degrees at -2 ln of the product.

    For even degrees it is a finite sum, exp(-h) · sum of h^i / i! for i < k, h = -ln of the product, which never underflows in logs.
    """
    half = -sum(log10_ps) * math.log(10)
    if not log10_ps or half <= 0:
        return 0.0
    terms = [i * math.log(half) - math.lgamma(i + 1) for i in range(len(log10_ps))]
    most = max(terms)
    total = -half + most + math.log(sum(math.exp(term - most) for term in terms))
    return min(0.0, total / math.log(10))


def holm(log10_ps: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values (1979), in log10, in the order given."""
    order = sorted(range(len(log10_ps)), key=lambda i: log10_ps[i])
    adjusted, least = [0.0] * len(log10_ps), -math.inf
    for rank, i in enumerate(order):
        least = max(least, log10_ps[i] + math.log10(len(log10_ps) - rank))
        adjusted[i] = min(0.0, least)
    return adjusted


def rate(hits: int, n: int, of: str = "") -> Rate:
    """The share with its 95 % interval by Clopper and Pearson (1934). Raises `ValueError` for an impossible count."""
    if not 0 <= hits <= n or n == 0:
        raise ValueError(f"{hits} of {n} is no count")
    low = 0.0 if hits == 0 else float(stats.beta.ppf(0.025, hits, n - hits + 1))
    high = 1.0 if hits == n else float(stats.beta.ppf(0.975, hits + 1, n - hits))
    return Rate(hits=hits, n=n, low=low, high=high, of=of)
