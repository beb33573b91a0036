"""The process' side of the server: the socket, slow connections, and an end in good order.

In: an app, a bound socket, signals. Out: nothing; it returns when the server has ended. Must never happen: a reply cut off by SIGTERM that
could have ended within the time for draining, a connection that costs a place for ever, a process that does not end.
"""

import asyncio
import contextlib
import signal
import socket
from collections.abc import Callable, Iterator
from typing import Any

import h11
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from puna.errors import PunaError
from puna.serve.door import Door
from puna.serve.errors import ApiError
from puna.serve.settings import Settings

_FLUSH_SECONDS = 1.0  # for what is already written to leave, at the end


def bind(settings: Settings) -> socket.socket:
    """A socket bound to the address, not yet listening: nobody connects before the models are there. Raises `PunaError`."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError):
        raise PunaError("is no address of this machine", where=f"--host {settings.host}") from None
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
    except OSError as error:
        sock.close()
        raise _cannot(settings, error) from None
    return sock


def _cannot(settings: Settings, error: OSError) -> PunaError:
    told = f"cannot listen on port {settings.port} ({(error.strerror or str(error)).lower()})"
    return PunaError(told, where=settings.host, mend="give another --port, or end what uses it")


def url_of(sock: socket.socket) -> str:
    """The address as a client writes it."""
    host, port = sock.getsockname()[:2]
    return f"http://[{host}]:{port}" if sock.family == socket.AF_INET6 else f"http://{host}:{port}"


class Server(uvicorn.Server):
    """`run()` serves until SIGTERM, SIGINT or `end()`; a second signal, or `drain_seconds`, cuts off what still runs."""

    def __init__(self, app: FastAPI, sock: socket.socket, ready: Callable[[], None] = lambda: None) -> None:
        """`ready` is called when requests are answered and signals are understood."""
        self._settings: Settings = app.state.settings
        self._door: Door = app.state.door
        self._sock, self._ready = sock, ready
        self._draining: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        super().__init__(
            uvicorn.Config(
                app, loop="asyncio", http=_protocol(self._settings), ws="none", lifespan="on", log_config=None,
                log_level="error", access_log=False, server_header=False, proxy_headers=False,
                timeout_keep_alive=int(self._settings.idle_seconds),
                h11_max_incomplete_event_size=self._settings.header_bytes,
            )
        )  # fmt: skip

    def serve_until_told(self) -> None:
        """Listen and serve. Raises `PunaError` where another process was quicker to listen at the port."""
        try:
            self._sock.listen(2048)
        except OSError as error:
            raise _cannot(self._settings, error) from None
        self.run([self._sock])

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn does it, then `ready`."""
        await super().startup(sockets)
        self._ready()

    def end(self) -> None:
        """Begin to drain; called again, or by a second signal, end at once. From any thread."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._signalled)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """uvicorn's own would close the socket at once and die of the signal afterwards."""
        self._loop = asyncio.get_running_loop()
        handled: list[signal.Signals] = []
        for one in (signal.SIGINT, signal.SIGTERM):
            with contextlib.suppress(RuntimeError, ValueError):  # only the main thread gets signals
                self._loop.add_signal_handler(one, self._signalled)
                handled.append(one)
        try:
            yield
        finally:
            for one in handled:
                self._loop.remove_signal_handler(one)
            self._loop = None

    def _signalled(self) -> None:
        if self._draining is None:
            self._draining = asyncio.get_running_loop().create_task(self._drain())
        else:
            self._door.abort()

    async def _drain(self) -> None:
        """Readiness goes off and nobody comes in; who is inside may end; then they are ended, and the server."""
        self._door.close()
        try:
            async with asyncio.timeout(self._settings.drain_seconds):
                await self._door.empty()
        except TimeoutError:
            self._door.abort()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_FLUSH_SECONDS):
                    await self._door.empty()
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close the connections; one whose client does not read what was written is cut."""

        def cut() -> None:
            for connection in list(self.server_state.connections):
                connection.transport.abort()

        timer = asyncio.get_running_loop().call_later(_FLUSH_SECONDS, cut)
        await super().shutdown(sockets)
        timer.cancel()


def _protocol(settings: Settings) -> type[H11Protocol]:
    """HTTP/1.1 with a time limit for a request to arrive, and with errors in the same shape as everywhere."""

    class Patient(H11Protocol):
        _timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            if len(self.connections) > settings.connections:
                self._answer(ApiError(503, "too many connections", retry_after=settings.retry_seconds))
                return
            self._wait()

        def data_received(self, data: bytes) -> None:
            if self.transport.is_closing():
                return
            self._wait()
            super().data_received(data)
            if self.conn.their_state not in (h11.IDLE, h11.SEND_BODY):
                self._stop_waiting()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_waiting()
            super().connection_lost(exc)

        def send_400_response(self, msg: str) -> None:
            self._answer(ApiError(400, "this is no HTTP/1.1 request, or its headers are too large"))

        def _wait(self) -> None:
            if self._timer is None:
                # A little longer than the guard's own limit for a body, which answers 408.
                self._timer = self.loop.call_later(settings.receive_seconds + 1, self._too_slow)

        def _stop_waiting(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

        def _too_slow(self) -> None:
            self.transport.close()

        def _answer(self, error: ApiError) -> None:
            """Answer before, or instead of, a request, and close. Where a response has begun for these bytes, only close."""
            cycle = self.cycle
            if cycle is not None and cycle.response_started and (cycle.more_body or not cycle.response_complete):
                self.transport.close()
                return
            response = error.response()
            headers: list[tuple[Any, Any]] = [*response.raw_headers, (b"connection", b"close")]
            reply = f"HTTP/1.1 {error.status} Error\r\n".encode()
            reply += b"".join(key + b": " + value + b"\r\n" for key, value in headers) + b"\r\n" + bytes(response.body)
            self.transport.write(reply)
            self.transport.close()

    return Patient
