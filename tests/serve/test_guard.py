"""What the guard keeps out, tried on a real connection: large, deep, slow and forged requests, none of which may be a 500."""

import contextlib
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2 as httpx
import pytest
from fastapi import FastAPI, Request
from hypothesis import given
from hypothesis import strategies as st
from tests_serve_running import KEY, MODEL, Running, running_server

from puna.serve import strict_json
from puna.serve.errors import ApiError

LOAD = "/models/load"
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def small(tiny_release: Path) -> Iterator[Running]:
    """A server with small limits and no key."""

    def routes(app: FastAPI) -> None:
        @app.post("/echo", include_in_schema=False)
        async def echo(request: Request) -> Any:
            return await request.json()

    limits: dict[str, Any] = {"body_bytes": 10_000, "header_bytes": 4096, "headers": 20, "receive_seconds": 1.0, "json_values": 1000,
                              "connections": 20}  # fmt: skip
    with running_server({MODEL: tiny_release}, routes=routes, **limits) as running:
        yield running


def raw(
    running: Running, request: bytes, *, then: bytes = b"", pause: float = 0.0
) -> tuple[int, dict[str, str], bytes]:
    """Send bytes as they are, read until the server closes or has answered: status, headers, body."""
    address = urlsplit(running.base_url)
    with socket.create_connection((address.hostname, address.port), timeout=10) as connection:
        connection.sendall(request)
        if then:
            time.sleep(pause)
            connection.sendall(then)
        answer = b""
        while b"\r\n\r\n" not in answer or len(answer.split(b"\r\n\r\n", 1)[1]) < _length(answer):
            more = connection.recv(65536)
            if not more:
                break
            answer += more
    if not answer:
        return 0, {}, b""
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {key.lower(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    return int(first.split()[1]), headers, body


def _length(answer: bytes) -> int:
    for line in answer.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.split(b":")[1])
    return 0


def refused(answer: httpx.Response, status: int, param: str | None = None) -> str:
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"} and error["param"] == param, error
    return str(error["message"])


def deep(levels: int) -> str:
    return '{"messages":' + "[" * levels + "]" * levels + "}"


@pytest.mark.parametrize(
    ("body", "param", "word"),
    [
        (b"", None, "object"),
        (b"null", None, "object"),
        (b"[]", None, "object"),
        (b'"text"', None, "object"),
        (b"5", None, "object"),
        (b"{", None, "not JSON"),
        (b"{'model': 1}", None, "not JSON"),
        (b'{"model": "a"} {}', None, "not JSON"),
        (b'{"model": "a",}', None, "not JSON"),
        (b"\xff\xfe{\x00}\x00", None, "UTF-8"),
        ('{"model": "羊"}'.encode("gb18030"), None, "UTF-8"),
        (b'\xef\xbb\xbf{"model": "a"}', None, "not JSON"),
        (b'{"model": "\xed\xa0\x80"}', None, "UTF-8"),
        (b'{"model": NaN}', "model", "NaN"),
        (b'{"model": [1, {"a": -Infinity}]}', "model", "-Infinity"),
        (b'{"temperature": 1e999}', "temperature", "too large"),
        (b'{"seed": ' + b"9" * 5000 + b"}", "seed", "too long"),
        (b'{"model": "\\ud800"}', "model", "surrogate"),
        (b'{"a": {"\\udfff": 1}}', "a", "surrogate"),
        (b'{"model": "a", "model": "b"}', "model", "twice"),
        (b'{"a": [{"b": 1, "b": 1}]}', "b", "twice"),
        (deep(70).encode(), "messages", "deeper"),
        (deep(4000).encode(), "messages", "deeper"),
        (b"[" * 5000, None, "deeper"),
        (b'{"model": ' + b'{"a":' * 1500 + b"1" + b"}" * 1500 + b"}", "model", "deeper"),
        (b'{"prompt": [' + b"1," * 2000 + b"1]}", "prompt", "more than 1,000 values"),
        (b'{"prompt": [' + b"[]," * 2000 + b"[]]}", "prompt", "more than 1,000 values"),
        (b'{"model": null}', "model", "string"),
        (b'{"model": 5}', "model", "string"),
        (b'{"model": ["a"]}', "model", "string"),
        (b'{"model": ""}', "model", "at least 1"),
        (b'{"model": "' + b"x" * 300 + b'"}', "model", "at most 200"),
        (b"{}", "model", "required"),
        (b'{"model": "a", "path": "/etc"}', "path", "not permitted"),
    ],
)  # fmt: skip
def test_a_wrong_body_is_400_and_names_the_field(small: Running, body: bytes, param: str | None, word: str) -> None:
    with small.client() as client:
        assert word in refused(client.post(LOAD, content=body, headers=JSON), 400, param)


def test_a_good_body_arrives_as_it_was_sent(small: Running) -> None:
    value = {
        "text": "羊驼 \U0001f999 \x00 \\ud800",
        "n": 12345678901234567890,
        "f": 1.5,
        "nested": [[["a"]]] * 3,
        "空": None,
    }
    with small.client() as client:
        for ascii_only in (True, False):
            assert (
                client.post("/echo", content=json.dumps(value, ensure_ascii=ascii_only), headers=JSON).json() == value
            )
        assert client.post("/echo", content=b'["\\ud83e\\udd99"]', headers=JSON).json() == ["\U0001f999"]


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
                    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20))  # fmt: skip
