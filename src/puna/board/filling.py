"""Templates and their words: how numbers of a board are written, and an environment in which no text reaches a page unescaped.

Comes in: values. Goes out: HTML. Must never happen: a stranger's text that becomes markup; a number written otherwise here than by
static/words.js.
"""

import math
from collections.abc import Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from puna import words
from puna.board.data import Column
from puna.called import PUNA
from puna.judge.measured import TaskFacts
from puna.visible import clean

# Nothing is loaded but our own scripts, styles and drawings; nothing inline runs; nothing is sent.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'"
)
SHARE = TaskFacts(name="mean", title="mean", kind="choices", metric="")  # the unit of means over tasks


def environment() -> Environment:
    """Our templates. An unknown name in one is an error."""
    made = Environment(
        loader=PackageLoader("puna.board", "templates"), undefined=StrictUndefined, finalize=_nothing_hidden, autoescape=True,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    made.filters.update(
        number=words.number, compact=words.compact, power=power, percent=words.percent, decimal=words.decimal, p=words.p_value,
        plain=words.plain, lang=words.language, brief=words.brief, shorten=shorten, counted=words.counted, score=score, signed=signed,
        under=under, duration=words.duration,
    )  # fmt: skip
    made.globals.update(share=SHARE, policy=POLICY, puna=PUNA)
    return made


def _nothing_hidden(value: Any) -> Any:
    """What every `{{ }}` passes through: no text reaches a page uncleaned."""
    return clean(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def score(value: float | None, task: TaskFacts) -> str:
    """A score in its task's unit: shares in per cent without the sign, to a tenth."""
    if value is None or not math.isfinite(value):
        return words.decimal(None)
    if task.unit == "share":
        return _minus(f"{100 * value:.1f}")
    return _minus(f"{value:.3f}" if task.unit == "bits per byte" else f"{value:.1f}")


def _minus(text: str) -> str:
    """A true minus sign, and none before nought."""
    return text.removeprefix("-") if not text.strip("-0.") else text.replace("-", "\u2212")


def signed(value: float | None, task: TaskFacts) -> str:
    """A difference in the task's unit, with its sign."""
    text = score(value, task)
    return f"+{text}" if value is not None and value > 0 and any(digit in text for digit in "123456789") else text


def interval(ends: Sequence[float] | None, task: TaskFacts, *, signs: bool = False) -> str:
    """An interval in the task's unit; "no interval" where there is none."""
    say = signed if signs else score
    return f"{say(ends[0], task)} to {say(ends[1], task)}" if ends else "no interval"


def power(value: float | None) -> str:
    """A count of floating-point operations: 2.9e13."""
    return words.decimal(None) if value is None else f"{value:.2e}".replace("e+", "e")


def under(column: Column) -> str:
    """What stands under a task's name in the table: how it is counted, and what guessing gives."""
    facts = column.facts
    parts = [words.brief(facts.metric, 20)]
    if facts.unit != "share":
        parts = [facts.unit, "more is better" if facts.higher_is_better else "less is better"]
    if facts.shots:
        parts.append(f"{facts.shots}-shot")
    if column.chat:
        parts.append("chat format")
    if facts.chance:
        parts.append(f"chance {score(facts.chance, facts)}")
    return ", ".join(parts)


def shorten(text: str, most: int = 4000) -> str:
    """Cleaned text of at most `most` characters, and a sign where it was cut."""
    cleaned = clean(text[: most + 1])
    return cleaned if len(text) <= most and len(cleaned) <= most else f"{cleaned[:most]} […]"
