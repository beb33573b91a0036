"""A release checked against its own record: what can be known from the folder alone, without torch and without the run.

Comes in: a stranger's folder. Goes out: one `Check` a question, each with what it proves and what it leaves open. Must never happen: a
check that passes because the thing it should look at is not there, or an error where a finding is due.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from puna.errors import PunaError
from puna.files import digest_of, file_sha256
from puna.ledger.chain import Entry, Ledger, verify
from puna.ledger.commitment import check_seed
from puna.ledger.release import LEDGER, MANIFEST, RELEASE, SIGNATURE, UNNAMED, roots
from puna.ledger.signing import load_public, signature_problem
from puna.reading import find_inside, read_bytes, read_object
from puna.visible import clean

State = Literal["passed", "failed", "absent"]
MAX_FILES, MAX_LEDGER, MAX_SIGNATURE = 100_000, 256 << 20, 64 << 20
_NAMED = 4  # of many findings, so many are named in one line

# What each check proves, and what it leaves open.
MEANING: dict[str, tuple[str, str]] = {
    "files": ("every file is the one that the manifest names, and there is no other",
              "that the manifest is the maker's: whoever changes both is not seen here"),
    "chain": ("no line of the ledger was changed, removed, added or moved after the last hash that you know",
              "that what was logged is true, that all was logged, or that the clock was right"),
    "root": ("every file but the ledger is the one that the ledger's last entry names, by a Merkle root",
             "who wrote the ledger: one that was rebuilt as a whole has a root of its own"),
    "head": ("the ledger is the one whose last hash was published, and so is every file",
             "that what was logged is true; it is as good as the place where you read the hash"),
    "sequence": ("seed, step 0, checkpoints and stages were logged in the order in which they can have happened",
                 "when they happened"),
    "seed": ("the seed is the one that was committed to before training",
             "that it was the first that was tried, unless somebody saw the commitment then"),
    "weights": ("weights, config and tokenizer are what the logged training stages gave",
                "that the stages ran as logged: step 0 and a replay show that"),
    "results": ("the scores are the logged ones", "that the model has these scores: judge it again"),
    "sources": ("the sources, their digests and licences are the logged ones",
                "that the licences are the true ones, or that nothing else was read"),
    "signature": ("whoever holds the private key signed exactly these files",
                  "when, or that what they say is true; it is as good as the way in which you got the public key"),
}  # fmt: skip


@dataclass(frozen=True)
class Check:
    """One question and its answer. `absent`: there was nothing to look at, or nothing to compare it with."""

    name: str
    state: State
    found: str
    proves: str
    leaves_open: str

    @classmethod
    def of(cls, name: str, state: State, found: str, meaning: tuple[str, str] | None = None) -> "Check":
        """A check whose meaning is known by its name, or given. What strangers wrote is made safe to look at."""
        proves, leaves_open = meaning or MEANING[name]
        return cls(name, state, clean(" ".join(found.split())), proves, leaves_open)


@dataclass
class Record:
    """A release as it lies there: its manifest, its ledger, and the digests of the files that are really there."""

    folder: Path
    problems: list[str] = field(default_factory=list)  # of the folder itself: links, pipes, too many files

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """The manifest's files by name. Raises `PunaError` where there is none."""
        for name in (MANIFEST, "MANIFEST.json"):  # as published, and as the run's own artefact
            if find_inside(self.folder, name) is not None:
                files = read_object(self.folder, name).get("files")
                if not isinstance(files, dict) or not all(isinstance(entry, dict) for entry in files.values()):
                    raise PunaError("names no files", where=str(self.folder / name))
                return files
        raise PunaError("there is no manifest", where=str(self.folder / MANIFEST))

    @cached_property
    def entries(self) -> list[Entry]:
        """The ledger, verified. Raises `PunaError` that names the first bad line."""
        path = find_inside(self.folder, LEDGER)
        if path is None:
            raise PunaError("there is no ledger", where=str(self.folder / LEDGER))
        if path.stat().st_size > MAX_LEDGER:
            raise PunaError(f"larger than {MAX_LEDGER >> 20} MiB", where=str(path))
        return Ledger(path).entries()

    @cached_property
    def release(self) -> dict[str, Any]:
        """The body of the last entry. Raises `PunaError` where that is none of a release."""
        if not self.entries or self.entries[-1]["kind"] != RELEASE:
            raise PunaError("the ledger does not end with the entry of a release", where=LEDGER)
        body: dict[str, Any] = self.entries[-1]["body"]
        return body

    @cached_property
    def there(self) -> dict[str, dict[str, Any]]:
        """{name: {"bytes", "sha256"}} of every ordinary file in the folder; all else is named in `problems`."""
        found: dict[str, dict[str, Any]] = {}
        for place, folders, names in os.walk(self.folder):
            for name in sorted([*names, *(n for n in folders if os.path.islink(os.path.join(place, n)))]):
                shown = Path(place, name).relative_to(self.folder).as_posix()
                if len(found) + len(self.problems) > MAX_FILES:
                    raise PunaError(f"holds more than {MAX_FILES:,} files", where=str(self.folder))
                try:
                    path = find_inside(self.folder, shown)
                except PunaError as problem:
                    self.problems.append(f"{shown} {problem.what}")
                    continue
                if path is not None:
                    found[shown] = {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
        return found

    def stage(self, name: str) -> dict[str, Any]:
        """The logged stage whose artefact went into the release. Raises `PunaError` where it is not logged."""
        content = self.release["inputs"][name]
        return stage_entry(self.entries, name, content)


def stage_entry(entries: list[Entry], name: str, content: str) -> dict[str, Any]:
    """The body of the stage `name` that gave `content`. Raises `PunaError` where none was logged."""
    for entry in entries:
        body = entry["body"]
        if entry["kind"] == "stage" and (body.get("stage"), body.get("content")) == (name, content):
            return dict(body)
    raise PunaError(f"no stage {name} with this content was logged", where=LEDGER)


def artefact_of(stage: dict[str, Any]) -> str:
    """The name of a logged stage's folder in its run."""
    return f"{stage['stage']}-{stage['digest'][:12]}"


def check_release(folder: Path, *, key: Path | None = None, head: str | None = None) -> list[Check]:
    """All checks of the folder alone, in the order in which they build on each other.

    `key`: the maker's public key (PEM). `head`: the hash of the ledger's last entry, as it was published. Raises `PunaError` only for
    what the caller can mend: no such folder, a key that cannot be read, an extra that is not installed.
    """
    if not folder.is_dir():
        raise PunaError("is no folder", where=str(folder), mend="name a release's folder, or a run")
    record = Record(folder)
    found = [
        guarded(name, lambda check=check: check(record))  # type: ignore[misc]
        for name, check in (("files", _files), ("chain", _chain), ("root", _root))
    ]
    found.append(_head(record, head))
    for name, check in (("sequence", _sequence), ("seed", _seed), ("weights", _weights), ("results", _results),
                        ("sources", _sources)):  # fmt: skip
        found.append(guarded(name, lambda check=check: check(record)))  # type: ignore[misc]
    return [*found, _signature(record, key)]


def guarded(name: str, check: Callable[[], str], meaning: tuple[str, str] | None = None) -> Check:
    """`check` returns what it found, or raises: a `PunaError` is a failed check, and so is a record of another form."""
    try:
        return Check.of(name, "passed", check(), meaning)
    except PunaError as problem:
        return Check.of(name, "failed", problem.line(), meaning)
    except OSError as problem:
        return Check.of(name, "failed", f"cannot be read: {problem}", meaning)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RecursionError) as problem:
        return Check.of(
            name, "failed", f"the record has not the form that it should ({type(problem).__name__}: {problem})", meaning
        )


