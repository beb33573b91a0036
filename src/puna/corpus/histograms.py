"""How the measures of documents lie, by language, with the thresholds that cut them: what the corpus page draws.

Comes in: measures, batch by batch. Goes out: counts over fixed edges, so that those of all parts can be added up. Must never
happen: edges that depend on the data.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from puna.corpus.filters import drawn
from puna.corpus.thresholds import Thresholds, load_thresholds

_BINS = 40
# Measures that are no shares: where their axis ends. Values beyond stand in the last bar.
_ENDS = {"words": 2000.0, "mean_word_length": 15.0, "stop_words": 20.0, "sentences": 100.0, "symbols_to_words": 0.5,
         "perplexity": 20_000.0}  # fmt: skip
_MOST_LANGUAGES = 200  # what one part may hold; every language of the web fits


class Histograms:
    """The counts of one part."""

    def __init__(self, thresholds: Thresholds | None) -> None:
        self._thresholds = thresholds or load_thresholds()
        self._found: dict[str, dict[str, dict[str, Any]]] = {}

    def add_all(self, langs: Sequence[str], measured: Mapping[str, np.ndarray]) -> None:
        """The measures (n,) of n documents, of those that their language's thresholds limit."""
        names = np.array(langs, object)
        for lang in sorted(set(langs)):
            rows = names == lang
            for measure, limits in drawn(self._thresholds, lang).items():
                if measure in measured:
                    self.add(lang, measure, measured[measure][rows], limits)

    def add(self, lang: str, measure: str, values: Iterable[float], limits: tuple[float | None, float | None]) -> None:
        """Some values of one measure in one language, and between which limits a document stays."""
        held = np.asarray(list(values), np.float64)
        held = held[np.isfinite(held)]
        if not len(held):
            return
        if len(self._found) >= _MOST_LANGUAGES and lang not in self._found:
            return
        measures = self._found.setdefault(lang, {})
        entry = measures[measure] if measure in measures else measures.setdefault(measure, _empty(measure, limits))
        place = np.clip((held / entry["edges"][-1] * _BINS).astype(np.int64), 0, _BINS - 1)
        entry["counts"] = (np.array(entry["counts"]) + np.bincount(place, minlength=_BINS)).tolist()
        low, high = limits
        entry["below"] += int((held < low).sum()) if low is not None else 0
        entry["above"] += int((held > high).sum()) if high is not None else 0

    def report(self) -> dict[str, Any]:
        """{language: {measure: {"edges", "counts", "low", "high", "below", "above"}}}."""
        return self._found


def _empty(measure: str, limits: tuple[float | None, float | None]) -> dict[str, Any]:
    end = _ENDS.get(measure, 1.0)
    high = max((limit for limit in limits if limit is not None and math.isfinite(limit)), default=0.0)
    while end < high:  # the threshold must be on the axis
        end *= 2
    edges = [round(end * place / _BINS, 6) for place in range(_BINS + 1)]
    return {"edges": edges, "counts": [0] * _BINS, "low": limits[0], "high": limits[1], "below": 0, "above": 0}


def added(reports: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The histograms of several parts as one."""
    total: dict[str, Any] = {}
    for report in reports:
        for lang, measures in report.items():
            for measure, entry in measures.items():
                held = total.setdefault(lang, {}).get(measure)
                if held is None:
                    total[lang][measure] = {**entry}
                    continue
                held["counts"] = [a + b for a, b in zip(held["counts"], entry["counts"], strict=True)]
                held["below"] += entry["below"]
                held["above"] += entry["above"]
    return total
