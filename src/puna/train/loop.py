"""The step loop: from a plan, a model's config and batches to trained weights, however often it is killed.

Comes in: plan, config, batches, a work folder. Goes out: a `TrainResult`; in the work folder `run.json`,
`metrics.jsonl`, `checkpoints/` and `milestones/`. Must never happen: N steps that differ by one bit from k steps, a kill, and N - k.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from puna.errors import PunaError
from puna.model.adapters import Adapter, adapter_tensors, attach, merged
from puna.model.config import ModelConfig
from puna.model.decoder import Decoder
from puna.model.device import Device, tune_allocator
from puna.model.formats import open_model
from puna.model.frozen_base import frozen_decoder
from puna.model.weights import Weights
from puna.progress import QUIET, Progress, clock
from puna.recipe.scaling import Plan
from puna.tokens.loader import Batches
from puna.train.checkpoint import Checkpoint, digest_of_tensors, load, load_latest, save
from puna.train.choice import Choice, flops_per_token, recorded_choice
from puna.train.guard import Guard
from puna.train.metrics import MetricsLog
from puna.train.milestones import FOLDER, RNG, STEP0, Milestones, Record, milestone_steps
from puna.train.optim import adapter_rate
from puna.train.schedule import rate_share
from puna.train.stepper import Stepper, settled

LEAST_BETWEEN = 20  # a checkpoint is followed by at least this many times its own seconds of training


@dataclass(frozen=True)
class TrainResult:
    """`tokens` of the whole run, skipped steps included; `seconds` of this process; `final_loss` in nats a token.

    With an adapter, `model` is the frozen decoder with the adapter beside it (`save_adapter` takes both), `base` the weights
    that it was trained on and `base_digest` what `run.json` calls them. `step0`: digest of the weights before the first step.
    `milestones`: what the ledger keeps of each (`puna.train.milestones.told`).
    """

    model: Decoder
    steps: int
    tokens: int
    seconds: float
    skipped: int
    final_loss: float
    metrics: Path
    adapter: Adapter | None = None
    base: Weights | None = None
    base_digest: str | None = None
    step0: dict[str, Any] = field(default_factory=dict)
    milestones: list[dict[str, Any]] = field(default_factory=list)

    @property
    def weights(self) -> Weights:
        """The trained model under Hugging Face's names, in fp32: an adapter is added into the base as it is stored."""
        if self.adapter is None or self.base is None:
            return Weights.of(self.model)
        return merged(self.base, adapter_tensors(self.model), self.adapter, torch.float32)


def train(
    plan: Plan, config: ModelConfig, batches: Batches, work: Path, *, seed: int, device: Device, init: Path | None = None,
    adapter: Adapter | None = None, progress: Progress = QUIET, on_checkpoint: Callable[[Checkpoint], None] | None = None,
    milestones: int = 0, record: Record | None = None,
) -> TrainResult:  # fmt: skip
    """Train `plan.steps` steps; called again with the same work folder, go on from the newest whole checkpoint.

    `init`: a model to start from; unset, weights come from `seed`. `adapter`: the weights of `init` stay frozen and only the
    adapter is trained and kept in checkpoints. `milestones`: keep this many and one more in `work/milestones`, from step 0 to the
    last. `record` hears of step 0 and of each milestone as they come, again in each process that goes on.

    Raises `PunaError` where the batches do not fit the plan, the folder belongs to another run or base, a loss is not finite (before
    the update), or the disk is full.
    """
    _same_rows(plan, batches)
    work.mkdir(parents=True, exist_ok=True)
    if device.device.type == "cpu":
        tune_allocator()
    base = _base(config, init) if adapter else None
    digest = digest_of_tensors(base.items()) if base else None
    choice = recorded_choice(work, plan, config, seed, device, progress, adapter, digest)
    device = _as_chosen(device, choice)
    with settled(device, choice):
        model = _model(config, seed, init, adapter, base, device)
        step0 = _step0(model, digest)
        if record:
            record(STEP0, step0)
        stepper = Stepper(model.train(), plan, choice, device, seed)
        kept = Milestones(work / FOLDER, milestone_steps(plan.steps, milestones), record, progress)
        result = _Run(stepper, batches, work, progress, on_checkpoint, adapter, kept).go()
    return replace(result, adapter=adapter, base=base, base_digest=digest, step0=step0)


