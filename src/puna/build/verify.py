"""A release checked against its record, and against the run that made it where that is at hand.

Comes in: a release's folder, or a run's name. Goes out: checks, each with what it proves and what it leaves open. Must never happen: a
check that was asked for and could not be done, told as passed.
"""

import secrets
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from puna.build.frozen import without_folders
from puna.build.store import LOG, read_manifest
from puna.called import typed
from puna.errors import PunaError
from puna.files import file_sha256
from puna.ledger import Ledger, order_commitment
from puna.ledger.check import Check, Record, artefact_of, check_release, guarded, refuse, stage_entry
from puna.memory import free_memory
from puna.progress import QUIET, Progress
from puna.reading import read_text
from puna.recipe.load import changes_between, parse_recipe

RUN_LEDGER, RECIPE = "ledger.jsonl", "puna/recipe.toml"
MILESTONES = f"{LOG}/milestones"
MOST_ROWS = 1 << 27  # a stranger's ledger may name any number, and their order is put together in memory: 2 GiB
MEANING = {
    "recipe": ("the recipe is the one that was logged before the long part, with the revealed seed",
               "that the stages did what it says"),
    "order": ("the order in which the text was read follows from the seed, and was committed to before training",
              "that training kept to it: a replay shows that"),
    "run": ("the run's ledger begins with the released one", "that the run's folder is the maker's"),
    "artefacts": ("documents, tokenizer, rows and models in the run are those that the ledger names",
                  "that they were made as the recipe says: make them again"),
    "milestones": ("every checkpoint that stayed is the logged one, optimiser and all",
                   "that one leads to the next: a replay shows that"),
    "step0": ("the first weights follow from the revealed seed, or are those of the model that the ledger names; not from anything else",
              "that training started from them: a replay of the first segment shows that"),
}  # fmt: skip


@dataclass(frozen=True)
class Verdict:
    """What was found. `fingerprint`: the hash of the ledger's last entry, which stands for the whole release."""

    folder: Path
    run: Path | None
    checks: list[Check]
    fingerprint: str | None
    seed: int | None  # which segments were replayed follows from it

    @property
    def passed(self) -> bool:
        """No check failed."""
        return all(check.state != "failed" for check in self.checks)


def verify_release(
    name: str, runs: Path = Path("runs"), *, run: Path | None = None, key: Path | None = None, head: str | None = None,
    step0: bool = False, replay: int = 0, seed: int | None = None, progress: Progress = QUIET,
) -> Verdict:  # fmt: skip
    """Check the release `name`: a folder, or the name of a run under `runs`.

    `run`: the folder of its run, where it does not lie around the release. `step0`: make the first weights again. `replay`: train
    this many segments again, drawn by `seed` (unset: fresh). Raises `PunaError` where there is no release, or what is asked for
    cannot be had.
    """
    folder = release_folder(name, runs)
    if run is not None and not (run / RUN_LEDGER).is_file():
        raise PunaError("is no run (it holds no ledger.jsonl)", where=f"--run {run}")
    run = run or next(
        (place for place in (folder.parent, folder.resolve().parent) if (place / RUN_LEDGER).is_file()), None
    )
    checks, record = check_release(folder, key=key, head=head), Record(folder)
    checks += [
        guarded("recipe", lambda: _recipe(record), MEANING["recipe"]),
        guarded("order", lambda: _order(record), MEANING["order"]),
    ]
    whole = next(check.state for check in checks if check.name == "chain") == "passed"
    if run is not None and whole:
        there = run
        checks.append(guarded("run", lambda: _continues(record, there), MEANING["run"]))
        checks.append(guarded("artefacts", lambda: _artefacts(record, there, progress), MEANING["artefacts"]))
        checks.append(guarded("milestones", lambda: _milestones(record, there, progress), MEANING["milestones"]))
    drawn = None
    if step0:
        checks.append(guarded("step0", lambda: _step0(record, run), MEANING["step0"]))
    if replay:
        from puna.build.replay import replay_segments

        drawn = secrets.randbits(32) if seed is None else seed
        checks += replay_segments(record, run, replay, drawn, progress)
    return Verdict(folder, run, checks, record.entries[-1]["hash"] if whole else None, drawn)


