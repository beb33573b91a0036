"""/v1/chat/completions: a conversation goes on, as a whole or as a stream.

In: messages, and how the reply is wanted. Out: OpenAI's chat completion. Must never happen: a stream that says something else than the
whole reply would, a chunk with a content beside its finish reason, usage in a chunk that has choices.
"""

import secrets
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from fastapi import APIRouter, Request, Response

from puna.engine.request import Delta, Shape, TokenLogprob
from puna.engine.request import Request as Wanted
from puna.errors import PunaError
from puna.serve.chat_fields import (
    AllowedTools,
    ChatCompletion,
    ChatRequest,
    FunctionTool,
    JsonObjectFormat,
    JsonSchemaFormat,
    NamedTool,
    ResponseFormat,
)
from puna.serve.errors import ApiError
from puna.serve.fields import check_drawing, check_max_tokens, samplings, usage_of
from puna.serve.models import Hosted
from puna.serve.prompts import chat_ids, check_chats, length_of, off_loop
from puna.serve.replies import fingerprint, pieces, prepare, token_logs
from puna.serve.settings import Settings
from puna.serve.sse import DONE, STREAMED, Chunks, compact, quoted, stream, unless_gone
from puna.serve.tools import CLOSING, Call, CallReader, Offer, Tool

router = APIRouter(tags=["chat"])
_ANY_OBJECT: dict[str, Any] = {"type": "object"}


@router.post("/v1/chat/completions", response_model=ChatCompletion, responses={200: {"content": STREAMED}})
async def chat_completions(request: Request, body: ChatRequest) -> Response:
    """Go on with a conversation. With `stream` the reply comes as server-sent events that end with `data: [DONE]`."""
    hosted: Hosted = request.app.state.models.get(body.model)
    job = await unless_gone(request, _prepared(hosted, body, request.app.state.settings))
    if body.stream:
        return stream(request, _events(job, body))
    made = await unless_gone(request, _completion(job))
    return Response(compact(made), media_type="application/json")


@dataclass(frozen=True)
class _Job:
    """What is to be done for one request. `head`: the fields that say what the response is."""

    hosted: Hosted
    wanted: list[Wanted]
    offer: Offer
    head: dict[str, Any]

    @property
    def prompt(self) -> int:
        """Tokens of the prompt."""
        return len(self.wanted[0].prompt)

    def choices(self) -> "list[_Choice]":
        """The replies, not begun."""
        return [_Choice(self.hosted, CallReader(tool.name for tool in self.offer.tools)) for _ in self.wanted]


async def _prepared(hosted: Hosted, body: ChatRequest, settings: Settings) -> _Job:
    """Check everything and build the engine's requests. Raises `ApiError` and `PunaError`."""
    check_chats(hosted)
    check_drawing(body, hosted, settings)
    max_tokens = _max_tokens(body, settings)
    if body.top_logprobs is not None and not body.logprobs:
        raise ApiError(400, "top_logprobs: needs logprobs: true", param="top_logprobs")
    if len(body.messages) > settings.messages:
        told = f"messages: has {len(body.messages)}, and may have {settings.messages}"
        raise ApiError(400, told, param="messages")
    offer = offer_of(body.tools or [], body.tool_choice, settings, parallel=body.parallel_tool_calls is not False)
    shape = offer.shape(shape_of(body.response_format))
    await prepare(hosted, shape, "tools" if offer.tools else "response_format")
    messages = [message.model_dump() for message in body.messages]
    ids = await off_loop(length_of(messages), partial(chat_ids, hosted, messages, offer.tools))
    left = hosted.engine.context - len(ids)
    one_call = bool(offer.tools) and not offer.parallel and shape is None
    drawn = samplings(body, min(max_tokens or left, left, settings.max_tokens), (CLOSING,) if one_call else ())
    top = (body.top_logprobs or 0) if body.logprobs else None
    head = {"id": f"chatcmpl-{secrets.token_hex(12)}", "object": "chat.completion", "created": int(time.time()),
            "model": hosted.name, **fingerprint(hosted)}  # fmt: skip
    return _Job(hosted, [Wanted(ids, one, top, shape) for one in drawn], offer, head)


def _max_tokens(body: ChatRequest, settings: Settings) -> int | None:
    given, old = body.max_completion_tokens, body.max_tokens
    check_max_tokens(given, settings, "max_completion_tokens")
    check_max_tokens(old, settings, "max_tokens")
    if given is not None and old is not None and given != old:
        raise ApiError(400, "max_tokens: differs from max_completion_tokens; give one of them", param="max_tokens")
    return old if given is None else given


def offer_of(
    tools: list[FunctionTool], choice: str | NamedTool | AllowedTools | None, settings: Settings, *, parallel: bool
) -> Offer:
    """The tools of a request as `tool_choice` leaves them. Raises `ApiError` and `PunaError` 400."""
    if len(tools) > settings.tools:
        raise ApiError(400, f"tools: has {len(tools)}, and may have {settings.tools}", param="tools")
    functions = [tool.function for tool in tools]
    offer = Offer(
        tuple(Tool(one.name, one.description, one.parameters, bool(one.strict)) for one in functions),
        must=choice == "required",
        parallel=parallel,
    )
    if isinstance(choice, NamedTool):
        return Offer(offer.only([choice.function.name], must=True).tools, must=True, parallel=False)
    if isinstance(choice, AllowedTools):
        names = [tool.function.name for tool in choice.allowed_tools.tools]
        return offer.only(names, must=choice.allowed_tools.mode == "required")
    if choice == "auto" and not tools:
        raise PunaError("is only for a request with tools", where="tool_choice")
    return Offer() if choice == "none" else offer


