"""Who is inside, and whether anybody else may come in: what draining needs to know.

In: requests as they come and go. Out: a count, and an event when the last one has left. Must never happen: one that is not counted.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Door:
    """Used within one event loop."""

    def __init__(self) -> None:
        self.closed = False
        """No new requests: the server is ending."""
        self.aborting = False
        """Those inside are being ended too."""
        self._tasks: set[asyncio.Task[Any]] = set()
        self._changed = asyncio.Event()

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Around one request."""
        task = asyncio.current_task()
        if task is None:
            raise ValueError("a request runs in a task of an event loop")
        self._tasks.add(task)
        try:
            yield
        finally:
            self._tasks.discard(task)
            self._changed.set()

    def close(self) -> None:
        """Let nobody else in."""
        self.closed = True

    def abort(self) -> None:
        """End those inside: each answers that the server is ending, where it has not answered yet."""
        self.closed = self.aborting = True
        for task in self._tasks:
            task.cancel()

    async def empty(self) -> None:
        """Wait until nobody is inside."""
        while self._tasks:
            self._changed.clear()
            await self._changed.wait()
