"""/tokenize and /detokenize: a model's tokens, as it reads them.

In: a text or a conversation; ids. Out: ids; a text. Must never happen: a client's text that becomes a special token.
"""

from typing import Annotated, Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from pydantic import ConfigDict, Field

from puna.serve.chat_fields import Message
from puna.serve.embeddings import unknown_id
from puna.serve.errors import ApiError
from puna.serve.fields import Given, ModelName, Strict
from puna.serve.models import Hosted, Models
from puna.serve.prompts import check_chats, off_loop, turns
from puna.tokens.chat import render

router = APIRouter(tags=["tokens"])
_MOST_ID = 1 << 22
_MOST = 1 << 18  # characters: encoding more, and writing so many ids, would hold up the replies of others
_ONE = ("prompt", "content", "messages")


def _given(name: str) -> dict[str, Any]:
    """In the description: that this one of them is there, and is not null."""
    return {"required": [name], "properties": {name: {"not": {"type": "null"}}}}


class TokenizeRequest(Strict):
    """One of `prompt`, `content` and `messages`."""

    model_config = ConfigDict(json_schema_extra={"oneOf": [_given(name) for name in _ONE]})

    model: ModelName | None = None
    """May be left out where one model is loaded."""
    prompt: str | None = None
    """A text. vLLM's name for it."""
    content: str | None = None
    """A text. llama.cpp's name for it."""
    messages: Annotated[list[Message], Field(min_length=1, fail_fast=True)] | None = None
    """A conversation, in the model's chat format."""
    add_special_tokens: bool | None = None
    """False: no begin token before a text, for a model that expects one. In a conversation the format's marks stand always."""
    add_generation_prompt: bool | None = None
    """False: a conversation ends where its last message does, and does not open the assistant's turn."""
    return_token_strs: bool | None = None
    """True: what each token stands for, too."""


class DetokenizeRequest(Strict):
    """Ids to read."""

    model: ModelName | None = None
    """May be left out where one model is loaded."""
    tokens: Annotated[list[Annotated[int, Field(ge=0, lt=_MOST_ID)]], Field(fail_fast=True)]


class Tokenized(Given):
    """The ids of a text."""

    tokens: list[int]
    count: int
    max_model_len: int
    """The model's context: the most tokens of prompt and reply together."""
    token_strs: list[str] | None = None
    """What each token stands for; U+FFFD where it is no whole character."""


class Detokenized(Given):
    """The text of ids, special tokens by their names."""

    prompt: str


@router.post("/tokenize", response_model=Tokenized)
async def tokenize(request: Request, body: TokenizeRequest) -> JSONResponse:
    """The ids that a text or conversation has for a model. It may be longer than the context."""
    given = [name for name in _ONE if getattr(body, name) is not None]
    if len(given) != 1:
        told = f"{(given or _ONE)[0]}: give one of {', '.join(_ONE)}; {', '.join(given) or 'none'} is given"
        raise ApiError(400, told, param=(given or _ONE)[0])
    hosted = _hosted(request, body.model)
    size = len(body.prompt or body.content or "") + sum(len(str(one)) for one in body.messages or ())
    if size > _MOST:
        raise ApiError(400, f"{given[0]}: has {size:,} characters, and may have {_MOST:,}", param=given[0])
    ids = await off_loop(size, lambda: _ids(hosted, body))
    made: dict[str, Any] = {"tokens": ids, "count": len(ids), "max_model_len": hosted.engine.context}
    if body.return_token_strs:
        tokenizer = hosted.engine.tokenizer
        made["token_strs"] = [tokenizer.token_bytes(id_).decode("utf-8", "replace") for id_ in ids]
    return JSONResponse(made)


@router.post("/detokenize", response_model=Detokenized)
async def detokenize(request: Request, body: DetokenizeRequest) -> JSONResponse:
    """The text of ids, special tokens by their names."""
    hosted = _hosted(request, body.model)
    tokenizer = hosted.engine.tokenizer
    for number, id_ in enumerate(body.tokens):
        if id_ >= tokenizer.vocab_size:
            raise unknown_id(id_, tokenizer.vocab_size, f"tokens[{number}]")
    text = await off_loop(len(body.tokens), lambda: tokenizer.decode(body.tokens, skip_special=False))
    return JSONResponse({"prompt": text})


def _ids(hosted: Hosted, body: TokenizeRequest) -> list[int]:
    engine = hosted.engine
    if body.messages is not None:
        check_chats(hosted)
        messages = turns([message.model_dump() for message in body.messages])
        return render(engine.tokenizer, messages, add_generation_prompt=body.add_generation_prompt is not False).ids
    text = body.prompt if body.prompt is not None else body.content or ""
    return engine.tokenizer.encode(text) if body.add_special_tokens is False else engine.begin(text)


def _hosted(request: Request, name: str | None) -> Hosted:
    """The model of that name, or the one that is loaded. Raises `ApiError`."""
    models: Models = request.app.state.models
    if name is not None:
        return models.get(name)
    loaded = models.all()
    if len(loaded) != 1:
        told = f"model: {len(loaded)} models are loaded; name one of {', '.join(models.names()) or 'none'}"
        raise ApiError(400, told, param="model", code="model_not_named")
    return loaded[0]
