"""The default recipe's Python quiz as a task of the leaderboard: any chat model on this machine can be asked it.

Comes in: the questions of a run (quiz.jsonl), or a corpus' held-out functions. Goes out: `TaskFacts` and `Item`s. Must never happen:
another rule of counting than the build's own (`puna.judge.quiz`): the same model gets the same accuracy here and in its results.json.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

import numpy as np

from puna.engine import Engine
from puna.errors import PunaError
from puna.files import digest_of, file_sha256
from puna.judge import measured
from puna.judge.documents import TRAIN_BYTES, load
from puna.judge.functions import Function, read_functions
from puna.judge.measured import TaskFacts
from puna.judge.quiz import CHOICES, PRIMARY, QUESTION, UNNAMED, Item, credit, make_items, score_choices
from puna.judge.tasks.forms import check_limit
from puna.progress import QUIET, Progress
from puna.reading import MAX_JSON, find_inside, read_object, read_text
from puna.recipe.schema import Judge
from puna.tokens.chat import render_batch

QUIZ = "quiz:"  # how the task is typed: quiz:RUN
QUESTIONS, FUNCTIONS, RESULTS = "quiz.jsonl", "functions.jsonl", "results.json"
METRIC = f"acc_{PRIMARY}"
_LONGEST_TEXT = 2000  # characters of a question or a choice in a file of questions
_MEND = "name a run, its judge or corpus folder, or a quiz.jsonl"
_GUESSED = "modules are read off the functions' names: the corpus with their list is not there"


class Quiz(NamedTuple):
    """A quiz that can be asked."""

    facts: TaskFacts
    items: list[Item]


def read_quiz(path: Path, limit: int | None = None, seed: int = 1234) -> Quiz:
    """The quiz at `path`, in order: a run, its release, its judge folder or quiz.jsonl (the questions that the run was asked), or a
    corpus folder (questions made from its held-out functions by `seed`, as the build makes them).

    `limit`: at most so many; of a run's questions a sample by `seed`. Raises `PunaError` where there are none, the file is damaged, or for a limit below 1.
    """
    path = Path(path)
    check_limit(limit, f"{QUIZ}{path}")
    notes: tuple[str, ...] = ()
    folder = path if path.is_dir() else path.parent
    file = path if path.is_file() else _quiz_file(path)
    if file is not None:
        functions, corpus = _functions_of(file)
        items = _read_items(file, functions)
        data, source = file_sha256(file), file.parent.parent.name if corpus else file.parent.name
        notes = () if functions else (_GUESSED,)
    elif find_inside(folder, FUNCTIONS) is not None:
        found = read_functions(folder) or []
        train = load(folder, "train", TRAIN_BYTES, seed).texts
        items, _ = make_items(found, limit or Judge().quiz_items, seed, train)
        data, source = file_sha256(folder / FUNCTIONS), folder.name
    else:
        raise PunaError("holds no quiz", where=str(path), mend=_MEND)
    if not items:
        raise PunaError("holds no question", where=str(path), mend=_MEND)
    in_all = len(items)
    if limit is not None and limit < len(items):
        kept = sorted(np.random.default_rng([seed, len(items)]).permutation(len(items))[:limit].tolist())
        items = [items[number] for number in kept]
    facts = TaskFacts(
        name="python_quiz", title="Python quiz", kind="quiz", metric=METRIC, chance=1 / CHOICES, language="en",
        digest=digest_of({"rule": PRIMARY, "question": QUESTION, "unnamed": UNNAMED, "choices": CHOICES}), data_digest=data,
        prompt_digest=digest_of([[item.question, item.choices, item.right] for item in items]), items_in_all=in_all, source=source,
        notes=(f'Each summary is scored as the assistant\'s answer to "{QUESTION}", less its likelihood after "{UNNAMED}".', *notes),
    )  # fmt: skip
    return Quiz(facts, items)


def ask_quiz(engine: Engine, quiz: Quiz | Sequence[Item], progress: Progress = QUIET) -> list[measured.Item]:
    """Every question's answer, counted as the build counts it: the likeliest summary by pointwise mutual information, a tie is wrong.

    `loglikelihoods` are those of PRIMARY: nats of log P(answer | question) - log P(answer | the question without the name). A
    question that the context cannot hold has no score, and `truncated` says by how many tokens. Raises `PunaError` where the model has
    no chat format.
    """
    if not engine.chats:
        raise PunaError(
            "the model has no chat format, and the quiz is asked as a conversation", mend="judge a chat model with it"
        )
    items = quiz.items if isinstance(quiz, Quiz) else quiz
    tables, whole = score_choices(engine, items, progress)
    right = np.array([item.right for item in items])
    given = {name: credit(table, right) for name, table in tables.items()}
    prompts = [_prompt(engine, item) for item in items]
    ids = stable_ids(items)
    answers = []
    for number, item in enumerate(items):
        gains = tables[PRIMARY][number]
        sound = bool(whole[number]) and bool(np.isfinite(gains).all())
        best = np.flatnonzero(gains == gains.max()) if sound else np.array([], np.int64)
        answers.append(measured.Item(
            id=ids[number], cluster=item.function.module, question=item.question, prompt=prompts[number], choices=item.choices,
            target=(item.right,), answer=int(best[0]) if sound else None,
            loglikelihoods=tuple(float(value) if sound else None for value in gains),
            score=float(given[PRIMARY][number] == 1) if sound else None,
            scores={name: float(values[number] == 1) for name, values in given.items()} if sound else {},
            truncated=0 if whole[number] else _too_many(engine, item), tie=len(best) > 1,
        ))  # fmt: skip
    return answers


def stable_ids(items: Sequence[Item]) -> list[str]:
    """An id for each question that does not depend on which others are asked: the function's name, with a digest of the choices."""
    return [f"{item.function.shown}:{digest_of([item.choices, item.right])[:8]}" for item in items]


