"""The samples of `lm_eval` as items.

Comes in: the rows of a `samples_*.jsonl`. Goes out: `Item`s. Must never happen: a chosen answer that does not fit the score.
"""

from pathlib import Path
from typing import Any

from puna.errors import PunaError
from puna.judge.measured import Item
from puna.judge.store.foreign import number_of

_QUESTIONS = ("question", "query", "ctx", "sentence", "text", "prompt", "input")  # where a document keeps its own text


def items_of(rows: list[dict[str, Any]], metric: str, kept: str, subtask: str, path: Path) -> list[Item]:
    """The items of a task, of one filter. Raises `PunaError` where a row is no sample or stands twice."""
    items, seen = [], set()
    for number, row in enumerate(rows, 1):
        if row.get("filter", "none") != kept:
            continue
        where = f"{path} sample {number}"
        name, score = row.get("doc_id"), number_of(row.get(metric))
        if isinstance(name, bool) or not isinstance(name, int | str) or score is None:
            raise PunaError(f"has no doc_id or no {metric}", where=where)
        if name in seen:
            raise PunaError(f"doc_id {str(name)[:40]} stands twice", where=where)
        seen.add(name)
        items.append(_item(row, metric, score, subtask, str(name)))
    return items


def _item(row: dict[str, Any], metric: str, score: float, subtask: str, name: str) -> Item:
    asked = _arguments(row.get("arguments"))
    first = asked[0][0] if asked else ""
    answers = _answers(row.get("filtered_resps"))
    prompt, choices = first, tuple(text.removeprefix(" ") for _, text in asked)
    chances: tuple[float | None, ...] = ()
    target: tuple[int | str, ...] = (str(row.get("target", ""))[:100_000],)
    answer: int | str | None = None
    if len(asked) > 1 and len(answers) == len(asked):  # multiple choice: one request a choice
        if len({text for _, text in asked}) == 1:  # the choices stand in the contexts, as WinoGrande has it
            prompt = _common_start([context for context, _ in asked])
            choices = tuple(context[len(prompt) :] for context, _ in asked)
        chances = tuple(number_of(_number(one)) for one in answers)
        target = _places(row.get("target"), choices)
        answer = _chosen(chances, choices, metric, target, score)
    else:
        choices = ()
        answer = answers[0] if answers and isinstance(answers[0], str) else None
    return Item(
        id=f"{subtask}/{name}" if subtask else name,
        subtask=subtask,
        question=_question(row.get("doc"), prompt),
        prompt=prompt,
        choices=choices,
        target=target,
        answer=answer,
        loglikelihoods=chances,
        score=score,
        scores={
            key: value
            for key in row.get("metrics", ())
            if isinstance(key, str) and (value := number_of(row.get(key))) is not None
        },
    )


def _chosen(
    chances: tuple[float | None, ...],
    choices: tuple[str, ...],
    metric: str,
    target: tuple[int | str, ...],
    score: float,
) -> int | None:
    """The place of the most likely choice by the metric's own rule; None where that does not give the score."""
    lengths = [1.0 if metric != "acc_norm" else float(max(1, len(choice))) for choice in choices]
    values = [None if one is None else one / length for one, length in zip(chances, lengths, strict=True)]
    if any(value is None for value in values):
        return None
    place = max(range(len(values)), key=lambda index: (values[index] or 0.0, -index))
    return place if metric not in ("acc", "acc_norm") or float(place in target) == score else None


def _arguments(value: Any) -> list[tuple[str, str]]:
    """(context, continuation) of each request."""
    if not isinstance(value, dict):
        return []
    pairs = []
    for one in value.values():
        if isinstance(one, dict) and isinstance(one.get("arg_0"), str):
            text = one.get("arg_1")
            pairs.append((one["arg_0"], text if isinstance(text, str) else ""))
    return pairs


def _answers(value: Any) -> list[str]:
    if not isinstance(value, list):
        return []
    firsts = [one[0] if isinstance(one, list) and one else one for one in value]
    return [one for one in firsts if isinstance(one, str)]


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _places(value: Any, choices: tuple[str, ...]) -> tuple[int | str, ...]:
    """The places of the right choices: lm_eval writes a place or a list of places as text."""
    text = str(value).strip("[] ")
    parts = [part.strip() for part in text.split(",")] if text else []
    places = [int(part) for part in parts if part.isascii() and part.isdigit() and len(part) < 6]
    if places and len(places) == len(parts) and all(place < len(choices) for place in places):
        return tuple(places)
    stripped = str(value).strip()
    return (choices.index(stripped),) if stripped in choices else (str(value)[:100_000],)


def _common_start(texts: list[str]) -> str:
    """What all texts begin with."""
    first, last = min(texts), max(texts)
    length = next(
        (index for index, letter in enumerate(first) if index >= len(last) or last[index] != letter), len(first)
    )
    return first[:length]


def _question(doc: Any, prompt: str) -> str:
    if isinstance(doc, dict):
        for key in _QUESTIONS:
            if isinstance(doc.get(key), str) and doc[key].strip():
                return str(doc[key])
    return prompt.rsplit("\n\n", 1)[-1]
