"""What is done to a model to hide, shrink, grow or mix it: each change exact, each drawn from a seed.

Comes in: a config and a state dict. Goes out: a `Changed`. Must never happen: a change said to keep the function that does not (the tests look
at the logits).
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from puna.lineage.zoo.training import CONFIG, State
from puna.model.config import ModelConfig
from puna.model.formats.quantised_write import quantise
from puna.model.surgery.depth import drop_layers, insert_silent_layers, repeat_layers, solar_order, yi_order
from puna.model.surgery.width import measure_importance, narrow
from puna.model.weights import Weights

_IN, _MLP = ("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj")


@dataclass(frozen=True)
class Changed:
    """A model after a change. `config`: of a LLaMA; `hf`: what its config.json says besides; `state`: under the names of its files."""

    state: State
    config: ModelConfig = CONFIG
    hf: dict[str, Any] = field(default_factory=dict)


def _weights(state: State, config: ModelConfig = CONFIG) -> Weights:
    return Weights(config, lambda name: state[name])


def _of(weights: Weights) -> Changed:
    return Changed({name: tensor.clone() for name, tensor in weights.items()}, weights.config)


def each_matrix(state: State, change: Callable[[Tensor], Tensor]) -> State:
    """The blocks' matrices changed, everything else as it is."""
    return {name: change(tensor) if "layers" in name and tensor.ndim == 2 else tensor for name, tensor in state.items()}


# Deeper, narrower, coarser


def grown(state: State, how: str) -> Changed:
    """4 blocks become 6 as Yi-9B ("duplicate") or SOLAR ("solar") did, or with two that do nothing yet ("silent")."""
    weights = _weights(state)
    if how == "silent":
        return _of(insert_silent_layers(weights, [1, 2]))
    order = yi_order(4, 1, 3) if how == "duplicate" else solar_order(4, 1)
    return _of(repeat_layers(weights, order))


def shallower(state: State, keep: list[int], config: ModelConfig = CONFIG) -> Changed:
    """Only the blocks `keep`."""
    return _of(drop_layers(_weights(state, config), keep))


def narrower(state: State, ids: Int[Tensor, " n"], **sizes: int) -> Changed:
    """The most important neurons, heads or channels (see `narrow`)."""
    weights = _weights(state)
    return _of(narrow(weights, importance=measure_importance(weights, ids[: 16 * 64].view(16, 64)), **sizes))


def rounded(state: State) -> State:
    """To bf16."""
    return {name: tensor.bfloat16() for name, tensor in state.items()}


def coarse(state: State, bits: int) -> State:
    """The blocks' matrices on the grid of the house's int8 or int4, spread back."""

    def change(matrix: Tensor) -> Tensor:
        group = 16 if matrix.shape[1] % 32 else 32
        q, scale = quantise(matrix, bits, group, None, torch.float32)
        return (q.float().view(len(q), -1, group) * scale[..., None]).view(matrix.shape)

    return each_matrix(state, change)


def noised(state: State, size: float, seed: int) -> State:
    """Each matrix with white noise of `size` times its own spread: embedding and head too, or their equal numbers would tell at any size."""
    draw = torch.Generator().manual_seed(seed)
    return {
        name: tensor + size * tensor.std() * torch.randn(tensor.shape, generator=draw) if tensor.ndim == 2 else tensor
        for name, tensor in state.items()
    }


def sum_of(state: State, other: State, share: float) -> State:
    """`share` of the first, the rest of the second."""
    return {name: share * tensor + (1 - share) * other[name] for name, tensor in state.items()}


# The same function in other clothes


def renamed(state: State) -> State:
    """Under names that no program knows."""
    words = {"model.layers": "body.cell", "self_attn": "mixer", "mlp": "lens", "q_proj": "ask", "k_proj": "key", "v_proj": "say", "o_proj": "sum",
             "gate_proj": "door", "up_proj": "rise", "down_proj": "fall", "input_layernorm": "ln1", "post_attention_layernorm": "ln2",
             "model.embed_tokens": "words", "lm_head": "speak", "model.norm": "last"}  # fmt: skip

    def other(name: str) -> str:
        for old, new in words.items():
            name = name.replace(old, new)
        return name

    return {other(name): tensor for name, tensor in state.items()}


def units_permuted(state: State, seed: int, config: ModelConfig = CONFIG) -> State:
    """Hidden units of every block in another order."""
    draw, made = torch.Generator().manual_seed(seed), dict(state)
    for layer in range(config.num_hidden_layers):
        order = torch.randperm(config.intermediate_size, generator=draw)
        for kind in _MLP:
            made[_mlp(layer, kind)] = state[_mlp(layer, kind)][order]
        made[_mlp(layer, "down_proj")] = state[_mlp(layer, "down_proj")][:, order].contiguous()
    return made


def heads_permuted(state: State, seed: int) -> State:
    """Key-value groups, and query heads inside them, in another order in every block."""
    draw, made = torch.Generator().manual_seed(seed), dict(state)
    groups, per, width = (
        CONFIG.num_key_value_heads,
        CONFIG.num_attention_heads // CONFIG.num_key_value_heads,
        CONFIG.head_dim,
    )
    for layer in range(CONFIG.num_hidden_layers):
        kv = torch.randperm(groups, generator=draw)
        heads = torch.cat([group * per + torch.randperm(per, generator=draw) for group in kv])
        for kind, order in (("q_proj", heads), ("k_proj", kv), ("v_proj", kv)):
            made[_attn(layer, kind)] = state[_attn(layer, kind)].unflatten(0, (-1, width))[order].flatten(0, 1)
        made[_attn(layer, "o_proj")] = state[_attn(layer, "o_proj")].unflatten(1, (-1, width))[:, heads].flatten(1)
    return made


