"""What a run decides once, what it will need, and how fast it will be."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from puna.errors import PunaError
from puna.model.config import ModelConfig
from puna.model.device import Device
from puna.recipe.scaling import Plan
from puna.train import choice as choice_module
from puna.train.calibrate import calibrate
from puna.train.choice import activation_bytes, bytes_needed, choose, micro_rows, recorded_choice, state_bytes

Make = Callable[..., Plan]


def test_short_runs_are_not_compiled_long_ones_are(
    monkeypatch: pytest.MonkeyPatch, config: ModelConfig, make_plan: Make, cpu: Device
) -> None:
    monkeypatch.setattr(choice_module, "can_compile", lambda: (True, "works"))
    monkeypatch.setattr(Device, "matmul_peak", lambda self: 1e11)
    assert not choose(make_plan(steps=100, compile="auto"), config, cpu).compile
    assert choose(make_plan(steps=10**9, compile="auto"), config, cpu).compile
    assert not choose(make_plan(steps=10**9, compile="off"), config, cpu).compile
    monkeypatch.setattr(choice_module, "can_compile", lambda: (False, "no C++ compiler was found"))
    assert choose(make_plan(steps=10**9, compile="auto"), config, cpu).compile_reason == "no C++ compiler was found"
    with pytest.raises(PunaError, match=r"no C\+\+ compiler"):
        choose(make_plan(compile="on"), config, cpu)


def test_the_recorded_choice_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: ModelConfig, make_plan: Make, cpu: Device
) -> None:
    first = recorded_choice(tmp_path, make_plan(), config, 1, cpu)
    monkeypatch.setattr(choice_module, "MICRO_TOKENS_CPU", 32)
    half = Device("test", torch.device("cpu"), 2, torch.bfloat16, "measured otherwise this time")
    assert recorded_choice(tmp_path, make_plan(), config, 1, half) == first
    (tmp_path / "run.json").write_text("[]")
    with pytest.raises(PunaError, match="not the record"):
        recorded_choice(tmp_path, make_plan(), config, 1, cpu)


def test_micro_batches_divide_the_batch(config: ModelConfig, make_plan: Make, cpu: Device) -> None:
    for rows in (1, 2, 96, 256, 251, 384):
        size = micro_rows(make_plan(batch_tokens=rows * 32), config, cpu)
        assert rows % size == 0
        assert size * 32 <= max(32, choice_module.MICRO_TOKENS_CPU)
    assert micro_rows(make_plan(batch_tokens=256 * 32), config, cpu) == 256


def test_little_memory_makes_small_micro_batches(
    config: ModelConfig, make_plan: Make, cpu: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan(batch_tokens=256 * 32)
    room = 2 * (state_bytes(config, plan) + 5 * 32 * activation_bytes(config, cpu, 32))
    monkeypatch.setattr(choice_module, "total_memory", lambda: room)
    assert micro_rows(plan, config, cpu) == 4
    monkeypatch.setattr(choice_module, "total_memory", lambda: 1)
    assert micro_rows(plan, config, cpu) == 1


def test_memory_grows_with_what_it_should(config: ModelConfig, make_plan: Make, cpu: Device) -> None:
    puna, reference = make_plan(), make_plan(method="reference")
    assert state_bytes(config, puna) < state_bytes(config, reference) == 16 * config.parameters
    half = replace(cpu, dtype=torch.bfloat16)
    assert (
        bytes_needed(puna, config, cpu, 8) > bytes_needed(puna, config, half, 8) > bytes_needed(puna, config, half, 4)
    )
    # Attention by blocks keeps a share for each pair of tokens.
    long = [activation_bytes(config, device, 1024) / activation_bytes(config, device, 256) for device in (half, cpu)]
    assert long[0] > long[1]


def test_calibration_is_measured(config: ModelConfig, make_plan: Make, cpu: Device) -> None:
    found = calibrate(config, make_plan(), cpu, seconds=0.2)
    assert found.tokens_per_second > 100
    assert found.peak_flops > 1e8
    assert found.share == pytest.approx(found.tokens_per_second * config.flops_per_token(32) / found.peak_flops)
    assert 0 < found.update_share < 1
    assert found.compile_seconds == 0
