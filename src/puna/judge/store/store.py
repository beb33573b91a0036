"""The store: a folder of results that are whole, verified on reading, and never changed afterwards.

Comes in: a `Measurement`. Goes out: one JSON file a result (one model on one task) with its items beside it, and `StoredResult`s
read back from such files. Must never happen: a result that was changed by hand taken for one that was measured, a half-written
one, or a path outside the store.

    FOLDER/data/TASK/DEVELOPER/MODEL/ID.json            the record (Every Eval Ever 0.3.0)
    FOLDER/data/TASK/DEVELOPER/MODEL/ID_samples.jsonl   its items

The digests show a change by accident or by an editor. Somebody who means to deceive can make new digests: only a signature (a
release's ledger) or running the command again shows that.
"""

import hashlib
import os
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from puna.errors import PunaError
from puna.files import digest_of, write_json
from puna.judge.measured import Item, Measurement, ModelFacts, Settings, TaskFacts
from puna.judge.store.form import (
    ELSEWHERE,
    RECORD,
    Facts,
    details_of,
    facts_of,
    folder_of,
    identity,
    model_id,
    record_of,
)
from puna.judge.store.names import ID, safe_name
from puna.judge.store.record import DetailedResults, Record, as_json
from puna.judge.store.samples import (
    MAX_BYTES,
    MAX_LINE,
    MAX_ROWS,
    item_of,
    items_digest,
    mistakes,
    read_samples,
    row_of,
    strict_json,
    write_samples,
)
from puna.judge.store.scores import main_result_id
from puna.judge.summary import Summary, summarise
from puna.progress import QUIET, Progress
from puna.reading import read_text

MAX_RECORD = 32 << 20  # bytes; MMLU's 57 subtasks make about 0.1 MB
MAX_FILES = 200_000  # in the whole store
_CHANGED = "was changed after it was written"
_AGAIN = "make it again by its command, or remove it"
_DEVICE_ONLY = {"batch_tokens", "device", "threads", "data"}  # settings that do not change what is measured
_WORDS_ONLY = {"model", "runs", "task", "notes"}  # in `extra`: how things were typed, and what is said of the run


@dataclass(frozen=True)
class StoredResult:
    """One verified result. The items are read from disk when they are asked for."""

    id: str
    path: Path  # of the record
    samples: Path | None  # of the items; None where there are none
    retrieved: float  # Unix time at which it was stored
    record: Record
    _facts: Facts

    @property
    def model(self) -> ModelFacts:
        """Which model it was."""
        return self._facts.measurement.model

    @property
    def task(self) -> TaskFacts:
        """Which task it was."""
        return self._facts.measurement.task

    @property
    def settings(self) -> Settings:
        """How it was run."""
        return self._facts.measurement.settings

    @property
    def summary(self) -> Summary:
        """The score with its interval, as it was computed when the result was stored."""
        return self._facts.summary

    @property
    def failed(self) -> str | None:
        """Why there is no score; None where there is one."""
        return self._facts.measurement.failed or self._facts.summary.failed

    @property
    def command(self) -> str:
        """What makes it again."""
        return self._facts.measurement.command

    @property
    def harness(self) -> dict[str, str]:
        """Versions of what measured."""
        return self._facts.measurement.harness

    @property
    def contamination(self) -> dict[str, Any]:
        """What the methods for models without a corpus found; empty where they were not run."""
        return self._facts.measurement.contamination

    @property
    def imported(self) -> str | None:
        """Who published it; None where it was measured here."""
        origin = self._facts.measurement.origin
        return None if origin is None else origin.name

    def facts(self) -> Measurement:
        """The measurement without its items."""
        return self._facts.measurement

    def measurement(self) -> Measurement:
        """The whole measurement, items included, equal to what was stored. Raises `PunaError`."""
        return self._facts.measurement.model_copy(update={"items": self.items()})

    def items(self) -> tuple[Item, ...]:
        """The items, read and verified anew. Raises `PunaError`."""
        if self.samples is None:
            return ()
        _check_samples(self.samples, self.record.detailed_evaluation_results)
        items = []
        for number, row in enumerate(read_samples(self.samples), 1):
            where = f"{self.samples} line {number}"
            if row.evaluation_id != self.record.evaluation_id:
                raise PunaError("belongs to another result", where=where, mend=_AGAIN)
            try:
                items.append(item_of(row))
            except ValidationError as error:
                raise PunaError(mistakes(error), where=where) from None
            except (ValueError, TypeError, RecursionError) as error:
                raise PunaError(f"not an item of Puna's ({str(error)[:80]})", where=where) from None
        if items_digest(items) != self._facts.items:
            raise PunaError(_CHANGED, where=str(self.samples), mend=_AGAIN)
        return tuple(items)

    def age(self) -> tuple[str, float, str]:
        """What orders results of one key: the date that a source gives, then when it was stored, then the id."""
        origin = self._facts.measurement.origin
        return (origin.date if origin else "", self.retrieved, self.id)

    def key(self) -> str:
        """Equal for results of which only the newest counts: the same model, task and settings.

        A model is its digests (weights; tokenizer with its settings), else its developer and name; of the settings, those that
        change what is measured count (not device, threads, size of a batch, or how a name was typed).
        """
        model, origin = self.model, self._facts.measurement.origin
        who: Any = [model.digest, model.tokenizer_digest] if model.digest else [model.developer, model.name, model.kind]
        how = {name: value for name, value in self.settings.model_dump(mode="json").items() if name not in _DEVICE_ONLY}
        how["extra"] = {name: value for name, value in how["extra"].items() if name not in _WORDS_ONLY and value is not None}  # fmt: skip
        what = [self.task.name, self.task.digest, self.task.metric, self.task.shots]
        return digest_of([who, what, how, None if origin is None else [origin.form, origin.name]])