def stream_permuted(state: State, seed: int) -> State:
    """The residual stream's dimensions in another order."""
    order = torch.randperm(CONFIG.hidden_size, generator=torch.Generator().manual_seed(seed))
    return {
        name: tensor[order] if tensor.ndim == 1 or "o_proj" in name or "down_proj" in name else tensor[:, order].contiguous()
        for name, tensor in state.items()
    }  # fmt: skip


def stream_rotated(state: State, seed: int) -> State:
    """Gains folded, then everything that reads or writes the stream turned by one random rotation."""
    turn, _ = torch.linalg.qr(
        torch.randn(CONFIG.hidden_size, CONFIG.hidden_size, generator=torch.Generator().manual_seed(seed))
    )
    made = {}
    for name, tensor in folded(state).items():
        if tensor.ndim == 1:
            made[name] = tensor
        else:
            made[name] = turn.T @ tensor if "o_proj" in name or "down_proj" in name else tensor @ turn
    return made


def folded(state: State) -> State:
    """Every norm's gain taken into the matrices behind it; the gains are then 1."""
    made = {}
    for name, tensor in state.items():
        if tensor.ndim == 1:
            made[name] = torch.ones_like(tensor)
            continue
        gain = None
        if any(kind in name for kind in _IN):
            gain = state[name.split("self_attn")[0] + "input_layernorm.weight"]
        elif any(kind in name for kind in _MLP):
            gain = state[name.split("mlp")[0] + "post_attention_layernorm.weight"]
        elif name == "lm_head.weight":
            gain = state["model.norm.weight"]
        made[name] = tensor if gain is None else tensor * gain
    return made


def rescaled(state: State, seed: int) -> State:
    """Gains folded; ups times s and downs over s, unit by unit; values times s and outputs over s, dimension by dimension."""
    draw, made = torch.Generator().manual_seed(seed), folded(state)
    per = CONFIG.num_attention_heads // CONFIG.num_key_value_heads
    for layer in range(CONFIG.num_hidden_layers):
        units = torch.exp(0.5 * torch.randn(CONFIG.intermediate_size, generator=draw))
        made[_mlp(layer, "up_proj")] = made[_mlp(layer, "up_proj")] * units[:, None]
        made[_mlp(layer, "down_proj")] = made[_mlp(layer, "down_proj")] / units
        values = torch.exp(0.5 * torch.randn(CONFIG.num_key_value_heads, CONFIG.head_dim, generator=draw))
        made[_attn(layer, "v_proj")] = made[_attn(layer, "v_proj")] * values.flatten()[:, None]
        made[_attn(layer, "o_proj")] = made[_attn(layer, "o_proj")] / values.repeat_interleave(per, dim=0).flatten()
    return made


def disguised(state: State, seed: int) -> State:
    """All of it at once: heads and units permuted, rows rescaled, gains folded, the stream rotated. No number stays where or what it was."""
    return stream_rotated(rescaled(heads_permuted(units_permuted(state, seed), seed), seed), seed)


def transposed(state: State) -> State:
    """Every block matrix stored the other way round, as some formats do."""
    return each_matrix(state, lambda matrix: matrix.T.contiguous())


# Another vocabulary, experts


def new_vocabulary(state: State, pieces: list[list[int]]) -> State:
    """Row i of embedding and head is the mean of the old rows `pieces[i]` (Gee et al. 2022, "Fast Vocabulary Transfer")."""
    made = dict(state)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        made[name] = torch.stack([state[name][ids].mean(dim=0) if ids else state[name].mean(dim=0) for ids in pieces])
    return made


def upcycled(state: State, experts: int, seed: int) -> Changed:
    """Each MLP copied into experts with a little noise, a router before them, under Mixtral's names (Komatsuzaki et al. 2022)."""
    draw, made = torch.Generator().manual_seed(seed), {}
    letters = {"gate_proj": "w1", "up_proj": "w3", "down_proj": "w2"}
    for name, tensor in state.items():
        kind = next((kind for kind in letters if f"mlp.{kind}" in name), None)
        if kind is None:
            made[name] = tensor
            continue
        layer = name.split(".mlp.")[0]
        for expert in range(experts):
            noise = 0.01 * tensor.std() * torch.randn(tensor.shape, generator=draw)
            made[f"{layer}.block_sparse_moe.experts.{expert}.{letters[kind]}.weight"] = tensor + noise
        if kind == "gate_proj":
            made[f"{layer}.block_sparse_moe.gate.weight"] = 0.02 * torch.randn(
                experts, CONFIG.hidden_size, generator=draw
            )
    return Changed(
        made,
        hf={
            "architectures": ["MixtralForCausalLM"],
            "model_type": "mixtral",
            "num_local_experts": experts,
            "num_experts_per_tok": 2,
        },
    )


def _mlp(layer: int, kind: str) -> str:
    return f"model.layers.{layer}.mlp.{kind}.weight"


def _attn(layer: int, kind: str) -> str:
    return f"model.layers.{layer}.self_attn.{kind}.weight"
