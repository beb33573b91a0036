"""Muon: momentum whose update is orthogonalised, for the matrices inside the layers.

Comes in: gradients of 2-D parameters. Goes out: updates whose singular values are all near 1. Must never happen: one
small product per parameter: equal shapes are stacked and go through batched products together.

Jordan et al. 2024 (kellerjordan.github.io/posts/muon); Liu et al. 2025 (arXiv:2502.16982) for scale and decay.
"""

import math
from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor

# The best four odd quintics in a row for singular values in [0.005, 1], by the method of Amsel et al. 2025 (The Polar
# Express, arXiv:2505.16932, algorithm 1; cushion 0.02): they end in [0.915, 1.085]. Each step is p(x) = a·x + b·x³ + c·x⁵.
QUINTICS = (
    (8.183528944863955, -23.46897603106223, 17.244532375042066),
    (3.9196040577968323, -2.9242301465534037, 0.5595764664552648),
    (3.1847510430484074, -2.388115848027672, 0.4986943251242691),
    (2.196479957239396, -1.5737598128740278, 0.4085849917550588),
)
# Rounding may push a singular value just over 1, where the first quintic grows steeply: the range is shrunk a little,
# more where the products have 8 bits of mantissa.
_SAFETY = {torch.float32: 1.001, torch.bfloat16: 1.01}


def orthogonalise(matrices: Float[Tensor, "n r c"], dtype: torch.dtype = torch.float32) -> Float[Tensor, "n r c"]:
    """U·Vᵀ of each matrix U·S·Vᵀ, roughly: singular values of 0.5 % of the largest and more end within 9 % of 1.

    Works on the short side's Gram matrix G = X·Xᵀ. Singular values are bounded by (Σσ⁴)^¼ = sqrt(‖G‖_F), which costs
    nothing as G is needed anyway and is far tighter than the usual Frobenius norm (Σσ²)^½; that is what lets four
    steps do the work of five. A zero matrix stays zero.
    """
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = (matrices.mT if tall else matrices).to(dtype).contiguous()
    # The square of a tiny gradient would leave fp32's range: bring the largest entry to 1 first.
    x = x / x.abs().amax(dim=(-2, -1), keepdim=True).clamp_min(torch.finfo(dtype).tiny)
    gram = x @ x.mT
    bound = (torch.linalg.vector_norm(gram, dim=(-2, -1), keepdim=True, dtype=torch.float32) + 1e-30) * _SAFETY[
        dtype
    ] ** 2
    gram, x = (gram / bound).to(dtype), (x / bound.sqrt()).to(dtype)
    for number, (a, b, c) in enumerate(QUINTICS):
        if number:
            gram = x @ x.mT
        # p(X) = (a·I + b·G + c·G²)·X
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Momentum (Nesterov), orthogonalised, with decoupled weight decay.

    m ← μ·m + (1-μ)·g;  u = orth((1-μ)·g + μ·m)·sqrt(max(1, rows/cols));  w ← w·(1 - lr·decay) - lr·u

    `blocks` says for a parameter how its rows are cut before orthogonalising: (number of row blocks). Heads of a
    projection are separate maps: orthogonalising each by itself costs less and mixes nothing between heads.
    `cautious`: decay only where the update and the weight agree in sign (Chen et al. 2025, arXiv:2510.12402).
    """

    def __init__(
        self, parameters: Iterable[tuple[Tensor, int]], *, lr: float, momentum: float, weight_decay: float,
        dtype: torch.dtype, cautious: bool = False,
    ) -> None:  # fmt: skip
        pairs = list(parameters)
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "cautious": cautious}
        super().__init__([p for p, _ in pairs], defaults)
        self.dtype = dtype
        self.stacks: list[tuple[list[Tensor], int, Tensor]] = []
        by_shape: dict[tuple[int, int, int], list[Tensor]] = {}
        for parameter, blocks in pairs:
            by_shape.setdefault((*parameter.shape, blocks), []).append(parameter)
        for (rows, cols, blocks), group in by_shape.items():
            memory = torch.zeros(len(group), rows, cols, dtype=torch.float32, device=group[0].device)
            self.stacks.append((group, blocks, memory))
            for index, parameter in enumerate(group):
                self.state[parameter] = {"momentum_buffer": memory[index]}  # a view: one stack, one pass

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update of every parameter; each must have a gradient."""
        settings = self.param_groups[0]
        lr, mu, decay = settings["lr"], settings["momentum"], settings["weight_decay"]
        for group, blocks, memory in self.stacks:
            update = torch.stack([p.grad for p in group]).float()  # type: ignore[misc]
            memory.lerp_(update, 1 - mu)
            update.lerp_(memory, mu)
            count, rows, cols = update.shape
            cut = update.view(count * blocks, rows // blocks, cols)
            update = orthogonalise(cut, self.dtype).reshape(count, rows, cols).float()
            rank, block_rank = min(rows, cols), blocks * min(rows // blocks, cols)
            # Blocks carry the Frobenius norm that the whole matrix would have had.
            scale = math.sqrt(max(1.0, rows / cols) * rank / block_rank)
            pieces = list(update.unbind())
            if settings["cautious"] and decay:
                for parameter, piece in zip(group, pieces, strict=True):
                    parameter.addcmul_(parameter, (piece * parameter > 0).float(), value=-lr * decay)
            elif decay:
                torch._foreach_mul_(group, 1 - lr * decay)
            torch._foreach_add_(group, pieces, alpha=-lr * scale)
