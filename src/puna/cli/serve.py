"""`puna serve`: models behind an HTTP interface.

In: the verb's arguments, a key from the environment or a file. Out: a running server, until it is told to end. Must never happen: a
server that strangers reach without a key; one that listens and has no model.

What is cheap to find wrong is looked at first: address and key, then the port, then the models; torch is imported only then.
"""

import gc
import importlib.util
import logging
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import typer

from puna.cli.verbs import print_json
from puna.errors import PunaError

if TYPE_CHECKING:
    from puna.engine.engine import Backend
    from puna.engine.linears import Precision
    from puna.serve.metrics import Meters
    from puna.serve.models import Models
    from puna.serve.settings import Settings

T = TypeVar("T", bound=str)
PRECISIONS: "tuple[Precision, ...]" = ("fp32", "bf16", "int8")
BACKENDS: "tuple[Backend, ...]" = ("auto", "torch", "openvino")


def run_serve(
    models: list[str], *, host: str, port: int, key_file: Path | None, allow_host: list[str], device: str | None,
    precision: str, backend: str, lookup: bool, cache_tokens: int | None, running: int, queue: int, drain: float, log: bool, runs: Path, json: bool,
) -> None:  # fmt: skip
    """Serve until SIGTERM or Ctrl-C. Raises `PunaError` for a wrong address, key, port or model, before it listens."""
    from puna.serve.settings import Settings, read_key

    gc.disable()  # while libraries load nothing becomes garbage, and looking for it takes a tenth of the start
    try:
        numbers, chosen = _one_of("--precision", precision, PRECISIONS), _one_of("--backend", backend, BACKENDS)
        _check_device(device)
        _check_backend(chosen, device)
        settings = Settings(host=host, port=port, key=read_key(key_file), names=tuple(allow_host), cache_tokens=cache_tokens,
                            running=running, waiting=queue, lookup=lookup, drain_seconds=drain, log=log)  # fmt: skip
        from puna.serve.server import Server, bind, url_of

        sock = bind(settings)
        with sock:
            url = url_of(sock)
            settings = replace(settings, port=sock.getsockname()[1])
            from puna.serve.app import create_app
            from puna.serve.metrics import Meters

            meters = Meters()
            hosted = _models(models, settings, meters, runs, device, numbers, chosen)
            hosted.load_first()
            logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(message)s", level=logging.WARNING)
            logging.getLogger("puna.serve").setLevel(logging.INFO)
            for one in hosted.all():
                engine = one.engine
                kind = "chat" if engine.chats else "text only: no chat format"
                typer.echo(f"{one.name}: {engine.config.parameters / 1e6:.1f} M parameters, context {engine.context} tokens, {kind}",
                           err=True)  # fmt: skip
            gc.freeze()  # what is loaded stays: later looks leave it out
            gc.enable()
            Server(
                create_app(hosted, settings, meters), sock, partial(_ready, url, hosted, settings, json)
            ).serve_until_told()
    finally:
        gc.enable()


def _ready(url: str, hosted: "Models", settings: "Settings", json: bool) -> None:
    key = "needs the key" if settings.key else "no key"
    typer.echo(f"Serving at {url} ({key}); the page is {url}/, the interface {url}/v1. Ctrl-C ends it.", err=True)
    if json:
        print_json({"url": url, "models": hosted.names()})
        sys.stdout.flush()


def _one_of(option: str, given: str, known: tuple[T, ...]) -> T:
    for one in known:
        if given == one:
            return one
    raise PunaError(f"is {' or '.join(map(str, known))}, and not {given!r}", where=option)


def _check_backend(backend: str, device: str | None) -> None:
    if backend == "openvino" and importlib.util.find_spec("openvino") is None:
        raise PunaError("OpenVINO is not installed", where="--backend openvino", mend="pip install 'puna[openvino]'")
    if backend == "openvino" and device == "cuda":
        raise PunaError("OpenVINO runs on the CPU", where="--backend openvino", mend="leave --device out")


def _check_device(device: str | None) -> None:
    if device not in (None, "cpu", "cuda"):
        raise PunaError(f"is cpu or cuda, and not {device!r}", where="--device")
    if device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise PunaError("there is no GPU that torch can use", where="--device cuda", mend="leave the option out")


def _models(
    given: list[str], settings: "Settings", meters: "Meters", runs: Path, device: str | None, precision: "Precision",
    backend: "Backend",
) -> "Models":  # fmt: skip
    """What the names mean, not yet loaded."""
    from puna.engine import Engine, resolve_model
    from puna.serve.models import Models, sources_of
    from puna.serve.timed import start_loop

    sources = sources_of(given, partial(resolve_model, runs=runs))
    return Models(
        sources,
        settings,
        partial(Engine.load, device=device, precision=precision, backend=backend),
        partial(start_loop, settings, meters),
        runs,
    )
