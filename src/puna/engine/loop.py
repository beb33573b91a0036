"""The engine's thread: replies for many askers at once, from any thread or event loop.

In: requests. Out: a `Stream` of `Delta`s for each. Must never happen: a step waits for an asker, an asker that has gone is still
worked for after the step that runs, or a fault within one request ends the thread.
"""

import asyncio
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from puna.engine.batch import Batch, Job, Limits, Stats, cache_blocks, check_prompt
from puna.engine.choosing import Allows, check_bias
from puna.engine.request import Closing, Delta, Failed, Full, Request

if TYPE_CHECKING:
    from puna.engine.engine import Engine

T = TypeVar("T")
log = logging.getLogger("puna.engine")


class Stream:
    """The deltas of one reply. Read it in one place: `async for` within an event loop, or `blocking()` without one."""

    def __init__(self, loop: "Loop", request: Request, constraint: Allows | None) -> None:
        self.request, self._loop, self._constraint = request, loop, constraint
        self._job: Job | None = None
        self._gone = False
        self.ended = False
        try:
            self._events: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
            self._async: asyncio.Queue[Delta | Failed] = asyncio.Queue()
        except RuntimeError:
            self._events = None
        self._plain: queue.SimpleQueue[Delta | Failed] = queue.SimpleQueue()

    def abort(self) -> None:
        """Want no more of it: what runs for it ends within one step. Nothing where it has ended."""
        if not self._gone and not self.ended:
            self._gone = True
            self._loop._tell(lambda batch: self._leave(batch))

    async def __aiter__(self) -> AsyncIterator[Delta]:
        """The deltas up to the one with a `finish_reason`. Raises `Failed`. Leaving early aborts."""
        try:
            while not self.ended:
                yield self._checked(await self._async.get())
        finally:
            self.abort()

    def blocking(self) -> Iterator[Delta]:
        """The same for a caller without an event loop."""
        try:
            while not self.ended:
                yield self._checked(self._plain.get())
        finally:
            self.abort()

    def _checked(self, item: Delta | Failed) -> Delta:
        if isinstance(item, Failed):
            self.ended = True
            raise item
        self.ended = item.finish_reason is not None
        return item

    def _enter(self, batch: Batch) -> None:
        if self._gone:
            return
        try:
            self._job = batch.add(self.request, self._constraint)
        except Exception as error:
            self._loop._deliver([(self, Failed(str(error)))])
            return
        self._loop._streams[self._job] = self

    def _leave(self, batch: Batch) -> None:
        if self._job is not None and self._loop._streams.pop(self._job, None) is not None:
            batch.abort(self._job)
            self._loop._deliver([(self, Delta(finish_reason="abort"))])


