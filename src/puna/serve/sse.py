"""Server-sent events: a reply on its way while it is made, and the end of the work when nobody reads any more.

In: events. Out: a response. Must never happen: work for a client that has gone, an error that ends a stream in silence, or one before the
stream's beginning that comes as 200.

An event is what HTML's standard calls one (https://html.spec.whatwg.org/multipage/server-sent-events.html): here one line of `data:`.
"""

import asyncio
import json
import re
from collections.abc import AsyncGenerator, Coroutine
from json.encoder import encode_basestring
from typing import Any, TypeVar

from fastapi import Request, Response
from starlette.types import Receive, Scope, Send

from puna.serve.errors import ApiError, as_api_error

T = TypeVar("T")
DONE = "data: [DONE]\n\n"
STREAMED: dict[str, Any] = {"text/event-stream": {"schema": {"type": "string"}}}
"""How a stream stands in the OpenAPI description."""
_LINE_ENDS = re.compile("[\x80-\x9f\u2028\u2029]")


def quoted(text: str) -> str:
    """A text as a JSON string on one line. What clients' line readers may take for a line's end (U+0085, U+2028) is escaped too."""
    return _on_one_line(encode_basestring(text))


def compact(value: Any) -> str:
    """A value as JSON on one line, as `quoted` writes texts."""
    return _on_one_line(json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False))


def _on_one_line(made: str) -> str:
    return made if made.isascii() else _LINE_ENDS.sub(lambda one: f"\\u{ord(one[0]):04x}", made)


class Chunks:
    """The events of one OpenAI stream: their constant parts are made once. `fields`: id, object, created, model and so on."""

    def __init__(self, fields: dict[str, Any], *, with_usage: bool) -> None:
        self._head = f'data: {compact(fields)[:-1]},"choices":['
        self._tail = '],"usage":null}\n\n' if with_usage else "]}\n\n"

    def choice(self, choice: str) -> str:
        """The event of one choice, which is given as JSON."""
        return f"{self._head}{choice}{self._tail}"

    def usage(self, usage: dict[str, Any]) -> str:
        """The event with no choice and the usage of all."""
        return f'{self._head}],"usage":{compact(usage)}}}\n\n'


def stream(request: Request, events: AsyncGenerator[str, None]) -> Response:
    """The response that sends `events` (each ends with an empty line) and closes the generator when the client goes or the server ends.

    What the generator raises before its first event becomes a plain error response; after it, one `data: {"error": ...}` event.
    """
    return _Events(events, request.app.state.settings.retry_seconds)


async def unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """What `work` returns; it is cancelled when the client goes away. Raises `ApiError` then, for nobody to see."""
    task = asyncio.ensure_future(work)
    if not await _ends(task, request.receive):
        raise ApiError(499, "the client has gone")
    return task.result()


async def _ends(task: "asyncio.Task[Any]", receive: Receive) -> bool:
    """Wait for a task's end, True; or for the client's going away, False: then, or where the waiting is cancelled, so is the task."""
    watch = asyncio.ensure_future(_gone(receive))
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        return task.done()
    finally:
        task.cancel()
        watch.cancel()
        await asyncio.gather(task, watch, return_exceptions=True)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class _Events(Response):
    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[str, None], retry_seconds: int) -> None:
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]  # it is not known
        self._events, self._retry_seconds = events, retry_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        task = asyncio.ensure_future(self._send(send))
        if await _ends(task, receive):
            task.result()

    async def _send(self, send: Send) -> None:
        try:
            event = await anext(self._events, None)  # what is raised here still has its own status
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            while event is not None:
                await send({"type": "http.response.body", "body": event.encode(), "more_body": True})
                event = await self._next()
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            await self._events.aclose()

    async def _next(self) -> str | None:
        try:
            return await anext(self._events, None)
        except Exception as error:  # after it the generator is at its end
            return f"data: {compact(as_api_error(error, self._retry_seconds).body())}\n\n"