def _prompt(engine: Engine, item: Item) -> str:
    """What stands before an answer, the marks of the turns shown."""
    rendered = render_batch(
        engine.tokenizer, [[{"role": "user", "content": item.question}]], add_generation_prompt=True
    )[0]
    return engine.tokenizer.decode(rendered.ids, skip_special=False)


def _too_many(engine: Engine, item: Item) -> int:
    """By how many tokens the longest of an item's conversations is longer than the context."""
    talks = [
        [{"role": "user", "content": question}, {"role": "assistant", "content": choice}]
        for choice in item.choices for question in (item.question, UNNAMED)
    ]  # fmt: skip
    lengths = [len(row.loss) - 1 - row.loss[::-1].index(True) - 1 for row in render_batch(engine.tokenizer, talks)]
    return max(1, max(lengths) - engine.context)


def _quiz_file(folder: Path) -> Path | None:
    """The quiz.jsonl of a judge folder, of a run or of the run that a release belongs to; the one whose scores were released."""
    if not folder.is_dir():
        raise PunaError("is neither a file nor a folder", where=str(folder), mend=_MEND)
    here = find_inside(folder, QUESTIONS)
    if here is not None:
        return here
    run = folder.parent if (folder / "puna").is_dir() else folder
    found = [
        judged
        for judged in sorted(run.glob("judge-*"))
        if (judged / QUESTIONS).is_file() and (judged / RESULTS).is_file()
    ]
    released = run / "release" / "puna" / RESULTS
    if len(found) > 1 and released.is_file():
        wanted = file_sha256(released)
        found = [judged for judged in found if file_sha256(judged / RESULTS) == wanted]
    if len(found) > 1:
        names = ", ".join(judged.name for judged in found[:5])
        raise PunaError(f"was judged {len(found)} times ({names})", where=str(run), mend="name one of these folders")
    return find_inside(found[0], QUESTIONS) if found else None


def _functions_of(file: Path) -> tuple[dict[str, Function], Path | None]:
    """The functions, by the name that questions show, of the corpus that the quiz was made from; none where it is not there."""
    folder = file.parent
    digest = read_object(folder, RESULTS).get("inputs", {})
    wanted = digest.get(FUNCTIONS) if isinstance(digest, Mapping) else None
    for corpus in sorted(folder.parent.glob("corpus-*")):
        if isinstance(wanted, str) and (corpus / FUNCTIONS).is_file() and file_sha256(corpus / FUNCTIONS) == wanted:
            return {function.shown: function for function in read_functions(corpus) or []}, corpus
    return {}, None


def _read_items(file: Path, functions: Mapping[str, Function]) -> list[Item]:
    """The questions of a quiz.jsonl. Raises `PunaError` that names file and line where one is none."""
    items = []
    for number, line in enumerate(read_text(file, MAX_JSON).splitlines(), 1):
        where = f"{file}:{number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise PunaError(f"is no JSON ({str(error)[:80]})", where=where) from None
        items.append(_item(row, functions, where))
    return items


def _item(row: Any, functions: Mapping[str, Function], where: str) -> Item:
    if not isinstance(row, dict):
        raise PunaError("is no question", where=where)
    shown, choices, right = row.get("function"), row.get("choices"), row.get("right")
    if (
        not _is_text(shown)
        or not isinstance(choices, list)
        or not all(map(_is_text, choices))
        or type(right) is not int
    ):
        raise PunaError("is no question: a function's name, choices and the right one's place are needed", where=where)
    if not 0 <= right < CHOICES or len(choices) != CHOICES or len(set(choices)) != CHOICES:
        raise PunaError(f"is no question with {CHOICES} different choices, one of them right", where=where)
    if row.get("question") != QUESTION.format(name=shown):
        raise PunaError("asks another question than this version does", where=where)
    return Item(functions.get(shown) or _named(shown, choices[right]), tuple(choices), right)


def _is_text(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and 0 < len(value) <= _LONGEST_TEXT


def _named(shown: str, summary: str) -> Function:
    """A function of which only the shown name is known: its module is what stands before the first part that may be a class."""
    parts = shown.split(".")
    head = parts[:-1]
    classes = [number for number, part in enumerate(head) if part[:1].isupper()]
    module = ".".join(head[: classes[0]] if classes else head)
    inside = shown[len(module) + 1 :] if module else shown
    return Function(module, inside, parts[-1], "", summary, "function", "heldout")
