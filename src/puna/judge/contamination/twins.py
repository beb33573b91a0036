"""Every model of a store beside what its score on a twin of the task leads one to expect.

Comes in: stored results, the names of a task and of its twin. Goes out: a `Gap` for each model that has both. Must never happen: a model
among its own references, or seeds of one recipe taken for models that know nothing of each other.
"""

from collections.abc import Sequence

from puna.errors import PunaError
from puna.judge.contamination.constat import Gap, constat
from puna.judge.measured import ModelFacts
from puna.judge.store.store import StoredResult


def twin_gaps(results: Sequence[StoredResult], names: str) -> list[Gap]:
    """The gaps of `TASK=TWIN`, the largest first. Raises `PunaError` where the names are none, or no model has both."""
    task, _, twin = names.partition("=")
    if not task or not twin or task == twin:
        raise PunaError(f"{names[:80]!r} does not name a task and its twin", where="--twin", mend="write TASK=TWIN")
    chosen = [(_by_model(results, task, chat), _by_model(results, twin, chat)) for chat in (False, True)]
    of_task, of_twin = max(
        chosen, key=lambda sides: len(sides[0].keys() & sides[1].keys())
    )  # of as many, the plain ones
    both = [key for key in of_task if key in of_twin]
    if not both:
        raise PunaError(f"no model has items of both {task} and {twin}", where="--twin", mend="judge models on both")
    pairs = {key: (of_task[key].measurement(), of_twin[key].measurement()) for key in both}
    gaps = [
        constat(pairs[key], [pairs[other] for other in both if not _kin(pairs[key][0].model, pairs[other][0].model)])
        for key in both
    ]
    return sorted(gaps, key=lambda gap: (gap.delta is None, -(gap.delta or 0.0)))


def _by_model(results: Sequence[StoredResult], task: str, chat: bool) -> dict[tuple[str, ...], StoredResult]:
    """Each model's result of a task, asked in the chat format or not: with the most items, and of those the newest.

    All are of one version of the task (definition, data, shots): that of which the most models have a result, then the newest.
    """
    versions: dict[tuple[object, ...], dict[tuple[str, ...], StoredResult]] = {}
    for one in results:
        if one.task.name != task or one.failed or one.samples is None or one.settings.chat != chat:
            continue
        facts = one.task
        models = versions.setdefault(
            (facts.digest, facts.data_digest, facts.metric, facts.shots, one.settings.seed), {}
        )
        other = models.get(_key(one.model))
        if other is None or _rank(one) > _rank(other):
            models[_key(one.model)] = one
    return max(
        versions.values(), key=lambda models: (len(models), max(map(StoredResult.age, models.values()))), default={}
    )


def _rank(one: StoredResult) -> tuple[int, tuple[str, float, str]]:
    return one.summary.n or 0, one.age()


def _key(model: ModelFacts) -> tuple[str, ...]:
    return (model.digest, model.tokenizer_digest or "") if model.digest else (model.developer, model.name)


def _kin(one: ModelFacts, other: ModelFacts) -> bool:
    """The model itself, another seed of its recipe, or its parent or child: what is contaminated in one is so in the other."""
    if (one.digest or one.name) == (other.digest or other.name) or (
        one.recipe is not None and one.recipe == other.recipe
    ):
        return True
    names = lambda model: {name for parent in model.parents for name in (parent.name, parent.digest) if name}  # noqa: E731
    return bool(names(one) & {other.name, other.digest} or names(other) & {one.name, one.digest})
