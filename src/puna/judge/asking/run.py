"""Models and tasks in, results out: the leaderboard's run from beginning to end.

Comes in: names of models and of tasks as they were typed. Goes out: one stored result for each model on each task. Must never happen:
a prompt cut or a task failed in silence, a likelihood that is no number in a score, or work done twice because a run was killed.
"""

import json
import re
import shlex
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from puna.called import PUNA
from puna.engine import Engine, resolve_model
from puna.errors import PunaError
from puna.judge.asking.answers import Answers, Unusable
from puna.judge.asking.carried import carry
from puna.judge.asking.wire import Endpoint, Refused, Unreachable, api_key, parse_endpoint
from puna.judge.contamination import exact, likelihood, words
from puna.judge.contamination.origin import Origin, origin_of
from puna.judge.measured import Item, Measurement, ModelFacts, Settings, TaskFacts
from puna.judge.store.store import Store, StoredResult
from puna.judge.tasks.catalog import find_tasks
from puna.judge.tasks.harness import evaluate, lm_eval_here, versions
from puna.judge.tasks.quiz_task import QUIZ, Quiz, ask_quiz, read_quiz
from puna.judge.tasks.reading import Task, read_all
from puna.progress import QUIET, Progress

CACHE = ".cache"  # in the store: answers that were given, and scans of training text
_KEY_REFUSED = (401, 402, 403, 407)  # by an endpoint: no other task would be answered either
_NO_NAME = re.compile(
    r"(?:model|pytorch_model|ggml-model(?P<more>[-.].*)?)", re.IGNORECASE
)  # of files: what many are called


@dataclass(frozen=True)
class Request:
    """What is asked of every model: the verb's options, as they were typed."""

    tasks: tuple[str, ...]
    data: Path | None = None
    limit: int | None = None
    seed: int = 1234
    chat: bool = False
    batch_tokens: int = 4096
    device: str | None = None
    runs: Path = Path("runs")
    fresh: bool = False  # ask again what was answered before
    controls: tuple[str, ...] = ()  # models beside which the items' likelihoods are looked at
    context: int | None = None  # tokens of an endpoint's context, where its server does not say
    bos: str | None = None  # text that begins a document, for an endpoint that puts no begin token there
    keep_answers: bool = False  # of an endpoint: earlier runs' answers are taken, as the same model still answers there

    def __post_init__(self) -> None:
        """Raises `PunaError` for a number that makes no sense."""
        for name, value in (
            ("--limit", self.limit),
            ("--context", self.context),
            ("--batch-tokens", self.batch_tokens),
        ):
            if value is not None and value < 1:
                raise PunaError(f"must be at least 1, and is {value}", where=name)
        if self.device not in (None, "cpu", "cuda"):
            raise PunaError(f"is cpu or cuda, and not {self.device!r}", where="--device")
        if self.device == "cuda" and not torch.cuda.is_available():
            raise PunaError("there is no GPU that torch can use", where="--device cuda", mend="leave the option out")

    def command(self, model: str, task: str, store: Path) -> str:
        """The command that makes one result again."""
        words = [PUNA, "judge", model, "--task", task]
        for name, value, usual in (
            ("--data", self.data, None), ("--limit", self.limit, None), ("--seed", self.seed, 1234),
            ("--batch-tokens", self.batch_tokens, 4096), ("--device", self.device, None), ("--context", self.context, None), ("--bos", self.bos, None),
            ("--runs", self.runs, Path("runs")),
            ("--store", store, Path("results")),
        ):  # fmt: skip
            words += [name, str(value)] if value != usual else []
        words += [word for name in self.controls for word in ("--control", name)]
        return shlex.join([*words, *(["--chat"] if self.chat else [])])


@dataclass(frozen=True)
class Asked:
    """A task as it was typed, read: a leaderboard's, or a quiz (which needs the model itself, not only its likelihoods)."""

    typed: str
    task: Task | None
    quiz: Quiz | None = None


@dataclass
class Model:
    """A model that can be asked."""

    typed: str
    facts: ModelFacts
    lm: Any  # lm_eval's LM
    engine: Engine | None  # None: behind an endpoint
    origin: Origin
    path: Path | None