class Store:
    """A folder of results."""

    def __init__(self, folder: Path) -> None:
        """Raises `PunaError` where there is a file in the store's place."""
        self.folder = Path(folder)
        if self.folder.exists() and not self.folder.is_dir():
            raise PunaError("is a file, and a store is a folder", where=str(folder), mend="give --store FOLDER")

    def add(self, measurement: Measurement, *, now: float | None = None) -> StoredResult:
        """Store a measurement and return it as stored. The same content twice is one file, and a record of Puna's that comes back
        from elsewhere is the one that was measured here, where that is still there.

        `now`: Unix time, the clock's where it is None. Raises `PunaError` where the store's folder cannot take it or a
        number is none.
        """
        try:
            items, summary = items_digest(measurement.items), summarise(measurement)
            details = details_of(measurement, items, summary)
            record = record_of(measurement, details, summary, time.time() if now is None else now)
        except (ValueError, TypeError) as error:  # NaN, half a letter or no JSON in what has no type of its own
            raise PunaError(f"cannot be stored ({str(error)[:120]})", where=f"{measurement.model.name} on {measurement.task.name}") from None  # fmt: skip
        place = folder_of(measurement.model, measurement.task)
        if measurement.origin is not None and measurement.origin.name == ELSEWHERE:
            rest = {key: value for key, value in details.items() if key != "puna.origin"}
            own = identity(record.model_info.additional_details["puna.model"], rest)
            if (here := self.folder / place / f"{own}.json").is_file():
                return self.load(here)
        name = identity(record.model_info.additional_details["puna.model"], details)
        path = self.make_folder(place) / f"{name}.json"
        try:
            if measurement.items:
                record = record.model_copy(
                    update={"detailed_evaluation_results": _write_items(path, place, measurement, record)}
                )
            value = as_json(record)
            value["eval_library"]["additional_details"][RECORD] = digest_of(value)
            write_json(path, value)
        except OSError as error:
            raise PunaError(f"cannot be written ({error.strerror})", where=str(path)) from None
        return self.load(path)

    def results(
        self, problems: list[PunaError] | None = None, *, older: bool = False, progress: Progress = QUIET
    ) -> list[StoredResult]:
        """All results, verified; of those with the same key only the newest, unless `older`. In the order of their paths.

        Raises `PunaError` for a file that was changed, torn, or is no result; where `problems` is a list, such files are
        added to it and left out instead.
        """
        found: list[StoredResult] = []
        every = list(self._records())
        refused = [one for one in every if isinstance(one, PunaError)]
        paths = [one for one in every if isinstance(one, Path)]
        progress.start("Reading results", len(paths), "results")
        for number, path in enumerate(paths, 1):
            try:
                found.append(self.load(path))
            except PunaError as error:
                refused.append(error)
            progress.update(number)
        progress.finish()
        if problems is not None:
            problems.extend(refused)
        elif refused:
            rest = f" ({len(refused) - 1} more files are refused)" if len(refused) > 1 else ""
            raise PunaError(refused[0].what + rest, where=refused[0].where, mend=refused[0].mend)
        return found if older else newest(found)

    def of_task(self, name: str) -> list[StoredResult]:
        """The verified results of one task, older ones too; what is refused is left out: `results` tells of it."""
        found = []
        for path in _walk(self.folder / "data" / safe_name(name), 2, [0]):
            with suppress(PunaError):
                found += [self.load(path)] if isinstance(path, Path) else []
        return found

    def get(self, name: str) -> StoredResult:
        """The result whose id begins with `name`. Raises `PunaError` where there is none or more than one."""
        paths = [path for path in self._records() if isinstance(path, Path) and path.stem.startswith(name.lower())]
        if not name or len(paths) != 1:
            what = "no such result" if not paths else f"{len(paths)} results begin so"
            raise PunaError(f"{what}: {name[:80]}", where=str(self.folder))
        return self.load(paths[0])

    def load(self, path: Path) -> StoredResult:
        """One result, verified: its own digest, its id, its place, its samples' checksum. Raises `PunaError`."""
        value = _read_record(path)
        details = value.get("eval_library", {})
        details = details.get("additional_details", {}) if isinstance(details, dict) else {}
        stated = details.pop(RECORD, None) if isinstance(details, dict) else None
        if not isinstance(stated, str):
            raise PunaError(
                "has no digest of its own: it is no result of Puna's", where=str(path), mend="import it instead"
            )
        if digest_of(value) != stated:
            raise PunaError(_CHANGED, where=str(path), mend=_AGAIN)
        try:
            record = Record.model_validate(value)
        except ValidationError as error:
            raise PunaError(mistakes(error), where=str(path)) from None
        facts = facts_of(record, str(path))
        name = identity(
            record.model_info.additional_details["puna.model"], record.eval_library.additional_details or {}
        )
        place = f"{folder_of(facts.measurement.model, facts.measurement.task)}/{name}.json"
        if os.path.abspath(path) != os.path.abspath(self.folder / place):
            raise PunaError(
                "stands in another place than its content says", where=str(path), mend=f"move it to {place}"
            )
        samples, stated_samples = None, record.detailed_evaluation_results
        if stated_samples is not None:
            if stated_samples.file_path != f"{place.removesuffix('.json')}_samples.jsonl":
                raise PunaError("names samples that are not its own", where=str(path), mend=_AGAIN)
            samples = path.with_name(f"{path.stem}_samples.jsonl")
            _check_samples(samples, stated_samples)
        elif facts.items != items_digest(()):
            raise PunaError("lost its samples", where=str(path), mend=_AGAIN)
        try:
            retrieved = float(record.retrieved_timestamp)
        except ValueError:
            raise PunaError("has no time", where=str(path), mend=_AGAIN) from None
        return StoredResult(name, path, samples, retrieved, record, facts)

    def make_folder(self, place: str) -> Path:
        """The folder of a result, made where it is absent. Raises `PunaError` where a link leads out of the store."""
        folder = self.folder / place
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not folder.resolve().is_relative_to(self.folder.resolve() / "data"):
                raise PunaError("is a link that leaves the store", where=str(folder), mend="remove the link")
        except OSError as error:
            raise PunaError(f"cannot be made ({error.strerror})", where=str(folder)) from None
        return folder

    def _records(self) -> Iterator[Path | PunaError]:
        """Every file that should be a record, and a refusal for whatever should not be there. In the order of paths."""
        data = self.folder / "data"
        if data.is_symlink():
            yield PunaError("is a link: the store has none", where=str(data), mend="put the folder itself there")
        else:
            yield from _walk(data, 3, [0])


