"""`puna lineage`: what one model inherits from others, layer by layer; `scan`, `claim` and `zoo` beside it.

In: the verb's arguments. Out: six findings a reference, as text, JSON or a page. Must never happen: one score made of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from puna.cli.terminal import terminal_progress
from puna.cli.verbs import print_json
from puna.engine.resolve import resolve_model
from puna.errors import PunaError
from puna.progress import Progress

SCAN, CLAIM, ZOO = "scan", "claim", "zoo"


@dataclass(frozen=True)
class Asked:
    """The options as they were typed."""

    against: Path | None
    ledger: Path | None
    controls: list[str]
    text: Path | None
    html: Path | None
    store: Path
    size: str
    out: Path | None
    seed: int | None
    sampled: bool
    runs: Path
    json: bool


def run_lineage(models: list[str], asked: Asked) -> None:
    """Dispatch on the first word. Raises `PunaError` where words or options do not fit together."""
    first = models[0] if models else ""
    _refuse_misplaced(first, asked)
    if first == ZOO:
        _zoo(models[1:], asked)
    elif first == SCAN:
        _scan(models[1:], asked)
    elif first == CLAIM:
        _claim(models[1:], asked)
    else:
        _compare(models, asked)


def _refuse_misplaced(first: str, asked: Asked) -> None:
    belongs: list[tuple[str, bool, tuple[str, ...]]] = [
        ("--against", asked.against is not None, (SCAN,)),
        ("--ledger", asked.ledger is not None, (CLAIM,)),
        ("--out", asked.out is not None, (ZOO,)),
        ("--control", bool(asked.controls), ("", CLAIM)),
        ("--html", asked.html is not None, ("",)),
    ]
    here = first if first in (SCAN, CLAIM, ZOO) else ""
    for option, given, words in belongs:
        if given and here not in words:
            what = " or ".join(f"lineage {word} ..." if word else "lineage MODEL REFERENCE" for word in words)
            raise PunaError("does not belong here", where=option, mend=f"it is of: {what}")


def _compare(models: Sequence[str], asked: Asked) -> None:
    from puna.lineage.compare import compare
    from puna.lineage.records import save
    from puna.report.lineage_text import lineage_text

    if len(models) < 2:
        raise PunaError("a comparison needs two models", where="puna lineage", mend="name MODEL and one REFERENCE or more")
    with terminal_progress() as progress:
        model, *references = [_opened(name, asked, progress) for name in models]
        controls = [_speaker(name, asked) for name in asked.controls]
        found = compare(model, references, controls=controls, text=asked.text, sampled=asked.sampled, progress=progress)
    kept = [save(one, asked.store) for one in found]
    if asked.html is not None:
        from puna.report.lineage_page import write_lineage_page

        write_lineage_page(found, asked.html)
    if asked.json:
        values = [one.as_json() for one in found]
        print_json(values[0] if len(values) == 1 else values)  # type: ignore[arg-type]
        return
    typer.echo(f"\n{'=' * 80}\n".join(lineage_text(one) for one in found))
    typer.echo(f"Kept for the board: {', '.join(str(path) for path in kept)}")
    if asked.html is not None:
        typer.echo(f"As a page: {asked.html}")


def _opened(name: str, asked: Asked, progress: Progress) -> Any:
    from puna.lineage.opened import open_for_comparison

    path = resolve_model(name, asked.runs)
    return open_for_comparison(path, name)


def _speaker(name: str, asked: Asked) -> Any:
    from puna.lineage.behaviour import LocalModel

    return LocalModel(resolve_model(name, asked.runs), name)


def _scan(models: Sequence[str], asked: Asked) -> None: ...


def _claim(models: Sequence[str], asked: Asked) -> None: ...


def _zoo(models: Sequence[str], asked: Asked) -> None: ...