def test_every_json_value_passes(value: Any) -> None:
    strict_json.check(json.dumps(value, ensure_ascii=False).encode(), 64, 10_000)


@given(st.binary(max_size=60) | st.text(alphabet='{}[]",:\\u0d8fNaI19e.- tn').map(str.encode))
def test_no_bytes_raise_anything_but_a_refusal(body: bytes) -> None:
    with contextlib.suppress(ApiError):
        strict_json.check(body, 8, 20)
        json.loads(body)


def test_a_body_that_is_too_large_or_of_another_kind(small: Running) -> None:
    large = b'{"model": "' + b"x" * 20_000 + b'"}'
    with small.client() as client:
        refused(client.post(LOAD, content=large, headers=JSON), 413)
        refused(
            client.post(LOAD, content=iter([large[:9000], large[9000:]]), headers=JSON), 413
        )  # chunked: no length told
        refused(client.request("GET", "/health", content=large), 413)
        for kind in (
            "text/plain",
            "application/x-www-form-urlencoded",
            "multipart/form-data; boundary=x",
            "application/jsonx",
        ):
            refused(client.post(LOAD, content=b'{"model": "a"}', headers={"Content-Type": kind}), 415)
        refused(client.post(LOAD, content=b'{"model": "a"}'), 415)
        assert (
            client.post(
                LOAD, content=b'{"model": "a"}', headers={"Content-Type": "application/json; charset=utf-8"}
            ).status_code
            == 404
        )
        for _ in range(3):  # the connection of a refused request still serves
            assert client.get("/health").status_code == 200
    status, _, _ = raw(
        small, b"POST /models/load HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999999999999\r\n\r\n"
    )
    assert status in (400, 413)
    status, _, _ = raw(small, b"POST /models/load HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n")
    assert status == 400


def test_headers_that_are_too_many_or_too_large(small: Running) -> None:
    with small.client() as client:
        refused(client.get("/health", headers={f"x-{number}": "1" for number in range(30)}), 431)
        refused(client.get("/health", headers={"x": "y" * 5000}), 431)
        refused(client.get("/health?" + "q" * 5000), 431)
    endless = b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * 300_000
    address = urlsplit(small.base_url)
    with socket.create_connection((address.hostname, address.port), timeout=10) as connection:
        try:
            connection.sendall(endless)
            answer = connection.recv(100)
        except ConnectionError:  # it was closed before all had been sent
            answer = b" 400 "
    assert b" 400 " in answer
    for twice in (
        b"Host: localhost\r\nHost: localhost",
        b"Host: localhost\r\nAuthorization: Bearer a\r\nAuthorization: Bearer b",
    ):
        status, _, _ = raw(small, b"GET /health HTTP/1.1\r\n" + twice + b"\r\nOrigin: a\r\nOrigin: b\r\n\r\n")
        assert status == 400


def test_what_is_no_http_gets_one_answer_in_the_same_shape(small: Running) -> None:
    status, headers, body = raw(small, b"\x16\x03\x01\x02\x00\r\n\r\n")
    assert (status, headers["connection"], json.loads(body)["error"]["param"]) == (400, "close", None)


