"""A four-choice quiz from held-out functions: which summary belongs to this function?

Comes in: the corpus's functions, the chat model. Goes out: accuracy beside chance and beside what shared letters alone
give. Must never happen: a summary that the model was trained on among the choices, two right answers, or a scoring
rule chosen after the answers were seen.

The choices are never shown together. Each is scored as what the assistant answers to "What does NAME do?", and the
likeliest counts as the model's choice. PRIMARY was fixed before any model was scored: pointwise mutual information,
log P(answer | question) - log P(answer | the same question without a name), which takes out that some summaries are
likelier than others whatever is asked (Brown et al. 2020, section 2.4; Holtzman et al. 2021). The other rules are
reported beside it.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from puna.engine import Engine
from puna.judge.bits_per_byte import batch_tokens
from puna.judge.functions import Function
from puna.judge.results import PLACES, Score, make_score
from puna.judge.stats import Interval, Units, binomial_p_value, effective_n, ratio_interval, wilson
from puna.progress import QUIET, Progress
from puna.tokens.chat import render_batch

PRIMARY = "pmi"
QUESTION = "What does {name} do?"
UNNAMED = "What does this function do?"
CHOICES = 4
LEAST_ITEMS = 20  # fewer questions cannot tell a model from chance
_SHORTEST, _LONGEST = 16, 200  # characters of a summary
_NEIGHBOURS = 40  # distractors come from the summaries nearest in length
_GRAM = 3
Table = npt.NDArray[np.float64]  # [items, 4]
Credits = npt.NDArray[np.float64]  # [items]


@dataclass(frozen=True)
class Item:
    """One question: the function, four summaries, which of them is its own."""

    function: Function
    choices: tuple[str, ...]
    right: int

    @property
    def question(self) -> str:
        """What the user asks."""
        return QUESTION.format(name=self.function.shown)


def letters(text: str) -> str:
    """A text by its letters and digits alone, for "is it the same"."""
    return "".join(char for char in text.casefold() if char.isalnum())


def family(function: Function) -> str:
    """Overloads and overridden methods share their name (bytes.split, str.split; log2, log10): one family."""
    return re.sub(r"\d+$", "", letters(function.name)) or letters(function.name)


def make_items(
    functions: Sequence[Function], most: int, seed: int, train: Sequence[str] = ()
) -> tuple[list[Item], dict[str, int]]:
    """At most `most` questions, drawn by `seed`, and how many held-out functions were left aside for what reason.

    `train`: the training texts. A summary that stands anywhere in them, on however many lines, is no question.
    """
    trained = {letters(function.summary) for function in functions if function.split == "train"}
    known = "\n".join(_folded(text) for text in train)
    rng = np.random.default_rng([seed, 2])
    heldout = [function for function in functions if function.split == "heldout"]
    pool: dict[str, Function] = {}
    aside = {"not a function or method": 0, "summary too short or too long": 0, "summary also in training text": 0,
             "summary spells the name": 0, "summary of another function too": 0, "too few distractors": 0}  # fmt: skip
    for function in (heldout[i] for i in rng.permutation(len(heldout))):
        key = letters(function.summary)
        if function.kind not in ("function", "method"):
            aside["not a function or method"] += 1
        elif not _SHORTEST <= len(function.summary) <= _LONGEST:
            aside["summary too short or too long"] += 1
        elif key in trained or _folded(function.summary) in known:
            aside["summary also in training text"] += 1
        elif key in (letters(function.name), letters(function.qualname), letters(function.shown)):
            aside["summary spells the name"] += 1
        elif key in pool:
            aside["summary of another function too"] += 1
        else:
            pool[key] = function
    items = []
    for function in list(pool.values())[:most]:
        others = [other for other in pool.values() if family(other) != family(function)]
        others.sort(key=lambda other: abs(len(other.summary) - len(function.summary)))
        if len(others) < CHOICES - 1:
            aside["too few distractors"] += 1
            continue
        drawn = rng.choice(min(_NEIGHBOURS, len(others)), CHOICES - 1, replace=False)
        choices = [others[i].summary for i in drawn]
        right = int(rng.integers(CHOICES))
        choices.insert(right, function.summary)
        items.append(Item(function, tuple(choices), right))
    return items, {reason: count for reason, count in aside.items() if count}


def _folded(text: str) -> str:
    return " ".join(text.split()).casefold()


def overlap_scores(items: Sequence[Item]) -> Table:
    """[items, 4] character 3-grams that a summary shares with the function's qualified name."""

    def grams(text: str) -> set[str]:
        plain = letters(text)
        return {plain[i : i + _GRAM] for i in range(len(plain) - _GRAM + 1)}

    return np.array(
        [[len(grams(item.function.qualname) & grams(choice)) for choice in item.choices] for item in items], float
    )


