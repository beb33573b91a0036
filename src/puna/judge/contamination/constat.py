"""Does a model do better on a task than its score on a twin of the task leads one to expect?

Comes in: measurements of one model and of reference models on a task and on its twin (the same questions in other words, made-up ones of
the same kind, or any second task). Goes out: the gap, with an interval and a p-value. Must never happen: a verdict from so few references
that no gap could be told, or models compared on unlike items.

After ConStat (Dekoninck et al. 2024, arXiv 2405.16281): the references say which score on the task belongs to a score on the twin; the
gap is what the model has above that,

    delta = S_task(model) - H(S_twin(model)),   H fitted to (S_twin, S_task) of the references

and p is the share of bootstrap samples with delta <= 0 (items of both tasks and the reference models are drawn). Two things differ
from the paper. H is a straight line for fewer than 12 references, else a monotone one (isotonic regression; Barlow et al. 1972), where
theirs is a smoothing spline. And each sample also draws how far a single reference lies from the line that the others make: without it a
model that is unlike the references by chance alone would be called contaminated far more often than p says.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from puna.errors import PunaError
from puna.judge.contamination import words
from puna.judge.contamination.difference import as_given
from puna.judge.measured import Item, Measurement
from puna.judge.stats import LEAST_UNITS, LEVEL

Floats = npt.NDArray[np.float64]
LEAST_REFERENCES = 5  # of fewer no line has a spread that is worth a p-value
MONOTONE_FROM = 12
DRAWS = 2000
_FOR_VARIANCE = 200  # draws that tell how much of a residual is the items' chance

Pair = tuple[Measurement, Measurement]  # a model on the task, and on its twin


@dataclass(frozen=True)
class Gap:
    """What a model has above what its twin score predicts, in the task's own unit. `interval` (95 %) and `p` (one-sided, null
    hypothesis: no gap above 0) are None where it cannot be told."""

    model: str
    task: str
    twin: str
    score: float
    twin_score: float
    expected: float | None
    delta: float | None
    interval: tuple[float, float] | None
    p: float | None
    references: tuple[str, ...]
    items: int
    twin_items: int
    verdict: str  # "gap", "no gap seen" or "cannot tell"
    says: str


def constat(target: Pair, references: Sequence[Pair], *, draws: int = DRAWS, seed: int = 0, level: float = 0.05) -> Gap:
    """The gap of `target` beside `references`, each measured on the task and on the twin.

    Only items that all models answered count; items of one cluster are drawn together; where task and twin have the same items' names
    (the same questions in other words) an item and its twin are drawn together.
    Raises PunaError for measurements of unlike tasks (another definition, other data, other prompts), one model given twice, and where no
    item is common to all.
    """
    _check(target, references)
    names = tuple(pair[0].model.name for pair in references)
    sides = [_common([pair[side] for pair in (target, *references)]) for side in (0, 1)]
    tables = [table for table, _, _ in sides]  # [models, items] of the task and of the twin, the target first
    task, twin = (table.mean(1) for table in tables)
    told = Gap(
        model=target[0].model.name, task=target[0].task.name, twin=target[1].task.name, score=float(task[0]), twin_score=float(twin[0]),
        expected=None, delta=None, interval=None, p=None, references=names, items=tables[0].shape[1], twin_items=tables[1].shape[1],
        verdict="cannot tell", says=words.few_references(len(references), LEAST_REFERENCES),
    )  # fmt: skip
    if len(references) < 2:
        return told
    expected = float(_fit(twin[1:], task[1:])(twin[:1])[0])
    told = replace(told, expected=expected, delta=told.score - expected)
    if len(references) < LEAST_REFERENCES:
        return told
    independent = min(len(set(clusters)) for _, _, clusters in sides)
    if independent < LEAST_UNITS:
        return replace(told, says=words.few_items(independent))
    drawn = _draws(tables, sides, draws, seed)
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    told = replace(
        told, interval=(float(low), float(high)), p=float((drawn <= 0).sum() + 1) / (draws + 1), says=words.TWIN
    )
    if not twin[1:].min() <= twin[0] <= twin[1:].max():
        return replace(told, says=f"{words.OUTSIDE} {words.TWIN}")
    return replace(told, verdict="gap" if told.p is not None and told.p < level else "no gap seen")


def _check(target: Pair, references: Sequence[Pair]) -> None:
    wrong: list[str] = []
    seen: set[tuple[str, str | None, str | None]] = set()
    for pair in (target, *references):
        if _who(pair[0]) != _who(pair[1]):
            wrong.append(f"{pair[0].model.name} and {pair[1].model.name} are two models")
        key = _who(pair[0])
        if key in seen:
            wrong.append(f"{pair[0].model.name} is given twice")
        seen.add(key)
        for mine, theirs in zip(pair, target, strict=True):
            for fact in ("name", "metric", "digest", "data_digest"):
                if getattr(mine.task, fact) != getattr(theirs.task, fact):
                    shown = [
                        getattr(one.task, fact)[: 60 if fact in ("name", "metric") else 12] for one in (mine, theirs)
                    ]
                    wrong.append(f"{pair[0].model.name}: {fact} {shown[0]!r}, not {shown[1]!r}")
            if mine.failed is not None:
                wrong.append(f"{pair[0].model.name} failed on {mine.task.name}: {mine.failed}")
    if target[0].task.name == target[1].task.name and target[0].task.data_digest == target[1].task.data_digest:
        wrong.append(f"{target[0].task.name} is no twin of itself")
    if not target[0].task.higher_is_better or not target[1].task.higher_is_better:
        wrong.append("on both tasks more must be better")
    if wrong:
        raise PunaError("; ".join(dict.fromkeys(wrong)), where="constat")


def _who(one: Measurement) -> tuple[str, str | None, str | None]:
    return one.model.name, one.model.digest, one.model.tokenizer_digest


def _common(runs: Sequence[Measurement]) -> tuple[Floats, list[tuple[str, str]], list[str]]:
    """Scores [models, items] of the items that all have, the items' names, and the cluster of each."""
    tables: list[dict[tuple[str, str], Item]] = [
        {(item.subtask, item.id): item for item in run.items if item.score is not None} for run in runs
    ]
    names = [key for key in tables[0] if all(key in table for table in tables[1:])]
    if not names:
        raise PunaError(f"no item of {runs[0].task.name} was answered by all models", where="constat")
    for run, table in zip(runs[1:], tables[1:], strict=True):
        other = next((name for name in names if as_given(table[name]) != as_given(tables[0][name])), None)
        if other is not None:
            what = f"item {other[1][:60]} of {run.task.name} was asked of {run.model.name} in other words than of {runs[0].model.name}"
            raise PunaError(what, where="constat", mend="compare runs with the same examples and the same format")
    scores = np.array([[table[name].score for name in names] for table in tables], np.float64)
    clusters = [
        f"{name[0]}\0{tables[0][name].cluster}" if tables[0][name].cluster else "\1".join(name) for name in names
    ]
    return scores, names, clusters


