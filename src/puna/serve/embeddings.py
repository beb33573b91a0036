"""/v1/embeddings: where texts lie in the model's space.

In: texts, or their ids. Out: one vector for each, of the model's width. Must never happen: a vector of a text that was cut, or a long
request between two steps of somebody's reply.

A vector is the mean of the last layer's normed hidden states over all of a text's tokens (the begin token among them, where the
model expects one), scaled to length 1: the dot product of two is their cosine. These models were trained to write, not to
embed; texts that begin alike lie near each other more than texts that mean alike.
"""

import asyncio
import base64
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from puna.engine import Engine
from puna.serve.errors import ApiError
from puna.serve.fields import Given, ModelName, Strict
from puna.serve.models import Hosted
from puna.serve.prompts import off_loop
from puna.serve.sse import unless_gone

router = APIRouter(tags=["embeddings"])

CALL_TOKENS = 1024
"""Tokens read between two steps of the replies that are being made: about as many as one step of chunked prefill may take."""
_MOST_ID = 1 << 22
_Id = Annotated[int, Field(ge=0, lt=_MOST_ID)]
_Text = Annotated[str, Field(min_length=1)]
_Ids = Annotated[list[_Id], Field(min_length=1, fail_fast=True)]


class EmbeddingRequest(Strict):
    """Texts to embed."""

    model: ModelName
    """A name that `GET /v1/models` lists."""
    input: (
        _Text
        | Annotated[list[_Text], Field(min_length=1, fail_fast=True)]
        | _Ids
        | Annotated[list[_Ids], Field(min_length=1, fail_fast=True)]
    )
    """A text, several, the ids of a text, or those of several. Ids are taken as they are, with no begin token added."""
    encoding_format: Literal["float", "base64"] | None = None
    """`float`: a list of numbers. `base64`: the same as little-endian fp32."""
    dimensions: Annotated[int, Field(ge=1)] | None = None
    """Only the model's own width."""
    user: str | None = None
    """No effect."""


class Embedding(Given):
    """The vector of one text."""

    object: Literal["embedding"]
    index: int
    """Which of the request's texts."""
    embedding: list[float] | str


class EmbeddingUsage(Given):
    """Tokens read."""

    prompt_tokens: int
    total_tokens: int


class Embeddings(Given):
    """One vector for each text, in order."""

    object: Literal["list"]
    model: str
    data: list[Embedding]
    usage: EmbeddingUsage


@router.post("/v1/embeddings", response_model=Embeddings)
async def embed(request: Request, body: EmbeddingRequest) -> JSONResponse:
    """Vectors of texts: the mean of the last hidden states over a text's tokens, of length 1."""
    hosted: Hosted = request.app.state.models.get(body.model)
    width = hosted.engine.config.hidden_size
    if body.dimensions not in (None, width):
        told = f"dimensions: is {body.dimensions}, and this model's vectors have {width}"
        raise ApiError(400, told, param="dimensions", code="unsupported_dimensions")
    texts, settings = _texts(body.input), request.app.state.settings
    if len(texts) > settings.prompts:
        told = f"input: has {len(texts)} texts, and may have {settings.prompts}"
        raise ApiError(400, told, param="input", code="too_many_inputs")
    size = sum(len(text) for text in texts if isinstance(text, str))
    rows = await off_loop(size, lambda: rows_of(hosted.engine, texts))
    vectors = await unless_gone(request, _vectors(hosted, rows))
    written = _base64 if body.encoding_format == "base64" else Tensor.tolist
    tokens = sum(map(len, rows))
    return JSONResponse({
        "object": "list",
        "model": hosted.name,
        "data": [{"object": "embedding", "index": number, "embedding": written(vector)} for number, vector in enumerate(vectors)],
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    })  # fmt: skip


def rows_of(engine: Engine, texts: Sequence[str | list[int]]) -> list[list[int]]:
    """The ids of each text. Raises `ApiError` 400 that says both numbers where one does not fit the context, and for ids there are not."""
    rows = []
    for number, text in enumerate(texts):
        field = f"input[{number}]" if len(texts) > 1 else "input"
        ids = engine.begin(text) if isinstance(text, str) else text
        if len(ids) > engine.context:
            raise ApiError(400, f"{field}: has {len(ids)} tokens, and the model's context is {engine.context}",
                           param=field, code="context_length_exceeded")  # fmt: skip
        wrong = next((id_ for id_ in ids if id_ >= engine.config.vocab_size), None)
        if wrong is not None:
            raise unknown_id(wrong, engine.config.vocab_size, field)
        rows.append(ids)
    return rows


def unknown_id(id_: int, count: int, field: str) -> ApiError:
    """The refusal of an id that the model does not have."""
    told = f"{field}: there is no token {id_}; the model's are 0 to {count - 1}"
    return ApiError(400, told, param=field, code="unknown_token")


def _texts(given: str | list[str] | list[int] | list[list[int]]) -> list[str | list[int]]:
    if isinstance(given, str):
        return [given]
    if isinstance(given[0], int):
        return [[id_ for id_ in given if isinstance(id_, int)]]
    return [text for text in given if not isinstance(text, int)]


async def _vectors(hosted: Hosted, rows: Sequence[Sequence[int]]) -> list[Float[Tensor, " d"]]:
    """In portions, each done between two steps of the engine. Cancelled, the next portion is not begun."""
    made: list[Float[Tensor, " d"]] = []
    for portion in _portions(rows):
        made.extend(await asyncio.wrap_future(hosted.loop.call(partial(_embed, hosted.engine, portion))))
    return made


def _portions(rows: Sequence[Sequence[int]]) -> Iterator[list[Sequence[int]]]:
    """Rows that have at most `CALL_TOKENS` tokens together; a longer one is alone."""
    portion: list[Sequence[int]] = []
    for row in rows:
        if portion and sum(map(len, portion)) + len(row) > CALL_TOKENS:
            yield portion
            portion = []
        portion.append(row)
    yield portion


def _embed(engine: Engine, rows: Sequence[Sequence[int]]) -> list[Float[Tensor, " d"]]:
    return [engine.embed(row) for row in rows]


def _base64(vector: Float[Tensor, " d"]) -> Any:
    return base64.b64encode(vector.numpy().astype("<f4").tobytes()).decode("ascii")
