"""With a key, every route of the app needs it, but for those that are named here with the reason."""

import re
from collections.abc import Iterator
from importlib.resources import files

import httpx2 as httpx
import pytest
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from tests_serve_running import KEY, MODEL, Running

OPEN = {
    "/health": "what asks whether the server is up (a balancer, systemd) has no key; it tells `ok` and nothing of models or requests",
    "/": "a browser that opens the page cannot send a key yet; the page asks for it and keeps it in the browser",
    "/static/{name}": "the page's own files, the same in every copy of Puna; they hold nothing of this server",
}
WRONG = ["", "Bearer", f"Bearer {KEY}x", f"Bearer {KEY[:-1]}", f"Bearer {KEY.upper()}", f"Basic {KEY}", KEY,
         f"Bearer {KEY} {KEY}", "Bearer \xe9\xff", "Bearer " + "x" * 5000]  # fmt: skip


def routes_of(app: FastAPI) -> list[tuple[str, str]]:
    """(method, path) of every route there is, those of included routers and the description's own among them."""
    found = []
    for context in iter_route_contexts(app.routes):
        assert context.path is not None and context.methods, context  # no mount, whose inside would not be seen here
        found += [(method, context.path) for method in sorted(context.methods)]
    return found


def filled(path: str) -> str:
    """The path with a value for each of its parameters."""
    return re.sub(r"\{(\w+)(:path)?\}", lambda match: MODEL if match[1] == "model" else "x", path)


@pytest.fixture
def stranger(server: Running) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.base_url, timeout=60, trust_env=False) as client:
        yield client


def test_there_are_routes(server: Running) -> None:
    routes = routes_of(server.app)
    assert len(routes) >= 10 and {
        ("GET", "/v1/models"),
        ("POST", "/models/load"),
        ("GET", "/openapi.json"),
        ("GET", "/metrics"),
    } <= set(routes)
    assert set(OPEN) <= {path for _, path in routes}
    described = {(method.upper(), path) for path, one in server.app.openapi()["paths"].items() for method in one}
    assert described <= set(routes)


def test_every_route_without_and_with_a_wrong_key(server: Running, stranger: httpx.Client) -> None:
    for method, path in routes_of(server.app):
        for given in (None, *WRONG):
            headers = {} if given is None else {"Authorization": given.encode("latin-1")}
            for content in (b"", b'{"model": "tiny"}', b"{broken"):
                answer = stranger.request(method, filled(path), headers=headers, content=content)
                if path in OPEN:
                    assert answer.status_code != 401, (method, path)
                    continue
                assert answer.status_code == 401, (method, path, given)
                assert answer.headers["www-authenticate"] == "Bearer"
                if method != "HEAD":
                    error = answer.json()["error"]
                    assert (error["type"], error["code"]) == ("invalid_request_error", "invalid_api_key")
                    assert KEY not in answer.text and MODEL not in answer.text


def test_every_route_with_the_right_key(server: Running, stranger: httpx.Client) -> None:
    for method, path in routes_of(server.app):
        for given in (f"Bearer {KEY}", f"bearer {KEY}", f"BEARER  {KEY}"):
            content = b"{}" if method in ("POST", "PUT", "PATCH") else b""
            headers = {"Authorization": given, "Content-Type": "application/json"}
            answer = stranger.request(method, filled(path), headers=headers, content=content)
            assert answer.status_code not in (401, 403, 500), (method, path, answer.text)


def test_what_is_no_route_needs_the_key_too(stranger: httpx.Client) -> None:
    """So that nobody learns without it which routes there are."""
    for path in (
        "/nothing",
        "/v1",
        "/v1/models/",
        "/health/",
        "/health/x",
        "/static",
        "/static/../v1/models",
        "/docs",
        "/%68ealth/",
    ):
        assert stranger.get(path).status_code == 401, path
    assert (
        stranger.get("/v1/models", params={"api_key": KEY, "key": KEY}).status_code == 401
    )  # an address is logged in many places
    assert stranger.get("/v1/models", headers={"Cookie": f"key={KEY}"}).status_code == 401


def test_the_open_routes_hold_nothing_of_the_server(server: Running, stranger: httpx.Client) -> None:
    assert stranger.get("/health").json() == {"status": "ok"}
    static = files("puna.serve").joinpath("static")
    names = [entry.name for entry in static.iterdir()]
    assert "index.html" in names
    assert stranger.get("/").content == static.joinpath("index.html").read_bytes()
    for name in names:
        answer = stranger.get(f"/static/{name}")
        assert answer.status_code == 404 or answer.content == static.joinpath(name).read_bytes()


def test_without_a_key_nothing_needs_one(client: httpx.Client, server: Running) -> None:
    """The OpenAI clients always send one; a server on loopback without a key of its own does not look at it."""
    from tests_serve_running import running_server

    with running_server({MODEL: server.folder}) as running:
        assert httpx.get(f"{running.base_url}/v1/models").status_code == 200
        assert httpx.get(f"{running.base_url}/v1/models", headers={"Authorization": "Bearer any"}).status_code == 200
        assert "security" not in httpx.get(f"{running.base_url}/openapi.json").json()
