"""What a build will take, before it starts: time, memory and disk, from a calibration of seconds on this machine.

Comes in: a recipe. Goes out: a `Forecast`, or a refusal. Must never happen: a build that starts and cannot fit.
"""

import importlib.util
import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from puna.build.facts import planned_model, trial_tokens, wished_shape
from puna.corpus.readers import COMPRESSED, list_files
from puna.errors import PunaError
from puna.memory import free_memory
from puna.recipe.base import SELF
from puna.recipe.corpus import HUB_PREFIX, PYTHON_SOURCE
from puna.recipe.scaling import MIN_STEPS, Plan, Shape, budget_tokens, plan_pretraining, plan_tuning, tuning_batch
from puna.recipe.schema import DOCSTRINGS, Recipe

# Measured on 2 cores at 2.8 GHz (docs/LOG.md): bytes of text a second through each of the stages that make data.
CORPUS_BYTES_PER_SECOND = 0.65e6
TOKENS_BYTES_PER_SECOND = 1.5e6
JUDGE_SECONDS, RELEASE_SECONDS = 60.0, 5.0
CALIBRATION_SECONDS = 5.0  # each, compiling not counted
PYTHON_BYTES = 14.3e6  # text that the default corpus reads, about the same for 3.11 to 3.13
USUAL_COMPRESSION = 4  # text over the bytes of its .gz or .zst file
BYTES_PER_PARAMETER_ON_DISK = 4
COPIES_ON_DISK = 12  # base, tuned and released weights, two checkpoints with the optimizer's state of each

BYTES_PER_PARAMETER_OF_A_CHECKPOINT = 12  # weights and two moments in fp32 (with Muon less)


@dataclass(frozen=True)
class Forecast:
    """Seconds a stage, bytes of memory and disk, and the plan behind them."""

    shape: Shape
    plan: Plan
    tuning: list[Plan]
    tokens_per_second: float
    share_of_peak: float
    device: dict[str, Any]
    seconds: dict[str, float]
    memory_bytes: int
    memory_free: int
    disk_bytes: int
    disk_free: int


def forecast(recipe: Recipe, runs: Path = Path("runs")) -> Forecast:
    """Measure this machine for a few seconds and say what the build will take.

    Raises `PunaError` where memory or disk do not suffice or the budget is too small.
    """
    check_resources(recipe, runs)
    from puna.build.machine import describe, refuse_memory, settle
    from puna.build.training import adapter_of
    from puna.model.device import pick_device
    from puna.train.calibrate import calibrate
    from puna.train.choice import compile_seconds

    shape, config = wished_shape(recipe, runs), planned_model(recipe, runs)
    device = pick_device(recipe.train.precision)
    share = recipe.base.lr_share if recipe.base else 1.0
    trial = plan_pretraining(recipe.train, shape, trial_tokens(recipe.train, shape)).model_copy(
        update={"compile": "off"}
    )
    adapter = adapter_of(recipe.train.adapter, "train.adapter")
    memory = refuse_memory(trial, config, device, adapter)
    free = free_memory()
    measured = calibrate(config, trial, device, adapter=adapter)
    tokens = budget_tokens(recipe.train, shape, measured.tokens_per_second)
    plan = settle(plan_pretraining(recipe.train, shape, tokens, share), config, device, adapter)
    tuning = []
    for tune in recipe.tune:
        by_clock = int(tune.minutes * 60 * measured.tokens_per_second) if tune.minutes else None
        # A budget in epochs is known only once the data are packed; a million tokens, or what is needed, stand in for it.
        guess = max(1_000_000, MIN_STEPS * tuning_batch(tune, plan))
        tuning.append(plan_tuning(tune, plan, tune.tokens or by_clock or guess))
    text = _text_bytes(recipe)
    rate = measured.tokens_per_second
    trials = 1 + any(tune.minutes for tune in recipe.tune)  # both compile, and training finds what they compiled
    seconds = {
        "corpus": text / CORPUS_BYTES_PER_SECOND, "tokenizer and rows": text / TOKENS_BYTES_PER_SECOND,
        "calibration": trials * (CALIBRATION_SECONDS + (compile_seconds(config) if plan.compile == "on" else 0.0)),
        "pretraining": plan.tokens / rate, "tuning": sum(t.tokens for t in tuning) / rate,
        "judging": JUDGE_SECONDS, "release and report": RELEASE_SECONDS,
    }  # fmt: skip
    return Forecast(
        shape=shape, plan=plan, tuning=tuning, tokens_per_second=rate, share_of_peak=measured.share, device=describe(device),
        seconds=seconds, memory_bytes=memory, memory_free=free,
        disk_bytes=disk_needed(recipe, shape), disk_free=shutil.disk_usage(_existing(runs)).free,
    )  # fmt: skip


