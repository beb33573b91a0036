"""Layer 2: two architectures, field by field. It never counts for the weights.

Comes in: two opened models, of kinds that Puna runs or not. Goes out: `verdict.Architecture`. Must never happen: an equal field told as if it were
rare, or a design that a hundred models share taken for a trace of one of them.

What a model is built of is told by its tensors (gates, biases, experts, norms of queries and keys), and by its config where no tensor shows it.
How many others share it is counted in a table of published models (architectures.toml).
"""

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from puna.lineage.opened import Opened
from puna.lineage.verdict import Architecture, FieldPair, Verdict
from puna.lineage.weights.reading import Checkpoint
from puna.visible import clean

NEVER = "This is a finding about the design alone and never counts for the weights."
_TABLE = Path(__file__).with_name("architectures.toml")
_MOST_SHOWN = 8
# What is common to the files' sizes and to the table's rows.
_SHAPE = ("layers", "hidden", "ffn", "heads")
_FIELDS = (
    ("layers", "blocks"), ("hidden", "width of the stream"), ("ffn", "hidden units of a block's MLP"), ("heads", "query heads"),
    ("kv_heads", "key-value heads"), ("head_dim", "width of a head"), ("vocab", "rows of the embedding"), ("experts", "experts of a block"),
    ("tied", "head tied to the embedding"),
)  # fmt: skip
_STATED = (
    ("rope_theta", "base of the rotary positions", ("rope_theta",)), ("rope_scaling", "stretching of the rotary positions", ("rope_scaling",)),
    ("eps", "epsilon of the norms", ("rms_norm_eps", "layer_norm_epsilon", "layer_norm_eps", "norm_epsilon")),
    ("context", "longest context", ("max_position_embeddings", "n_positions")), ("act", "activation", ("hidden_act", "hidden_activation", "activation_function")),
    ("window", "sliding window", ("sliding_window",)), ("model_type", "kind, as the config calls it", ("model_type",)),
)  # fmt: skip
# Designs that no tensor shows, by the config's `model_type`.
_BY_NAME = {"gemma": "gemma", "gemma2": "gemma2", "gemma3": "gemma2", "gemma3_text": "gemma2", "olmo2": "olmo2", "olmo3": "olmo2", "gpt2": "gpt2",
            "gpt_neox": "neox", "mixtral": "mixtral", "qwen2": "qwen2", "qwen3": "qwen3", "qwen2_moe": "qwen2_moe", "qwen3_moe": "qwen3_moe",
            "llama": "llama", "mistral": "llama", "yi": "llama", "phi3": "llama"}  # fmt: skip
_ONLY_BY_NAME = ("gemma", "gemma2", "olmo2", "gpt2", "neox")
_OWN_ROTARY = ("llama", "qwen2", "qwen3", "mixtral", "qwen2_moe", "qwen3_moe")


class Known(NamedTuple):
    """A published model of the table; see architectures.toml."""

    name: str
    year: int
    design: str
    layers: int
    hidden: int
    ffn: int
    heads: int
    kv: int
    vocab: int
    theta: float
    eps: float
    source: str
    begun_with: str  # the model whose weights it began with; "" for none

    @property
    def label(self) -> str:
        """ "LLaMA-7B (2023)"."""
        return f"{self.name} ({self.year})"


@dataclass(frozen=True)
class Designs:
    """The table: its models, what each design is in words, the family that a design belongs to."""

    version: str
    models: tuple[Known, ...]
    words: Mapping[str, str]
    family: Mapping[str, str]
    parts: Mapping[str, str]

    def of_design(self, design: str) -> tuple[Known, ...]:
        """The table's models that are built of this block."""
        return tuple(one for one in self.models if one.design == design)


@cache
def known_models() -> Designs:
    """The table that ships with Puna."""
    told = tomllib.loads(_TABLE.read_text(encoding="utf-8"))
    models = tuple(Known(*row) for row in told["models"]["rows"])
    family = {design: name for name, designs in told["families"].items() for design in designs}
    return Designs(told["version"], models, told["designs"], family, told["parts"])


