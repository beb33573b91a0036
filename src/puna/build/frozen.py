"""The frozen recipe of a run: the recipe with its seed and its measured budgets written out.

Comes in: a recipe and what the calibration recorded. Goes out: TOML that gives the same bytes again. Must never happen:
a published copy that tells where the maker's folders are.
"""

from pathlib import Path
from typing import Any

from puna.build.facts import pretraining_plan, tuning_plan
from puna.build.graph import Context
from puna.build.origin import model_name
from puna.files import digest_of
from puna.recipe.base import Base
from puna.recipe.corpus import HUB_PREFIX, PYTHON_SOURCE, Corpus
from puna.recipe.load import dump_recipe
from puna.recipe.mistakes import file_keys
from puna.recipe.schema import DOCSTRINGS, Recipe

_HEADER = """\
Frozen by the build of run {name!r}: the seed and the budgets in tokens are fixed,
so that the same machine and library versions give the same bytes again."""


def freeze(context: Context) -> Recipe:
    """The recipe with its seed, and with what the finished stages measured in place of minutes."""
    recipe = context.recipe.model_copy(update={"seed": context.seed})
    if "calibrate" not in context.done:
        return recipe
    plan = pretraining_plan(context)
    train = recipe.train.model_copy(update={
        "minutes": None, "flops": None, "tokens": plan.tokens, "batch_tokens": plan.batch_tokens,
        "precision": plan.precision, "compile": plan.compile, "threads": plan.threads,
    })  # fmt: skip
    tune = []
    for number, section in enumerate(recipe.tune):
        if f"chat-pack-{number}" in context.done:
            tokens = tuning_plan(context, number, section).tokens
            section = section.model_copy(update={"minutes": None, "epochs": None, "tokens": tokens})
        tune.append(section)
    return recipe.model_copy(update={"train": train, "tune": tune})


def without_folders(recipe: Recipe) -> Recipe:
    """The recipe with the maker's own files and folders named by their last part only: what may be published."""
    corpus = recipe.corpus.model_dump()
    for source in corpus["sources"]:
        if isinstance(source, dict):
            source["path"] = _shown(source["path"])
    corpus["sources"] = [s if isinstance(s, dict) else _shown(s) for s in corpus["sources"]]
    for table, key in file_keys(corpus):
        named = table[key]
        table[key] = [_last_part(one) for one in named] if isinstance(named, list) else named and _last_part(named)
    tune = [t if t.data == DOCSTRINGS else t.model_copy(update={"data": Path(t.data).name}) for t in recipe.tune]
    release = recipe.release.model_copy(update={"sign": recipe.release.sign and _last_part(recipe.release.sign)})
    return recipe.model_copy(
        update={
            "corpus": Corpus.model_validate(corpus),
            "tune": tune,
            "base": _shown_base(recipe.base),
            "release": release,
        }
    )


def frozen_body(context: Context) -> dict[str, Any]:
    """What the ledger holds of the frozen recipe: all of it but the seed, which is committed to and not told."""
    body = without_folders(freeze(context)).model_dump(mode="json", exclude={"seed"})
    return {"digest": digest_of(body), "recipe": body}


def _shown_base(base: Base | None) -> Base | None:
    if base is None:
        return None
    models = [model_name(name) for name in base.models]
    return base.model_copy(update={
        "origin": models if isinstance(base.origin, list) else models[0], "old": [_shown(source) for source in base.old],
        "tokenizer": base.tokenizer and _last_part(base.tokenizer), "merge_base": base.merge_base and model_name(base.merge_base),
    })  # fmt: skip


def _shown(source: str) -> str:
    return source if source == PYTHON_SOURCE or source.startswith(HUB_PREFIX) else _last_part(source)


def _last_part(path: str) -> str:
    name = Path(path).name
    return f"./{name}" if name == PYTHON_SOURCE else name  # a folder of that name is not the running Python


def frozen_recipe(context: Context, *, private: bool = False) -> str:
    """`freeze` as TOML. With `private`, folders of the maker's are named by their last part only."""
    recipe = freeze(context)
    header = _HEADER.format(name=recipe.name)
    if private:
        recipe = without_folders(recipe)
        header += "\nThe maker's own files are named by their last part only."
    return dump_recipe(recipe, header)
