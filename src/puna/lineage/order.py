"""The order of training that a maker is bound to, read back from the ledger and the run's artefacts.

Comes in: a run's folder, its release or its ledger. Goes out: `CommittedOrder`: the packed rows, and how much of a trace each may have
left. Must never happen: an order that the ledger does not bind, or rows whose bytes are not those that it names.

What binds the order: the commitments to the seed and to the first epoch's order stand in the chain before the training; opened, they
give seed and order; the training's entry names a digest of (plan, seed, inputs) and the content of the packed rows; each epoch is the
permutation that (seed, epoch) draws (`puna.tokens.loader`). A chain proves its own order, not its date: publish its head, or the
release, before a suspect appears.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int64
from numpy import ndarray
from pydantic import ValidationError

from puna.errors import PunaError
from puna.files import digest_of, file_sha256
from puna.ledger import Entry, Ledger, check_seed, order_commitment
from puna.progress import QUIET, Progress
from puna.reading import find_inside, read_object
from puna.recipe.scaling import Plan
from puna.tokens.loader import Batches
from puna.tokens.pack import PADDING
from puna.train.schedule import rate_share

LEDGER, MANIFEST, TRAINING = "ledger.jsonl", "MANIFEST.json", "pretrain"
FADING = 6.0  # e-folds over all the learning of a run: see `traces`
_PACK_FILES = ("pack.json", "tokens.bin", "starts.bin", "loss.bin")
_MOST_FOLDERS = 10_000


@dataclass(frozen=True)
class CommittedOrder:
    """`trace[row]`: how much may be left of a row, 0 where it was never trained on; `place[row]`: where it stands in the last epoch."""

    name: str  # the run's
    ledger: Path
    head: str  # hash of the ledger's last entry
    committed: str  # when the seed's commitment was written, by the maker's own clock
    order_committed: bool  # whether the first epoch's order itself stands in the chain before the training (older ledgers: only the seed)
    batches: Batches
    trace: Float64[ndarray, " rows"]
    place: Int64[ndarray, " rows"]
    epochs: float
    tokenizer: Path | None  # the folder of the rows' tokenizer; None where the run has it no more

    @property
    def rows(self) -> int:
        """How many there are in all."""
        return len(self.trace)

    def tokens_of(self, numbers: Int64[ndarray, " n"]) -> Int64[ndarray, "n t"]:
        """The token ids of some rows, context + 1 of each. Raises `PunaError` for an id outside the vocabulary."""
        path = self.batches.folder / "tokens.bin"
        width = path.stat().st_size // (self.rows * (self.batches.context + 1))  # `Batches` has checked the size
        shape = (self.rows, self.batches.context + 1)
        tokens = np.memmap(path, dtype=f"<u{width}", mode="r", shape=shape)[numbers].astype(np.int64)
        if int(tokens.max()) >= self.batches.vocab_size:
            raise PunaError("holds ids outside the vocabulary", where=str(path))
        return tokens

    def padded(self) -> Bool[ndarray, " rows"]:
        """Which rows end in padding."""
        starts = np.memmap(
            self.batches.folder / "starts.bin", dtype=np.uint8, mode="r", shape=(self.rows, self.batches.context + 1)
        )
        return np.asarray(starts[:, -1] == PADDING)


def read_order(mine: Path, progress: Progress = QUIET) -> CommittedOrder:
    """The committed order of the pretraining of the run at `mine` (runs/NAME, its release folder, or a ledger.jsonl inside either).

    Raises `PunaError` where there is no ledger, its chain is broken, the commitment does not open, nothing was trained, or the rows
    or the training's manifest are not there or not those that the ledger names.
    """
    ledger = _ledger_of(Path(mine))
    entries = Ledger(ledger).entries()
    training = _last_training(entries, ledger)
    run = _run_of(ledger, str(training["body"]["stage"]))
    manifest = _manifest_of(run, training)
    settings = manifest["settings"]
    committed, salt = _check_commitment(entries, training, settings["seed"], run, ledger)
    folder = _artefact(run, "pack", _input(training, "pack", ledger))
    progress.start("checking the rows of the training", unit="files")
    _check_files(folder)
    progress.finish()
    try:
        plan = Plan.model_validate({**settings["plan"], "checkpoint_seconds": 1.0})
    except (ValidationError, KeyError, TypeError) as error:
        raise PunaError("the plan of its training cannot be read", where=str(run)) from error
    batches = Batches(folder, plan.rows, int(settings["seed"]))
    ordered = _check_order(entries, training, salt, plan, batches, ledger)
    trace, place = traces(plan, batches)
    content = training["body"]["inputs"].get("tokenizer")
    tokenizer = _find_artefact(run, "tokenizer", content) if content else None
    return CommittedOrder(
        name=run.name, ledger=ledger, head=str(entries[-1]["hash"]), committed=str(committed["time"]),
        order_committed=ordered, batches=batches, trace=trace, place=place, epochs=plan.steps * plan.rows / batches.total_rows, tokenizer=tokenizer,
    )  # fmt: skip


def traces(plan: Plan, batches: Batches) -> tuple[Float64[ndarray, " rows"], Int64[ndarray, " rows"]]:
    """What training may have left of each row, and each row's place in the last epoch that was begun.

    A visit at step t leaves rate(t) · exp(-FADING · L(t)), where L is the share of all learning (the sum of the rates) that comes after
    it: late steps overwrite early ones, and steps at a rate near nought leave little, however late they are. Visits add up. Any function
    of the places, fixed in advance, keeps the test exact; this one had the most power on small models (docs/lineage.md).
    """
    rows, total = batches.total_rows, plan.steps * plan.rows
    rates = np.array([rate_share(plan, step) for step in range(plan.steps)])
    later = 1.0 - np.cumsum(rates) / rates.sum()
    left = rates * np.exp(-FADING * later)
    trace, place = np.zeros(rows), np.zeros(rows, dtype=np.int64)
    for first in range(0, total, rows):
        numbers = batches.row_numbers(first, rows)  # each row once
        seen = min(rows, total - first)
        trace[numbers[:seen]] += left[np.arange(first, first + seen) // plan.rows]
        place[numbers] = np.arange(rows)
    return trace, place


def _ledger_of(mine: Path) -> Path:
    """The ledger that is meant, the run's own before the copy in a release."""
    for path in (mine, mine / LEDGER, mine / "puna" / LEDGER, mine / "release" / "puna" / LEDGER):
        if path.is_file() and path.suffix == ".jsonl":
            return path
    raise PunaError("there is no ledger", where=str(mine), mend="name the folder of a run: runs/NAME")


