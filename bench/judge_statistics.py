"""The statistics of the leaderboard against truth: simulated models whose differences and passages are known.

    python bench/judge_statistics.py [--simulations 2000]

Every draw makes scores of two models on the same items with the correlation that Miller (arXiv 2411.00640) reports, .3 to .7, and
with questions that share passages: a passage suits one model more than the other. The real functions of `puna.judge` then judge,
with and without a true difference. Beside them stand the ways of ordinary leaderboards: items of one passage taken as independent
(by the same test, and by the paired bootstrap), and two scores compared without pairing. Prints three tables, writes
bench/results/judge_statistics.json, and exits with 1 where a figure of ours leaves its bounds.
"""

import argparse
import json
import math
import os
import platform
import sys
import time
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from puna.judge.distributions import normal_p, normal_point
from puna.judge.pairs import compare_scores, compare_unpaired
from puna.judge.ranks import rank_sets
from puna.judge.stats import LEVEL, binomial_variance, mean_estimate, over_seeds, ratio_estimate, ratio_interval, wilson

RESULTS = Path(__file__).parent / "results" / "judge_statistics.json"
BOUNDS = {"false": (0.03, 0.07), "cover": (0.93, 0.97)}
DRAWS = 600  # of a bootstrap
NAIVE_MOST = 400  # items up to which the naive bootstrap is made, too
Floats = npt.NDArray[np.float64]
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(60)
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()


@dataclass(frozen=True)
class Cell:
    """One kind of task. `alike`: correlation of the models' latent scores, `kin`: share of a latent that items of a passage have
    in common, of what both models share as of what is one model's own."""

    name: str
    score: str  # "0/1", "share" (as TruthfulQA's MC2) or "bits" (per byte)
    items: int
    sizes: tuple[int, int] = (1, 1)  # of a passage, from and to
    alike: float = 0.8
    kin: float = 0.0
    level: float = 0.6  # the mean score of either model
    subtasks: int = 1


CELLS = (
    Cell("0/1, alone", "0/1", 300),
    Cell("0/1, alone, .3", "0/1", 1000, alike=0.45, level=0.3),
    Cell("0/1, alone, .95", "0/1", 3000, alike=0.9, level=0.95),
    Cell("0/1, few kin", "0/1", 300, (2, 20), kin=0.15),
    Cell("0/1, few kin", "0/1", 3000, (2, 20), kin=0.15),
    Cell("0/1, kin", "0/1", 300, (2, 20), kin=0.4),
    Cell("0/1, kin", "0/1", 1000, (2, 20), kin=0.4),
    Cell("0/1, kin", "0/1", 3000, (2, 20), kin=0.4, alike=0.9),
    Cell("0/1, near twins", "0/1", 1000, (2, 20), kin=0.8, alike=0.5),
    Cell("0/1, pairs", "0/1", 600, (2, 2), kin=0.4),
    Cell("shares, alone", "share", 800),
    Cell("shares, kin", "share", 1000, (2, 20), kin=0.4),
    Cell("0/1, 20 subtasks", "0/1", 600, subtasks=20),
    Cell("0/1, 20 subtasks, kin", "0/1", 3000, (2, 20), kin=0.4, subtasks=20),
    Cell("bits per byte, alone", "bits", 300),
    Cell("bits per byte, kin", "bits", 400, (2, 20), kin=0.4),
)


