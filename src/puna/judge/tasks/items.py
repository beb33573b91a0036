"""lm_eval's samples as our items.

Comes in: the samples of an evaluation. Goes out: one `Item` for each item of the task, in the task's order. Must never happen: a
NaN that reaches a score, a missing item, or an order that lm_eval's dictionaries decide.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

from puna.judge.measured import Item, Kind
from puna.judge.tasks.reading import Doc, Task

Sample = dict[str, Any]
Truncated = Mapping[Any, int]


def items_of(
    task: Task, built: Mapping[str, Any], samples: Mapping[str, list[Sample]], truncated: Truncated
) -> list[Item]:
    """The items of all subtasks. `truncated`: tokens cut from a request, by (context, continuation) or by context.

    Raises RuntimeError where lm_eval's samples are not the task's items: then something was asked that nobody asked for.
    """
    found: dict[tuple[str, str], Item] = {}
    for subtask, one in built.items():
        by_item: dict[int, list[Sample]] = {}
        for sample in samples[one.config.task]:
            by_item.setdefault(int(sample["doc_id"]), []).append(sample)
        docs = [doc for doc in task.docs if doc.subtask == subtask]
        kind, metrics = _remote(one, task.facts.metric) if task.remote else (task.spec.kind, task.spec.metrics)
        numbers = [doc.place for doc in docs] if task.remote else range(len(docs))
        if sorted(by_item) != sorted(numbers):
            raise RuntimeError(
                f"lm_eval answered {len(by_item)} items of {one.config.task}, and {len(docs)} were asked"
            )
        for number, doc in zip(numbers, docs, strict=True):
            found[subtask, doc.id] = _item(doc, by_item[number], kind, metrics, truncated)
    return [found[doc.subtask, doc.id] for doc in task.docs]


def prompt_digest(items: Sequence[Item]) -> str:
    """SHA-256 over all prompts and choices, in order: what was asked, to the letter."""
    whole = hashlib.sha256()
    for item in items:
        for text in (item.id, item.prompt, *item.choices, "" if item.choices else item.question):
            data = text.encode()
            whole.update(len(data).to_bytes(8, "little") + data)
    return whole.hexdigest()


def _remote(one: Any, metric: str) -> tuple[Kind, tuple[str, ...]]:
    """Kind and metrics of a task that lm_eval reads itself, the main metric first."""
    kinds: dict[str, Kind] = {
        "multiple_choice": "contexts" if one.multiple_input else "choices",
        "loglikelihood": "cloze",
    }
    return kinds.get(one.config.output_type, "answer"), (
        metric,
        *(name for name in one.aggregation() if name != metric),
    )


def _item(doc: Doc, of_filters: list[Sample], kind: Kind, metrics: Sequence[str], truncated: Truncated) -> Item:
    first = of_filters[0]
    requests = [tuple(arguments) for arguments in first["arguments"]]
    scores = _scores(metrics, of_filters)
    likelihoods = [_finite(answer[0]) for answer in _answers(first)] if kind in ("choices", "contexts", "cloze") else []
    answer: int | str | None = None
    tie = False
    weight = 1.0
    failed = any(one is None for one in likelihoods)
    if kind in ("choices", "contexts") and not failed:
        answer, tie = _chosen(doc, [one for one in likelihoods if one is not None], metrics[0])
    elif kind == "answer":
        answer = str(first["resps"][0][0])
    elif kind == "cloze" and not failed:
        answer = (
            doc.answers[0] if scores.get("acc") == 1 else ""
        )  # wrong: another one, which a likelihood does not tell
    elif kind == "text":
        nats, weight = _finite(_answers(first)[0]), float(len(doc.answers[0].encode()))
        likelihoods = [nats]
        failed = nats is None
        # An item's score is its bits; bits per byte is their sum over the bytes' sum.
        scores = {} if nats is None else {"bits_per_byte": -nats / math.log(2)}
    main = None if failed else scores.get(metrics[0])
    return Item(
        id=doc.id, subtask=doc.subtask, cluster=doc.cluster, question=doc.question, prompt="" if kind == "text" else requests[0][0],
        choices=doc.choices, continuation=str(requests[0][1]) if kind == "contexts" else "", target=doc.gold if doc.choices else doc.answers, answer=answer, loglikelihoods=tuple(likelihoods),
        score=main, weight=weight, scores={} if main is None else scores,
        truncated=max((_cut(request, truncated) for request in requests), default=0), tie=tie,
    )  # fmt: skip


def _answers(sample: Sample) -> list[Any]:
    """What the model said to each request of an item: the only response of each."""
    return [responses[0] for responses in sample["resps"]]


def _scores(metrics: Sequence[str], of_filters: list[Sample]) -> dict[str, float]:
    """Every metric; those of the second filter and on carry its name ("exact_match,flexible-extract")."""
    scores: dict[str, float] = {}
    for place, sample in enumerate(of_filters):
        for metric in metrics:
            value = sample.get(metric)
            if isinstance(value, int | float) or hasattr(value, "item"):
                number = _finite(value)
                if number is not None:
                    scores[metric if place == 0 else f"{metric},{sample['filter']}"] = number
    return scores


def _finite(value: Any) -> float | None:
    number = float(value)
    return number if math.isfinite(number) else None


def _chosen(doc: Doc, likelihoods: list[float], metric: str) -> tuple[int, bool]:
    """The place of the choice that the metric takes (the first of the best, as numpy's argmax does), and whether another is as good."""
    lengths = {"acc_norm": [len(one) for one in doc.choices], "acc_bytes": [len(one.encode()) for one in doc.choices]}
    values = [
        one / length for one, length in zip(likelihoods, lengths.get(metric, [1] * len(likelihoods)), strict=True)
    ]
    best = max(values)
    return values.index(best), metric != "mc2" and values.count(best) > 1


def _cut(request: tuple[Any, ...], truncated: Truncated) -> int:
    key = request[:2] if len(request) > 1 and isinstance(request[1], str) else request[0]
    return int(truncated.get(key, truncated.get(request[0], 0)))
