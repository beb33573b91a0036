"""What an earlier run found out about contamination, and this one could not: carried along, and said.

Comes in: a measurement, the store with its earlier results. Goes out: the measurement with their findings where it has none. Must never
happen: findings about other items or another model carried along, or any without a word.
"""

from typing import Any

from puna.judge.measured import Item, Measurement
from puna.judge.store.store import Store, StoredResult

OWN_TEXT, LIKELIHOOD = "own_text", "likelihood"
CARRIED = "carried_from"  # in a report: the id of the result that it was made for


def carry(measurement: Measurement, store: Store) -> Measurement:
    """`measurement` with the newest reports that it lacks, of the same model (digests of weights and tokenizer) and the same items
    (digests of task, data and prompts). A look-up in the whole of a model's own text is not replaced by one in a part of it."""
    lacking = [kind for kind in (OWN_TEXT, LIKELIHOOD) if not _whole(measurement, kind)]
    if measurement.failed or not measurement.model.digest or not lacking:
        return measurement
    older = [one for one in store.of_task(measurement.task.name) if _same(one, measurement)]
    for kind in lacking:
        known = [one for one in older if _whole(one.facts(), kind)]
        if known:
            measurement = _with(measurement, max(known, key=StoredResult.age), kind)
    return measurement


def _whole(measurement: Measurement, kind: str) -> bool:
    report = measurement.contamination.get(kind)
    return isinstance(report, dict) and not report.get("missing")


def _same(stored: StoredResult, now: Measurement) -> bool:
    then = stored.facts()
    return then.origin is None and _identity(then) == _identity(now)


def _identity(one: Measurement) -> tuple[Any, ...]:
    task = one.task
    return one.model.digest, one.model.tokenizer_digest, task.name, task.digest, task.data_digest, task.prompt_digest


def _with(measurement: Measurement, stored: StoredResult, kind: str) -> Measurement:
    report: Any = stored.contamination[kind]
    first = report.get(CARRIED, stored.id)
    found = {**measurement.contamination, kind: {**report, CARRIED: first}}
    what = "look-up in the model's own text" if kind == OWN_TEXT else "look at the items' likelihoods"
    items = measurement.items
    if kind == OWN_TEXT:
        marks = {(item.subtask, item.id): item.dirty for item in stored.items()}
        items = tuple(_marked(item, marks.get((item.subtask, item.id))) for item in items)
    note = f"The {what} was not done in this run: what stands here is that of result {str(first)[:8]}, of the same model and items."
    extra = measurement.settings.extra
    settings = measurement.settings.model_copy(update={"extra": {**extra, "notes": [*extra.get("notes", []), note]}})
    return measurement.model_copy(update={"contamination": found, "items": items, "settings": settings})


def _marked(item: Item, dirty: float | None) -> Item:
    return item.model_copy(update={"dirty": dirty})
