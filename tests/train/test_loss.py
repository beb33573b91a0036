"""The fused loss against PyTorch's own, in value and in both gradients."""

import pytest
import torch
from torch import Tensor

from puna.train import loss as loss_module
from puna.train.loss import IGNORED, chunk_rows, linear_cross_entropy


def _problem(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(1)
    hidden = torch.randn(3, 7, 16, generator=draw).to(dtype).requires_grad_()
    weight = torch.randn(50, 16, generator=draw).to(dtype).requires_grad_()
    targets = torch.randint(0, 50, (3, 7), generator=draw)
    targets[0, 2] = targets[2, :4] = IGNORED
    return hidden, weight, targets


def _plain(hidden: Tensor, weight: Tensor, targets: Tensor, count: float) -> Tensor:
    logits = (hidden @ weight.t()).flatten(0, 1)
    return torch.nn.functional.cross_entropy(logits, targets.flatten(), ignore_index=IGNORED, reduction="sum") / count


@pytest.mark.parametrize("chunk_bytes", [4 * 50, 4 * 50 * 5, 1 << 20])
def test_equals_plain_cross_entropy(monkeypatch: pytest.MonkeyPatch, chunk_bytes: int) -> None:
    monkeypatch.setattr(loss_module, "CHUNK_BYTES_CPU", chunk_bytes)
    hidden, weight, targets = _problem(torch.float32)
    expected = _plain(hidden, weight, targets, 16.0)
    wanted = torch.autograd.grad(3 * expected, [hidden, weight])
    got = linear_cross_entropy(hidden, weight, targets, 16.0)
    gradients = torch.autograd.grad(3 * got, [hidden, weight])
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(gradients, wanted)


def test_micro_batches_add_up() -> None:
    hidden, weight, targets = _problem(torch.float32)
    whole = linear_cross_entropy(hidden, weight, targets, 16.0)
    parts = sum(linear_cross_entropy(hidden[row], weight, targets[row], 16.0) for row in range(3))
    torch.testing.assert_close(parts, whole)


def test_no_valid_token_gives_zero_and_zero_gradients() -> None:
    hidden, weight, targets = _problem(torch.float32)
    loss = linear_cross_entropy(hidden, weight, torch.full_like(targets, IGNORED), 1.0)
    gradients = torch.autograd.grad(loss, [hidden, weight])
    assert loss.item() == 0
    assert not gradients[0].any()
    assert not gradients[1].any()


def test_bf16_products_stay_near_fp32() -> None:
    hidden, weight, targets = _problem(torch.float32)
    expected = linear_cross_entropy(hidden, weight, targets, 16.0)
    got = linear_cross_entropy(hidden, weight, targets, 16.0, dtype=torch.bfloat16)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, expected, rtol=0.02, atol=0.0)
    near, far = torch.autograd.grad(expected, [hidden])[0], torch.autograd.grad(got, [hidden])[0]
    assert (near - far).norm() < 0.03 * near.norm()


def test_huge_logits_do_not_overflow() -> None:
    hidden = torch.tensor([[1e4, 0.0]], requires_grad=True)
    weight = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], requires_grad=True)
    loss = linear_cross_entropy(hidden, weight, torch.tensor([1]), 1.0)
    loss.backward()
    assert loss.item() == pytest.approx(2e4)
    assert torch.isfinite(weight.grad).all()


def test_chunks_are_equal_and_small() -> None:
    assert chunk_rows(4096, 32000, on_cuda=False) * 32000 * 4 <= loss_module.CHUNK_BYTES_CPU
    assert chunk_rows(100, 64, on_cuda=False) == 100
    assert chunk_rows(10, 10**9, on_cuda=False) == 1
