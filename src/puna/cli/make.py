"""`puna make`: build what a recipe names, with something to watch."""

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from puna.called import typed
from puna.cli.terminal import terminal_progress
from puna.cli.verbs import print_json

if TYPE_CHECKING:
    from puna.build.make import Made


def run_make(
    recipe: Path | None, changes: list[str], *, until: str | None, with_reference: bool, runs: Path, json: bool
) -> None:
    """Build, then say what was made and how to go on. Raises `PunaError`."""
    from puna.build.make import default_recipe, make
    from puna.recipe.load import load_recipe

    loaded = load_recipe(recipe or default_recipe(), changes)
    with terminal_progress() as progress:
        made = make(loaded, runs, until=until, with_reference=with_reference, progress=progress)
    if json:
        print_json({
            "run": str(made.run), "stages": made.stages, "release": str(made.release) if made.release else None,
            "report": str(made.report) if made.report else None, "corpus": str(made.corpus) if made.corpus else None,
        })  # fmt: skip
        return
    fresh = [row for row in made.stages if not row["reused"]]
    if not fresh:
        typer.echo(f"Nothing to do: all {len(made.stages)} stages of {made.run} are complete.")
    else:
        total = sum(row["seconds"] for row in fresh)
        typer.echo(f"\n{len(fresh)} of {len(made.stages)} stages built in {total / 60:.1f} minutes:")
        for row in made.stages:
            told = "reused" if row["reused"] else f"{row['seconds']:8.1f} s"
            typer.echo(f"  {row['name']:<20} {told:>10}   {row['bytes'] / 1e6:8.1f} MB")
    if fresh and made.stages[-1]["name"] == "corpus":
        _print_corpus(made)
    if "judge" in {row["name"] for row in fresh} and (made.run / "release").is_dir():
        _print_scores(made.run / "release" / "puna" / "results.json")
    if made.report:
        typer.echo(
            f"\nReport   {made.report}\nCorpus   {made.corpus}\nRelease  {made.release}\nTalk     {typed()} chat {_called(made.run, runs)}"
        )


def _print_corpus(made: "Made") -> None:
    from puna.files import read_json
    from puna.report import corpus_summary

    report = read_json(made.run / made.stages[-1]["folder"] / "corpus.json")
    told = {key: report[key] for key in ("documents", "bytes", "steps", "accounts")}
    typer.echo(f"\n{corpus_summary({'run': made.run.name, **told})}\n\nCorpus   {made.corpus}")


def _print_scores(path: Path) -> None:
    from puna.files import read_json
    from puna.judge.table import format_scores

    typer.echo("\n" + format_scores(read_json(path)))


def _called(run: Path, runs: Path) -> str:
    from puna.cli.verbs import RUNS

    return run.name if runs == RUNS else str(run)