def check_resources(recipe: Recipe, runs: Path) -> None:
    """Refuse at once what cannot be built here. Raises `PunaError`."""
    shape = wished_shape(recipe, runs)
    train = recipe.train
    if train.minutes is None:
        plan_pretraining(train, shape, budget_tokens(train, shape, None))
    for source in recipe.corpus.paths:
        if source != PYTHON_SOURCE and not source.startswith(HUB_PREFIX) and not os.path.exists(source):
            raise PunaError("does not exist", where=f"corpus.sources: {source}", mend="name a file or folder that does")
    for source in recipe.base.old if recipe.base else []:
        if source not in (PYTHON_SOURCE, SELF) and not source.startswith(HUB_PREFIX) and not os.path.exists(source):
            raise PunaError("does not exist", where=f"base.old: {source}", mend="name a file or folder that does")
    for number, tune in enumerate(recipe.tune):
        if tune.data != DOCSTRINGS and not os.path.exists(tune.data):
            raise PunaError(
                "does not exist",
                where=f"tune.{number}.data: {tune.data}",
                mend="name a .jsonl file or a folder of them",
            )
        if tune.data == DOCSTRINGS and PYTHON_SOURCE not in recipe.corpus.paths:
            raise PunaError('"docstrings" needs "python" among corpus.sources', where=f"tune.{number}.data",
                            mend="name a file of conversations, or take the [[tune]] table out: --set tune=[]")  # fmt: skip
    if (needed := memory_floor(shape, recipe)) > (free := free_memory()):
        raise PunaError(f"training {shape.params / 1e6:,.0f} M parameters needs {needed / 2**30:.1f} GiB of memory at the least, "
                        f"{free / 2**30:.1f} GiB are free", where="model.size", mend="choose a smaller model.size")  # fmt: skip
    needed, free = disk_needed(recipe, shape), shutil.disk_usage(_existing(runs)).free
    if needed > free + _bytes_under(runs / recipe.name):  # what a stopped or finished build holds already counts
        raise PunaError(f"the build needs about {needed / 2**30:.2f} GiB of disk, {free / 2**30:.2f} GiB are free",
                        where=str(_existing(runs)), mend="free some space, choose a smaller model.size, or keep fewer train.milestones")  # fmt: skip
    if recipe.release.sign and not os.path.isfile(recipe.release.sign):
        raise PunaError(
            "no such key", where=f"release.sign: {recipe.release.sign}", mend="puna verify --new-key KEY makes one"
        )
    if recipe.release.gate and importlib.util.find_spec("transformers") is None:
        raise PunaError("the export gate needs transformers", where="release.gate",
                        mend="pip install 'transformers>=5.3,<6', or --set release.gate=false")  # fmt: skip


def memory_floor(shape: Shape, recipe: Recipe) -> int:
    """Bytes that training cannot do without: weights, gradients and two moments in fp32, and torch itself.

    With an adapter only the weights themselves count.
    """
    adapter = recipe.train.adapter
    each = (
        16.0 if adapter is None else 4.0
    )  # the judge and the gate read the whole model in fp32, whatever training held
    return int(shape.params * each) + 600 * 2**20


def disk_needed(recipe: Recipe, shape: Shape) -> int:
    """Bytes of disk: the text twice (documents, rows), the copies of the weights, the milestones."""
    return (
        int(2.5 * _text_bytes(recipe))
        + shape.params * (BYTES_PER_PARAMETER_ON_DISK * COPIES_ON_DISK)
        + _milestones(recipe, shape)
    )


def _milestones(recipe: Recipe, shape: Shape) -> int:
    """Bytes of the checkpoints that stay; those of an adapter are small."""
    trainings = [recipe.train.adapter, *(tune.adapter for tune in recipe.tune)]
    each = trainings.count(None) * (recipe.train.milestones + 1) if recipe.train.milestones else 0
    return each * shape.params * BYTES_PER_PARAMETER_OF_A_CHECKPOINT


def _text_bytes(recipe: Recipe) -> float:
    """Bytes of the files that will be read as text."""
    total = 0.0
    for source in recipe.corpus.paths:
        if source == PYTHON_SOURCE:
            total += PYTHON_BYTES
            continue
        if source.startswith(HUB_PREFIX):
            continue  # not known before it is asked for, and nothing is asked before the build
        for file in list_files(Path(source), Path(source).name):
            packed = file.path.suffix.lower() in COMPRESSED
            total += file.path.stat().st_size * (USUAL_COMPRESSION if packed else 1)
    return total


def _bytes_under(folder: Path) -> int:
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):  # another build of this run, not refused yet, may be at work on its files
                total += os.lstat(os.path.join(place, name)).st_size
    return total


def _existing(path: Path) -> Path:
    path = path.resolve()
    while not path.exists():
        path = path.parent
    return path
