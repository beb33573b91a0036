"""Low-rank adapters: a frozen decoder, and small matrices beside its projections that learn.

Comes in: a decoder and an `Adapter`. Goes out: the same decoder with adapted projections, or plain weights with what was
learned added in. Must never happen: a frozen weight that changes, or a merged model that computes something else.

LoRA (Hu et al. 2021, arXiv:2106.09685): y = W·x + s·B·A·x, s = alpha / rank; A starts random, B at zero.
DoRA (Liu et al. 2024, arXiv:2402.09353): the rows of W + s·B·A are brought to lengths m that are learned as well.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field, ValidationError, field_validator
from torch import Tensor, nn

from puna.errors import PunaError
from puna.model.config import ModelConfig
from puna.model.decoder import Decoder
from puna.model.weights import Weights, require_finite
from puna.recipe.base import Adapter as Section
from puna.recipe.scaling import Frozen

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
ALPHA = 32.0
_PROJECTION = re.compile(r"(model\.layers\.\d+\.(?:self_attn|mlp)\.([a-z]+_proj))\.weight")
_TINY = torch.finfo(torch.float32).tiny  # a row of zeros has no direction: it stays zero instead of becoming NaN


class Adapter(Frozen):
    """What is trained beside the frozen weights. `bits`: how the frozen projections are held meanwhile (None: as they are)."""

    kind: Literal["lora", "dora"] = "lora"
    rank: int = Field(16, ge=1, le=2**16)
    alpha: float = Field(ALPHA, gt=0, allow_inf_nan=False)
    targets: tuple[str, ...] = PROJECTIONS
    rslora: bool = False
    bits: Literal[8, 4] | None = None

    @field_validator("targets")
    @classmethod
    def _known(cls, targets: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := sorted(set(targets) - set(PROJECTIONS)):
            raise ValueError(f"{', '.join(unknown)[:200]}: none of {', '.join(PROJECTIONS)}")
        if not targets:
            raise ValueError("none are named")
        return tuple(name for name in PROJECTIONS if name in targets)

    @classmethod
    def of(cls, fields: Mapping[str, Any], where: str) -> "Adapter":
        """An adapter from numbers that nobody checked; `PunaError` names every mistake."""
        try:
            return cls(**fields)
        except ValidationError as error:
            mistakes = [f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()]
            raise PunaError("; ".join(mistakes[:8]), where=where) from error

    @classmethod
    def from_recipe(cls, section: Section, where: str) -> "Adapter":
        """The adapter that a recipe's section asks for. Raises `PunaError` at `where`.

        alpha unset is 32 at every rank, so that one learning rate suits all of them (Schulman et al. 2025).
        """
        alpha = section.alpha if section.alpha is not None else ALPHA
        return cls.of({"kind": section.kind, "rank": section.rank, "alpha": alpha, "bits": section.bits,
                       "targets": tuple(section.targets) or PROJECTIONS}, where)  # fmt: skip

    @property
    def scale(self) -> float:
        """alpha / rank; alpha / √rank for rsLoRA (Kalajdzievski 2023, arXiv:2312.03732)."""
        return self.alpha / (self.rank**0.5 if self.rslora else self.rank)

    def modules(self, config: ModelConfig) -> dict[str, tuple[int, int]]:
        """(outputs, inputs) of each adapted projection, by its path, in the decoder's order."""
        found = ((_PROJECTION.fullmatch(name), shape) for name, shape in config.shapes.items())
        return {match[1]: (shape[0], shape[1]) for match, shape in found if match and match[2] in self.targets}

    def shapes(self, config: ModelConfig) -> dict[str, tuple[int, ...]]:
        """Every trained tensor's name and shape."""
        shapes: dict[str, tuple[int, ...]] = {}
        for path, (rows, width) in self.modules(config).items():
            shapes |= {f"{path}.lora_A.weight": (self.rank, width), f"{path}.lora_B.weight": (rows, self.rank)}
            if self.kind == "dora":
                shapes[f"{path}.lora_magnitude_vector"] = (rows,)
        return shapes

    def parameters(self, config: ModelConfig) -> int:
        """How many numbers are trained."""
        return sum(int(np.prod(shape)) for shape in self.shapes(config).values())

    def flops_per_token(self, config: ModelConfig, context: int) -> float:
        """Training FLOPs per token: a frozen matrix takes no gradient of its own, which is 2 of the usual 6 per parameter."""
        frozen = config.matrix_parameters + config.vocab_size * config.hidden_size
        return config.flops_per_token(context) - 2.0 * frozen + 6.0 * self.parameters(config)