def newest(results: Iterable[StoredResult]) -> list[StoredResult]:
    """Of results with the same key the newest, in the given order."""
    winners: dict[str, StoredResult] = {}
    every = list(results)
    for result in every:
        key = result.key()
        other = winners.get(key)
        if other is None or result.age() > other.age():
            winners[key] = result
    kept = {id(result) for result in winners.values()}
    return [result for result in every if id(result) in kept]


def _write_items(path: Path, place: str, measurement: Measurement, record: Record) -> DetailedResults:
    samples = path.with_name(f"{path.stem}_samples.jsonl")
    who, which = model_id(measurement.model), main_result_id(measurement.task)
    rows = (row_of(item, measurement.task, record.evaluation_id, who, which) for item in measurement.items)
    checksum, count = write_samples(samples, rows)
    return DetailedResults(
        format="jsonl",
        file_path=f"{place}/{samples.name}",
        hash_algorithm="sha256",
        checksum=checksum,
        total_rows=count,
    )


def _walk(folder: Path, depth: int, seen: list[int]) -> Iterator[Path | PunaError]:
    """Files `*.json` exactly `depth` folders below. Links are refused, other files and what lies elsewhere passed over."""
    try:
        with os.scandir(folder) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
    except FileNotFoundError:
        return
    except OSError as error:
        yield PunaError(f"cannot be read ({error.strerror})", where=str(folder))
        return
    seen[0] += len(found)
    if seen[0] > MAX_FILES:
        raise PunaError(f"more than {MAX_FILES:,} files", where=str(folder))
    for entry in found:
        path = Path(entry.path)
        if entry.is_symlink():
            yield PunaError("is a link: the store has none", where=str(path), mend="put the file itself there")
        elif depth and entry.is_dir(follow_symlinks=False):
            yield from _walk(path, depth - 1, seen)
        elif not depth and path.suffix == ".json" and not entry.name.startswith("."):
            yield path if ID.fullmatch(path.stem) else PunaError("is not named like a result", where=str(path))


