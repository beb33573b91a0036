"""Milestones: checkpoints at even distances that stay, so that anyone can train a part of the run again and compare.

Comes in: a run's steps, its tensors as they are at each milestone. Goes out: `milestones/step_N/` and a few values of each
for the ledger. Must never happen: a milestone whose values differ because the run was killed and resumed.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from puna.files import digest_of
from puna.progress import Progress
from puna.train.checkpoint import digest_of_tensors, find_whole, save

FOLDER, RNG = "milestones", "rng"
STEP0, MILESTONE = "step0", "milestone"  # kinds of what a run tells the ledger
Record = Callable[[str, dict[str, Any]], None]


def milestone_steps(steps: int, count: int) -> list[int]:
    """After which steps the `count` + 1 milestones of a run of `steps` steps lie, 0 and the last among them; none for 0."""
    return sorted({steps * part // count for part in range(count + 1)}) if count else []


def comparable(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """What two runs of the same steps must have alike, by name: all but the random state, which nothing draws from."""
    return {name: tensors[name] for name in sorted(tensors) if name != RNG}


def told(state: dict[str, Any]) -> dict[str, Any]:
    """What the ledger keeps of a milestone's state: step, data cursor, the tensors' digest, the guard's."""
    return {
        "step": state["step"],
        "cursor": state["cursor"],
        "tensors": state["tensors"],
        "guard": digest_of(state["guard"]),
    }


class Milestones:
    """The milestones of one run, in `folder`; `record(kind, values)` hears of each once a process, in order."""

    def __init__(self, folder: Path, steps: list[int], record: Record | None, progress: Progress) -> None:
        self.folder, self.steps, self.record, self.progress = folder, frozenset(steps), record, progress
        self.kept: list[dict[str, Any]] = []

    def take_up(self, step: int, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Where a run begins or goes on at `step`: those before it are there already; one that lies here may not be."""
        for number in sorted(self.steps):
            if number < step:
                found = find_whole(self.folder, number)
                if found is None:
                    self.progress.note(
                        f"the milestone at step {number:,} is gone; what lies beside it cannot be replayed"
                    )
                else:
                    self._tell(found.state)
        self.at(step, tensors, state)

    def at(self, step: int, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Keep a milestone where one lies at `step`. A whole one of an earlier process is left as it is."""
        if step not in self.steps:
            return
        loss = state["loss"] if math.isfinite(state["loss"]) else None  # before the first step there is none
        whole = {**state, "loss": loss, "tensors": digest_of_tensors(comparable(tensors).items())}
        self._tell(save(self.folder, step, tensors, whole, keep=None).state)

    def _tell(self, state: dict[str, Any]) -> None:
        self.kept.append(told(state))
        if self.record:
            self.record(MILESTONE, self.kept[-1])
