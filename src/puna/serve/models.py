"""The models that the server has, by name: those that it was started with, and local runs that may be loaded.

In: names. Out: `Hosted` models. Must never happen: a client's text that is taken for a path, a model that is half loaded, or more in memory
than were allowed.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from puna.errors import PunaError
from puna.serve.errors import ApiError
from puna.serve.settings import Settings

if TYPE_CHECKING:
    from puna.engine import Engine
    from puna.engine.loop import Loop

_RELEASE = "release"


@dataclass(frozen=True, eq=False)
class Hosted:
    """One model in memory. `created`: seconds since 1970, when its weights were written."""

    name: str
    path: Path
    engine: "Engine"
    loop: "Loop"
    created: int


class Models:
    """`sources`: the names the server was started with. `runs`: the folder whose finished runs may be loaded too.

    `open_model(path)` gives the engine, and raises `PunaError` where the model is damaged; `start(name, engine)` gives its running loop.
    `load` and `unload` may be called from any thread; they take as long as they take, so a route calls them in a thread of its own.
    """

    def __init__(
        self, sources: Mapping[str, Path], settings: Settings, open_model: Callable[[Path], "Engine"],
        start: Callable[[str, "Engine"], "Loop"], runs: Path | None = None,
    ) -> None:  # fmt: skip
        self._sources, self._settings, self._runs = dict(sources), settings, runs
        self._open, self._start = open_model, start
        self._loaded: dict[str, Hosted] = {}
        self._change = threading.Lock()

    def get(self, name: str) -> Hosted:
        """The loaded model of that name. Raises `ApiError` 404 `model_not_found`."""
        hosted = self._loaded.get(name)
        if hosted is None:
            there = ", ".join(self.names()) or "none is loaded"
            raise ApiError(
                404, f"there is no model {_short(name)} here; models: {there}", param="model", code="model_not_found"
            )
        return hosted

    def names(self) -> list[str]:
        """The loaded models, in the order of loading."""
        return list(self._loaded)

    def all(self) -> list[Hosted]:
        """The loaded models, in the order of loading."""
        return list(self._loaded.values())

    def known(self) -> list[str]:
        """The names that may be loaded, the loaded ones among them."""
        return sorted({*self._sources, *self._local(), *self._loaded})

    def load(self, name: str) -> Hosted:
        """Have a known model in memory; one that is there already stays. Raises `ApiError`: 404, or 400 where it is damaged or one too many."""
        with self._change:
            if name in self._loaded:
                return self._loaded[name]
            path = self._sources.get(name) or self._local().get(name)
            if path is None:
                known = ", ".join(self.known()) or "none"
                raise ApiError(
                    404, f"no model {_short(name)} may be loaded here; these may: {known}", param="model",
                    code="model_not_found",
                )  # fmt: skip
            if len(self._loaded) >= self._settings.models:
                told = f"{len(self._loaded)} models are loaded, and more are not allowed; unload one first"
                raise ApiError(400, told, param="model", code="too_many_models")
            try:
                return self._take(name, path)
            except PunaError as error:  # without its path: that is this machine's own
                raise ApiError(400, f"{name}: {error.what}", param="model", code="model_damaged") from error

    def load_first(self) -> None:
        """Load what the server was started with. Raises `PunaError` where a model is damaged or they are too many."""
        if len(self._sources) > self._settings.models:
            raise PunaError(f"{len(self._sources)} models are more than the {self._settings.models} allowed at once")
        with self._change:
            for name, path in self._sources.items():
                self._take(name, path)

    def unload(self, name: str) -> None:
        """Take a model out of memory: it takes no more requests, and those that run may end within the time for draining."""
        with self._change:
            hosted = self.get(name)
            self._loaded = {key: one for key, one in self._loaded.items() if key != name}
        hosted.loop.close(self._settings.drain_seconds)

    def alive(self) -> bool:
        """False where the loop of a model has ended by an error."""
        return all(hosted.loop.alive for hosted in self.all())

    def close(self) -> None:
        """End every loop, at once."""
        with self._change:
            for hosted in self.all():
                hosted.loop.close(0)
            self._loaded = {}

    def _take(self, name: str, path: Path) -> Hosted:
        engine = self._open(path)
        hosted = Hosted(name, path, engine, self._start(name, engine), _written(path))
        self._loaded = {**self._loaded, name: hosted}  # a new dict: readers in other threads never see one that changes
        return hosted

    def _local(self) -> dict[str, Path]:
        if self._runs is None:
            return {}
        return {path.parent.parent.name: path.parent for path in self._runs.glob(f"*/{_RELEASE}/config.json")}


def sources_of(models: Sequence[str], resolve: Callable[[str], Path]) -> dict[str, Path]:
    """Name -> path for what stands on the command line: `MODEL`, or `NAME=MODEL` to name it. Raises `PunaError`.

    The name is the run's, or the folder's or file's; `resolve` finds the model.
    """
    found: dict[str, Path] = {}
    for given in models:
        name, equals, model = given.partition("=")
        if not equals or Path(given).exists():
            path = resolve(given)
            name = name_of(path)
        else:
            path = resolve(model)
            if not name.isprintable() or not name.strip() or "/" in name or len(name) > 200:
                raise PunaError("a model's name is 1 to 200 visible characters without /", where=given)
        if name in found:
            raise PunaError(f"two models have the name {name}", where=given, mend=f"name one: other={given}")
        found[name] = path
    return found


def name_of(path: Path) -> str:
    """What a model at `path` is called: the run's name for a release inside a run, else the folder's, or the file's without ending."""
    path = path.resolve()
    if path.is_file():
        return path.stem
    return path.parent.name if path.name == _RELEASE and path.parent.name else path.name


def _written(path: Path) -> int:
    """Seconds since 1970 of the newest weights; now, where the system does not tell."""
    files = [path] if path.is_file() else [*path.glob("*.safetensors"), *path.glob("*.gguf"), *path.glob("*.bin")]
    return int(max((file.stat().st_mtime for file in files), default=time.time()))


def _short(name: str) -> str:
    return repr(name if len(name) <= 60 else name[:59] + "…")