def judge_models(
    models: Sequence[str], request: Request, store: Store, progress: Progress = QUIET
) -> Iterator[StoredResult]:
    """Ask each model each task; every result is stored before the next task begins.

    All names, tasks and data files are looked at before the first model is loaded. Raises `PunaError` for a mistake in them.
    """
    lm_eval_here(network=any(name.startswith("lm_eval:") for name in request.tasks))
    endpoints = {name: parse_endpoint(name) for name in models}
    paths = {name: resolve_model(name, request.runs) for name in models if endpoints[name] is None}
    controls = {name: resolve_model(name, request.runs) for name in request.controls}
    asked = read_tasks(request)
    beside = {name: Engine.load(path, device=request.device) for name, path in controls.items()}
    for name in models:
        model = open_model(name, paths.get(name) or endpoints[name], request, store, progress)
        try:
            for one in asked:
                yield store.add(carry(measure(model, one, request, store, progress, beside), store))
        finally:
            if getattr(model.lm, "answers", None) is not None:
                model.lm.answers.close()


def read_tasks(request: Request) -> list[Asked]:
    """The tasks with their items. Raises `PunaError` for a name that is none, for missing or broken files."""
    if not request.tasks:
        raise PunaError("no task is named", where="--task", mend="give --task leaderboard, or one of docs/tasks.md")
    quizzes = [name for name in request.tasks if name.startswith(QUIZ)]
    specs = find_tasks([name for name in request.tasks if name not in quizzes], request.data)
    read = [Asked(task.spec.typed, task) for task in read_all(specs, request.data, request.limit, request.seed)]
    return [
        *read,
        *(Asked(name, None, read_quiz(quiz_path(name, request.runs), request.limit, request.seed)) for name in quizzes),
    ]


def quiz_path(name: str, runs: Path) -> Path:
    """Where the quiz of `quiz:NAME` stands: a file or folder, or the run of that name."""
    typed = name.removeprefix(QUIZ)
    path = Path(typed)
    return path if path.exists() or not typed else runs / typed


def open_model(
    name: str, where: Path | Endpoint | None, request: Request, store: Store, progress: Progress, *, keep: bool = True
) -> Model:
    """Load a model, or connect to it. `keep`: answers are taken from the store's cache, but for a fresh request, and put there.

    Raises `PunaError` where it cannot be read or reached. What its ledger does not bear out is told in the facts' notes.
    """
    wanted = keep and (request.keep_answers or not isinstance(where, Endpoint))
    answers = Answers(store.folder / CACHE / "answers.sqlite", fresh=request.fresh) if wanted else None
    if isinstance(where, Endpoint):
        from puna.judge.asking.endpoint import connect, endpoint_lm

        remote = connect(
            where, api_key(), context=request.context, bos=request.bos, chat=request.chat, keep=request.keep_answers,
            answers=answers, progress=progress,
        )  # fmt: skip
        return Model(name, remote.facts(), endpoint_lm(remote), None, Origin(None), None)
    from puna.judge.asking.facts import model_facts
    from puna.judge.asking.local import PunaLM

    path = where if where is not None else resolve_model(name, request.runs)
    engine = Engine.load(path, device=request.device)
    facts = model_facts(path, shown_name(name, path), engine)
    identity = {"weights": facts.digest or "", "tokenizer": facts.tokenizer_digest or ""}
    lm = PunaLM(engine, batch_tokens=request.batch_tokens, progress=progress, answers=answers, identity=identity)
    try:
        origin = origin_of(path)
    except PunaError as error:  # the score is none the worse for it, but nothing is known of the text
        origin = Origin(None)
        note = f"its own text was not looked through: {error.line()[:300]}"
        facts = facts.model_copy(update={"notes": (*facts.notes, note)})
    return Model(name, facts, lm, engine, origin, path)


def shown_name(typed: str, path: Path) -> str:
    """What a board calls a local model: the run's name, or the folder's or file's; of a base inside a release, NAME/base.

    A file that is called as thousands are (model.gguf) goes by its folder's name.
    """
    whole = path.resolve()
    if path.is_file():
        common = _NO_NAME.fullmatch(path.stem)
        return f"{whole.parent.name}{common['more'] or ''}" if common and whole.parent.name else path.stem
    if whole.name == "base" and (whole.parent.name == "release" or (whole.parent / "puna").is_dir()):
        return f"{shown_name(typed, whole.parent)}/base"
    return whole.parent.name if whole.name == "release" else whole.name


