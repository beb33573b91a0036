"""How a reply is drawn: its settings, and the filters as functions of many rows' logits at once.

In: logits [rows, vocabulary] and each row's value of a filter. Out: logits of which some are -inf, or one token id per row.
Must never happen: that what stands in one row of a batch, or leaves it, changes what another row draws.
Every function is pure. `choosing` puts them in order, with each row's own generator and penalties.
"""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from puna.errors import PunaError

_NEVER = float("-inf")
SEEDS = 2**63
_LEAST, _MOST = 1e-4, 100.0  # of temperature and penalty: beyond, fp32 has no numbers for what is left to choose from
_PENALTY = 2.0  # OpenAI's range of presence and frequency penalty
MOST_BIASED = 300  # tokens that logit_bias may name, as OpenAI's
_HEAD = 512  # how many of the likeliest tokens nucleus sampling looks at first


@dataclass(frozen=True)
class Sampling:
    """How one reply is drawn. Raises PunaError that names every value out of its range."""

    max_tokens: int = 256
    """The most tokens a reply may have."""
    temperature: float = 0.7
    """Divides the logits; 0 (and below 0.0001) takes the likeliest token always."""
    top_p: float = 0.95
    """Keep the fewest likeliest tokens whose probabilities sum to at least this (nucleus); 1 keeps all."""
    top_k: int = 0
    """Keep the k likeliest tokens; 0 keeps all."""
    min_p: float = 0.0
    """Keep tokens at least this share as likely as the likeliest; 0 keeps all."""
    repetition_penalty: float = 1.0
    """Divides (or multiplies, below zero) the logits of tokens that have occurred; 1 leaves them."""
    presence_penalty: float = 0.0
    """Taken off the logits of tokens that the reply has already; 0 leaves them. As OpenAI's."""
    frequency_penalty: float = 0.0
    """Taken off a token's logit for each time that the reply has it; 0 leaves them. As OpenAI's."""
    logit_bias: tuple[tuple[int, float], ...] = ()
    """(id, what is added to its logit), each id once; 100 forces a token and -100 forbids it, as good as. As OpenAI's."""
    seed: int | None = None
    """Same seed, same reply; None draws a fresh one."""
    stop: tuple[str, ...] | list[str] = field(default=())
    """Texts before which a reply ends; they are not part of it."""

    def __post_init__(self) -> None:
        bias = self.logit_bias
        ranges = [
            (self.max_tokens >= 1, "max_tokens must be 1 or more", self.max_tokens),
            (0.0 <= self.temperature <= _MOST, "temperature must lie between 0 and 100", self.temperature),
            (0.0 < self.top_p <= 1.0, "top_p must be above 0 and at most 1", self.top_p),
            (self.top_k >= 0, "top_k must be 0 (off) or more", self.top_k),
            (0.0 <= self.min_p <= 1.0, "min_p must lie between 0 and 1", self.min_p),
            (
                1 / _MOST <= self.repetition_penalty <= _MOST,
                "repetition_penalty must lie between 0.01 and 100",
                self.repetition_penalty,
            ),
            (
                abs(self.presence_penalty) <= _PENALTY,
                "presence_penalty must lie between -2 and 2",
                self.presence_penalty,
            ),
            (
                abs(self.frequency_penalty) <= _PENALTY,
                "frequency_penalty must lie between -2 and 2",
                self.frequency_penalty,
            ),
            (len(bias) <= MOST_BIASED, f"logit_bias may name at most {MOST_BIASED} tokens", len(bias)),
            (len(dict(bias)) == len(bias), "logit_bias must name a token once", bias[:MOST_BIASED]),
            (all(id_ >= 0 for id_, _ in bias), "logit_bias must name tokens by ids of 0 or more", bias[:MOST_BIASED]),
            (
                all(abs(by) <= _MOST for _, by in bias),
                "logit_bias must lie between -100 and 100",
                [by for _, by in bias if not abs(by) <= _MOST][:1],
            ),
            (self.seed is None or 0 <= self.seed < SEEDS, "seed must lie between 0 and 2**63 - 1", self.seed),
            (all(self.stop), "a stop text must not be empty", list(self.stop)),
        ]
        wrong = [f"{rule} (got {value})" for holds, rule, value in ranges if not holds]
        if wrong:
            raise PunaError(", ".join(wrong), where="sampling")

    @property
    def greedy(self) -> bool:
        """True where the likeliest token is taken always and nothing is drawn."""
        return self.temperature < _LEAST


Column = float | Float[Tensor, "b 1"]
"""One value for all rows, or one per row."""


def keep_top_k(logits: Float[Tensor, "b v"], k: int | Int[Tensor, "b 1"]) -> Float[Tensor, "b v"]:
    """Set all but each row's k largest logits to -inf (ties with the k-th stay); k = 0 keeps the row whole."""
    vocabulary = logits.shape[-1]
    wanted = torch.as_tensor(k, device=logits.device).expand(logits.shape[0], 1)
    wanted = torch.where(wanted == 0, vocabulary, wanted.clamp(max=vocabulary))
    largest = logits.topk(int(wanted.max()), dim=-1).values
    return logits.masked_fill(logits < largest.gather(-1, wanted - 1), _NEVER)


def keep_top_p(logits: Float[Tensor, "b v"], p: Column) -> Float[Tensor, "b v"]:
    """Keep the smallest set of likeliest tokens with total probability >= p (ties with its last stay); p = 1 keeps all.

    Nucleus sampling, Holtzman et al. 2020 (arXiv:1904.09751), section 3.1.
    """
    vocabulary = logits.shape[-1]
    p = torch.as_tensor(p, dtype=logits.dtype, device=logits.device).expand(logits.shape[0], 1)
    total = logits.logsumexp(dim=-1, keepdim=True)
    # The nucleus is nearly always small: the head of the order is enough, and the whole is sorted only where it is not.
    for width in (min(_HEAD, vocabulary), vocabulary):
        ordered = logits.topk(width, dim=-1).values
        probabilities = (ordered - total).exp()
        before = probabilities.cumsum(dim=-1) - probabilities
        count = (before < p).sum(dim=-1, keepdim=True).clamp(min=1)
        if not bool(((count == width) & (p < 1.0)).any()):
            break
    return logits.masked_fill((logits < ordered.gather(-1, count - 1)) & (p < 1.0), _NEVER)


def keep_min_p(logits: Float[Tensor, "b v"], p: Column) -> Float[Tensor, "b v"]:
    """Drop tokens less likely than p times the likeliest one. Nguyen et al. 2024 (arXiv:2407.01082)."""
    probabilities = logits.softmax(dim=-1)
    return logits.masked_fill(probabilities < p * probabilities.amax(dim=-1, keepdim=True), _NEVER)


def draw(logits: Float[Tensor, "b v"], uniform: Float[Tensor, " b"]) -> Int[Tensor, " b"]:
    """One token per row from softmax(logits): the inverse of the CDF, in the order of ids, of one number in [0, 1) per row.

    In fp64: over a large vocabulary the sums of fp32 would lose the unlikely tokens.
    """
    cumulative = logits.double().softmax(dim=-1).cumsum(dim=-1)
    chosen = torch.searchsorted(cumulative, uniform[:, None] * cumulative[:, -1:], right=True)
    # Rounding can bring the product up to the total: the first token that reaches the total is then the last possible one.
    last = torch.searchsorted(cumulative, cumulative[:, -1:].contiguous())
    return torch.minimum(chosen, last)[:, 0]
