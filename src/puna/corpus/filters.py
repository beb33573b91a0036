"""Which documents stay: measures held against the thresholds of each document's language.

Comes in: measures (metrics.measure) and thresholds. Goes out: for each document the first rule it fails and the value it
failed with. Must never happen: a document that is removed without a rule that can be named and counted.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from puna.corpus.repetition import Measures
from puna.corpus.thresholds import MEASURES, STAGES, Thresholds


@dataclass(frozen=True, slots=True)
class Judged:
    """For each of n documents: `rules[i]`, the first rule that it fails ("" for none), and `values[i]`, what was measured.

    A rule reads "metrics: mean word length over 10": its stage, its measure and its threshold, so that equal ones can be
    counted; the value is apart for the same reason, NaN for a document that stays.
    """

    rules: list[str]
    values: npt.NDArray[np.float64]


def judge(
    measures: Measures, langs: Sequence[str], thresholds: Thresholds, stages: Sequence[str] = ("metrics", "repetition")
) -> Judged:
    """The first rule that each document fails, stage by stage, in the order of thresholds.MEASURES.

    measures: {measure: (n,)}, at least all those that the thresholds limit; langs: n codes; stages: of thresholds.STAGES.
    """
    rules = np.full(len(langs), "", object)
    values = np.full(len(langs), np.nan)
    codes = np.array(langs, object)
    for lang in sorted(set(langs)):
        limits = thresholds.of(lang).limits
        rows = np.flatnonzero(codes == lang)
        for stage in stages:
            for name, label in STAGES[stage].items():
                if name not in limits:
                    continue
                low, high = limits[name].bounds()
                found = measures[name][rows]
                for failed, word, bound in ((found < low, "under", low), (found > high, "over", high)):
                    here = rows[failed & (rules[rows] == "")]
                    rules[here] = f"{stage}: {label} {word} {bound:g}"
                    values[here] = measures[name][here]
    return Judged(rules.tolist(), values)


def drawn(thresholds: Thresholds, lang: str) -> dict[str, tuple[float | None, float | None]]:
    """The measures of a language that have thresholds, to be drawn in histograms: {measure: (low, high)}, open ends None."""
    limits = thresholds.of(lang).limits
    return {name: (limits[name].min, limits[name].max) for name in MEASURES if name in limits}
