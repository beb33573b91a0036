"""Every Eval Ever files, ours and others'.

Comes in: a record of version 0.3.0, its samples beside it or under the root of its tree. Goes out: measurements, one for each
evaluation that it names. Must never happen: a record of ours that was changed, or a file of an older version read half.

A record that Puna wrote is taken with all its items, where its digests match; it says from then on that it was measured elsewhere, as
whoever makes a record can make its digests too. Of another's record the scores are taken, and the samples where
their checksum matches and their mean is the stated score.
"""

import math
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from puna.errors import PunaError
from puna.files import digest_of, file_sha256
from puna.judge.measured import Item, Measurement, Origin, Published, Settings, TaskFacts
from puna.judge.store import known
from puna.judge.store.foreign import (
    MAX_NAME,
    PERCENT,
    POINTS,
    SHARE,
    UNITS,
    Mistakes,
    by_name,
    count_of,
    in_unit,
    model_named,
    read_value,
    size_of,
)
from puna.judge.store.form import ELSEWHERE, RECORD, facts_of
from puna.judge.store.record import VERSION, EvaluationResult, Record, Sample
from puna.judge.store.samples import MAX_BYTES, item_of, items_digest, mistakes, read_samples

_TOLERANCE = 1e-6


def looks_like(value: Any) -> bool:
    """Whether a JSON value is a record of Every Eval Ever, of any version."""
    return isinstance(value, dict) and "schema_version" in value and "evaluation_results" in value


def read(path: Path) -> list[Measurement]:
    """The measurements of a record. Raises `PunaError` with all mistakes."""
    value = read_value(path)
    if not looks_like(value):
        raise PunaError("is no record of Every Eval Ever", where=str(path))
    version = value["schema_version"]
    if version != VERSION:
        raise PunaError(
            f"has version {str(version)[:20]!r} of Every Eval Ever, and only {VERSION} is read",
            where=str(path),
            mend="convert it with that project's own tools",
        )
    library = value.get("eval_library")
    details = library.get("additional_details") if isinstance(library, dict) else None
    if isinstance(details, dict) and RECORD in details:
        stated = details.pop(RECORD)
        if digest_of(value) != stated:
            raise PunaError("was changed after it was written", where=str(path), mend="take the original")
        return [_ours(_record(value, path), path)]
    return by_name(_theirs(_record(value, path), path))


def _record(value: dict[str, Any], path: Path) -> Record:
    try:
        return Record.model_validate(value)
    except ValidationError as error:
        raise PunaError(mistakes(error, limit=20), where=str(path)) from None


def _ours(record: Record, path: Path) -> Measurement:
    facts = facts_of(record, str(path))
    items: list[Item] = []
    if record.detailed_evaluation_results is not None:
        samples = _samples_of(record, path)
        if samples is None:
            raise PunaError("its samples are not beside it", where=str(path))
        try:
            items = [item_of(row) for row in read_samples(samples)]
        except (ValueError, TypeError) as error:
            raise PunaError(f"not items of Puna's ({str(error)[:80]})", where=str(samples)) from None
    if items_digest(items) != facts.items:
        raise PunaError("the samples were changed after they were written", where=str(path))
    origin = facts.measurement.origin or Origin(
        form="every_eval_ever", name=ELSEWHERE, date=(record.evaluation_timestamp or "")[:40],
        notes="its digests hold, which shows no more than that nobody changed it since by accident",
    )  # fmt: skip
    return facts.measurement.model_copy(update={"items": tuple(items), "origin": origin})


def _samples_of(record: Record, path: Path) -> Path | None:
    """The samples of a record: beside it, with the checksum that it states. None where there are none."""
    stated = record.detailed_evaluation_results
    if stated is None:
        return None
    samples = path.with_name(Path(stated.file_path).name)
    if not samples.is_file():
        return None
    if samples.is_symlink() or samples.stat().st_size > MAX_BYTES:
        raise PunaError("is a link or too large", where=str(samples))
    if stated.hash_algorithm != "sha256" or stated.checksum is None or file_sha256(samples) != stated.checksum.lower():
        raise PunaError("the samples do not have the checksum (sha256) that their record states", where=str(samples))
    return samples


def _theirs(record: Record, path: Path) -> list[Measurement]:
    told, found = Mistakes(path), []
    if not record.evaluation_results:
        told.add("has no evaluation_results")
    samples = _samples_of(record, path)
    rows = list(read_samples(samples)) if samples is not None else []
    groups: dict[str, list[EvaluationResult]] = {}
    for entry in record.evaluation_results:
        groups.setdefault(entry.evaluation_name, []).append(entry)
    for name, entries in groups.items():
        try:
            found.append(_measurement(record, name, entries, rows, len(groups) == 1))
        except ValueError as error:
            told.add(f"{name[:80]}: {error}")
    told.check()
    return found


