"""`puna judge`: models asked, scores stored and shown.

In: the verb's arguments. Out: tables on stdout (or one JSON object), progress on stderr. Must never happen: a failed task, a cut prompt or a
result that cannot be made again that ends with 0 and no word.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from puna.called import typed
from puna.cli.terminal import terminal_progress
from puna.cli.verbs import print_json
from puna.errors import EXIT_INTERNAL, PunaError
from puna.judge.columns import fit, wrap

if TYPE_CHECKING:
    from puna.judge.asking.reproduce import Reproduced
    from puna.judge.store.store import Store, StoredResult


def run_judge(
    models: list[str], tasks: list[str], *, data: Path | None, limit: int | None, seed: int, chat: bool, store: Path,
    reproduce: str | None, imports: list[Path], of: str | None, unit: str | None, export: Path | None, control: list[str], twin: str | None, ask: str | None,
    context: int | None, bos: str | None, keep_answers: bool, batch_tokens: int, device: str | None, fresh: bool, runs: Path, json: bool,
) -> None:  # fmt: skip
    """Do one thing: judge, run a result again, import, export, or ask. Raises `PunaError` for a mistake of the user's."""
    from puna.judge.store.store import Store

    wanted = [name for name, given in (("MODEL", models), ("--reproduce", reproduce), ("--import", imports),
                                       ("--export", export), ("--twin", twin), ("--ask", ask)) if given]  # fmt: skip
    if len(wanted) != 1:
        raise PunaError(
            "there is nothing to do" if not wanted else f"{' and '.join(wanted)} are different things to do",
            where="puna judge", mend=f"name a model and a task, or see {typed()} judge --help",
        )  # fmt: skip
    kept = Store(store)
    if reproduce is not None:
        _reproduce(kept, reproduce, data, device, json)
    elif imports:
        _import(kept, imports, of, unit, json)
    elif export is not None:
        _export(kept, export, json)
    elif twin is not None:
        _twin(kept, twin, json)
    elif ask is not None:
        _ask(kept, ask, json)
    else:
        from puna.judge.asking.run import Request, judge_models

        request = Request(
            tuple(tasks),
            data,
            limit,
            seed,
            chat,
            batch_tokens,
            device,
            runs,
            fresh,
            tuple(control),
            context,
            bos,
            keep_answers,
        )
        results: list[StoredResult] = []
        with terminal_progress() as progress:
            for result in judge_models(models, request, kept, progress):
                results.append(result)
                progress.note(f"{result.model.name}, {result.task.title}: {_said(result)}")
        _show(results, store, json)
        if any(result.failed for result in results):
            raise typer.Exit(EXIT_INTERNAL)


def _said(result: "StoredResult") -> str:
    summary = result.summary
    return f"failed: {result.failed}" if summary.score is None else f"{summary.score:.4f}"


def _show(results: "list[StoredResult]", store: Path, json: bool) -> None:
    if json:
        print_json({"store": str(store), "results": [_object(result) for result in results]})
        return
    from puna.visible import clean

    lines = [f"{'model':<18} {'task':<18}{'score':>8}{'95 % interval':>20}{'n':>7}{'chance':>8}", "-" * 80]
    notes = list[str]()
    for result in results:
        summary, name = result.summary, f"{fit(clean(result.model.name), 18)} {fit(clean(result.task.title), 18)}"
        if summary.score is None:
            lines.append(f"{name}  failed")
            notes.append(f"{result.model.name} on {result.task.title}: {result.failed}.")
            continue
        chance = "-" if result.task.chance is None else f"{result.task.chance:.3f}"
        within = "-" if summary.interval is None else f"{summary.interval[0]:.3f} to {summary.interval[1]:.3f}"
        lines.append(f"{name}{summary.score:>8.3f}{within:>20}{summary.n:>7}{chance:>8}")
        if summary.truncated_items:
            notes.append(f"{result.model.name} on {result.task.title}: {summary.truncated_items:,} of {summary.n:,} items did not fit "
                         f"the context; {summary.truncated_tokens:,} tokens at their beginning were not read.")  # fmt: skip
    for note in dict.fromkeys([*notes, *_said_of(results)]):
        lines += ["", *wrap(clean(note))]
    typer.echo(
        "\n".join(
            [
                *lines,
                "",
                f"Stored in {store}. The pages: {typed()} board"
                + ("" if str(store) == "results" else f" --store {store}"),
            ]
        )
    )


def _said_of(results: "list[StoredResult]") -> list[str]:
    """What must be known of the runs, the models and the tasks; each once."""
    said = []
    for result in results:
        more = result.settings.extra.get("notes")
        said += [
            f"{result.model.name} on {result.task.title}: {note}" for note in (more if isinstance(more, list) else [])
        ]
    said += [f"{result.model.name}: {note}" for result in results for note in result.model.notes]
    return [*said, *(f"{result.task.title}: {note}" for result in results for note in result.task.notes)]


