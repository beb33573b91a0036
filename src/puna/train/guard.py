"""The guard before every update: a loss that is no number stops the run, a spike is passed over and counted.

Comes in: a step's loss and gradient norm. Goes out: update or skip. Must never happen: an update from a broken batch.
"""

import math
from collections import deque
from typing import Any

from puna.errors import PunaError

WINDOW = 128
SIGMAS = 6.0
# A standard deviation below this share of the mean is rounding, not spread: a constant loss must not trip the guard.
_ROUNDING = 1e-6


class Guard:
    """Remembers the last 128 losses and gradient norms.

    A spike is a loss or a norm more than 6 standard deviations above the mean of that window (the rule of OLMo-core's
    `SkipStepOptimizer`), judged only once the window is full. Spikes enter the window too: where the level has really
    changed, the window follows and training goes on.
    """

    def __init__(self, window: int = WINDOW, sigmas: float = SIGMAS) -> None:
        self.sigmas = sigmas
        self.skipped = 0
        self._losses: deque[float] = deque(maxlen=window)
        self._norms: deque[float] = deque(maxlen=window)

    def admit(self, loss: float, norm: float, *, step: int, batch: str) -> bool:
        """True: update. False: a spike, counted in `skipped`. Raises `PunaError` where either is not finite."""
        if not (math.isfinite(loss) and math.isfinite(norm)):
            name, value = ("gradient norm", norm) if math.isfinite(loss) else ("loss", loss)
            raise PunaError(
                f"the {name} is {value} before the update of step {step}; the batch is {batch}", where="train",
                mend="lower train.lr_matrix and train.lr_embed, or set train.precision = \"fp32\"; the last checkpoint is whole",
            )  # fmt: skip
        spike = self._is_spike(self._losses, loss) or self._is_spike(self._norms, norm)
        self._losses.append(loss)
        self._norms.append(norm)
        self.skipped += spike
        return not spike

    def _is_spike(self, window: deque[float], value: float) -> bool:
        if len(window) != window.maxlen:
            return False
        mean = math.fsum(window) / len(window)
        sigma = math.sqrt(math.fsum((x - mean) ** 2 for x in window) / len(window))
        return value > mean + self.sigmas * max(sigma, _ROUNDING * abs(mean))

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps; floats survive JSON exactly (shortest round-trip form)."""
        return {"losses": list(self._losses), "norms": list(self._norms), "skipped": self.skipped}

    def restore(self, state: dict[str, Any]) -> None:
        """Take up `state()` again."""
        for window, values in ((self._losses, state["losses"]), (self._norms, state["norms"])):
            window.clear()
            window.extend(float(value) for value in values)
        self.skipped = int(state["skipped"])
