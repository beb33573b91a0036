"""A few seconds of real steps: what this machine reaches with this model and plan.

Comes in: config, plan, device. Goes out: a `Calibration`. Must never happen: a rate from a formula instead of a clock.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from puna.model.adapters import Adapter, attach
from puna.model.config import ModelConfig
from puna.model.decoder import Decoder
from puna.model.device import Device, tune_allocator
from puna.model.frozen_base import quantise_frozen
from puna.recipe.scaling import Plan
from puna.tokens.loader import Batch
from puna.train.choice import bytes_needed, choose, flops_per_token
from puna.train.stepper import Stepper, settled


@dataclass(frozen=True)
class Calibration:
    """`tokens_per_second`: steady state, the optimiser's share included, compiling not. `peak_flops`: the measured
    matmul peak in the precision used, FLOP/s. `share`: of that peak. `compile_seconds`: the first, compiling pass, 0
    where nothing is compiled. `update_share`: the optimiser's part of a step's time. `bytes_needed`: memory at its height.
    """

    tokens_per_second: float
    peak_flops: float
    share: float
    compile_seconds: float
    update_share: float
    bytes_needed: int


def calibrate(
    config: ModelConfig, plan: Plan, device: Device, seconds: float = 3.0, adapter: Adapter | None = None
) -> Calibration:  # fmt: skip
    """Time forward and backward of micro-batches of random tokens and the update, each for a part of `seconds`.

    A whole batch may take longer than `seconds`, so one micro-batch and one update are measured and added up. At least
    two of each are timed, and one of each before that is not.
    """
    if device.device.type == "cpu":
        tune_allocator()
    choice = choose(plan, config, device, adapter)
    device = Device(device.name, device.device, choice.threads, choice.dtype, device.reason)
    with settled(device, choice):
        model = Decoder(config)
        model.init_weights(0)
        model.to(device.device)
        if adapter and adapter.bits:
            quantise_frozen(model, adapter.bits)
        if adapter:
            attach(model, adapter, 0)
        stepper = Stepper(model.train(), plan, choice, device, seed=0)
        batch, count = _random_batch(config, plan, choice.micro_rows), torch.ones((), device=device.device)

        def micro() -> None:
            stepper.backward(batch, slice(0, choice.micro_rows), 0, count)

        def update() -> None:
            torch.nn.utils.clip_grad_norm_(stepper.parameters, plan.clip)
            stepper.update(0)

        start = time.perf_counter()
        micro()
        device.synchronize()
        first = time.perf_counter() - start
        update_seconds = _median(update, device, 0.2 * seconds)
        micro_seconds = _median(micro, device, 0.8 * seconds)
    step_seconds = micro_seconds * (plan.rows // choice.micro_rows) + update_seconds
    speed, peak = plan.rows * plan.context / step_seconds, device.matmul_peak()
    return Calibration(
        tokens_per_second=speed, peak_flops=peak, share=speed * flops_per_token(config, plan.context, adapter) / peak,
        compile_seconds=max(0.0, first - micro_seconds) if choice.compile else 0.0,
        update_share=update_seconds / step_seconds, bytes_needed=bytes_needed(plan, config, device, choice.micro_rows, adapter),
    )  # fmt: skip


def _random_batch(config: ModelConfig, plan: Plan, rows: int) -> Batch:
    draw = torch.Generator().manual_seed(0)
    tokens = torch.randint(config.vocab_size, (rows, plan.context + 1), generator=draw)
    segments = torch.zeros(rows, plan.context, dtype=torch.int32)
    return Batch(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous(), segments, "random tokens")


def _median(work: Callable[[], None], device: Device, seconds: float) -> float:
    """Median seconds of `work`, repeated for about `seconds` after one that does not count."""
    work()
    device.synchronize()
    times: list[float] = []
    while len(times) < 2 or sum(times) < seconds:
        start = time.perf_counter()
        work()
        device.synchronize()
        times.append(time.perf_counter() - start)
    return sorted(times)[len(times) // 2]
