"""A model's loop, with the times of its replies counted.

In: an engine. Out: its loop, running. Must never happen: a figure that changes what a reply is.
"""

import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, cast

from puna.engine.loop import Limits, Loop, Stream
from puna.engine.request import Delta, Request
from puna.serve.metrics import Meters
from puna.serve.settings import Settings

if TYPE_CHECKING:
    from puna.engine import Engine


def start_loop(settings: Settings, meters: Meters, name: str, engine: "Engine") -> Loop:
    """The running loop of one model."""
    limits = Limits(
        running=settings.running, waiting=settings.waiting, cache_tokens=settings.cache_tokens, lookup=settings.lookup
    )
    loop = TimedLoop(engine, limits, meters, name)
    loop.start()
    return loop


class TimedLoop(Loop):
    """A loop whose replies' times go to the meters."""

    def __init__(self, engine: "Engine", limits: Limits, meters: Meters, name: str) -> None:
        super().__init__(engine, limits)
        self._first = meters.first_token.labels(name)
        self._token = meters.token.labels(name)

    def submit(self, request: Request) -> Stream:
        """As `Loop.submit`."""
        clock = _Clock(self._first.observe, self._token.observe)
        return cast(Stream, _TimedStream(super().submit(request), clock))


class _Clock:
    """The times of one reply, from its submission on."""

    def __init__(self, first: Callable[[float], None], token: Callable[[float], None]) -> None:
        self._first, self._token = first, token
        self._last: float | None = None
        self._began = time.perf_counter()

    def see(self, delta: Delta) -> None:
        """Tokens of one step share its time evenly."""
        now, count = time.perf_counter(), len(delta.ids)
        if not count:
            return
        if self._last is None:
            self._first(now - self._began)
        else:
            for _ in range(count):
                self._token((now - self._last) / count)
        self._last = now


class _TimedStream:
    """Has what a `Stream` has."""

    def __init__(self, stream: Stream, clock: _Clock) -> None:
        self._stream, self._clock = stream, clock

    @property
    def request(self) -> Request:
        return self._stream.request

    @property
    def ended(self) -> bool:
        return self._stream.ended

    def abort(self) -> None:
        self._stream.abort()

    async def __aiter__(self) -> AsyncIterator[Delta]:
        try:
            async for delta in self._stream:
                self._clock.see(delta)
                yield delta
        finally:
            self.abort()

    def blocking(self) -> Iterator[Delta]:
        try:
            for delta in self._stream.blocking():
                self._clock.see(delta)
                yield delta
        finally:
            self.abort()
