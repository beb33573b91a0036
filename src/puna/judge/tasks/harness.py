"""lm_eval drives the asking: our finished rows become its task objects, its answers become our items.

Comes in: a `Task` and an lm_eval `LM`. Goes out: lm_eval's own `ConfigurableTask`s, and `Item`s. Must never happen: a network
request, a template of a task file seen by lm_eval, an item whose examples depend on the other items that are asked, or a number
that is none (NaN) taken for a score.

Metrics, filters, samplers and the few-shot format are lm_eval's. Two things are ours. Its sampler draws the examples of one item
after the other, so the examples of an item depend on how many were drawn before: we let it draw once for all items of the files, in
their order, and keep each item's draw (`_Drawn`). So a sample of the items gets the same prompts as the whole, and a whole run the
same as lm_eval's own. And few-shot pools that are the items themselves know their items by their ids.
"""

import logging
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from puna.errors import PunaError
from puna.judge.measured import Item
from puna.judge.tasks.reading import Doc, Task
from puna.progress import QUIET, Progress

_OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
_SILENT = {
    "HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
}  # fmt: skip
TEST, SHOTS = "items", "examples"


def lm_eval_here(*, network: bool = False) -> None:
    """Makes sure that lm_eval can be imported, offline and without telemetry. Raises PunaError where it is not installed.

    To be called before the first import of lm_eval, datasets or transformers. `network`: a task was asked for that needs one.
    """
    for name, value in (_SILENT if network else {**_SILENT, **_OFFLINE}).items():
        os.environ.setdefault(name, value)
    try:
        import lm_eval.api.task
        import lm_eval.evaluator  # noqa: F401
    except ImportError as error:
        raise PunaError(
            f"lm_eval is not installed ({error.name})", mend="install the extra: pip install 'puna[judge]'"
        ) from error


def versions() -> dict[str, str]:
    """The versions of what decides a score here, for `Measurement.harness`."""
    from importlib.metadata import version

    import puna

    return {"puna": puna.__version__, "lm_eval": version("lm_eval"), "datasets": version("datasets")}


