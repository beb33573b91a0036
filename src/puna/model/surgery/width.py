"""Wider and narrower: neurons added that change nothing at first; neurons, heads and channels taken out by what they carry.

Comes in: `Weights`, for narrowing also what a calibration batch showed. Goes out: `Weights`. Must never happen: a group of
query heads parted from its key-value head, or a part taken out of one matrix and left in its partner.

Widening: function-preserving, as Net2Net (Chen et al. 2016, arXiv:1511.05641) and bert2BERT (Chen et al. 2022) ask. Narrowing:
structured pruning by mean activations (Minitron: Muralidharan et al. 2024, arXiv:2407.14679, section 2.2).
"""

import hashlib
import re
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from pydantic import ValidationError
from torch import Tensor

from puna.errors import PunaError
from puna.model.config import ModelConfig
from puna.model.decoder import Decoder
from puna.model.surgery.stream import NORM, activations
from puna.model.weights import Weights

Kept = Int[Tensor, "k"] | None
_LAYER = re.compile(r"model\.layers\.(\d+)\.(?:self_attn\.|mlp\.)?(\w+)\.(?:weight|bias)")


@dataclass(frozen=True)
class Importance:
    """How much each part carries: means over the tokens of a calibration batch.

    `neurons`: |input of down_proj|. `groups`: for each key-value head, the norm of its query heads' outputs before `o_proj`.
    `channels`: |output of the norms|, summed over all of them.
    """

    neurons: Float[Tensor, "layers f"]
    groups: Float[Tensor, "layers kv"]
    channels: Float[Tensor, "d"]


def measure_importance(model: Weights | Decoder, ids: Int[Tensor, "b t"]) -> Importance:
    """What a calibration batch shows of every neuron, group of heads and channel (Minitron, section 2.2), in fp64 sums.

    Memory: one layer and the batch's streams. Raises `PunaError` where the batch does not fit the model.
    """
    config, tokens = model.config, ids.numel()
    neurons = torch.zeros(config.num_hidden_layers, config.intermediate_size, dtype=torch.float64)
    groups = torch.zeros(config.num_hidden_layers, config.num_key_value_heads, dtype=torch.float64)
    channels = torch.zeros(config.hidden_size, dtype=torch.float64)
    last = config.num_hidden_layers - 1
    for index, seen in activations(model, ids):
        neurons[index] += _total(seen.neurons.abs())
        by_group = seen.heads.unflatten(-1, (config.num_key_value_heads, -1))
        groups[index] += _total(torch.linalg.vector_norm(by_group, dim=-1))
        channels += _total(seen.attention_in.abs()) + _total(seen.mlp_in.abs())
        if index == last:
            channels += _total(seen.normed.abs())
    return Importance(*((part / tokens).float() for part in (neurons, groups, channels)))


def widen_mlp(weights: Weights, intermediate: int, seed: int = 0) -> Weights:
    """The same function with `intermediate` neurons in every MLP: new rows of gate and up at random, new columns of down zero.

    The new columns get a gradient at once, the new rows as soon as their column is not zero. New rows have the spread of the
    matrix's old ones; a pure function of (seed, name). Raises `PunaError` where the model is not made wider.
    """
    config = weights.config
    if intermediate <= config.intermediate_size:
        raise PunaError(
            f"the MLPs are {config.intermediate_size} wide already, {intermediate} is not wider", where="intermediate"
        )
    more = intermediate - config.intermediate_size
    wide = _changed(config, intermediate_size=intermediate)

    def read(name: str) -> Tensor:
        tensor = weights.read(name)
        if name.endswith(("gate_proj.weight", "up_proj.weight")):
            key = int.from_bytes(hashlib.sha256(f"{seed}/widen/{name}".encode()).digest()[:16], "little")
            draws = np.random.Generator(np.random.PCG64(key)).standard_normal(
                (more, config.hidden_size), dtype=np.float32
            )
            new = torch.from_numpy(draws) * tensor.float().std(correction=0).cpu()
            return torch.cat((tensor, new.to(tensor)))
        if name.endswith("down_proj.weight"):
            return torch.cat((tensor, tensor.new_zeros(config.hidden_size, more)), dim=1)
        return tensor

    return Weights(wide, read, where=weights.where)