class World:
    """Draws scores of two models. The first is better by `gap` on the latent scale; the truth is known exactly."""

    def __init__(self, cell: Cell, gap: float = 0.0) -> None:
        self.cell = cell
        start = normal_point(cell.level)
        self.centres = (start + gap / 2, start - gap / 2)
        self.truth = tuple(self._truth(centre) for centre in self.centres)

    def _transformed(self, latent: Floats) -> Floats:
        """Latent scores, each of variance 1, as scores; for bits the bits of a byte, of which more is worse."""
        if self.cell.score == "0/1":
            return (latent > 0).astype(np.float64)
        return 1 / (1 + np.exp(-2 * latent)) if self.cell.score == "share" else np.exp(0.3 * latent)

    def _truth(self, centre: float) -> float:
        if self.cell.score == "0/1":
            return 1 - normal_p(centre) / 2 if centre > 0 else normal_p(centre) / 2
        return float(_WEIGHTS @ self._transformed(_NODES + centre))

    def draw(self, rng: np.random.Generator) -> tuple[Floats, Floats, npt.NDArray[np.int64], Floats]:
        """(scores of the first, of the second, passage, weight) of each item; bits are those of the whole item."""
        cell, (least, most) = self.cell, self.cell.sizes
        lengths = rng.integers(least, most + 1, math.ceil(cell.items / least))
        passage = np.repeat(np.arange(len(lengths)), lengths)[: cell.items]
        count = int(passage[-1]) + 1
        both, own = cell.alike, 1 - cell.alike
        shared = math.sqrt(both * (1 - cell.kin)) * rng.standard_normal(cell.items)
        shared += math.sqrt(both * cell.kin) * rng.standard_normal(count)[passage]
        weights = np.exp(0.7 * rng.standard_normal(cell.items)) * 500 if cell.score == "bits" else np.ones(cell.items)
        sides = []
        for centre in self.centres:
            apart = math.sqrt(own * (1 - cell.kin)) * rng.standard_normal(cell.items)
            apart += math.sqrt(own * cell.kin) * rng.standard_normal(count)[passage]
            sides.append(weights * self._transformed(shared + apart + centre))
        return sides[0], sides[1], passage, weights

    def strata(self, passage: npt.NDArray[np.int64]) -> npt.NDArray[np.int64] | None:
        """The subtask of each item: whole passages, and the last subtask about four times as large as the first."""
        count = self.cell.subtasks
        if count == 1:
            return None
        ends = np.cumsum(np.linspace(2, 8, count))
        return np.searchsorted(ends / ends[-1] * (passage[-1] + 1), passage, side="right").clip(0, count - 1)


def judge(world: World, rng: np.random.Generator) -> dict[str, float]:
    """One draw, judged in every way: 1 where the way finds a difference or its interval holds the truth, else 0."""
    cell = world.cell
    first, second, passage, weights = world.draw(rng)
    kin = passage if cell.sizes[1] > 1 else None
    strata, bits = world.strata(passage), weights if cell.score == "bits" else None
    truth = world.truth[0] - world.truth[1]
    ours = compare_scores(first, second, clusters=kin, strata=strata, weights=bits, draws=DRAWS)
    found = {"difference": ours.difference, "error": ours.standard_error, "ours": ours.p <= 0.05,
             "ours_covers": ours.interval[0] <= truth <= ours.interval[1], "clusters": passage[-1] + 1}  # fmt: skip
    if bits is None:
        one = mean_estimate(first, clusters=kin, strata=strata, share=True)
        flat = mean_estimate(first, strata=strata, share=True)
        variances = [
            binomial_variance(float(s.mean()), len(s)) if cell.score == "0/1" else mean_estimate(s).variance
            for s in (first, second)
        ]
        apart = compare_unpaired((float(first.mean()), variances[0]), (float(second.mean()), variances[1]))
        found["correlation"] = float(np.corrcoef(first, second)[0, 1])
        found["unpaired"] = apart.p <= 0.05
    else:
        one = ratio_estimate(first, bits, clusters=kin, draws=DRAWS)
        flat = ratio_estimate(first, bits, draws=DRAWS) if kin is not None else one
        sides = [ratio_estimate(side, bits, draws=DRAWS) for side in (first, second)]
        apart = compare_unpaired(*((side.value, side.variance) for side in sides))
        found["correlation"] = float(np.corrcoef(first / bits, second / bits)[0, 1])
        found["unpaired"] = apart.p <= 0.05
    found["one_covers"] = one.interval[0] <= world.truth[0] <= one.interval[1]
    if kin is not None:
        found["flat_covers"] = flat.interval[0] <= world.truth[0] <= flat.interval[1]
        naive = compare_scores(first, second, strata=strata, weights=bits, draws=DRAWS)
        found["flat"] = naive.p <= 0.05
        if cell.items <= NAIVE_MOST and strata is None:
            low, high = ratio_interval(first - second, weights, DRAWS, 0)
            found["bootstrap"] = low > 0 or high < 0
    return found


def simulate(world: World, simulations: int, seed: int) -> dict[str, float]:
    """The means over all draws, and the standard deviation of the difference."""
    rng = np.random.default_rng(seed)
    rows = [judge(world, rng) for _ in range(simulations)]
    told = {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}
    return told | {"deviation": float(np.std([row["difference"] for row in rows], ddof=1))}


def latent_gap(cell: Cell, difference: float) -> float:
    """The gap on the latent scale that makes a true difference of `difference`, by bisection."""
    low, high = 0.0, 4.0
    while high - low > 1e-9:
        middle = (low + high) / 2
        truth = World(cell, middle).truth
        low, high = (low, middle) if truth[0] - truth[1] > difference else (middle, high)
    return low


