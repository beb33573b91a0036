"""What the numbers say, in plain words: the summary and the verdict that stand at the top of a report and a card.

Comes in: `ReportData`. Goes out: sentences. Must never happen: a sentence that claims more than the interval allows:
where the interval of a difference holds nought, the words are "cannot tell".
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

from puna.report.data import Command, ReportData, Results, Score
from puna.visible import clean
from puna.words import decimal, duration, in_words, listed, number, p_value, percent, size_bytes

_LABELS = {
    "uniform": "uniform chance",
    "xz": "xz -9e",
    "xz_primed": "xz -9e, primed",
    "ngram5": "5-gram",
    "reference": "reference recipe",
    "shared_letters": "quiz, by shared letters",
}
_IN_PROSE = {
    "xz": "xz -9e on the same text alone",
    "xz_primed": "xz -9e primed with the training text",
    "ngram5": "an interpolated 5-gram model of the same tokens",
    "reference": "the reference recipe, trained for the same minutes",
}
_SHORT = {"xz": "xz", "xz_primed": "primed xz", "ngram5": "the 5-gram model", "reference": "the reference recipe"}
_WITHOUT_MODEL = {
    "shared_letters": "Picking the summary that shares most letters with the function’s name, with no model at all,"
}
_TASKS = {"quiz": "four-choice quiz", "parse": "functions that parse", "heldout": "held-out text"}
_SURE = 0.01  # the level at which the quiz counts as better than guessing

Outcome = Literal["better", "worse", "open"]


@dataclass(frozen=True)
class Comparison:
    """The model against one baseline, in bits per byte: model minus baseline, so below nought is the model's win."""

    label: str
    sentence: str
    short: str
    difference: float
    interval: tuple[float, float] | None
    outcome: Outcome


def is_bits(score: Score) -> bool:
    """Whether a score is bits per byte."""
    return score.metric.lower().replace(" ", "_") in ("bits_per_byte", "bpb")


def baseline_key(score: Score) -> str:
    """A baseline's short name: its own, or its detail's, or its task."""
    detail = score.detail if isinstance(score.detail, dict) else {}
    return str(score.name or detail.get("baseline") or detail.get("name") or score.task)


def baseline_label(score: Score) -> str:
    """A baseline's name in tables and drawings."""
    key = baseline_key(score)
    return _LABELS.get(key, clean(key).replace("_", " "))


def task_label(score: Score) -> str:
    """A task's name in tables and drawings."""
    return _TASKS.get(score.task, clean(score.task).replace("_", " "))


def bits_score(results: Results | None) -> Score | None:
    """The model's bits per byte, if measured."""
    return (
        next((score for score in results.scores if is_bits(score) and score.value is not None), None)
        if results
        else None
    )


def share_scores(results: Results | None) -> list[tuple[str, Score]]:
    """The scores that are shares of one, with their labels: quiz accuracy, functions that parse."""
    if results is None:
        return []
    shares = [
        s for s in results.scores if not is_bits(s) and s.value is not None and s.higher_is_better and 0 <= s.value <= 1
    ]
    return [(task_label(score), score) for score in shares]


def share_rivals(results: Results | None) -> list[tuple[str, Score]]:
    """Baselines that are shares of one: what the quiz gives without a model."""
    return (
        [(baseline_label(s), s) for s in results.baselines if not is_bits(s) and s.value is not None] if results else []
    )


def counted_in(score: Score) -> str:
    """n and what it counts: "61 modules"."""
    kind = score.detail.get("n_is") if isinstance(score.detail, dict) else None
    return number(score.n) if score.n is None or not kind else f"{number(score.n)} {clean(str(kind))}"


def quiz_score(results: Results | None) -> Score | None:
    """The quiz: the first share that has a chance level."""
    return next((score for _, score in share_scores(results) if score.chance), None)


def comparisons(results: Results | None) -> list[Comparison]:
    """The model's bits per byte against each baseline but uniform chance, in the order of the baselines."""
    model = bits_score(results)
    if model is None or results is None:
        return []
    rivals = [score for score in results.baselines if is_bits(score) and score.value is not None]
    return [_compare(model, rival) for rival in rivals if baseline_key(rival) != "uniform"]


