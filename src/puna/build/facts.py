"""What a build knows at a given point: shapes, plans and the model's own description, read from finished artefacts.

Comes in: a context with its finished stages. Goes out: values. Must never happen: a value that a resumed build would
find different.
"""

import math
from typing import Any

from puna.build.graph import Context
from puna.files import read_json
from puna.recipe.scaling import MIN_STEPS, Plan, Shape, batch_tokens_of, budget_tokens, plan_tuning, shape_of
from puna.recipe.schema import PYTHON_SOURCE, Recipe, Sft, Train

CALIBRATION_TOKENS = 4_000_000  # the horizon whose plan is timed; the rate hardly depends on it
CALIBRATE_TUNING, RATE = "calibrate-tuning", "rate.json"


def trial_tokens(train: Train, shape: Shape) -> int:
    """The horizon that a calibration plans for: the budget, or a usual one where that is in minutes."""
    if train.minutes is None:
        return budget_tokens(train, shape, None)
    return max(CALIBRATION_TOKENS, MIN_STEPS * batch_tokens_of(train, CALIBRATION_TOKENS, shape.context))


def wished_shape(recipe: Recipe) -> Shape:
    """The shape before the tokenizer is trained: its vocabulary is what the recipe asks for."""
    return shape_of(recipe.model, recipe.tokenizer)


def actual_shape(context: Context) -> Shape:
    """The shape with the entries that the tokenizer has, rounded up to a multiple of 64 for the matrix units."""
    entries = context.facts("tokenizer")["entries"]
    return wished_shape(context.recipe).model_copy(update={"vocab": 64 * math.ceil(entries / 64)})


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
            "start": "random weights",
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
