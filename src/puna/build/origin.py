"""Where a run's first weights come from: the models that `[base]` names, and what the run knows of them.

Comes in: a recipe. Goes out: paths, names, the config that will be trained. Must never happen: a published name that tells
where the maker's folders are.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from puna.build.graph import Context
from puna.errors import PunaError
from puna.recipe.base import Base
from puna.recipe.schema import Recipe

ADAPTER = "adapter"  # of a model folder whose weights were trained through one: the adapter in peft's files
EXTENSION = "extension.json"  # beside a tokenizer that has grown: which old ids each new one stands for

if TYPE_CHECKING:
    from puna.model.config import ModelConfig


def base_of(recipe: Recipe) -> Base:
    """The recipe's base, where the caller knows that there is one."""
    assert recipe.base is not None
    return recipe.base


def model_paths(base: Base, runs: Path) -> list[Path]:
    """Where the models under `from` lie. Raises `PunaError` where one is not there."""
    from puna.engine import resolve_model

    return [resolve_model(name, runs) for name in base.models]


def planned_config(recipe: Recipe, runs: Path) -> "ModelConfig":
    """The config of the model that the run will train, before anything is built; its vocabulary by what is asked for."""
    from puna.model.formats import load_config

    base = base_of(recipe)
    config = load_config(model_paths(base, runs)[0])
    if base.context is not None and base.context <= config.max_position_embeddings:
        raise PunaError(f"the base reads {config.max_position_embeddings:,} tokens already", where="base.context",
                        mend="name a longer one, or leave it out")  # fmt: skip
    _refuse_changes(base, config)
    changed = {"num_hidden_layers": base.layers, "intermediate_size": base.intermediate,
               "max_position_embeddings": base.context, "hidden_size": base.hidden,
               "vocab_size": whole_vocab(config.vocab_size + base.extend) if base.extend else None}  # fmt: skip
    if base.heads is not None:
        group = config.num_attention_heads // config.num_key_value_heads
        changed |= {"num_attention_heads": base.heads, "num_key_value_heads": max(1, base.heads // group)}
    return config.model_copy(update={key: value for key, value in changed.items() if value is not None})


def _refuse_changes(base: Base, config: "ModelConfig") -> None:
    """What cannot be done to this base, told before the text is worked through."""
    before = config.num_hidden_layers
    grows = base.layers is not None and base.layers > before
    wrong = [
        ("base.context", base.context is not None and config.rope_scaling is not None, "the base's positions are scaled already"),
        ("base.context", base.context is not None and config.sliding_window is not None,
         f"the base sees {config.sliding_window} tokens at once, whatever its context"),
        ("base.layers", base.layers == before, f"the base has {before} layers already"),
        ("base.grow", not grows and bool(base.grow or base.span), f"{base.layers} layers are no more than the base's {before}"),
        ("base.span", bool(base.span) and grows and base.span[1] - base.span[0] != (base.layers or 0) - before,
         f"{(base.layers or 0) - before} layers are to be added, the span holds another number"),
        ("base.layers", grows and base.grow == "solar" and (base.layers or 0) % 2 == 1, "solar makes an even number of layers"),
        ("base.intermediate", base.intermediate == config.intermediate_size, "the base's MLPs are as wide already"),
        ("base.heads", base.heads is not None and base.heads >= config.num_attention_heads,
         f"the base has {config.num_attention_heads}; heads are only taken out"),
        ("base.hidden", base.hidden is not None and base.hidden >= config.hidden_size,
         f"the base's stream is {config.hidden_size} wide; it is only made narrower"),
    ]  # fmt: skip
    for where, there, what in wrong:
        if there:
            raise PunaError(what, where=where, mend="docs/base.md says what can be changed")


def whole_vocab(entries: int) -> int:
    """Rounded up to a multiple of 64, for the matrix units."""
    return -(-entries // 64) * 64


def model_name(path: str) -> str:
    """What a model is called where its folder must not be told; a run's release is called by its run."""
    there = Path(path).expanduser()
    there = there.resolve() if there.exists() else there
    for above in (there.parent, there.parent.parent):
        if there.name in ("release", "base") and (above / "ledger.jsonl").is_file():
            return above.name
    return there.name


def start_of(context: Context) -> Path:
    """The folder that training starts from."""
    return context.done["start"] if "start" in context.done else context.done["base"]


def needs_start(recipe: Recipe) -> bool:
    """Whether the model at step 0 is another one than the base. With a [[tune]] its vocabulary may have to grow."""
    base = base_of(recipe)
    return base.changes or base.extend is not None or bool(recipe.tune)


def first_weights(recipe: Recipe) -> tuple[str, ...]:
    """The stage that makes the weights that training starts from; none where they are random."""
    if recipe.base is None:
        return ()
    return ("start",) if needs_start(recipe) else ("base",)
