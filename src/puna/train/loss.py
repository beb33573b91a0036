"""The output head and cross entropy in one: the logits of one chunk of tokens are all that ever exist.

Comes in: hidden states, the head's matrix, targets. Goes out: the mean loss over valid tokens, with gradients.
Must never happen: a [tokens, vocab] array for the whole batch (15M shape: 0.5 GB in fp32, and again for its gradient).
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

IGNORED = -100
# Logits of one chunk: small enough to stay in a processor's shared cache between the passes over them, large enough
# that the head's gradient, which every chunk adds to, is not what the time goes into. GPUs want large products.
CHUNK_BYTES_CPU = 32 << 20
CHUNK_BYTES_CUDA = 1 << 30


def chunk_rows(tokens: int, vocab: int, *, on_cuda: bool) -> int:
    """Tokens in a chunk: near the byte limit, and equal chunks so that compiled code has one shape."""
    limit = max(1, (CHUNK_BYTES_CUDA if on_cuda else CHUNK_BYTES_CPU) // (4 * vocab))
    chunks = -(-tokens // limit)
    return -(-tokens // chunks)


class _LinearCrossEntropy(torch.autograd.Function):
    """Loss and both gradients in the forward pass, chunk by chunk; backward only scales them.

    With p = softmax(h·Wᵀ) and w = valid / count for each token: loss = Σ w·(logsumexp(z) - z[target]),
    d loss/dh = w·(p - onehot)·W and d loss/dW = (p - onehot)ᵀ·(w·h). Putting w on h saves a pass over the logits.
    (The same idea: Liger kernel, Hsu et al. 2024, arXiv:2410.10989.)
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, count: Tensor, dtype: torch.dtype) -> Tensor:
        tokens, vocab = hidden.shape[0], weight.shape[0]
        states, matrix = hidden.to(dtype), weight.to(dtype)
        share = (targets != IGNORED).to(torch.float32) / count
        wanted = targets.clamp_min(0)
        rows = chunk_rows(tokens, vocab, on_cuda=hidden.is_cuda)
        loss = torch.zeros((), dtype=torch.float32, device=hidden.device)
        grad_hidden: list[Tensor] = []
        learns = ctx.needs_input_grad[1]  # a frozen head costs neither the products nor the memory of its gradient
        grad_weight = torch.zeros(weight.shape if learns else (), dtype=torch.float32, device=weight.device)
        for start in range(0, tokens, rows):
            part, where = states[start : start + rows], wanted[start : start + rows, None]
            portion = share[start : start + rows, None]
            log_p = torch.log_softmax(part @ matrix.t(), dim=-1, dtype=torch.float32)
            loss = loss - (log_p.gather(1, where) * portion).sum()
            wrong = _take_one_hot(log_p.exp_(), where).to(dtype)
            grad_hidden.append((wrong @ matrix) * portion)
            if not learns:
                continue
            scaled = (part * portion).to(dtype)
            if dtype == torch.float32:
                grad_weight.addmm_(wrong.t(), scaled)
            else:
                grad_weight += wrong.t() @ scaled  # the sum over chunks stays in fp32
        ctx.save_for_backward(torch.cat(grad_hidden), grad_weight)
        ctx.dtypes, ctx.learns = (hidden.dtype, weight.dtype), learns
        return loss

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor | None, None, None, None]:
        grad_hidden, grad_weight = ctx.saved_tensors
        of_hidden, of_weight = ctx.dtypes
        of_head = (grad_weight * grads[0]).to(of_weight) if ctx.learns else None
        return (grad_hidden * grads[0]).to(of_hidden), of_head, None, None, None


def _take_one_hot(p: Float[Tensor, "n v"], where: Int[Tensor, "n 1"]) -> Float[Tensor, "n v"]:
    """p - onehot(where); may write into p."""
    if torch.compiler.is_compiling():  # a comparison joins the pass over p, a scatter would be a pass of its own
        return p - (torch.arange(p.shape[1], device=p.device) == where).to(p.dtype)
    return p.scatter_(1, where, p.gather(1, where) - 1.0)


def linear_cross_entropy(
    hidden: Float[Tensor, "*b d"],
    head_weight: Float[Tensor, "v d"],
    targets: Int[Tensor, "*b"],
    valid_count: Float[Tensor, ""] | float,
    *,
    dtype: torch.dtype | None = None,
) -> Float[Tensor, ""]:
    """Cross entropy in nats, summed over the valid tokens of `targets` (not -100) and divided by `valid_count`.

    `valid_count` is the count over the whole batch of all micro-batches and processes, so that their losses add up to
    the batch's mean. `dtype` is the products' precision (the hidden states' own when unset); the softmax is fp32.
    """
    count = valid_count if isinstance(valid_count, Tensor) else torch.tensor(float(valid_count), device=hidden.device)
    return _LinearCrossEntropy.apply(
        hidden.flatten(0, -2), head_weight, targets.flatten(), count, dtype or hidden.dtype
    )