def _files(record: Record) -> str:
    wrong, there = [], record.there
    for name, entry in sorted(record.manifest.items()):
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            wrong.append(f"{name} leads out of the folder")
        elif name not in there:
            wrong.append(f"{name} is missing")
        elif there[name]["bytes"] != entry["bytes"]:
            wrong.append(f"{name} has {there[name]['bytes']:,} bytes and not {entry['bytes']:,}")
        elif there[name]["sha256"] != entry["sha256"]:
            wrong.append(f"{name} was changed")
    wrong += [f"{name} was added" for name in there if name not in record.manifest and name not in UNNAMED - {LEDGER}]
    refuse(wrong + record.problems)
    total = sum(entry["bytes"] for entry in there.values())
    return f"{len(record.manifest)} files, {total / 1e6:,.1f} MB"


def _chain(record: Record) -> str:
    path = record.folder / LEDGER
    entries = record.entries
    if torn := verify(path).torn_bytes:
        raise PunaError(f"the last line was cut off ({torn} bytes)", where=LEDGER)
    return f"{len(entries)} entries, the last {entries[-1]['hash']}" if entries else refuse(["the ledger is empty"])


def _root(record: Record) -> str:
    logged, there = record.release, record.there
    named: dict[str, Any] = logged["files"]
    wrong = [f"{name} is missing" for name in named if name not in there]
    wrong += [f"{name} is not the logged one" for name in named if name in there and there[name] != named[name]]
    wrong += [f"{name} is not logged" for name in there if name not in named and name not in UNNAMED]
    refuse(sorted(wrong))
    found = roots({name: there[name] for name in named}, [entry["hash"] for entry in record.entries[:-1]])
    refuse(
        [
            f"{name} is {logged[name]} in the ledger and {value} here"
            for name, value in found.items()
            if logged[name] != value
        ]
    )
    return f"files {found['files_root']}, {found['entries']} entries {found['entries_root']}"


