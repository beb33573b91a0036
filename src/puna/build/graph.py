"""The stage graph: what a build does, in which order, and what it can leave undone.

Comes in: a recipe and its run folder. Goes out: one artefact a stage. Must never happen: a stage run twice for the
same recipe, inputs and code, or left out where one of them changed.
"""

import os
import platform
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

import puna
from puna.build.store import Store, identity_of_files, read_manifest, verify
from puna.errors import PunaError
from puna.files import digest_of, file_sha256
from puna.ledger import Ledger
from puna.progress import QUIET, Progress
from puna.recipe.schema import Recipe

_RECORDED = ("torch", "numpy", "tokenizers", "safetensors", "daft", "pyarrow", "pydantic", "transformers")


@dataclass
class Context:
    """What a stage may use: the recipe, the finished artefacts by stage name, and where to tell of its progress."""

    recipe: Recipe
    seed: int
    store: Store
    ledger: Ledger
    progress: Progress = QUIET
    done: dict[str, Path] = field(default_factory=dict)
    log: list[dict[str, Any]] = field(default_factory=list)  # a row a stage: name, seconds, reused, bytes

    def facts(self, stage: str) -> dict[str, Any]:
        """What a finished stage reported of itself."""
        facts: dict[str, Any] = read_manifest(self.done[stage])["facts"]
        return facts


LEDGER = "ledger"  # of a stage's facts: [kind, body] of what the ledger must hold beside the stage itself


@dataclass(frozen=True)
class Stage:
    """A pure function of its settings, its inputs' contents and its rooms' code.

    `run(context, folder, work)` fills `folder`; `work` outlives a kill and is for checkpoints. What it returns, the facts, may hold
    entries for the ledger under `LEDGER`: kept with the artefact, they can be told again where a kill came before they were.
    """

    name: str
    title: str
    rooms: tuple[str, ...]
    inputs: tuple[str, ...]
    settings: Callable[[Context], Any]
    run: Callable[[Context, Path, Path], dict[str, Any]]


def run_stages(context: Context, stages: list[Stage], until: str | None = None) -> None:
    """Bring every stage's artefact about, in order, up to and with `until`; what is complete is reused.

    What this context has brought about before is left as it is.
    """
    names = [stage.name for stage in stages]
    if until is not None and until not in names:
        raise PunaError(f"there is no stage {until!r}", where="--until", mend=f"stages: {', '.join(names)}")
    for stage in stages:
        if stage.name not in context.done:
            _bring_about(context, stage)
        if stage.name == until:
            return


def _bring_about(context: Context, stage: Stage) -> None:
    contents = contents_of(context, stage.inputs)
    about = {"settings": stage.settings(context), "inputs": contents, "code": code_digest(stage.rooms)}
    digest = digest_of({"stage": stage.name, **about})
    found = context.store.find(stage.name, digest)
    if found is None:
        for name in stage.inputs:
            verify(context.done[name])
        context.progress.note(f"[{stage.name}] {stage.title}")
        context.ledger.append_once("environment", machine_record())
        started = time.monotonic()

        def fill(folder: Path) -> dict[str, Any]:
            work = context.store.work(stage.name, digest)
            facts = stage.run(context, folder, work)
            return {**facts, "seconds": round(time.monotonic() - started, 2), "peak_rss_bytes": peak_memory()}

        found = context.store.build(stage.name, digest, fill, {**about, "environment": environment()})
        reused = False
    else:
        reused = True
    context.done[stage.name] = found
    manifest = read_manifest(found)
    # Also where it is reused: a kill may have come between the artefact and its entries.
    for kind, body in manifest["facts"].get(LEDGER, []):
        context.ledger.append_once(kind, body)
    if not any(entry["kind"] == "stage" and entry["body"]["digest"] == digest for entry in context.ledger.entries()):
        context.ledger.append("stage", {
            "stage": stage.name, "digest": digest, "content": manifest["content"], "inputs": contents, "code": about["code"],
            "files": identity_of_files(manifest["files"]), "environment": digest_of(manifest["environment"]),
        })  # fmt: skip
    context.log.append({
        "name": stage.name, "seconds": manifest["facts"]["seconds"], "reused": reused, "folder": found.name,
        "bytes": sum(entry["bytes"] for entry in manifest["files"].values()),
        "peak_rss_bytes": manifest["facts"]["peak_rss_bytes"],
    })  # fmt: skip


def contents_of(context: Context, stages: Iterable[str]) -> dict[str, str]:
    """{stage: digest of its artefact's content} of finished stages."""
    return {name: read_manifest(context.done[name])["content"] for name in stages}


def code_digest(rooms: tuple[str, ...]) -> str:
    """The version of the code of `rooms`: a digest over their source files and the ground floor's."""
    root = Path(puna.__file__).parent
    files = [p for room in rooms for p in (root / room).rglob("*") if p.suffix in (".py", ".j2", ".css")]
    files = sorted([*files, root / "files.py"])
    return digest_of([[p.relative_to(root).as_posix(), file_sha256(p)] for p in files])


def environment() -> dict[str, str]:
    """What else the bytes of an artefact may depend on: machine, Python, libraries."""
    versions = {}
    for name in _RECORDED:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "absent"
    return {"python": platform.python_version(), "system": platform.system(), "machine": platform.machine(), **versions}


@lru_cache(maxsize=1)
def machine_record() -> dict[str, Any]:
    """What the ledger holds of the place where a stage runs: its digest is what the stages' entries name."""
    here = environment()
    return {"digest": digest_of(here), "environment": here, "puna": puna.__version__, "code": code_digest(("",)),
            "commit": commit()}  # fmt: skip


def commit() -> dict[str, Any] | None:
    """The checkout's git commit and whether its code differs from it; None where this is no checkout or git does not answer."""
    root = Path(puna.__file__).resolve().parents[2]
    git = shutil.which("git")
    if git is None or not (root / ".git").exists():
        return None
    # What a caller's environment says of another repository must not reach this one.
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        said = [
            subprocess.run([git, "-C", str(root), *command], capture_output=True, text=True, env=clean, timeout=60)
            for command in (("rev-parse", "HEAD"), ("status", "--porcelain", "--untracked-files=no", "--", "src"))
        ]
    except (subprocess.TimeoutExpired, OSError):
        return None
    if any(done.returncode for done in said):
        return None
    return {"id": said[0].stdout.strip(), "changed": bool(said[1].stdout.strip())}


def peak_memory() -> int:
    """The most memory that this process has held so far, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
