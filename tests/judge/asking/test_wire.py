"""The wire to an endpoint, against a real server on this machine that misbehaves."""

import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from puna.errors import PunaError
from puna.judge.asking import wire as wires
from puna.judge.asking.wire import Endpoint, Patience, Refused, Wire, api_key, parse_endpoint

sys.path.insert(0, str(Path(__file__).parent))  # tests are imported as files, not as a package
from tests_judge_endpoint_server import Served, drip, once, send

KEY = "sk-very-secret-0123"
SHORT = Patience(seconds=0.4, tries=3, wait=0.01, longest_wait=5, reply_bytes=1 << 20)


@pytest.fixture
def served() -> Iterator[Served]:
    """A server without a model: only what the faults say is answered at /v1/completions."""
    with Served(engine=None) as server:  # type: ignore[arg-type]
        yield server


def wire(served: Served, waits: list[float] | None = None, **more: Any) -> Wire:
    return Wire(
        Endpoint(served.url, "stories"), patience=SHORT, sleep=(waits if waits is not None else []).append, **more
    )


def good(handler: BaseHTTPRequestHandler) -> None:
    send(handler, 200, {"ok": True})


def test_names_of_endpoints() -> None:
    assert parse_endpoint("openai:http://127.0.0.1:8000/v1#org/model") == Endpoint(
        "http://127.0.0.1:8000/v1", "org/model"
    )
    assert parse_endpoint("https://Host.example/v1/#m") == Endpoint("https://host.example/v1", "m")
    assert parse_endpoint("http://[::1]:8000/v1") == Endpoint("http://[::1]:8000/v1", "")
    for other in ("runs/openai", "model.gguf", "hf:org/name", "python", "", "http"):
        assert parse_endpoint(other) is None


@pytest.mark.parametrize("name", [
    "openai:ftp://host/v1#m", "openai:#m", "openai:", "openai:localhost:8000/v1#m", "http://host:abc/v1#m", "http://[::1/v1", "http://#m",
    "openai:http://host/v1?api=1#m", "http://ho st/v1#m", "http://höst/v1#m", "http://host/v1#a\x1b[31m", "http://host/v1#" + "x" * 900,
])  # fmt: skip
def test_what_is_no_address_is_refused(name: str) -> None:
    with pytest.raises(PunaError):
        parse_endpoint(name)


@pytest.mark.parametrize(
    "name", ["http://user:hunter2@host/v1#m", "openai:http://hunter2@host:x/v1", "http://u:hunter2@[host"]
)
def test_an_address_with_a_password_is_refused_without_telling_it(name: str) -> None:
    with pytest.raises(PunaError) as told:
        parse_endpoint(name)
    assert "hunter2" not in str(told.value)


def test_the_key_comes_from_the_environment() -> None:
    assert api_key({}) is None
    assert api_key({"OPENAI_API_KEY": "b", "PUNA_API_KEY": " a "}) == "a"
    with pytest.raises(PunaError) as told:
        api_key({"PUNA_API_KEY": "secret\r\nX-Evil: 1"})
    assert "secret" not in str(told.value)


def test_a_key_never_travels_in_the_open() -> None:
    with pytest.raises(PunaError, match="in the open"):
        Wire(Endpoint("http://example.org/v1", "m"), key=KEY)
    for url in ("http://localhost:1/v1", "http://127.0.0.9:1/v1", "http://[::1]:1/v1", "https://example.org/v1"):
        Wire(Endpoint(url, "m"), key=KEY)
    Wire(Endpoint("http://example.org/v1", "m"))
    with pytest.raises(PunaError):
        Wire(Endpoint("http://127.0.0.1.example.org/v1", "m"), key=KEY)


def test_the_key_is_sent_to_the_endpoint(served: Served) -> None:
    served.faults = [once(good)]
    assert wire(served, key=KEY).post("/completions", {}) == {"ok": True}
    assert served.asked[0][1]["Authorization"] == f"Bearer {KEY}"


def test_a_redirect_is_not_followed_and_leaks_no_key(served: Served) -> None:
    with Served(engine=None) as other:  # type: ignore[arg-type]
        for status in (301, 302, 307, 308):
            served.faults = [
                once(lambda handler, status=status: send(handler, status, {}, {"Location": other.url + "/completions"}))
            ]
            with pytest.raises(PunaError, match="not followed") as told:
                wire(served, key=KEY).post("/completions", {"prompt": "x"})
            assert KEY not in str(told.value)
        assert other.asked == []


