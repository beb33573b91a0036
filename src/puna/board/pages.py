"""A whole board: every page, the scripts' data, the items and the downloads, written as one folder.

Comes in: results of the store. Goes out: static pages that work from a disk and from any web server. Must never happen: a page that
loads from elsewhere, a board that is half there, or other bytes for equal results.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment
from markupsafe import Markup

from puna import words
from puna.board import family, plots
from puna.board.choice import ranking
from puna.board.data import Board, Ranking
from puna.board.downloads import write_downloads
from puna.board.filling import SHARE, environment, score
from puna.board.gather import Gathered, gather
from puna.board.items import Items, Kept
from puna.board.scripts import board_script, pairs_script
from puna.board.views import dirt_brief, model_view, task_view
from puna.board.writing import Folder, replace_board
from puna.called import typed
from puna.errors import PunaError
from puna.judge.store.store import StoredResult
from puna.lineage.verdict import Lineage
from puna.progress import QUIET, Progress

_ALWAYS = ("static/board.js",)
_TABLE = ("data/board.js", "static/words.js", "static/rank.js", "static/plots.js", "static/table.js")
_COMPARE = ("data/board.js", "data/pairs.js", "static/words.js", "static/rank.js", "static/compare.js")
SCRIPTS = {
    "index": (*_ALWAYS, *_TABLE), "compare": (*_ALWAYS, *_COMPARE), "model": _ALWAYS, "task": _ALWAYS, "family": _ALWAYS,
    "about": _ALWAYS,
}  # fmt: skip


@dataclass(frozen=True)
class BoardReport:
    """What was written."""

    folder: Path
    models: int
    tasks: int
    results: int
    failed: int  # cells that show a failure
    refused: tuple[tuple[str, str], ...]  # (path, why)
    files: int
    bytes: int

    @property
    def index(self) -> Path:
        """The page to open."""
        return self.folder / "index.html"


def build_board(
    results: Sequence[StoredResult],
    out: Path,
    *,
    title: str = "Leaderboard",
    refused: Sequence[tuple[Path | str, str]] = (),
    comparisons: Sequence[Lineage] = (),
    progress: Progress = QUIET,
) -> BoardReport:
    """Write the board of `results` as the folder `out`, whole or not at all; `refused` are (path, why) of files that were not taken.

    `comparisons`: of weights (`puna lineage`), from which parents and their evidence come.

    Raises `PunaError` where there is no result, or `out` is neither absent, empty, nor a board of ours.
    """
    if not results:
        mend = (
            f"score a model first: {typed()} judge MODEL"
            if not refused
            else f"the first of {len(refused)} refused: {refused[0][0]}: {refused[0][1]}"
        )
        raise PunaError("there is no result to show", mend=mend)
    made: list[Gathered] = []

    def fill(folder: Folder) -> None:
        items = Items(folder)
        told = [(str(path), why) for path, why in refused]
        gathered = gather(
            results, title=title, refused=told, comparisons=comparisons, reader=items.add, progress=progress
        )
        _fill(folder, gathered, items.finish(gathered.board), progress)
        made.append(gathered)

    folder = replace_board(Path(out), fill)
    board = made[0].board
    failed = sum(cell is not None and cell.value is None for row in board.scores for cell in row)
    return BoardReport(
        Path(out), len(board.models), len(board.tasks), len(results), failed, tuple(board.refused), len(folder.names), folder.bytes
    )  # fmt: skip


def _fill(folder: Folder, gathered: Gathered, kept: list[Kept | None], progress: Progress) -> None:
    """Every file of a board but its items."""
    board = gathered.board
    for file in sorted(resources.files("puna.board").joinpath("static").iterdir(), key=lambda file: file.name):
        if file.name.endswith((".css", ".js")):
            folder.data(f"static/{file.name}", file.read_bytes())
    files = write_downloads(folder, gathered)
    folder.text("data/board.js", board_script(board, kept))
    folder.text("data/pairs.js", pairs_script(board))
    write = _writer(folder, gathered)
    parents = family.parents_of(board.models)
    children = family.children_of(parents)
    progress.start("Writing pages", len(board.models) + len(board.tasks), "pages")
    write("index.html", "index", board.title, **_index(board, parents))
    write("compare.html", "compare", "Two models side by side")
    write("about.html", "about", "How the numbers are made")
    write("family.html", "family", "Family", **_family(board, parents))
    for i, row in enumerate(board.models):
        write(f"models/{row.slug}.html", "model", row.facts.name, **model_view(gathered, i, parents, children, files))
        progress.update(i + 1)
    for t, column in enumerate(board.tasks):
        view = task_view(gathered, t, _example(kept[t]))
        write(f"tasks/{column.slug}.html", "task", column.facts.title, **view, plot=_task_plot(board, t, view["order"]))
        progress.update(len(board.models) + t + 1)
    progress.finish()


def _example(kept: Kept | None) -> Any:
    return None if kept is None else kept.example


def _writer(folder: Folder, gathered: Gathered) -> Callable[..., None]:
    """A function that fills a template and writes the page."""
    filler: Environment = environment()

    def write(path: str, page: str, heading: str, **values: Any) -> None:
        root = "../" * path.count("/")
        html = filler.get_template(f"{page}.html.j2").render(
            page=page, root=root, heading=heading, board=gathered.board, scripts=SCRIPTS[page], result_count=len(gathered.results), **values
        )  # fmt: skip
        folder.text(path, html)

    return write


def _index(board: Board, parents: Sequence[Sequence[family.ParentEntry]]) -> dict[str, Any]:
    start = board.presets[board.start].tasks if board.presets else ()
    found = ranking(board, start)
    failures = [
        (i, t, cell.failed or "no score")
        for i, row in enumerate(board.scores)
        for t, cell in enumerate(row)
        if cell is not None and cell.value is None
    ]
    return {
        "ranking": found, "parents": parents, "failures": failures, "summary": _summary(board, found),
        "caption": _caption(board, found), "plots": _plots(board, found),
        "dirt": [dirt_brief(board, i) for i in range(len(board.models))],
    }  # fmt: skip


def _summary(board: Board, found: Ranking) -> str:
    """What the table says, in one or two sentences."""
    if not found.rows:
        return "No model has a score on a task that can be averaged."
    names = [words.brief(board.models[row.model].facts.name, 40) for row in found.rows]
    first = [name for name, row in zip(names, found.rows, strict=True) if row.low == 1]
    over = f"the mean of {words.counted(len(found.tasks), 'task')}"
    if len(found.rows) == 1:
        return f"One model is ranked by {over}: {names[0]}."
    if len(first) == 1:
        ahead = f"{first[0]} leads on {over}, and no other model can have the first rank."
    else:
        shown = words.listed(first) if len(first) <= 4 else f"{', '.join(first[:3])} and {len(first) - 3} more"
        ahead = f"{names[0]} has the highest {over.removeprefix('the ')}, but the data do not tell which of {shown} is first."
    pairs = len(found.rows) * (len(found.rows) - 1) // 2
    return f"{ahead} {words.number(len(found.apart))} of {words.counted(pairs, 'pair')} of models can be told apart."


def _caption(board: Board, found: Ranking) -> str:
    titles = [words.brief(board.tasks[t].facts.title, 40) for t in found.tasks]
    lacking = f"; {words.counted(len(found.lacking), 'model')} without a rank below" if found.lacking else ""
    return (
        f"Scores in per cent with 95 % intervals, ranked by the plain mean of {words.listed(titles)}{lacking}"
        if titles
        else "Scores"
    )


def _plots(board: Board, found: Ranking) -> list[tuple[str, Markup | None, str]]:
    marks = [
        plots.Mark(
            board.models[row.model].facts.name, 100 * row.mean, 100 * row.interval[0] if row.interval else None,
            100 * row.interval[1] if row.interval else None, row.low, row.high, board.models[row.model].facts.parameters,
            score(row.mean, SHARE),
        )
        for row in found.rows
    ]  # fmt: skip
    place = {row.model: k for k, row in enumerate(found.rows)}
    apart = {(place[better], place[worse]) for better, worse in found.apart}
    axis = f"mean of {words.counted(len(found.tasks), 'task')}, per cent"
    return [
        ("intervals-figure", plots.drawn(lambda name, width: plots.interval_plot(marks, name, width, axis), "intervals"), "Mean and 95 % interval of each model, its rank set beside it."),
        ("ties-figure", plots.drawn(lambda name, width: plots.tie_plot(marks, apart, name, width), "ties"), "Models joined by a bow cannot be told apart by these data."),
        ("size-figure", plots.drawn(lambda name, width: plots.size_plot(marks, name, width, axis), "size"), "Mean against the number of parameters."),
    ]  # fmt: skip


def _task_plot(board: Board, task: int, order: Sequence[int]) -> Markup | None:
    facts = board.tasks[task].facts
    scale = 100 if facts.unit == "share" else 1
    marks = []
    for i in order:
        cell = board.at(i, task)
        if cell is not None and cell.value is not None:
            low, high = cell.interval or (None, None)
            marks.append(
                plots.Mark(
                    board.models[i].facts.name, scale * cell.value, None if low is None else scale * low,
                    None if high is None else scale * high, words=score(cell.value, facts),
                )
            )  # fmt: skip
    axis = f"{words.brief(facts.metric, 30)}, per cent" if facts.unit == "share" else facts.unit
    chance = scale * facts.chance if facts.chance else None
    return plots.drawn(
        lambda name, width: plots.task_plot(marks, name, width, axis, chance, facts.higher_is_better), "task"
    )


def _family(board: Board, parents: Sequence[Sequence[family.ParentEntry]]) -> dict[str, Any]:
    tree, alone = family.forest(board.models, parents)
    known = sum(bool(own) for own in parents)
    said = (
        f"{words.counted(known, 'model')} of {len(board.models)} name a parent."
        if known
        else "No model names a parent."
    )
    return {
        "tree": tree, "alone": alone, "drawing": family.drawing(board.models, parents, "family"),
        "summary": f"{said} Beside each descent stands how it is known; a shared architecture is no descent.",
    }  # fmt: skip
