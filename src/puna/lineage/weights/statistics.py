"""p-values in powers of ten, so that none is ever nought; and rates with intervals.

Comes in: orders, p-values, counts. Goes out: log10 p. Must never happen: a p-value smaller than one over the number of orders there are.
"""

import math
from collections.abc import Sequence
from itertools import permutations

import numpy as np
from scipy import stats

from puna.lineage.verdict import Rate

_ENUMERATED = 7  # rows up to which all orders are counted


def spearman(order: "np.ndarray | Sequence[int]") -> tuple[float, float]:
    """(rho, log10 p) between a sequence of matched indices and its places, one-sided: do they rise together?

    The null is that all orders of the given indices are equally likely, ties or not: that holds for a matching by nearest neighbour as
    well as for an assignment, if the places of one model mean nothing to the other. Enumerated for up to 7 rows; beyond, Student's t
    with n - 2 degrees of freedom (Kendall & Stuart, vol. 2, 31.19), floored at 1 / n!, the chance of one order.
    """
    values = np.asarray(order, dtype=np.float64)
    n = len(values)
    if n < 3 or np.ptp(values) == 0:
        return 0.0, 0.0
    ranks, places = stats.rankdata(values), np.arange(n)
    rho = float(np.corrcoef(ranks, places)[0, 1])
    if n <= _ENUMERATED:
        seen = [float(np.dot(one, places)) for one in permutations(ranks)]
        reached = sum(value >= np.dot(ranks, places) - 1e-9 for value in seen)
        return rho, math.log10(reached / len(seen))
    floor = -math.lgamma(n + 1) / math.log(10)
    if rho > 1 - 1e-12:
        return rho, floor
    t = rho * math.sqrt((n - 2) / (1 - rho * rho))
    return rho, max(floor, log10_t_tail(t, n - 2))


def log10_t_tail(t: float, freedom: int) -> float:
    """log10 of the upper tail of Student's t, also where it underflows: there by the tail's leading term."""
    tail = float(stats.t.sf(t, freedom))
    if tail > 1e-290:
        return math.log10(tail)
    # sf(t) ~ c · v^((v-1)/2) / v · ... : the density's integral far out, t >> sqrt(v): f(t)·t/v
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