def test_a_proxy_in_the_environment_is_not_asked(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    with Served(engine=None) as proxy:  # type: ignore[arg-type]
        monkeypatch.setenv("http_proxy", proxy.url)
        served.faults = [once(good)]
        assert wire(served, key=KEY).post("/completions", {}) == {"ok": True}
        assert proxy.asked == []


def test_what_passes_is_tried_again_with_growing_waits(served: Served) -> None:
    waits: list[float] = []
    served.faults = [
        once(lambda handler: send(handler, 429, {}, {"Retry-After": "3"})),
        once(lambda handler: send(handler, 503, b"busy")),
        once(good),
    ]
    assert wire(served, waits).post("/completions", {}) == {"ok": True}
    assert waits == [3.0, 0.02]


def test_a_wait_that_is_too_long_is_told(served: Served) -> None:
    served.faults = [once(lambda handler: send(handler, 429, {}, {"Retry-After": "86400"}))]
    with pytest.raises(PunaError, match="86,400 s"):
        wire(served).post("/completions", {})
    assert len(served.posts("/v1/completions")) == 1


def test_retry_after_as_a_date() -> None:
    assert wires._retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0
    assert wires._retry_after("soon") is None and wires._retry_after("9" * 40) is None


def test_errors_without_end_end(served: Served) -> None:
    served.faults = [once(lambda handler: send(handler, 500, {"error": {"message": "out of\x1b[2J memory"}}), times=99)]
    with pytest.raises(PunaError, match=r"500: out of.*3 tries") as told:
        wire(served).post("/completions", {})
    assert "\x1b" not in told.value.what
    assert len(served.posts("/v1/completions")) == SHORT.tries


@pytest.mark.parametrize(("status", "word"), [(401, "PUNA_API_KEY"), (403, "PUNA_API_KEY"), (404, "/v1"), (400, "bad")])
def test_a_refusal_tells_the_servers_words_once_and_bounded(served: Served, status: int, word: str) -> None:
    served.faults = [
        once(lambda handler: send(handler, status, {"error": {"message": f"bad key {KEY} " + "x" * 5000}}), times=9)
    ]
    with pytest.raises(Refused) as told:
        wire(served, key=KEY).post("/completions", {})
    text = str(told.value)
    assert told.value.status == status and word in text and KEY not in text and len(text) < 600
    assert len(served.posts("/v1/completions")) == 1


def truncated(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"ok": tr')
    handler.close_connection = True


def test_a_reply_that_ends_early_is_tried_again(served: Served) -> None:
    served.faults = [once(truncated), once(good)]
    assert wire(served).post("/completions", {}) == {"ok": True}
    served.faults = [once(truncated, times=9)]
    with pytest.raises(PunaError, match="of 1,000 bytes"):
        wire(served).post("/completions", {})


def endless(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.end_headers()
    handler.close_connection = True
    try:
        while True:
            handler.wfile.write(b" " * 65536)
    except OSError:
        return


def test_a_reply_without_end_is_left(served: Served) -> None:
    served.faults = [once(endless, times=9)]
    with pytest.raises(PunaError, match="larger than 1 MiB"):
        wire(served).post("/completions", {})
    served.faults = [once(lambda handler: send(handler, 200, b"", {"Content-Length": str(1 << 40)}))]
    with pytest.raises(PunaError, match="larger than 1 MiB"):
        wire(served).post("/completions", {})


def test_a_slow_server_is_left_also_where_it_always_says_a_little(served: Served) -> None:
    for fault in (drip, lambda handler: time.sleep(1)):
        served.faults = [once(fault, times=9)]
        started = time.monotonic()
        with pytest.raises(PunaError, match=r"no whole answer within 0.4 s.*3 tries"):
            wire(served).post("/completions", {})
        assert time.monotonic() - started < 3


@pytest.mark.parametrize(
    "data", [b"<html>", b"[1]", b'"x"', b'{"a": NaN}', b'{"a": Infinity}', b"\xff\xfe", b"[" * 100_000, b""]
)
def test_what_is_no_json_object_is_refused(served: Served, data: bytes) -> None:
    served.faults = [once(lambda handler: send(handler, 200, data))]
    with pytest.raises(PunaError, match="no JSON"):
        wire(served).post("/completions", {})


def test_nobody_there() -> None:
    with pytest.raises(PunaError, match=r"127.0.0.1:9: the connection failed.*tries"):
        Wire(Endpoint("http://127.0.0.1:9/v1", "m"), patience=SHORT).get("/models")


def test_stop_ends_what_is_under_way(served: Served) -> None:
    served.faults = [once(lambda handler: time.sleep(2), times=9)]
    line = Wire(Endpoint(served.url, "m"), patience=Patience(seconds=60, tries=5, wait=30))
    told: list[PunaError] = []

    def ask() -> None:
        try:
            line.post("/completions", {})
        except PunaError as error:
            told.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    while not served.asked:
        time.sleep(0.01)
    started = time.monotonic()
    line.stop()
    thread.join(5)
    assert told and time.monotonic() - started < 1
