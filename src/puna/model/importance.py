"""Which inputs of each matrix matter: the mean square of what flows into it on a calibration text.

Comes in: a decoder and rows of ids. Goes out: for each matrix its inputs' mean squares. Must never happen: a decoder left with
hooks on it.
"""

from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor, nn

from puna.errors import PunaError
from puna.model.decoder import Decoder


@torch.no_grad()
def input_importance(decoder: Decoder, rows: Iterable[Int[Tensor, "t"]]) -> dict[str, np.ndarray]:
    """For each matrix's name the mean of its squared inputs over all tokens of `rows`: fp32 [in_features].

    The expected square of an output's error is Σ E[x_j²]·(w_j - ŵ_j)² where inputs do not correlate: the weights of a quantiser
    (llama.cpp's "importance matrix"). Raises `PunaError` where there is no token.
    """
    sums: dict[str, Tensor] = {}
    tokens = 0

    def hook(name: str) -> Any:
        def add(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            squares = inputs[0].detach().double().square().flatten(0, -2).sum(0)
            sums[name] = sums[name] + squares if name in sums else squares

        return add

    with ExitStack() as hooks:
        for name, module in decoder.named_modules():
            if isinstance(module, nn.Linear):
                hooks.callback(module.register_forward_pre_hook(hook(f"{name}.weight")).remove)
        for row in rows:
            if len(row):
                tokens += len(row)
                decoder(row[None].to(decoder.head_weight().device))
    if not tokens:
        raise PunaError("there is no text to measure the inputs' importance on")
    return {name: (total / tokens).float().cpu().numpy() for name, total in sums.items()}
