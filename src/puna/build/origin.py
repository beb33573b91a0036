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
    changed = {"num_hidden_layers": base.layers, "intermediate_size": base.intermediate,
               "max_position_embeddings": base.context,
               "vocab_size": whole_vocab(config.vocab_size + base.extend) if base.extend else None}  # fmt: skip
    return config.model_copy(update={key: value for key, value in changed.items() if value is not None})


def whole_vocab(entries: int) -> int:
    """Rounded up to a multiple of 64, for the matrix units."""
    return -(-entries // 64) * 64


def model_name(path: str) -> str:
    """What a model is called where its folder must not be told; a run's release is called by its run."""
    there = Path(path)
    return there.parent.name if there.name in ("release", "base") and there.parent.name else there.name


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