def _run_of(ledger: Path, stage: str) -> Path:
    """The folder with the artefacts: beside the ledger, or around the release that holds it."""
    for folder in list(ledger.resolve().parents)[:3]:
        if next(folder.glob(f"{stage}-*/{MANIFEST}"), None) is not None:
            return folder
    raise PunaError("the rows and the plan of the training are not beside the ledger", where=str(ledger),
                    mend="name the run's own folder: runs/NAME, where the training was done")  # fmt: skip


def _last_training(entries: list[Entry], ledger: Path) -> Entry:
    found = [
        e
        for e in entries
        if e["kind"] == "stage" and isinstance(e["body"], dict) and e["body"].get("stage") == TRAINING
    ]
    if not found:
        raise PunaError(
            "records no finished pretraining", where=str(ledger), mend="let the build come to its end: puna make"
        )
    body = found[-1]["body"]
    if not isinstance(body.get("inputs"), dict) or not all(
        isinstance(body.get(key), str) for key in ("digest", "content", "code")
    ):
        raise PunaError("the entry of its training lacks its digests", where=str(ledger))
    return found[-1]


def _manifest_of(run: Path, training: Entry) -> dict[str, Any]:
    """The training's manifest, its settings bound by the digest in the ledger."""
    body = training["body"]
    folder = _artefact(run, TRAINING, body["content"])
    manifest = read_object(folder, MANIFEST)
    settings, inputs = manifest.get("settings"), manifest.get("inputs")
    if (
        digest_of({"stage": TRAINING, "settings": settings, "inputs": inputs, "code": manifest.get("code")})
        != body["digest"]
    ):
        raise PunaError("its settings are not those that the ledger is bound to", where=str(folder / MANIFEST))
    if not isinstance(settings, dict) or inputs != body["inputs"] or type(settings.get("seed")) is not int:
        raise PunaError(
            "its settings hold no seed, or its inputs are others than the ledger's", where=str(folder / MANIFEST)
        )
    return manifest


