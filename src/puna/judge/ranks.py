"""Many models: which ranks the data allow each of them, with one promise for the whole table.

Comes in: the difference and p-value of every pair. Goes out: adjusted p-values, and "1 to 3" for each model. Must
never happen: an order that the data cannot tell, or a rank for a model that was compared with nobody.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

LEVEL = 0.05  # the probability that any of the table's claims "better than" is wrong is at most this

Pair = tuple[int, int]


@dataclass(frozen=True)
class RankSet:
    """The ranks that a model may have: 1 + the models surely better, up to the number of those not surely worse."""

    lower: int
    upper: int
    better: tuple[int, ...]  # models that are significantly better than this one
    worse: tuple[int, ...]

    def __str__(self) -> str:
        return str(self.lower) if self.lower == self.upper else f"{self.lower} to {self.upper}"


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values that keep the family-wise error (Holm 1979, Scand. J. Stat. 6, 65-70), in the order given.

    Sorted, p_(k) becomes the maximum over j <= k of min(1, (m - j + 1) p_(j)). Valid under any dependence of the tests.
    """
    adjusted, most = [0.0] * len(p_values), 0.0
    for place, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        most = max(most, min(1.0, (len(p_values) - place) * p_values[index]))
        adjusted[index] = most
    return adjusted


def rank_sets(
    models: int,
    pairs: Mapping[Pair, tuple[float, float | None] | None],
    *,
    higher_is_better: bool = True,
    level: float = LEVEL,
) -> list[RankSet | None]:
    """The rank set of each of `models` models, by Holm over all pairs.

    `pairs[i, j]`, i != j, each pair once: (difference i - j, p) of the two-sided test of no difference; None, or a
    missing pair, where they cannot be compared; a p of None tells nothing. With M the models that were compared with
    any other,

        ranks of i = 1 + |{j surely better}|  to  M - |{j surely worse}|

    and all sets hold the true ranks at once with probability 1 - level (Mogstad, Romano, Shaikh & Wilhelm 2024, Review
    of Economic Studies 91, 476-518; Klein, Wright & Wieczorek 2020, J. Royal Stat. Soc. A 183, 897-919). The sides are
    read from the sign: a wrong side counts as an error, too (Shaffer 1980, Annals of Statistics 8, 1342-1347). None
    for a model without a pair.
    """
    tested: dict[Pair, tuple[float, float]] = {}
    ranked: set[int] = set()
    for (i, j), found in pairs.items():
        if i == j or not (0 <= i < models and 0 <= j < models) or ((j, i) in pairs and i > j):
            raise ValueError(f"no pair of {models} models, or one given twice: {i}, {j}")
        if found is not None and found[1] is not None:
            ranked |= {i, j}
            tested[i, j] = found[0], found[1]
    better: list[list[int]] = [[] for _ in range(models)]
    worse: list[list[int]] = [[] for _ in range(models)]
    adjusted = holm([p for _, p in tested.values()])
    for ((i, j), (difference, _)), p in zip(tested.items(), adjusted, strict=True):
        if p <= level and difference != 0:
            winner, loser = (i, j) if (difference > 0) == higher_is_better else (j, i)
            worse[winner].append(loser)
            better[loser].append(winner)
    return [
        RankSet(1 + len(better[i]), len(ranked) - len(worse[i]), tuple(better[i]), tuple(worse[i]))
        if i in ranked
        else None
        for i in range(models)
    ]


def tied(sets: Sequence[RankSet | None]) -> list[Pair]:
    """The pairs of ranked models that the data cannot separate: the edges of the board's tie graph."""
    return [
        (i, j)
        for i, one in enumerate(sets)
        for j, two in enumerate(sets[i + 1 :], start=i + 1)
        if one is not None and two is not None and j not in one.better and j not in one.worse
    ]