def measure(cell: Cell, simulations: int, seed: int) -> dict[str, Any]:
    """False positives without a difference; power and coverage with the one that the formula says is found in 80 %."""
    null = simulate(World(cell), simulations, seed)
    visible = (normal_point(0.975) + normal_point(0.8)) * null["deviation"]
    there = simulate(World(cell, latent_gap(cell, visible)), simulations, seed + 1)
    return {"name": cell.name, "items": cell.items, "clusters": null["clusters"], "correlation": null["correlation"],
           "visible": visible, "false": null["ours"], "false_flat": null.get("flat"), "false_bootstrap": null.get("bootstrap"),
           "false_unpaired": null["unpaired"], "cover": null["one_covers"], "cover_flat": null.get("flat_covers"),
           "cover_difference": null["ours_covers"], "cover_difference_there": there["ours_covers"], "power": there["ours"],
           "power_unpaired": there["unpaired"], "error_ratio": null["error"] / null["deviation"]}  # fmt: skip


def outside(row: dict[str, Any], keys: dict[str, str]) -> list[str]:
    """The figures of ours that leave their bounds."""
    wrong = []
    for key, kind in keys.items():
        low, high = BOUNDS[kind]
        if not low <= row[key] <= high:
            wrong.append(f"{row['name']}, {row.get('items', '')}: {key} {row[key]:.3f}")
    return wrong


# ------------------------------------------------------------------------------------------------------------------- ranks