def _read_record(path: Path) -> dict[str, Any]:
    if path.is_symlink():
        raise PunaError("is a link: the store has none", where=str(path))
    text = read_text(path, MAX_RECORD)
    try:
        value = strict_json(text)
        digest_of(value)  # half a letter (a lone surrogate) is refused here
    except (ValueError, RecursionError) as error:
        raise PunaError(f"torn, or not JSON ({str(error)[:80]})", where=str(path), mend=_AGAIN) from None
    if not isinstance(value, dict):
        raise PunaError("not a JSON object", where=str(path))
    return value


def _check_samples(path: Path, stated: DetailedResults | None) -> None:
    """Raise `PunaError` unless the file is an ordinary one with the checksum and the number of rows that are stated."""
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        raise PunaError("the samples are missing", where=str(path), mend=_AGAIN) from None
    except OSError as error:
        raise PunaError(f"cannot be read ({error.strerror})", where=str(path)) from None
    if not stat.S_ISREG(status.st_mode):
        raise PunaError("is not an ordinary file", where=str(path))
    rows = stated.total_rows if stated else None
    counted = rows is not None and 0 < rows <= MAX_ROWS
    if rows is None or not counted or status.st_size > min(MAX_BYTES, rows * MAX_LINE):
        raise PunaError("the samples are absurdly large or their number is not stated", where=str(path))
    state, lines = hashlib.sha256(), 0
    with open(path, "rb") as stream:
        while block := stream.read(1 << 20):
            state.update(block)
            lines += block.count(b"\n")
    if stated is None or stated.hash_algorithm != "sha256" or state.hexdigest() != stated.checksum or lines != rows:
        raise PunaError(f"{_CHANGED}: its checksum does not match", where=str(path), mend=_AGAIN)