def measure(
    model: Model,
    asked: Asked,
    request: Request,
    store: Store,
    progress: Progress = QUIET,
    beside: Mapping[str, Engine] | None = None,
) -> Measurement:
    """One model on one task. What cannot be asked, and a likelihood that is no number, fail the task: the measurement says why and
    has no score. An endpoint that is down or refuses the key, and a cache that cannot be used, raise `PunaError`.

    beside: control models, whose likelihoods of the same items say whether this one finds them more expected than it should.
    """
    started = time.monotonic()
    unscored: dict[Any, object] = getattr(model.lm, "unscored", {})
    unscored.clear()  # of the task before
    facts, items, failed = facts_of(asked), list[Item](), None
    try:
        items = _without(_asked(model, asked, request, progress), unscored)
    except (Unreachable, Unusable):
        raise
    except PunaError as error:
        if isinstance(error, Refused) and error.status in _KEY_REFUSED:
            raise
        failed = error.line()
    seconds = time.monotonic() - started
    failed = failed or why_failed(items, dict.fromkeys(unscored.values()))
    notes = _notes(unscored)
    contamination: dict[str, Any] = {}
    if items and model.origin.ledger is not None and facts.unit == "share":
        try:
            items, report = exact.mark(items, facts, model.origin.folders, progress, cache=store.folder / CACHE / "scans",
                                       whole=model.origin.whole)  # fmt: skip
            inherited = [words.inherited(parent.name, None, None) for parent in model.origin.parents]
            contamination["own_text"] = {**report, "missing": model.origin.missing, "inherited": inherited}
        except PunaError as error:  # the score stands
            notes.append(f"The model's own text could not be looked through: {error.line()[:300]}")
    engine = model.engine
    if beside and engine is not None and facts.unit == "share" and not failed:
        try:
            report = likelihood.examine(engine, items, facts, controls=beside, progress=progress)
            contamination["likelihood"] = json.loads(json.dumps(report))  # intervals are tuples, which no JSON has
        except PunaError as error:  # the score stands
            notes.append(f"The items' likelihoods could not be looked at beside the controls: {error.line()[:300]}")
    return Measurement(
        model=model.facts, task=replace_digest(facts, items), items=tuple(items), failed=failed,
        settings=Settings(
            limit=request.limit, seed=request.seed, chat=request.chat, batch_tokens=request.batch_tokens,
            dtype=str(engine.model.head_weight().dtype).removeprefix("torch.") if engine else "unknown",
            device=engine.model.head_weight().device.type if engine else "endpoint",
            data=str(request.data) if request.data else None, threads=_threads(engine),
            extra={"model": model.typed, "task": asked.typed, "runs": str(request.runs), "context": request.context,
                   **({"bos": request.bos} if request.bos else {}), **({"notes": notes} if notes else {})},
        ),
        seconds=round(seconds, 3), harness={**versions(), **_torch(engine)}, command=request.command(model.typed, asked.typed, store.folder),
        contamination=contamination,
    )  # fmt: skip


def replace_digest(facts: TaskFacts, items: Sequence[Item]) -> TaskFacts:
    """The task's facts with the digest of the prompts that were asked."""
    from puna.judge.tasks.items import prompt_digest

    if not items:  # nothing was asked
        return facts
    return facts.model_copy(update={"prompt_digest": prompt_digest(items)})


def why_failed(items: Sequence[Item], reasons: Iterable[object] = ()) -> str | None:
    """One sentence where an item has no score, else None. `reasons`: why requests could not be asked, in the model's words."""
    lost = sum(item.score is None for item in items)
    if not lost:
        return None
    said = "; ".join(reason for reason in reasons if isinstance(reason, str))
    return f"{lost:,} of {len(items):,} items got no number: {said or 'what the model gives is not finite (NaN)'}"


def facts_of(asked: Asked) -> TaskFacts:
    """The facts of a task or of a quiz, before it is asked."""
    if asked.task is not None:
        return asked.task.facts
    if asked.quiz is None:
        raise ValueError(f"{asked.typed} is neither a task nor a quiz")
    return asked.quiz.facts


