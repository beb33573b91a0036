"""What a build decides from the machine, once, and records."""

import platform
from typing import Any

from puna.model.config import ModelConfig
from puna.model.device import Device
from puna.recipe.scaling import Plan
from puna.train.choice import choose


def settle(plan: Plan, config: ModelConfig, device: Device) -> Plan:
    """The plan with "auto" replaced by what this machine is faster with, so that no later process decides anew."""
    choice = choose(plan, config, device)
    return plan.model_copy(update={"precision": choice.precision, "compile": "on" if choice.compile else "off"})


def describe(device: Device) -> dict[str, Any]:
    """The machine in a few facts, for the record and the report."""
    return {
        "processor": device.name, "system": f"{platform.system()} {platform.machine()}", "python": platform.python_version(),
        "precision": "bf16" if device.dtype.itemsize == 2 else "fp32", "precision_because": device.reason,
        "matmul_peak_flops": round(device.matmul_peak()),
    }  # fmt: skip
