"""Results that `lm_eval` wrote: `results_*.json`, and the `samples_*.jsonl` beside it where there are any.

Comes in: such a file. Goes out: measurements, one a task (a group counts as one task with subtasks), with items where the samples
give exactly the score that the results state. Must never happen: items that are those of another run.

The form is that of lm_eval 0.4 (`EvaluationTracker`): under `results`, per task, ``"METRIC,FILTER": value`` and
``"METRIC_stderr,FILTER": error``; `group_subtasks`, `configs`, `n-shot`, `n-samples`, `higher_is_better`, `config`.
"""

import math
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from puna.errors import PunaError
from puna.judge.measured import Item, Measurement, ModelFacts, Origin, Published, Settings, TaskFacts
from puna.judge.store import known
from puna.judge.store.foreign import (
    MAX_NAME,
    POINTS,
    Mistakes,
    by_name,
    count_of,
    model_named,
    number_of,
    read_lines,
    read_value,
    size_of,
)
from puna.judge.store.lm_eval_items import items_of

_SHARES = re.compile(r"(acc|acc_norm|acc_bytes|exact_match|em|f1|mc1|mc2|pass@\d+|.*_acc(uracy)?|accuracy)$")
_PREFERRED = ("acc_norm", "acc", "mc2", "exact_match", "f1")
_TOLERANCE = 1e-6  # between the mean of the samples and the score that the results state
_KINDS = {
    "multiple_choice": "choices",
    "loglikelihood": "cloze",
    "loglikelihood_rolling": "text",
    "generate_until": "answer",
}


def looks_like(value: Any) -> bool:
    """Whether a JSON value is a results file of lm_eval's."""
    return (
        isinstance(value, dict) and isinstance(value.get("results"), dict) and ("configs" in value or "n-shot" in value)
    )


def read(path: Path, *, model: str | None = None, source: str = "lm_eval") -> list[Measurement]:
    """The measurements of a results file. `model` overrides the model's name. Raises `PunaError` with all mistakes."""
    value = read_value(path)
    if not looks_like(value):
        raise PunaError("is no results file of lm_eval's (no results and configs)", where=str(path))
    return by_name(_Reader(path, value, model, source).measurements())


