"""A summary as the schema's `evaluation_results`: the main metric of the whole, of each subtask, and each further metric.

Comes in: a `Measurement` and its `Summary`. Goes out: entries for the record. Must never happen: a number that is none. A task
that failed has no entry.
"""

import math

from puna.judge.measured import Measurement, TaskFacts
from puna.judge.store.record import (
    Bound,
    ConfidenceInterval,
    Details,
    EvaluationResult,
    GenerationArgs,
    GenerationConfig,
    MetricConfig,
    ScoreDetails,
    SourceOther,
    StandardError,
    Uncertainty,
)
from puna.judge.summary import Part, Summary

_UNITS: dict[str, tuple[str, Bound, Bound]] = {  # the schema's name of the unit, and its bounds
    "share": ("proportion", 0.0, 1.0),
    "bits per byte": ("bits per byte", 0.0, "Infinity"),
    "points": ("points", "-Infinity", "Infinity"),
}
_UNKNOWN: tuple[str | None, Bound, Bound] = (None, "-Infinity", "Infinity")


def main_result_id(task: TaskFacts) -> str:
    """The id of the entry that the samples belong to."""
    return f"{task.name}/{task.metric}"


def evaluation_results(measurement: Measurement, summary: Summary) -> list[EvaluationResult]:
    """The entries, the main metric of the whole first."""
    task = measurement.task
    if summary.score is None:
        return []
    entries = [_entry(measurement, task.metric, summary.score, main_result_id(task), uncertainty=_uncertainty(summary))]
    for part in summary.subtasks:
        if part.score is not None:
            name = f"{task.name}/{part.name}"
            mark = f"{name}/{task.metric}"
            entries.append(
                _entry(measurement, task.metric, part.score, mark, name=name, uncertainty=_uncertainty(part))
            )
    for metric, score in further_scores(measurement).items():
        entries.append(_entry(measurement, metric, score, f"{task.name}/{metric}"))
    return entries


def further_scores(measurement: Measurement) -> dict[str, float]:
    """The mean of each metric that is not the main one, over the items that have it."""
    if measurement.published is not None:
        return {name: score for name, score in measurement.published.scores.items() if name != measurement.task.metric}
    values: dict[str, list[float]] = {}
    for item in measurement.items:
        for name, value in item.scores.items():
            if name != measurement.task.metric:
                values.setdefault(name, []).append(value)
    means = {name: math.fsum(found) / len(found) for name, found in values.items()}
    return {name: mean for name, mean in means.items() if math.isfinite(mean)}


def _uncertainty(part: Summary | Part) -> Uncertainty | None:
    error, interval = part.standard_error, part.interval
    if error is None and interval is None and not part.n:
        return None
    method = (part.method if isinstance(part, Summary) else "") or None
    sure = Uncertainty(num_samples=part.n or None)
    if error is not None:
        sure.standard_error = StandardError(value=error)
    if interval is not None:
        sure.confidence_interval = ConfidenceInterval(
            lower=interval[0], upper=interval[1], confidence_level=0.95, method=method
        )
    return sure


def _entry(
    measurement: Measurement,
    metric: str,
    score: float,
    mark: str,
    *,
    name: str = "",
    uncertainty: Uncertainty | None = None,
) -> EvaluationResult:
    task, main = measurement.task, metric == measurement.task.metric
    # Of a further metric only the name is known: its bounds are not.
    unit, low, high = _UNITS[task.unit] if main else _UNKNOWN
    return EvaluationResult(
        evaluation_result_id=mark,
        evaluation_name=name or task.name,
        source_data=SourceOther(
            dataset_name=task.title or task.name, source_type="other", additional_details=_data(task)
        ),
        metric_config=MetricConfig(
            evaluation_description=f"{task.title}, {task.shots} examples, {metric}",
            metric_id=metric,
            metric_name=metric,
            metric_unit=unit,
            lower_is_better=not task.higher_is_better if main else False,
            score_type="continuous",
            min_score=low,
            max_score=high,
        ),
        score_details=ScoreDetails(score=score, uncertainty=uncertainty),
        generation_config=GenerationConfig(
            generation_args=GenerationArgs(execution_command=measurement.command or None),
            additional_details={"shots": str(task.shots)},
        ),
    )


def _data(task: TaskFacts) -> Details | None:
    facts = {
        "task_sha256": task.digest,
        "data_sha256": task.data_digest,
        "prompts_sha256": task.prompt_digest,
        "source": task.source,
        "licence": task.licence,
    }
    return {key: value for key, value in facts.items() if value} or None
