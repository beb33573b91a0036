"""What a build decides from the machine, once, and records."""

import platform
from typing import Any

import torch

from puna.errors import PunaError
from puna.memory import free_memory
from puna.model.adapters import Adapter
from puna.model.config import ModelConfig
from puna.model.device import Device
from puna.recipe.scaling import Plan
from puna.train.choice import bytes_needed, choose


def settle(plan: Plan, config: ModelConfig, device: Device, adapter: Adapter | None = None) -> Plan:
    """The plan with "auto" replaced by what this machine is faster with, so that no later process decides anew."""
    choice = choose(plan, config, device, adapter)
    compiling = "on" if choice.compile else "off"
    return plan.model_copy(update={"precision": choice.precision, "compile": compiling, "threads": choice.threads})


def refuse_memory(plan: Plan, config: ModelConfig, device: Device, adapter: Adapter | None = None) -> int:
    """The bytes that training will need, by count. Raises `PunaError` where the machine has not as many."""
    needed = bytes_needed(plan, config, device, choose(plan, config, device, adapter).micro_rows, adapter)
    free = torch.cuda.mem_get_info(device.device)[1] if device.device.type == "cuda" else free_memory()
    if needed > free:
        raise PunaError(f"training {config.parameters / 1e6:,.0f} M parameters needs {needed / 2**30:.1f} GiB of memory, "
                        f"{free / 2**30:.1f} GiB are free", where="model.size", mend="choose a smaller model.size")  # fmt: skip
    return needed


def describe(device: Device) -> dict[str, Any]:
    """The machine in a few facts, for the record and the report."""
    return {
        "processor": device.name, "system": f"{platform.system()} {platform.machine()}", "python": platform.python_version(),
        "precision": "bf16" if device.dtype.itemsize == 2 else "fp32", "precision_because": device.reason,
        "matmul_peak_flops": round(device.matmul_peak()),
    }  # fmt: skip
