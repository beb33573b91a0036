"""What a build knows at a given point: shapes, plans and the model's own description, read from finished artefacts.

Comes in: a context with its finished stages. Goes out: values. Must never happen: a value that a resumed build would
find different.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from puna.build.graph import Context
from puna.build.origin import planned_config, start_of, whole_vocab
from puna.errors import PunaError
from puna.files import read_json
from puna.recipe.scaling import (
    MIN_STEPS,
    Plan,
    Shape,
    batch_tokens_of,
    budget_tokens,
    plan_tuning,
    row_length,
    shape_of,
)
from puna.recipe.schema import PYTHON_SOURCE, Recipe, Sft, Train

if TYPE_CHECKING:
    from puna.model.config import ModelConfig

CALIBRATION_TOKENS = 4_000_000  # the horizon whose plan is timed; the rate hardly depends on it
CALIBRATE_TUNING, RATE = "calibrate-tuning", "rate.json"


def trial_tokens(train: Train, shape: Shape) -> int:
    """The horizon that a calibration plans for: the budget, or a usual one where that is in minutes."""
    if train.minutes is None:
        return budget_tokens(train, shape, None)
    return max(CALIBRATION_TOKENS, MIN_STEPS * batch_tokens_of(train, CALIBRATION_TOKENS, shape.context))


def wished_shape(recipe: Recipe, runs: Path = Path("runs")) -> Shape:
    """The shape before the tokenizer is trained: its vocabulary is what the recipe asks for."""
    if recipe.base is not None:
        return _shape_of_base(recipe, planned_config(recipe, runs))
    return shape_of(recipe.model, recipe.tokenizer)


def actual_shape(context: Context) -> Shape:
    """The shape with the entries that the tokenizer has."""
    if context.recipe.base is not None:
        return _shape_of_base(context.recipe, base_config(context))
    entries = context.facts("tokenizer")["entries"]
    return wished_shape(context.recipe).model_copy(update={"vocab": whole_vocab(entries)})


def base_config(context: Context) -> "ModelConfig":
    """The config of the model at step 0 of a run with a [base]."""
    from puna.model.formats import load_config

    return load_config(start_of(context))


def actual_config(context: Context, **tokens: Any) -> "ModelConfig":
    """The config of the model that is trained; `tokens` may set bos_token_id, eos_token_id and pad_token_id."""
    from puna.model.config import ModelConfig

    if context.recipe.base is None:
        return ModelConfig.from_shape(actual_shape(context), **tokens)
    return base_config(context).model_copy(update=tokens)


def planned_model(recipe: Recipe, runs: Path) -> "ModelConfig":
    """The config of the model that will be trained, before anything is built."""
    from puna.model.config import ModelConfig

    return planned_config(recipe, runs) if recipe.base is not None else ModelConfig.from_shape(wished_shape(recipe))


def _shape_of_base(recipe: Recipe, config: "ModelConfig") -> Shape:
    """What the scaling rules need of a model that is there; `context` is the length of a row in training."""
    longest = config.max_position_embeddings
    rows = recipe.model.context or (recipe.base and recipe.base.context) or min(longest, row_length(config.parameters))
    if rows > longest:
        raise PunaError(f"the base reads {longest:,} tokens", where="model.context", mend="base.context raises it")
    return Shape(
        dim=config.hidden_size, layers=config.num_hidden_layers, heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads, head_dim=config.head_dim, ffn=config.intermediate_size,
        vocab=config.vocab_size, context=rows, tied=config.tie_word_embeddings, qk_norm=config.qk_norm,
        rope_theta=config.rope_theta,
    )  # fmt: skip


def identity_of(context: Context) -> dict[str, Any]:
    """What the tuned model says of itself: facts of this build that are known before it is tuned."""
    recipe, shape = context.recipe, actual_shape(context)
    plan = pretraining_plan(context)
    python = read_json(context.done["corpus"] / "corpus.json").get("python")
    data = (
        f"the documentation and source code of Python {python}"
        if PYTHON_SOURCE in recipe.corpus.paths
        else "my maker's own text"
    )
    return {
        "name": recipe.title or recipe.name,
        "creator": "Puna",
        "facts": {
            "parameters": f"{shape.params / 1e6:.1f} million"
            if shape.params >= 1e6
            else f"{shape.params / 1e3:.0f} thousand",
            "data": data,
            "tokens": f"{plan.tokens / 1e6:.1f} million",
            "start": f"the open weights of {', '.join(context.facts('base')['names'])}"
            if recipe.base
            else "random weights",
            "architecture": "LLaMA",
        },
    }


def pretraining_plan(context: Context, stage: str = "calibrate") -> Plan:
    """The plan that the calibration resolved and recorded."""
    return Plan.model_validate(read_json(context.done[stage] / "plan.json")["plan"])


def tuning_plan(context: Context, number: int, tune: Sft) -> Plan:
    """The plan of one tuning stage: its budget in tokens, from minutes, tokens or epochs over the packed rows."""
    base = pretraining_plan(context)
    packed = context.facts(f"chat-pack-{number}")
    if tune.tokens is not None:
        tokens = tune.tokens
    elif tune.epochs is not None:
        tokens = int(tune.epochs * packed["rows"] * packed["context"])
    else:
        rate = read_json(context.done[CALIBRATE_TUNING] / RATE)["tokens_per_second"]
        tokens = int(tune.minutes * 60 * rate)  # type: ignore[operator]
    return plan_tuning(tune, base, tokens)
