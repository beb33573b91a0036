"""Frozen projections held in 8 or 4 bits while an adapter beside them learns (QLoRA, Dettmers et al. 2023, arXiv:2305.14314).

Comes in: weights, or a decoder that holds them. Goes out: a decoder whose projections are codes and scales. Must never
happen: all matrices dequantised at once: each is made again for its own products, forward and backward.

Plain torch and no library, on purpose: bitsandbytes imports code from the network where the package `kernels` is installed,
and on a GPU its 8-bit products round the activations as well; torchao's NF4 is a prototype. The NF4 codes are bitsandbytes',
bit for bit (tests/model/test_frozen_base.py).
"""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from puna.errors import PunaError
from puna.model.adapters import PROJECTIONS, AdaptedLinear, Adapter
from puna.model.decoder import Decoder
from puna.model.weights import Weights

Bits = Literal[8, 4]
BLOCK = 64  # weights that share a scale in 4 bits
# The 16 values of NF4 (appendix E of the paper): quantiles of a normal distribution, scaled to [-1, 1], with an exact zero.
NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
BYTES_PER_WEIGHT = {8: 1.0, 4: 0.5 + 4 / BLOCK}  # 8 bits: a scale a row comes on top, which is next to nothing


class QuantisedLinear(nn.Module):
    """A frozen linear layer in `bits` bits. 8: integers up to ±127 and a scale a row; 4: NF4 and a scale a block of 64."""

    codes: Tensor
    scales: Tensor
    pairs: Tensor

    def __init__(self, weight: Float[Tensor, "o i"], bias: Float[Tensor, "o"] | None, bits: Bits) -> None:
        super().__init__()
        (self.out_features, self.in_features), self.bits = weight.shape, bits
        codes, scales = (to_int8 if bits == 8 else _to_nf4)(weight.detach().float())
        self.register_buffer("codes", codes)
        self.register_buffer("scales", scales)
        values = torch.tensor(NF4, device=weight.device)
        # A byte is two weights, the first in its upper half: one look-up gives both.
        self.register_buffer(
            "pairs", torch.stack([values.repeat_interleave(16), values.repeat(16)], 1), persistent=False
        )
        self.bias = None if bias is None else nn.Parameter(bias.detach().float(), requires_grad=False)

    @property
    def weight(self) -> Float[Tensor, "o i"]:
        """The weights that it computes with, in fp32, made anew at each call."""
        if self.bits == 8:
            return self.codes.float() * self.scales
        values = (F.embedding(self.codes.int(), self.pairs).view(-1, BLOCK) * self.scales).view(-1)
        return values[: self.out_features * self.in_features].view(self.out_features, self.in_features)

    def forward(self, x: Float[Tensor, "*b i"]) -> Float[Tensor, "*b o"]:
        """W·x + bias in the type of `x`, or autocast's."""
        kind = x.device.type
        if torch.is_autocast_enabled(kind):
            x = x.to(torch.get_autocast_dtype(kind))
        y = _Product.apply(x, self)
        return y if self.bias is None else y + self.bias.to(y.dtype)

    def extra_repr(self) -> str:
        """Widths and bits, for printing."""
        return f"in_features={self.in_features}, out_features={self.out_features}, bits={self.bits}"


class _Product(torch.autograd.Function):
    """x·Wᵀ that keeps no dequantised matrix for the backward pass: it is made once more there."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: QuantisedLinear) -> Tensor:
        ctx.layer = layer
        return F.linear(x, layer.weight.to(x.dtype))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0] @ ctx.layer.weight.to(grads[0].dtype), None


def to_int8(weight: Float[Tensor, "o i"]) -> tuple[Tensor, Float[Tensor, "o 1"]]:
    """Each row as integers up to ±127, and the step between them."""
    scales = weight.abs().amax(1, keepdim=True).div_(127.0)
    return (weight / scales.clamp_min(torch.finfo(torch.float32).tiny)).round_().to(torch.int8), scales


def _to_nf4(weight: Float[Tensor, "o i"]) -> tuple[Tensor, Tensor]:
    flat = weight.flatten()
    blocks = F.pad(flat, (0, -flat.numel() % BLOCK)).view(-1, BLOCK)
    scales = blocks.abs().amax(1, keepdim=True)
    values = torch.tensor(NF4, device=weight.device)
    middles = (values[1:] + values[:-1]) / 2
    shares = blocks / scales.clamp_min(torch.finfo(torch.float32).tiny)
    codes = torch.bucketize(shares, middles, out_int32=True).to(torch.uint8).flatten()
    return codes[::2] * 16 + codes[1::2], scales


def quantise_frozen(decoder: Decoder, bits: Bits) -> None:
    """Hold the projections of the decoder's layers in 8 or 4 bits, in place; nothing but an adapter learns afterwards.

    Embedding, head and norms stay as they are. With an adapter attached, what lies under it is quantised. Raises `PunaError`
    for other bits.
    """
    if bits not in BYTES_PER_WEIGHT:
        raise PunaError(f"a frozen base is held in 8 or 4 bits, not {bits}", where="adapter.bits")
    for path in Adapter(targets=PROJECTIONS).modules(decoder.config):
        layer = decoder.get_submodule(path)
        if isinstance(layer, AdaptedLinear):
            path, layer = f"{path}.base", layer.base
        if isinstance(layer, nn.Linear):
            decoder.set_submodule(path, QuantisedLinear(layer.weight, layer.bias, bits))
    decoder.requires_grad_(False)
    for name, parameter in decoder.named_parameters():
        parameter.requires_grad_(".lora_" in name)


def frozen_decoder(weights: Weights, bits: Bits | None, device: torch.device | str = "cpu") -> Decoder:
    """A decoder whose weights are all frozen, fp32 but for the projections in `bits` bits; read one tensor at a time.

    So a base of 4 bits never needs the memory of its fp32 form. Raises `PunaError` where a tensor's shape is not the config's.
    """
    if bits is None:
        return weights.decoder(torch.float32, device).requires_grad_(False)
    paths = Adapter(targets=PROJECTIONS).modules(weights.config)
    with torch.device("meta"):
        model = Decoder(weights.config)
    others = {}
    for name, shape in weights.config.shapes.items():
        path, _, kind = name.rpartition(".")
        if path in paths and kind == "bias":
            continue  # read with its weight
        tensor = _read(weights, name, shape, device)
        if path not in paths:
            others[name] = tensor
            continue
        bias = f"{path}.bias"
        has_bias = bias in weights.config.shapes
        there = _read(weights, bias, weights.config.shapes[bias], device) if has_bias else None
        model.set_submodule(path, QuantisedLinear(tensor, there, bits))
    model.load_state_dict(others, assign=True, strict=False)
    model.rope.to(device)
    return model.requires_grad_(False)


def _read(weights: Weights, name: str, shape: tuple[int, ...], device: torch.device | str) -> Tensor:
    tensor = weights.read(name)
    if tuple(tensor.shape) != shape:
        raise PunaError(f"{name} has shape {list(tensor.shape)}, the config says {list(shape)}", where=weights.where)
    return tensor.to(device=device, dtype=torch.float32, copy=True)