def release_folder(name: str, runs: Path) -> Path:
    """The release that `name` means: its folder, the one inside a run's folder, or runs/<name>/release. Raises `PunaError`."""
    given = Path(name).expanduser()
    named = [runs / name / "release"] if name == Path(name).name and name not in ("", ".", "..") else []
    for folder in ([given, given / "release"] if name else []) + named:
        if (folder / "puna").is_dir():
            return folder
    if given.is_dir():
        raise PunaError("holds no record (no folder puna/): it was not made here, or is no release", where=name)
    raise PunaError("no such release and no such run", where=name or "the release's name is empty",
                    mend=f"{typed()} make builds one")  # fmt: skip


def lineage_of(record: Record) -> dict[str, dict[str, Any]]:
    """{artefact: its logged stage} of all that went into the release, inputs of inputs included; what came first stands first."""
    found: dict[str, dict[str, Any]] = {}
    left = list(record.release["inputs"].items())
    while left:
        stage = stage_entry(record.entries, *left.pop())
        if artefact_of(stage) not in found:
            found[artefact_of(stage)] = stage
            left += stage["inputs"].items()
    order = [artefact_of(entry["body"]) for entry in record.entries if entry["kind"] == "stage"]
    return dict(sorted(found.items(), key=lambda item: order.index(item[0])))


def trainings(record: Record) -> Iterator[tuple[dict[str, Any], dict[str, Any], list[dict[str, Any]]]]:
    """(stage, step 0, milestones) of every training that went into the release, as logged, in order."""
    for artefact, stage in lineage_of(record).items():
        bodies = [
            (e["kind"], e["body"])
            for e in record.entries
            if isinstance(e["body"], dict) and e["body"].get("artefact") == artefact
        ]
        for first in (body for kind, body in bodies if kind == "step0"):
            yield stage, first, [body for kind, body in bodies if kind == "milestone"]


def revealed(record: Record) -> dict[str, Any]:
    """{"seed", "salt"} that the release reveals. Raises `PunaError` where it reveals none."""
    found = [entry["body"] for entry in record.entries if entry["kind"] == "seed-revealed"]
    recipe = _read_recipe(record)
    for body in reversed(found):
        if body["seed"] == recipe.seed:
            return dict(body)
    return dict(refuse([f"the recipe's seed {recipe.seed} is not a revealed one"]))


def _read_recipe(record: Record) -> Any:
    try:
        values = tomllib.loads(read_text(record.folder / RECIPE, 1 << 20))
    except tomllib.TOMLDecodeError as error:
        raise PunaError(f"is not TOML: {error}", where=RECIPE) from None
    return parse_recipe(values, where=RECIPE)


def _recipe(record: Record) -> str:
    recipe = _read_recipe(record)
    held = without_folders(recipe).model_dump(mode="json", exclude={"seed"})
    logged = [entry["body"]["recipe"] for entry in record.entries if entry["kind"] == "frozen"]
    if not logged:
        refuse(["no frozen recipe was logged"])
    if held not in logged:
        refuse(changes_between(logged[-1], held) or [f"{RECIPE} is not the logged one"])
    return f"as logged, seed {revealed(record)['seed']}"


def _order(record: Record) -> str:
    from puna.tokens.order import ORDER, order_of_epoch

    opened = revealed(record)
    names = lineage_of(record)
    told = []
    for body in (
        entry["body"] for entry in record.entries if entry["kind"] == "order" and entry["body"]["artefact"] in names
    ):
        if body["algorithm"] != ORDER or not 0 < body["rows"] <= MOST_ROWS:
            refuse(
                [
                    f"{body['artefact']}: an order of another kind, or of too many rows: {body['algorithm']}, {body['rows']}"
                ]
            )
        first = order_of_epoch(opened["seed"], 0, body["rows"]).astype("<i8").tobytes()
        if order_commitment(opened["salt"], first) != body["first_epoch"]:
            refuse([f"{body['artefact']}: the first epoch's order does not follow from the seed"])
        packs = {content for name, content in names[body["artefact"]]["inputs"].items() if "pack" in name}
        if body["pack"] not in packs:
            refuse([f"{body['artefact']} was logged with the order of other rows than it read"])
        told.append(f"{body['artefact']} {body['rows']:,} rows")
    return ", ".join(told) or str(refuse(["no order was logged"]))


def _continues(record: Record, run: Path) -> str:
    entries = Ledger(run / RUN_LEDGER).entries()
    for mine, theirs in zip(record.entries, entries, strict=False):
        if mine["hash"] != theirs["hash"]:
            refuse([f"{run / RUN_LEDGER}: entry {mine['n']} is another one than the release's"])
    if len(entries) < len(record.entries):
        refuse([f"{run / RUN_LEDGER} has {len(entries)} entries, the released ledger {len(record.entries)}"])
    return f"{run}, {len(entries) - len(record.entries)} entries more"


