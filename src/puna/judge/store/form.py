"""A measurement as a record of Every Eval Ever, and back.

Comes in: a `Measurement`. Goes out: its record. Must never happen: a fact lost on the way. What the schema has no field for
stands as canonical JSON under ``puna.*`` in the details of the library and of the model.
"""

from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel, ValidationError

from puna.errors import PunaError
from puna.files import canonical_json, digest_of
from puna.judge.measured import Measurement, ModelFacts, Origin, Published, Settings, TaskFacts
from puna.judge.store.names import LOCAL, result_id, safe_name
from puna.judge.store.record import (
    VERSION,
    Details,
    EvalLibrary,
    InferenceEngine,
    ModelInfo,
    Record,
    SourceMetadata,
)
from puna.judge.store.samples import mistakes, strict_json
from puna.judge.store.scores import evaluation_results
from puna.judge.summary import Summary

FORMAT = "1"  # of what stands under `puna.*`
RECORD = "puna.record"  # SHA-256 over the canonical JSON of the whole record without this field
ELSEWHERE = "Puna elsewhere"  # the source of a record that another Puna made
_LIBRARY = {
    "puna.harness",
    "puna.settings",
    "puna.task",
    "puna.command",
    "puna.failed",
    "puna.origin",
    "puna.published",
}
_LIBRARY |= {"puna.contamination", "puna.items"}
_IDENTITY = frozenset(_LIBRARY)  # with `puna.model`: what the id is made of; times and the summary are not


class Facts(BaseModel):
    """What a record says, but for the items."""

    measurement: Measurement  # without its items
    summary: Summary
    items: str  # the digest of the items
    seconds: float


def identity(model: str, details: Details) -> str:
    """The id of a result: a function of its content without times."""
    return result_id(digest_of({"puna.model": model, **{key: details[key] for key in _IDENTITY if key in details}}))


def folder_of(model: ModelFacts, task: TaskFacts) -> str:
    """Where in the store a result stands: ``data/TASK/DEVELOPER/MODEL``."""
    return f"data/{safe_name(task.name)}/{model_folder(model)}"


def model_folder(model: ModelFacts) -> str:
    """``DEVELOPER/MODEL``, safe as names of folders; a developer that stands in the model's name does not stand twice."""
    short = model.name.removeprefix(f"{model.developer}/") if model.developer else model.name
    return f"{safe_name(model.developer or LOCAL)}/{safe_name(short)}"


def model_id(model: ModelFacts) -> str:
    """The model's name with its developer's, as the schema wants it."""
    return model.name if "/" in model.name else f"{model.developer or LOCAL}/{model.name}"


def _text(value: Any) -> str:
    if isinstance(value, BaseModel):
        value = value.model_dump()  # not mode="json": that would write null for a NaN
    return canonical_json(value).decode()


def details_of(measurement: Measurement, items: str, summary: Summary) -> Details:
    """What goes into the library's details."""
    details = {
        "puna.format": FORMAT,
        "puna.task": _text(measurement.task),
        "puna.settings": _text(measurement.settings),
        "puna.harness": _text(measurement.harness),
        "puna.command": _text(measurement.command),
        "puna.seconds": _text(measurement.seconds),
        "puna.items": items,
        "puna.summary": _text(summary),
    }
    optional = {
        "puna.failed": measurement.failed,
        "puna.origin": measurement.origin,
        "puna.published": measurement.published,
        "puna.contamination": measurement.contamination or None,
    }
    return details | {key: _text(value) for key, value in optional.items() if value is not None}


def record_of(measurement: Measurement, details: Details, summary: Summary, now: float) -> Record:
    """The record of a measurement, still without its samples and its digest. `now`: Unix time."""
    model, origin = measurement.model, measurement.origin
    known = _text(model)
    name = f"{measurement.task.name}/{model_id(model)}/{identity(known, details)}"
    moment = datetime.fromtimestamp(int(now), UTC).isoformat()
    return Record(
        schema_version=VERSION,
        evaluation_id=name,
        evaluation_timestamp=origin.date or None if origin else moment,
        retrieved_timestamp=f"{now:.6f}".rstrip("0").rstrip("."),  # of two results in one second, one is newer
        source_metadata=_source(measurement),
        eval_library=EvalLibrary(
            name="lm_eval" if "lm_eval" in measurement.harness else "puna" if measurement.harness else "unknown",
            version=measurement.harness.get("lm_eval", measurement.harness.get("puna", "unknown")),
            additional_details=details,
        ),
        model_info=_model_info(model, known, measurement),
        evaluation_results=evaluation_results(measurement, summary),
    )


def _source(measurement: Measurement) -> SourceMetadata:
    origin = measurement.origin
    if origin is None:
        return SourceMetadata(
            source_name="Puna",
            source_type="evaluation_run",
            source_organization_name="unknown",
            evaluator_relationship="first_party" if measurement.model.recipe else "other",
        )
    run = origin.form in ("lm_eval", "every_eval_ever")
    return SourceMetadata(
        source_name=origin.name,
        source_type="evaluation_run" if run else "documentation",
        source_organization_name=origin.name or "unknown",
        source_organization_url=origin.url or None,
        evaluator_relationship="other",
    )


def _model_info(model: ModelFacts, known: str, measurement: Measurement) -> ModelInfo:
    deployment = {"weights": "self_deployed", "endpoint": "externally_managed", "published": "unknown"}[model.kind]
    details = {
        "deployment_type": deployment,
        "model_availability": "open_weights" if model.kind == "weights" else "unknown",
        "puna.model": known,
    }
    for key, value in (("weights_sha256", model.digest), ("tokenizer_sha256", model.tokenizer_digest)):
        if value:
            details[key] = value
    here = model.kind == "weights" and measurement.origin is None
    return ModelInfo(
        name=model.name,
        id=model_id(model),
        developer=model.developer or None,
        inference_engine=InferenceEngine(name="puna", version=measurement.harness.get("puna", "unknown"))
        if here
        else None,
        additional_details=details,
    )


def facts_of(record: Record, where: str) -> Facts:
    """What a record of ours says. Raises `PunaError` where its `puna.*` details do not hold what this version writes."""
    library = record.eval_library.additional_details or {}
    if library.get("puna.format") != FORMAT:
        raise PunaError("was not written by this version of Puna's store", where=where, mend="take it in with --import")

    def value(key: str) -> Any:
        return strict_json(library[key]) if key in library else None

    try:
        known = record.model_info.additional_details["puna.model"]
        measurement = Measurement(
            model=ModelFacts.model_validate(strict_json(known)),
            task=TaskFacts.model_validate(value("puna.task")),
            settings=Settings.model_validate(value("puna.settings")),
            failed=value("puna.failed"),
            seconds=value("puna.seconds"),
            harness=value("puna.harness"),
            command=value("puna.command"),
            origin=Origin.model_validate(value("puna.origin")) if "puna.origin" in library else None,
            published=Published.model_validate(value("puna.published")) if "puna.published" in library else None,
            contamination=value("puna.contamination") or {},
        )
        summary = Summary.model_validate(value("puna.summary"))
        return Facts(measurement=measurement, summary=summary, items=library["puna.items"], seconds=measurement.seconds)
    except ValidationError as error:
        raise PunaError(mistakes(error), where=where) from None
    except KeyError as error:
        raise PunaError(f"lacks {error}", where=where) from None
    except (ValueError, TypeError, RecursionError) as error:
        raise PunaError(f"not what Puna writes ({str(error)[:80]})", where=where) from None
