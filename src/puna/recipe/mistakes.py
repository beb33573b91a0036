"""What is wrong with a recipe, in plain words: the validator's findings told to somebody who writes TOML.

Comes in: a validation error and the values. Goes out: one mistake a key. Must never happen: a mistake left out of the
count, or words that only make sense to a reader of the schema.
"""

import difflib
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from puna.recipe.base import SELF
from puna.recipe.corpus import HUB_PREFIX, PYTHON_SOURCE
from puna.recipe.schema import DOCSTRINGS, Recipe

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
    findings = error.errors(include_url=False)
    # A source may be a name or a table: of a table, that it is no name is no mistake.
    return [
        _mistake(found)
        for found in findings
        if not (found["loc"][-1:] == ("str",) and isinstance(found["input"], dict | list))
    ]


def _mistake(finding: Any) -> Mistake:
    key = ".".join(str(part) for part in finding["loc"] if part not in ("str", "Source", "list[str]")) or "recipe"
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
    table: Any = Recipe
    for step in place[:-1]:
        if isinstance(step, int) or step not in getattr(table, "model_fields", {}):
            continue  # a row of a list, or the name of one of several types: the table is known already
        annotation: Any = table.model_fields[step].annotation
        kinds = getattr(annotation, "__args__", (annotation,))  # list[Sft]: its rows
        table = next((kind for kind in _flat(kinds) if hasattr(kind, "model_fields")), table)
    return [field.alias or name for name, field in table.model_fields.items()]


def _flat(kinds: Any) -> list[Any]:
    return [inner for kind in kinds for inner in (kind, *getattr(kind, "__args__", ()))]


def file_keys(corpus: dict[str, Any]) -> list[tuple[dict[str, Any], str]]:
    """(table, key) of all that names files in `[corpus]` beside the sources, as far as it is there."""
    places = [("", "thresholds"), ("correct", "blocklist"), ("safety", "words"), ("perplexity", "reference"),
              ("quality", "good"), ("decontaminate", "evals")]  # fmt: skip
    found = [(corpus if not table else corpus.get(table), key) for table, key in places]
    return [(table, key) for table, key in found if isinstance(table, dict) and key in table]


def missing_files(values: dict[str, Any]) -> list[Mistake]:
    """Files and folders that the recipe names and that are not there: told together with the other mistakes."""
    corpus, tune = values.get("corpus"), values.get("tune")
    corpus = corpus if isinstance(corpus, dict) else {}
    sources = corpus.get("sources")
    paths = [s.get("path") if isinstance(s, dict) else s for s in (sources if isinstance(sources, list) else [])]
    named: list[tuple[str, Any, str]] = [("corpus.sources", path, PYTHON_SOURCE) for path in paths]
    for table, key in file_keys(corpus):
        given = table[key] if isinstance(table[key], list) else [table[key]]
        named += [(f"corpus: {key}", path, "") for path in given]
    base = values.get("base")
    old = base.get("old") if isinstance(base, dict) else None
    named += [("base.old", path, PYTHON_SOURCE) for path in (old if isinstance(old, list) and old != [SELF] else [])]
    tables = [table for table in (tune if isinstance(tune, list) else []) if isinstance(table, dict)]
    named += [(f"tune.{number}.data", table.get("data", DOCSTRINGS), DOCSTRINGS) for number, table in enumerate(tables)]
    return [
        Mistake(key, f"{path} does not exist") for key, path, keyword in named
        if isinstance(path, str) and path != keyword and not path.startswith(HUB_PREFIX) and not Path(path).exists()
    ]  # fmt: skip


def told(mistakes: list[Mistake]) -> str:
    """All of them on one line, with their count where there are several."""
    lines = [f"{one.key}: {one.reason}" for one in mistakes[:MOST_SHOWN]]
    if len(mistakes) > MOST_SHOWN:
        lines.append(f"and {len(mistakes) - MOST_SHOWN} more")
    count = f"{len(mistakes)} mistakes: " if len(mistakes) > 1 else ""
    return count + "; ".join(lines)
