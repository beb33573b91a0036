"""N steps equal k + resume + (N - k), bit for bit; also after kill -9 at random moments."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from puna.errors import PunaError
from puna.model.config import ModelConfig
from puna.model.device import Device
from puna.model.formats import save_model
from puna.recipe.scaling import Plan
from puna.tokens.loader import Batches
from puna.train.checkpoint import Checkpoint
from puna.train.loop import TrainResult, train
from puna.train.metrics import read_metrics

Make = Callable[..., Plan]


def weights(result: TrainResult) -> dict[str, bytes]:
    return {name: p.detach().contiguous().numpy().tobytes() for name, p in result.model.named_parameters()}


class StopHereError(Exception):
    """Thrown from a checkpoint: the process goes no further."""


def stop_at(step: int) -> Callable[[Checkpoint], None]:
    def check(done: Checkpoint) -> None:
        if done.step == step:
            raise StopHereError

    return check


VARIANTS: dict[str, dict[str, Any]] = {
    "puna": {},
    "reference": {"method": "reference", "decay_share": 1.0, "final_share": 0.1},
    "tuning": {"neftune": 5.0, "isolate": True, "decay_share": 1.0},
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("stops", [(5,), (1, 2, 11)])
def test_resumed_equals_uninterrupted(
    tmp_path: Path, config: ModelConfig, batches: Batches, make_plan: Make, cpu: Device, variant: str, stops: tuple[int, ...]
) -> None:  # fmt: skip
    plan = make_plan(checkpoint_seconds=1e-9, **VARIANTS[variant])
    whole = train(plan, config, batches, tmp_path / "whole", seed=7, device=cpu)
    for stop in stops:
        with pytest.raises(StopHereError):
            train(plan, config, batches, tmp_path / "parts", seed=7, device=cpu, on_checkpoint=stop_at(stop))
        torch.manual_seed(stop)  # global random state must not matter
    parts = train(plan, config, batches, tmp_path / "parts", seed=7, device=cpu)
    assert weights(parts) == weights(whole)
    assert parts.final_loss == whole.final_loss
    assert (parts.steps, parts.tokens) == (12, 12 * 4 * 32)
    timing = {"seconds", "tokens_per_second"}
    rows = [
        [{k: v for k, v in row.items() if k not in timing} for row in read_metrics(r.metrics)] for r in (whole, parts)
    ]
    assert rows[0] == rows[1]
    assert [row["step"] for row in rows[0]] == list(range(12))


def test_a_finished_run_is_not_trained_again(
    tmp_path: Path, config: ModelConfig, batches: Batches, make_plan: Make, cpu: Device
) -> None:
    first = train(make_plan(), config, batches, tmp_path, seed=7, device=cpu)
    size = first.metrics.stat().st_size
    again = train(make_plan(), config, batches, tmp_path, seed=7, device=cpu)
    assert weights(again) == weights(first)
    assert again.final_loss == first.final_loss
    assert first.metrics.stat().st_size == size


def test_a_damaged_checkpoint_costs_steps_not_bits(
    tmp_path: Path, config: ModelConfig, batches: Batches, make_plan: Make, cpu: Device
) -> None:
    plan = make_plan(checkpoint_seconds=1e-9)
    whole = train(plan, config, batches, tmp_path / "whole", seed=7, device=cpu)
    with pytest.raises(StopHereError):
        train(plan, config, batches, tmp_path / "parts", seed=7, device=cpu, on_checkpoint=stop_at(6))
    shard = next((tmp_path / "parts" / "checkpoints" / "step_00000006").glob("*.safetensors"))
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    assert weights(train(plan, config, batches, tmp_path / "parts", seed=7, device=cpu)) == weights(whole)


def test_seeds_differ_and_equal_seeds_do_not(
    tmp_path: Path, config: ModelConfig, batches: Batches, make_plan: Make, cpu: Device
) -> None:
    plan = make_plan(steps=3, neftune=5.0)
    runs = [train(plan, config, batches, tmp_path / str(i), seed=seed, device=cpu) for i, seed in enumerate((1, 1, 2))]
    assert weights(runs[0]) == weights(runs[1]) != weights(runs[2])


def test_neftune_does_not_depend_on_micro_batches(
    tmp_path: Path, config: ModelConfig, batches: Batches, make_plan: Make, cpu: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan(steps=2, neftune=30.0)
    whole = train(plan, config, batches, tmp_path / "a", seed=1, device=cpu)
    monkeypatch.setattr("puna.train.choice.MICRO_TOKENS_CPU", 64)
    parts = train(plan, config, batches, tmp_path / "b", seed=1, device=cpu)
    assert parts.final_loss == pytest.approx(whole.final_loss, rel=1e-5)


def test_starts_from_given_weights(
    tmp_path: Path, config: ModelConfig, batches: Batches, make_plan: Make, cpu: Device
) -> None:
    base = train(make_plan(steps=40), config, batches, tmp_path / "base", seed=7, device=cpu)
    save_model(base.model, config, tmp_path / "folder")
    plan = make_plan(steps=3, lr_matrix=1e-9, lr_embed=1e-9, lr_vector=1e-9)
    tuned = train(plan, config, batches, tmp_path / "tuned", seed=8, device=cpu, init=tmp_path / "folder")
    first = read_metrics(tuned.metrics)[0]["loss"]
    assert first < read_metrics(base.metrics)[0]["loss"] - 0.5
    other = config.model_copy(update={"intermediate_size": 128})
    with pytest.raises(PunaError, match="other shapes"):
        train(plan, other, batches, tmp_path / "other", seed=8, device=cpu, init=tmp_path / "folder")


def test_how_often_a_run_is_saved_may_change_under_way(
    tmp_path: Path, config: ModelConfig, batches: Batches, make_plan: Make, cpu: Device
) -> None:
    often = make_plan(steps=6, checkpoint_seconds=1e-9)
    with pytest.raises(StopHereError):
        train(often, config, batches, tmp_path, seed=7, device=cpu, on_checkpoint=stop_at(2))
    assert train(make_plan(steps=6), config, batches, tmp_path, seed=7, device=cpu).steps == 6


def test_checkpoints_of_a_slow_disk_are_rare(
    tmp_path: Path, config: ModelConfig, batches: Batches, make_plan: Make, cpu: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("puna.train.loop.LEAST_BETWEEN", 1e6)
    saved: list[int] = []
    plan = make_plan(steps=9, checkpoint_seconds=1e-9)
    train(plan, config, batches, tmp_path, seed=7, device=cpu, on_checkpoint=lambda made: saved.append(made.step))
    assert saved == [1, 9]


def test_another_run_s_folder_is_refused(
    tmp_path: Path, config: ModelConfig, batches: Batches, make_plan: Make, cpu: Device
) -> None:
    train(make_plan(steps=2), config, batches, tmp_path, seed=7, device=cpu)
    for plan, seed, name in ((make_plan(steps=3), 7, "plan"), (make_plan(steps=2), 8, "seed")):
        with pytest.raises(PunaError, match=f"another {name}"):
            train(plan, config, batches, tmp_path, seed=seed, device=cpu)
    with pytest.raises(PunaError, match="do not fit"):
        train(make_plan(batch_tokens=64), config, batches, tmp_path, seed=7, device=cpu)


def test_a_loss_that_is_no_number_stops_before_the_update(
    tmp_path: Path, config: ModelConfig, batches: Batches, make_plan: Make, cpu: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    updates: list[int] = []
    monkeypatch.setattr("puna.train.stepper.Stepper.update", lambda self, step: updates.append(step))
    monkeypatch.setattr("puna.train.stepper.Stepper.gradients", lambda self, batch, step: (float("nan"), 1.0))
    with pytest.raises(PunaError, match=r"loss is nan before the update of step 0.*rows \d"):
        train(make_plan(), config, batches, tmp_path, seed=7, device=cpu)
    assert updates == []


CHILD = """
import sys
from pathlib import Path
import torch
from puna.model.config import ModelConfig
from puna.model.device import Device
from puna.recipe.scaling import Plan
from puna.tokens.loader import Batches
from puna.train import loop
from puna.train.loop import train
loop.LEAST_BETWEEN = 0
work, packed, plan, config = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4]
train(Plan.model_validate_json(plan), ModelConfig.model_validate_json(config), Batches(packed, 4, seed=3), work, seed=7,
      device=Device("test", torch.device("cpu"), 1, torch.float32, "a test"))
