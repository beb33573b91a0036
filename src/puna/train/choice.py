"""What a run decides once and keeps: precision, compiling, micro-batches, threads. Each of them moves the last bits.

Comes in: the plan, the model's config, the device. Goes out: a `Choice`, written to `run.json` before the first step.
Must never happen: a resumed run that decides again and ends with other bytes.
"""

import platform
import sys
from pathlib import Path
from typing import Any, Literal

import torch

from puna.errors import PunaError
from puna.files import read_json, write_json
from puna.memory import total_memory
from puna.model.adapters import Adapter
from puna.model.attention import BLOCKED_DTYPES, BLOCKED_MAX_TOKENS
from puna.model.config import ModelConfig
from puna.model.device import Device, can_compile
from puna.model.frozen_base import BYTES_PER_WEIGHT
from puna.progress import QUIET, Progress
from puna.recipe.scaling import Frozen, Plan

RECORD = "run.json"
# A CPU gains nothing from more tokens at once (reference measurement: little beyond 4,096), and pays in memory.
MICRO_TOKENS_CPU = 8192
# Of a GPU's memory, this share may go to one micro-batch: the rest is fragmentation and the libraries' own. Of a
# computer's, less: others work there too. The whole memory counts and not what is free now, so that a run that is made
# again takes the same micro-batches.
GPU_SHARE, CPU_SHARE = 0.8, 0.5
# Compiling takes about this long where nothing is cached, and saves about this share of the time (docs/train.md).
COMPILE_SECONDS, COMPILE_SECONDS_PER_LAYER, COMPILE_GAIN = 20.0, 3.0, 0.15
# What a step reaches of the matmul peak before compiling: for the guess of a run's length only.
_USUAL_SHARE = 0.4


class Choice(Frozen):
    """Fixed for the whole run, however often it is resumed."""

    precision: Literal["fp32", "bf16"]
    compile: bool
    compile_reason: str
    micro_rows: int
    threads: int

    @property
    def dtype(self) -> torch.dtype:
        """The precision of matrix products."""
        return torch.bfloat16 if self.precision == "bf16" else torch.float32


def choose(plan: Plan, config: ModelConfig, device: Device, adapter: Adapter | None = None) -> Choice:
    """Decide for a new run. Raises `PunaError` where `train.compile = "on"` cannot be had."""
    compiling, reason = _whether_to_compile(plan, config, device, adapter)
    return Choice(
        precision="bf16" if device.dtype == torch.bfloat16 else "fp32", compile=compiling, compile_reason=reason,
        micro_rows=micro_rows(plan, config, device, adapter), threads=plan.threads or device.threads,
    )  # fmt: skip


def recorded_choice(
    work: Path, plan: Plan, config: ModelConfig, seed: int, device: Device, progress: Progress = QUIET,
    adapter: Adapter | None = None, base: str | None = None,
) -> Choice:  # fmt: skip
    """The choice in `work/run.json`, or a fresh one written there.

    `base`: digest of the weights that lie frozen under the adapter, which no checkpoint holds. Raises `PunaError` where the
    folder belongs to another plan, model, seed, adapter or base. Another torch or processor than the one the run began on is
    noted: the run goes on, its last bits may differ.
    """
    path = work / RECORD
    # How often a run is saved may change under way.
    asked = {
        "plan": plan.model_dump(mode="json", exclude={"checkpoint_seconds"}),
        "config": config.model_dump(mode="json"),
        "seed": seed,
        "adapter": adapter.model_dump(mode="json") if adapter else None,
        "base": base,
    }
    environment = {
        "torch": torch.__version__,
        "device": device.name,
        "python": platform.python_version(),
        "os": sys.platform,
    }
    if not path.exists():
        choice = choose(plan, config, device, adapter)
        write_json(path, {**asked, "choice": choice.model_dump(mode="json"), "environment": environment})
        return choice
    record = _read_record(path)
    for key, value in asked.items():
        if record[key] != value:
            raise PunaError(f"the run that began here has another {key}", where=str(path), mend="use a new work folder")
    for key, value in environment.items():
        if record["environment"].get(key) != value:
            progress.note(f"this run began with {key} {record['environment'].get(key)} and goes on with {value}: "
                          "its last bits may differ")  # fmt: skip
    return Choice(**record["choice"])


