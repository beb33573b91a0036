"""A model's activations with the memory of one layer: what growing and pruning measure on a calibration batch.

Comes in: `Weights` (or those of a decoder) and ids [b, t]. Goes out: layer after layer, what went in and what came out. Must
never happen: a whole model in memory because its layers are looked at, or an arithmetic that is not the decoder's own.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from puna.errors import PunaError
from puna.model.decoder import Decoder
from puna.model.weights import Weights

EMBEDDING, NORM = "model.embed_tokens.weight", "model.norm.weight"
_ROWS_TOKENS = 4096  # tokens that go through a layer at once


@dataclass(frozen=True)
class Activations:
    """What some rows of the batch are at one layer, in fp32.

    The stream before and after it; what its two norms give; the heads' outputs before `o_proj` (h·head_dim wide); the neurons'
    before `down_proj`. `normed` is the stream after the norm that stands before the head: of meaning after the last layer only.
    """

    before: Float[Tensor, "r t d"]
    attention_in: Float[Tensor, "r t d"]
    heads: Float[Tensor, "r t q"]
    mlp_in: Float[Tensor, "r t d"]
    neurons: Float[Tensor, "r t f"]
    after: Float[Tensor, "r t d"]
    normed: Float[Tensor, "r t d"]


def activations(model: Weights | Decoder, ids: Int[Tensor, "b t"]) -> Iterator[tuple[int, Activations]]:
    """(layer, activations) of every layer, a few rows at a time; ids are read from position 0 on.

    Holds one layer in fp32 and the streams of the whole batch. Raises `PunaError` for an empty batch or an id outside the
    vocabulary.
    """
    weights = Weights.of(model) if isinstance(model, Decoder) else model
    config = weights.config
    if ids.ndim != 2 or ids.numel() == 0:
        raise PunaError("a calibration batch needs rows of token ids", where="surgery")
    if int(ids.min()) < 0 or int(ids.max()) >= config.vocab_size:
        raise PunaError(f"token ids {int(ids.min())} to {int(ids.max())} do not fit a vocabulary of {config.vocab_size}",
                        where="surgery")  # fmt: skip
    table = weights.read(EMBEDDING)
    ids = ids.to(table.device)
    rows = ids.split(max(1, _ROWS_TOKENS // ids.shape[1]))
    # Rows first, fp32 after: the table may be the largest tensor of all, and stays in its own type.
    streams = [table[part].float() for part in rows]
    del table
    for index in range(config.num_hidden_layers):
        block = _block(weights, index)
        for number, part in enumerate(rows):
            seen = _watched(block, part, streams[number])
            streams[number] = seen.after
            yield index, seen


def _block(weights: Weights, index: int) -> Decoder:
    """A decoder of this one layer: its mask, positions and order of arithmetic are then the decoder's own."""
    config = weights.config.model_copy(update={"num_hidden_layers": 1})
    with torch.device("meta"):
        model = Decoder(config)
    state = {NORM: weights.read(NORM).float()}
    for name in config.shapes:
        if name.startswith("model.layers.0."):
            state[name] = weights.read(name.replace(".0.", f".{index}.", 1)).float()
    model.load_state_dict(state, strict=False, assign=True)  # the embedding stays empty: embeddings are given
    model.rope.to(state[NORM].device)
    return model.requires_grad_(False)


@torch.no_grad()
def _watched(model: Decoder, ids: Int[Tensor, "r t"], stream: Float[Tensor, "r t d"]) -> Activations:
    layer: Any = model.model.layers[0]
    seen: dict[str, Tensor] = {}
    points = {"attention_in": layer.input_layernorm, "mlp_in": layer.post_attention_layernorm, "after": layer}
    inputs = {"heads": layer.self_attn.o_proj, "neurons": layer.mlp.down_proj}
    hooks = [module.register_forward_hook(lambda _, __, out, name=name: seen.__setitem__(name, out))
             for name, module in points.items()]  # fmt: skip
    hooks += [module.register_forward_pre_hook(lambda _, args, name=name: seen.__setitem__(name, args[0]))
              for name, module in inputs.items()]  # fmt: skip
    normed = model(ids, embeds=stream)
    for hook in hooks:
        hook.remove()
    return Activations(before=stream, normed=normed, **seen)
