"""/v1/responses: OpenAI's Responses API, as far as the Open Responses specification (2026-04-24) asks for it over HTTP.

In: a text or items of a conversation. Out: a response, whole or as the events of its making. Must never happen: a stream whose end differs
from what the whole response would be (both are made by `responses_events.Making`), or a response that is kept although it was said not to.
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from puna.engine.request import Request as Wanted
from puna.engine.request import Shape
from puna.engine.sampling import SEEDS, Sampling
from puna.serve.chat_fields import JsonObjectFormat
from puna.serve.errors import ApiError, as_api_error
from puna.serve.fields import check_max_tokens
from puna.serve.models import Hosted
from puna.serve.prompts import check_chats, length_of, off_loop
from puna.serve.replies import pieces, prepare, token_logs
from puna.serve.responses_events import Event, Making
from puna.serve.responses_fields import (
    AllowedTools,
    FunctionTool,
    JsonSchemaFormat,
    NamedTool,
    ResponseRequest,
    ToolChoice,
)
from puna.serve.responses_given import Deleted, ResponseObject
from puna.serve.responses_items import Turn, check_calls, fit, messages_of, turns_made, turns_of
from puna.serve.responses_store import Store
from puna.serve.settings import Settings
from puna.serve.sse import DONE, STREAMED, compact, stream, unless_gone
from puna.serve.tools import CLOSING, CallReader, Offer, Tool

router = APIRouter(tags=["responses"])
LOGPROBS = "message.output_text.logprobs"
_LEAST_TOP_P = 1e-6  # OpenAI's 0 keeps the likeliest token alone, and so does this


@router.post("/v1/responses", response_model=ResponseObject, responses={200: {"content": STREAMED}})
async def create_response(request: Request, body: ResponseRequest) -> Response:
    """Go on with a conversation. With `stream` its making comes as server-sent events that end with `data: [DONE]`."""
    hosted: Hosted = request.app.state.models.get(body.model)
    job = await unless_gone(request, _prepared(hosted, body, request.app.state.responses, request.app.state.settings))
    if body.stream:
        return stream(request, _events(job))
    made = await unless_gone(request, _whole(job))
    return Response(compact(made), media_type="application/json")


@router.get("/v1/responses/{response_id}", response_model=ResponseObject)
async def get_response(request: Request, response_id: str, stream: Literal["false"] = "false") -> Response:
    """A response that is kept. It is given whole: what was streamed once is not streamed again."""
    store: Store = request.app.state.responses
    return JSONResponse(store.get(response_id).response)


@router.delete("/v1/responses/{response_id}", response_model=Deleted)
async def delete_response(request: Request, response_id: str) -> Response:
    """Keep a response no longer."""
    store: Store = request.app.state.responses
    store.delete(response_id)
    return JSONResponse({"id": response_id, "object": "response", "deleted": True})


@dataclass(frozen=True)
class _Job:
    """What is to be done. `conversation`: what stands in the prompt, and will be kept with the output."""

    hosted: Hosted
    body: ResponseRequest
    wanted: Wanted
    offer: Offer
    conversation: tuple[Turn, ...]
    store: Store

    def making(self) -> Making:
        """The response, not begun."""
        logs = None if self.wanted.top_logprobs is None else partial(token_logs, self.hosted)
        reader = CallReader(tool.name for tool in self.offer.tools)
        return Making(self.body, self.hosted.name, len(self.wanted.prompt), reader, logs)

    def keep(self, response: dict[str, Any]) -> None:
        """Keep the finished response, where that is wanted."""
        if self.body.store is not False:
            self.store.keep(response, self.conversation + turns_made(response["output"]))


async def _prepared(hosted: Hosted, body: ResponseRequest, store: Store, settings: Settings) -> _Job:
    """Check everything and build the engine's request. Raises `ApiError` and `PunaError`."""
    check_chats(hosted)
    check_max_tokens(body.max_output_tokens, settings, "max_output_tokens")
    previous: tuple[Turn, ...] = ()
    if body.previous_response_id is not None:
        previous = store.get(body.previous_response_id, "previous_response_id").conversation
    conversation = previous + turns_of(body)
    if not conversation:
        raise ApiError(400, "input: is empty: there is nothing to go on from", param="input", code="empty_input")
    if len(conversation) > settings.messages:
        told = f"input: the conversation has {len(conversation)} items, and may have {settings.messages}"
        raise ApiError(400, told, param="input", code="too_many_items")
    check_calls(conversation)
    tools = tools_of(body.tools or [], settings)
    offer = offer_of(tools, body.tool_choice, parallel=body.parallel_tool_calls is not False)
    shape = offer.shape(_answer_shape(body))
    await prepare(hosted, shape, "tools" if offer.tools else "text.format")
    # Of tools that may not be called the model is told all the same where others may: the prompt's beginning stays one.
    shown = tools if offer.tools else ()
    work = partial(
        fit,
        hosted,
        conversation,
        body.instructions,
        shown,
        shorten=body.truncation == "auto",
        wanted=body.max_output_tokens,
    )
    ids, kept = await off_loop(length_of(messages_of(conversation, body.instructions)), work)
    left = hosted.engine.context - len(ids)
    one_call = bool(offer.tools) and not offer.parallel and shape is None
    sampling = _sampling(body, min(body.max_output_tokens or left, left), (CLOSING,) if one_call else ())
    logged = body.top_logprobs is not None or LOGPROBS in (body.include or ())
    wanted = Wanted(ids, sampling, (body.top_logprobs or 0) if logged else None, shape)
    return _Job(hosted, body, wanted, offer, kept, store)


