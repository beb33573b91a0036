"""The application: routes, guard, metrics and the models' life, put together.

In: models and settings. Out: an ASGI application. Must never happen: a route that the guard does not stand before.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI

from puna import __version__
from puna.serve import about, chat, completions, embeddings, health, page, responses, routes_models, tokens
from puna.serve.description import description
from puna.serve.door import Door
from puna.serve.errors import RESPONSES, add_handlers
from puna.serve.guard import Guard
from puna.serve.metrics import Meters
from puna.serve.models import Models
from puna.serve.responses_store import Store
from puna.serve.settings import Settings

_ROUTERS = (
    health.router, routes_models.router, chat.router, completions.router, responses.router, embeddings.router, tokens.router, about.router,
    page.router,
)  # fmt: skip
_TELEMETRY: Any = {"tracing": False, "metrics": False, "logs": False, "operation_spans": False, "auto_configure": False}
_ABOUT = 'Open language models behind OpenAI\'s interface. Every error is {"error": {message, type, param, code}}.'


def create_app(models: Models, settings: Settings, meters: Meters | None = None) -> FastAPI:
    """The app. Its state: `models`, `settings`, `door`, `meters`, `responses`. At its end the models' loops are closed."""

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(models.close)

    # /docs and /redoc load scripts from elsewhere, so they are off.
    app = FastAPI(title="Puna", version=__version__, description=_ABOUT, docs_url=None, redoc_url=None, lifespan=life,
                  redirect_slashes=False, telemetry=_TELEMETRY, responses=RESPONSES)  # fmt: skip
    meters = meters or Meters()
    meters.watch(models)
    app.state.models, app.state.settings, app.state.door, app.state.meters = models, settings, Door(), meters
    app.state.responses = Store(settings.responses, settings.responses_bytes, settings.responses_seconds)
    for router in _ROUTERS:
        app.include_router(router)
    add_handlers(app)
    app.add_middleware(Guard, settings=settings, door=app.state.door, meters=meters)
    app.openapi = lambda: description(app)  # type: ignore[method-assign]
    return app
