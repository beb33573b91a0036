"""The step loop: from a plan, a model's config and batches to trained weights, however often it is killed.

Comes in: plan, config, batches, a work folder. Goes out: a `TrainResult`; in the work folder `run.json`,
`metrics.jsonl` and `checkpoints/`. Must never happen: N steps that differ by one bit from k steps, a kill, and N - k.
"""

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

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
from puna.train.checkpoint import Checkpoint, load_latest, save
from puna.train.choice import flops_per_token, recorded_choice
from puna.train.guard import Guard
from puna.train.metrics import MetricsLog
from puna.train.optim import adapter_rate
from puna.train.schedule import rate_share
from puna.train.stepper import Stepper, settled

LEAST_BETWEEN = 20  # a checkpoint is followed by at least this many times its own seconds of training


@dataclass(frozen=True)
class TrainResult:
    """`tokens` of the whole run, skipped steps included; `seconds` of this process; `final_loss` in nats a token.

    With an adapter, `model` is the frozen decoder with the adapter beside it (`save_adapter` takes both), `base` the weights
    that it was trained on and `base_digest` what `run.json` calls them.
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

    @property
    def weights(self) -> Weights:
        """The trained model under Hugging Face's names, in fp32: an adapter is added into the base as it is stored."""
        if self.adapter is None or self.base is None:
            return Weights.of(self.model)
        return merged(self.base, adapter_tensors(self.model), self.adapter, torch.float32)


def train(
    plan: Plan, config: ModelConfig, batches: Batches, work: Path, *, seed: int, device: Device, init: Path | None = None,
    adapter: Adapter | None = None, progress: Progress = QUIET, on_checkpoint: Callable[[Checkpoint], None] | None = None,
) -> TrainResult:  # fmt: skip
    """Train `plan.steps` steps; called again with the same work folder, go on from the newest whole checkpoint.

    `init`: a model to start from; unset, weights come from `seed`. `adapter`: the weights of `init` stay frozen and only the
    adapter is trained and kept in checkpoints. Raises `PunaError` where the batches do not fit the plan, the folder belongs to
    another run or base, a loss is not finite (before the update), or the disk is full.
    """
    if (batches.rows, batches.context) != (plan.rows, plan.context):
        raise PunaError(f"batches of {batches.rows} rows of {batches.context} tokens do not fit a plan of {plan.rows} rows "
                        f"of {plan.context}", where="train")  # fmt: skip
    work.mkdir(parents=True, exist_ok=True)
    if device.device.type == "cpu":
        tune_allocator()
    base = _base(config, init) if adapter else None
    digest = _digest(base) if base else None
    choice = recorded_choice(work, plan, config, seed, device, progress, adapter, digest)
    device = Device(device.name, device.device, choice.threads, choice.dtype, device.reason)
    with settled(device, choice):
        if adapter and base:
            model = frozen_decoder(base, adapter.bits, device.device)
            attach(model, adapter, seed)
        else:
            model = _first_weights(config, seed, init).to(device.device)
        stepper = Stepper(model.train(), plan, choice, device, seed)
        result = _Run(stepper, batches, work, progress, on_checkpoint, adapter).go()
    return replace(result, adapter=adapter, base=base, base_digest=digest)


class _Run:
    """One process's part of a run: what it resumes from, and the loop."""

    def __init__(
        self, stepper: Stepper, batches: Batches, work: Path, progress: Progress,
        on_checkpoint: Callable[[Checkpoint], None] | None, adapter: Adapter | None,
    ) -> None:  # fmt: skip
        self.stepper, self.batches, self.work, self.adapter = stepper, batches, work, adapter
        self.progress, self.on_checkpoint = progress, on_checkpoint
        self._peak_rate = (
            adapter_rate(stepper.plan, stepper.model.config.hidden_size) if adapter else stepper.plan.lr_matrix
        )
        self.guard, self.loss, self.trained_seconds = Guard(), float("nan"), 0.0
        self.rng = (
            torch.get_rng_state()
        )  # nothing here draws from it; kept so that a future layer that does resumes too
        found = load_latest(work / "checkpoints", {**stepper.tensors(), "rng": self.rng}, progress)
        self.step = found.step if found else 0
        if found:
            self._restore(found.state)
            progress.note(f"going on from step {found.step:,} of {stepper.plan.steps:,}")

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
                row = self._one_step()
                seconds = time.monotonic() - start
                self.trained_seconds += seconds
                rate.add(plan.rows * plan.context / seconds)
                log.write(
                    {**row, "tokens_per_second": plan.rows * plan.context / seconds, "seconds": self.trained_seconds}
                )
                self.progress.update(self.step, **self._facts(rate.tokens_per_second, peak))
                if self.step == plan.steps or time.monotonic() - saved >= pause:
                    start = time.monotonic()
                    log.sync()
                    self._save()
                    saved = time.monotonic()
                    pause = max(plan.checkpoint_seconds, LEAST_BETWEEN * (saved - start))
        self.progress.finish()
        tokens = self.step * plan.rows * plan.context
        return TrainResult(self.stepper.model, self.step, tokens, time.monotonic() - began, self.guard.skipped, self.loss,
                           self.work / "metrics.jsonl")  # fmt: skip

    def _one_step(self) -> dict[str, Any]:
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

    def _save(self) -> None:
        state = {"guard": self.guard.state(), "loss": self.loss, "trained_seconds": self.trained_seconds,
                 "cursor": self.step * self.batches.rows, "seed": self.stepper.seed}  # fmt: skip
        done = save(self.work / "checkpoints", self.step, {**self.stepper.tensors(), "rng": self.rng}, state)
        if self.on_checkpoint:
            self.on_checkpoint(done)

    def _restore(self, state: dict[str, Any]) -> None:
        self.guard.restore(state["guard"])
        self.loss, self.trained_seconds = float(state["loss"]), float(state["trained_seconds"])
        torch.set_rng_state(self.rng)

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


def _digest(weights: Weights) -> str:
    """SHA-256 (hex) of every tensor's name, type and bytes, whatever format they are stored in."""
    state = hashlib.sha256()
    for name, tensor in weights.items():
        state.update(f"{name} {tensor.dtype}\n".encode())
        state.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return state.hexdigest()
