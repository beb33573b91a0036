"""HTTP to one address, with care: what a model's server is asked and what may come back.

Comes in: an address that the user typed, JSON to send. Goes out: JSON objects. Must never happen: a key sent to another address,
printed or stored; a redirect followed; a reply without a bound in bytes or in time.
"""

import email.utils
import http.client
import ipaddress
import json
import os
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NoReturn
from urllib.parse import urlsplit

import puna
from puna.errors import PunaError
from puna.visible import clean

KEYS = ("PUNA_API_KEY", "OPENAI_API_KEY")  # the first that is set counts
PREFIX = "openai:"
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504, 529})  # these may go well another time
_TOLD = 300  # characters of a server's own words that are passed on
_BLOCK = 1 << 16
_LONGEST_NAME = 500


@dataclass(frozen=True)
class Endpoint:
    """An OpenAI-compatible server and one of its models. `url` ends before "/completions"; `model` "" is the only one it has."""

    url: str
    model: str = ""

    @property
    def host(self) -> str:
        """Its host and port, for people."""
        return urlsplit(self.url).netloc

    @property
    def name(self) -> str:
        """How it is typed on the command line."""
        return f"{PREFIX}{self.url}#{self.model}"


@dataclass(frozen=True)
class Patience:
    """How long, how often and how much."""

    seconds: float = 300.0  # of one request, from the first byte sent to the last one read
    tries: int = 6
    wait: float = 1.0  # seconds before the second try; twice as long before each further one
    longest_wait: float = 60.0  # a server that asks for more is told of
    reply_bytes: int = 64 << 20  # 128,000 tokens with their likelihoods take about 16 MB


class Refused(PunaError):
    """A request that the server understood and will not answer: `status`, and its own words in `said`."""

    def __init__(self, status: int, said: str, *, where: str, mend: str | None = None) -> None:
        self.status, self.said = status, said
        super().__init__(f"the server answers {status}" + (f": {said}" if said else ""), where=where, mend=mend)


class Unreachable(PunaError):
    """The server did not answer in spite of all tries: it is down, or too busy for any task."""


class _Passing(Exception):
    """What went wrong now and may go well another time; `after`: seconds that the server asks to wait."""

    def __init__(self, what: str, after: float | None = None) -> None:
        self.after = after
        super().__init__(what)


def parse_endpoint(name: str) -> Endpoint | None:
    """The endpoint that `openai:URL#MODEL` or `http(s)://host:port/v1#MODEL` names, None for any other name of a model.

    Raises `PunaError` where it is meant as an address and is none that may be used.
    """
    text = name.removeprefix(PREFIX)
    if text == name and not re.match(r"https?://", name, re.IGNORECASE):
        return None
    address, _, model = text.partition("#")
    mend = f"write it like {PREFIX}http://127.0.0.1:8000/v1#MODEL"
    try:
        parts = urlsplit(address)
        port = parts.port  # raises where it is no number
    except ValueError as error:
        raise PunaError(f"is no address ({str(error)[:80]})", where=_shown(name), mend=mend) from None
    if parts.username is not None or parts.password is not None:
        # The address is stored with every result, so nothing secret may stand in it, nor be told here.
        raise PunaError("an address with a name or password in it is not used", where=parts.hostname or "the address",
                        mend=f"take it out; a key goes into the environment as {KEYS[0]}")  # fmt: skip
    if parts.query:
        raise PunaError("an address with a question mark is not used, it might hold a key", where=parts.netloc,
                        mend="take out what stands behind the question mark")  # fmt: skip
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise PunaError("is no http or https address", where=_shown(name), mend=mend)
    if len(name) > _LONGEST_NAME or not name.isprintable() or not address.isascii() or " " in address:
        raise PunaError("holds characters that no address has, or too many of them", where=_shown(name), mend=mend)
    return Endpoint(f"{parts.scheme}://{parts.netloc.lower()}{parts.path.rstrip('/')}", model.strip())


def api_key(environment: Mapping[str, str] = os.environ) -> str | None:
    """The key from the environment, None where there is none. Raises `PunaError`, without it, where no header can hold it."""
    for name in KEYS:
        key = environment.get(name, "").strip()
        if key:
            if not key.isascii() or not key.isprintable() or " " in key:
                raise PunaError("holds characters that no key has", where=name)
            return key
    return None


