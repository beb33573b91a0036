"""`puna lineage`: what one model inherits from others, layer by layer; `scan`, `claim` and `zoo` beside it.

In: the verb's arguments. Out: six findings a reference, as text, JSON or a page. Must never happen: one score made of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
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
    if find_spec("scipy") is None:
        raise PunaError(
            "the tests need SciPy, which is not installed",
            where="puna lineage",
            mend="pip install 'puna[data]'; ./puna has it",
        )
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


def _speaker(name: str, asked: Asked) -> Any:
    from puna.lineage.behaviour import LocalModel

    return LocalModel(resolve_model(name, asked.runs), name)


def _compare(models: Sequence[str], asked: Asked) -> None:
    from puna.lineage.compare import compare
    from puna.lineage.records import save
    from puna.report.lineage_text import lineage_text

    if len(models) < 2:
        raise PunaError(
            "a comparison needs two models", where="puna lineage", mend="name MODEL and one REFERENCE or more"
        )
    with terminal_progress() as progress:
        for name in [*models, *asked.controls]:
            resolve_model(name, asked.runs)  # a name that means nothing is told before digests are taken
        first = _opened(models[1], asked, progress)
        references = [first, *(_opened(name, asked, progress) for name in models[2:])]
        model = _opened(models[0], asked, progress, like=first.checkpoint)
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
    typer.echo(f"Kept for the board in {kept[0].parent}")
    if asked.html is not None:
        typer.echo(f"As a page: {asked.html}")


def _opened(name: str, asked: Asked, progress: Progress, like: Any = None) -> Any:
    """The model with its digest, the board's key for it."""
    from puna.judge.asking.facts import model_digest, tokenizer_digest
    from puna.lineage.opened import open_for_comparison

    path = resolve_model(name, asked.runs)
    opened = open_for_comparison(path, name, like)
    if opened.checkpoint.missing:
        return opened  # what is not all there has no digest
    progress.note(f"  {name}: digests")
    return replace(opened, digest=model_digest(path, tokenizer_digest(opened.tokenizer) if opened.tokenizer else None))


def _scan(models: Sequence[str], asked: Asked) -> None:
    from puna.lineage.compare import compare
    from puna.lineage.scan import scan
    from puna.report.lineage_text import scan_text

    if len(models) != 1 or asked.against is None:
        raise PunaError(
            "a scan needs one model and a folder of others", where="puna lineage scan", mend="scan MODEL --against DIR"
        )
    with terminal_progress() as progress:
        model = _opened(models[0], asked, progress)
        rows = scan(
            model, asked.against, lambda one, other: compare(one, [other], progress=progress)[0], progress=progress
        )
    if asked.json:
        print_json(
            {"model": model.name, "against": str(asked.against), "rows": [row.model_dump(mode="json") for row in rows]}
        )
    else:
        typer.echo(scan_text(model.name, rows))


def _claim(models: Sequence[str], asked: Asked) -> None:
    from puna.lineage.claim import claim, local_suspect
    from puna.lineage.order import read_order
    from puna.report.lineage_text import claim_text

    if len(models) != 1 or asked.ledger is None:
        raise PunaError(
            "a claim needs a suspect and the maker's own run",
            where="puna lineage claim",
            mend="claim SUSPECT --ledger RUN",
        )
    with terminal_progress() as progress:
        mine = asked.ledger if asked.ledger.exists() else asked.runs / asked.ledger
        order = read_order(mine, progress)
        suspect = local_suspect(resolve_model(models[0], asked.runs), models[0], order)
        controls = [local_suspect(resolve_model(name, asked.runs), name, order) for name in asked.controls]
        found = claim(suspect, order, controls=controls, progress=progress)
    if asked.json:
        print_json(found.model_dump(mode="json"))
    else:
        typer.echo(claim_text(found))


def _zoo(models: Sequence[str], asked: Asked) -> None:
    import secrets
    import tempfile

    from puna.lineage.zoo.family import SIZES, build_family
    from puna.lineage.zoo.trial import judge_family, zoo_text

    if models:
        raise PunaError(f"the zoo takes no model ({models[0]})", where="puna lineage zoo")
    if asked.size not in SIZES:
        raise PunaError(f"there is no size {asked.size!r}", where="--size", mend=f"sizes: {', '.join(SIZES)}")
    if asked.out is not None and asked.out.exists() and any(asked.out.iterdir()):
        raise PunaError("is not empty", where=str(asked.out), mend="name a new folder")
    seed = secrets.randbits(48) if asked.seed is None else asked.seed
    with terminal_progress() as progress, tempfile.TemporaryDirectory() as scratch:
        zoo = build_family(SIZES[asked.size], asked.out or Path(scratch), seed, progress)
        result = judge_family(zoo, seed, progress)
    if asked.json:
        print_json(result.model_dump(mode="json"))
    else:
        typer.echo(zoo_text(result))
        if asked.out is not None:
            typer.echo(f"The models are in {asked.out}")
