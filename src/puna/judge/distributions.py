"""The three distributions that the statistics need: normal, Student's t, binomial; without scipy.

Comes in: a statistic and its degrees of freedom, or counts. Goes out: a p-value or a critical value. Must never
happen: a tail that has lost its digits (p-values of 1e-200 are ordinary where 14,000 items speak).
"""

import math
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
_NORMAL = NormalDist()
_LARGE = 1e5  # degrees of freedom from which t is the normal
_TINY = 1e-300


def normal_point(share: float) -> float:
    """The point below which the standard normal has `share`, 0 < share < 1."""
    return _NORMAL.inv_cdf(share)


def normal_p(z: float) -> float:
    """P(|Z| >= |z|) of a standard normal."""
    return math.erfc(abs(z) / math.sqrt(2))


def student_p(t: float, df: float) -> float:
    """P(|T| >= |t|) of Student's t with `df` > 0 degrees of freedom, which need not be whole.

    I_x(df/2, 1/2) with x = df / (df + t^2) (Abramowitz & Stegun 1964, 26.7.1 and 26.5.27).
    """
    if df >= _LARGE:
        return normal_p(t)
    return 0.0 if math.isinf(t) else _incomplete_beta(df / 2, 0.5, df / (df + t * t))


def student_upper_p(t: float, df: float) -> float:
    """P(T >= t), one-sided."""
    half = student_p(t, df) / 2
    return half if t >= 0 else 1 - half


@lru_cache(maxsize=4096)
def student_point(df: float, share: float = 0.975) -> float:
    """The point below which Student's t has `share` (0.5 < share < 1).

    Newton's method from the normal's point: it lies to the left, where the tail is convex, so no step goes too far.
    """
    point = normal_point(share)
    if df >= _LARGE:
        return point
    front = math.lgamma((df + 1) / 2) - math.lgamma(df / 2) - math.log(df * math.pi) / 2
    for _ in range(100):
        density = math.exp(front - (df + 1) / 2 * math.log1p(point * point / df))
        step = (student_p(point, df) / 2 - (1 - share)) / density
        point += step
        if abs(step) < 1e-10 * point:
            return point
    raise ArithmeticError(f"the point of t with {df} degrees of freedom was not found")


def _incomplete_beta(a: float, b: float, x: float) -> float:
    """I_x(a, b) by its continued fraction (Abramowitz & Stegun 26.5.8), evaluated by Lentz's modified method."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):  # where the fraction converges slowly its mirror image does not
        return 1 - _incomplete_beta(b, a, 1 - x)
    front = math.exp(
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x) - math.log(a)
    )
    c, d = 1.0, 1 / _away(1 - (a + b) * x / (a + 1))
    fraction = d
    for m in range(1, 10_000):
        for term in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d, c = 1 / _away(1 + term * d), _away(1 + term / c)
            fraction *= d * c
        if abs(d * c - 1) < 1e-15:
            return front * fraction
    raise ArithmeticError(f"the incomplete beta function of {a}, {b}, {x} did not converge")


def _away(value: float) -> float:
    return value if abs(value) > _TINY else _TINY


def binomial_terms(n: int, chance: float) -> Floats:
    """log P(X = k) for X ~ Binomial(n, chance), k = 0 to n [n + 1]."""
    logs = np.concatenate([np.zeros(1), np.cumsum(np.log(np.arange(1, n + 1)))])  # log k!
    k = np.arange(n + 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        hits = np.where(k == 0, 0.0, k * np.log(chance))
        misses = np.where(k == n, 0.0, (n - k) * np.log1p(-chance))
    return np.asarray(logs[n] - logs - logs[::-1] + hits + misses, np.float64)


def guessing_p(hits: int, chances: Iterable[float]) -> float:
    """P(at least `hits` right) where item i is right by chance with chances[i], each alone: exact, one-sided.

    Binomial where all chances are equal, else Poisson's binomial: the sum of one binomial for each different chance.
    """
    total = np.ones(1)
    for chance, n in sorted(Counter(chances).items()):
        if not 0 <= chance <= 1:
            raise ValueError(f"a chance of {chance}")
        total = np.convolve(total, np.exp(binomial_terms(n, chance)))
    return 1.0 if hits <= 0 else min(1.0, float(total[hits:].sum()))


def sign_p(wins: int, losses: int, *, mid: bool = True) -> float:
    """Two-sided p-value of wins ~ Binomial(wins + losses, 1/2): the sign test, on discordant pairs McNemar's.

    With `mid` half of the probability of what was seen counts (mid-p); without it the test is the exact conditional
    one.
    """
    n = wins + losses
    if n == 0:
        return 1.0
    terms = np.exp(binomial_terms(n, 0.5))
    fewer = min(wins, losses)
    tail = float(terms[: fewer + 1].sum())
    if mid:
        tail -= float(terms[fewer]) / 2
    return min(1.0, 2 * tail)
