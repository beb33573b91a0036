"""One build from start to end: the run's folder, its seed, its lock, its stages, and what is published from it.

Comes in: a recipe. Goes out: `runs/<name>/` with `release/`, `report.html` and `corpus.html`. Must never happen: a seed drawn twice
for one run, or a published file that belongs to another build.
"""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from puna.build.finish import corpus_data
from puna.build.frozen import frozen_body, frozen_recipe, without_folders
from puna.build.graph import Context, run_stages
from puna.build.preflight import check_resources
from puna.build.seed import settle_seed
from puna.build.store import Store, read_manifest
from puna.errors import PunaError
from puna.files import atomic_file, digest_of, file_sha256, read_json
from puna.ledger import Ledger
from puna.ledger.signing import sign_once
from puna.progress import QUIET, Progress
from puna.recipe.load import changes_between
from puna.recipe.schema import Recipe

FROZEN, LEDGER = "recipe.toml", "ledger.jsonl"


@dataclass(frozen=True)
class Made:
    """What a build left: its run folder, a row a stage, and the published parts that exist."""

    run: Path
    stages: list[dict[str, Any]]
    release: Path | None
    report: Path | None
    corpus: Path | None  # the page about the text


def make(recipe: Recipe, runs: Path = Path("runs"), *, until: str | None = None, with_reference: bool = False,
         progress: Progress = QUIET) -> Made:  # fmt: skip
    """Build what `recipe` names under `runs/<name>`; what is complete there is reused.

    Raises `PunaError` for a recipe that cannot be built here, and where another build holds the run.
    """
    check_resources(recipe, runs)
    store = Store(runs / recipe.name)
    with store.lock():
        fresh = not (store.run / LEDGER).exists()
        try:
            return _make(recipe, store, until, with_reference, progress)
        except Exception:
            if fresh and not any(store.run.glob("*/MANIFEST.json")):  # refused before anything was made: leave no trace
                shutil.rmtree(store.run, ignore_errors=True)
            raise


def _make(recipe: Recipe, store: Store, until: str | None, with_reference: bool, progress: Progress) -> Made:
    from puna.build.stages import stages_of  # after the checks: it loads the rooms

    ledger = Ledger(store.run / LEDGER)
    seed = settle_seed(recipe, store.run / FROZEN, ledger)
    context = Context(recipe=recipe, seed=seed, store=store, ledger=ledger, progress=progress)
    _log_recipe(context)
    stages = stages_of(recipe, with_reference=with_reference)
    names = [stage.name for stage in stages]
    if until is None or until in names[names.index("pretrain") :]:
        run_stages(context, stages[: names.index("pretrain")])
        # Every budget is known: a tuning too short is refused, and the frozen recipe is whole before the long part.
        _write_if_changed(store.run / FROZEN, frozen_recipe(context))
        ledger.append_once("frozen", frozen_body(context))
    run_stages(context, stages, until)
    return _publish(context)


def _log_recipe(context: Context) -> None:
    body = without_folders(context.recipe).model_dump(mode="json", exclude={"seed"})  # the ledger is published
    digest = digest_of(body)
    recipes = [entry["body"] for entry in context.ledger.entries() if entry["kind"] == "recipe"]
    if recipes and recipes[-1]["digest"] != digest:
        told = "; ".join(changes_between(recipes[-1]["recipe"], body))
        context.progress.note(f"the recipe is not the one that this run was built from last: {told}")
    if not recipes or recipes[-1]["digest"] != digest:
        context.ledger.append("recipe", {"digest": digest, "recipe": body})


def _write_if_changed(path: Path, text: str) -> None:
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        with atomic_file(path) as stream:
            stream.write(text.encode())


def _publish(context: Context) -> Made:
    """Put the release and the report under their plain names, where they are not already."""
    run = context.store.run
    release = report = None
    if "release" in context.done:
        release = run / "release"
        _publish_folder(context.done["release"], release)
        if context.recipe.release.sign:
            sign_once(release, Path(context.recipe.release.sign))
    if "report" in context.done:
        report = run / "report.html"
        built = context.done["report"] / "report.html"
        if not report.is_file() or file_sha256(report) != file_sha256(built):
            with atomic_file(report) as stream:
                stream.write(built.read_bytes())
    corpus = None
    if "corpus" in context.done:
        from puna.report import render_corpus

        corpus = run / "corpus.html"
        fresh = corpus.with_name(".corpus.html.new")
        render_corpus(corpus_data(context), fresh)
        if corpus.is_file() and file_sha256(corpus) == file_sha256(fresh):
            fresh.unlink()
        else:
            os.replace(fresh, corpus)
    return Made(run, context.log, release, report, corpus)


def _publish_folder(source: Path, target: Path) -> None:
    manifest = target / "puna" / "MANIFEST.json"
    content = read_manifest(source)["content"]
    if manifest.is_file() and read_json(manifest)["content"] == content and _same_sizes(target, read_json(manifest)):
        return
    fresh, old = target.with_name(".release.new"), target.with_name(".release.old")
    for leftover in (fresh, old):
        shutil.rmtree(leftover, ignore_errors=True)
    shutil.copytree(source, fresh)
    os.replace(fresh / "MANIFEST.json", fresh / "puna" / "MANIFEST.json")
    if target.exists():
        os.replace(target, old)
    os.replace(fresh, target)
    shutil.rmtree(old, ignore_errors=True)


def _same_sizes(folder: Path, manifest: dict[str, Any]) -> bool:
    return all((folder / name).is_file() and (folder / name).stat().st_size == entry["bytes"]
               for name, entry in manifest["files"].items())  # fmt: skip


def default_recipe() -> Path:
    """The recipe of a plain `puna make`: `recipes/python.toml` of the checkout, or of the installed package."""
    here = Path(__file__).resolve()
    for path in (here.parents[3] / "recipes" / "python.toml", here.parents[1] / "recipes" / "python.toml"):
        if path.is_file():
            return path
    raise PunaError(
        "the default recipe is missing from this installation", where=str(here.parents[1]), mend="install puna again"
    )