class Wire:
    """Requests to one endpoint, safe from several threads; each keeps a connection of its own."""

    def __init__(self, endpoint: Endpoint, *, key: str | None = None, patience: Patience | None = None,
                 sleep: Callable[[float], object] | None = None) -> None:  # fmt: skip
        """`sleep` waits between two tries. Raises `PunaError` where a key would travel in the open."""
        parts = urlsplit(endpoint.url)
        self.endpoint, self.patience = endpoint, patience or Patience()
        self._key, self._host, self._port, self.path = key, parts.hostname or "", parts.port, parts.path
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._local, self._stopped = threading.local(), threading.Event()
        self._live: set[socket.socket] = set()  # of requests under way
        self._sleep = sleep or self._stopped.wait
        if key and self._tls is None and not _is_loopback(self._host):
            raise PunaError("a key would travel in the open over http://", where=endpoint.host,
                            mend=f"use https://, or take {' and '.join(KEYS)} out of the environment")  # fmt: skip

    def get(self, path: str) -> dict[str, Any]:
        """The JSON object at `url` + `path`. Raises as `post` does."""
        return self._asked("GET", path, None)

    def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """The JSON object that the server answers to `body`; a path that begins with "//" counts from the host.

        Raises `Refused` for an answer 400 to 499, `PunaError` for what is no JSON object, too large, a redirect, or does not
        come in spite of all tries.
        """
        return self._asked("POST", path, json.dumps(body, allow_nan=False).encode("utf-8", "surrogatepass"))

    def stop(self) -> None:
        """End the requests under way in other threads; none is tried again until `resume`."""
        self._stopped.set()
        for held in list(self._live):
            _shut(held)

    def resume(self) -> None:
        """Ask again after `stop`."""
        self._stopped.clear()

    def _asked(self, method: str, path: str, body: bytes | None) -> dict[str, Any]:
        wait = self.patience.wait
        for number in range(1, self.patience.tries + 1):
            try:
                return self._once(method, path, body)
            except _Passing as problem:
                self._drop()
                if number == self.patience.tries or self._stopped.is_set():
                    raise Unreachable(f"{problem} ({number} tries)", where=self.endpoint.host,
                                    mend="see whether the server runs, then ask again") from None  # fmt: skip
                if problem.after is not None and problem.after > self.patience.longest_wait:
                    raise Unreachable(f"{problem}, and asks to wait {problem.after:,.0f} s", where=self.endpoint.host,
                                    mend="ask again then") from None  # fmt: skip
                self._sleep(max(wait, problem.after or 0.0))
                wait = min(2 * wait, self.patience.longest_wait)
            except BaseException:
                self._drop()
                raise
        raise ValueError("patience.tries is less than one")

    def _once(self, method: str, path: str, body: bytes | None) -> dict[str, Any]:
        target = path[1:] if path.startswith("//") else self.path + path
        late = threading.Event()
        try:
            connection = self._connection()
            held = connection.sock

            def end() -> None:  # a server that gives a byte a minute never lets a socket's own timeout pass
                late.set()
                _shut(held)

            timer = threading.Timer(self.patience.seconds, end)
            timer.daemon = True
            timer.start()
            self._live.add(held)
            try:
                connection.request(method, target, body, self._headers(body))
                response = connection.getresponse()
                data = self._read(response)
            finally:
                timer.cancel()
                self._live.discard(held)
        except ssl.SSLCertVerificationError as error:
            raise PunaError(
                f"its certificate is not trusted ({error.verify_message[:80]})", where=self.endpoint.host
            ) from None
        except (OSError, http.client.HTTPException) as error:
            if late.is_set() or isinstance(error, TimeoutError):
                raise _Passing(f"gave no whole answer within {self.patience.seconds:g} s") from None
            raise _Passing(f"the connection failed ({type(error).__name__}: {str(error)[:80]})") from None
        if late.is_set():
            raise _Passing(f"gave no whole answer within {self.patience.seconds:g} s")
        if response.will_close:
            self._drop()
        return self._value(response, data)

    def _connection(self) -> http.client.HTTPConnection:
        connection: http.client.HTTPConnection | None = getattr(self._local, "connection", None)
        if connection is None:
            if self._tls is not None:
                connection = http.client.HTTPSConnection(
                    self._host, self._port, timeout=self.patience.seconds, context=self._tls
                )
            else:
                connection = http.client.HTTPConnection(self._host, self._port, timeout=self.patience.seconds)
            self._local.connection = connection
        if connection.sock is None:
            connection.connect()
        return connection

    def _drop(self) -> None:
        connection = getattr(self._local, "connection", None)
        if connection is not None:
            connection.close()
            self._local.connection = None

    def _headers(self, body: bytes | None) -> dict[str, str]:
        headers = {
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            "User-Agent": f"puna/{puna.__version__}",
        }
        if body is not None:
            headers["Content-Type"] = "application/json"
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        return headers

    def _read(self, response: http.client.HTTPResponse) -> bytes:
        """The whole body. Raises `_Passing` where it ends early, `PunaError` where it is too large."""
        limit, expected = self.patience.reply_bytes, response.length
        if expected is not None and expected > limit:
            self._too_large()
        data = bytearray()
        while block := response.read1(_BLOCK):
            data += block
            if len(data) > limit:
                self._too_large()
        if expected is not None and len(data) < expected:
            raise _Passing(f"the reply ends after {len(data):,} of {expected:,} bytes")
        response.close()  # read1 leaves it open at the very end, and the connection would take no further request
        return bytes(data)

    def _too_large(self) -> NoReturn:
        raise PunaError(f"the reply is larger than {self.patience.reply_bytes >> 20} MiB", where=self.endpoint.host)

    def _value(self, response: http.client.HTTPResponse, data: bytes) -> dict[str, Any]:
        status, host = response.status, self.endpoint.host
        if 300 <= status < 400:
            target = urlsplit(self._said(response.getheader("Location", "")))
            raise PunaError(f"the server sends us on to {target.scheme}://{target.hostname or '?'}, which is not followed", where=host,
                            mend="give the address of the server itself")  # fmt: skip
        if status in _PASSING:
            raise _Passing(
                f"the server answers {status}: {self._message(data)}", _retry_after(response.getheader("Retry-After"))
            )
        if status >= 400:
            raise Refused(status, self._message(data), where=host, mend=self._mend(status))
        if not 200 <= status < 300:
            raise PunaError(f"the server answers {status}", where=host)
        try:
            value = json.loads(data, parse_constant=_no_number)
        except (ValueError, RecursionError) as error:
            raise PunaError(f"the reply is no JSON ({self._said(str(error))[:80]})", where=host) from None
        if not isinstance(value, dict):
            raise PunaError("the reply is no JSON object", where=host)
        return value

    def _mend(self, status: int) -> str | None:
        if status in (401, 403):
            return (
                f"is the key in {' or '.join(KEYS)} the right one?" if self._key else f"it wants a key: set {KEYS[0]}"
            )
        if status == 404:
            return "see that the address is whole; most end in /v1"
        return None

    def _message(self, data: bytes) -> str:
        """What an error's body says: `error.message`, `error`, `detail` or `message` of JSON, else its text."""
        text = data[: 16 * _TOLD].decode("utf-8", "replace")
        try:
            value = json.loads(data) if len(data) <= 16 * _TOLD else None
        except (ValueError, RecursionError):
            value = None
        for key in ("error", "detail", "message"):
            if isinstance(value, dict) and value.get(key):
                value = value[key]
        return self._said(value if isinstance(value, str) else text)

    def _said(self, text: str) -> str:
        """A stranger's words: bounded, on one line, nothing hidden in them, and without the key."""
        if self._key:
            text = text.replace(self._key, "[key]")
        return clean(" ".join(text[: 8 * _TOLD].split()))[:_TOLD]


def _shut(held: socket.socket) -> None:
    with suppress(OSError):  # closed already
        held.shutdown(socket.SHUT_RDWR)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _retry_after(header: str | None) -> float | None:
    """Seconds that a Retry-After header asks for: a number, or a date (RFC 9110, section 10.2.3)."""
    if header is None:
        return None
    if re.fullmatch(r"\s*\d{1,9}\s*", header):
        return float(header)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(header).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"it holds {name}, which is no number")


def _shown(name: str) -> str:
    """What was typed, shortened, without a name and password in it."""
    return clean(re.sub(r"//[^/#]*@", "//[...]@", name[:_LONGEST_NAME]))[:80]
