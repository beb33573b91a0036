"""What is wrong with a recipe, in plain words: the validator's findings told to somebody who writes TOML.

Comes in: a validation error and the values. Goes out: one mistake a key. Must never happen: a mistake left out of the
count, or words that only make sense to a reader of the schema.
"""

import difflib
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from puna.recipe.schema import DOCSTRINGS, PYTHON_SOURCE, Recipe

MOST_SHOWN = 8
_PLAIN = {  # the validator's kind of finding, in the recipe's words
    "string_type": "must be text in quotes",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "list_type": "must be a list in [brackets]",
    "too_short": "must have at least one entry",
    "model_type": "must be a table",
    "model_attributes_type": "must be a table",
    "string_pattern_mismatch": "must be 1 to 64 of a-z, A-Z, 0-9, dot, dash and underscore, a letter or digit first (title takes any script)",
}


class Mistake(NamedTuple):
    """A key of the recipe and what is wrong with its value."""

    key: str
    reason: str


def mistakes_of(error: ValidationError) -> list[Mistake]:
    """Every finding of the validator, in its order."""
    return [_mistake(finding) for finding in error.errors(include_url=False)]


def _mistake(finding: Any) -> Mistake:
    key = ".".join(str(part) for part in finding["loc"]) or "recipe"
    kind, given = finding["type"], finding.get("input")
    if kind == "missing":
        return Mistake(
            key, "a budget is missing: write minutes, tokens or flops under [train]" if key == "train" else "is missing"
        )
    if kind == "extra_forbidden":
        near = difflib.get_close_matches(str(finding["loc"][-1]), _keys_beside(finding["loc"]), 1)
        return Mistake(key, f"no such key{f' (did you mean {near[0]}?)' if near else ''}")
    reason = _PLAIN.get(kind) or finding["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    return Mistake(key, reason if isinstance(given, dict) else f"{reason} (got {_shown(given)})")


def _shown(given: Any) -> str:
    text = ("false", "true")[given] if isinstance(given, bool) else repr(given)
    return text if len(text) <= 60 else text[:57] + "..."


def _keys_beside(place: tuple[int | str, ...]) -> list[str]:
    """The keys that the table of an unknown key may have."""
    if len(place) == 1:
        return list(Recipe.model_fields)
    annotation: Any = Recipe.model_fields[str(place[0])].annotation
    table = getattr(annotation, "__args__", (annotation,))[0]  # list[Sft]: its rows
    return list(table.model_fields)


def missing_files(values: dict[str, Any]) -> list[Mistake]:
    """Files and folders that the recipe names and that are not there: told together with the other mistakes."""
    corpus, tune = values.get("corpus"), values.get("tune")
    sources = corpus.get("sources") if isinstance(corpus, dict) else None
    named = [("corpus.sources", s, PYTHON_SOURCE) for s in (sources if isinstance(sources, list) else [])]
    tables = [table for table in (tune if isinstance(tune, list) else []) if isinstance(table, dict)]
    named += [(f"tune.{number}.data", table.get("data", DOCSTRINGS), DOCSTRINGS) for number, table in enumerate(tables)]
    return [
        Mistake(key, f"{path} does not exist") for key, path, keyword in named
        if isinstance(path, str) and path != keyword and not Path(path).exists()
    ]  # fmt: skip


def told(mistakes: list[Mistake]) -> str:
    """All of them on one line, with their count where there are several."""
    lines = [f"{one.key}: {one.reason}" for one in mistakes[:MOST_SHOWN]]
    if len(mistakes) > MOST_SHOWN:
        lines.append(f"and {len(mistakes) - MOST_SHOWN} more")
    count = f"{len(mistakes)} mistakes: " if len(mistakes) > 1 else ""
    return count + "; ".join(lines)
