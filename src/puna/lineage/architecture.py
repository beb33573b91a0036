"""Layer 2: two architectures, field by field. It never counts for the weights.

Comes in: two opened models. Goes out: `verdict.Architecture`. Must never happen: an equal field told as if it were rare.
"""

import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from puna.lineage.opened import Opened
from puna.lineage.verdict import Architecture, FieldPair
from puna.visible import clean

_TABLE = Path(__file__).with_name("architectures.toml")
_FAMILY = "LLaMA decoder"
_FIELDS = (
    ("layers", "blocks"), ("hidden", "width of the stream"), ("ffn", "hidden units of a block"), ("heads", "query heads"),
    ("kv_heads", "key-value heads"), ("head_dim", "width of a head"), ("vocab", "rows of the embedding"), ("experts", "experts of a block"),
    ("tied", "head tied to the embedding"),
)  # fmt: skip
_STATED = (
    ("rope_theta", "base of the rotary positions"), ("rms_norm_eps", "epsilon of the norms"), ("max_position_embeddings", "longest context"),
    ("hidden_act", "activation"), ("attention_bias", "attention bias"), ("sliding_window", "sliding window"),
)  # fmt: skip
_SAME = "Whoever uses a common design shares it with all who do: this says nothing of the weights."


@cache
def known_models() -> tuple[Mapping[str, Any], ...]:
    """The published shapes of architectures.toml."""
    return tuple(tomllib.loads(_TABLE.read_text(encoding="utf-8"))["models"])


def compare_architectures(model: Opened, reference: Opened) -> Architecture:
    """Field by field; `shared_with`: published models of the very same sizes."""
    ours, theirs = model.checkpoint, reference.checkpoint
    fields = [_pair(words, getattr(ours.sizes, key), getattr(theirs.sizes, key)) for key, words in _FIELDS]
    fields += [_pair(words, _stated(ours.config, key), _stated(theirs.config, key)) for key, words in _STATED]
    sizes = list(fields[: len(_FIELDS)])
    alike = all(_is_llama(one.checkpoint.roles) for one in (model, reference))
    twins = [entry["name"] for entry in known_models() if _same_sizes(entry, ours.sizes)]
    equal, told = [f for f in fields if f.equal], [f for f in fields if not f.equal]
    evidence = [f"{len(equal)} of {len(fields)} fields are equal"]
    evidence += [f"{field.name}: {_shown(field.model)} beside {_shown(field.reference)}" for field in told]
    if twins:
        evidence.append(f"MODEL has the sizes of {', '.join(twins)}")
    count = len(known_models())
    if not alike:
        verdict, sentence = (
            "independent",
            "The two are built differently: not both are LLaMA-like decoders. This is a finding about the design alone.",
        )
    elif all(field.equal for field in sizes):
        verdict = "same"
        sentence = f"Both have the same architecture, block for block and size for size. All {count} models of our table are built of this block. {_SAME}"
    else:
        verdict = "same"
        sentence = (
            f"Both are built of the same block (LLaMA's), in other sizes: {len(told)} fields differ. All {count} models of our table are"
            f" built of it, from nine makers and more. {_SAME}"
        )  # fmt: skip
    return Architecture(
        verdict=verdict, sentence=sentence, evidence=tuple(evidence), fields=tuple(fields), family=_FAMILY if alike else "", shared_with=tuple(twins),
    )  # fmt: skip


def _pair(words: str, ours: Any, theirs: Any) -> FieldPair:
    return FieldPair(name=words, model=ours, reference=theirs, equal=ours == theirs)


def _stated(config: Mapping[str, Any], key: str) -> Any:
    value = config.get(key)
    if value is None and key == "rope_theta" and isinstance(config.get("rope_parameters"), dict):
        value = config["rope_parameters"].get("rope_theta")
    return value if isinstance(value, int | float | str | bool) else None


def _is_llama(roles: Mapping[Any, Any]) -> bool:
    """RMSNorm before attention and MLP, gated MLP, separate projections: told by which tensors there are."""
    return {"embed", "attn_norm", "q", "k", "v", "o", "mlp_norm", "gate", "up", "down", "norm"} <= {
        role.kind for role in roles
    }


def _same_sizes(entry: Mapping[str, Any], sizes: Any) -> bool:
    return (entry["layers"], entry["hidden"], entry["ffn"], entry["heads"], entry["kv"], entry["vocab"]) == (
        sizes.layers, sizes.hidden, sizes.ffn, sizes.heads, sizes.kv_heads, sizes.vocab,
    )  # fmt: skip


def _shown(value: Any) -> str:
    if value is None:
        return "not stated"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else clean(str(value))[:60]
