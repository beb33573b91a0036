"""What /v1/responses takes, field by field, as OpenAI's Responses API and the Open Responses specification (2026-04-24) have it.

In: JSON. Out: typed fields. Must never happen: a field that would change the reply and is dropped in silence.

What is hosted by OpenAI (web and file search, code, MCP, background work, kept conversations) is not here and is refused by name, as
are images and files: these models read text, and no address is ever fetched.
"""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag

from puna.serve.chat_fields import FunctionName, JsonObjectFormat, TextFormat
from puna.serve.fields import Loose, ModelName, NoEffect, Penalty, Probability, Strict, refused

_CallId = Annotated[str, Field(min_length=1, max_length=64)]
_Hosted = Annotated[None, refused("nothing is hosted here but the model")]


# Items of a conversation: clients send them back with fields of their own, so these are loose


class TextPart(Loose):
    """A text."""

    type: Literal["input_text", "output_text"]
    text: str


class RefusalPart(Loose):
    """A text in which a model refused."""

    type: Literal["refusal"]
    refusal: str


def _part_kind(part: Any) -> str | None:
    kind = part.get("type") if isinstance(part, dict) else getattr(part, "type", None)
    return "refusal" if kind == "refusal" else "text" if kind in ("input_text", "output_text") else None


Part = Annotated[
    Annotated[TextPart, Tag("text")] | Annotated[RefusalPart, Tag("refusal")],
    Discriminator(_part_kind, custom_error_type="part", custom_error_message=(
        "a part's type is input_text, output_text or refusal; these models read text, no images or files")),
]  # fmt: skip
Content = str | Annotated[list[Part], Field(min_length=1, fail_fast=True)]


class MessageItem(Loose):
    """Something that was said. Its `type` may be left out."""

    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: Content


class CallItem(Loose):
    """A call that the model made; `arguments` is JSON text."""

    type: Literal["function_call"]
    call_id: _CallId
    name: FunctionName
    arguments: str


class ResultItem(Loose):
    """What came of a call."""

    type: Literal["function_call_output"]
    call_id: _CallId
    """That of a call in the conversation before it."""
    output: Content


class ReasoningItem(Loose):
    """What another model thought. It is not read: these models do not reason apart from their reply."""

    type: Literal["reasoning"]


_ITEMS = ("message", "function_call", "function_call_output", "reasoning")


def _item_kind(item: Any) -> str | None:
    kind = item.get("type", "message") if isinstance(item, dict) else getattr(item, "type", None)
    return kind if kind in _ITEMS else None


Item = Annotated[
    Annotated[MessageItem, Tag("message")] | Annotated[CallItem, Tag("function_call")]
    | Annotated[ResultItem, Tag("function_call_output")] | Annotated[ReasoningItem, Tag("reasoning")],
    Discriminator(_item_kind, custom_error_type="item", custom_error_message=(
        f"an item's type is {', '.join(_ITEMS)}; other kinds are of tools that are not hosted here")),
]  # fmt: skip


# Tools


class FunctionTool(Strict):
    """A function that the model may call."""

    type: Literal["function"]
    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    """A JSON schema of an object."""
    strict: bool | None = None
    """True: whenever it is called, the arguments follow the schema."""


class NamedTool(Strict):
    """One of the tools, by name."""

    type: Literal["function"]
    name: FunctionName


class AllowedTools(Strict):
    """Only some of the tools may be called; the model is told of all of them."""

    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"] | None = None
    tools: Annotated[list[NamedTool], Field(min_length=1, max_length=128, fail_fast=True)]


ToolChoice = Literal["none", "auto", "required"] | NamedTool | AllowedTools


# The shape of the text


class JsonSchemaFormat(Strict):
    """JSON that follows a schema, which may refer to its own parts only."""

    type: Literal["json_schema"]
    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
    schema_: dict[str, Any] = Field(alias="schema")
    description: str | None = None
    strict: bool | None = None
    """Either way the reply follows the schema; a schema that cannot be held to is refused."""