def replay(
    plan: Plan, config: ModelConfig, batches: Batches, milestone: Path, until: int, *, seed: int, device: Device, choice: Choice,
    init: Path | None = None, adapter: Adapter | None = None, progress: Progress = QUIET,
) -> dict[str, Tensor]:  # fmt: skip
    """Train again from the milestone in the folder `milestone` to the step `until`; returns all tensors as they are then.

    `choice`: what the run decided (its `run.json`). `init` is only needed with an adapter: its weights lie in no milestone.
    Nothing is written. Raises `PunaError` as `train` does, and where the milestone is damaged or of another model.
    """
    _same_rows(plan, batches)
    if device.device.type == "cpu":
        tune_allocator()
    device = _as_chosen(device, choice)
    with settled(device, choice):
        base = _base(config, init) if adapter else None
        model = _model(config, seed, None if adapter is None else init, adapter, base, device)
        steps = _Steps(Stepper(model.train(), plan, choice, device, seed), batches, progress, adapter)
        found, _ = load(milestone, steps.tensors())
        steps.step = found.step
        steps.restore(found.state)
        first = steps.step
        progress.start("replaying", until - first, "steps")
        while steps.step < until:
            row = steps.one_step()
            progress.update(steps.step - first, loss=f"{row['loss']:.3f}")
        progress.finish()
        return steps.tensors()


def step0_digests(
    config: ModelConfig, seed: int, init: Path | None = None, adapter: Adapter | None = None
) -> dict[str, str]:
    """What `train` tells the ledger of step 0, made again: of weights that come from `seed`, the same on every machine."""
    base = _base(config, init) if adapter else None
    place = Device("any", torch.device("cpu"), torch.get_num_threads(), torch.float32, "no product is computed")
    return _step0(_model(config, seed, init, adapter, base, place), digest_of_tensors(base.items()) if base else None)


def _step0(model: Decoder, base: str | None) -> dict[str, str]:
    return {"weights": weights_digest(model), **({"base": base} if base else {})}


def weights_digest(model: Decoder) -> str:
    """SHA-256 (hex) of what is trained of a model: names, types and bytes, by name."""
    named = sorted((name, p.detach()) for name, p in model.named_parameters() if p.requires_grad)
    return digest_of_tensors(named)


class _Steps:
    """The state of a run between two steps, and the step."""

    def __init__(self, stepper: Stepper, batches: Batches, progress: Progress, adapter: Adapter | None) -> None:
        self.stepper, self.batches, self.progress, self.adapter = stepper, batches, progress, adapter
        self._peak_rate = (
            adapter_rate(stepper.plan, stepper.model.config.hidden_size) if adapter else stepper.plan.lr_matrix
        )
        self.guard, self.loss, self.trained_seconds = Guard(), float("nan"), 0.0
        self.rng = (
            torch.get_rng_state()
        )  # nothing here draws from it; kept so that a future layer that does resumes too
        self.step = 0

    def one_step(self) -> dict[str, Any]:
        """Train one step; returns its row of metrics."""
        plan, step = self.stepper.plan, self.step
        batch = self.batches.batch(step)
        loss, norm = self.stepper.gradients(batch, step)
        admitted = self.guard.admit(loss, norm, step=step, batch=batch.identity)
        if admitted:
            self.stepper.update(step)
        else:
            self.progress.note(f"step {step:,}: a spike (loss {loss:.3f}, gradient norm {norm:.2f}); passed over")
        self.step, self.loss = step + 1, loss
        return {"step": step, "loss": loss, "lr": self._peak_rate * rate_share(plan, step), "grad_norm": norm,
                "tokens": self.step * plan.rows * plan.context, **({} if admitted else {"skipped": True})}  # fmt: skip

    def tensors(self) -> dict[str, Tensor]:
        """Everything that a checkpoint keeps."""
        return {**self.stepper.tensors(), RNG: self.rng}

    def state(self) -> dict[str, Any]:
        """The plain values that a checkpoint keeps beside the tensors."""
        return {"step": self.step, "guard": self.guard.state(), "loss": self.loss, "trained_seconds": self.trained_seconds,
                "cursor": self.step * self.batches.rows, "seed": self.stepper.seed}  # fmt: skip

    def restore(self, state: dict[str, Any]) -> None:
        """Take up `state()` again, once the tensors have been read."""
        self.guard.restore(state["guard"])
        self.loss = float("nan") if state["loss"] is None else float(state["loss"])
        self.trained_seconds = float(state["trained_seconds"])
        torch.set_rng_state(self.rng)