def rank_errors(gaps: tuple[float, ...], simulations: int, seed: int, items: int = 1000) -> dict[str, float]:
    """Models better by `gaps` on the latent scale, on passages: how often a table says anything that is not so.

    A rank set is wrong that leaves out one of the true ranks (models that are equal have several). Beside it stand the same tests
    without Holm, and tests that take every item for independent, with Holm.
    """
    rng = np.random.default_rng(seed)
    models, cell = len(gaps), Cell("ranks", "0/1", items, (2, 20), kin=0.4)
    true = [(1 + sum(g > own for g in gaps), models - sum(g < own for g in gaps)) for own in gaps]
    totals = dict.fromkeys(("wrong", "wrong_without_holm", "wrong_without_passages"), 0)
    widths = []
    for _ in range(simulations):
        lengths = rng.integers(2, 21, items // 2)
        passage = np.repeat(np.arange(len(lengths)), lengths)[:items]
        count, both = int(passage[-1]) + 1, cell.alike
        latent = math.sqrt(both * (1 - cell.kin)) * rng.standard_normal(items)
        latent += math.sqrt(both * cell.kin) * rng.standard_normal(count)[passage]
        own = math.sqrt((1 - both) * (1 - cell.kin)) * rng.standard_normal((models, items))
        own += math.sqrt((1 - both) * cell.kin) * rng.standard_normal((models, count))[:, passage]
        scores = (latent + own + np.array(gaps)[:, None] > 0).astype(np.float64)
        found, flat = {}, {}
        for i, j in combinations(range(models), 2):
            ours = compare_scores(scores[i], scores[j], clusters=passage)
            naive = compare_scores(scores[i], scores[j])
            found[i, j], flat[i, j] = (ours.difference, ours.p), (naive.difference, naive.p)
        sets = rank_sets(models, found)
        widths.append(np.mean([one.upper - one.lower + 1 for one in sets]))
        totals["wrong"] += any(s.lower > low or s.upper < high for s, (low, high) in zip(sets, true, strict=True))
        sets = rank_sets(models, flat)
        totals["wrong_without_passages"] += any(
            s.lower > low or s.upper < high for s, (low, high) in zip(sets, true, strict=True)
        )
        totals["wrong_without_holm"] += any(
            p <= 0.05 and (gaps[i] == gaps[j] or (gap > 0) != (gaps[i] > gaps[j])) for (i, j), (gap, p) in found.items()
        )
    return {key: value / simulations for key, value in totals.items()} | {"ranks_in_a_set": float(np.mean(widths))}


def seed_coverage(seeds: int, simulations: int, seed: int) -> dict[str, float]:
    """Trainings of one recipe: how often intervals hold the recipe's true score: ours, and that of items alone of one seed."""
    rng, items, covered, alone = np.random.default_rng(seed), 1000, 0, 0
    for _ in range(simulations):
        item, own = 0.9 * rng.standard_normal(items), 0.05 * rng.standard_normal((seeds, 1))
        scores = (item + own + math.sqrt(1 - 0.81 - 0.0025) * rng.standard_normal((seeds, items)) + 0.25 > 0).astype(
            np.float64
        )
        found = over_seeds([float(s) for s in scores.mean(axis=1)], mean_estimate(scores.mean(axis=0)))
        truth = 1 - normal_p(0.25) / 2
        low, high = wilson(float(scores[0].sum()), items)
        covered += found.interval[0] <= truth <= found.interval[1]
        alone += low <= truth <= high
    return {"cover": covered / simulations, "cover_one_seed": alone / simulations}


def percent(value: float | None) -> str:
    """A share in percent, or a dash."""
    return "-" if value is None else f"{100 * value:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--simulations", type=int, default=2000, help="of each cell, without and with a difference")
    simulations = parser.parse_args().simulations
    begin, rows, wrong = time.process_time(), [], []
    print(f"{simulations:,} simulations of each figure; percent. 'as alone': passages ignored\n")
    print(
        f"{'':23}{'items':>6}{'pass-':>6}{'corre-':>7} |{'false positives at 5 %':^40}|{'intervals of 95 % hold':^33}|{'power at':^16}"
    )
    print(f"{'':23}{'':6}{'ages':>6}{'lation':>7} |{'ours':>7}{'as alone':>10}{'bootstrap':>11}{'unpaired':>11} |"
          f"{'score':>6}{'as alone':>10}{'diff.':>7}{'+ gap':>8}  |{'ours':>6}{'unpaired':>10}")  # fmt: skip
    for place, cell in enumerate(CELLS):
        row = measure(cell, simulations, 100 * place)
        rows.append(row)
        wrong += outside(
            row, {"false": "false", "cover": "cover", "cover_difference": "cover", "cover_difference_there": "cover"}
        )
        print(f"{row['name']:23}{row['items']:6}{row['clusters']:6.0f}{row['correlation']:7.2f} |{percent(row['false']):>7}"
              f"{percent(row['false_flat']):>10}{percent(row['false_bootstrap']):>11}{percent(row['false_unpaired']):>11} |"
              f"{percent(row['cover']):>6}{percent(row['cover_flat']):>10}{percent(row['cover_difference']):>7}"
              f"{percent(row['cover_difference_there']):>8}  |{percent(row['power']):>6}{percent(row['power_unpaired']):>10}", flush=True)  # fmt: skip
    print("\nsix models, 1,000 items on passages: tables that claim a rank that is wrong")
    tables = {"all six alike": (0.0,) * 6, "three, two, one": (0.12, 0.12, 0.12, 0.0, 0.0, -0.2), "six steps": (0.2, 0.15, 0.1, 0.05, 0, -0.05)}  # fmt: skip
    print(f"{'':20}{'rank sets':>10}{'no Holm':>9}{'as alone':>10}{'ranks in a set':>16}")
    ranks: dict[str, Any] = {}
    for place, (name, gaps) in enumerate(tables.items()):
        found = ranks[name] = rank_errors(gaps, simulations, 9000 + place)
        print(f"{name:20}{percent(found['wrong']):>10}{percent(found['wrong_without_holm']):>9}"
              f"{percent(found['wrong_without_passages']):>10}{found['ranks_in_a_set']:16.2f}")  # fmt: skip
        if found["wrong"] > 0.05 + 2 * math.sqrt(0.05 * 0.95 / (simulations)):
            wrong.append(f"ranks, {name}: {found['wrong']:.3f}")
    print("\nseeds of one recipe, 1,000 items: intervals that hold the recipe's score")
    seeds: dict[str, Any] = {}
    for count in (2, 3, 5):
        found = seeds[str(count)] = seed_coverage(count, simulations, 9500 + count)
        print(f"{count} seeds: {percent(found['cover'])}   items of one seed alone: {percent(found['cover_one_seed'])}")
    seconds = time.process_time() - begin  # of one core: the machine may be shared
    record = {"python": platform.python_version(), "numpy": np.__version__, "machine": platform.machine(), "cores": os.cpu_count(),
              "cpu_seconds": seconds, "simulations": simulations, "level": LEVEL, "bounds": BOUNDS, "pairs": rows, "ranks": ranks,
              "seeds": seeds, "outside": wrong}  # fmt: skip
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(record, indent=2) + "\n")
    print(f"\n{seconds:.0f} s of one core" + "".join(f"\noutside its bounds: {line}" for line in wrong))
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
