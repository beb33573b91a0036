"""The statistics of a score: intervals, exact p-values, and which things are drawn again in a bootstrap.

Comes in: counts, or sums per unit. Goes out: (low, high), p. Must never happen: a draw from global state, or an interval
that treats the parts of one source as if they were independent.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt

LEVEL = 0.95
LEAST_UNITS = (
    8  # of two units, the percentiles are just the two values: drawn again they cover half of the truth, not 95 %
)
_Z = 1.959963984540054  # the normal's 97.5 % point
Floats = npt.NDArray[np.float64]
Ids = npt.NDArray[np.int64]
Interval = tuple[float, float]


@dataclass(frozen=True)
class Units:
    """What a bootstrap draws: whole sources where there are two or more, else documents.

    Text of one module is of one kind, so its documents are no independent witnesses; modules nearly are.
    """

    kind: str  # "sources" or "documents"
    index: Ids  # [documents] the unit of each
    count: int

    @classmethod
    def of(cls, sources: Sequence[str]) -> "Units":
        """Units in the order in which their sources first appear."""
        numbers = {source: number for number, source in enumerate(dict.fromkeys(sources))}
        if len(numbers) > 1:
            return cls("sources", np.array([numbers[source] for source in sources], np.int64), len(numbers))
        return cls("documents", np.arange(len(sources)), len(sources))

    def blocks(self, most: int) -> "Units":
        """The same, with neighbouring units joined so that at most `most` are left."""
        if self.count <= most:
            return self
        return Units(f"blocks of {self.kind}", self.index * most // self.count, most)

    def sums(self, values: npt.ArrayLike) -> Floats:
        """Values per document [documents] added up per unit [count]."""
        return np.bincount(self.index, np.asarray(values, np.float64), self.count).astype(np.float64, copy=False)


def resampled_weights(units: int, draws: int, seed: int) -> Floats:
    """How often each unit is drawn in each bootstrap sample [draws, units]: a pure function of its arguments."""
    rng = np.random.default_rng([seed, units, draws])
    return rng.multinomial(units, np.full(units, 1 / units), size=draws).astype(np.float64)


def ratio_interval(numerators: Floats, denominators: Floats, draws: int, seed: int) -> Interval | None:
    """95 % percentile interval of sum(numerators) / sum(denominators) [units] (Efron & Tibshirani 1993, ch. 13).

    None for fewer than LEAST_UNITS units. Equal `draws` and `seed` draw the same units: differences are then paired.
    """
    if len(numerators) < LEAST_UNITS:
        return None
    weights = resampled_weights(len(numerators), draws, seed)
    low, high = np.quantile((weights @ numerators) / (weights @ denominators), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def wilson(successes: float, n: int) -> Interval:
    """95 % score interval of a share (Wilson 1927): it stays inside 0 to 1 and holds for small n."""
    if n < 1:
        raise ValueError("an interval needs at least one trial")
    share = successes / n
    centre = (share + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    half = _Z / (1 + _Z**2 / n) * math.sqrt(share * (1 - share) / n + _Z**2 / (4 * n**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def effective_n(n: int, share: float, interval: Interval | None) -> int:
    """How many independent trials would give a share an interval as wide as `interval`, which drew kin together.

    n / design effect (Kish 1965, section 8.2), at most n; n itself where there is no interval or the share is 0 or 1.
    """
    if interval is None or not 0 < share < 1:
        return n
    deviation = (interval[1] - interval[0]) / (2 * _Z)
    return n if deviation == 0 else max(1, min(n, int(share * (1 - share) / deviation**2)))


def binomial_p_value(successes: int, n: int, chance: Fraction) -> float:
    """P(X >= successes) for X ~ Binomial(n, chance), exact in integers: one-sided, "no better than guessing"."""
    hit, all_ = chance.numerator, chance.denominator
    ways = sum(math.comb(n, k) * hit**k * (all_ - hit) ** (n - k) for k in range(max(successes, 0), n + 1))
    return float(Fraction(ways, all_**n))