def compare_architectures(model: Opened, reference: Opened) -> Architecture:
    """Field by field, the blocks' designs in words, and how many published models share them.

    same: both are of one family, whatever their sizes; independent: of two families; cannot tell: one of them is of no known family.
    """
    ours, theirs, table = model.checkpoint, reference.checkpoint, known_models()
    fields = [_pair(words, _size(ours, key), _size(theirs, key)) for key, words in _FIELDS]
    fields += [_pair(words, _stated(ours.config, keys), _stated(theirs.config, keys)) for _, words, keys in _STATED]
    designs = design_of(ours), design_of(theirs)
    fields = [field for field in fields if field.model is not None or field.reference is not None]
    fields.insert(0, _pair("block", _words(designs[0]), _words(designs[1])))
    equal, told = [f for f in fields if f.equal], [f for f in fields if not f.equal]
    evidence = [f"{len(equal)} of {len(fields)} fields are equal"]
    evidence += [f"{field.name}: {_shown(field.model)} beside {_shown(field.reference)}" for field in told]
    families = [table.family.get(design or "") for design in designs]
    shared, lines = _others(ours, designs[0], table)
    evidence += lines
    if families == ["LLaMA decoder"] * 2:
        evidence.append(
            "the parts of that block were published by others: "
            + "; ".join(f"{part}, {who}" for part, who in table.parts.items())
        )
    verdict, sentence = _verdict(model, reference, designs, families, told, table)
    return Architecture(
        verdict=verdict, sentence=f"{sentence} {NEVER}", evidence=tuple(evidence), fields=tuple(fields),
        family=families[0] or "" if families[0] == families[1] else "", shared_with=shared if families[0] == families[1] else (),
    )  # fmt: skip


def design_of(checkpoint: Checkpoint) -> str | None:
    """The block's design, a key of the table's `designs`; None where neither tensors nor config tell."""
    kinds = {role.kind for role in checkpoint.roles}
    named = _BY_NAME.get(str(_stated(checkpoint.config, ("model_type",))).lower())
    if named in _ONLY_BY_NAME:
        return named
    experts = checkpoint.sizes.experts > 0
    gated = {"embed", "attn_norm", "q", "k", "v", "o", "mlp_norm", "gate", "up", "down"} <= kinds
    if gated and _rotary(checkpoint, named) and _silu(checkpoint.config):
        biased, normed = bool(kinds & {"q_bias", "k_bias", "v_bias"}), bool(kinds & {"q_norm", "k_norm"})
        if biased and normed:
            return None
        plain = "qwen2" if biased else "qwen3" if normed else "llama"
        return {"llama": "mixtral", "qwen2": "qwen2_moe", "qwen3": "qwen3_moe"}[plain] if experts else plain
    # Tensors that are not there (missing shards) or that no convention names: what the config calls itself.
    return named if not gated else None


def _rotary(checkpoint: Checkpoint, named: str | None) -> bool:
    """Rotary positions leave no tensor: they are stated, or nothing else is there and the config's kind is known to have them."""
    learnt = any(name.endswith(("wpe.weight", "embed_positions.weight")) for name in checkpoint.unknown)
    stated = any(checkpoint.config.get(key) is not None for key in ("rope_theta", "rope_parameters", "rope_scaling"))
    return not learnt and (stated or named in _OWN_ROTARY)


def _silu(config: Mapping[str, Any]) -> bool:
    act = _stated(config, ("hidden_act", "hidden_activation"))
    return act is None or str(act).lower() in ("silu", "swish")


