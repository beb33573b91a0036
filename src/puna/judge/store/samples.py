"""Items as rows of Every Eval Ever's instance-level schema, and back.

Comes in: `Item`s. Goes out: one JSON line an item, and the same `Item`s from it, equal in every field. Must never happen: a row
read without a bound, or a number that is none (NaN) in a file.

Question, prompt, choices, right answers, answer and score stand where the schema has a field for them. The rest stands in
`metadata` as canonical JSON under `puna.<field>`, where it differs from the field's default.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from puna.errors import PunaError
from puna.files import atomic_file, canonical_json
from puna.judge.measured import Item, TaskFacts
from puna.judge.store.record import VERSION, Attribution, Sample, SampleEvaluation, SampleInput, SampleOutput, as_json

MAX_BYTES = 4 << 30  # of one samples file: HellaSwag's 10,042 items with 10 examples each have about 60 MB
MAX_LINE = 32 << 20
MAX_ROWS = 2_000_000
NO_SCORE = "no score"  # `error` of an item that has none: the schema asks for a number all the same

_PREFIX = "puna."
_IN_METADATA = (
    "subtask",
    "cluster",
    "continuation",
    "target",
    "answer",
    "loglikelihoods",
    "weight",
    "scores",
    "truncated",
    "tie",
    "dirty",
)


def answer_text(item: Item) -> str | None:
    """What the model answered, as text: the chosen choice's own, or what was written. None where it failed."""
    if isinstance(item.answer, int):
        return item.choices[item.answer] if 0 <= item.answer < len(item.choices) else str(item.answer)
    return item.answer


def target_texts(item: Item) -> list[str]:
    """The right answers, as text."""
    texts = []
    for target in item.target:
        inside = isinstance(target, int) and 0 <= target < len(item.choices)
        texts.append(item.choices[int(target)] if inside else str(target))
    return texts


def row_of(item: Item, task: TaskFacts, evaluation: str, model: str, result: str) -> Sample:
    """The row of an item. `evaluation`, `model` and `result` are the ids that tie it to its record."""
    answer, references = answer_text(item), target_texts(item)
    how = "largest log-likelihood" if isinstance(item.answer, int) else "the task's own filter"
    attribution = (
        []
        if answer is None
        else [
            Attribution(
                turn_idx=0, source="output.raw", extracted_value=answer, extraction_method=how, is_terminal=True
            )
        ]
    )
    facts = item.model_dump(mode="json", include=set(_IN_METADATA), exclude_defaults=True)
    return Sample(
        schema_version=VERSION,
        evaluation_id=evaluation,
        model_id=model,
        evaluation_name=task.name,
        evaluation_result_id=result,
        sample_id=item.id,
        sample_hash=hashlib.sha256((item.question + "".join(references)).encode()).hexdigest(),
        interaction_type="single_turn",
        input=SampleInput(
            raw=item.question, formatted=item.prompt, reference=references, choices=list(item.choices) or None
        ),
        output=SampleOutput(raw=[] if answer is None else [answer]),
        answer_attribution=attribution,
        evaluation=SampleEvaluation(
            score=0.0 if item.score is None else item.score,
            is_correct=item.score is not None and task.unit == "share" and item.score >= 1.0,
        ),
        error=NO_SCORE if item.score is None else None,
        metadata={_PREFIX + name: canonical_json(value).decode() for name, value in facts.items()} or None,
    )


def item_of(row: Sample) -> Item:
    """The item of a row that `row_of` made. Raises `ValueError` where it is none."""
    facts: dict[str, Any] = {}
    for key, text in (row.metadata or {}).items():
        name = key.removeprefix(_PREFIX)
        if name == key or name not in _IN_METADATA:
            raise ValueError(f"metadata has {key[:40]!r}, which Puna does not write")
        facts[name] = strict_json(text)
    return Item(
        id=row.sample_id,
        question=row.input.raw,
        prompt=row.input.formatted or "",
        choices=tuple(row.input.choices or ()),
        score=None if row.error == NO_SCORE else row.evaluation.score,
        **facts,
    )


def items_digest(items: Iterable[Item]) -> str:
    """SHA-256 (hex) over the items: the same for equal items, whatever file they stand in."""
    state = hashlib.sha256()
    for item in items:
        state.update(canonical_json(item.model_dump(mode="json", exclude_defaults=True)) + b"\n")
    return state.hexdigest()


def write_samples(path: Path, rows: Iterable[Sample]) -> tuple[str, int]:
    """Write rows as JSON lines, atomically. Returns the file's SHA-256 and its number of rows."""
    state, count = hashlib.sha256(), 0
    with atomic_file(path) as stream:
        for row in rows:
            line = json.dumps(as_json(row), ensure_ascii=False, allow_nan=False).encode() + b"\n"
            if len(line) > MAX_LINE or count >= MAX_ROWS:
                raise PunaError("an item or the number of items is too large for the store", where=str(path))
            stream.write(line)
            state.update(line)
            count += 1
    return state.hexdigest(), count


def read_samples(path: Path) -> Iterator[Sample]:
    """The rows of a JSON lines file, one by one. Raises `PunaError` at the first bad one."""
    with open(path, "rb") as stream:
        for number in range(1, MAX_ROWS + 2):
            line = stream.readline(MAX_LINE + 1)
            if not line:
                return
            where = f"{path} line {number}"
            if len(line) > MAX_LINE or number > MAX_ROWS:
                raise PunaError("the line or the file is too long", where=where)
            try:
                yield Sample.model_validate(strict_json(line.decode("utf-8")))
            except ValidationError as error:
                raise PunaError(mistakes(error), where=where) from None
            except (ValueError, RecursionError) as error:
                raise PunaError(f"not JSON ({str(error)[:80]})", where=where) from None


def strict_json(text: str) -> Any:
    """The value of a JSON text. Raises `ValueError` for NaN, infinities and names that stand twice in one object."""
    return _STRICT.decode(text)


def mistakes(error: ValidationError, limit: int = 8) -> str:
    """All mistakes that a model found, on one line."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    lines = [f"{'.'.join(str(part)[:60] for part in one['loc']) or 'the whole'}: {one['msg']}" for one in found]
    rest = f"; and {len(lines) - limit} more" if len(lines) > limit else ""
    return "; ".join(lines[:limit]) + rest


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no number")


def _finite(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"{text[:20]} is too large for a number")
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a name stands twice in one object")
    return value


_STRICT = json.JSONDecoder(parse_constant=_no_constant, object_pairs_hook=_once, parse_float=_finite)