class Loop:
    """One model's engine in a thread of its own. `start` before the first request, `close` at the end."""

    def __init__(self, engine: "Engine", limits: Limits | None = None) -> None:
        self.engine, self.limits = engine, limits or Limits()
        self._blocks = cache_blocks(engine, self.limits)
        self._batch = Batch(engine, self.limits, self._blocks)
        self._streams: dict[Job, Stream] = {}
        self._told: deque[Callable[[Batch], None]] = deque()
        self._entering = 0
        self._wake = threading.Condition()
        self._closing = self._stopped = False
        self._seconds = 0.0
        self._thread = threading.Thread(target=self._run, name="puna-engine", daemon=True)

    def start(self) -> "Loop":
        """Start the thread."""
        self._thread.start()
        return self

    @property
    def alive(self) -> bool:
        """Whether requests are taken and worked on."""
        return self._thread.is_alive() and not self._closing

    def submit(self, request: Request) -> Stream:
        """Queue a request. A shape is compiled here, in the caller's thread, unless `Constraints` knows it already.

        Raises `PunaError` where the prompt or the shape cannot be served, `Full`, `Closing`.
        """
        if self._closing:
            raise Closing("the server takes no more requests")
        check_prompt(list(request.prompt), self.engine.context, self.engine.config.vocab_size)
        check_bias(request.sampling, self.engine.config.vocab_size)
        constraint = None if request.shape is None else self.engine.constraints.start(request.shape)
        with self._wake:
            if self._entering + self._batch.stats.waiting >= self.limits.waiting:
                raise Full(f"{self.limits.waiting} requests are waiting")
            self._entering += 1
        stream = Stream(self, request, constraint)
        self._tell(lambda batch: self._enter(stream, batch))
        return stream

    def call(self, work: Callable[[], T]) -> "Future[T]":
        """Do `work` on the engine's thread, between two steps. Raises `Closing`."""
        if self._closing:
            raise Closing("the server takes no more requests")
        future: Future[T] = Future()

        def within(_batch: Batch) -> None:
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(work())
                except Exception as error:
                    future.set_exception(error)

        self._tell(within)
        return future

    def stats(self) -> Stats:
        """What was done and is being done, as of now."""
        now = self._batch.stats
        return replace(
            now, waiting=now.waiting + self._entering, finished=dict(now.finished), step_seconds=self._seconds
        )

    def close(self, seconds: float = 0.0) -> None:
        """Take no more requests, let what runs go on for so long, abort the rest, end the thread."""
        self._closing = True
        until = time.monotonic() + seconds
        while self._thread.is_alive() and time.monotonic() < until and (len(self._batch) or self._told):
            time.sleep(0.02)
        with self._wake:
            self._stopped = True
            self._wake.notify()
        if self._thread.is_alive():
            self._thread.join()

    # The engine's thread

    def _enter(self, stream: Stream, batch: Batch) -> None:
        with self._wake:
            self._entering -= 1
        stream._enter(batch)

    def _tell(self, what: Callable[[Batch], None]) -> None:
        with self._wake:
            self._told.append(what)
            self._wake.notify()

    def _run(self) -> None:
        while True:
            with self._wake:
                while not (self._told or len(self._batch) or self._stopped):
                    self._wake.wait()
                if self._stopped:
                    break
            try:
                while self._told:
                    self._told.popleft()(self._batch)
                if len(self._batch):
                    began = time.perf_counter()
                    grown = [(self._streams[job], delta) for job, delta in self._batch.step()]
                    self._seconds += time.perf_counter() - began
                    for stream, delta in grown:
                        if isinstance(delta, Failed) or delta.finish_reason:
                            self._streams.pop(stream._job, None)  # type: ignore[arg-type]
                    self._deliver(grown)
            except Exception as error:  # a fault of ours: those who were served are told, the next ones are served anew
                log.exception("a step failed; the replies that were being made are lost")
                lost: list[tuple[Stream, Delta | Failed]] = [
                    (stream, Failed(f"{type(error).__name__}: {error}")) for stream in self._streams.values()
                ]
                self._streams.clear()
                self._batch = Batch(self.engine, self.limits, self._blocks)
                self._deliver(lost)
        for job in list(self._streams):
            self._batch.abort(job)
        self._deliver([(stream, Delta(finish_reason="abort")) for stream in self._streams.values()])
        self._streams.clear()

    def _deliver(self, items: "list[tuple[Stream, Delta | Failed]]") -> None:
        """Hand items over, with one wake-up for each event loop."""
        by_loop: dict[asyncio.AbstractEventLoop, list[tuple[Stream, Delta | Failed]]] = {}
        for stream, item in items:
            if stream._events is None:
                stream._plain.put(item)
            else:
                by_loop.setdefault(stream._events, []).append((stream, item))
        for events, these in by_loop.items():
            try:
                events.call_soon_threadsafe(_put, these)
            except RuntimeError:  # the event loop is closed: nobody is there to read
                for stream, _ in these:
                    stream.abort()


def _put(items: "list[tuple[Stream, Delta | Failed]]") -> None:
    for stream, item in items:
        stream._async.put_nowait(item)
