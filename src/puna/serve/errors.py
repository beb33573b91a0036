"""What went wrong, in OpenAI's shape: `{"error": {"message", "type", "param", "code"}}` with the right status.

In: exceptions. Out: responses. Must never happen: a mistake of the client's that is told as the server's (500), a path of this machine
or a line of a traceback in a reply.
"""

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import iter_route_contexts
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.routing import Route

from puna.engine.request import Closing, Failed, Full
from puna.errors import PunaError

LOG = logging.getLogger("puna.serve")
_LONGEST = 1000  # characters of a message
_CODES = {401: "invalid_api_key", 404: "not_found", 405: "method_not_allowed", 408: "timeout", 413: "too_large",
          415: "unsupported_media_type", 431: "too_large", 503: "unavailable", 504: "timeout"}  # fmt: skip


class ApiError(Exception):
    """A refusal with its HTTP status. `param`: the field that is wrong. `retry_after`: seconds, for 503."""

    def __init__(
        self, status: int, message: str, *, type: str | None = None, param: str | None = None,  # noqa: A002
        code: str | None = None,
        retry_after: int | None = None, headers: dict[str, str] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(message)
        self.status, self.message, self.param = status, message, param
        self.type = type or ("server_error" if status >= 500 else "invalid_request_error")
        self.code = code or _CODES.get(status)
        self.headers = dict(headers or {})
        if retry_after is not None:
            self.headers["Retry-After"] = str(retry_after)

    def body(self) -> dict[str, Any]:
        """`{"error": {...}}`."""
        clean = self.message.encode("utf-8", "replace").decode()
        message = clean if len(clean) <= _LONGEST else clean[: _LONGEST - 1] + "…"
        return {"error": {"message": message, "type": self.type, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        """The whole response."""
        return JSONResponse(self.body(), self.status, self.headers)


class _Error(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """The body of every error."""

    error: _Error


_TOLD = {
    400: "The request is wrong; `param` names the field.",
    401: "The server has a key, and this is not it.",
    403: "The Host or Origin header is another site's.",
    404: "There is no such model, object or route.",
    405: "The route has no such method.",
    408: "The request did not arrive in time.",
    413: "The body is too large.",
    415: "The body is not application/json.",
    431: "The headers are too many or too large.",
    500: "The server could not do it; its log says why.",
    503: "The queue is full, or the server is ending: see Retry-After.",
    504: "The request took longer than a request may.",
}
RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {"description": told, "model": ErrorBody} for status, told in _TOLD.items()
}
"""What any route may answer besides its own, for the OpenAPI description."""


def as_api_error(error: Exception, retry_seconds: int = 1) -> ApiError:
    """The refusal that an exception stands for. One that is no client's mistake becomes 500, and its story goes to the log."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, PunaError):
        message = f"{error.what}; {error.mend}" if error.mend else error.what
        return ApiError(400, f"{error.where}: {message}" if error.where else message, param=error.where)
    if isinstance(error, Full):
        return ApiError(503, "the queue is full; come back later", code="overloaded", retry_after=retry_seconds)
    if isinstance(error, Closing):
        return ApiError(503, "the server is ending", retry_after=retry_seconds)
    if isinstance(error, Failed):
        LOG.error("the engine gave a reply up", exc_info=error)
        return ApiError(500, "the engine could not finish this reply", code="engine_failed")
    LOG.error("a request failed", exc_info=error)
    return ApiError(500, "the server could not do this; its log says why", code="internal_error")


def add_handlers(app: FastAPI) -> None:
    """Every exception that a route lets go becomes a response in the shape above."""

    async def told(request: Request, error: Exception) -> Response:
        return as_api_error(error, request.app.state.settings.retry_seconds).response()

    async def unknown(request: Request, error: Exception) -> Response:
        if not isinstance(error, HTTPException):
            raise error
        told = {404: f"there is no {request.url.path} here", 405: f"{request.url.path} has no method {request.method}"}
        message = told.get(error.status_code, str(error.detail))
        headers = dict(error.headers or {})
        if error.status_code == 405:
            headers["Allow"] = ", ".join(_methods(request))
        return ApiError(error.status_code, message, headers=headers).response()

    async def wrong(request: Request, error: Exception) -> Response:
        if not isinstance(error, RequestValidationError):
            raise error
        return as_api_error(from_validation(error.errors(), error.body)).response()

    handlers: list[tuple[type[Exception], Callable[[Request, Exception], Awaitable[Response]]]] = [
        (HTTPException, unknown), (RequestValidationError, wrong),
        *((kind, told) for kind in (ApiError, PunaError, Full, Closing, Failed)),
    ]  # fmt: skip
    for kind, handler in handlers:
        app.add_exception_handler(kind, handler)


def _methods(request: Request) -> list[str]:
    """The methods that the path has: those of all its routes, of which Starlette names the first one's."""
    found: set[str] = set()
    for context in iter_route_contexts(request.app.routes):
        route = context.original_route
        if isinstance(route, Route) and route.path_regex.match(request.scope["path"]):
            found |= context.methods or set()
    return sorted(found)


def from_validation(errors: Sequence[Any], body: Any) -> ApiError:
    """pydantic's findings as one refusal that names the field they are about.

    Of the alternatives of a union the one that came furthest into the value is taken: it is what was meant.
    """
    first = errors[0]["loc"][1:2]
    about = [one for one in errors if one["loc"][1:2] == first]
    places = [_place(one["loc"], one["type"], body) for one in about]
    deepest = max(len(place) for place in places)
    found = [(place, one) for place, one in zip(places, about, strict=True) if len(place) == deepest]
    place = found[0][0]
    told = dict.fromkeys(
        str(one["msg"]).removeprefix("Value error, ") for other, one in found if other == place
    )  # each once, in order
    message = "; or: ".join(list(told)[:3])
    param = _written(place)
    if param is None:
        return ApiError(400, "the body must be a JSON object")
    return ApiError(400, f"{param}: {message}", param=param)


def _place(loc: Sequence[int | str], kind: str, body: Any) -> list[int | str]:
    """Where in the request an error is, without the names of types that pydantic puts in for the branches of a union."""
    if loc[0] != "body":
        return list(loc[1:])
    place: list[int | str] = []
    value = body
    for number, part in enumerate(loc[1:], start=1):
        last = number == len(loc) - 1
        in_object = isinstance(value, dict) and isinstance(part, str) and part in value
        if in_object or (isinstance(value, list) and isinstance(part, int) and part < len(value)):
            value = value[part]
        elif not (last and kind == "missing" and isinstance(value, dict)):
            continue
        place.append(part)
    return place


def _written(place: Sequence[int | str]) -> str | None:
    """`["messages", 0, "content"]` as `messages[0].content`; None for the body as a whole."""
    text = ""
    for part in place:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.removeprefix(".")[:200] or None