def _check_commitment(entries: list[Entry], training: Entry, seed: int, run: Path, ledger: Path) -> tuple[Entry, str]:
    """(the entry that commits to `seed`, written before the training; its salt). Raises `PunaError` where none opens."""
    revealed = [e["body"] for e in entries if e["kind"] == "seed-revealed"]
    if not revealed:  # before the release the maker alone can open it
        revealed = [read_object(run, "seed.json")]
    salts = [body["salt"] for body in revealed if body.get("seed") == seed and isinstance(body.get("salt"), str)]
    if not salts:
        raise PunaError(
            "the seed of its training was not revealed", where=str(ledger), mend="finish the build: puna make"
        )
    problem: PunaError | None = None
    for entry in entries[: training["n"]]:
        if entry["kind"] == "seed":
            for salt in salts:
                try:
                    check_seed(str(entry["body"].get("commitment")), seed, salt)
                except PunaError as error:
                    problem = error
                else:
                    return entry, salt
    raise problem or PunaError("no commitment to a seed stands before the training", where=str(ledger))


def _check_order(entries: list[Entry], training: Entry, salt: str, plan: Plan, batches: Batches, ledger: Path) -> bool:
    """Hold the order that was committed to before the training against the one that seed and plan give; False where there is none."""
    artefact = f"{TRAINING}-{training['body']['digest'][:12]}"
    found = [
        e["body"] for e in entries[: training["n"]] if e["kind"] == "order" and e["body"].get("artefact") == artefact
    ]
    for body in found:
        numbers = batches.row_numbers(0, batches.total_rows).astype("<i8").tobytes()
        facts = {"rows": batches.total_rows, "batch_rows": plan.rows, "steps": plan.steps, "pack": training["body"]["inputs"]["pack"],
                 "first_epoch": order_commitment(salt, numbers)}  # fmt: skip
        wrong = [key for key, value in facts.items() if body.get(key) != value]
        if wrong:
            raise PunaError(
                f"the order committed to before the training is another one ({', '.join(wrong)})", where=str(ledger)
            )
    return bool(found)


def _input(training: Entry, name: str, ledger: Path) -> str:
    content = training["body"]["inputs"].get(name)
    if not isinstance(content, str):
        raise PunaError(f"the entry of its training names no {name}", where=str(ledger))
    return content


def _artefact(run: Path, stage: str, content: str) -> Path:
    folder = _find_artefact(run, stage, content)
    if folder is None:
        raise PunaError(f"no {stage}-* folder holds what the ledger names ({content[:12]})", where=str(run),
                        mend="was it made again with another recipe? Name the run as it was released")  # fmt: skip
    return folder


def _find_artefact(run: Path, stage: str, content: str) -> Path | None:
    """The stage's folder whose listed files have this content digest (`build.store.content_digest`)."""
    for number, folder in enumerate(sorted(run.glob(f"{stage}-*"))):
        if number >= _MOST_FOLDERS:
            break
        if folder.is_dir() and content_of(read_object(folder, MANIFEST)) == content:
            return folder
    return None


def content_of(manifest: Mapping[str, Any]) -> str | None:
    """The digest of an artefact's files as its manifest lists them, its log left out; None where it lists none."""
    files = manifest.get("files")
    if not isinstance(files, dict) or not all(
        isinstance(f, dict) and isinstance(f.get("sha256"), str) for f in files.values()
    ):
        return None
    return digest_of({name: file["sha256"] for name, file in files.items() if not name.startswith("log/")})


def _check_files(folder: Path) -> None:
    """Each file of the packed rows against its SHA-256 in the manifest, which the ledger binds. Raises `PunaError`."""
    listed = read_object(folder, MANIFEST)["files"]
    for name in _PACK_FILES:
        path = find_inside(folder, name)
        if (path is None) != (name not in listed):
            raise PunaError("is missing" if path is None else "does not belong to these rows", where=str(folder / name))
        if path is not None and file_sha256(path) != listed[name]["sha256"]:
            raise PunaError("was changed since the training: its digest is not the one in the ledger", where=str(path))