def _head(record: Record, head: str | None) -> Check:
    if head is None:
        return Check.of("head", "absent", "no published hash was given (--head)")

    def compare() -> str:
        last = record.entries[-1]["hash"]
        return last if last == head.lower() else refuse([f"the ledger ends with {last} and not with {head}"])

    return guarded("head", compare)


def _sequence(record: Record) -> str:
    """One walk over the entries, with what has been seen so far."""
    stages: dict[tuple[str, str], int] = {}
    steps: dict[str, int] = {}  # the last milestone of an artefact
    started: set[str] = set()
    seeds, wrong = 0, []
    for entry in record.entries:
        number, kind, body = entry["n"], entry["kind"], entry["body"]
        if kind == "seed":
            seeds += 1
        elif kind in ("order", "step0", "milestone"):
            artefact = body["artefact"]
            if not seeds:
                wrong.append(f"entry {number}: {kind} of {artefact} before any seed was committed to")
            if kind == "step0":
                started.add(artefact)
            if kind == "milestone":
                if artefact not in started:
                    wrong.append(f"entry {number}: a checkpoint of {artefact} before its step 0")
                if body["step"] <= steps.get(artefact, -1):
                    wrong.append(f"entry {number}: step {body['step']} of {artefact} after step {steps[artefact]}")
                steps[artefact] = body["step"]
        elif kind == "stage":
            wrong += [f"entry {number}: {body['stage']} before its input {name}"
                      for name, content in body["inputs"].items() if (name, content) not in stages]  # fmt: skip
            if body["content"] != digest_of(body["files"]):
                wrong.append(f"entry {number}: {body['stage']}'s content is not that of its files")
            if (
                artefact_of(body) in steps
                and body["stage"] in record.release["models"].values()
                and artefact_of(body) not in started
            ):
                wrong.append(f"entry {number}: {body['stage']} without a step 0")
            stages.setdefault((body["stage"], body["content"]), number)
    for name in record.release["models"].values():
        if artefact_of(record.stage(name)) not in started:
            wrong.append(f"no step 0 of {name} was logged")
    refuse(wrong)
    return f"{len(stages)} stages, each after its inputs; {len(steps)} trainings, each after the seed"


def _seed(record: Record) -> str:
    committed = {
        entry["body"]["commitment"]: entry["n"] for entry in reversed(record.entries) if entry["kind"] == "seed"
    }
    revealed = [entry for entry in record.entries if entry["kind"] == "seed-revealed"]
    if not committed or not revealed:
        return refuse(["no seed was committed to" if not committed else "the seed was not revealed"])
    for entry in revealed:
        opened = [
            number
            for commitment, number in committed.items()
            if number < entry["n"] and _opens(commitment, entry["body"])
        ]
        if not opened:
            refuse(
                [
                    f"entry {entry['n']}: the revealed seed {entry['body']['seed']} opens no commitment that stands before it"
                ]
            )
    return f"{len(revealed)} of {len(committed)} commitments opened, seed {revealed[-1]['body']['seed']}"


