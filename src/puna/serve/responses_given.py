"""What /v1/responses gives: descriptions only, `responses_events` writes the JSON itself."""

from typing import Annotated, Any, Literal

from pydantic import Field

from puna.serve.chat_fields import TokenLog
from puna.serve.fields import Given


class OutputText(Given):
    """A text of the model's."""

    type: Literal["output_text"]
    text: str
    annotations: list[dict[str, Any]]
    logprobs: list[TokenLog]


class OutputMessage(Given):
    """What the model said."""

    id: str
    type: Literal["message"]
    status: Literal["in_progress", "completed", "incomplete"]
    role: Literal["assistant"]
    content: list[OutputText]


class OutputCall(Given):
    """A function that is to be called; `arguments` is JSON text."""

    id: str
    type: Literal["function_call"]
    status: Literal["in_progress", "completed", "incomplete"]
    call_id: str
    name: str
    arguments: str


class ResponseFault(Given):
    """Why the response failed."""

    code: str
    message: str


class Incomplete(Given):
    """Why the response ends early."""

    reason: Literal["max_output_tokens"]


class InputDetails(Given):
    """Of the prompt's tokens: found in the cache, and written to it."""

    cached_tokens: int
    cache_write_tokens: int


class OutputDetails(Given):
    """Of the reply's tokens. These models do not reason apart from their reply: 0."""

    reasoning_tokens: int


class ResponseUsage(Given):
    """What the response took, in tokens."""

    input_tokens: int
    input_tokens_details: InputDetails
    output_tokens: int
    output_tokens_details: OutputDetails
    total_tokens: int


class ResponseObject(Given):
    """A response, as it stands."""

    id: str
    object: Literal["response"]
    created_at: int
    """Seconds since 1970."""
    completed_at: int | None
    status: Literal["in_progress", "completed", "incomplete", "failed"]
    background: bool
    error: ResponseFault | None
    incomplete_details: Incomplete | None
    instructions: str | None
    max_output_tokens: int | None
    max_tool_calls: int | None
    model: str
    output: list[Annotated[OutputMessage | OutputCall, Field(discriminator="type")]]
    parallel_tool_calls: bool
    presence_penalty: float
    frequency_penalty: float
    previous_response_id: str | None
    prompt_cache_key: str | None
    reasoning: dict[str, Any]
    safety_identifier: str | None
    service_tier: str
    store: bool
    temperature: float
    text: dict[str, Any]
    tool_choice: str | dict[str, Any]
    tools: list[dict[str, Any]]
    top_logprobs: int
    top_p: float
    truncation: Literal["auto", "disabled"]
    usage: ResponseUsage | None
    metadata: dict[str, str]
    user: str | None = None


class Deleted(Given):
    """It is not kept any more."""

    id: str
    object: Literal["response"]
    deleted: Literal[True]
