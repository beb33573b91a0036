"""What two models say, beside what strangers say: for models of which only the answers can be had.

Comes in: whoever can name the likeliest next token of a text, and lines of text. Goes out: `verdict.Behaviour`. Must never happen: a likeness of
answers told as a likeness of weights: a student speaks like its teacher, and all who read one text speak somewhat alike.

After Nikolić et al. 2025, "Model Provenance Testing for Large Language Models" (arXiv 2502.00706): how often MODEL and REFERENCE name the same
next token, against how often each of a set of strangers and REFERENCE do. For each stranger an exact sign test over the contexts on which one
of the two agrees with REFERENCE and the other does not; the largest p-value over the strangers counts, as MODEL must be nearer than every one (that
is stricter than Holm's smallest). Tokens are compared as bytes, so a stranger that cuts text otherwise agrees less for that alone: controls
should have REFERENCE's tokenizer, or at least MODEL must not be the only other one that has it.

Where the models are on this machine and have one vocabulary, the mean Jensen-Shannon divergence of their whole distributions is given besides.
"""

from collections.abc import Sequence
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

    `alike`: None without controls, else whether MODEL agrees with REFERENCE more often than each control does, p < 1e-3. Raises
    `PunaError` for fewer than 40 contexts.
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
    found: list[tuple[ndarray, float | None]] = []
    progress.start("what they say", len(speakers), "models")
    for done, one in enumerate(speakers):
        said, spread = _heard(one, chosen)
        if done == 0:
            known, known_spread = said, spread
        else:
            found.append((said == known, _divergence(one, spread, reference, known_spread)))
        progress.update(done + 1)
    progress.finish()
    (agrees, divergence), strangers = found[0], found[1:]
    shares, ps = {}, []
    for control, (theirs, _) in zip(controls, strangers, strict=True):
        shares[control.name] = float(theirs.mean())
        ps.append(sign_test(agrees, theirs))
    p_value = max(ps) if ps else None
    alike = None if p_value is None else p_value < ALIKE_BELOW
    agreement = float(agrees.mean())
    apart = {control.name: apart for control, (_, apart) in zip(controls, strangers, strict=True) if apart is not None}
    return Behaviour(agreement=agreement, contexts=len(chosen), controls=shares, p_value=p_value, alike=alike, divergence=divergence,
                     control_divergences=apart, sentence=_sentence(model.name, reference.name, agreement, shares, p_value, alike))  # fmt: skip


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


def _divergence(one: NextToken, spread: Tensor | None, other: NextToken, other_spread: Tensor | None) -> float | None:
    """Mean Jensen-Shannon divergence in bits, 0 to 1 (Lin 1991); None where the two vocabularies are not one."""
    if spread is None or other_spread is None or not isinstance(one, LocalModel) or not isinstance(other, LocalModel):
        return None
    if one.vocabulary != other.vocabulary:
        return None
    middle = torch.logaddexp(spread, other_spread) - np.log(2)
    parts = [torch.special.entr(q.exp()).sum(dim=1) for q in (spread, other_spread)]
    return float(
        (torch.special.entr(middle.exp()).sum(dim=1) - (parts[0] + parts[1]) / 2).mean().clamp(min=0) / np.log(2)
    )


def _sentence(
    model: str, reference: str, agreement: float, spread: dict[str, float], p_value: float | None, alike: bool | None
) -> str:
    said = f"{clean(model)} and {clean(reference)} name the same next token {agreement:.0%} of the time"
    if alike is None:
        return f"{said}. Without a control model that says nothing."
    range_ = f"strangers and {clean(reference)} {min(spread.values()):.0%} to {max(spread.values()):.0%}"
    word = "They speak alike" if alike else "They do not speak more alike than strangers"
    return f"{word}: {said}, {range_} (p = {p_value:.2g} against the nearest). What a model says does not show where its weights come from."