class _Reader:
    def __init__(self, path: Path, value: dict[str, Any], model: str | None, source: str) -> None:
        self.path, self.value, self.source = path, value, source
        self.mistakes = Mistakes(path)
        self.results = _objects(value["results"])
        self.configs, self.config = _objects(value.get("configs")), _object(value.get("config"))
        self.groups = {
            name: [one for one in names if isinstance(one, str) and one in self.results]
            for name, names in _object(value.get("group_subtasks")).items()
            if isinstance(names, list) and names
        }
        self.model = self._model(model)

    def measurements(self) -> list[Measurement]:
        if not self.results:
            self.mistakes.add("results has no task")
        inside = {one for name in self.groups if self._metrics(name) for one in self._leaves(name, 0)}
        middle = {
            one for name in self.groups for one in self.groups[name] if one in self.groups and self._metrics(name)
        }
        found = []
        for name in self.results:
            if name in inside or name in middle or (name in self.groups and not self._metrics(name)):
                continue
            one = self._measurement(name)
            if one is not None:
                found.append(one)
        if not found and not self.mistakes.found:
            self.mistakes.add("no task has a score")
        self.mistakes.check()
        return found

    def _leaves(self, name: str, depth: int) -> list[str]:
        """The tasks of a group, its groups' too."""
        if name not in self.groups or depth > 8:
            return [name] if name not in self.groups else []
        return list(dict.fromkeys(leaf for one in self.groups[name] for leaf in self._leaves(one, depth + 1)))

    def _metrics(self, name: str) -> dict[tuple[str, str], float]:
        """(metric, filter) -> value, of a task."""
        found = {}
        for key, value in self.results.get(name, {}).items():
            metric, comma, kept = key.partition(",")
            number = number_of(value)
            if comma and number is not None and not metric.endswith("_stderr") and len(key) < MAX_NAME:
                found[metric, kept] = number
        return found

    def _measurement(self, name: str) -> Measurement | None:
        metrics = self._metrics(name)
        if not metrics:
            self.mistakes.add(f"{name[:80]}: has no metric that is a number")
            return None
        test = known.find(name)
        metric, kept = _main(metrics, test)
        score = metrics[metric, kept]
        leaves = self._leaves(name, 0) if name in self.groups else []
        task = self._task(name, metric, kept, test, score, leaves)
        if task.unit == "share" and not 0 <= score <= 1:
            self.mistakes.add(f"{name[:80]}: {metric} is {score:g}, which is no share")
            return None
        error = number_of(self.results[name].get(f"{metric}_stderr,{kept}"))
        items = self._items(name, leaves, metric, kept, task, score)
        n, n_source = size_of(test, self._n(leaves or [name]))
        published = None
        if not items:
            published = Published(
                score=score,
                n=n,
                n_source=n_source,
                standard_error=error if error is not None and error >= 0 else None,
                scores={_label(*key): value for key, value in metrics.items()},
                subtasks=dict(self._parts(name, leaves, metric, kept)),
                subtask_n={_part(name, one): n for one in leaves if (n := self._n([one]))},
            )
        return Measurement(
            model=self.model,
            task=task,
            settings=self._settings(),
            items=items,
            seconds=max(0.0, number_of(_float(self.value.get("total_evaluation_time_seconds"))) or 0.0),
            harness={
                "lm_eval": str(self.value.get("lm_eval_version") or self.value.get("git_hash") or "unknown")[:MAX_NAME]
            },
            origin=Origin(form="lm_eval", name=self.source, date=self._date(), notes=self.path.name[:MAX_NAME]),
            published=published,
        )

    def _parts(self, name: str, leaves: list[str], metric: str, kept: str) -> list[tuple[str, float]]:
        scores = [(one, self._metrics(one).get((metric, kept))) for one in leaves]
        return [(_part(name, one), score) for one, score in scores if score is not None]

    def _task(
        self, name: str, metric: str, kept: str, test: known.Known | None, score: float, leaves: list[str]
    ) -> TaskFacts:
        first = leaves[0] if leaves else name
        higher = _object(_object(self.value.get("higher_is_better")).get(name) or {}).get(metric)
        shots = _object(self.value.get("n-shot")).get(first)
        config = self.configs.get(first, {})
        unit = "bits per byte" if metric == "bits_per_byte" else "share" if _SHARES.match(metric) else POINTS
        told: dict[str, Any] = {
            "metric": test.metric if test is not None and _is_main(metric, test) else _label(metric, kept),
            "unit": unit,
            "shots": shots if isinstance(shots, int) and 0 <= shots < 10_000 else 0,
            "higher_is_better": higher if isinstance(higher, bool) else unit != "bits per byte",
            "source": str(config.get("dataset_path") or "")[:MAX_NAME],
            "notes": _notes(self.value, kept, test),
        }
        if leaves:
            told["aggregate"] = self._aggregate(name, leaves, metric, kept, score)
        if test is not None:
            return known.facts(test, **told)
        kind = _KINDS.get(str(config.get("output_type")), "remote")
        return TaskFacts.model_validate({"name": name[:MAX_NAME], "title": name[:MAX_NAME], "kind": kind, **told})

    def _aggregate(self, name: str, leaves: list[str], metric: str, kept: str, score: float) -> str:
        """Over what the group's score is a mean: over the subtasks where that gives it and the mean over items does not."""
        parts = [self._metrics(one).get((metric, kept)) for one in leaves]
        sizes = [self._n([one]) for one in leaves]
        known_parts = [part for part in parts if part is not None]
        if len(known_parts) != len(leaves) or any(size is None for size in sizes):
            return "items"
        weights = [size or 0 for size in sizes]
        over_items = math.fsum(p * w for p, w in zip(known_parts, weights, strict=True)) / sum(weights)
        over_parts = math.fsum(known_parts) / len(known_parts)
        return "subtasks" if abs(over_parts - score) < abs(over_items - score) else "items"

    def _n(self, names: Sequence[str]) -> int | None:
        counts = _object(self.value.get("n-samples"))
        found = [count_of(_object(counts.get(one)).get("effective")) for one in names]
        return None if any(count is None for count in found) else sum(count or 0 for count in found)

    def _items(
        self, name: str, leaves: list[str], metric: str, kept: str, task: TaskFacts, score: float
    ) -> tuple[Item, ...]:
        """The items, where every part has samples and they give the stated score; else a note is all there is."""
        items: list[Item] = []
        if task.unit != "share":
            return ()
        for one in leaves or [name]:
            path = self._samples(one)
            if path is None:
                return ()
            items += items_of(read_lines(path), metric, kept, _part(name, one) if leaves else "", path)
        scores = [item.score for item in items if item.score is not None]
        if not items or len(scores) != len(items):
            return ()
        if task.aggregate == "subtasks":
            groups: dict[str, list[float]] = {}
            for item in items:
                groups.setdefault(item.subtask, []).append(item.score or 0.0)
            mean = math.fsum(math.fsum(own) / len(own) for own in groups.values()) / len(groups)
        else:
            mean = math.fsum(scores) / len(scores)
        if abs(mean - score) > _TOLERANCE:
            self.mistakes.add(f"{name[:80]}: the samples give {mean:.6f}, the results say {score:.6f}: of another run?")
            return ()
        return tuple(items)

    def _samples(self, name: str) -> Path | None:
        """The samples of a task, by the same time stamp as the results."""
        stamp = self.path.stem.removeprefix("results_")
        if not re.fullmatch(r"[\w.@+-]{1,200}", name):
            return None
        path = self.path.with_name(f"samples_{name}_{stamp}.jsonl")
        return path if path.is_file() and not path.is_symlink() else None

    def _model(self, name: str | None) -> ModelFacts:
        arguments = self.config.get("model_args")
        if isinstance(arguments, dict):
            inside = arguments.get("pretrained") or arguments.get("model")
        else:
            match = re.search(r"(?:pretrained|model)=([^,]+)", str(arguments or ""))
            inside = match and match[1]
        found = name or self.value.get("model_name") or inside or self.config.get("model")
        if not isinstance(found, str) or not found.strip():
            self.mistakes.add("does not name its model; say which it is")
            found = "?"
        return model_named(found.strip()[:MAX_NAME], parameters=count_of(self.config.get("model_num_parameters")))

    def _settings(self) -> Settings:
        config = self.config
        limit, seed = number_of(config.get("limit")), config.get("fewshot_seed")
        extra = {
            key: config[key] for key in ("model_args", "model_sha", "gen_kwargs") if isinstance(config.get(key), str)
        }
        return Settings(
            limit=int(limit) if limit is not None and 1 <= limit < 1 << 53 else None,
            seed=seed if isinstance(seed, int) and abs(seed) < 1 << 53 else 1234,
            chat=bool(self.value.get("chat_template")),
            dtype=str(config.get("model_dtype") or "unknown")[:40],
            device=str(config.get("device") or "unknown")[:40],
            extra={key: value[:4000] for key, value in extra.items()},
        )

    def _date(self) -> str:
        moment = number_of(self.value.get("date"))
        if moment is None or not 0 < moment < 1 << 33:
            return ""
        return datetime.fromtimestamp(int(moment), UTC).isoformat()


