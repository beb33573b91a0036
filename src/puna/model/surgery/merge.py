"""Several models of one shape made into one, tensor by tensor.

Comes in: `Weights` of equal configs, a share for each, for differences a base. Goes out: `Weights`. Must never happen: two
models merged whose numbers mean different things.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from puna.errors import PunaError
from puna.model.config import ModelConfig
from puna.model.weights import Weights

Method = Literal["linear", "slerp", "task", "ties"]
# What may differ: it moves no number of a forward pass. The first model's (the base's, where there is one) stays.
_MAY_DIFFER = {"bos_token_id", "eos_token_id", "pad_token_id", "max_position_embeddings"}


def merge(
    models: Sequence[Weights], method: Method, *, weights: Sequence[float], base: Weights | None = None,
    density: float = 0.2,
) -> Weights:  # fmt: skip
    """One model from several; `weights` holds a number for each. Sums run in fp32; the result has the first's (the base's) types.

    | method | each tensor                                                           | source                                        |
    |--------|-----------------------------------------------------------------------|-----------------------------------------------|
    | linear | Σ wᵢ·mᵢ / Σ wᵢ                                                        | model soups: Wortsman et al. 2022             |
    | slerp  | two models: along the arc between them, t = w₂ / (w₁ + w₂)            | Shoemake 1985                                 |
    | task   | base + Σ wᵢ·(mᵢ - base)                                               | task arithmetic: Ilharco et al. 2023          |
    | ties   | base + mean of wᵢ·(mᵢ - base), trimmed, over those of the elected sign | TIES: Yadav et al. 2023, arXiv:2306.01708     |

    `density`: the share of each tensor's differences, the largest, that TIES keeps (the paper's 20 %, there over all tensors at
    once). The models must have one tokenizer: that is for the caller to see. Raises `PunaError` where configs differ in a number
    that counts (all such are listed), or the arguments do not fit the method.
    """
    if len(models) < 1 or len(weights) != len(models):
        raise PunaError(
            f"{len(models)} models and {len(weights)} weights", where="merge", mend="give a weight for each model"
        )
    if not all(map(math.isfinite, weights)):
        raise PunaError("a weight is no finite number", where="merge")
    if method == "slerp" and len(models) != 2:
        raise PunaError(f"slerp merges two models, not {len(models)}", where="merge")
    if (base is None) != (method in ("linear", "slerp")):
        raise PunaError(f"{method} {'needs a' if base is None else 'takes no'} base model", where="merge")
    if method in ("linear", "slerp") and not sum(weights) > 0:
        raise PunaError("the weights add up to nothing", where="merge")
    if method == "slerp" and min(weights) < 0:
        raise PunaError("slerp takes no negative weight", where="merge")
    if not 0 < density <= 1:
        raise PunaError(f"density {density:g} is not between 0 and 1", where="merge")
    first = models[0] if base is None else base
    for other in models:
        _require_alike(first, other)

    def read(name: str) -> Tensor:
        tensor = first.read(name)
        if base is None:
            return _joined(name, models, weights, method, tensor).to(tensor.dtype)
        return _shifted(name, models, weights, density if method == "ties" else None, tensor).to(tensor.dtype)

    return Weights(first.config, read, where=" + ".join(model.where for model in models))


def _joined(
    name: str, models: Sequence[Weights], weights: Sequence[float], method: str, first: Tensor
) -> Float[Tensor, "..."]:
    if method == "slerp":
        return slerp(first.float(), models[1].read(name).float(), weights[1] / sum(weights))
    total = first.float() * (weights[0] / sum(weights))
    for model, weight in zip(models[1:], weights[1:], strict=True):
        total.add_(model.read(name).float(), alpha=weight / sum(weights))
    return total


def _shifted(
    name: str, models: Sequence[Weights], weights: Sequence[float], density: float | None, base: Tensor
) -> Float[Tensor, "..."]:
    origin = base.float()
    if density is None:
        total = origin.clone()
        for model, weight in zip(models, weights, strict=True):
            total.add_(model.read(name).float() - origin, alpha=weight)
        return total

    # Two passes, so that no more than one model's tensor is held at a time.
    def shift(model: Weights) -> Tensor:
        return trimmed(model.read(name).float() - origin, density)

    elected = torch.zeros_like(origin)
    for model in models:
        elected += shift(model)
    elected = torch.where(elected >= 0, 1.0, -1.0)
    total, count = torch.zeros_like(origin), torch.zeros_like(origin)
    for model, weight in zip(models, weights, strict=True):
        moved = shift(model)
        agrees = moved.sign() == elected
        total.add_(moved * agrees, alpha=weight)
        count += agrees
    return origin + total / count.clamp_min(1)


def trimmed(shift: Float[Tensor, "..."], density: float) -> Float[Tensor, "..."]:
    """The largest share `density` of the entries by size, the others zero (TIES, step 1); of equals, any."""
    kept = torch.topk(shift.abs().flatten(), int(density * shift.numel())).indices
    mask = torch.zeros(shift.numel(), dtype=torch.bool, device=shift.device)
    mask[kept] = True
    return torch.where(mask.view(shift.shape), shift, 0.0)


def slerp(a: Float[Tensor, "..."], b: Float[Tensor, "..."], t: float) -> Float[Tensor, "..."]:
    """sin((1-t)·Ω)/sin Ω · a + sin(t·Ω)/sin Ω · b, Ω the angle between the two as vectors (Shoemake 1985).

    Where they are nearly parallel, or one is zero, the arc is the line.
    """
    size = torch.linalg.vector_norm(a, dtype=torch.float64) * torch.linalg.vector_norm(b, dtype=torch.float64)
    cosine = (a * b).sum(dtype=torch.float64) / size if size > 0 else torch.ones((), dtype=torch.float64)
    angle = torch.arccos(cosine.clamp(-1, 1))
    if angle.sin() < 1e-4:
        return torch.lerp(a, b, t)
    shares = torch.sin((1 - t) * angle) / angle.sin(), torch.sin(t * angle) / angle.sin()
    return a * float(shares[0]) + b * float(shares[1])


def _require_alike(first: Weights, other: Weights) -> None:
    def numbers(config: ModelConfig) -> dict[str, object]:
        return config.model_dump(exclude=_MAY_DIFFER)

    left, right = numbers(first.config), numbers(other.config)
    differing = [f"{key} {left[key]} and {right[key]}" for key in left if left[key] != right[key]]
    if differing:
        raise PunaError(f"cannot merge {first.where} and {other.where}: {'; '.join(differing)}", where="merge")