def tools_of(tools: list[FunctionTool], settings: Settings) -> tuple[Tool, ...]:
    """The tools of a request. Raises `ApiError` and `PunaError` 400."""
    if len(tools) > settings.tools:
        raise ApiError(
            400, f"tools: has {len(tools)}, and may have {settings.tools}", param="tools", code="too_many_tools"
        )
    return tuple(Tool(one.name, one.description, one.parameters, bool(one.strict)) for one in tools)


def offer_of(tools: tuple[Tool, ...], choice: ToolChoice | None, *, parallel: bool) -> Offer:
    """The tools that may be called. Raises `PunaError` where the choice names another."""
    offer = Offer(tools, must=choice == "required", parallel=parallel)
    if isinstance(choice, NamedTool):
        return Offer(offer.only([choice.name], must=True).tools, must=True, parallel=False)
    if isinstance(choice, AllowedTools):
        return offer.only([tool.name for tool in choice.tools], must=choice.mode == "required")
    return Offer() if choice == "none" else offer


def _answer_shape(body: ResponseRequest) -> Shape | None:
    wanted = body.text.format if body.text is not None else None
    if isinstance(wanted, JsonObjectFormat):
        return Shape(json_schema={"type": "object"})
    return Shape(json_schema=wanted.schema_) if isinstance(wanted, JsonSchemaFormat) else None


def _sampling(body: ResponseRequest, max_tokens: int, stop: tuple[str, ...]) -> Sampling:
    return Sampling(
        max_tokens=max_tokens,
        temperature=1.0 if body.temperature is None else body.temperature,
        top_p=1.0 if body.top_p is None else max(body.top_p, _LEAST_TOP_P),
        top_k=max(body.top_k or 0, 0),
        min_p=body.min_p or 0.0,
        repetition_penalty=1.0 if body.repetition_penalty is None else body.repetition_penalty,
        presence_penalty=body.presence_penalty or 0.0,
        frequency_penalty=body.frequency_penalty or 0.0,
        seed=None if body.seed is None else body.seed % SEEDS,
        stop=stop,
    )


async def _whole(job: _Job) -> dict[str, Any]:
    """The finished response."""
    making = job.making()
    async with aclosing(pieces(job.hosted, [job.wanted])) as made:
        async for _, delta in made:
            for _event in making.push(delta):
                pass
            if delta.finish_reason is not None:
                for _event in making.finish(delta.finish_reason):
                    pass
    job.keep(making.response)
    return making.response


async def _events(job: _Job) -> AsyncGenerator[str, None]:
    """The response as a stream. The first event is made when the engine has begun, so that a refusal still has its own status."""
    making = job.making()
    begun = False
    try:
        async with aclosing(pieces(job.hosted, [job.wanted])) as made:
            async for _, delta in made:
                if not begun:
                    begun = True
                    for event in making.begin(delta.cached_tokens):
                        yield _written(event)
                for event in making.push(delta):
                    yield _written(event)
                if delta.finish_reason is not None:
                    last = list(making.finish(delta.finish_reason))
                    job.keep(making.response)  # before the client learns that it may go on from it
                    for event in last:
                        yield _written(event)
    except Exception as error:
        if not begun:
            raise
        for event in making.fail(as_api_error(error)):
            yield _written(event)
    yield DONE


def _written(event: Event) -> str:
    return f"event: {event['type']}\ndata: {compact(event)}\n\n"