class AdaptedLinear(nn.Module):
    """A frozen projection with its adapter. `base`: `nn.Linear`, or anything with its `weight`, `bias` and widths."""

    lora_magnitude_vector: nn.Parameter | None

    def __init__(self, base: nn.Module, adapter: Adapter, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__()
        self.base, self.scale = base, adapter.scale
        rows, width = int(base.out_features), int(base.in_features)  # type: ignore[arg-type]
        place = {"bias": False, "device": device, "dtype": dtype}
        self.lora_A = nn.utils.skip_init(nn.Linear, width, adapter.rank, **place)
        self.lora_B = nn.utils.skip_init(nn.Linear, adapter.rank, rows, **place)
        lengths = torch.zeros(rows, device=device, dtype=dtype) if adapter.kind == "dora" else None
        self.lora_magnitude_vector = None if lengths is None else nn.Parameter(lengths)

    def forward(self, x: Float[Tensor, "*b i"]) -> Float[Tensor, "*b o"]:
        """W·x + bias + s·B·A·x; for DoRA the part without bias times m / ‖W + s·B·A‖ of each row.

        The length is a constant to the gradient (section 4.3 of the paper). Only what the factor adds to 1 is multiplied
        in, so that bf16 rounds a small correction and not the whole output.
        """
        # In place: nobody keeps the base's output for its gradient, and every array that is made and dropped here tears a
        # hole into the heap (measured: a third of the process's memory).
        y = self.base(x).add_(self.lora_B(self.lora_A(x)), alpha=self.scale)
        if self.lora_magnitude_vector is None:
            return y
        factor = self.lora_magnitude_vector / self.lengths()
        whole = y if self.base.bias is None else y - self.base.bias.to(y.dtype)
        return torch.addcmul(y, (factor - 1.0).to(y.dtype), whole)

    @torch.no_grad()
    def lengths(self) -> Float[Tensor, "o"]:
        """‖W + s·B·A‖ of each row, in fp32."""
        with torch.autocast(self.lora_A.weight.device.type, enabled=False):
            return _lengths(_sum(self.base.weight, self.lora_A.weight, self.lora_B.weight, self.scale))  # type: ignore[arg-type]


def attach(decoder: Decoder, adapter: Adapter, seed: int) -> None:
    """Freeze the decoder and put the adapter beside its projections, in place; at first the logits are unchanged.

    A ~ U(±1/√inputs) (peft's Kaiming), B = 0, m = the rows' lengths: a pure function of (weights, adapter, seed), each tensor
    from its own stream as in `Decoder.init_weights`. Raises `PunaError` where one is attached already, or for DoRA on a
    projection of zeros: it has no direction that could be turned.
    """
    if any(isinstance(module, AdaptedLinear) for module in decoder.modules()):
        raise PunaError("the model has an adapter already", where="adapter", mend="merge it first")
    decoder.requires_grad_(False)
    like = decoder.model.norm.weight
    for path, (_, width) in adapter.modules(decoder.config).items():
        adapted = AdaptedLinear(decoder.get_submodule(path), adapter, like.device, like.dtype)
        key = int.from_bytes(hashlib.sha256(f"{seed}/{path}.lora_A.weight".encode()).digest()[:16], "little")
        draws = np.random.Generator(np.random.PCG64(key)).random((adapter.rank, width), dtype=np.float32)
        with torch.no_grad():
            adapted.lora_A.weight.copy_(torch.from_numpy(draws).mul_(2.0).sub_(1.0).mul_(width**-0.5))
            adapted.lora_B.weight.zero_()
            if adapted.lora_magnitude_vector is not None:
                adapted.lora_magnitude_vector.copy_(lengths := adapted.lengths())
                if lengths.max() <= _TINY:
                    raise PunaError(f"{path} is all zeros, and DoRA can only turn what has a direction", where="adapter.kind",
                                    mend='use kind = "lora", or leave the projection out of targets')  # fmt: skip
        decoder.set_submodule(path, adapted)


def adapter_tensors(decoder: Decoder) -> dict[str, Tensor]:
    """The adapter's live tensors under the decoder's names; empty where none is attached."""
    return {name: parameter.detach() for name, parameter in decoder.named_parameters() if ".lora_" in name}


@torch.no_grad()
def merge_into(decoder: Decoder) -> Decoder:
    """Add the adapter into its projections, in place; returns the plain decoder, which can be trained in full again.

    A base that was quantised is merged as it was trained: dequantised to fp32.
    """
    for path, module in list(decoder.named_modules()):
        if not isinstance(module, AdaptedLinear):
            continue
        weight = merged_weight(module.base.weight, module.lora_A.weight, module.lora_B.weight,  # type: ignore[arg-type]
                               module.lora_magnitude_vector, module.scale)  # fmt: skip
        with torch.device("meta"):
            plain = nn.Linear(weight.shape[1], weight.shape[0], bias=module.base.bias is not None)
        plain.weight = nn.Parameter(weight)
        if module.base.bias is not None:
            plain.bias = nn.Parameter(module.base.bias.detach())  # type: ignore[operator]
        decoder.set_submodule(path, plain)
    return decoder.requires_grad_(True)


def merged(
    weights: Weights, tensors: Mapping[str, Tensor], adapter: Adapter, dtype: torch.dtype | None = None
) -> Weights:
    """The weights with an adapter's tensors (`Adapter.shapes`) added in, each when it is read.

    Arithmetic in fp32; then `dtype`, or the type it is stored in. Raises `PunaError` where tensors are missing or misshapen, and
    on reading where a merged value is not finite.
    """
    wanted = adapter.shapes(weights.config)
    if odd := sorted(name for name in wanted.keys() | tensors.keys()
                     if name not in tensors or tuple(tensors[name].shape) != wanted.get(name)):  # fmt: skip
        raise PunaError(f"the adapter does not fit the model: {', '.join(odd[:3])}", where=weights.where)
    modules = adapter.modules(weights.config)

    def read(name: str) -> Tensor:
        stored, path = weights.read(name), name.removesuffix(".weight")
        if not name.endswith(".weight") or path not in modules:
            return stored if dtype is None else stored.to(dtype)
        a, b = tensors[f"{path}.lora_A.weight"].cpu(), tensors[f"{path}.lora_B.weight"].cpu()
        m = tensors[f"{path}.lora_magnitude_vector"].cpu() if adapter.kind == "dora" else None
        found = merged_weight(stored, a, b, m, adapter.scale).to(dtype or stored.dtype)
        require_finite(name, found, weights.where)
        return found

    return replace(weights, read=read, types={})


@torch.no_grad()
def merged_weight(
    weight: Float[Tensor, "o i"], a: Float[Tensor, "r i"], b: Float[Tensor, "o r"], magnitude: Float[Tensor, "o"] | None,
    scale: float,
) -> Float[Tensor, "o i"]:  # fmt: skip
    """W + s·B·A in fp32; for DoRA its rows at the lengths `magnitude`."""
    found = _sum(weight, a, b, scale)
    return found if magnitude is None else found.mul_((magnitude.float() / _lengths(found))[:, None])


def _sum(weight: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
    return torch.addmm(weight.detach().float(), b.detach().float(), a.detach().float(), alpha=scale)


def _lengths(matrix: Float[Tensor, "o i"]) -> Float[Tensor, "o"]:
    return torch.linalg.vector_norm(matrix, dim=1).clamp_min(_TINY)
