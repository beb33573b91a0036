"""Attention by blocks of plain products against the fused kernel, by shape, mask and precision."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from puna.model import attention as module
from puna.model.attention import attention, attention_mask

SHAPES = [(2, 4, 4, 16, 8), (1, 6, 2, 33, 16), (3, 4, 1, 7, 8)]  # batch, heads, kv heads, tokens, head width


def _inputs(shape: tuple[int, ...], dtype: torch.dtype) -> list[Tensor]:
    batch, heads, kv, tokens, width = shape
    draw = torch.Generator().manual_seed(0)
    return [
        torch.randn(batch, n, tokens, width, generator=draw, dtype=torch.float64).to(dtype).requires_grad_()
        for n in (heads, kv, kv)
    ]


def _masks(shape: tuple[int, ...]) -> dict[str, Tensor | None]:
    steps = torch.arange(shape[3])
    segments = (steps // 5).expand(shape[0], -1)
    return {
        "causal": None,
        "segments": attention_mask(steps, steps, segments=segments),
        "window": attention_mask(steps, steps, window=3),
    }


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several blocks, the last one shorter, in the few tokens of a test, and in every precision."""
    monkeypatch.setattr(module, "BLOCKED_DTYPES", (torch.float64, torch.float32, torch.bfloat16))
    monkeypatch.setattr(module, "block_rows", lambda tokens: 6)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", ["causal", "segments", "window"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5), (torch.bfloat16, 5e-2)])
def test_gradients_are_those_of_the_fused_kernel(
    shape: tuple[int, ...], kind: str, dtype: torch.dtype, tolerance: float
) -> None:
    mask = _masks(shape)[kind]
    ours, exact = _inputs(shape, dtype), [x.detach().double().requires_grad_() for x in _inputs(shape, dtype)]
    weight = torch.randn(shape[0], shape[1], shape[3], shape[4], generator=torch.Generator().manual_seed(1))
    out = attention(*ours, mask=mask)
    assert "Blocked" in type(out.grad_fn).__name__
    wanted = scaled_dot_product_attention(*exact, attn_mask=mask, is_causal=mask is None, enable_gqa=True)
    torch.testing.assert_close(out.double(), wanted, atol=tolerance, rtol=tolerance)
    got = torch.autograd.grad((out * weight.to(dtype)).sum(), ours)
    true = torch.autograd.grad((wanted * weight).sum(), exact)
    for one, other in zip(got, true, strict=True):
        assert one.dtype == dtype
        torch.testing.assert_close(one.double(), other, atol=tolerance * 3, rtol=tolerance)


@pytest.mark.usefixtures("small_blocks")
def test_gradcheck() -> None:
    assert torch.autograd.gradcheck(lambda q, k, v: attention(q, k, v), _inputs((1, 4, 2, 8, 4), torch.float64))


@pytest.mark.parametrize(
    ("dtype", "tokens", "expected"),
    [
        (torch.bfloat16, 16, True),
        (torch.bfloat16, 300, True),
        (torch.bfloat16, 2049, False),
        (torch.float32, 16, False),
    ],
)
def test_the_way_is_chosen_by_precision_and_length(dtype: torch.dtype, tokens: int, expected: bool) -> None:
    out = attention(*_inputs((1, 2, 2, tokens, 8), dtype))
    assert ("Blocked" in type(out.grad_fn).__name__) == expected


def test_one_query_with_shared_keys_needs_no_copy_of_them() -> None:
    q, k, v = (x.detach() for x in _inputs((2, 6, 2, 9, 8), torch.float32))
    mask = torch.arange(9)[None, None, None, :] <= torch.tensor([8, 4])[:, None, None, None]
    wanted = scaled_dot_product_attention(q[:, :, -1:], k, v, attn_mask=mask, enable_gqa=True)
    torch.testing.assert_close(attention(q[:, :, -1:], k, v, mask=mask), wanted)


def test_a_mask_lets_every_query_see_itself() -> None:
    steps = torch.arange(12)
    mask = attention_mask(steps, steps, segments=torch.arange(12)[None], window=1)
    assert mask.shape == (1, 1, 12, 12)
    assert torch.equal(mask[0, 0], torch.eye(12, dtype=torch.bool))
