"""Recipes in and out of TOML.

Comes in: a TOML file and `--set key=value` changes. Goes out: a valid `Recipe`, or one error that names every mistake.
"""

import json
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from puna.errors import PunaError
from puna.recipe.base import SELF
from puna.recipe.corpus import HUB_PREFIX, PYTHON_SOURCE
from puna.recipe.mistakes import file_keys, missing_files, mistakes_of, told
from puna.recipe.schema import DOCSTRINGS, Recipe

MAX_BYTES = 1 << 20


def load_recipe(path: Path, changes: list[str] | None = None) -> Recipe:
    """Read a recipe. Relative paths count from the recipe's own folder, those of `changes` from the current one.

    Raises `PunaError` with all mistakes of the file at once, each with its key.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise PunaError(
            f"cannot read the recipe: {error.strerror}", where=str(path), mend="puna new NAME writes one"
        ) from error
    if len(raw) > MAX_BYTES:
        raise PunaError("is over 1 MiB: not a recipe", where=str(path))
    try:
        values = tomllib.loads(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise PunaError(f"is not UTF-8 text (byte {error.start})", where=str(path), mend="save it as UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        raise PunaError(
            f"is not TOML: {error}", where=str(path), mend='write key = value, with text in quotes: size = "4M"'
        ) from error
    _make_paths_absolute(values, path.resolve().parent)
    for change in changes or []:
        apply_change(values, change)
    if changes:
        _make_paths_absolute(values, Path.cwd())
    return parse_recipe(values, where=str(path), changed=[change.partition("=")[0].strip() for change in changes or []])


def parse_recipe(values: dict[str, Any], *, where: str, changed: Sequence[str] = ()) -> Recipe:
    """Validate a recipe's values. Raises `PunaError` naming every mistake with its key.

    `changed`: the keys that came from `--set`; where no mistake came from elsewhere, it is what is blamed.
    """
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        mistakes = mistakes_of(error) + missing_files(values)
        by_change = all(any(_within(one.key, key) for key in changed) for one in mistakes)
        raise PunaError(
            told(mistakes), where="--set" if by_change else where, mend="docs/recipe.md lists every key"
        ) from error


def _within(key: str, table: str) -> bool:
    """Whether a mistake at `key` can come from a change of `table`, or of a key inside `key`."""
    return f"{key}.".startswith(f"{table}.") or f"{table}.".startswith(f"{key}.")


def apply_change(values: dict[str, Any], change: str) -> None:
    """Apply one `key.sub=value` in place; `tune.0.epochs=2` reaches into a list; the value is TOML, else a string.

    Setting one budget of a table removes its other budgets, so that `train.tokens=…` replaces `train.minutes`.
    """
    key, separator, text = change.partition("=")
    path = key.strip().split(".")
    if not separator or not all(path):
        raise PunaError(f"{change!r} is not key=value", where="--set", mend="write --set model.size=8M, say")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    table: Any = values
    for step in path[:-1]:
        table = _enter(table, step, change)
    if isinstance(table, list):
        raise PunaError(f"{change!r} does not name a key", where="--set")
    budgets = {"minutes", "tokens", "flops", "epochs"}
    if path[-1] in budgets and path[0] in ("train", "tune"):
        for other in budgets - {path[-1]}:
            table.pop(other, None)
    table[path[-1]] = value


def _enter(table: Any, step: str, change: str) -> Any:
    if isinstance(table, list):
        if not step.isdigit() or int(step) >= len(table):
            raise PunaError(
                f"{change!r}: there is no entry {step}", where="--set", mend=f"there are {len(table)}, counted from 0"
            )
        return table[int(step)]
    inner = table.setdefault(step, {})
    if not isinstance(inner, dict | list):
        raise PunaError(f"{change!r}: {step} is not a table", where="--set")
    return inner


def _make_paths_absolute(values: dict[str, Any], folder: Path) -> None:
    """In place, before validation: whatever has not the form of a path is left for the validation to name."""
    corpus, tune = values.get("corpus"), values.get("tune")
    if isinstance(corpus, dict):
        if isinstance(corpus.get("sources"), list):
            corpus["sources"] = [_absolute_source(source, folder) for source in corpus["sources"]]
        for table, key in file_keys(corpus):
            named = table[key]
            table[key] = (
                [_absolute(one, folder) for one in named] if isinstance(named, list) else _absolute(named, folder)
            )
    for table in tune if isinstance(tune, list) else []:
        if isinstance(table, dict) and "data" in table:
            table["data"] = _absolute(table["data"], folder, DOCSTRINGS)
    release = values.get("release")
    if isinstance(release, dict) and "sign" in release:
        release["sign"] = _absolute(release["sign"], folder)
    base = values.get("base")
    for key in ("from", "tokenizer", "merge_base", "old"):
        if isinstance(base, dict) and key in base:
            # A model may also be the name of a run: what is no file here stays as it is written.
            named = base[key]
            place = _absolute if key == "old" and named != [SELF] else _absolute_file
            base[key] = [place(one, folder) for one in named] if isinstance(named, list) else place(named, folder)


def _absolute_source(source: Any, folder: Path) -> Any:
    if isinstance(source, dict) and "path" in source:
        return {**source, "path": _absolute(source["path"], folder, PYTHON_SOURCE)}
    return _absolute(source, folder, PYTHON_SOURCE)


def _absolute(path: Any, folder: Path, keyword: str | None = None) -> Any:
    if not isinstance(path, str) or path == keyword or path.startswith(HUB_PREFIX):
        return path
    return str((folder / Path(path).expanduser()).resolve())


def _absolute_file(path: Any, folder: Path) -> Any:
    there = isinstance(path, str) and (folder / Path(path).expanduser()).exists()
    return _absolute(path, folder) if there else path


def dump_recipe(recipe: Recipe, header: str = "") -> str:
    """A recipe as TOML with every value written out: the frozen recipe of a run. Unset keys are left out."""
    values = recipe.model_dump(exclude_none=True, by_alias=True)
    lines = [f"# {line}" for line in header.splitlines()]
    lines += [f"{key} = {toml_value(value)}" for key, value in values.items() if not _is_table(value)]
    for key, value in values.items():
        for heading, table in _tables(key, value):
            lines += ["", heading, *(f"{inner} = {toml_value(v)}" for inner, v in table.items() if not _has_heading(v))]
    return "\n".join(lines) + "\n"


def changes_between(before: Any, after: Any, key: str = "") -> list[str]:
    """What two recipes' values differ in, a line a key: `train.minutes 9 -> 5`."""
    if isinstance(before, list) and isinstance(after, list) and _is_table(before) and _is_table(after):
        before, after = dict(enumerate(before)), dict(enumerate(after))
    if isinstance(before, dict) and isinstance(after, dict):
        keys = [*before, *(name for name in after if name not in before)]
        return [
            line
            for name in keys
            for line in changes_between(before.get(name), after.get(name), f"{key}.{name}".strip("."))
        ]
    shown = [
        "unset" if value is None else "a table" if isinstance(value, dict) else toml_value(value)
        for value in (before, after)
    ]
    return [] if before == after else [f"{key} {shown[0]} -> {shown[1]}"]


def _is_table(value: Any) -> bool:
    return isinstance(value, dict) or (isinstance(value, list) and all(isinstance(item, dict) for item in value))


def _has_heading(value: Any) -> bool:
    """Whether a value inside a table gets a heading of its own: a section. Weights by name are written on one line."""
    return isinstance(value, dict) and any(key in value for key in ("apply", "memory"))


def _tables(key: str, value: Any) -> list[tuple[str, dict[str, Any]]]:
    if isinstance(value, dict):
        inner = [found for name, v in value.items() if _has_heading(v) for found in _tables(f"{key}.{name}", v)]
        return [(f"[{key}]", value), *inner]
    return [(f"[[{key}]]", item) for item in value] if _is_table(value) else []


def toml_value(value: Any) -> str:
    """A string, number, boolean, list or table on one line as TOML."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{toml_value(key)} = {toml_value(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml_value, value)) + "]"
    # JSON's strings, numbers and booleans are TOML's, but for DEL, which TOML wants escaped.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