def _object(result: "StoredResult") -> dict[str, Any]:
    return {
        "id": result.id, "path": str(result.path), "model": result.model.model_dump(), "task": result.task.model_dump(),
        "summary": result.summary.model_dump(), "failed": result.failed, "command": result.command,
        "notes": result.settings.extra.get("notes", []),
    }  # fmt: skip


def _reproduce(store: "Store", name: str, data: Path | None, device: str | None, json: bool) -> None:
    from puna.judge.asking.reproduce import compare_runs
    from puna.judge.asking.run import measure_again

    stored = store.get(name)
    with terminal_progress() as progress:
        now = measure_again(stored, store, progress, data=data, device=device)
    found = compare_runs(stored, now)
    if json:
        print_json(found.model_dump() | {"holds": found.holds})
    else:
        typer.echo("\n".join(_compared(stored, found)))
    if not found.holds:
        sys.stderr.write("puna: the second run gave another result\n")
        raise typer.Exit(EXIT_INTERNAL)


def _compared(stored: "StoredResult", found: "Reproduced") -> list[str]:
    rows: list[tuple[str, str]] = [
        ("model", stored.model.name), ("task", stored.task.title), ("verdict", found.verdict),
        ("score then, now", f"{_number(found.score_then)}, {_number(found.score_now)}"),
        ("items", f"{found.items:,}" + (f" ({found.missing:,} in one run only)" if found.missing else "")),
        ("other answers", f"{found.other_answers:,}" + (f", and {found.near_ties:,} near ties" if found.near_ties else "")),
        ("largest difference", f"{found.largest:.2g} nats (allowed: {found.tolerance:g})"),
        *([("contamination", f"{found.marks:,} items are marked otherwise than then")] if found.marks else []),
        *(("not made again", said) for said in found.not_again),
        *((f"{name} then, now", f"{then}, {now}") for name, (then, now) in found.harness.items()),
    ]  # fmt: skip
    return [f"{name:<20} {value}" for name, value in rows]


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.6f}"


def _import(store: "Store", paths: list[Path], of: str | None, unit: str | None, json: bool) -> None:
    from puna.judge.store.importing import import_results

    results = [result for path in paths for result in import_results(path, store, model=of, unit=unit)]
    if json:
        print_json({"store": str(store.folder), "results": [_object(result) for result in results]})
        return
    models = {result.model.name for result in results}
    typer.echo(f"{len(results):,} results of {len(models):,} models are in {store.folder}.")


def _export(store: "Store", folder: Path, json: bool) -> None:
    from puna.judge.store.exporting import export_eee, export_hf

    results = store.results()
    left_out: list[str] = []
    written = [*export_eee(results, folder / "every_eval_ever"), *export_hf(results, folder / "eval_results", left_out)]
    if json:
        print_json({"folder": str(folder), "files": [str(path) for path in written], "left_out": left_out})
        return
    for line in left_out:
        typer.echo("\n".join(wrap(f"Not in .eval_results: {line}.")))
    typer.echo(f"{len(results):,} results, {len(written):,} files in {folder}.")


def _twin(store: "Store", names: str, json: bool) -> None:
    from dataclasses import asdict

    from puna.judge.contamination.twins import twin_gaps
    from puna.visible import clean

    gaps = twin_gaps(store.results(), names)
    if json:
        print_json({"gaps": [asdict(gap) for gap in gaps]})
        return
    lines = [f"{'model':<20}{'score':>7}{'twin':>7}{'above it':>10}{'95 % interval':>21}{'p':>7}", "-" * 80]
    for gap in gaps:
        above = "-".rjust(10) if gap.delta is None else f"{gap.delta:+.3f}".rjust(10)
        within = "-" if gap.interval is None else f"{gap.interval[0]:+.3f} to {gap.interval[1]:+.3f}"
        p = "-" if gap.p is None else f"{gap.p:.3f}"
        lines.append(
            f"{fit(clean(gap.model), 20)}{gap.score:>7.3f}{gap.twin_score:>7.3f}{above}{within:>21}{p:>7}  {gap.verdict}"
        )
    typer.echo(
        "\n".join([*lines, *(line for says in dict.fromkeys(gap.says for gap in gaps) for line in ["", *wrap(says)])])
    )


def _ask(store: "Store", sql: str, json: bool) -> None:
    from puna.judge.store.query import as_table, ask

    problems: list[PunaError] = []
    columns, rows = ask(store, sql, problems=problems)
    for problem in problems:
        sys.stderr.write("\n".join(wrap(f"Refused, and not asked: {problem.line()}")) + "\n")
    if json:
        print_json({"columns": columns, "rows": [list(row) for row in rows]})
        return
    typer.echo(as_table(columns, rows))
