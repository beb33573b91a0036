"""Two predictors on the same text: the difference, its paired interval, and the verdict in plain words.

Comes in: bits of the same units from both. Goes out: model minus baseline. Must never happen: "beats" where the interval
of the difference holds zero.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from puna.judge.results import PLACES
from puna.judge.stats import ratio_interval

Floats = npt.NDArray[np.float64]
_NAMES = {
    "uniform": "uniform chance",
    "xz": "xz -9e on the same text",
    "xz_primed": "xz -9e primed with the training text",
    "ngram5": "the 5-gram model of the same tokens",
    "reference": "the reference model",
}


def paired(model: Floats, baseline: Floats, sizes: Floats, drawn: str, draws: int, seed: int) -> dict[str, Any]:
    """Bits per byte of model minus baseline, with a 95 % interval from drawing the same units for both [units].

    `sizes` are bytes, `drawn` says what a unit is. A difference below zero is the model's win.
    """
    gap = model - baseline
    interval = ratio_interval(gap, sizes, draws, seed)
    return {"value": round(float(gap.sum() / sizes.sum()), PLACES), "drawn": drawn, "units": len(sizes),
            "interval": None if interval is None else [round(value, PLACES) for value in interval]}  # fmt: skip


def verdict(name: str, difference: dict[str, Any]) -> dict[str, Any]:
    """Does the base model beat the baseline `name`? True, False, or None where the data cannot tell."""
    value, interval = difference["value"], difference["interval"]
    label = _NAMES.get(name, name)
    size = f"{abs(value):.3f} bits per byte"
    if interval is None:
        return {"name": f"beats_{name}", "holds": None, "difference": value, "interval": None,
                "words": f"cannot tell against {label}: {size} {_side(value)}, and too few sources for an interval"}  # fmt: skip
    low, high = interval
    nearer, farther = sorted((abs(low), abs(high)))
    within = f"95 % interval {nearer:.3f} to {farther:.3f}"
    if high < 0:
        holds, words = True, f"beats {label} by {size} ({within})"
    elif low > 0:
        holds, words = False, f"falls short of {label} by {size} ({within})"
    else:
        holds, words = (
            None,
            f"cannot tell against {label}: {size} {_side(value)} (95 % interval {_way(low)} to {_way(high)})",
        )
    return {"name": f"beats_{name}", "holds": holds, "difference": value, "interval": interval, "words": words}


def _way(value: float) -> str:
    return f"{abs(value):.3f} {_side(value)}"


def _side(value: float) -> str:
    return "lower" if value < 0 else "higher"
