"""What is asked of the engine and what comes back, as plain data.

In: token ids, how to draw, what to report, what shape the reply must have. Out: `Delta`s, one or several tokens at a time.
Must never happen: a request that could hurt its neighbours is built (every bound is checked here, before the engine sees it).
"""

from dataclasses import dataclass, field
from typing import Any, Literal

from puna.engine.sampling import Sampling
from puna.errors import PunaError

FinishReason = Literal["stop", "length", "abort"]
MOST_TOP = 20  # alternatives reported per token


@dataclass(frozen=True)
class Shape:
    """What a reply's text must look like: exactly one of a JSON schema, a regular expression, or a grammar (llguidance's Lark)."""

    json_schema: dict[str, Any] | bool | None = None
    regex: str | None = None
    lark: str | None = None

    def __post_init__(self) -> None:
        if sum(one is not None for one in (self.json_schema, self.regex, self.lark)) != 1:
            raise ValueError("a shape is one of a JSON schema, a regular expression and a grammar")


@dataclass(frozen=True)
class Request:
    """One reply that is wanted. Several replies to one prompt are several requests; they share the prompt's cache."""

    prompt: tuple[int, ...]
    sampling: Sampling = field(default_factory=Sampling)
    top_logprobs: int | None = None
    """Report each token's log-probability and this many of the likeliest (0 to 20); None reports none."""
    shape: Shape | None = None

    def __post_init__(self) -> None:
        if not self.prompt:
            raise PunaError("the prompt is empty: there is nothing to go on from", where="prompt")
        if self.top_logprobs is not None and not 0 <= self.top_logprobs <= MOST_TOP:
            raise PunaError(f"must lie between 0 and {MOST_TOP} (got {self.top_logprobs})", where="top_logprobs")


@dataclass(frozen=True)
class TokenLogprob:
    """One drawn token: ln p in nats under the model's own distribution (temperature 1, no filter), and the likeliest ones."""

    id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Delta:
    """What became certain in one step of one reply. The last one carries `finish_reason`; nothing comes after it."""

    ids: tuple[int, ...] = ()
    text: str = ""
    logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: FinishReason | None = None
    cached_tokens: int = 0
    """Of the first delta: how many of the prompt's tokens were found in the cache."""


class Full(Exception):
    """The queue is full: come back later (503 with Retry-After)."""


class Closing(Exception):
    """The engine takes no more requests: the server drains or is gone."""


class Failed(Exception):
    """The engine could not finish this one request (500); the others go on."""