class _Run(_Steps):
    """One process's part of a run: what it resumes from, and the loop."""

    def __init__(
        self, stepper: Stepper, batches: Batches, work: Path, progress: Progress,
        on_checkpoint: Callable[[Checkpoint], None] | None, adapter: Adapter | None, kept: Milestones,
    ) -> None:  # fmt: skip
        super().__init__(stepper, batches, progress, adapter)
        self.work, self.on_checkpoint, self.kept = work, on_checkpoint, kept
        found = load_latest(work / "checkpoints", self.tensors(), progress)
        if found:
            self.step = found.step
            self.restore(found.state)
            progress.note(f"going on from step {found.step:,} of {stepper.plan.steps:,}")
        kept.take_up(self.step, self.tensors(), self.state())

    def go(self) -> TrainResult:
        plan, config = self.stepper.plan, self.stepper.model.config
        # Tokens/s at the matmul peak.
        peak = self.stepper.device.matmul_peak() / flops_per_token(config, plan.context, self.adapter)
        began = saved = time.monotonic()
        pause = plan.checkpoint_seconds
        self.progress.start("training", plan.steps, "steps")
        with MetricsLog(self.work / "metrics.jsonl") as log:
            rate = _Rate()
            while self.step < plan.steps:
                start = time.monotonic()
                row = self.one_step()
                seconds = time.monotonic() - start
                self.trained_seconds += seconds
                rate.add(plan.rows * plan.context / seconds)
                log.write(
                    {**row, "tokens_per_second": plan.rows * plan.context / seconds, "seconds": self.trained_seconds}
                )
                self.progress.update(self.step, **self._facts(rate.tokens_per_second, peak))
                # Before the checkpoint of the same step: whoever goes on from that finds every milestone up to it.
                self.kept.at(self.step, self.tensors(), self.state())
                if self.step == plan.steps or time.monotonic() - saved >= pause:
                    start = time.monotonic()
                    log.sync()
                    self._save()
                    saved = time.monotonic()
                    pause = max(plan.checkpoint_seconds, LEAST_BETWEEN * (saved - start))
        self.progress.finish()
        tokens = self.step * plan.rows * plan.context
        return TrainResult(self.stepper.model, self.step, tokens, time.monotonic() - began, self.guard.skipped, self.loss,
                           self.work / "metrics.jsonl", milestones=self.kept.kept)  # fmt: skip

    def _save(self) -> None:
        done = save(self.work / "checkpoints", self.step, self.tensors(), self.state())
        if self.on_checkpoint:
            self.on_checkpoint(done)

    def _facts(self, tokens_per_second: float, peak: float) -> dict[str, str]:
        plan = self.stepper.plan
        left = (plan.steps - self.step) * plan.rows * plan.context / tokens_per_second
        return {"loss": f"{self.loss:.3f}", "speed": f"{tokens_per_second:,.0f} tok/s",
                "peak": f"{tokens_per_second / peak:.0%} of matmul peak", "left": clock(left)}  # fmt: skip


class _Rate:
    """Tokens/s, smoothed over about ten steps; the first step, which compiles, does not count once there is another."""

    def __init__(self) -> None:
        self.tokens_per_second, self._steps = 0.0, 0

    def add(self, value: float) -> None:
        self._steps += 1
        weight = 1.0 if self._steps <= 2 else 0.1
        self.tokens_per_second += weight * (value - self.tokens_per_second)


def _same_rows(plan: Plan, batches: Batches) -> None:
    if (batches.rows, batches.context) != (plan.rows, plan.context):
        raise PunaError(f"batches of {batches.rows} rows of {batches.context} tokens do not fit a plan of {plan.rows} rows "
                        f"of {plan.context}", where="train")  # fmt: skip


def _as_chosen(device: Device, choice: Choice) -> Device:
    return Device(device.name, device.device, choice.threads, choice.dtype, device.reason)


def _model(
    config: ModelConfig, seed: int, init: Path | None, adapter: Adapter | None, base: Weights | None, device: Device
) -> Decoder:
    """The model at step 0, on its device."""
    if adapter and base:
        model = frozen_decoder(base, adapter.bits, device.device)
        attach(model, adapter, seed)
        return model
    return _first_weights(config, seed, init).to(device.device)


def _first_weights(config: ModelConfig, seed: int, init: Path | None) -> Decoder:
    if init is None:
        model = Decoder(config)
        model.init_weights(seed)
        return model
    weights = open_model(init)
    _same_shapes(weights.config, config, init)
    return replace(weights, config=config).decoder()


def _base(config: ModelConfig, init: Path | None) -> Weights:
    """The weights that stay frozen, under the config of the model to train."""
    if init is None:
        raise PunaError("an adapter needs a model to adapt: random weights have nothing to be kept", where="train")
    weights = open_model(init)
    _same_shapes(weights.config, config, init)
    return replace(weights, config=config)


def _same_shapes(found: ModelConfig, config: ModelConfig, init: Path) -> None:
    if found.shapes != config.shapes:
        raise PunaError("its weights have other shapes than the model to train", where=str(init))