def _draws(
    tables: Sequence[Floats], sides: Sequence[tuple[Floats, list[tuple[str, str]], list[str]]], draws: int, seed: int
) -> Floats:
    """delta in each bootstrap sample [draws]."""
    models = tables[0].shape[0] - 1
    rng = np.random.default_rng([seed, models, tables[0].shape[1], tables[1].shape[1]])
    means = _drawn_means(tables, sides, draws, rng)
    own = _residuals(tables[1][1:].mean(1), tables[0][1:].mean(1))
    # A residual holds the chance of the items too, which the draws of the items bring in already: only the rest of its variance is
    # that of the models.
    some = np.stack([_residuals(twin[1:], task[1:]) for task, twin in means[: min(draws, _FOR_VARIANCE)]])
    of_items, whole = float(some.var(0, ddof=1).mean()), float((own**2).mean())
    scale = np.sqrt(max(0.0, 1 - of_items / whole)) if whole > 0 else 0.0
    out = np.empty(draws)
    for draw, (task, twin) in enumerate(means):
        chosen = rng.integers(models, size=models) + 1
        while len(set(chosen.tolist())) < 3:  # two points make any line
            chosen = rng.integers(models, size=models) + 1
        apart = scale * own[rng.integers(models)] * rng.choice((-1.0, 1.0))
        out[draw] = task[0] - _fit(twin[chosen], task[chosen])(twin[:1])[0] - apart
    return out