def _asked(model: Model, asked: Asked, request: Request, progress: Progress) -> list[Item]:
    if asked.task is not None:
        return evaluate(model.lm, asked.task, progress, chat=request.chat)
    if model.engine is None or asked.quiz is None:
        raise PunaError("the quiz needs a model whose weights are here", where=asked.typed, mend="leave out this task")
    return ask_quiz(model.engine, asked.quiz, progress)


def _without(items: Sequence[Item], unscored: Mapping[Any, object]) -> list[Item]:
    """The items, without the scores of those whose answer could not be written (`unscored` has the prompt, with the reason)."""
    lost = {prompt for prompt, why in unscored.items() if isinstance(prompt, str) and isinstance(why, str)}
    nothing: dict[str, Any] = {"answer": None, "score": None, "scores": {}}
    return [item.model_copy(update=nothing) if item.prompt in lost and not item.choices else item for item in items]


def _notes(unscored: Mapping[Any, object]) -> list[str]:
    """What the score does not show, in sentences."""
    counts = [count for count in unscored.values() if isinstance(count, int)]
    if not counts:
        return []
    return [f"The server gives no likelihood for a text's first token: {sum(counts):,} tokens of {len(counts):,} requests were left "
            "out. Where its model knows a text that begins a document, --bos puts it there."]  # fmt: skip


def _threads(engine: Engine | None) -> int | None:
    if engine is None:
        return None
    return torch.get_num_threads()


def _torch(engine: Engine | None) -> dict[str, str]:
    if engine is None:
        return {}
    return {"torch": torch.__version__}


def again(stored: StoredResult, data: Path | None, device: str | None) -> tuple[str, Request]:
    """The model and the request that a stored result was made by. Raises `PunaError` for one that was not measured here."""
    if stored.imported is not None:
        raise PunaError(f"comes from {stored.imported}: it was not measured here", where=str(stored.path),
                        mend="judge the model yourself, where you have its weights")  # fmt: skip
    settings, extra = stored.settings, stored.settings.extra
    folder = data if data is not None else (Path(settings.data) if settings.data else None)
    request = Request(
        tasks=(str(extra["task"]),), data=folder, limit=settings.limit, seed=settings.seed, chat=settings.chat,
        batch_tokens=settings.batch_tokens, device=device, runs=Path(str(extra["runs"])), fresh=True,
        context=extra.get("context"), bos=extra.get("bos"),
    )  # fmt: skip
    return str(extra["model"]), request


def measure_again(stored: StoredResult, store: Store, progress: Progress = QUIET, *, data: Path | None = None,
                  device: str | None = None) -> Measurement:  # fmt: skip
    """Run a stored result's command once more, with nothing taken from what was answered before; nothing is stored.

    Raises `PunaError` where the model or the task is not the same any more.
    """
    typed, request = again(stored, data, device)
    lm_eval_here(network=request.tasks[0].startswith("lm_eval:"))
    endpoint = parse_endpoint(typed)
    asked = read_tasks(request)[0]
    facts = facts_of(asked)
    for what, now, then in (("task's definition", facts.digest, stored.task.digest),
                            ("data", facts.data_digest, stored.task.data_digest)):  # fmt: skip
        if now != then:
            raise PunaError(f"the {what} is another than it was then", where=stored.task.name,
                            mend="bring back the files of that time")  # fmt: skip
    model = open_model(typed, endpoint or resolve_model(typed, request.runs), request, store, progress, keep=False)
    for what, here, known in (("weights, the config or the tokenizer are", model.facts.digest, stored.model.digest),
                              ("tokenizer's settings are", model.facts.tokenizer_digest, stored.model.tokenizer_digest)):  # fmt: skip
        if known is not None and here != known:
            raise PunaError(f"the {what} others than those of that result", where=typed,
                            mend="judge the new ones instead: the board keeps both")  # fmt: skip
    return replace_command(measure(model, asked, request, store, progress), stored)


def replace_command(measurement: Measurement, stored: StoredResult) -> Measurement:
    """With the command of the result that is made again, not that of `--reproduce`."""
    return measurement.model_copy(update={"command": stored.command})
