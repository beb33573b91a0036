"""A real server on loopback, in a thread of the test's process."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx2 as httpx
from fastapi import FastAPI

from puna.engine import Engine
from puna.serve.app import create_app
from puna.serve.metrics import Meters
from puna.serve.models import Models
from puna.serve.server import Server, bind, url_of
from puna.serve.settings import Settings
from puna.serve.timed import start_loop

KEY = "a-key-for-the-tests-only"
MODEL = "tiny"


@dataclass
class Running:
    """A server that answers at `base_url`; `model` is the name of what lies in `folder`, `runs` the folder of local runs."""

    base_url: str
    key: str | None
    model: str
    folder: Path
    app: FastAPI
    server: Server
    thread: threading.Thread
    headers: dict[str, str] = field(default_factory=dict)

    def client(self, **settings: Any) -> httpx.Client:
        """A client that brings the key."""
        return httpx.Client(base_url=self.base_url, headers=self.headers, timeout=60, trust_env=False, **settings)

    @property
    def models(self) -> Models:
        models: Models = self.app.state.models
        return models


@contextlib.contextmanager
def running_server(
    sources: dict[str, Path],
    runs: Path | None = None,
    *,
    routes: Callable[[FastAPI], None] | None = None,
    **settings: Any,
) -> Iterator[Running]:
    """Serve `sources` until the block ends. `settings` are those of `Settings`; `routes` may add routes to the app."""
    chosen = Settings(**{"port": 0, "drain_seconds": 2.0, **settings})
    sock, meters = bind(chosen), Meters()
    models = Models(sources, chosen, partial(Engine.load, device="cpu"), partial(start_loop, chosen, meters), runs)
    models.load_first()
    app = create_app(models, chosen, meters)
    if routes is not None:
        routes(app)
    ready = threading.Event()
    server = Server(app, sock, ready.set)
    thread = threading.Thread(target=server.serve_until_told, daemon=True)
    thread.start()
    try:
        assert ready.wait(30), "the server did not start"
        headers = {"Authorization": f"Bearer {chosen.key}"} if chosen.key else {}
        name = next(iter(sources), "")
        yield Running(url_of(sock), chosen.key, name, sources.get(name, Path()), app, server, thread, headers)
    finally:
        server.end()
        server.end()  # the second time, what still runs is ended too
        thread.join(30)
        sock.close()
    assert not thread.is_alive(), "the server did not end"
