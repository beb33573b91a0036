"""A checkpoint under its own names and under roles, tensor by tensor, whatever its names are.

Comes in: a model folder or file of any LLaMA-like kind, or weights in memory. Goes out: `Checkpoint`. Must never happen: a whole model
in memory; a name believed to mean what its shape denies.

`model.formats` refuses what it cannot compute; here a model need only be *read*: experts, other names, a missing shard.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from puna.errors import PunaError
from puna.model.formats import open_model
from puna.model.weights import Weights


class Role(NamedTuple):
    """What a tensor is for. `kind`: see `KINDS`; `layer` and `expert` where it has one."""

    kind: str
    layer: int | None = None
    expert: int | None = None


KINDS = ("embed", "attn_norm", "q", "k", "v", "q_bias", "k_bias", "v_bias", "q_norm", "k_norm", "o", "mlp_norm", "router", "gate", "up",
         "down", "norm", "head")  # fmt: skip


@dataclass(frozen=True)
class Stored:
    """One tensor of the files: its shape, the type it is stored in, and the way to it (as stored; see `Weights.read`)."""

    shape: tuple[int, ...]
    dtype: str  # "bfloat16", in the format's own words
    read: Callable[[], Tensor]


@dataclass(frozen=True)
class Source:
    """Where a role's tensor lies: the stored name, and the rows of it where several roles share one (a fused q, k and v)."""

    name: str
    rows: tuple[int, int] | None = None


@dataclass(frozen=True)
class Sizes:
    """The numbers that the tests need; None where neither the config nor a shape tells."""

    layers: int
    hidden: int
    ffn: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    experts: int = 0  # 0: a plain MLP
    tied: bool = False


@dataclass(frozen=True)
class Checkpoint:
    """A model as its files hold it. `where`: for messages. `missing`: what could not be read, in words, reported and not hidden."""

    where: str
    config: Mapping[str, Any]
    stored: Mapping[str, Stored]
    roles: Mapping[Role, Source]
    sizes: Sizes
    missing: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()  # stored tensors of no known role
    path: Path | None = None
    _last: dict[str, Tensor] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def of(cls, weights: Weights) -> "Checkpoint":
        """Weights that are open already, or in memory, under Hugging Face's names."""
        config = weights.config
        stored = {
            name: Stored(shape, weights.types.get(name, ""), lambda name=name: weights.read(name))  # type: ignore[misc]
            for name, shape in config.shapes.items()
        }
        roles = {role: Source(name) for name in stored if (role := role_of(name)) is not None}
        sizes = Sizes(
            layers=config.num_hidden_layers, hidden=config.hidden_size, ffn=config.intermediate_size, heads=config.num_attention_heads,
            kv_heads=config.num_key_value_heads, head_dim=config.head_dim, vocab=config.vocab_size, tied=config.tie_word_embeddings,
        )  # fmt: skip
        return cls(weights.where, config.to_hf(), stored, roles, sizes)

    def has(self, kind: str, layer: int | None = None, expert: int | None = None) -> bool:
        return Role(kind, layer, expert) in self.roles

    def read(self, kind: str, layer: int | None = None, expert: int | None = None) -> Tensor:
        """The tensor of a role in fp32, a tied head being the embedding. Raises `PunaError` where it is not there or not finite."""
        role = Role(kind, layer, expert)
        if role not in self.roles and kind == "head" and self.sizes.tied:
            role = Role("embed")
        source = self.roles.get(role)
        if source is None:
            raise PunaError(f"has no {kind} tensor" + ("" if layer is None else f" in layer {layer}"), where=self.where)
        tensor = self.stored[source.name].read()
        if source.rows is not None:
            tensor = tensor[slice(*source.rows)]
        return tensor.to(torch.float32)


_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blk|blocks)\.(\d{1,6})\.")
_EXPERT = re.compile(r"\.experts\.(\d{1,6})\.")
_ENDS: tuple[tuple[str, str], ...] = (
    (r"(?:^|\.)(embed_tokens|tok_embeddings|token_embd|wte)\.weight$", "embed"),
    (r"(?:^|\.)(lm_head|output)\.weight$", "head"),
    (r"\.(input_layernorm|ln1|attention_norm|attn_norm)\.weight$", "attn_norm"),
    (r"\.(post_attention_layernorm|ln2|ffn_norm)\.weight$", "mlp_norm"),
    (r"\.(q_proj|wq|attn_q)\.weight$", "q"),
    (r"\.(k_proj|wk|attn_k)\.weight$", "k"),
    (r"\.(v_proj|wv|attn_v)\.weight$", "v"),
    (r"\.(q_proj|wq|attn_q)\.bias$", "q_bias"),
    (r"\.(k_proj|wk|attn_k)\.bias$", "k_bias"),
    (r"\.(v_proj|wv|attn_v)\.bias$", "v_bias"),
    (r"\.(q_norm|attn_q_norm)\.weight$", "q_norm"),
    (r"\.(k_norm|attn_k_norm)\.weight$", "k_norm"),
    (r"\.(o_proj|wo|attn_output)\.weight$", "o"),
    (r"\.(gate_proj|w1|ffn_gate)\.weight$", "gate"),
    (r"\.(up_proj|w3|ffn_up)\.weight$", "up"),
    (r"\.(down_proj|w2|ffn_down)\.weight$", "down"),
    (r"\.(block_sparse_moe\.gate|mlp\.gate|mlp\.router)\.weight$", "router"),
    (r"(?:^|\.)(norm|output_norm|ln_f)\.weight$", "norm"),
)


def role_of(name: str) -> Role | None:
    """The role that a tensor's name states, under the conventions of Hugging Face, Meta, Yi, Mixtral and GGUF; None for others."""
    layer, expert = _LAYER.search(name), _EXPERT.search(name)
    for pattern, kind in _ENDS:
        if re.search(pattern, name):
            if (layer is None) != (kind in ("embed", "head", "norm")):
                continue
            return Role(kind, None if layer is None else int(layer[1]), None if expert is None else int(expert[1]))
    return None


def open_checkpoint(path: Path, like: Checkpoint | None = None) -> Checkpoint:
    """The model at `path`, headers read and checked, no tensor yet. `like`: where names are unknown, the model to guess roles by.

    Raises `PunaError` where it is no model or cannot be read at all; shards that are not there are told in `missing`.
    """
    weights = open_model(path)
    from dataclasses import replace

    return replace(Checkpoint.of(weights), path=path, where=str(path))


def unsound(tensor: Tensor) -> str:
    """What makes a tensor useless as evidence: "holds NaN or infinity", "is all zeros", or "" for nothing."""
    if not tensor.numel():
        return "is empty"
    low, high = torch.aminmax(tensor.to(torch.float32))
    if not bool(torch.isfinite(low) & torch.isfinite(high)):
        return "holds NaN or infinity"
    return "is all zeros" if float(low) == float(high) == 0.0 else ""


def unsound_tensors(checkpoint: Checkpoint) -> dict[str, str]:
    """Stored name -> what is wrong, of every tensor that is no evidence."""
    return {name: why for name, stored in checkpoint.stored.items() if (why := unsound(stored.read()))}
