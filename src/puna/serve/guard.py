"""What every request passes before a route sees it, and every response on its way out.

In: ASGI. Out: ASGI. Must never happen: a request without the key that gets further, a body or header that costs more than it may,
a page of another site that speaks with this server through somebody's browser, an exception that ends more than its own request.

The order: size of the headers, Host, whether the server is ending, the key, Origin, the body. Everything before the body is decided
without reading it. DNS rebinding is met by the Host header (a foreign name that leads to 127.0.0.1 is still foreign), requests
forged by other sites' pages by the Origin header and by taking JSON only, which no plain form sends.
"""

import asyncio
import contextlib
import hashlib
import hmac
import logging
import time
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from puna.serve import strict_json
from puna.serve.door import Door
from puna.serve.errors import ApiError, as_api_error
from puna.serve.exchange import Exchange
from puna.serve.metrics import Meters
from puna.serve.settings import Settings

LOG = logging.getLogger("puna.serve")
_LOCAL = ("localhost", "127.0.0.1", "::1")
_LINGER_SECONDS = 1.0
_READING = ("GET", "HEAD", "OPTIONS")


def is_open(path: str) -> bool:
    """True for what needs no key: whether the server is up, and the page's own files, which hold nothing of the models."""
    return path in ("/", "/health") or path.startswith("/static/")


class Guard:
    """The outermost layer of the app."""

    def __init__(self, app: ASGIApp, settings: Settings, door: Door, meters: Meters) -> None:
        self._app, self._settings, self._door, self._meters = app, settings, door, meters
        self._key = None if settings.key is None else hashlib.sha256(settings.key.encode()).digest()
        self._names = {*_LOCAL, settings.host.lower(), *(name.lower() for name in settings.names)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI's entrance. Only HTTP has one here."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        began = time.perf_counter()
        exchange = Exchange(scope, send)
        with self._door.inside():
            await self._exchange(scope, receive, exchange)
        seconds = time.perf_counter() - began
        self._meters.request(scope, exchange.status, seconds)
        if self._settings.log:
            path = "".join(letter if letter.isprintable() else "?" for letter in scope["path"])
            LOG.info("%s %s %s %s %.3f s", (scope.get("client") or "-")[0], scope["method"], path[:200],
                     exchange.status or "gone", seconds)  # fmt: skip

    async def _exchange(self, scope: Scope, receive: Receive, exchange: Exchange) -> None:
        limit = asyncio.timeout(self._settings.request_seconds)
        try:
            async with limit:
                self._check_head(scope)
                await self._app(scope, await self._body(scope, receive), exchange.send)
        except asyncio.CancelledError:
            if not self._door.aborting:
                raise
            await exchange.refuse(self._ending())
        except TimeoutError as error:
            told = ApiError(504, f"the request took longer than {self._settings.request_seconds:g} seconds")
            await exchange.refuse(told if limit.expired() else as_api_error(error))
        except Exception as error:
            await exchange.refuse(as_api_error(error, self._settings.retry_seconds))

    def _check_head(self, scope: Scope) -> None:
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        size = len(scope["query_string"]) + len(scope["path"]) + sum(len(key) + len(value) for key, value in headers)
        if len(headers) > self._settings.headers or size > self._settings.header_bytes:
            raise ApiError(
                431,
                f"the headers are more than {self._settings.headers} or longer than {self._settings.header_bytes:,} bytes",
            )
        host = _one(headers, b"host")
        if self._settings.loopback and _name(host) not in self._names:
            raise ApiError(403, "the Host header is not this server's name", code="foreign_host")
        if self._door.closed and scope["path"] != "/health":
            raise self._ending()
        if self._key is not None and not is_open(scope["path"]):
            self._check_key(_one(headers, b"authorization"))
        origin = _one(headers, b"origin")
        if origin is not None and scope["method"] not in _READING and origin.partition("://")[2] != host:
            raise ApiError(403, "the Origin header is another site's", code="foreign_origin")

    def _check_key(self, given: str | None) -> None:
        kind, _, key = (given or "").partition(" ")
        # The digests have one length, so that the time of comparing tells nothing, not even the key's length.
        digest = hashlib.sha256(key.strip().encode("latin-1")).digest()
        if not hmac.compare_digest(digest, self._key or b"") or kind.lower() != "bearer":
            told = "this is not the server's key" if given else "the server has a key: send Authorization: Bearer KEY"
            raise ApiError(401, told, headers={"WWW-Authenticate": "Bearer"})

    def _ending(self) -> ApiError:
        return ApiError(503, "the server is ending", retry_after=self._settings.retry_seconds)

    async def _body(self, scope: Scope, receive: Receive) -> Receive:
        """Read the whole body, check it, and give back what plays it to the routes."""
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        length = _one(headers, b"content-length")
        if length is None and _one(headers, b"transfer-encoding") is None:
            return receive
        most = self._settings.body_bytes
        too_large = ApiError(413, f"the body is larger than {most:,} bytes")
        if length is not None and (not length.isdigit() or int(length) > most):
            await _discard(receive, 8 * most)
            raise too_large
        body = bytearray()
        try:
            async with asyncio.timeout(self._settings.receive_seconds):
                more = True
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return _played(message, receive)
                    body += message.get("body", b"")
                    more = message.get("more_body", False)
                    if len(body) > most:
                        await _discard(receive, 8 * most)
                        raise too_large
        except TimeoutError:
            told = f"the body did not arrive within {self._settings.receive_seconds:g} seconds"
            raise ApiError(408, told, headers={"Connection": "close"}) from None
        if body and scope["method"] not in _READING:
            kind = (_one(headers, b"content-type") or "").partition(";")[0].strip().lower()
            if kind != "application/json":
                raise ApiError(415, "the body must be application/json (say so in Content-Type)")
            strict_json.check(bytes(body), self._settings.json_depth, self._settings.json_values)
        return _played({"type": "http.request", "body": bytes(body), "more_body": False}, receive)


async def _discard(receive: Receive, most: int) -> None:
    """Let the rest of a body arrive, up to a size and for a moment: a client that still sends would get a reset, and no answer."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_LINGER_SECONDS):
            while most > 0:
                message = await receive()
                if message["type"] == "http.disconnect" or not message.get("more_body", False):
                    return
                most -= len(message.get("body", b""))


def _played(first: Message, receive: Receive) -> Receive:
    """`first`, then what the client does next (nothing, or it goes away)."""
    told = False

    async def play() -> Message:
        nonlocal told
        if told:
            return await receive()
        told = True
        return first

    return play


def _one(headers: list[tuple[bytes, bytes]], name: bytes) -> str | None:
    """The header's value; None where it is missing. Given twice it is refused: two readers might take different ones."""
    found = [value for key, value in headers if key == name]
    if len(found) > 1:
        raise ApiError(400, f"the header {name.decode()} is given twice")
    return found[0].decode("latin-1") if found else None


def _name(host: str | None) -> str:
    """The name in a Host header, without the port: through a tunnel that is another one."""
    if not host:
        return ""
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""
