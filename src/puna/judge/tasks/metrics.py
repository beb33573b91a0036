"""How rows answer lm_eval's questions, and the one metric that its registry lacks: the mass on the right answers (mc2).

Comes in: finished rows, and what a model said. Goes out: targets and scores. Must never happen: a template.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np


def gold(row: dict[str, Any]) -> int:
    """The place of the right choice."""
    return int(row["gold"][0])


def golds(row: dict[str, Any]) -> list[int]:
    """The places of the right choices, of a task where an item may have several."""
    return [int(place) for place in row["gold"]]


def delimited(delimiter: str) -> Callable[[dict[str, Any]], str]:
    """The continuation after its delimiter: lm_eval adds none where it scores a single continuation."""

    def continuation(row: dict[str, Any]) -> str:
        text = str(row["answer"])
        return text if text[:1].isspace() else delimiter + text

    return continuation


class ChoiceScores:
    """All metrics of multiple choice, mc2 among them, from the likelihoods of the choices.

    mc2: the share of the choices' whole probability that is on the right ones (Lin et al. 2022, TruthfulQA, section 3.2),
    computed from differences to the likeliest, since exp(-800) is 0.
    """

    def __init__(self, metrics: Sequence[str]) -> None:
        self.metrics = tuple(metrics)

    def __call__(self, row: dict[str, Any], results: Sequence[tuple[float, bool]]) -> dict[str, float]:
        """results: [choices] (log-likelihood, greedy) -> score by metric."""
        lls = np.array([one[0] for one in results], dtype=np.float64)
        lengths = {
            "acc": np.ones(len(lls)),
            "acc_norm": np.array([len(choice) for choice in row["choices"]], dtype=np.float64),
            "acc_bytes": np.array([len(choice.encode()) for choice in row["choices"]], dtype=np.float64),
        }
        mass = np.exp(lls - lls.max())
        scores = {"mc2": float(mass[row["gold"]].sum() / mass.sum())}
        for name, length in lengths.items():
            scores[name] = float(int(np.argmax(lls / length)) in row["gold"])
        return {name: scores[name] for name in self.metrics}
