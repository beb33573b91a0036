"""A task that lm_eval reads itself, by its own name: it fetches the data, so it needs a network.

Comes in: a name that lm_eval knows. Goes out: a `Task` around lm_eval's own objects. Must never happen: a fetch that nobody asked
for: these names begin with `lm_eval:`.
"""

from typing import Any

from puna.errors import PunaError
from puna.judge.measured import TaskFacts
from puna.judge.tasks.forms import check_limit
from puna.judge.tasks.reading import Doc, Task, keep_sample, spec_digest
from puna.judge.tasks.spec import TaskSpec

PREFIX = "lm_eval:"


def read_remote(spec: TaskSpec, limit: int | None, seed: int) -> Task:
    """Builds a task by its lm_eval name. Raises PunaError where lm_eval knows no such name, and where its data cannot be fetched."""
    from puna.judge.tasks import harness

    check_limit(limit, spec.typed)
    harness.lm_eval_here(network=True)
    from lm_eval.tasks import TaskManager

    name = spec.data[0]
    with harness.quiet():
        manager = TaskManager()
        if name not in manager.all_tasks:
            raise PunaError(
                "lm_eval knows no such task", where=PREFIX + name, mend="`lm_eval ls tasks` lists those it knows"
            )
        try:
            loaded = manager.load([name])["tasks"]
        except (
            Exception
        ) as error:  # whatever a data set's loader raises: no network, no such data set, a changed format
            raise PunaError(
                f"lm_eval cannot build it ({type(error).__name__}: {str(error)[:160]})", where=PREFIX + name,
                mend="it fetches its data: check the network, and that HF_HUB_OFFLINE is not set",
            ) from error  # fmt: skip
        for one in loaded.values():
            one.set_config("num_fewshot", one.config.num_fewshot or 0)
            one.set_fewshot_seed(seed)
        return _task(spec, dict(loaded), limit, seed)


def _task(spec: TaskSpec, loaded: dict[str, Any], limit: int | None, seed: int) -> Task:
    docs: dict[str, list[Doc]] = {}
    named = {"" if len(loaded) == 1 else name: one for name, one in sorted(loaded.items())}
    for subtask, one in named.items():
        kind = one.config.output_type
        if kind not in ("multiple_choice", "loglikelihood", "generate_until"):
            raise PunaError(
                f"is of kind {kind}", where=spec.typed, mend="such a task has no items that can be told apart"
            )
        docs[subtask] = [_doc(one, row, place, subtask) for place, row in enumerate(one.eval_docs)]
    kept = [doc for of_one in docs.values() for doc in keep_sample(of_one, spec.task, limit, seed)]
    first = next(iter(named.values()))
    metric = _main(spec, first)
    shares = [1 / len(doc.choices) for of_one in docs.values() for doc in of_one if doc.choices]
    facts = TaskFacts(
        name=spec.task, title=spec.title or spec.task, kind="remote", metric=str(metric),
        higher_is_better=bool(first.higher_is_better().get(metric, True)), shots=int(first.config.num_fewshot or 0),
        chance=sum(shares) / len(shares) if shares and metric in ("acc", "acc_norm") else None, digest=spec_digest(spec),
        items_in_all=sum(map(len, docs.values())), source=str(first.config.dataset_path or ""),
        aggregate="subtasks" if len(named) > 1 else "items",
        notes=(
            "Read by lm_eval itself, from the network: the data have no digest of ours.",
            *(["The few-shot examples of an item depend on the limit."] if first.config.num_fewshot else []),
        ),
    )  # fmt: skip
    return Task(
        spec,
        facts,
        tuple(kept),
        {},
        {name: len(of_one) for name, of_one in docs.items()},
        False,
        seed,
        limit,
        (),
        named,
    )


def _main(spec: TaskSpec, one: Any) -> str:
    """The first metric that is a mean over items: the others have no score of an item."""
    from lm_eval.api.metrics import mean

    means = [name for name, way in one.aggregation().items() if way is mean]
    if not means:
        raise PunaError(
            f"counts by {', '.join(one.aggregation())} over the whole set",
            where=spec.typed,
            mend="items have no score in it",
        )
    return str(means[0])


def _doc(one: Any, row: dict[str, Any], place: int, subtask: str) -> Doc:
    choices = tuple(map(str, one.doc_to_choice(row))) if one.config.doc_to_choice is not None else ()
    text, target = one.doc_to_text(row), one.doc_to_target(row)
    gold = text if isinstance(text, int) else target
    places = (
        tuple(int(g) for g in (gold if isinstance(gold, list) else [gold]) if isinstance(g, int)) if choices else ()
    )
    answers = () if places else tuple(map(str, target if isinstance(target, list) else [target]))
    question = text if isinstance(text, str) else " / ".join(choices)
    return Doc(
        f"{subtask}:{place}" if subtask else str(place), subtask, "", question, "", question, choices, places, answers, "",
        place, f"{subtask or 'row'} {place}",
    )  # fmt: skip