def test_slow_requests_do_not_keep_their_place(small: Running) -> None:
    began = time.monotonic()
    head = b"POST /models/load HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n{"
    status, headers, body = raw(small, head)
    assert (status, headers["connection"]) == (408, "close") and json.loads(body)["error"]["code"] == "timeout"
    assert raw(small, b"GET /health HTTP/1.1\r\nHost: loc")[0] == 0  # headers that never end: closed
    assert raw(small, b"")[0] == 0  # nothing at all
    assert 2.5 < time.monotonic() - began < 10
    assert (
        raw(small, b"GET /health HTTP/1.1\r\nHo", then=b"st: localhost\r\n\r\n", pause=0.5)[0] == 200
    )  # slow, but in time


def test_too_many_connections_are_told(small: Running) -> None:
    address = urlsplit(small.base_url)
    held = [socket.create_connection((address.hostname, address.port)) for _ in range(21)]
    try:
        time.sleep(0.2)
        status, headers, _ = raw(small, b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert (status, headers["retry-after"]) == (503, "1")
    finally:
        for one in held:
            one.close()
    time.sleep(0.2)
    with small.client() as client:
        assert client.get("/health").status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "localhost.", "", "a@localhost.evil", "["]
)
def test_a_foreign_host_is_refused_on_loopback(small: Running, host: str) -> None:
    status, _, body = raw(small, f"GET /v1/models HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    assert status == 403 and json.loads(body)["error"]["code"] == "foreign_host"


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:9", "127.0.0.1", "[::1]:8000"])
def test_its_own_names_are_not(small: Running, host: str) -> None:
    assert raw(small, f"GET /v1/models HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())[0] == 200


def test_a_named_host_is_allowed(tiny_release: Path) -> None:
    with running_server({MODEL: tiny_release}, names=("models.example",)) as running:
        assert raw(running, b"GET /v1/models HTTP/1.1\r\nHost: models.example\r\n\r\n")[0] == 200
        assert raw(running, b"GET /v1/models HTTP/1.1\r\nHost: example\r\n\r\n")[0] == 403


def test_a_page_of_another_site_changes_nothing(small: Running) -> None:
    with small.client() as client:
        own = small.base_url
        for origin in (
            "http://evil.example",
            "null",
            "http://localhost",
            own + "0",
            "",
            f"http://evil@{own[7:]}.x",
            "http://[:::",
        ):
            answer = client.post(LOAD, json={"model": "nobody"}, headers={"Origin": origin})
            assert refused(answer, 403) and "access-control-allow-origin" not in answer.headers, origin
        assert client.post(LOAD, json={"model": "nobody"}, headers={"Origin": own}).status_code == 404
        # Its scripts may ask to read, and the browser does not show them the answer: no header allows it.
        for answer in (client.get("/v1/models", headers={"Origin": "http://evil.example"}),
                       client.options("/v1/models", headers={"Origin": "http://evil.example", "Access-Control-Request-Method": "GET"})):  # fmt: skip
            assert not [name for name in answer.headers if name.startswith("access-control")]


def test_every_response_has_the_headers(server: Running) -> None:
    with server.client() as client, httpx.Client(base_url=server.base_url) as stranger:
        answers = [client.get("/health"), client.get("/v1/models"), client.get("/nothing"), client.post("/health"), client.get("/"),
                   client.post(LOAD, content=b"{", headers=JSON), stranger.get("/v1/models"), client.get("/openapi.json")]  # fmt: skip
    for answer in answers:
        assert (
            answer.headers["x-content-type-options"] == "nosniff" and answer.headers["referrer-policy"] == "no-referrer"
        )
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["cross-origin-resource-policy"] == "same-origin" and "cache-control" in answer.headers
        assert "server" not in answer.headers and KEY not in answer.text


def test_refusing_the_worst_body_costs_little(server: Running) -> None:
    """As many values as may be, each of them wrong: pydantic's findings about them are what costs."""
    with server.client() as client:
        for body in (b'{"model": [' + b"[]," * 99_000 + b"[]]}", b'{"messages": ' + b"[" * 1_000_000 + b"}",
                     b'{"model": "' + b"x" * 2_000_000 + b'"}'):  # fmt: skip
            began = time.process_time()
            refused_at = client.post(LOAD, content=body, headers=JSON)
            assert refused_at.status_code == 400 and time.process_time() - began < 3
