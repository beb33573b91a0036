"""`puna new`: write a commented recipe."""

from pathlib import Path

import typer

from puna.called import typed
from puna.cli.verbs import print_json
from puna.errors import PunaError


def run_new(name: str, *, text: list[Path], base: str | None, size: str, minutes: float, json: bool) -> None:
    """Write NAME.toml in this folder. Raises `PunaError` where it exists or a value is wrong."""
    from puna.files import atomic_file
    from puna.recipe.load import parse_recipe
    from puna.recipe.schema import PYTHON_SOURCE
    from puna.recipe.template import commented_recipe

    for path in text:
        if not path.exists():
            raise PunaError("does not exist", where=f"--text {path}", mend="name a file or folder of your text")
    parse_recipe({"name": name, "model": {"size": size}, "train": {"minutes": minutes}}, where="")
    if base is not None:
        from puna.engine import resolve_model

        resolve_model(base)
    target = Path(f"{name}.toml")
    sources = [f"./{path.as_posix()}" if path.as_posix() == PYTHON_SOURCE else path.as_posix() for path in text]
    content = commented_recipe(name, text=sources, size=size, minutes=minutes, tune=not text, base=base)
    if target.exists():
        raise PunaError("exists already", where=str(target), mend="choose another name, or remove it")
    with atomic_file(target) as stream:
        stream.write(content.encode())
    if json:
        print_json({"recipe": str(target)})
    else:
        typer.echo(f"Wrote {target}. Next: {typed()} plan {target}, then {typed()} make {target}")
