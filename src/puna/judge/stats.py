"""The statistics of a score: standard errors, intervals, power, and which things are drawn again in a bootstrap.

Comes in: scores, counts, or sums per unit. Goes out: (low, high), p, an `Estimate`. Must never happen: a draw from
global state, or an interval that treats the parts of one source as if they were independent.

Beside this file: distributions.py (normal, t, binomial), pairs.py (two models), ranks.py (many), normalised.py (chance
taken off). docs/statistics.md says the same in plain words, with what was measured by bench/judge_statistics.py.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from puna.judge.distributions import student_point

LEVEL = 0.95
LEAST_UNITS = (
    8  # of two units, the percentiles are just the two values: drawn again they cover half of the truth, not 95 %
)
_Z = 1.959963984540054  # the normal's 97.5 % point
_Z_POWER = 0.8416212335729143  # its 80 % point
DRAWS = 2000  # of a bootstrap
MOST_UNITS = 2000  # that a bootstrap draws: more are joined with their neighbours, which bounds memory
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


@lru_cache(maxsize=2)  # all pairs of models on one task draw the same
def resampled_weights(units: int, draws: int, seed: int) -> Floats:
    """How often each unit is drawn in each sample [draws, units]: a pure function of its arguments. Read only."""
    rng = np.random.default_rng([seed, units, draws])
    weights = rng.multinomial(units, np.full(units, 1 / units), size=draws).astype(np.float64)
    weights.flags.writeable = False
    return weights


def ratio_interval(numerators: Floats, denominators: Floats, draws: int, seed: int) -> Interval | None:
    """95 % percentile interval of sum(numerators) / sum(denominators) [units] (Efron & Tibshirani 1993, ch. 13).

    None for fewer than LEAST_UNITS units. Equal `draws` and `seed` draw the same units: differences are then paired.
    """
    if len(numerators) < LEAST_UNITS:
        return None
    weights = resampled_weights(len(numerators), draws, seed)
    low, high = np.quantile((weights @ numerators) / (weights @ denominators), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def wilson(successes: float, n: float, point: float = _Z) -> Interval:
    """95 % score interval of a share (Wilson 1927): it stays inside 0 to 1 and holds for small n.

    `n` may be an effective number of trials, and `point` a critical value of t. Raises ValueError without a trial.
    """
    if n <= 0:
        raise ValueError("an interval needs at least one trial")
    share = successes / n
    centre = (share + point**2 / (2 * n)) / (1 + point**2 / n)
    half = point / (1 + point**2 / n) * math.sqrt(max(0.0, share * (1 - share)) / n + point**2 / (4 * n**2))
    return max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))  # rounding keeps the share inside


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


def binomial_variance(score: float, n: int) -> float:
    """The variance of a published share of n items: p (1 - p) / n, with two of either kind added so that it is never 0.

    Agresti & Coull 1998, The American Statistician 52, 119-126. Raises ValueError where it is no share.
    """
    if n < 1 or not 0 <= score <= 1:
        raise ValueError(f"no share of items: {score} of {n}")
    share = (score * n + 2) / (n + 4)
    return share * (1 - share) / (n + 4)


# ------------------------------------------------------------------------------------------------------------ one model


@dataclass(frozen=True)
class Estimate:
    """A mean or a ratio, and how sure it is: the error, `df` and `interval` are None where the units are too few."""

    value: float
    standard_error: float | None
    df: float | None  # degrees of freedom of the standard error
    interval: Interval | None  # 95 %
    n: int  # items
    units: int  # what was independent: clusters, or the items themselves
    method: str  # in words

    @property
    def variance(self) -> float | None:
        """The square of the standard error."""
        return None if self.standard_error is None else self.standard_error**2


def cluster_numbers(names: Sequence[str]) -> Ids:
    """Items [n] with one name get one number, an item with the name "" one of its own."""
    known: dict[str | int, int] = {}
    return np.array([known.setdefault(name or place, len(known)) for place, name in enumerate(names)], np.int64)


def cluster_variance(values: Floats, clusters: Ids | None = None) -> tuple[float, float, int]:
    """(variance, degrees of freedom, clusters) of the mean of `values` [n] where items of one cluster [n] are kin.

    With e_c the sum of a cluster's residuals and h_c = n_c / n its share of the items:

        variance = sum_c e_c^2 / (1 - h_c) / n^2

    Miller 2024 (arXiv 2411.00640, clustered standard errors) without the 1 - h_c, which is the small-sample correction
    CR2 of Bell & McCaffrey 2002 (Survey Methodology 28(2), 169-181) for a regression on a constant; without clusters
    it is s^2 / n. The degrees of freedom are theirs, too (Satterthwaite's, under independent items): clusters - 1
    where all are equally large, fewer where not. Infinite variance with fewer than two clusters.
    """
    variance, df, units = _stratum_variances(values, np.zeros(len(values), np.int64), clusters)
    return float(variance[0]), float(df[0]), int(units[0])


def _stratum_variances(values: Floats, strata: Ids, clusters: Ids | None) -> tuple[Floats, Floats, Ids]:
    """`cluster_variance` of each stratum, 0 to the highest [strata]; clusters lie within strata."""
    counts = np.bincount(strata).astype(np.float64)
    gaps = values - (np.bincount(strata, values) / counts)[strata]
    if clusters is None:
        units, sizes, sums, home = counts.astype(np.int64), np.ones(len(values)), gaps, strata
    else:
        key = strata * (int(clusters.max()) + 1) + clusters
        if int(key.max()) > 8 * len(values):  # numbers with wide gaps
            key = np.unique(key, return_inverse=True)[1]
        sizes = np.bincount(key).astype(np.float64)
        there = sizes > 0
        home = np.zeros(len(sizes), np.int64)
        home[key] = strata
        sizes, sums, home = sizes[there], np.bincount(key, gaps)[there].astype(np.float64), home[there]
        units = np.bincount(home)
    share = sizes / counts[home]
    with np.errstate(divide="ignore", invalid="ignore"):
        pull = sizes * share / (1 - share)
        square = np.bincount(home, sizes**2 - pull**2) + np.bincount(home, pull) ** 2
        variance = np.bincount(home, sums**2 / (1 - share)) / counts**2
        df = counts**2 / square
    few = units < 2
    return np.where(few, np.inf, variance), np.where(few, 0.0, df), units


def strata_variance(values: Floats, strata: Ids, clusters: Ids | None = None) -> tuple[float, float, float, int, bool]:
    """(mean, variance, df, units, collapsed) of the plain mean of the strata's means [n]; subtasks are the strata.

        variance = sum_k var_k / K^2,    df = (sum_k var_k)^2 / sum_k (var_k^2 / df_k)

    Items within a subtask are drawn, subtasks are fixed (Cochran 1977, Sampling Techniques, ch. 5, with equal weights;
    the degrees of freedom are Satterthwaite's 1946). A subtask with one unit has no variance of its own: then the
    strata are collapsed, that is, the variance between the subtasks' means stands for it (Cochran 1977, ch. 5A), which
    is too large.
    """
    strata = np.unique(strata, return_inverse=True)[1]
    means = np.bincount(strata, values) / np.bincount(strata)
    parts, dfs, units = _stratum_variances(values, strata, clusters)
    count = len(means)
    if units.min() < 2:
        between = float(means.var(ddof=1)) / count if count > 1 else math.inf
        return float(means.mean()), between, count - 1.0, count, True
    total, spread = float(parts.sum()), float((parts**2 / dfs).sum())
    df = total**2 / spread if spread > 0 else float(units.sum() - count)
    return float(means.mean()), total / count**2, df, int(units.sum()), False


def share_interval(share: float, variance: float, df: float, least: int) -> Interval:
    """95 % interval of a mean of scores between 0 and 1 that stays there: Wilson's on the effective number of items.

    n* = share (1 - share) / variance (Kish 1965), with t's critical value for the normal's. Franco, Little, Louis &
    Slud 2019 (J. Survey Statistics and Methodology 7, 334-364) find Wilson's with n* among the best for clustered
    samples. Where all scores are 0, or all 1, the variance says nothing and n* is `least`, the number of independent
    units.
    """
    if variance <= 0 or not 0 < share < 1:
        return wilson(share * least, least)
    worth = share * (1 - share) / variance
    return wilson(share * worth, worth, student_point(df))


def mean_estimate(
    values: Floats, *, clusters: Ids | None = None, strata: Ids | None = None, share: bool = False
) -> Estimate:
    """The mean of scores [n] with its standard error (by the central limit theorem) and a 95 % interval by t.

    `strata` [n]: the plain mean of the strata's means. `share`: scores lie between 0 and 1, and so does the interval.
    No standard error and no interval under LEAST_UNITS units. Raises ValueError without a score.
    """
    if not len(values):
        raise ValueError("a mean needs a score")
    collapsed = False
    if strata is None:
        value, (variance, df, units) = float(values.mean()), cluster_variance(values, clusters)
    else:
        value, variance, df, units, collapsed = strata_variance(values, strata, clusters)
    kin = "clustered " if clusters is not None and units < len(values) and not collapsed else ""
    what = f"{kin}standard error" + (" of the mean of subtasks" if strata is not None else "")
    what += ", from the spread between subtasks (one item each)" if collapsed else ""
    if units < LEAST_UNITS:
        return Estimate(
            value, None, None, None, len(values), units, f"no interval: under {LEAST_UNITS} independent items"
        )
    error = math.sqrt(variance)
    if share:
        interval = share_interval(value, variance, df, units)
        return Estimate(value, error, df, interval, len(values), units, f"Wilson's interval by the {what}")
    half = student_point(df) * error
    return Estimate(value, error, df, (value - half, value + half), len(values), units, f"t interval by the {what}")


def ratio_estimate(
    numerators: Floats, denominators: Floats, *, clusters: Ids | None = None, draws: int = DRAWS, seed: int = 0
) -> Estimate:
    """sum(numerators) / sum(denominators) [n], as bits per byte is, with a 95 % interval by a bootstrap of clusters.

    The standard error is the delta method's, with r_c = numerators - ratio * denominators summed up in a cluster:

        variance = C / (C - 1) * sum_c r_c^2 / (sum of denominators)^2

    Each draw of C clusters has its own; the 95 % point q of |ratio* - ratio| / SE* gives ratio +- q SE (Efron &
    Tibshirani 1993, 12.5; the symmetric form: Hall 1988; whole clusters: Cameron, Gelbach & Miller 2008, Rev. Econ.
    Stat. 90, 414-427). `standard_error` is q SE / t, so that an interval by t with `df` = C - 1 is the bootstrap's.
    """
    index = np.arange(len(numerators)) if clusters is None else np.unique(clusters, return_inverse=True)[1]
    count = int(index.max()) + 1
    units = Units("items", index, count).blocks(MOST_UNITS)
    top, bottom = units.sums(numerators), units.sums(denominators)
    value = float(top.sum() / bottom.sum())
    if units.count < LEAST_UNITS:
        return Estimate(
            value, None, None, None, len(numerators), count, f"no interval: under {LEAST_UNITS} independent items"
        )
    rest = top - value * bottom
    error = math.sqrt(count / (count - 1) * float(rest @ rest)) / float(bottom.sum())
    df = float(units.count - 1)
    if error > 0:
        weights = resampled_weights(units.count, draws, seed)
        shift = (weights @ rest) / (weights @ bottom)  # ratio* - ratio
        square = weights @ rest**2 - 2 * shift * (weights @ (rest * bottom)) + shift**2 * (weights @ bottom**2)
        own = np.sqrt(np.maximum(square, 0) * units.count / (units.count - 1)) / (weights @ bottom)
        with np.errstate(divide="ignore", invalid="ignore"):
            studentised = np.where(own > 0, np.abs(shift) / own, np.inf)
        error *= float(np.quantile(studentised, LEVEL)) / student_point(df)
    half = student_point(df) * error
    return Estimate(value, error, df, (value - half, value + half), len(numerators), count, "bootstrap-t over whole "
                    + ("items" if count == len(numerators) else "clusters"))  # fmt: skip


def perplexity_interval(nats: Floats, counts: Floats, *, clusters: Ids | None = None, seed: int = 0) -> Interval | None:
    """95 % interval of exp(sum(nats) / sum(counts)), the perplexity: the interval of the logarithm, raised."""
    interval = ratio_estimate(nats, counts, clusters=clusters, seed=seed).interval
    return None if interval is None else (math.exp(interval[0]), math.exp(interval[1]))


def strata_draws(
    values: Floats, strata: Ids, clusters: Ids | None = None, *, draws: int = DRAWS, seed: int = 0
) -> Floats:
    """The strata's means [draws, strata] in bootstrap samples: in each stratum its own clusters are drawn whole.

    Efron & Tibshirani 1993, 8.3 (one sample for each stratum). Scores of 0 and 1 without clusters need one binomial
    draw each.
    """
    rng = np.random.default_rng([seed, len(values), draws])
    columns = []
    for number in np.unique(strata):
        own = values[strata == number]
        if clusters is None and np.all((own == 0) | (own == 1)):
            columns.append(rng.binomial(len(own), own.mean(), draws) / len(own))
            continue
        kin = np.arange(len(own)) if clusters is None else np.unique(clusters[strata == number], return_inverse=True)[1]
        units = Units("items", kin, int(kin.max()) + 1).blocks(MOST_UNITS)
        weights = rng.multinomial(units.count, np.full(units.count, 1 / units.count), size=draws)
        columns.append((weights @ units.sums(own)) / (weights @ units.sums(np.ones(len(own)))))
    return np.stack(columns, axis=1)


# ---------------------------------------------------------------------------------------------------------------- power


def smallest_visible(standard_error: float) -> float:
    """The true difference that a test at 5 % finds in 80 % of such samples: (z_.975 + z_.80) SE (Miller 2024)."""
    return (_Z + _Z_POWER) * standard_error


def items_needed(n: int, standard_error: float, difference: float) -> int | None:
    """How many items of the same kind (and clustering) would show `difference` with 80 % power at 5 %; None for 0.

    n = (z_.975 + z_.80)^2 omega^2 / difference^2, with omega^2 = n SE^2 the variance of an item's paired difference,
    times the design effect where items are clustered (Miller 2024, on sample sizes; one sample of an answer for each
    item).
    """
    if abs(difference) <= 1e-6 * standard_error:  # nought but for rounding
        return None
    return max(1, math.ceil(n * (smallest_visible(standard_error) / difference) ** 2))


# ---------------------------------------------------------------------------------------------------------------- seeds


@dataclass(frozen=True)
class Seeds:
    """Several trainings of one recipe on the same items."""

    mean: float
    deviation: float  # standard deviation between the seeds' scores
    standard_error: float | None
    interval: Interval | None  # of the recipe: other seeds and other items
    seeds: int
    method: str


def over_seeds(scores: Sequence[float], items: Estimate) -> Seeds:
    """Mean over the scores of 2 or more seeds, with an interval for other seeds and other items.

    `items` is the estimate of the item-wise mean over seeds: its standard error is that of the items.

        variance = s^2 / S + SE_items^2,    df = variance^2 / ((s^2 / S)^2 / (S - 1) + SE_items^4 / df_items)

    Crossed random effects of seeds and items: either part has the residual once, so it is counted twice and the sum is
    rather too large (Owen 2007, Annals of Applied Statistics 1, 386-411; Cameron, Gelbach & Miller 2011, J. Business &
    Econ. Stat. 29, 238-249, take it off); t with Satterthwaite's (1946) degrees of freedom, as few as 1 with two seeds.
    """
    if len(scores) < 2:
        raise ValueError("seeds are compared from two on")
    mean, deviation = float(np.mean(scores)), float(np.std(scores, ddof=1))
    if items.standard_error is None or items.df is None:
        return Seeds(mean, deviation, None, None, len(scores), items.method)
    own, other = deviation**2 / len(scores), items.standard_error**2
    variance = own + other
    if variance == 0:
        return Seeds(mean, deviation, 0.0, (mean, mean), len(scores), "all seeds alike")
    df = variance**2 / (own**2 / (len(scores) - 1) + other**2 / items.df)
    half = student_point(df) * math.sqrt(variance)
    words = f"t interval over {len(scores)} seeds and {items.n} items, {df:.1f} degrees of freedom"
    return Seeds(mean, deviation, math.sqrt(variance), (mean - half, mean + half), len(scores), words)