def shape_of(wanted: ResponseFormat | None) -> Shape | None:
    """The shape that a response format asks for."""
    if isinstance(wanted, JsonObjectFormat):
        return Shape(json_schema=_ANY_OBJECT)
    if isinstance(wanted, JsonSchemaFormat):
        schema = wanted.json_schema.schema_
        return Shape(json_schema=_ANY_OBJECT if schema is None else schema)
    return None


@dataclass
class _Choice:
    """One reply as it grows. `parts`: what it is made of, in order; log-probabilities wait for the text that they belong to."""

    hosted: Hosted
    reader: CallReader
    tokens: int = 0
    cached: int = 0
    waiting: list[TokenLogprob] = field(default_factory=list)
    finish_reason: str | None = None

    def push(self, delta: Delta) -> list[str | Call]:
        """The texts and calls that became certain."""
        self.tokens += len(delta.ids)
        self.cached += delta.cached_tokens
        self.waiting += delta.logprobs
        parts = self.reader.push(delta.text)
        if delta.finish_reason is not None:
            parts += self.reader.finish()
            called = self.reader.calls > 0 and delta.finish_reason == "stop"
            self.finish_reason = "tool_calls" if called else delta.finish_reason
        return parts

    def logs(self) -> list[dict[str, Any]]:
        """The log-probabilities that wait, which then wait no longer."""
        logs, self.waiting = token_logs(self.hosted, self.waiting), []
        return logs


async def _completion(job: _Job) -> dict[str, Any]:
    """The response as a whole."""
    choices = job.choices()
    parts: list[list[str | Call]] = [[] for _ in choices]
    async with aclosing(pieces(job.hosted, job.wanted)) as made:
        async for number, delta in made:
            parts[number] += choices[number].push(delta)
    logged = job.wanted[0].top_logprobs is not None
    told = []
    for number, (choice, own) in enumerate(zip(choices, parts, strict=True)):
        text = "".join(part for part in own if isinstance(part, str))
        calls = [_call(part) for part in own if isinstance(part, Call)]
        message: dict[str, Any] = {"role": "assistant", "content": text if text or not calls else None, "refusal": None}
        if calls:
            message["tool_calls"] = calls
        logprobs = {"content": choice.logs(), "refusal": None} if logged else None
        told.append({"index": number, "message": message, "logprobs": logprobs, "finish_reason": choice.finish_reason})
    return {**job.head, "choices": told, "usage": _usage(job, choices)}


def _call(call: Call) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def _usage(job: _Job, choices: list[_Choice]) -> dict[str, Any]:
    # The first reply reads the prompt; what the others find is what it has just read.
    return usage_of(job.prompt, sum(one.tokens for one in choices), choices[0].cached)


async def _events(job: _Job, body: ChatRequest) -> AsyncGenerator[str, None]:
    """The response as a stream. The first event is made when the engine has begun, so that a refusal still has its own status."""
    chunks = Chunks({**job.head, "object": "chat.completion.chunk"}, with_usage=body.with_usage)
    choices = job.choices()
    calls = [0] * len(choices)
    begun = False
    async with aclosing(pieces(job.hosted, job.wanted)) as made:
        async for number, delta in made:
            if not begun:
                begun = True
                for index in range(len(choices)):
                    yield _chunk(chunks, index, '{"role":"assistant","content":null}')
            choice = choices[number]
            for part in choice.push(delta):
                if isinstance(part, str):
                    yield _chunk(chunks, number, f'{{"content":{quoted(part)}}}', _logs(choice))
                    continue
                for piece in _call_pieces(part, calls[number]):
                    yield _chunk(chunks, number, piece, _logs(choice))
                calls[number] += 1
            if choice.finish_reason is not None:
                if choice.waiting:
                    yield _chunk(chunks, number, '{"content":""}', _logs(choice))
                yield _chunk(chunks, number, "{}", finish=quoted(choice.finish_reason))
    if body.with_usage:
        yield chunks.usage(_usage(job, choices))
    yield DONE


def _chunk(chunks: Chunks, index: int, delta: str, logs: str = "null", finish: str = "null") -> str:
    return chunks.choice(f'{{"index":{index},"delta":{delta},"logprobs":{logs},"finish_reason":{finish}}}')


def _logs(choice: _Choice) -> str:
    return compact({"content": choice.logs(), "refusal": None}) if choice.waiting else "null"


def _call_pieces(call: Call, index: int) -> list[str]:
    """A call as OpenAI streams one: its name, then its arguments."""
    begun = {"index": index, "id": call.id, "type": "function", "function": {"name": call.name, "arguments": ""}}
    rest = {"index": index, "function": {"arguments": call.arguments}}
    return [compact({"tool_calls": [one]}) for one in (begun, rest)]
