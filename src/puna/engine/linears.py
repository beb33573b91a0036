"""The matrix products of a decoder as serving wants them: fused, and in fp32, bf16 or int8.

In: a decoder's weights. Out: functions of rows. Must never happen: a precision that nobody asked for, or all matrices twice in memory
because of fp32's fusing (the decoder's own parameters become views of the fused ones).

fp32: what the release holds, computed as transformers computes it. bf16: weights and the products' inputs rounded to bf16, sums in fp32;
on a CPU with matrix units 2 to 4 times as fast for a batch, and half the traffic. int8 (CPU): each row of a weight as integers up to ±127 and a
scale, one byte a weight. Up to `FEW` rows the inputs stay bf16 (weight only); a batch's rows are rounded to integers with a scale of their own
as well (LLM.int8, Dettmers et al. 2022, arXiv:2208.07339, without its outliers), so that the sums are exact integers on the matrix units.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from puna.model.frozen_base import to_int8

Precision = Literal["fp32", "bf16", "int8"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16", "int8")
Product = Callable[[Float[Tensor, "n i"]], Float[Tensor, "n o"]]
FEW = 2  # rows up to which int8 keeps its inputs in bf16: beyond, that kernel's time grows with the rows


def product(layers: Sequence[nn.Linear], precision: Precision) -> Product:
    """x → x·Wᵀ + b with the layers' weights below each other; rows of any float type.

    In fp32 and bf16 the layers' parameters become views of the one matrix made here.
    """
    weight = _stacked([one.weight for one in layers])
    bias = None if layers[0].bias is None else _stacked([one.bias for one in layers])
    if len(layers) > 1:
        _become_views(layers, weight, bias)
    return product_of(weight, bias, precision)


def product_of(weight: Float[Tensor, "o i"], bias: Float[Tensor, "o"] | None, precision: Precision) -> Product:
    """The same for one matrix."""
    if precision == "fp32":
        return _Plain(weight.detach(), None if bias is None else bias.detach())
    if precision == "bf16":
        return _Plain(weight.detach().bfloat16(), None if bias is None else bias.detach().bfloat16())
    return _Int8(weight.detach(), None if bias is None else bias.detach())


def cache_type(precision: Precision) -> torch.dtype:
    """The type in which the cache holds keys and values."""
    return torch.float32 if precision == "fp32" else torch.bfloat16


class _Plain:
    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self._weight, self._bias = weight, bias

    def __call__(self, x: Float[Tensor, "n i"]) -> Float[Tensor, "n o"]:
        return F.linear(x.to(self._weight.dtype), self._weight, self._bias)


class _Int8:
    def __init__(self, weight: Float[Tensor, "o i"], bias: Float[Tensor, "o"] | None) -> None:
        self._codes, scales = to_int8(weight.float())
        self._scales, self._narrow = scales.flatten(), scales.flatten().bfloat16()
        self._bias = None if bias is None else bias.float()

    def __call__(self, x: Float[Tensor, "n i"]) -> Float[Tensor, "n o"]:
        if len(x) <= FEW:
            out = torch.ops.aten._weight_int8pack_mm(x.bfloat16(), self._codes, self._narrow)
        else:
            inputs, steps = rows_to_int8(x)
            out = torch._int_mm(inputs, self._codes.t()) * (steps * self._scales)
        return out if self._bias is None else out + self._bias


def rows_to_int8(x: Float[Tensor, "n i"]) -> tuple[Tensor, Float[Tensor, "n 1"]]:
    """Each row as integers up to ±127 and the step between them."""
    steps = x.abs().amax(-1, keepdim=True).float().div_(127.0).clamp_min_(torch.finfo(torch.float32).tiny)
    return (x / steps).round_().to(torch.int8), steps


def _stacked(parts: Sequence[Tensor]) -> Tensor:
    """The parts below each other: as they lie where they are views of one matrix already, else in a new one."""
    first, ends = parts[0].detach(), [one.data_ptr() + one.numel() * one.element_size() for one in parts]
    one_store = len({one.untyped_storage().data_ptr() for one in parts}) == 1
    if one_store and all(one.is_contiguous() for one in parts) and ends[:-1] == [one.data_ptr() for one in parts[1:]]:
        return first.as_strided((sum(len(one) for one in parts), *first.shape[1:]), first.stride())
    return torch.cat([one.detach() for one in parts])


def _become_views(layers: Sequence[nn.Linear], weight: Tensor, bias: Tensor | None) -> None:
    start = 0
    for one in layers:
        end = start + len(one.weight)
        one.weight = nn.Parameter(weight[start:end], requires_grad=False)
        if bias is not None:
            one.bias = nn.Parameter(bias[start:end], requires_grad=False)
        start = end
