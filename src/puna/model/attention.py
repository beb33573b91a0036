"""Causal attention: one function for training, reading a prompt and decoding.

Comes in: queries, keys and values per head. Goes out: their mixture. Must never happen: a query that sees a later
position, another document of its row where documents are isolated, or a cache slot that was not written for it.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

# Where the backward by plain matrix products beats the CPU's fused one: half precision, which matrix units take and the
# fused backward does not use, and rows up to this length. In fp32 the fused backward is twice as fast at every length.
EXPLICIT_MAX_TOKENS = 512
EXPLICIT_DTYPES = (torch.bfloat16, torch.float16)


def attention_mask(
    queries: Int[Tensor, "b t"] | Int[Tensor, "t"],
    keys: Int[Tensor, "s"],
    *,
    segments: Int[Tensor, "b t"] | None = None,
    window: int | None = None,
) -> Bool[Tensor, "*b 1 t s"]:
    """True where a query at position `queries` may see a key at position `keys`.

    Causal always; within `segments` (a number per token; then queries and keys are the same tokens) where given; within
    the last `window` positions, the query's own included, where given. Every query sees at least itself.
    """
    distance = queries[..., :, None] - keys
    mask = distance >= 0
    if window is not None:
        mask = mask & (distance < window)
    if segments is not None:
        mask = mask & (segments[:, :, None] == segments[:, None, :])
    return mask.unsqueeze(-3)


def attention(
    q: Float[Tensor, "b h t d"],
    k: Float[Tensor, "b kv s d"],
    v: Float[Tensor, "b kv s d"],
    *,
    causal: bool = True,
    mask: Bool[Tensor, "*b 1 t s"] | None = None,
) -> Float[Tensor, "b h t d"]:
    """softmax(q·kᵀ / √d + mask)·v (Vaswani et al. 2017); each key-value head serves h / kv query heads.

    `mask` holds everything when given (causality too); without it, `causal` says whether query i sees keys up to i
    (then s = t) or all of them.
    """
    training = torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad)
    suits = q.device.type == "cpu" and q.dtype in EXPLICIT_DTYPES and q.shape[2] == k.shape[2] <= EXPLICIT_MAX_TOKENS
    if training and suits and (causal or mask is not None):
        return _ExplicitBackward.apply(q, k, v, mask)
    return _fused(q, k, v, causal, mask)


def _fused(q: Tensor, k: Tensor, v: Tensor, causal: bool, mask: Tensor | None) -> Tensor:
    """PyTorch's own kernel. One query per row folds its head groups into the query axis: no key is repeated."""
    group = q.shape[1] // k.shape[1]
    if q.shape[2] == 1 and group > 1:
        folded = q.view(q.shape[0], k.shape[1], group, q.shape[3])
        return F.scaled_dot_product_attention(folded, k, v, attn_mask=mask).view(q.shape)
    causal = causal and mask is None
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, enable_gqa=group > 1)


class _ExplicitBackward(torch.autograd.Function):
    """The fused forward, and a backward of plain matrix products: a training step on CPU matrix units gains 1.15 to 1.4 times.

    With P = softmax(S), S = q·kᵀ/√d: dv = Pᵀ·do, dP = do·vᵀ, dS = P ∘ (dP - rowsum(do ∘ o)), dq = dS·k/√d, dk = dSᵀ·q/√d
    (Dao et al. 2022, appendix B.2). P is computed again from q and k; it is t² values a head, which is why long rows
    go to the fused kernel.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        out = _fused(q, k, v, True, mask)
        ctx.save_for_backward(q, k, v, out, mask)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        q, k, v, out, mask = ctx.saved_tensors
        return *explicit_backward(q, k, v, out, mask, grads[0]), None


def explicit_backward(
    q: Float[Tensor, "b h t d"],
    k: Float[Tensor, "b kv t d"],
    v: Float[Tensor, "b kv t d"],
    out: Float[Tensor, "b h t d"],
    mask: Bool[Tensor, "*b 1 t t"] | None,
    grad: Float[Tensor, "b h t d"],
) -> tuple[Float[Tensor, "b h t d"], Float[Tensor, "b kv t d"], Float[Tensor, "b kv t d"]]:
    """Gradients of causal attention for q, k and v. Products run in q's dtype, softmax and its gradient in fp32 or wider."""
    batch, heads, length, width = q.shape
    kv = k.shape[1]
    if mask is None:
        steps = torch.arange(length, device=q.device)
        mask = steps[:, None] >= steps
    # The query heads of one key-value head lie one after the other, so each product is one batched GEMM over b·kv.
    rows, square = (batch * kv, heads // kv * length), (batch, kv, heads // kv, length, length)
    queries, grads = q.reshape(*rows, width), grad.reshape(*rows, width)
    keys, values = k.reshape(-1, length, width), v.reshape(-1, length, width)
    scale, wide = width**-0.5, torch.promote_types(q.dtype, torch.float32)
    scores = torch.bmm(queries, keys.mT).view(square).to(wide) * scale
    shares = torch.softmax(scores.masked_fill(~mask.unsqueeze(-3), float("-inf")), dim=-1)
    pull = (grad.to(wide) * out.to(wide)).sum(-1).view(batch, kv, heads // kv, length, 1)
    slope = shares * (torch.bmm(grads, values.mT).view(square).to(wide) - pull) * scale
    shares, slope = shares.to(q.dtype).view(*rows, length), slope.to(q.dtype).view(*rows, length)
    return (
        torch.bmm(slope, keys).view(q.shape),
        torch.bmm(slope.mT, queries).view(k.shape),
        torch.bmm(shares.mT, grads).view(v.shape),
    )
