"""`puna board`: the leaderboard's pages, written or shown.

In: the verb's arguments. Out: where the pages are. Must never happen: a server that others than this machine can reach.
"""

import functools
import http.server
from pathlib import Path

import typer

from puna.board import build_board
from puna.cli.terminal import terminal_progress
from puna.cli.verbs import print_json
from puna.errors import PunaError
from puna.judge.columns import wrap
from puna.judge.store.store import Store
from puna.lineage import records
from puna.words import counted

HOST = "127.0.0.1"


def run_board(store: Path, out: Path, *, title: str, serve: bool, port: int, json: bool) -> None:
    """Write the pages. Raises `PunaError` where there is no result, or where the folder is not a board's."""
    kept = Store(store)
    if not store.is_dir():
        raise PunaError("there are no results here", where=str(store), mend="judge a model first, or give --store")
    problems: list[PunaError] = []
    with terminal_progress() as progress:
        results = kept.results(problems, progress=progress)
        comparisons = records.load(store, problems)
        refused = [(Path(problem.where or store), problem.what) for problem in problems]
        report = build_board(results, out, title=title, refused=refused, comparisons=comparisons, progress=progress)
    if json:
        print_json({"out": str(out), "models": report.models, "tasks": report.tasks, "results": report.results,
                    "refused": [{"path": str(path), "reason": reason} for path, reason in refused]})  # fmt: skip
    else:
        for path, reason in refused:
            typer.echo("\n".join(wrap(f"Refused: {path}: {reason}")))
        typer.echo(f"{counted(report.models, 'model')}, {counted(report.tasks, 'task')}: {out / 'index.html'}")
    if serve:
        show(out, port)


def show(folder: Path, port: int) -> None:
    """Serve the pages on loopback until Ctrl-C."""
    handler = functools.partial(_Quiet, directory=str(folder))
    try:
        server = http.server.ThreadingHTTPServer((HOST, port), handler)
    except OSError as error:
        raise PunaError(
            f"cannot listen on port {port} ({error.strerror})", where=HOST, mend="give another --port"
        ) from None
    with server:
        typer.echo(f"http://{HOST}:{server.server_address[1]}/ (Ctrl-C ends it)")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            typer.echo("ended")


class _Quiet(http.server.SimpleHTTPRequestHandler):
    """Files of one folder, without a line for every request."""

    def log_message(self, format: str, *args: object) -> None: ...