def _measurement(
    record: Record, name: str, entries: list[EvaluationResult], rows: list[Sample], alone: bool
) -> Measurement:
    test = known.find(name)
    scores: dict[str, float] = {}
    for entry in entries:
        metric = _metric(entry)
        if metric in scores:
            raise ValueError(f"has two values of {metric[:80]}")
        scores[metric] = in_unit(entry.score_details.score, _unit(entry))
    main = next((entry for entry in entries if test is not None and _metric(entry) == test.metric), entries[0])
    unit, metric = _unit(main), _metric(main)
    sure = main.score_details.uncertainty
    error = sure.standard_error.value if sure is not None and sure.standard_error is not None else None
    told: dict[str, Any] = {
        "metric": metric,
        "unit": "bits per byte" if metric == "bits_per_byte" else SHARE if unit in (SHARE, PERCENT) else POINTS,
        "higher_is_better": not main.metric_config.lower_is_better,
        "source": main.source_data.dataset_name[:MAX_NAME],
        "notes": () if test is not None else ("chance level not known",),
    }
    own = [row for row in rows if row.evaluation_result_id == main.evaluation_result_id and main.evaluation_result_id]
    own = own or [row for row in rows if row.evaluation_result_id is None and (alone or row.evaluation_name == name)]
    items = tuple(_item(row) for row in own)
    score = scores[metric]
    values = [item.score for item in items if item.score is not None]
    notes = ""
    if items and (len(values) != len(items) or abs(math.fsum(values) / len(values) - score) > _TOLERANCE):
        items, notes = (), "the samples' mean is not the stated score: they were left out"
    n, n_source = size_of(test, count_of(sure.num_samples) if sure is not None else None)
    if test is not None:
        task = known.facts(test, **told)
    else:
        task = TaskFacts.model_validate({"name": name[:MAX_NAME], "title": name[:MAX_NAME], "kind": "remote", **told})
    published = None
    if not items:
        published = Published(
            score=score,
            n=n,
            n_source=n_source,
            standard_error=None if error is None or error < 0 else in_unit(error, unit),
            scores=scores,
        )
    source = record.source_metadata
    return Measurement(
        model=_model(record),
        task=task,
        settings=Settings(dtype="unknown", device="unknown"),
        items=items,
        harness={record.eval_library.name[:MAX_NAME]: record.eval_library.version[:MAX_NAME]},
        command=_command(main),
        origin=Origin(
            form="every_eval_ever",
            name=(source.source_name or source.source_organization_name)[:MAX_NAME],
            url=(source.source_organization_url or "")[:4000],
            date=(record.evaluation_timestamp or "")[:40],
            notes=notes,
        ),
        published=published,
    )


def _model(record: Record) -> Any:
    info = record.model_info
    name = info.id if "/" in info.id else info.name
    more = {"developer": info.developer[:MAX_NAME]} if info.developer else {}
    return model_named((name or info.name or "?")[:MAX_NAME], **more)


def _metric(entry: EvaluationResult) -> str:
    config = entry.metric_config
    return (config.metric_id or config.metric_name or config.metric_kind or "score")[:MAX_NAME]


def _unit(entry: EvaluationResult) -> str:
    """The stated unit; where none is named, the stated bounds; else points."""
    config = entry.metric_config
    if config.metric_unit:
        return UNITS.get(config.metric_unit.strip().lower(), POINTS)
    if config.min_score == 0 and config.max_score in (1, 100):
        return SHARE if config.max_score == 1 else PERCENT
    return SHARE if config.score_type == "binary" else POINTS


def _command(entry: EvaluationResult) -> str:
    arguments = entry.generation_config.generation_args if entry.generation_config is not None else None
    return (arguments.execution_command or "")[:4000] if arguments is not None else ""


def _item(row: Sample) -> Item:
    choices = tuple(row.input.choices or ())
    target = tuple(choices.index(one) if one in choices else one for one in row.input.reference)
    answer: int | str | None = next((one.extracted_value for one in row.answer_attribution if one.is_terminal), None)
    if isinstance(answer, str) and answer in choices:
        answer = choices.index(answer)
    return Item(
        id=row.sample_id,
        question=row.input.raw,
        prompt=row.input.formatted or row.input.raw,
        choices=choices,
        target=target,
        answer=answer,
        score=None if row.error else row.evaluation.score,
    )