def _artefacts(record: Record, run: Path, progress: Progress) -> str:
    wrong, count, names = [], 0, lineage_of(record)
    progress.start("checking the run's artefacts", len(names), "artefacts")
    for number, (artefact, stage) in enumerate(names.items()):
        for name, digest in stage["files"].items():
            path = run / artefact / name
            count += 1
            if not path.is_file() or file_sha256(path) != digest:
                wrong.append(f"{artefact}/{name} {'was changed' if path.is_file() else 'is missing'}")
        if (run / artefact).is_dir():
            listed = read_manifest(run / artefact)["files"]
            wrong += [f"{artefact}/{name} was changed" for name, entry in listed.items() if name not in stage["files"]
                      and (not (run / artefact / name).is_file() or file_sha256(run / artefact / name) != entry["sha256"])]  # fmt: skip
        progress.update(number + 1)
    progress.finish()
    refuse(wrong)
    return f"{len(names)} artefacts, {count} files"


def _milestones(record: Record, run: Path, progress: Progress) -> str:
    from puna.train.checkpoint import digest_of_tensors, load
    from puna.train.milestones import comparable, told

    wrong, count = [], 0
    for stage, _, logged in trainings(record):
        artefact = artefact_of(stage)
        progress.start(f"checking the checkpoints of {artefact}", len(logged), "checkpoints")
        for number, body in enumerate(logged):
            try:
                found, tensors = load(run / artefact / MILESTONES / f"step_{body['step']:08d}")
            except PunaError as problem:
                wrong.append(f"{artefact} step {body['step']}: {problem.what}")
                continue
            held = {**told(found.state), "tensors": digest_of_tensors(comparable(tensors).items())}
            wrong += [
                f"{artefact} step {body['step']}: {key} is not the logged one"
                for key, value in held.items()
                if body[key] != value
            ]
            progress.update(number + 1)
            count += 1
        progress.finish()
    refuse(wrong)
    return f"{count} checkpoints"


def _step0(record: Record, run: Path | None) -> str:
    from puna.model.formats import load_config
    from puna.train.loop import step0_digests

    said, seed = [], int(revealed(record)["seed"])
    places = {name: record.folder / place for place, name in record.release["models"].items()}
    for stage, logged, _ in trainings(record):
        artefact, name = artefact_of(stage), stage["stage"]
        own = places.get(name) or (run / artefact if run else None)
        start, there = _start(record, stage, logged, places, run)
        if own is None or not there:
            raise PunaError(f"{artefact} starts from {logged['from']}, which is in the run's folder (--run)")
        adapter = None
        if "base" in logged:
            if run is None:
                raise PunaError(f"{artefact} was trained through an adapter, which the run's folder describes (--run)")
            adapter = adapter_of_run(run / artefact)
        config = load_config(own)
        if 8 * config.parameters > free_memory():  # a stranger's config may name any size
            raise PunaError(f"its {config.parameters / 1e6:,.0f} M parameters do not fit into this machine's memory")
        found = step0_digests(config, seed, start, adapter)
        refuse(
            [
                f"{artefact}: {key} is {value} and was logged as {logged.get(key)}"
                for key, value in found.items()
                if logged.get(key) != value
            ]
        )
        said.append(f"{artefact} from {'seed ' + str(seed) if start is None else logged['from']}: {found['weights']}")
    return "; ".join(said) or str(refuse(["no step 0 was logged"]))


def _start(
    record: Record, stage: dict[str, Any], logged: dict[str, Any], places: dict[str, Path], run: Path | None
) -> tuple[Path | None, bool]:
    """(the model that a training starts from, or None for the seed; whether that is at hand)."""
    if logged["from"] == "seed":
        return None, True
    for name, content in stage["inputs"].items():
        if artefact_of(stage_entry(record.entries, name, content)) == logged["from"]:
            place = places.get(name) or (run / logged["from"] if run else None)
            return place, place is not None and place.is_dir()
    raise PunaError(f"{stage['stage']} starts from {logged['from']}, which is none of its inputs")


def adapter_of_run(artefact: Path) -> Any:
    """The adapter through which an artefact's weights were trained, or None. Raises `PunaError` where its record is not whole."""
    from puna.files import read_json
    from puna.model.adapters import Adapter

    values = read_json(artefact / LOG / "run.json")["adapter"]
    return Adapter.model_validate(values) if values else None
