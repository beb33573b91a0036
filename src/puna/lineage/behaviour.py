"""What two models say, beside what strangers say: for models of which only the answers can be had.

Comes in: whoever can name the likeliest next token of a text, and lines of text. Goes out: `verdict.Behaviour`. Must never happen: a likeness of
answers told as a likeness of weights: a student speaks like its teacher, and all who read one text speak somewhat alike.

After Nikolić et al. 2025, "Model Provenance Testing for Large Language Models" (arXiv 2502.00706): how often MODEL and REFERENCE name the same
next token, against how often each of a set of strangers and REFERENCE do. For each stranger an exact sign test over the contexts on which one
of the two agrees with REFERENCE and the other does not; the largest p-value over the strangers counts, as MODEL must be nearer than every one (that
is stricter than Holm's smallest). Where the models are on this machine and have one vocabulary, "nearer" is a smaller Jensen-Shannon
divergence of the whole distributions, which sees much more than the likeliest token.

That p-value takes the contexts for the sample, and with enough contexts the nearest of k + 1 strangers is always nearest for sure: on ten small
strangers of one text it named 4 % of pairs alike beside four controls, and 16 % beside two (15 % and 23 % by divergence). So MODEL must also
be beyond the controls' spread: Student's t for one more draw from the strangers' mean agreement, or of the logarithm of their mean divergence
(both: 0.7 % beside four). Two controls leave that test little power; four or more are wanted.

Tokens are compared as bytes, so a stranger that cuts text otherwise agrees less for that alone: controls should have REFERENCE's tokenizer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy import ndarray
from scipy import stats
from torch import Tensor

from puna.engine import Engine
from puna.errors import PunaError
from puna.lineage.verdict import Behaviour
from puna.model.decoder import Decoder
from puna.progress import QUIET, Progress
from puna.tokens.formats import open_tokenizer
from puna.visible import clean

LEAST, MOST = 40, 400  # contexts
ALIKE_BELOW, BEYOND_BELOW = 1e-3, 0.01  # of the sign test over contexts, and of Student's t over the controls
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
    """A model on this machine, through the engine. It is in memory only while it answers: many controls take no more than one."""

    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name = path, name

    @cached_property
    def vocabulary(self) -> tuple[bytes, ...]:
        """The bytes of every entry."""
        tokens = open_tokenizer(self.path)
        return tuple(tokens.token_bytes(id_) for id_ in range(tokens.vocab_size))

    def next_tokens(self, contexts: Sequence[str]) -> list[str]:
        """The likeliest token of each; "" where the text would end. See `answers`."""
        return self.answers(contexts)[0]

    @torch.inference_mode()
    def answers(self, contexts: Sequence[str]) -> tuple[list[str], Float[Tensor, "n v"]]:
        """(likeliest tokens, log-probabilities of all entries). A context longer than the model's keeps its end.

        A token is told by its bytes, one character a byte where they are no whole UTF-8 (a part of a Chinese character): two halves of
        different characters are not the same answer.
        """
        engine = Engine.load(self.path)
        said: list[str] = []
        spread: list[Tensor] = []
        for at in range(0, len(contexts), _BATCH):
            prompts = [engine.begin(text)[-(engine.context - 1) :] for text in contexts[at : at + _BATCH]]
            logits = _last_logits(engine.model, prompts)
            if not bool(torch.isfinite(logits).all()):
                raise PunaError("answers with NaN or infinity: there is nothing to compare", where=clean(self.name))
            logits[:, engine.banned_ids] = -torch.inf
            said += ["" if id_ in engine.stop_ids else self._text(id_) for id_ in logits.argmax(dim=1).tolist()]
            spread.append(logits[:, : engine.tokenizer.vocab_size].log_softmax(dim=1))
        return said, torch.cat(spread)

    def _text(self, id_: int) -> str:
        raw = self.vocabulary[id_]
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            return raw.decode("latin-1")


def _last_logits(model: Decoder, prompts: Sequence[Sequence[int]]) -> Float[Tensor, "b v"]:
    """After each prompt's last token; padding stands on the right, where nothing looks at it."""
    lengths = torch.tensor([len(prompt) for prompt in prompts])
    ids = torch.zeros(len(prompts), int(lengths.max()), dtype=torch.long)
    for row, prompt in zip(ids, prompts, strict=True):
        row[: len(prompt)] = torch.tensor(prompt)
    hidden = model(ids.to(model.head_weight().device)).cpu()
    return model.logits(hidden[torch.arange(len(prompts)), lengths - 1].to(model.head_weight().device)).float().cpu()


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
    """Agreement over `contexts` (at most 400 of them, evenly drawn, blank ones left out), beside the controls'.

    `alike`: whether MODEL is nearer to REFERENCE than each control is (p < 1e-3) and beyond the controls' spread (p < 0.01); None without
    controls, or where it is nearer than the only one. Raises `PunaError` for fewer than 40 contexts.
    """
    contexts = [text for text in contexts if text.strip()]
    if len(contexts) < LEAST:
        raise PunaError(
            f"{len(contexts)} contexts are too few to compare what is said",
            where="--text",
            mend=f"give {LEAST} lines or more",
        )
    chosen = [contexts[i] for i in np.linspace(0, len(contexts) - 1, min(MOST, len(contexts))).round().astype(int)]
    speakers = (reference, model, *controls)
    known, known_spread = np.zeros(0), None
    found: list[_Beside] = []
    progress.start("what they say", len(speakers), "models")
    for done, one in enumerate(speakers):
        said, spread = _heard(one, chosen)
        if done == 0:
            known, known_spread = said, spread
        else:
            found.append(_Beside(said == known, _divergence(one, spread, reference, known_spread)))
        progress.update(done + 1)
    progress.finish()
    own, others = found[0], found[1:]
    p_value, beyond = (max(_nearer(own, other) for other in others), _beyond(own, others)) if others else (None, None)
    alike = None if p_value is None else p_value < ALIKE_BELOW
    if alike:
        alike = None if beyond is None else beyond < BEYOND_BELOW
    by_name = dict(zip((control.name for control in controls), others, strict=True))
    shares = {name: other.agreement for name, other in by_name.items()}
    apart = {name: float(other.apart.mean()) for name, other in by_name.items() if other.apart is not None}
    return Behaviour(
        agreement=own.agreement, contexts=len(chosen), controls=shares, p_value=p_value, spread_p_value=beyond, alike=alike,
        divergence=None if own.apart is None else float(own.apart.mean()), control_divergences=apart,
        sentence=_sentence(model.name, reference.name, own.agreement, shares, p_value, beyond, alike),
    )  # fmt: skip