def _drawn_means(
    tables: Sequence[Floats], sides: Sequence[tuple[Floats, list[tuple[str, str]], list[str]]], draws: int, rng: np.random.Generator
) -> list[tuple[Floats, Floats]]:  # fmt: skip
    """The models' scores on the task and on the twin in each bootstrap sample of the items, clusters drawn whole."""
    sums, sizes = zip(
        *(_by_cluster(table, clusters) for table, (_, _, clusters) in zip(tables, sides, strict=True)), strict=True
    )
    paired = sides[0][1] == sides[1][1] and sides[0][2] == sides[1][2]
    made = []
    for _ in range(draws):
        weights = [rng.multinomial(len(size), np.full(len(size), 1 / len(size))).astype(float) for size in sizes]
        if paired:
            weights[1] = weights[0]
        task, twin = (
            (total @ weight) / (size @ weight) for total, size, weight in zip(sums, sizes, weights, strict=True)
        )
        made.append((task, twin))
    return made


def _by_cluster(table: Floats, clusters: Sequence[str]) -> tuple[Floats, Floats]:
    """Sums [models, clusters] and sizes [clusters]."""
    known = {name: number for number, name in enumerate(dict.fromkeys(clusters))}
    index = np.array([known[name] for name in clusters])
    return np.stack([np.bincount(index, row, len(known)) for row in table]), np.bincount(
        index, minlength=len(known)
    ).astype(float)


def _residuals(twin: Floats, task: Floats) -> Floats:
    """How far each reference lies above the line of the others [references]."""
    out = np.empty(len(twin))
    for number in range(len(twin)):
        rest = np.arange(len(twin)) != number
        out[number] = task[number] - _fit(twin[rest], task[rest])(twin[number : number + 1])[0]
    return out


class _Line:
    """A line through knots, straight beyond them."""

    def __init__(self, x: Floats, y: Floats) -> None:
        self._x, self._y = x, y

    def __call__(self, at: Floats) -> Floats:
        return np.interp(at, self._x, self._y)


class _Straight:
    def __init__(self, slope: float, height: float, x: float) -> None:
        self._slope, self._height, self._x = slope, height, x

    def __call__(self, at: Floats) -> Floats:
        return self._height + self._slope * (at - self._x)


def _fit(x: Floats, y: Floats) -> "_Line | _Straight":
    """The score on the task that belongs to one on the twin: never falling."""
    if len(x) < MONOTONE_FROM:
        centre = x - x.mean()
        spread = float(centre @ centre)
        slope = max(0.0, float(centre @ (y - y.mean())) / spread) if spread > 1e-12 else 0.0
        return _Straight(slope, float(y.mean()), float(x.mean()))
    return _Line(*_isotonic(x, y))


def _isotonic(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """The non-decreasing means nearest to y in squares (pool adjacent violators), at the mean x of each pool."""
    order = np.argsort(x, kind="stable")
    pools: list[list[float]] = []  # sum of y, sum of x, count
    for a, b in zip(x[order].tolist(), y[order].tolist(), strict=True):
        pools.append([b, a, 1.0])
        while len(pools) > 1 and pools[-2][0] / pools[-2][2] >= pools[-1][0] / pools[-1][2]:
            last = pools.pop()
            pools[-1] = [one + other for one, other in zip(pools[-1], last, strict=True)]
    return np.array([pool[1] / pool[2] for pool in pools]), np.array([pool[0] / pool[2] for pool in pools])