def _compare(model: Score, rival: Score) -> Comparison:
    difference, interval, paired = _difference(model, rival)
    outcome: Outcome = "open"
    if interval and interval[1] < 0:
        outcome = "better"
    elif interval and interval[0] > 0:
        outcome = "worse"
    key = baseline_key(rival)
    prose, short = _IN_PROSE.get(key, baseline_label(rival)), _SHORT.get(key, baseline_label(rival))
    size = decimal(abs(difference))
    how = f"{paired}, " if paired else ""
    if interval:
        low, high = sorted((abs(interval[0]), abs(interval[1])))
        within = f"{how}95\u202f% interval {decimal(low)} to {decimal(high)}"
    if outcome == "better":
        sentence = f"It needs {size} bits per byte fewer than {prose} ({within})."
    elif outcome == "worse":
        sentence = f"It falls short of {prose} by {size} bits per byte ({within})."
    elif interval:
        within = f"{how}95\u202f% interval {decimal(interval[0])} to {decimal(interval[1])}"
        sentence = (
            f"Against {prose} the data cannot tell: the difference is {decimal(difference)} bits per byte ({within})."
        )
    else:
        sentence = f"Against {prose} the difference is {decimal(difference)} bits per byte; no interval was measured."
    return Comparison(baseline_label(rival), sentence, short, difference, interval, outcome)


def _difference(model: Score, rival: Score) -> tuple[float, tuple[float, float] | None, str]:
    """Model minus baseline, its 95 % interval, and over what the judge paired the two (empty where it did not).

    Without a paired interval the two are taken as independent: half-widths add in quadrature. A baseline that is
    one exact number has none of its own.
    """
    mine, other = model.value or 0.0, rival.value or 0.0
    detail = rival.detail if isinstance(rival.detail, dict) else {}
    paired = detail.get("paired")
    if isinstance(paired, dict) and paired.get("interval"):
        low, high = paired["interval"]
        units = (
            f" over {number(paired['units'])} {clean(str(paired['drawn']))}"
            if paired.get("units") and paired.get("drawn")
            else ""
        )
        return float(paired.get("value", mine - other)), (float(low), float(high)), f"paired{units}"
    if model.interval is None:
        return mine - other, None, ""
    below, above = mine - model.interval[0], model.interval[1] - mine
    if rival.interval:
        below = math.hypot(below, rival.interval[1] - other)
        above = math.hypot(above, other - rival.interval[0])
    return mine - other, (mine - other - below, mine - other + above), ""


def headline(results: Results | None) -> str:
    """The verdict in one line; empty where nothing was compared."""
    found = comparisons(results)
    parts = []
    untold = [c.short for c in found if c.outcome == "open" and c.interval is None]
    for outcome, verb in (("better", "beats"), ("worse", "falls short of"), ("open", "cannot be told from")):
        names = [
            f"{c.short} by {decimal(c.difference, 2)}" if outcome == "worse" else c.short
            for c in found
            if c.outcome == outcome and c.short not in untold
        ]
        if names:
            parts.append(f"{verb} {listed(names)}{' bits per byte' if outcome == 'worse' else ''}")
    if untold:
        parts.append(f"was judged on too little text to be compared with {listed(untold)}")
    quiz = quiz_score(results)
    if quiz and quiz.p_value is not None:
        parts.append(
            "answers the quiz better than chance" if _above_chance(quiz) else "answers the quiz no better than chance"
        )
    return f"It {listed(parts, '; ')}." if parts else ""


def _above_chance(score: Score) -> bool:
    return score.p_value is not None and score.p_value < _SURE and (score.value or 0) > (score.chance or 0)


def verdict(data: ReportData) -> list[tuple[str, str]]:
    """(kind, sentence) for each thing there is to say; kind is better, worse, open or fact."""
    said: list[tuple[str, str]] = [(c.outcome, c.sentence) for c in comparisons(data.results)]
    said += inherited(data.results)
    quiz = quiz_score(data.results)
    if quiz and quiz.value is not None:
        items = f" of {number(quiz.n)} questions" if quiz.n else ""
        text = f"On the {task_label(quiz)} it answers {percent(quiz.value)}{items} rightly; guessing gives {percent(quiz.chance, 0)}"
        if quiz.p_value is None:
            said.append(("fact", f"{text}."))
        elif _above_chance(quiz):
            said.append(("better", f"{text} (p {_p(quiz.p_value)})."))
        else:
            said.append(("open", f"{text}: the data cannot tell it from guessing (p {_p(quiz.p_value)})."))
    for name, score in share_rivals(data.results):
        way = _WITHOUT_MODEL.get(baseline_key(score), f"{name[:1].upper()}{name[1:]}, with no model at all,")
        said.append(("fact", f"{way} gives {percent(score.value)}."))
    for name, score in share_scores(data.results):
        if score is not quiz and not score.chance:
            said.append(("fact", f"{name[:1].upper()}{name[1:]}: {percent(score.value)} of {number(score.n)}."))
    failed = [check.check for check in data.gate if not check.passed]
    if failed:
        said.append(
            ("worse", f"The export gate failed: {', '.join(clean(name) for name in failed)}. Do not use this release.")
        )
    elif data.gate:
        said.append(("better", f"All {len(data.gate)} checks of the export gate passed."))
    return said