def _verdict(
    model: Opened, reference: Opened, designs: tuple[str | None, str | None], families: list[str | None], told: list[FieldPair], table: Designs
) -> tuple[Verdict, str]:  # fmt: skip
    unknown = [clean(one.name) for one, family in zip((model, reference), families, strict=True) if family is None]
    if unknown:
        return (
            "cannot tell",
            f"What {' and '.join(unknown)} {'is' if len(unknown) == 1 else 'are'} built of is not told by tensors or config.",
        )
    if families[0] != families[1]:
        return (
            "independent",
            f"They are built differently: {clean(model.name)} is a {families[0]}, {clean(reference.name)} a {families[1]}.",
        )
    count, of = len(table.of_design(designs[0] or "")), len(table.models)
    chance = f"{count} of the {of} published models in our table are built of that block"
    if designs[0] != designs[1]:
        return (
            "same",
            f"Both are of one family ({families[0]}), and their blocks differ: {_words(designs[0])}; {_words(designs[1])}.",
        )
    sizes = {words for _, words in _FIELDS}
    differing = [field.name for field in told if field.name in sizes]
    if not differing:
        return "same", f"Both have the same architecture, block for block and size for size ({families[0]}). {chance}."
    listed = ", ".join(differing[:4]) + (" and more" if len(differing) > 4 else "")
    return "same", f"Both are built of the same block ({families[0]}), in other sizes ({listed}). {chance}."


def _others(ours: Checkpoint, design: str | None, table: Designs) -> tuple[tuple[str, ...], list[str]]:
    """(published models of MODEL's design, those of its very sizes first and marked; lines of evidence)."""
    alike = table.of_design(design or "")
    shape = tuple(getattr(ours.sizes, key) for key in _SHAPE)
    twins = [one for one in alike if (one.layers, one.hidden, one.ffn, one.heads) == shape]
    very = [one for one in twins if (one.kv, one.vocab) == (ours.sizes.kv_heads, ours.sizes.vocab)]
    rest = [one for one in twins if one not in very]
    of = len(table.models)
    lines = (
        [f"{len(alike)} of the {of} published models in our table ({table.version}) have MODEL's block"]
        if design
        else []
    )
    if very:
        lines.append(
            f"of MODEL's very sizes: {_listed(very)}; trained from scratch, each apart: {_listed([one for one in very if not one.begun_with])}"
        )
    if rest:
        lines.append(f"of its depth, width, MLP and heads, with other key-value heads or vocabulary: {_listed(rest)}")
    shared = [f"{one.label}: the same sizes" for one in very] + [
        f"{one.label}: the same depth and widths" for one in rest
    ]
    return (*shared, *(one.label for one in alike if one not in twins)), lines


def _listed(models: list[Known]) -> str:
    if not models:
        return "none"
    more = f" and {len(models) - _MOST_SHOWN} more" if len(models) > _MOST_SHOWN else ""
    return ", ".join(one.label for one in models[:_MOST_SHOWN]) + more


def _pair(words: str, ours: Any, theirs: Any) -> FieldPair:
    note = "stated by one only" if (ours is None) != (theirs is None) else ""
    return FieldPair(name=words, model=ours, reference=theirs, equal=ours == theirs, note=note)


def _size(checkpoint: Checkpoint, key: str) -> int | bool | None:
    value: int | bool = getattr(checkpoint.sizes, key)
    return value if value or key in ("experts", "tied") else None  # 0: neither config nor tensors tell


def _stated(config: Mapping[str, Any], keys: tuple[str, ...]) -> Any:
    """What a config says, in the place where old and new configs have it; a table as its sorted entries. None: not stated."""
    places = [config, *(config[key] for key in ("text_config", "rope_parameters") if isinstance(config.get(key), dict))]
    value = next((place[key] for place in places for key in keys if place.get(key) is not None), None)
    if isinstance(value, dict):
        return ", ".join(
            f"{clean(str(key))[:40]} {clean(str(entry))[:40]}"
            for key, entry in sorted(value.items(), key=lambda item: str(item[0]))[:12]
        )
    if isinstance(value, float):
        if not math.isfinite(value):
            return str(value)
        return int(value) if value.is_integer() and abs(value) < 2**53 else value  # 10000.0 and 10000 are one base
    return clean(value)[:200] if isinstance(value, str) else value if isinstance(value, int) else None


def _words(design: str | None) -> str | None:
    return known_models().words.get(design or "")


def _shown(value: Any) -> str:
    if value is None:
        return "not stated"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else clean(str(value))[:120]