def narrow(
    weights: Weights, *, importance: Importance, intermediate: int | None = None, heads: int | None = None,
    hidden: int | None = None,
) -> Weights:  # fmt: skip
    """The most important `intermediate` neurons and `heads` query heads of each layer and `hidden` channels of the stream.

    Heads go with their key-value head, all of its group or none. Each layer keeps its own neurons and heads, all keep the same
    channels. Gains stay as they are: scaling them by what the norms' mean squares lose was measured to be no better on a real
    model. Raises `PunaError` for numbers that do not fit the model, or an importance that was measured on another one.
    """
    config = weights.config
    group = config.num_attention_heads // config.num_key_value_heads
    if heads is not None and (heads < group or heads % group):
        raise PunaError(f"{heads} heads are not whole groups of {group} that share a key-value head", where="heads")
    _require_fit(importance, config)
    neurons = config.intermediate_size if intermediate is None else intermediate
    channels = config.hidden_size if hidden is None else hidden
    queries = config.num_attention_heads if heads is None else heads
    narrowed = _changed(config, intermediate_size=neurons, hidden_size=channels, num_attention_heads=queries,
                        num_key_value_heads=queries // group)  # fmt: skip
    stream = _most(importance.channels, channels, "channels")
    by_layer = [_most(row, neurons, "neurons") for row in importance.neurons]
    groups = [_most(row, queries // group, "key-value heads") for row in importance.groups]

    def kept(name: str) -> tuple[Kept, Kept]:
        """Which rows and columns of a tensor stay; None: all."""
        match = _LAYER.fullmatch(name)
        if match is None:
            return (stream, None) if name == NORM else (None, stream)  # else embedding and head
        index, part = int(match[1]), match[2]
        if part in ("q_norm", "k_norm"):
            return None, None
        if part.endswith("layernorm"):
            return stream, None
        if part in ("gate_proj", "up_proj", "down_proj"):
            inner = by_layer[index]
        else:
            inner = _spread(groups[index], config.head_dim * (group if part in ("q_proj", "o_proj") else 1))
        return (stream, inner) if part in ("o_proj", "down_proj") else (inner, stream)

    def read(name: str) -> Tensor:
        tensor, (rows, columns) = weights.read(name), kept(name)
        tensor = tensor if rows is None else tensor[rows]
        return tensor if columns is None or tensor.ndim == 1 else tensor[:, columns]  # a bias has rows only

    return Weights(narrowed, read, where=weights.where)


def _total(values: Float[Tensor, "r t n"]) -> Float[Tensor, "n"]:
    return values.sum(dim=(0, 1), dtype=torch.float64).cpu()


def _most(importance: Float[Tensor, "n"], count: int, what: str) -> Int[Tensor, "k"]:
    """The indices of the most important, in their old order; of equals the first."""
    if count > len(importance):
        raise PunaError(f"the model has {len(importance)} {what}, {count} are no fewer", where="pruning")
    return torch.sort(torch.sort(importance, descending=True, stable=True).indices[:count]).values


def _spread(groups: Int[Tensor, "k"], size: int) -> Int[Tensor, "k_size"]:
    """The rows of some blocks of `size` rows."""
    return (groups[:, None] * size + torch.arange(size)).flatten()


def _require_fit(importance: Importance, config: ModelConfig) -> None:
    layers = config.num_hidden_layers
    wanted = [(layers, config.intermediate_size), (layers, config.num_key_value_heads), (config.hidden_size,)]
    if [tuple(part.shape) for part in (importance.neurons, importance.groups, importance.channels)] != wanted:
        raise PunaError("the importance was measured on a model of another shape", where="pruning")


def _changed(config: ModelConfig, **fields: int) -> ModelConfig:
    """The config with some numbers changed, checked as a whole."""
    try:
        return ModelConfig.model_validate(config.model_dump() | fields)
    except ValidationError as error:
        raise PunaError(str(error.errors()[0]["msg"]).removeprefix("Value error, "), where="width") from None