def summary(data: ReportData) -> str:
    """What was built, in one paragraph for a reader who knows nothing of it."""
    title = clean(data.title or data.run)
    sentences = []
    if data.model and data.model.parameters:
        sentences.append(
            f"{title} is a language model of {in_words(data.model.parameters)} parameters, {_origin(data)}."
        )
    else:
        sentences.append(f"{title} is a language model, {_origin(data)}.")
    if data.corpus:
        names = listed([_source_in_prose(source.name, data.corpus.python) for source in data.corpus.sources])
        given = f"Its text is {size_bytes(data.corpus.bytes.train)}" + (f" of {names}" if names else "")
        seen, passes = tokens_seen(data), data.training.passes if data.training else None
        over = (
            "" if passes is None else f", {percent(passes)} of it" if passes < 1 else f", {passes:.1f} passes over it"
        )
        read = f"; training read {in_words(seen)} tokens{over}" if seen else ""
        sentences.append(f"{given}{read}.")
    if data.tuning:
        talks = sum(
            counts["conversations"] for counts in chat_counts(data) if isinstance(counts.get("conversations"), int)
        )
        counted = f"{number(talks)} conversations" if talks else "conversations"
        passes = data.tuning[-1].passes
        part = f"{percent(passes)} of " if passes is not None and passes < 1 else ""
        sentences.append(f"It was then tuned on {part}{counted} to answer in a chat.")
    if data.corpus and data.corpus.bytes.heldout:
        sentences.append(
            f"It is judged on {size_bytes(data.corpus.bytes.heldout)} of text that it was never shown, "
            + ("the end of each document." if data.corpus.by_tail else f"held apart by whole {data.corpus.whole}.")
        )
    seconds = total_seconds(data)
    if seconds:
        sentences.append(f"All of it took {duration(seconds)}.")
    return " ".join(sentences)


def _origin(data: ReportData) -> str:
    """Where the first weights came from. A model with inherited rows has a base, whether or not it is named."""
    names = [clean(str(name)) for name in data.base.get("names", [])]
    if names:
        return f"made from the open weights of {listed(names)}"
    inherits = data.base or (data.results and data.results.inheritance)
    return "made from open weights" if inherits else "trained from random weights"


def inherited(results: Results | None) -> list[tuple[str, str]]:
    """(kind, sentence) of the last model against the first, by domain: what was gained, what was forgotten."""
    found = results.inheritance if results else None
    if found is None:
        return []
    ends = (found.models[0], found.models[-1])
    kinds = {True: "better", False: "worse", None: "open"}
    return [(kinds[gap.holds], gap.words) for gap in found.differences if (gap.before, gap.after) == ends and gap.words]


def tokens_seen(data: ReportData) -> int | None:
    """Tokens of pretraining, from the last step that was logged."""
    metrics = data.training.metrics if data.training else []
    return next((metric.tokens for metric in reversed(metrics) if metric.tokens), None)


def total_seconds(data: ReportData) -> float | None:
    """Seconds of all stages; None where no stage gives its time."""
    known = [stage.seconds for stage in data.stages if stage.seconds is not None]
    return sum(known) if known else None


def chat_counts(data: ReportData) -> list[dict[str, Any]]:
    """The counts of each set of conversations: `chat_data` is one set, or holds one for each stage."""
    if data.chat_data and all(isinstance(value, dict) for value in data.chat_data.values()):
        return list(data.chat_data.values())
    return [data.chat_data] if data.chat_data else []


def command_pairs(data: ReportData) -> list[Command]:
    """The commands, those without words of their own with none."""
    return [Command(what="", command=item) if isinstance(item, str) else item for item in data.commands]


def _p(value: float) -> str:
    written = p_value(value)
    return written if written.startswith("<") else f"= {written}"


def _source_in_prose(name: str, python: str | None) -> str:
    if name == "python":
        return f"the documentation and source of Python{f' {clean(python)}' if python else ''}"
    return clean(name)
