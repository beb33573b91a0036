"""What /v1/chat/completions takes and gives, field by field, as OpenAI describes it."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from puna.serve.fields import Content, Drawing, Given, Loose, Strict, Usage, refused

_UseTools = Annotated[None, refused("use tools")]
_TextOnly = Annotated[None, refused("these models read and write text")]
_OwnFormat = Annotated[None, refused("the model's own format is used")]
FunctionName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.-]{1,64}$")]


# A conversation


class SystemMessage(Loose):
    """What holds for the whole conversation. Several are joined."""

    role: Literal["system", "developer"]
    content: Content


class UserMessage(Loose):
    """What the user says."""

    role: Literal["user"]
    content: Content


class CalledFunction(Loose):
    """`arguments` is JSON text."""

    name: FunctionName
    arguments: str


class ToolCall(Loose):
    """A call that the assistant made."""

    id: str
    type: Literal["function"]
    function: CalledFunction


class AssistantMessage(Loose):
    """What the assistant said: a text, calls, or both."""

    role: Literal["assistant"]
    content: Content | None = None
    tool_calls: list[ToolCall] | None = None
    function_call: _UseTools = None
    audio: _TextOnly = None

    @model_validator(mode="after")
    def _says_something(self) -> "AssistantMessage":
        if self.content is None and not self.tool_calls:
            raise ValueError("an assistant's message has content or tool_calls")
        return self


class ToolMessage(Loose):
    """What came of a call."""

    role: Literal["tool"]
    content: Content
    tool_call_id: str


Message = Annotated[SystemMessage | UserMessage | AssistantMessage | ToolMessage, Field(discriminator="role")]


# Tools and shapes


class Function(Strict):
    """A function that the model may call."""

    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    """A JSON schema of an object. Left out: the function takes nothing."""
    strict: bool | None = None
    """True: whenever it is called, the arguments follow the schema."""


class FunctionTool(Strict):
    """A tool. Functions are the only ones."""

    type: Literal["function"]
    function: Function


class FunctionNamed(Loose):
    """A function, by name."""

    name: FunctionName


class NamedTool(Loose):
    """One of the tools, by name."""

    type: Literal["function"]
    function: FunctionNamed


class Allowed(Strict):
    """Some of the tools."""

    mode: Literal["auto", "required"]
    tools: Annotated[list[NamedTool], Field(min_length=1)]


class AllowedTools(Strict):
    """Only some of the tools may be called."""

    type: Literal["allowed_tools"]
    allowed_tools: Allowed


class TextFormat(Strict):
    """Any text."""

    type: Literal["text"]


class JsonObjectFormat(Strict):
    """A JSON object."""

    type: Literal["json_object"]


class JsonSchema(Strict):
    """A schema that the reply follows. It may refer to its own parts only."""

    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
    description: str | None = None
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")
    """Left out: any JSON object."""
    strict: bool | None = None
    """Either way the reply follows the schema; a schema that cannot be held to is refused."""


class JsonSchemaFormat(Strict):
    """JSON that follows a schema."""

    type: Literal["json_schema"]
    json_schema: JsonSchema


ResponseFormat = Annotated[TextFormat | JsonObjectFormat | JsonSchemaFormat, Field(discriminator="type")]


def _one_each(value: list[FunctionTool]) -> list[FunctionTool]:
    names = [tool.function.name for tool in value]
    if len(set(names)) < len(names):
        raise ValueError("two functions have the same name")
    return value


class ChatRequest(Drawing):
    """A conversation that is to go on."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    """The most tokens a reply may have. Left out: what the context has room for."""
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    """The older name of `max_completion_tokens`."""
    logprobs: bool | None = None
    """Report each token's log-probability, under the model's own distribution (before temperature and filters)."""
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    """And those of so many likeliest tokens. Needs `logprobs`."""
    response_format: ResponseFormat | None = None
    tools: Annotated[list[FunctionTool], AfterValidator(_one_each)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | AllowedTools | None = None
    parallel_tool_calls: bool | None = None
    """False: at most one call in a reply."""
    modalities: Annotated[list[Literal["text"]], Field(min_length=1)] | None = None
    reasoning_effort: str | None = None
    """No effect: these models do not reason apart from their reply."""
    verbosity: str | None = None
    """No effect."""
    function_call: _UseTools = None
    functions: _UseTools = None
    audio: _TextOnly = None
    prediction: Annotated[None, refused("what repeats is found by itself")] = None
    web_search_options: Annotated[None, refused("nothing is fetched")] = None
    moderation: Annotated[None, refused("nothing is moderated here")] = None
    chat_template: _OwnFormat = None
    chat_template_kwargs: _OwnFormat = None


# What is given back


class TokenTop(Given):
    """A token that was likely."""

    token: str
    logprob: float
    bytes: list[int] | None


class TokenLog(TokenTop):
    """A token of the reply, and the likeliest in its place."""

    top_logprobs: list[TokenTop]


class ChoiceLogprobs(Given):
    """One entry for each token."""

    content: list[TokenLog] | None
    refusal: None


class CallGiven(Given):
    """A function that is to be called; `arguments` is JSON text."""

    class Called(Given):
        """What is to be called, with what."""

        name: str
        arguments: str

    id: str
    type: Literal["function"]
    function: Called


class AssistantGiven(Given):
    """The reply."""

    role: Literal["assistant"]
    content: str | None
    """Null where the reply is nothing but calls."""
    refusal: None
    tool_calls: Annotated[list[CallGiven], Field(min_length=1)] | None = None


class ChatChoice(Given):
    """One of the n replies."""

    index: int
    message: AssistantGiven
    logprobs: ChoiceLogprobs | None
    finish_reason: Literal["stop", "length", "tool_calls"]


class ChatCompletion(Given):
    """The replies."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str | None = None
    choices: list[ChatChoice]
    usage: Usage