def _opens(commitment: str, revealed: dict[str, Any]) -> bool:
    try:
        check_seed(commitment, int(revealed["seed"]), revealed["salt"])
    except PunaError:
        return False
    return True


def _weights(record: Record) -> str:
    wrong, told = [], []
    for place, name in record.release["models"].items():
        stage = record.stage(name)
        for file, digest in sorted(stage["files"].items()):
            held = record.there.get(f"{place}{file}")
            if held is None or held["sha256"] != digest:
                wrong.append(f"{place}{file} is {'missing' if held is None else 'not what ' + name + ' gave'}")
        told.append(f"{place or './'} is {artefact_of(stage)}")
    refuse(wrong)
    return ", ".join(told)


def _results(record: Record) -> str:
    name, sha256 = _carried(record, "judge")
    logged = [
        entry["body"] for entry in record.entries if entry["kind"] == "results" and entry["body"]["sha256"] == sha256
    ]
    scores = read_object(record.folder, name)["scores"]
    if not logged:
        said = [
            e["body"]["scores"]
            for e in record.entries
            if e["kind"] == "results" and e["body"]["artefact"] == artefact_of(record.stage("judge"))
        ]
        changed = [f"{new['task']} {new['metric']} is {new['value']} and was logged as {old['value']}"
                   for old, new in zip(said[0] if said else [], scores, strict=False) if old["value"] != new["value"]]  # fmt: skip
        return refuse(changed or [f"{name} is not the file that was logged"])
    for old, new in zip(logged[0]["scores"], scores, strict=True):
        if any(new.get(key) != value for key, value in old.items()):
            refuse([f"{old['task']} {old['metric']} was logged as {old['value']}"])
    return f"{len(scores)} scores"


def _sources(record: Record) -> str:
    name, _ = _carried(record, "corpus")
    artefact = artefact_of(record.stage("corpus"))
    logged = [
        e["body"]["sources"] for e in record.entries if e["kind"] == "sources" and e["body"]["artefact"] == artefact
    ]
    held = read_object(record.folder, name)["sources"]
    if not logged or logged[0] != held:
        refuse([f"the sources in {name} are not the logged ones"])
    if record.there[name]["sha256"] != record.stage("corpus")["files"]["corpus.json"]:
        refuse([f"{name} is not what the stage corpus gave"])
    return ", ".join(f"{source['name']} ({source['licence']})" for source in held[:_NAMED])


def _carried(record: Record, stage: str) -> tuple[str, str]:
    """(name, SHA-256) of the file of the release that a stage wrote."""
    for name, (maker, _) in record.release["records"].items():
        if maker == stage:
            if name not in record.there:
                refuse([f"{name} is missing"])
            return name, record.there[name]["sha256"]
    raise PunaError(f"the release holds nothing of {stage}", where=LEDGER)


def _signature(record: Record, key: Path | None) -> Check:
    try:
        signed = find_inside(record.folder, SIGNATURE) is not None
    except PunaError as problem:
        return Check.of("signature", "failed", problem.line())
    if key is None:
        what = "signed, and not checked: give the maker's public key (--key)" if signed else "not signed"
        return Check.of("signature", "absent", what)
    load_public(key)  # what cannot be read is the caller's mistake and no finding
    if not signed:
        return Check.of("signature", "failed", f"there is no {SIGNATURE}")

    def hold() -> str:
        read_bytes(record.folder / SIGNATURE, MAX_SIGNATURE)  # of bounded size, before a library reads it
        wrong = signature_problem(record.folder, key)
        return str(refuse([wrong])) if wrong else f"by the holder of {key.name}'s private key"

    return guarded("signature", hold)


def refuse(wrong: list[str]) -> Any:
    """Raise one `PunaError` that names what is wrong, where there is anything."""
    if wrong:
        more = f" and {len(wrong) - _NAMED} more" if len(wrong) > _NAMED else ""
        raise PunaError("; ".join(wrong[:_NAMED]) + more)
    return ""
