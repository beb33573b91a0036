"""Which parameter is updated by what, and at which rate.

Comes in: a model's named parameters and the plan. Goes out: one `Optimizer` that steps them all and shows its state as
named tensors. Must never happen: state that a checkpoint cannot name, or a parameter that nothing updates.
"""

import re
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from puna.recipe.scaling import Plan
from puna.train.muon import Muon

_MATRIX = re.compile(r"\.layers\.\d+\..*_proj\.weight$")
_TABLE = re.compile(r"(embed_tokens|lm_head)\.weight$")
_ADAPTER = re.compile(r"\.lora_(A\.weight|B\.weight|magnitude_vector)$")
_BY_HEAD = re.compile(r"self_attn\.[qkv]_proj\.weight$")
_ADAM_STATE = ("step", "exp_avg", "exp_avg_sq")


def adapter_rate(plan: Plan, width: int) -> float:
    """Peak rate of an adapter's tensors, for a model `width` wide: the plan's AdamW rate times 13·width^-0.281.

    With the usual `lr_share` of 0.3 and 4,096 tokens a step that is 5e-4·(2000 / width)^0.781, which Schulman et al. 2025 ("LoRA
    without regret") found best on Llama, whatever the rank: ten times full fine-tuning's. On stories260K, 64 wide, it was the
    best of five rates. AdamW and not Muon: Muon on the factors ended where AdamW did at its best rate (2.867 against 2.866
    nats) and diverged at rates that AdamW bears.
    """
    return plan.lr_vector * 13.0 * width**-0.281


class Optimizer:
    """Muon for the layers' matrices, AdamW for tables and vectors; or AdamW for all (the plan's method).

    | parameters                    | "puna"            | "reference"      | peak rate   | decay        |
    |-------------------------------|-------------------|------------------|-------------|--------------|
    | 2-D inside layers             | Muon              | AdamW            | `lr_matrix` | weight_decay |
    | embedding, head               | AdamW             | AdamW            | `lr_embed`  | reference    |
    | norm gains, biases            | AdamW             | AdamW            | `lr_vector` | none         |
    | an adapter's A, B, lengths    | AdamW             | AdamW            | `adapter_rate` | none      |
    """

    def __init__(
        self, named: Iterable[tuple[str, nn.Parameter]], plan: Plan, *, width: int, head_dim: int, dtype: torch.dtype
    ) -> None:
        self.names: dict[Tensor, str] = {parameter: name for name, parameter in named if parameter.requires_grad}
        matrices = [p for p, name in self.names.items() if p.ndim == 2 and _MATRIX.search(name)]
        tables = [p for p, name in self.names.items() if _TABLE.search(name)]
        adapters = [p for p, name in self.names.items() if _ADAPTER.search(name)]
        known = {*matrices, *tables, *adapters}
        vectors = [p for p in self.names if p not in known]
        puna = plan.method == "puna"
        groups = [
            {"params": [] if puna else matrices, "lr": plan.lr_matrix, "weight_decay": plan.weight_decay},
            {"params": tables, "lr": plan.lr_embed, "weight_decay": 0.0 if puna else plan.weight_decay},
            {"params": vectors, "lr": plan.lr_vector, "weight_decay": 0.0},
            {"params": adapters, "lr": adapter_rate(plan, width), "weight_decay": 0.0},
        ]
        self.adam = torch.optim.AdamW(
            [group for group in groups if group["params"]], betas=(plan.beta1, plan.beta2), eps=plan.eps, fused=True
        )
        for group in self.adam.param_groups:
            for parameter in group["params"]:
                # Made now and not at the first step, so that a checkpoint can be read into it.
                self.adam.state[parameter] = {
                    "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
                    "exp_avg": torch.zeros_like(parameter), "exp_avg_sq": torch.zeros_like(parameter),
                }  # fmt: skip
        self.parts: list[torch.optim.Optimizer] = [self.adam]
        if puna and matrices:
            by_head = ((p, p.shape[0] // head_dim if _BY_HEAD.search(self.names[p]) else 1) for p in matrices)
            muon = Muon(by_head, lr=plan.lr_matrix, momentum=plan.momentum, weight_decay=plan.weight_decay, dtype=dtype)
            self.parts.append(muon)
        self._peaks = [[group["lr"] for group in part.param_groups] for part in self.parts]

    def step(self, share: float) -> None:
        """One update with every rate at `share` of its peak."""
        for part, peaks in zip(self.parts, self._peaks, strict=True):
            for group, peak in zip(part.param_groups, peaks, strict=True):
                group["lr"] = peak * share
            part.step()

    def zero_grad(self) -> None:
        """Drop the gradients."""
        for part in self.parts:
            part.zero_grad(set_to_none=True)

    def tensors(self) -> dict[str, Tensor]:
        """The live state under names: ``momentum_buffer.<parameter>``, ``exp_avg.<parameter>``, and so on."""
        return {
            f"{kind}.{self.names[parameter]}": value
            for part in self.parts
            for parameter, state in part.state.items()
            for kind, value in state.items()
        }  # fmt: skip
