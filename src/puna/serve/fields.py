"""Fields that several requests share, with their bounds, and what the engine is told because of them.

In: a body. Out: a `Sampling`. Must never happen: a field that is taken and not honoured although it would change the reply, a value
without a bound.

A field that would change the reply and is not honoured here is refused by name. What only concerns OpenAI's own service
(who asks, what is stored, what it costs, where it is cached) is taken and has no effect. Any other name is a mistake and is refused.
`null` means the same as leaving the field out.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from puna.engine.sampling import MOST_BIASED, SEEDS, Sampling
from puna.serve.errors import ApiError
from puna.serve.models import Hosted
from puna.serve.settings import Settings

_LEAST_TOP_P = 1e-6  # OpenAI's 0 keeps the likeliest token alone, and so does this
_LONGEST_NAME = 200


class Strict(BaseModel):
    """A body, or a part of one, whose every field is known and of its own type."""

    model_config = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True)


class Loose(BaseModel):
    """A part of a body that clients send back as they got it, with fields that mean nothing here."""

    model_config = ConfigDict(extra="ignore", strict=True, use_attribute_docstrings=True)


class Given(BaseModel):
    """A part of a response: a description only, the handlers write JSON themselves."""

    model_config = ConfigDict(use_attribute_docstrings=True)


def refused(why: str) -> BeforeValidator:
    """Marks a field (of type None) that may only be null; `why` says what to do instead."""

    def check(value: object) -> None:
        if value is not None:
            raise ValueError(f"is not taken here; {why}")

    return BeforeValidator(check)


ModelName = Annotated[str, Field(min_length=1, max_length=_LONGEST_NAME)]
StopText = Annotated[str, Field(min_length=1)]
Probability = Annotated[float, Field(ge=0, le=1)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
TokenName = Annotated[str, Field(pattern=r"^[0-9]{1,9}$")]
Bias = Annotated[float, Field(ge=-100, le=100)]


class TextPart(Loose):
    """A part of a message's content. Images, sounds and files are not taken: these models read text."""

    type: Literal["text"]
    text: str


Content = str | Annotated[list[TextPart], Field(min_length=1, fail_fast=True)]
"""A text, or a list of texts that stand one after another."""


def text_of(content: str | Sequence[Mapping[str, Any]] | None) -> str:
    """A content's text; that of parts is joined without anything between."""
    if content is None or isinstance(content, str):
        return content or ""
    return "".join(part["text"] for part in content)


class StreamOptions(Strict):
    """How a stream is sent."""

    include_usage: bool | None = None
    """One more chunk at the end, with empty `choices` and the `usage` of the whole request."""
    include_obfuscation: bool | None = None
    """Taken for OpenAI's clients; nothing is obfuscated here."""


class NoEffect(Strict):
    """What clients send for OpenAI's own service."""

    user: str | None = None
    """No effect."""
    metadata: dict[str, str] | None = None
    """No effect."""
    store: bool | None = None
    """No effect: nothing is stored."""
    service_tier: str | None = None
    """No effect."""
    safety_identifier: str | None = None
    """No effect."""
    prompt_cache_key: str | None = None
    """No effect: what prompts share is found by itself."""
    prompt_cache_retention: str | None = None
    """No effect."""