def micro_rows(plan: Plan, config: ModelConfig, device: Device, adapter: Adapter | None = None) -> int:
    """Rows that go through the model at once: the largest divisor of the batch that fits."""
    if device.device.type == "cuda":
        room = torch.cuda.mem_get_info(device.device)[1] * GPU_SHARE
    else:
        room = total_memory() * CPU_SHARE
    row = activation_bytes(config, device, plan.context, adapter) * plan.context
    limit = int((room - state_bytes(config, plan, adapter)) // row)
    if device.device.type != "cuda":
        limit = min(limit, MICRO_TOKENS_CPU // plan.context)
    return max(rows for rows in range(1, plan.rows + 1) if plan.rows % rows == 0 and (rows <= limit or rows == 1))


def state_bytes(config: ModelConfig, plan: Plan, adapter: Adapter | None = None) -> int:
    """Bytes of fp32 weights and gradients, and of the optimiser: 4 a parameter for Muon, 8 for AdamW.

    With an adapter only its own parameters have gradients and an optimiser; the frozen ones take 4 bytes each, or what their
    bits take and the room in which the largest matrix is made again (its codes widened, in fp32, in the products' precision).
    """
    if adapter is None:
        matrices = config.matrix_parameters if plan.method == "puna" else 0
        return 16 * config.parameters - 4 * matrices
    largest = max(rows * width for rows, width in Adapter().modules(config).values())
    each, passing = (4.0, 0) if adapter.bits is None else (BYTES_PER_WEIGHT[adapter.bits], 12 * largest)
    lengths = 8 * largest if adapter.kind == "dora" else 0  # W + s·B·A, while its rows are measured
    frozen = int(each * config.matrix_parameters) + 4 * (config.parameters - config.matrix_parameters)
    return frozen + passing + lengths + 16 * adapter.parameters(config)


def activation_bytes(config: ModelConfig, device: Device, context: int, adapter: Adapter | None = None) -> int:
    """Bytes kept for the backward pass per token: an estimate from above, counted along `Layer.forward`."""
    dim, ffn, head = config.hidden_size, config.intermediate_size, config.head_dim
    q, kv = config.num_attention_heads * head, config.num_key_value_heads * head
    wide = 8 * dim  # the stream and the norms' inputs stay fp32
    narrow = device.dtype.itemsize * (2 * dim + 4 * q + 4 * kv + 4 * ffn)
    # Attention by blocks keeps its shares of every layer, and works on a few fp32 arrays of one block.
    by_blocks = device.device.type == "cpu" and device.dtype in BLOCKED_DTYPES and context <= BLOCKED_MAX_TOKENS
    shares = device.dtype.itemsize * config.num_attention_heads * context if by_blocks else 0
    if adapter:  # A·x of each adapted projection; DoRA keeps its output as well
        modules = adapter.modules(config).values()
        kept = sum(adapter.rank + (rows if adapter.kind == "dora" else 0) for rows, _ in modules)
        narrow += device.dtype.itemsize * kept // config.num_hidden_layers
    scores = 12 * config.num_attention_heads * min(context, BLOCKED_MAX_TOKENS)
    return config.num_hidden_layers * (wide + narrow + shares) + scores + 16 * dim


def compile_seconds(config: ModelConfig) -> float:
    """About how long compiling takes where nothing is cached."""
    return COMPILE_SECONDS + COMPILE_SECONDS_PER_LAYER * config.num_hidden_layers


def bytes_needed(plan: Plan, config: ModelConfig, device: Device, rows: int, adapter: Adapter | None = None) -> int:
    """Bytes that training takes at its height, with `rows` rows at once: state, activations, loss chunks, a checkpoint, a base."""
    base = 600 << 20  # Python, torch, allocator
    saving = 12 * (
        adapter.parameters(config) if adapter else config.parameters
    )  # a checkpoint is put together in memory before it is written
    loss = 3 * (64 << 20) + 8 * config.vocab_size * config.hidden_size
    return (
        base
        + loss
        + saving
        + state_bytes(config, plan, adapter)
        + rows * plan.context * activation_bytes(config, device, plan.context, adapter)
    )


def flops_per_token(config: ModelConfig, context: int, adapter: Adapter | None = None) -> float:
    """Training FLOPs per token, of all weights or of an adapter."""
    return adapter.flops_per_token(config, context) if adapter else config.flops_per_token(context)


def _whether_to_compile(plan: Plan, config: ModelConfig, device: Device, adapter: Adapter | None) -> tuple[bool, str]:
    if plan.compile == "off":
        return False, "set by hand"
    works, reason = can_compile()
    if plan.compile == "on":
        if not works:
            raise PunaError(f"cannot compile here: {reason}", where="train.compile", mend='set it to "auto" or "off"')
        return True, "set by hand"
    seconds = plan.tokens * flops_per_token(config, plan.context, adapter) / (_USUAL_SHARE * device.matmul_peak())
    cost = compile_seconds(config)
    if seconds * COMPILE_GAIN < cost:
        saved = f"it would save about {seconds * COMPILE_GAIN:,.0f} s of {seconds:,.0f}"
        return False, f"{saved} and take about {cost:,.0f} s itself"
    return works, reason if not works else f"a run of about {seconds:,.0f} s repays compiling"


def _read_record(path: Path) -> dict[str, Any]:
    try:
        record = read_json(path)
        # A record from before there were adapters names none.
        record = {"adapter": None, "base": None, **record}
        return {key: record[key] for key in ("plan", "config", "seed", "adapter", "base", "choice", "environment")}
    except (ValueError, KeyError, TypeError) as error:
        raise PunaError("not the record of a training run", where=str(path), mend="remove the work folder") from error
