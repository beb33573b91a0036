"""Causal attention: one function for training, reading a prompt and decoding.

Comes in: queries, keys and values per head. Goes out: their mixture. Must never happen: a query that sees a later
position, another document of its row where documents are isolated, or a cache slot that was not written for it.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

# While training on a CPU, half precision goes through plain matrix products in blocks: 1.5 to 4 times as fast as the fused
# kernel with its backward (docs/model.md). Rows beyond this length would keep too many shares for the backward pass. In
# fp32 the fused kernel is level or faster, by processor, and stays.
BLOCKED_MAX_TOKENS = 2048
BLOCKED_DTYPES = (torch.bfloat16, torch.float16)


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

    `mask` holds everything when given, and with s = t it lets no query see a later key; without it, `causal` says whether
    query i sees keys up to i (then s = t) or all of them.
    """
    learning = torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad)
    suits = q.device.type == "cpu" and q.dtype in BLOCKED_DTYPES and q.shape[2] == k.shape[2] <= BLOCKED_MAX_TOKENS
    if learning and suits and (causal or mask is not None):
        return _Blocked.apply(q, k, v, mask)
    return _fused(q, k, v, causal, mask)


def _fused(q: Tensor, k: Tensor, v: Tensor, causal: bool, mask: Tensor | None) -> Tensor:
    """PyTorch's own kernel. One query per row folds its head groups into the query axis: no key is repeated."""
    group = q.shape[1] // k.shape[1]
    if q.shape[2] == 1 and group > 1:
        folded = q.view(q.shape[0], k.shape[1], group, q.shape[3])
        return F.scaled_dot_product_attention(folded, k, v, attn_mask=mask).view(q.shape)
    causal = causal and mask is None
    if (
        group > 1 and mask is not None and q.is_cuda
    ):  # no GPU kernel but the slowest takes a mask and shared keys together
        k, v, group = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1), 1
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, enable_gqa=group > 1)


def block_rows(tokens: int) -> int:
    """Queries in a block: few enough to leave out most of what lies above the diagonal, enough to fill a matrix product."""
    return 128 if tokens <= 512 else 256


class _Blocked(torch.autograd.Function):
    """Causal attention by plain matrix products: a block of queries at a time meets only the keys up to its end.

    With P = softmax(S), S = q·kᵀ/√d, o = P·v: dv = Pᵀ·do, dP = do·vᵀ, dS = P ∘ (dP - rowsum(do ∘ o)), dq = dS·k/√d,
    dk = dSᵀ·q/√d (Dao et al. 2022, appendix B.2). P is kept for the backward pass in q's dtype; products run in that too and
    round S to it, as transformers' eager attention does; the softmax and its gradient are fp32 or wider. All query heads of one key-value head share a product.
    """

    @staticmethod
    def forward(
        ctx: Any, q: Float[Tensor, "b h t d"], k: Float[Tensor, "b kv t d"], v: Float[Tensor, "b kv t d"],
        mask: Bool[Tensor, "*b 1 t t"] | None,
    ) -> Float[Tensor, "b h t d"]:  # fmt: skip
        length, scale = q.shape[2], q.shape[3] ** -0.5
        queries, keys, values = _by_group(q, k), k.flatten(0, 1), v.flatten(0, 1)
        steps = torch.arange(length, device=q.device)
        seen = steps[:, None] >= steps if mask is None else mask.unsqueeze(-3)
        outs, shares = [], []
        for rows, end in _blocks(length):
            scores = _product(queries[:, :, rows], keys[:, :end].mT).to(_wide(q)) * scale
            scores = scores.view(*q.shape[:1], k.shape[1], *scores.shape[1:])  # the mask is per row of the batch
            share = torch.softmax(scores.masked_fill(~seen[..., rows, :end], float("-inf")), dim=-1)
            shares.append(share.to(q.dtype).flatten(0, 1))
            outs.append(_product(shares[-1], values[:, :end]))
        out = torch.cat(outs, dim=2).view(q.shape)
        ctx.save_for_backward(q, k, v, out, *shares)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        q, k, v, out, *shares = ctx.saved_tensors
        wide, scale = _wide(q), q.shape[3] ** -0.5
        queries, grad, keys, values = _by_group(q, k), _by_group(grads[0], k), k.flatten(0, 1), v.flatten(0, 1)
        pull = _by_group((grads[0].to(wide) * out.to(wide)).sum(-1, keepdim=True), k)
        of_queries, of_keys, of_values = [], torch.zeros_like(keys, dtype=wide), torch.zeros_like(values, dtype=wide)
        for share, (rows, end) in zip(shares, _blocks(q.shape[2]), strict=True):
            slope = _product(grad[:, :, rows], values[:, :end].mT).to(wide) - pull[:, :, rows]
            slope = (share.to(wide) * slope * scale).to(q.dtype)
            of_queries.append(_product(slope, keys[:, :end]))
            of_keys[:, :end] += _product_over_queries(slope, queries[:, :, rows])
            of_values[:, :end] += _product_over_queries(share, grad[:, :, rows])
        return (
            torch.cat(of_queries, dim=2).view(q.shape), of_keys.to(k.dtype).view(k.shape), of_values.to(v.dtype).view(v.shape), None,
        )  # fmt: skip


def _blocks(length: int) -> list[tuple[slice, int]]:
    """The rows of each block of queries, and where the keys that they may see end."""
    size = block_rows(length)
    return [(slice(start, min(start + size, length)), min(start + size, length)) for start in range(0, length, size)]


def _by_group(x: Float[Tensor, "b h t d"], k: Float[Tensor, "b kv t d"]) -> Float[Tensor, "bkv g t d"]:
    """The query heads of one key-value head beside each other (they lie one after the other)."""
    return x.reshape(k.shape[0] * k.shape[1], x.shape[1] // k.shape[1], x.shape[2], x.shape[3])


def _product(x: Float[Tensor, "bkv g n m"], y: Float[Tensor, "bkv m w"]) -> Float[Tensor, "bkv g n w"]:
    """Each group's rows times what the group shares: one batched product."""
    return torch.bmm(x.flatten(1, 2), y).view(*x.shape[:3], y.shape[2])


def _product_over_queries(x: Float[Tensor, "bkv g n m"], y: Float[Tensor, "bkv g n w"]) -> Float[Tensor, "bkv m w"]:
    """xᵀ·y over all queries of a group."""
    return torch.bmm(x.flatten(1, 2).mT, y.flatten(1, 2))


def _wide(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)
