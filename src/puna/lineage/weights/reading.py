"""A checkpoint under its own names and under roles, tensor by tensor, whatever its names are.

Comes in: a model folder or file of any LLaMA-like kind, or weights in memory. Goes out: `Checkpoint`. Must never happen: a whole model
in memory; a name believed to mean what its shape denies.

`model.formats` refuses what it cannot compute; here a model need only be *read*: experts, other names, a missing shard.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from puna.errors import PunaError
from puna.lineage.weights.files import Stored, read_stored
from puna.model.formats import model_file, open_model
from puna.model.formats.huggingface import CONFIG
from puna.model.weights import Weights
from puna.reading import read_object
from puna.visible import clean


class Role(NamedTuple):
    """What a tensor is for. `kind`: see `KINDS`; `layer` and `expert` where it has one."""

    kind: str
    layer: int | None = None
    expert: int | None = None


KINDS = ("embed", "attn_norm", "q", "k", "v", "q_bias", "k_bias", "v_bias", "q_norm", "k_norm", "o", "mlp_norm", "router", "gate", "up",
         "down", "norm", "head")  # fmt: skip


@dataclass(frozen=True)
class Source:
    """Where a role's tensor lies: the stored name, and the rows of it where several roles share one (a fused q, k and v)."""

    name: str
    rows: tuple[int, int] | None = None
    turned: bool = False  # stored the other way round, which a square matrix's shape does not show


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
    kept: dict[str, Any] = field(
        default_factory=dict, compare=False, repr=False
    )  # what was found out once: fingerprints

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
        """Whether a tensor of this role is stored."""
        return Role(kind, layer, expert) in self.roles

    def read(self, kind: str, layer: int | None = None, expert: int | None = None) -> Tensor:
        """The tensor of a role in fp32, a tied head being the embedding. Raises `PunaError` where it is not there or not finite."""
        role = Role(kind, layer, expert)
        if role not in self.roles and kind == "head" and self.sizes.tied:
            role = Role("embed")
        source = self.roles.get(role)
        if source is None:
            raise PunaError(f"has no {kind} tensor" + ("" if layer is None else f" in layer {layer}"), where=self.where)
        stored = self.stored[source.name]
        tensor = (stored.read() if source.rows is None else stored.read_rows(*source.rows)).to(torch.float32)
        if source.turned:
            return tensor.T.contiguous()
        wanted = self._shape(kind)
        # Some files hold a matrix the other way round; where it is not square its shape tells.
        return tensor.T.contiguous() if wanted and tensor.shape != wanted and tensor.T.shape == wanted else tensor

    def _shape(self, kind: str) -> tuple[int, int] | None:
        s = self.sizes
        heads, kv = s.heads * s.head_dim, s.kv_heads * s.head_dim
        shapes = {"q": (heads, s.hidden), "k": (kv, s.hidden), "v": (kv, s.hidden), "o": (s.hidden, heads), "gate": (s.ffn, s.hidden),
                  "up": (s.ffn, s.hidden), "down": (s.hidden, s.ffn), "embed": (s.vocab, s.hidden), "head": (s.vocab, s.hidden)}  # fmt: skip
        return shapes.get(kind)


_MOST_LAYERS = 10_000  # a config may say anything
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
    if any(number is not None and int(number[1]) >= _MOST_LAYERS for number in (layer, expert)):
        return None  # one tensor called so would have all the others looked for
    for pattern, kind in _ENDS:
        if re.search(pattern, name):
            if (layer is None) != (kind in ("embed", "head", "norm")):
                continue
            return Role(kind, None if layer is None else int(layer[1]), None if expert is None else int(expert[1]))
    return None


def open_checkpoint(path: Path, like: Checkpoint | None = None) -> Checkpoint:
    """The model at `path`, headers read and checked, no tensor yet. `like`: where names state no role, the model to guess roles by.

    A folder of safetensors need not be a model that Puna can run: experts, other names, fused projections and missing shards are read
    for what they are. GGUF, llama2.c and folders that compressed-tensors has quantised are opened as the model they hold; numbers that
    another method has packed are told as `missing`. Raises `PunaError` where it is no model.
    """
    path = Path(path)
    if model_file(path) is not None:
        return replace(Checkpoint.of(open_model(path)), path=path, where=str(path))
    config = read_object(path, CONFIG)
    quantised = config.get("quantization_config")
    method = quantised.get("quant_method") if isinstance(quantised, dict) else None
    if method == "compressed-tensors":
        return replace(Checkpoint.of(open_model(path)), path=path, where=str(path))
    stored, missing = read_stored(path)
    if quantised is not None:
        missing += (
            f"the weights are quantised ({clean(str(method))[:40]}), which is not undone: packed tensors are not compared",
        )
    found = assembled(str(path), config, stored, missing=missing, path=path, like=like)
    return found if missing else replace(found, missing=_disagreements(config, found))