@contextmanager
def quiet() -> Iterator[None]:
    """lm_eval without its bars and its log: progress is told by whoever runs it, mistakes are raised."""
    import lm_eval.api.model
    import lm_eval.api.task

    loggers = [logging.getLogger(name) for name in ("lm_eval", "datasets")]
    before = [one.level for one in loggers]
    modules: list[Any] = [lm_eval.api.task, lm_eval.api.model]
    bars = [one.tqdm for one in modules]
    try:
        for one in loggers:
            one.setLevel(logging.ERROR)
        for module in modules:
            module.tqdm = partial(module.tqdm, disable=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # NaN likelihoods are told as failed items, not as warnings
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
        for module, bar in zip(modules, bars, strict=True):
            module.tqdm = bar


def build(task: Task, seed: int | None = None) -> dict[str, Any]:
    """lm_eval's task objects of a task, by subtask, in order; they can be given to any lm_eval model.

    `seed`: of the few-shot draw, the task's own where none is given (lm_eval's own default is 1234 too). Raises PunaError where
    lm_eval is not installed.
    """
    lm_eval_here(network=task.spec.kind == "remote")
    seed = task.seed if seed is None else seed
    if task.remote:
        for one in task.remote.values():
            one.set_fewshot_seed(seed)  # its sampler goes on where it stopped: the next model would get other examples
        return dict(task.remote)
    by_subtask: dict[str, list[Doc]] = {name: [] for name in task.subtasks}
    for doc in task.docs:
        by_subtask[doc.subtask].append(doc)
    with quiet():
        return {name: _build_one(task, name, docs, seed) for name, docs in by_subtask.items() if docs}


def name_of(task: Task, subtask: str) -> str:
    """What lm_eval calls it: "mmlu_astronomy"."""
    return f"{task.spec.task}_{subtask}" if subtask else task.spec.task


def _build_one(task: Task, subtask: str, docs: Sequence[Doc], seed: int) -> Any:
    from puna.judge.tasks.configured import FinishedTask

    spec = task.spec
    shots = task.fewshot.get(subtask, ()) if spec.shots else ()
    config: dict[str, Any] = {
        "task": name_of(task, subtask),
        "custom_dataset": lambda **_: _datasets(docs, shots),
        "test_split": TEST,
        "num_fewshot": spec.shots,
        "doc_to_text": "query",
        "target_delimiter": spec.delimiter,
        "fewshot_delimiter": spec.fewshot_delimiter,
        "metadata": {},
        **_by_kind(task),
    }
    if any(doc.description for doc in docs):
        config["description"] = "description"  # the field's name: a text would be read as a template
    if shots:
        config["fewshot_split"] = SHOTS
        config["fewshot_config"] = {
            "sampler": "first_n" if spec.sampler == "first" else "default", "doc_to_target": "shown",
        }  # fmt: skip
    built = FinishedTask(config=config)
    if shots:
        built.sampler.set_rnd(seed)
        if spec.sampler == "random":
            built.draw(task.counts[subtask], _firsts(shots), from_items=task.from_items)
    return built


def _firsts(docs: Sequence[Doc]) -> list[int]:
    """The place of each item's first equal, which is mostly its own: two items that ask the same are one, as examples go."""
    first: dict[tuple[Any, ...], int] = {}
    return [first.setdefault((doc.query, doc.choices, doc.answers), place) for place, doc in enumerate(docs)]


def _by_kind(task: Task) -> dict[str, Any]:
    from puna.judge.tasks import metrics

    spec = task.spec
    if spec.kind in ("choices", "contexts"):
        config: dict[str, Any] = {
            "output_type": "multiple_choice",
            "doc_to_choice": "choices",
            "doc_to_target": metrics.golds if any(len(doc.gold) > 1 for doc in task.docs) else metrics.gold,
            "metric_list": [{"metric": one, "aggregation": "mean", "higher_is_better": True} for one in spec.metrics],
        }
        if (
            spec.kind == "contexts"
        ):  # lm_eval's form of partial evaluation: the text is the gold's place, the target what follows
            config |= {"doc_to_text": metrics.gold, "doc_to_target": "answer"}
        if "mc2" in spec.metrics:
            config["process_results"] = metrics.ChoiceScores(spec.metrics)
        return config
    if spec.kind == "cloze":
        return {
            "output_type": "loglikelihood",
            "doc_to_target": metrics.delimited(spec.delimiter),
            "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        }
    if spec.kind == "text":
        return {
            "output_type": "loglikelihood_rolling",
            "doc_to_target": "answer",
            "metric_list": [{"metric": "bits_per_byte", "aggregation": "bits_per_byte", "higher_is_better": False}],
        }
    several = any(len(doc.answers) > 1 for doc in task.docs)
    config = {
        "output_type": "generate_until",
        "doc_to_target": "answers" if several else "answer",
        "generation_kwargs": {
            "until": list(spec.stop) or [spec.fewshot_delimiter], "do_sample": False, "temperature": 0.0,
            "max_gen_toks": spec.max_tokens,
        },
        "metric_list": [
            {
                "metric": "exact_match", "aggregation": "mean", "higher_is_better": True, "ignore_case": spec.ignore_case,
                "ignore_punctuation": spec.ignore_punctuation, **({"regexes_to_ignore": list(spec.ignore)} if spec.ignore else {}),
            }
        ],
    }  # fmt: skip
    if spec.extract:
        config["filter_list"] = [
            {
                "name": one.name,
                "filter": [
                    {"function": "regex", "regex_pattern": one.regex, "group_select": 0 if one.take == "first" else -1},
                    {"function": "take_first"},
                ],
            }
            for one in spec.extract
        ]
    return config


def row_of(doc: Doc) -> dict[str, Any]:
    """An item as lm_eval sees it: texts that are finished, nothing to fill in."""
    return {
        "id": doc.id, "subtask": doc.subtask, "cluster": doc.cluster, "question": doc.question, "description": doc.description,
        "query": doc.query, "choices": list(doc.choices), "gold": list(doc.gold), "answer": doc.answers[0] if doc.answers else "",
        "answers": list(doc.answers), "shown": doc.shown, "place": doc.place,
    }  # fmt: skip


def _datasets(docs: Sequence[Doc], shots: Sequence[Doc]) -> dict[str, Any]:
    from datasets import Dataset, Features, Value
    from datasets import Sequence as Many

    text = Value("string")
    features = Features(
        {
            **dict.fromkeys(("id", "subtask", "cluster", "question", "description", "query"), text),
            "choices": Many(text), "gold": Many(Value("int64")), "answer": text, "answers": Many(text), "shown": text,
            "place": Value("int64"),
        }
    )  # fmt: skip
    made = {TEST: Dataset.from_list([row_of(doc) for doc in docs], features=features)}
    if shots:
        made[SHOTS] = Dataset.from_list([row_of(doc) for doc in shots], features=features)
    return made


def evaluate(
    lm: Any, task: Task, progress: Progress = QUIET, seed: int | None = None, *, chat: bool = False
) -> list[Item]:
    """Asks a model all items of a task, in the task's order.

    `lm`: an lm_eval `LM`. `chat`: prompts in the model's chat format, examples as turns. An item of which a likelihood is no
    number has no score (None): whoever made the call says that the task failed. Raises what the model raises.
    """
    from puna.judge.tasks.items import items_of

    progress.note(f"{task.facts.title}: {len(task.docs):,} of {task.facts.items_in_all:,} items")
    built = build(task, seed)
    from lm_eval import evaluator

    samples: Mapping[str, list[int]] | None = None
    if task.remote and task.limit is not None:
        samples = {
            one.config.task: [doc.place for doc in task.docs if doc.subtask == name] for name, one in built.items()
        }
    with quiet():
        results = evaluator.evaluate(
            lm=lm,
            task_dict={"tasks": {one.config.task: one for one in built.values()}, "groups": {}, "group_map": {}},
            samples=samples,
            bootstrap_iters=0,
            log_samples=True,
            apply_chat_template=chat,
            fewshot_as_multiturn=chat,
        )
    if results is None:
        raise RuntimeError("lm_eval gave no results to this process")
    return items_of(task, built, results["samples"], getattr(lm, "truncated", None) or {})