def credit(scores: Table, right: npt.NDArray[np.int64]) -> Credits:
    """[items] 1 where the right choice has the highest score, a fair share where it ties for it, else 0."""
    best = scores == scores.max(axis=1, keepdims=True)
    return np.where(best[np.arange(len(right)), right], 1 / best.sum(axis=1), 0.0)


def score_choices(
    engine: Engine, items: Sequence[Item], progress: Progress = QUIET
) -> tuple[dict[str, Table], npt.NDArray[np.bool_]]:
    """Each scoring rule's numbers [items, 4], higher is likelier, and which items fit the model's context [items]."""
    asked = [(item.question, choice) for item in items for choice in item.choices]
    unnamed = {
        choice: len(asked) + number for number, choice in enumerate(dict.fromkeys(choice for _, choice in asked))
    }
    rows = _rows(engine, [*asked, *((UNNAMED, choice) for choice in unnamed)])
    fits = np.array([len(prompt) + len(answer) - 1 <= engine.context for prompt, answer in rows])
    nats = np.zeros(len(rows))
    chosen, step = np.flatnonzero(fits), 256
    progress.start("asking the quiz", len(chosen), "answers")
    for start in range(0, len(chosen), step):
        part = chosen[start : start + step]
        nats[part] = engine.logprobs([rows[i] for i in part], batch_tokens(engine))
        progress.update(start + len(part))
    progress.finish()
    prior = np.array([unnamed[choice] for _, choice in asked])
    length = np.array([len(answer) for _, answer in rows[: len(asked)]])
    named, gain = nats[: len(asked)], nats[: len(asked)] - nats[prior]
    tables = {"pmi": gain, "sum": named, "per_token": named / length, "pmi_per_token": gain / length}
    shape = (len(items), CHOICES)
    whole = (fits[: len(asked)] & fits[prior]).reshape(shape).all(axis=1)
    return {name: table.reshape(shape) for name, table in tables.items()}, whole


def _rows(engine: Engine, pairs: Sequence[tuple[str, str]]) -> list[tuple[list[int], list[int]]]:
    """(prompt, answer) token ids of each (question, answer). The turn's end is not scored: a reply may well say more."""
    talks = [
        [{"role": "user", "content": question}, {"role": "assistant", "content": answer}] for question, answer in pairs
    ]
    rows = []
    for rendered in render_batch(engine.tokenizer, talks):
        first = rendered.loss.index(True)
        end = len(rendered.loss) - 1 - rendered.loss[::-1].index(True)  # the place of <|im_end|>
        rows.append((rendered.ids[:first], rendered.ids[first:end]))
    return rows


@dataclass(frozen=True)
class QuizResult:
    """The chat model's score, the shared-letters baseline's, and every question with what was chosen."""

    score: Score
    baseline: Score
    log: list[dict[str, Any]]