def assembled(
    where: str, config: Mapping[str, Any], stored: Mapping[str, Stored], *, missing: tuple[str, ...] = (), path: Path | None = None,
    like: Checkpoint | None = None,
) -> Checkpoint:  # fmt: skip
    """A checkpoint from its config and tensors: roles by their names, fused ones taken apart, sizes from config and shapes."""
    named: dict[Role, Source] = {}
    unknown = []
    for name in stored:
        role = role_of(name)
        if role is not None and role not in named:
            named[role] = Source(name)
        elif _FUSED.search(name) is None:
            unknown.append(name)
    sizes = _sizes(config, stored, named, where)
    for name in stored:
        named |= {role: source for role, source in _fused(name, stored[name].shape, sizes).items() if role not in named}
    found = Checkpoint(where, dict(config), stored, named, sizes, missing, tuple(unknown), path)
    if like is not None and unknown and not {Role("gate", 0), Role("gate", 0, 0)} & set(named):
        return _guessed(found, like)
    return found


def _guessed(found: Checkpoint, like: Checkpoint) -> Checkpoint:
    """Roles by the map of names onto those of `like`: tensors of one pattern stand for the tensors of the partner's, number for number."""
    from puna.lineage.names import roles_by

    roles, unknown = dict(found.roles), set(found.unknown)
    for name, role in roles_by(found, like).items():
        if name in unknown:
            roles.setdefault(role, Source(name))
    sizes = _sizes(found.config, found.stored, roles, found.where)
    used = {source.name for source in roles.values()}
    return replace(found, roles=roles, sizes=sizes, unknown=tuple(name for name in found.unknown if name not in used))


_FUSED = re.compile(r"\.(qkv_proj|W_pack|query_key_value|gate_up_proj)\.weight$")


def _fused(name: str, shape: tuple[int, ...], sizes: Sizes) -> dict[Role, Source]:
    """The roles that share one stored matrix, each with its rows; none where the rows do not add up."""
    fused, layer = _FUSED.search(name), _LAYER.search(name)
    if fused is None or layer is None or len(shape) != 2:
        return {}
    if fused[1] == "gate_up_proj":
        parts = [("gate", sizes.ffn), ("up", sizes.ffn)]
    else:
        kv = sizes.kv_heads * sizes.head_dim
        parts = [("q", sizes.heads * sizes.head_dim), ("k", kv), ("v", kv)]
    if sum(rows for _, rows in parts) != shape[0]:
        return {}
    found, begin = {}, 0
    for kind, rows in parts:
        found[Role(kind, int(layer[1]))] = Source(name, (begin, begin + rows))
        begin += rows
    return found


def _sizes(config: Mapping[str, Any], stored: Mapping[str, Stored], roles: Mapping[Role, Source], where: str) -> Sizes:
    """What the shapes say, and what only the config can: the number of heads."""

    def shape(kind: str) -> tuple[int, ...]:
        source = next((source for role, source in roles.items() if role.kind == kind), None)
        return stored[source.name].shape if source is not None and len(stored[source.name].shape) == 2 else (0, 0)

    def stated(*keys: str) -> int:
        value = next(
            (config[key] for key in keys if isinstance(config.get(key), int) and not isinstance(config.get(key), bool)),
            0,
        )
        return int(value) if 0 < value < 2**31 else 0

    layers = 1 + max((role.layer for role in roles if role.layer is not None), default=-1)
    experts = 1 + max((role.expert for role in roles if role.expert is not None), default=-1)
    vocab, hidden = shape("embed")
    if stated("hidden_size") == vocab != hidden:  # stored the other way round
        vocab, hidden = hidden, vocab
    hidden = hidden or stated("hidden_size")
    gate = shape("gate")
    ffn = (gate[0] if gate[1] == hidden else gate[1] if gate[0] == hidden else 0) or stated("intermediate_size")
    heads = stated("num_attention_heads")
    kv_heads = stated("num_key_value_heads") or heads
    q = shape("q")
    head_dim = stated("head_dim") or (
        max(q) // heads if heads and hidden in q and max(q) % heads == 0 and q[0] == q[1] else 0
    )
    head_dim = head_dim or (hidden // heads if heads else 0)
    tied = config.get("tie_word_embeddings") is True or ("head" not in {role.kind for role in roles} and vocab > 0)
    return Sizes(
        layers=layers or min(stated("num_hidden_layers"), _MOST_LAYERS), hidden=hidden, ffn=ffn, heads=heads, kv_heads=kv_heads,
        head_dim=head_dim, vocab=vocab or stated("vocab_size"), experts=experts, tied=tied,
    )  # fmt: skip


def _disagreements(config: Mapping[str, Any], found: Checkpoint) -> tuple[str, ...]:
    """Numbers of the config that the tensors contradict: the tensors are believed."""
    shown = {
        "num_hidden_layers": found.sizes.layers,
        "hidden_size": found.sizes.hidden,
        "vocab_size": found.sizes.vocab,
    }
    return tuple(
        f"config.json says {key} {config[key]}, the tensors show {number}"
        for key, number in shown.items()
        if type(config.get(key)) is int and abs(config[key]) < 2**31 and config[key] != number > 0
    )


def unsound(tensor: Tensor) -> str:
    """What makes a tensor useless as evidence: "holds NaN or infinity", "is all zeros", or "" for nothing."""
    if not tensor.numel():
        return "is empty"
    low, high = torch.aminmax(tensor.to(torch.float32))
    if not bool(torch.isfinite(low) & torch.isfinite(high)):
        return "holds NaN or infinity"
    return "is all zeros" if float(low) == float(high) == 0.0 else ""
