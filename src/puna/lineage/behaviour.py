"""What two models say, beside what strangers say: for models of which only the answers can be had.

Comes in: whoever can name the likeliest next token of a text, and lines of text. Goes out: `verdict.Behaviour`. Must never happen: a likeness of
answers told as a likeness of weights: a student speaks like its teacher, and all who read one text speak somewhat alike.

After Nikolić et al. 2025, "Model Provenance Testing for Large Language Models" (arXiv 2502.00706): how often MODEL and REFERENCE name the same
next token, against how often each of a set of strangers and REFERENCE do. For each stranger an exact sign test over the contexts on which one
of the two agrees with REFERENCE and the other does not; the largest p-value over the strangers counts, as MODEL must be nearer than every one.
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
from jaxtyping import Bool
from numpy import ndarray
from scipy import stats

from puna.engine import Engine, Sampling
from puna.errors import PunaError
from puna.lineage.verdict import Behaviour
from puna.progress import QUIET, Progress
from puna.visible import clean

LEAST, MOST = 40, 400  # contexts
ALIKE_BELOW = 1e-3
_BATCH = 32
_CHINESE = (
    "人人生而自由，在尊严和权利上一律", "今天天气很好，我们一起去公园", "从前有一个小女孩，她住在森林", "这个问题的答案是",
    "北京是中国的", "春天来了，花儿", "请用一句话说明什么是", "他打开门，看见",
)  # fmt: skip


class NextToken(Protocol):
    """A model that continues texts by one token."""

    @property
    def name(self) -> str:
        """What a person calls it."""

    def next_tokens(self, contexts: Sequence[str]) -> list[str]:
        """Of each context the likeliest next token as text."""


class LocalModel:
    """A model on this machine, through the engine."""

    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name = path, name

    @cached_property
    def _engine(self) -> Engine:
        return Engine.load(self.path)

    def next_tokens(self, contexts: Sequence[str]) -> list[str]:
        """Greedy, one token; a context longer than the model's keeps its end."""
        engine = self._engine
        said: list[str] = []
        for at in range(0, len(contexts), _BATCH):
            prompts = [engine.begin(text)[-(engine.context - 1) :] for text in contexts[at : at + _BATCH]]
            found = engine.complete(prompts, Sampling(temperature=0.0, max_tokens=1))
            said += [one.text for one in found]
        return said


def default_contexts() -> list[str]:
    """Beginnings of sentences of the running Python's reference, and some in Chinese: short, so that every model's context holds them."""
    from pydoc_data import topics

    words = " ".join(text for _, text in sorted(topics.topics.items())).split()
    step = len(words) // 320
    return [" ".join(words[at : at + 12]) for at in range(0, step * 320, step)] + list(_CHINESE)


def compare_behaviour(
    model: NextToken,
    reference: NextToken,
    controls: Sequence[NextToken],
    contexts: Sequence[str],
    progress: Progress = QUIET,
) -> Behaviour:
    """Agreement over `contexts` (at most 400 of them, evenly drawn), beside the controls'. Raises `PunaError` for too few contexts."""
    if len(contexts) < LEAST:
        raise PunaError(
            f"{len(contexts)} contexts are too few to compare what is said",
            where="--text",
            mend=f"give {LEAST} lines or more",
        )
    chosen = [contexts[i] for i in np.linspace(0, len(contexts) - 1, min(MOST, len(contexts))).round().astype(int)]
    said = {}
    progress.start("what they say", 2 + len(controls), "models")
    for done, one in enumerate((model, reference, *controls), start=1):
        said[done] = np.asarray(one.next_tokens(chosen), dtype=object)
        progress.update(done)
    progress.finish()
    known = said[2]
    agrees = said[1] == known
    spread, ps = {}, []
    for number, control in enumerate(controls, start=3):
        theirs = said[number] == known
        spread[control.name] = float(theirs.mean())
        only_model, only_control = int((agrees & ~theirs).sum()), int((theirs & ~agrees).sum())
        untied = only_model + only_control
        ps.append(float(stats.binomtest(only_model, untied, 0.5, alternative="greater").pvalue) if untied else 1.0)
    p_value = max(ps) if ps else None
    alike = None if p_value is None else p_value < ALIKE_BELOW
    agreement = float(agrees.mean())
    return Behaviour(agreement=agreement, contexts=len(chosen), controls=spread, p_value=p_value, alike=alike,
                     sentence=_sentence(model.name, reference.name, agreement, spread, p_value, alike))  # fmt: skip


def sign_test(ours: Bool[ndarray, " n"], others: Bool[ndarray, " n"]) -> float:
    """One-sided p of an exact sign test: does the first agree where the second does not more often than the other way round?"""
    only_ours, only_others = int((ours & ~others).sum()), int((others & ~ours).sum())
    untied = only_ours + only_others
    return float(stats.binomtest(only_ours, untied, 0.5, alternative="greater").pvalue) if untied else 1.0


def _sentence(
    model: str, reference: str, agreement: float, spread: dict[str, float], p_value: float | None, alike: bool | None
) -> str:
    said = f"{clean(model)} and {clean(reference)} name the same next token {agreement:.0%} of the time"
    if alike is None:
        return f"{said}. Without a control model that says nothing."
    range_ = f"strangers and {clean(reference)} {min(spread.values()):.0%} to {max(spread.values()):.0%}"
    word = "They speak alike" if alike else "They do not speak more alike than strangers"
    return f"{word}: {said}, {range_} (p = {p_value:.2g} against the nearest). What a model says does not show where its weights come from."