class TextOptions(Strict):
    """What the text is like."""

    format: Annotated[TextFormat | JsonObjectFormat | JsonSchemaFormat, Field(discriminator="type")] | None = None
    verbosity: str | None = None
    """No effect."""


class StreamOptions(Strict):
    """How a stream is sent."""

    include_obfuscation: bool | None = None
    """No effect: nothing is obfuscated here."""


class Reasoning(Loose):
    """No effect: these models do not reason apart from their reply."""

    effort: str | None = None
    summary: str | None = None


def _not_true(value: bool | None) -> bool | None:
    if value:
        raise ValueError("is not taken here; send it without, or with stream: true")
    return value


def _few_pairs(value: dict[str, str]) -> dict[str, str]:
    if any(len(key) > 64 for key in value):
        raise ValueError("a key has at most 64 characters")
    return value


class ResponseRequest(NoEffect):
    """What is asked for."""

    model: ModelName
    """A name that `GET /v1/models` lists."""
    input: str | Annotated[list[Item], Field(fail_fast=True)] | None = None
    """A user's text, or the items of a conversation. May be left out after `previous_response_id`."""
    instructions: str | None = None
    """Told to the model before the conversation. Not carried over from the previous response."""
    previous_response_id: Annotated[str, Field(min_length=1, max_length=100)] | None = None
    """A response that is kept: its input and output stand before the input."""
    store: bool | None = None
    """False: the response is not kept, and nothing can go on from it. Otherwise it is kept in memory for a while."""
    metadata: (
        Annotated[dict[str, Annotated[str, Field(max_length=512)]], Field(max_length=16), AfterValidator(_few_pairs)]
        | None
    ) = None
    """Kept with the response and given back."""
    stream: bool | None = None
    """Send what happens as server-sent events, while it does."""
    stream_options: StreamOptions | None = None
    max_output_tokens: Annotated[int, Field(ge=1)] | None = None
    """The most tokens of the reply. Left out: what the context has room for."""
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    """Divides the logits; 0 always takes the likeliest token. 1 where it is not given."""
    top_p: Probability | None = None
    """Keep the fewest likeliest tokens whose probabilities sum to at least this. 1 where it is not given."""
    presence_penalty: Penalty | None = None
    """Taken off the logits of tokens that the reply holds already."""
    frequency_penalty: Penalty | None = None
    """Taken off a token's logit for each time that the reply holds it."""
    top_k: Annotated[int, Field(ge=-1, lt=2**63)] | None = None
    """Keep so many likeliest tokens; 0 and -1 keep all. Not OpenAI's."""
    min_p: Probability | None = None
    """Keep tokens at least this share as likely as the likeliest. Not OpenAI's."""
    repetition_penalty: Annotated[float, Field(ge=0.01, le=100)] | None = None
    """Divides the logits of tokens that prompt or reply hold already; 1 leaves them. Not OpenAI's."""
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    """The same request with the same seed has the same reply, on the same machine and version. Not OpenAI's."""
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    """Report the log-probabilities of so many likeliest tokens in each place."""
    include: Annotated[list[str], Field(max_length=32, fail_fast=True)] | None = None
    """`message.output_text.logprobs` reports each token's log-probability; the rest is of things that are not here."""
    tools: Annotated[list[FunctionTool], Field(fail_fast=True)] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    """False: at most one call in a reply."""
    max_tool_calls: Annotated[int, Field(ge=1)] | None = None
    """No effect: it is about hosted tools."""
    text: TextOptions | None = None
    truncation: Literal["auto", "disabled"] | None = None
    """`auto`: a conversation too long for the context loses its oldest turns. `disabled`, and where it is not given: it is refused."""
    reasoning: Reasoning | None = None
    """No effect."""
    background: Annotated[bool, AfterValidator(_not_true)] | None = None
    """Only false."""
    conversation: _Hosted = None
    prompt: _Hosted = None
    context_management: _Hosted = None
    moderation: _Hosted = None
    prompt_cache_options: _Hosted = None