def run_quiz(
    engine: Engine, items: Sequence[Item], aside: dict[str, int], draws: int, seed: int, progress: Progress = QUIET
) -> QuizResult | None:
    """Ask and count. None where no question fits the model's context."""
    tables, whole = score_choices(engine, items, progress)
    items = [item for item, fits in zip(items, whole, strict=True) if fits]
    tables = {name: table[whole] for name, table in tables.items()}
    if not items:
        return None
    right = np.array([item.right for item in items])
    given = {name: credit(table, right) for name, table in tables.items()}
    shared = credit(overlap_scores(items), right)
    detail = {
        "n_is": "questions", "scoring": f"{PRIMARY}, fixed before any model was scored", "question": QUESTION,
        "question_without_name": UNNAMED, "too_long_for_context": int((~whole).sum()), "left_aside": aside,
        "accuracy_by_scoring": {name: round(float(values.mean()), PLACES) for name, values in given.items()},
        **_by_module(items, given[PRIMARY], shared, draws, seed),
    }  # fmt: skip
    hits, n = int((given[PRIMARY] == 1).sum()), len(items)  # a tie is not a right answer
    # Questions about one module are kin: the interval draws modules, and p counts as many questions as that is worth.
    modules = _over_modules(items, (given[PRIMARY] == 1).astype(float), draws, seed)
    worth = effective_n(n, hits / n, modules)
    detail |= {
        "interval_is": "whole modules drawn again" if modules else "of independent questions",
        "effective_n": worth,
    }
    score = make_score("quiz", "accuracy", hits / n, n, modules or wilson(hits, n), model="chat", chance=1 / CHOICES,
                       p_value=binomial_p_value(hits * worth // n, worth, Fraction(1, CHOICES)), higher_is_better=True, detail=detail)  # fmt: skip
    what = f"the summary that shares most character {_GRAM}-grams with the name; a tie earns a fair share"
    baseline = make_score("quiz", "accuracy", float(shared.mean()), n,
                          _over_modules(items, shared, draws, seed) or wilson(float(shared.sum()), n), name="shared_letters",
                          chance=1 / CHOICES, higher_is_better=True, detail={"n_is": "questions", "what": what})  # fmt: skip
    return QuizResult(score, baseline, _log(items, tables))


def _over_modules(items: Sequence[Item], right: Credits, draws: int, seed: int) -> Interval | None:
    """The interval of the share of right answers with whole modules drawn again; None for too few modules."""
    modules = Units.of([item.function.module for item in items])
    if modules.kind != "sources":  # a single module: its questions are all kin
        return None
    return ratio_interval(modules.sums(right), modules.sums(np.ones(len(items))), draws, seed)


def _by_module(items: Sequence[Item], model: Credits, shared: Credits, draws: int, seed: int) -> dict[str, Any]:
    """What changes when questions about one module count as kin: whole modules are drawn again."""
    modules = Units.of([item.function.module for item in items])
    astray = model[shared < 1]  # where letters alone do not find the summary
    ones, gain = modules.sums(np.ones(len(items))), modules.sums(model - shared)
    return {
        "modules": modules.count,
        "shared_letters": {"accuracy": round(float(shared.mean()), PLACES), "difference": round(float(gain.sum() / len(items)), PLACES),
                           "difference_is": "model minus shared letters, paired, whole modules drawn again",
                           "interval": _rounded(ratio_interval(gain, ones, draws, seed)),
                           "model_where_letters_fail": {"n": len(astray), "right": int((astray == 1).sum())}},
    }  # fmt: skip


def _log(items: Sequence[Item], tables: dict[str, Table]) -> list[dict[str, Any]]:
    return [
        {"function": item.function.shown, "question": item.question, "choices": list(item.choices), "right": item.right,
         "chosen": int(tables[PRIMARY][number].argmax()),
         "scores": {name: table[number].round(4).tolist() for name, table in tables.items()}}
        for number, item in enumerate(items)
    ]  # fmt: skip


def _rounded(interval: Interval | None) -> list[float] | None:
    return None if interval is None else [round(value, PLACES) for value in interval]