def _main(metrics: dict[tuple[str, str], float], test: known.Known | None) -> tuple[str, str]:
    """The metric that counts: the known test's own, else the first of a list, else the first in the file."""
    for wanted in ((test.metric,) if test else ()) + _PREFERRED:
        for metric, kept in metrics:
            if metric == wanted or (test is not None and wanted == test.metric and _is_main(metric, test)):
                return metric, kept
    return next(iter(metrics))


def _is_main(metric: str, test: known.Known) -> bool:
    """Whether this is the test's own metric: lm_eval calls MC2, a share of probability, `acc`."""
    return metric == test.metric or (test.name == "truthfulqa_mc2" and metric == "acc")


def _label(metric: str, kept: str) -> str:
    return metric if kept in ("none", "") else f"{metric},{kept}"


def _part(group: str, name: str) -> str:
    """The name of a subtask without its group's: mmlu_anatomy of mmlu is anatomy."""
    return name.removeprefix(f"{group}_")[:MAX_NAME]


def _notes(value: dict[str, Any], kept: str, test: known.Known | None) -> tuple[str, ...]:
    notes = [] if kept in ("none", "") else [f"filter {kept}"]
    if test is None:
        notes.append("chance level not known")
    if value.get("system_instruction"):
        notes.append("with a system instruction")
    return tuple(notes)


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _objects(value: Any) -> dict[str, dict[str, Any]]:
    return {name: one for name, one in _object(value).items() if isinstance(one, dict)}


def _float(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None