"""


def test_kill_9_at_random_moments_ends_with_the_same_bytes(
    tmp_path: Path, packed: Path, config: ModelConfig, batches: Batches, make_plan: Make, cpu: Device
) -> None:
    plan = make_plan(steps=60, neftune=3.0, checkpoint_seconds=0.01)
    whole = train(plan, config, batches, tmp_path / "whole", seed=7, device=cpu)
    command = [
        sys.executable,
        "-c",
        CHILD,
        str(tmp_path / "killed"),
        str(packed),
        plan.model_dump_json(),
        config.model_dump_json(),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    moments = random.Random(11)
    log, kills = tmp_path / "killed" / "metrics.jsonl", 0
    for _ in range(4):
        before = log.stat().st_size if log.exists() else 0
        with subprocess.Popen(command, env=environment) as child:
            while child.poll() is None and (log.stat().st_size if log.exists() else 0) <= before:
                time.sleep(0.005)  # until it trains: kills during the imports prove nothing
            time.sleep(moments.uniform(0.0, 0.3))
            child.send_signal(signal.SIGKILL)
        kills += child.returncode == -signal.SIGKILL
    assert kills >= 2
    result = train(plan, config, batches, tmp_path / "killed", seed=7, device=cpu)
    assert weights(result) == weights(whole)
    assert [row["step"] for row in read_metrics(result.metrics)] == list(range(60))


@pytest.mark.slow
@pytest.mark.parametrize("compiling", ["on", "off"])
def test_two_runs_give_the_same_bytes_compiled_or_not(
    tmp_path: Path, config: ModelConfig, batches: Batches, make_plan: Make, compiling: str
) -> None:
    threads = Device("test", torch.device("cpu"), torch.get_num_threads(), torch.float32, "all cores")
    plan = make_plan(compile=compiling, checkpoint_seconds=1e-9)
    whole = train(plan, config, batches, tmp_path / "whole", seed=7, device=threads)
    torch._dynamo.reset()
    with pytest.raises(StopHereError):
        train(plan, config, batches, tmp_path / "parts", seed=7, device=threads, on_checkpoint=stop_at(5))
    torch._dynamo.reset()
    parts = train(plan, config, batches, tmp_path / "parts", seed=7, device=threads)
    assert weights(parts) == weights(whole)
