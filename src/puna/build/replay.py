"""Parts of a training done again: from one logged checkpoint to the next, and compared tensor by tensor.

Comes in: a release's record and the run that made it. Goes out: a check a segment. Must never happen: a segment that was chosen by the
maker, or a difference called rounding that other data or another seed would stay under as well.
"""

import platform
import random
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from puna.build.graph import environment
from puna.build.store import LOG, read_manifest
from puna.build.verify import MILESTONES, adapter_of_run, lineage_of, trainings
from puna.errors import PunaError
from puna.files import digest_of, read_json
from puna.ledger.check import Check, Record, artefact_of, guarded, refuse, stage_entry
from puna.progress import QUIET, Progress

if TYPE_CHECKING:
    from torch import Tensor

# On another machine or with other versions the last bits differ. What is compared then: how far the weights come out from the
# stored ones, as a share of how far the segment moved them (both as Euclidean norms over all weights). docs/verify.md has what was measured.
TOLERANCE = 0.2
MEANING = (
    "these rows, in this order, with this seed and plan, lead from the one logged checkpoint to the next",
    "the segments that were not drawn; n forged of N are missed by k drawn with chance C(N-n, k) / C(N, k)",
)


@dataclass(frozen=True)
class Segment:
    """From one milestone of a training to the next: the logged stage, and the two entries' bodies."""

    stage: dict[str, Any]
    first: dict[str, Any]
    last: dict[str, Any]

    @property
    def name(self) -> str:
        """As it is told: `replay pretrain 0 to 14`."""
        return f"replay {self.stage['stage']} {self.first['step']} to {self.last['step']}"


def segments(record: Record) -> list[Segment]:
    """Every segment that the release's ledger names."""
    return [
        Segment(stage, first, last)
        for stage, _, milestones in trainings(record)
        for first, last in zip(milestones, milestones[1:], strict=False)
    ]


def replay_segments(record: Record, run: Path | None, count: int, seed: int, progress: Progress = QUIET) -> list[Check]:
    """Train `count` segments again, drawn by `seed` from all; a check each. All failed where the run is not there."""
    try:
        there = segments(record)
    except (PunaError, KeyError, TypeError) as problem:
        return [Check.of("replay", "failed", f"the ledger cannot be read: {problem}", MEANING)]
    if not there:
        return [Check.of("replay", "failed", "no checkpoints were logged (train.milestones was 0)", MEANING)]
    if run is None:
        return [
            Check.of(
                "replay", "failed", "the rows and checkpoints are in the run's folder: name it with --run", MEANING
            )
        ]
    drawn = random.Random(seed).sample(range(len(there)), min(count, len(there)))
    return [_checked(record, run, there[number], progress) for number in sorted(drawn)]


def _checked(record: Record, run: Path, segment: Segment, progress: Progress) -> Check:
    progress.note(f"[{segment.name}]")
    do: Callable[[], str] = lambda: _replay(record, run, segment, progress)  # noqa: E731
    return guarded(segment.name, do, MEANING)


def _replay(record: Record, run: Path, segment: Segment, progress: Progress) -> str:
    from puna.model.config import ModelConfig
    from puna.model.device import pick_device
    from puna.recipe.scaling import Plan
    from puna.tokens.loader import Batches
    from puna.train.checkpoint import digest_of_tensors, load
    from puna.train.choice import Choice
    from puna.train.loop import replay
    from puna.train.milestones import comparable

    artefact = run / artefact_of(segment.stage)
    if not (artefact / LOG / "run.json").is_file():
        refuse([f"{artefact} is not there, or holds no record of its training"])
    said = read_json(artefact / LOG / "run.json")
    plan, choice = (
        Plan.model_validate(said["plan"] | {"checkpoint_seconds": 1.0}),
        Choice.model_validate(said["choice"]),
    )
    rows = next(name for name in segment.stage["inputs"] if name == "pack" or name.startswith("chat-pack-"))
    packed = run / artefact_of(stage_entry(record.entries, rows, segment.stage["inputs"][rows]))
    _, before = load(artefact / MILESTONES / f"step_{segment.first['step']:08d}")
    if digest_of_tensors(comparable(before).items()) != segment.first["tensors"]:
        refuse([f"the checkpoint of step {segment.first['step']} is not the logged one"])
    found = comparable(replay(
        plan, ModelConfig.model_validate(said["config"]), Batches(packed, plan.rows, int(said["seed"])),
        artefact / MILESTONES / f"step_{segment.first['step']:08d}", segment.last["step"], seed=int(said["seed"]),
        device=pick_device(choice.precision), choice=choice, init=_base(record, run, segment), adapter=adapter_of_run(artefact),
        progress=progress,
    ))  # fmt: skip
    steps = segment.last["step"] - segment.first["step"]
    others = _other_environment(said["environment"], read_manifest(artefact)["environment"])
    aside = f"; {others}" if others else ""
    if digest_of_tensors(found.items()) == segment.last["tensors"]:
        return f"{steps} steps, {len(found)} tensors: equal bit for bit{aside}"
    _, after = load(artefact / MILESTONES / f"step_{segment.last['step']:08d}")
    if digest_of_tensors(comparable(after).items()) != segment.last["tensors"]:
        refuse(
            [
                f"{steps} steps do not lead to the logged tensors, and the checkpoint of step {segment.last['step']} is not the logged one"
            ]
        )
    share, differing = _apart(found, comparable(after), before)
    told = f"{steps} steps, {differing} of {len(found)} tensors differ; the weights by {share:.2%} of what the segment moved them"
    if not others:
        refuse([f"{told}; on the same build they must be equal bit for bit"])
    if share > TOLERANCE:
        refuse([f"{told}, more than the {TOLERANCE:.0%} that rounding explains{aside}"])
    return f"{told}, within the {TOLERANCE:.0%} for another build{aside}"


def _base(record: Record, run: Path, segment: Segment) -> Path | None:
    """The model under an adapter: it lies in no checkpoint."""
    first = next(body for stage, body, _ in trainings(record) if stage["digest"] == segment.stage["digest"])
    return run / first["from"] if first["from"] in lineage_of(record) else None


def _other_environment(training: dict[str, Any], libraries: dict[str, Any]) -> str:
    """What differs between the build then and this one, or nothing."""
    import torch

    from puna.model.device import pick_device

    here = {
        "torch": torch.__version__,
        "device": pick_device("fp32").name,
        "python": platform.python_version(),
        "os": sys.platform,
    }
    # The number of threads is the run's own, taken up again: what the device is called tells of it.
    now, then = ({**one, "device": re.sub(r", \d+ threads?$", "", str(one.get("device")))}
                 for one in ({**environment(), **here}, {**libraries, **training}))  # fmt: skip
    if digest_of(now) == digest_of(then):
        return ""
    return "another build: " + ", ".join(
        f"{key} {then.get(key)} -> {now.get(key)}" for key in sorted(now) if then.get(key) != now.get(key)
    )


def _apart(found: "dict[str, Tensor]", after: "dict[str, Tensor]", before: "dict[str, Tensor]") -> tuple[float, int]:
    """(distance of the weights as a share of what the segment moved them, number of tensors that differ)."""
    apart = moved = 0.0
    differing = 0
    for name, stored in after.items():
        mine = found[name].cpu()
        differing += not mine.equal(stored)
        if name.startswith("model."):
            apart += (mine.double() - stored.double()).square().sum().item()
            moved += (stored.double() - before[name].double()).square().sum().item()
    return (apart / moved) ** 0.5 if moved else float("inf"), differing
