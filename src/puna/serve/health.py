"""Whether the server is up, and its figures."""

from typing import Literal

from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel

from puna.serve.errors import ApiError
from puna.serve.metrics import CONTENT_TYPE

router = APIRouter(tags=["server"])


class Health(BaseModel):
    """All is well."""

    status: Literal["ok"]


@router.get("/health", openapi_extra={"security": []})
async def health(request: Request) -> Health:
    """Whether requests are taken. 503 while the server is ending, or where a model's loop has ended. Needs no key and tells no more."""
    if request.app.state.door.closed:
        raise ApiError(503, "the server is ending", retry_after=request.app.state.settings.retry_seconds)
    if not request.app.state.models.alive():
        raise ApiError(503, "a model's loop has ended; the log says why")
    return Health(status="ok")


@router.get("/metrics", response_class=PlainTextResponse)
async def metrics(request: Request) -> Response:
    """Counts and times in Prometheus' text form."""
    return Response(request.app.state.meters.text(), media_type=CONTENT_TYPE)