@dataclass(frozen=True)
class _Beside:
    """A model's answers beside REFERENCE's: which are the same, and how far the distributions are apart (None: not comparable)."""

    agrees: Bool[ndarray, " n"]
    apart: Float[ndarray, " n"] | None

    @property
    def agreement(self) -> float:
        return float(self.agrees.mean())


def _nearer(own: _Beside, other: _Beside) -> float:
    """p of the sign test over contexts that MODEL is no nearer to REFERENCE than a stranger is."""
    if own.apart is not None and other.apart is not None:
        return sign_test(own.apart < other.apart, other.apart < own.apart)
    return sign_test(own.agrees, other.agrees)


def _beyond(own: _Beside, others: Sequence[_Beside]) -> float | None:
    """p that MODEL is one more of these strangers, were they normally distributed: t = (x - mean) / (sd · √(1 + 1/k)), k - 1 degrees."""
    k = len(others)
    if k < 2:
        return None
    whole = [one.apart for one in (own, *others) if one.apart is not None]
    if len(whole) == k + 1:
        x, *rest = (-float(np.log(max(float(apart.mean()), 1e-12))) for apart in whole)
    else:
        x, *rest = (one.agreement for one in (own, *others))
    # A spread below that of the mean over the contexts themselves is an accident of few controls.
    spread = max(float(np.std(rest, ddof=1)), 1 / np.sqrt(len(own.agrees)))
    return float(stats.t.sf((x - float(np.mean(rest))) / (spread * np.sqrt(1 + 1 / k)), k - 1))


def sign_test(ours: Bool[ndarray, " n"], others: Bool[ndarray, " n"]) -> float:
    """One-sided p of an exact sign test: does the first agree where the second does not more often than the other way round?"""
    only_ours, only_others = int((ours & ~others).sum()), int((others & ~ours).sum())
    untied = only_ours + only_others
    return float(stats.binomtest(only_ours, untied, 0.5, alternative="greater").pvalue) if untied else 1.0


def _heard(one: NextToken, contexts: Sequence[str]) -> tuple[ndarray, Tensor | None]:
    said, spread = one.answers(contexts) if isinstance(one, LocalModel) else (one.next_tokens(contexts), None)
    if len(said) != len(contexts):
        raise PunaError(f"gave {len(said)} answers to {len(contexts)} contexts", where=clean(one.name))
    return np.asarray(said, dtype=object), spread


def _divergence(
    one: NextToken, spread: Tensor | None, other: NextToken, other_spread: Tensor | None
) -> Float[ndarray, " n"] | None:
    """Jensen-Shannon divergence of each context in bits, 0 to 1 (Lin 1991); None where the two vocabularies are not one."""
    if spread is None or other_spread is None or not isinstance(one, LocalModel) or not isinstance(other, LocalModel):
        return None
    if one.vocabulary != other.vocabulary:
        return None
    middle = torch.logaddexp(spread, other_spread) - np.log(2)
    parts = [torch.special.entr(q.exp()).sum(dim=1) for q in (spread, other_spread)]
    apart = torch.special.entr(middle.exp()).sum(dim=1) - (parts[0] + parts[1]) / 2
    made: ndarray = (apart.clamp(min=0) / np.log(2)).double().numpy()
    return made


def _sentence(
    model: str,
    reference: str,
    agreement: float,
    spread: dict[str, float],
    p_value: float | None,
    beyond: float | None,
    alike: bool | None,
) -> str:
    said = f"{clean(model)} and {clean(reference)} name the same next token {agreement:.0%} of the time"
    if p_value is None:
        return f"{said}. Without a control model that says nothing."
    range_ = f"strangers and {clean(reference)} {min(spread.values()):.0%} to {max(spread.values()):.0%}"
    figures = f"p = {p_value:.2g} against the nearest" + (
        "" if beyond is None else f", {beyond:.2g} beside their spread"
    )
    word = {True: "They speak alike", False: "They do not speak more alike than strangers may",
            None: "They speak more alike than the one control, and one shows no spread: give two or more"}[alike]  # fmt: skip
    return f"{word}: {said}, {range_} ({figures}). What a model says does not show where its weights come from."