class Drawing(NoEffect):
    """How replies are drawn and sent: the fields that chat and plain completions share."""

    model: ModelName
    """A name that `GET /v1/models` lists."""
    n: Annotated[int, Field(ge=1, le=128)] | None = None
    """How many replies to make."""
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    """Divides the logits; 0 always takes the likeliest token. 1 where it is not given."""
    top_p: Probability | None = None
    """Keep the fewest likeliest tokens whose probabilities sum to at least this. 1 where it is not given."""
    top_k: Annotated[int, Field(ge=-1, lt=SEEDS)] | None = None
    """Keep so many likeliest tokens; 0 and -1 keep all. Not OpenAI's."""
    min_p: Probability | None = None
    """Keep tokens at least this share as likely as the likeliest. Not OpenAI's."""
    repetition_penalty: Annotated[float, Field(ge=0.01, le=100)] | None = None
    """Divides the logits of tokens that prompt or reply hold already; 1 leaves them. Not OpenAI's."""
    presence_penalty: Penalty | None = None
    """Taken off the logits of tokens that the reply holds already."""
    frequency_penalty: Penalty | None = None
    """Taken off a token's logit for each time that the reply holds it."""
    logit_bias: Annotated[dict[TokenName, Bias], Field(max_length=MOST_BIASED)] | None = None
    """Token id -> what is added to its logit."""
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    """The same request with the same seed has the same reply, on the same machine and version. Reply i of n has seed + i."""
    stop: StopText | Annotated[list[StopText], Field(fail_fast=True)] | None = None
    """Texts before which a reply ends."""
    stream: bool | None = None
    """Send the reply as server-sent events, while it is made."""
    stream_options: StreamOptions | None = None

    @property
    def replies(self) -> int:
        """`n`, or its default."""
        return self.n or 1

    @property
    def with_usage(self) -> bool:
        """Whether a stream ends with the usage."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)


def check_drawing(body: Drawing, hosted: Hosted, settings: Settings) -> None:
    """Raise `ApiError` 400 where a value is beyond what this server or model takes."""
    if body.stream_options is not None and not body.stream:
        raise ApiError(400, "stream_options: is only for stream: true", param="stream_options")
    if body.replies > settings.n:
        raise ApiError(400, f"n: is {body.replies}, and may be {settings.n} here", param="n")
    stops = stops_of(body)
    if len(stops) > settings.stops:
        raise ApiError(400, f"stop: has {len(stops)} texts, and may have {settings.stops}", param="stop")
    if any(len(text) > settings.stop_characters for text in stops):
        told = f"stop: a stop text may have {settings.stop_characters} characters"
        raise ApiError(400, told, param="stop")
    vocabulary = hosted.engine.config.vocab_size
    for id_ in body.logit_bias or ():
        if int(id_) >= vocabulary:
            told = f"logit_bias: names token {int(id_)}, and the model has {vocabulary} (0 to {vocabulary - 1})"
            raise ApiError(400, told, param="logit_bias")


def check_max_tokens(value: int | None, settings: Settings, name: str) -> None:
    """Raise `ApiError` 400 where a request wants more tokens than it may."""
    if value is not None and value > settings.max_tokens:
        raise ApiError(400, f"{name}: is too large, and may be {settings.max_tokens}", param=name)


def stops_of(body: Drawing) -> tuple[str, ...]:
    """The stop texts, each once."""
    given = body.stop or ()
    return (given,) if isinstance(given, str) else tuple(dict.fromkeys(given))


def samplings(body: Drawing, max_tokens: int, more_stops: tuple[str, ...] = ()) -> list[Sampling]:
    """How each of the n replies is drawn. Fields that are not given have OpenAI's defaults."""
    bias = {int(id_): by for id_, by in (body.logit_bias or {}).items()}  # "07" and "7" are one token
    return [
        Sampling(
            max_tokens=max_tokens,
            temperature=_or(body.temperature, 1.0),
            top_p=max(_or(body.top_p, 1.0), _LEAST_TOP_P),
            top_k=max(body.top_k or 0, 0),
            min_p=body.min_p or 0.0,
            repetition_penalty=_or(body.repetition_penalty, 1.0),
            presence_penalty=body.presence_penalty or 0.0,
            frequency_penalty=body.frequency_penalty or 0.0,
            logit_bias=tuple(bias.items()),
            seed=None if body.seed is None else (body.seed + number) % SEEDS,
            stop=stops_of(body) + more_stops,
        )
        for number in range(body.replies)
    ]


def _or(value: float | None, default: float) -> float:
    return default if value is None else float(value)


class PromptDetails(Given):
    """Of the prompt's tokens."""

    cached_tokens: int


class Usage(Given):
    """What a request took, in tokens. Of several replies to one prompt, the prompt counts once."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails


def usage_of(prompt: int, made: int, cached: int) -> dict[str, Any]:
    """A `Usage` as it is sent."""
    return {
        "prompt_tokens": prompt, "completion_tokens": made, "total_tokens": prompt + made,
        "prompt_tokens_details": {"cached_tokens": cached},
    }  # fmt: skip
