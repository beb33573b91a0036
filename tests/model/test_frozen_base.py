"""Frozen projections in 8 and 4 bits: how far they are from fp32, and what flows through them."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from puna.errors import PunaError
from puna.model.adapters import Adapter, adapter_tensors, attach, merge_into
from puna.model.decoder import Decoder
from puna.model.frozen_base import BYTES_PER_WEIGHT, QuantisedLinear, frozen_decoder, quantise_frozen
from puna.model.weights import Weights

Make = Callable[..., Decoder]
# Relative error of a product with normal weights: rounding to 255 and to 16 levels leaves about this.
ERROR = {8: 0.009, 4: 0.10}


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("shape", [(96, 128), (33, 50), (5, 7)])  # the last two: blocks that do not end with a row
def test_a_product_is_near_fp32_and_its_gradient_exact(bits: int, shape: tuple[int, int]) -> None:
    weight, bias, x = drawn(*shape), drawn(shape[0]), drawn(4, 3, shape[1]).requires_grad_()
    layer = QuantisedLinear(weight, bias, bits)  # type: ignore[arg-type]
    y = layer(x)
    exact = F.linear(x, weight, bias)
    if shape[0] > 50:
        assert 0.3 * ERROR[bits] < ((y - exact).norm() / (exact - bias).norm()).item() < ERROR[bits]
    torch.testing.assert_close(y, F.linear(x, layer.weight, bias))
    gradient = drawn(*y.shape)
    y.backward(gradient)
    torch.testing.assert_close(x.grad, gradient @ layer.weight)
    held = sum(buffer.numel() * buffer.element_size() for name, buffer in layer.named_buffers() if name != "pairs")
    # 8 bits: a scale a row; 4 bits: the last block filled up.
    assert held <= BYTES_PER_WEIGHT[bits] * weight.numel() + (4 * shape[0] if bits == 8 else 36)


def test_nf4_is_bitsandbytes_bit_for_bit() -> None:
    functional = pytest.importorskip("bitsandbytes.functional")
    weight = drawn(64, 192)
    weight[3, :64] = 0  # a block of zeros
    layer = QuantisedLinear(weight, None, 4)
    codes, state = functional.quantize_4bit(weight, quant_type="nf4", blocksize=64)
    assert torch.equal(layer.codes, codes.flatten())
    assert torch.equal(layer.weight, functional.dequantize_4bit(codes, state))


def test_extremes_are_kept() -> None:
    for bits in (8, 4):
        weight = torch.tensor([[0.0] * 64, [1e-30] * 32 + [-1e-30] * 32, [1e30] * 64])
        layer = QuantisedLinear(weight, None, bits)  # type: ignore[arg-type]
        torch.testing.assert_close(layer.weight, weight, rtol=1e-6, atol=0)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_an_adapter_learns_on_a_frozen_base(make: Make, ids: torch.Tensor, bits: int, kind: str) -> None:
    whole = make(attention_bias=True)
    exact = whole(ids)
    lazily, in_place = frozen_decoder(Weights.of(whole), bits), whole  # type: ignore[arg-type]
    quantise_frozen(in_place, bits)  # type: ignore[arg-type]
    model, start = lazily, lazily(ids)
    assert torch.equal(start, in_place(ids))
    assert 1e-4 < (start - exact).norm() / exact.norm() < {8: 0.05, 4: 0.5}[bits]  # tiny rows: coarser than real ones
    assert not any(parameter.requires_grad for parameter in model.parameters())
    attach(model, Adapter(kind=kind, rank=3), 1)  # type: ignore[arg-type]
    torch.testing.assert_close(
        model(ids), start, atol=1e-5, rtol=0
    )  # DoRA's lengths are those of the base as it computes
    rate, losses = 1e-2, []
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=rate)
    for _ in range(4):
        loss = F.cross_entropy(model.logits(model(ids[:, :-1])).flatten(0, 1), ids[:, 1:].flatten())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses == sorted(losses, reverse=True)
    assert all(
        p.grad is not None and p.grad.abs().max() > 0 for name, p in model.named_parameters() if ".lora_" in name
    )
    trained = model(ids)
    torch.testing.assert_close(merge_into(model)(ids), trained, atol=1e-5, rtol=1e-5)


def test_what_lies_under_an_attached_adapter_is_quantised(make: Make, ids: torch.Tensor) -> None:
    model, other = make(), make()
    attach(model, Adapter(rank=3), 1)
    quantise_frozen(model, 8)
    quantise_frozen(other, 8)
    assert torch.equal(model(ids), other(ids))
    learning = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert learning == adapter_tensors(model).keys()
    with pytest.raises(PunaError, match="8 or 4 bits, not 3"):
        quantise_frozen(make(), 3)  # type: ignore[arg-type]


@pytest.mark.parametrize("bits", [8, 4])
def test_in_bf16_each_weight_is_rounded_once(bits: int) -> None:
    layer, x = QuantisedLinear(drawn(96, 128), None, bits), drawn(4, 128)  # type: ignore[arg-type]
    expected = F.linear(x.bfloat16(), layer.weight.bfloat16())
    assert torch.equal(layer(x.bfloat16()), expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer(x), expected)


def test_no_dequantised_matrix_waits_for_the_backward_pass() -> None:
    saved: list[torch.Tensor] = []
    layer, x = QuantisedLinear(drawn(96, 128), None, 4), drawn(4, 128).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: saved.append(tensor) or tensor, lambda tensor: tensor):
        layer(x).sum()
    assert all(tensor.numel() < 96 * 128 for tensor in saved)


def test_a_base_is_read_one_tensor_at_a_time(make: Make) -> None:
    weights, alive = Weights.of(make(tie_word_embeddings=True, qk_norm=True)), []
    reading = Weights(weights.config, lambda name: alive.append(name) or weights.read(name))
    model = frozen_decoder(reading, 4)
    assert alive == weights.names
    assert not any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers()))
