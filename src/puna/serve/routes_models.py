"""The models that are here: listed, loaded, unloaded."""

import asyncio
from typing import Annotated, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from puna.serve.models import Hosted, Models

router = APIRouter(tags=["models"])


class ModelObject(BaseModel):
    """A model, as OpenAI describes one, with what a client wants to know before it asks."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["puna"] = "puna"
    context_length: int
    """The most tokens of prompt and reply together."""
    chats: bool
    """Whether it has a chat format; one without goes on with text."""
    parameters: int


class ModelList(BaseModel):
    """The loaded models."""

    object: Literal["list"] = "list"
    data: list[ModelObject]


class KnownModel(BaseModel):
    """A model that is loaded or may be."""

    id: str
    loaded: bool


class KnownModels(BaseModel):
    """Every name that `POST /models/load` takes."""

    object: Literal["list"] = "list"
    data: list[KnownModel]


class Named(BaseModel):
    """Which model."""

    model_config = ConfigDict(extra="forbid", strict=True)

    model: Annotated[str, Field(min_length=1, max_length=200)]


def _object(hosted: Hosted) -> ModelObject:
    engine = hosted.engine
    return ModelObject(id=hosted.name, created=hosted.created, context_length=engine.context, chats=engine.chats,
                       parameters=engine.config.parameters)  # fmt: skip


@router.get("/v1/models")
async def list_models(request: Request) -> ModelList:
    """The loaded models."""
    return ModelList(data=[_object(hosted) for hosted in _models(request).all()])


@router.get("/v1/models/{model}")
async def get_model(request: Request, model: str) -> ModelObject:
    """One loaded model."""
    return _object(_models(request).get(model))


@router.get("/models")
async def list_known(request: Request) -> KnownModels:
    """The loaded models and those that may be loaded."""
    models = _models(request)
    known, loaded = await asyncio.to_thread(models.known), set(models.names())
    return KnownModels(data=[KnownModel(id=name, loaded=name in loaded) for name in known])


@router.post("/models/load")
async def load_model(request: Request, body: Named) -> ModelObject:
    """Have a model in memory: one that the server was started with, or a finished run of this machine."""
    return _object(await asyncio.to_thread(_models(request).load, body.model))


@router.post("/models/unload")
async def unload_model(request: Request, body: Named) -> KnownModel:
    """Take a model out of memory. Replies that are being made may end first."""
    await asyncio.to_thread(_models(request).unload, body.model)
    return KnownModel(id=body.model, loaded=False)


def _models(request: Request) -> Models:
    models: Models = request.app.state.models
    return models
