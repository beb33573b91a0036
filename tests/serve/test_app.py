"""The app as a client meets it: models by name, errors in one shape, figures, a description, and an end in good order."""

import asyncio
import json
import threading
import time
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from prometheus_client.parser import text_string_to_metric_families
from tests_serve_running import MODEL, Running, running_server

from puna.engine.request import Closing, Failed, Full
from puna.errors import PunaError
from puna.serve.errors import from_validation
from puna.serve.models import name_of, sources_of
from puna.serve.settings import Settings, is_loopback, read_key


def error_of(response: httpx.Response) -> dict[str, Any]:
    body = response.json()
    assert set(body) == {"error"} and set(body["error"]) == {"message", "type", "param", "code"}
    error: dict[str, Any] = body["error"]
    assert isinstance(error["message"], str) and error["message"]
    return error


def test_the_models_are_listed(client: httpx.Client, server: Running) -> None:
    listed = client.get("/v1/models").json()
    assert listed["object"] == "list" and [one["id"] for one in listed["data"]] == [MODEL]
    one = client.get(f"/v1/models/{MODEL}").json()
    assert one == listed["data"][0]
    assert (one["object"], one["owned_by"], one["chats"], one["context_length"]) == ("model", "puna", True, 512)
    assert abs(one["created"] - time.time()) < 3600 and one["parameters"] > 1000


def test_an_unknown_model_route_and_method(client: httpx.Client) -> None:
    for name in ("nobody", "羊驼", "..", "%2e%2e", "a%2fb"):
        found = client.get(f"/v1/models/{name}")
        assert found.status_code == 404, name
        error_of(found)
    assert error_of(client.get("/v1/models/nobody"))["code"] == "model_not_found"
    assert error_of(client.get("/v1/models/nobody"))["param"] == "model"
    assert error_of(client.get("/v2/没有"))["code"] == "not_found"
    refused = client.delete("/v1/models")
    assert (refused.status_code, refused.headers["allow"]) == (405, "GET")
    assert error_of(refused)["code"] == "method_not_allowed"
    assert client.request("TRACE", "/health").status_code == 405
    assert client.get("/docs").status_code == client.get("/redoc").status_code == 404


def test_local_runs_are_loaded_and_unloaded_by_name_and_nothing_else_is(tiny_release: Path, local_runs: Path) -> None:
    with running_server({"first": tiny_release}, local_runs, models=2) as running, running.client() as client:
        known = {one["id"]: one["loaded"] for one in client.get("/models").json()["data"]}
        assert known == {"first": True, "other": False, "羊驼": False, "damaged": False}
        for path in (
            str(tiny_release),
            "../" + local_runs.name + "/other",
            "other/release",
            ".",
            "/etc/passwd",
            "nobody",
        ):
            refused = client.post("/models/load", json={"model": path})
            assert refused.status_code == 404 and error_of(refused)["code"] == "model_not_found"
        damaged = client.post("/models/load", json={"model": "damaged"})
        assert damaged.status_code == 400 and error_of(damaged)["code"] == "model_damaged"
        assert str(local_runs) not in damaged.text
        assert client.post("/models/load", json={"model": "羊驼"}).json()["id"] == "羊驼"
        assert client.post("/models/load", json={"model": "羊驼"}).status_code == 200  # it is there already
        assert error_of(client.post("/models/load", json={"model": "other"}))["code"] == "too_many_models"
        assert [one["id"] for one in client.get("/v1/models").json()["data"]] == ["first", "羊驼"]
        assert client.get("/v1/models/羊驼").status_code == 200
        assert client.post("/models/unload", json={"model": "羊驼"}).json() == {"id": "羊驼", "loaded": False}
        assert client.post("/models/unload", json={"model": "羊驼"}).status_code == 404
        assert client.post("/models/load", json={"model": "other"}).status_code == 200
        assert client.get("/health").status_code == 200


def test_the_figures(client: httpx.Client) -> None:
    for _ in range(2):
        client.get("/v1/models")
        client.get("/v1/models/无此模型")
        client.request("BREW", "/v1/models")
    response = client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=1.0.0")
    families = {family.name: family for family in text_string_to_metric_families(response.text)}
    requests = {
        (sample.labels["route"], sample.labels["method"], sample.labels["status"]): sample.value
        for sample in families["puna_requests"].samples if sample.name.endswith("_total")
    }  # fmt: skip
    assert requests["/v1/models", "GET", "200"] >= 2 and requests["/v1/models/{model}", "GET", "404"] >= 2
    assert "无此模型" not in response.text and "BREW" not in response.text  # no label is a client's
    for name in ("puna_replies_running", "puna_replies_waiting", "puna_cache_blocks", "puna_cache_blocks_free", "puna_prompt_tokens",
                 "puna_cached_tokens", "puna_generated_tokens", "puna_preemptions"):  # fmt: skip
        assert [sample.labels for sample in families[name].samples] == [{"model": MODEL}], name
    assert {"puna_time_to_first_token_seconds", "puna_time_per_token_seconds"} <= set(families)


def test_replies_are_timed(server: Running, client: httpx.Client) -> None:
    from puna.engine import Sampling
    from puna.engine.request import Request

    def counts() -> list[float]:
        registry = server.app.state.meters.registry
        return [registry.get_sample_value(f"{name}_count", {"model": MODEL}) or 0.0
                for name in ("puna_time_to_first_token_seconds", "puna_time_per_token_seconds")]  # fmt: skip

    before = counts()
    hosted = server.models.get(MODEL)
    stream = hosted.loop.submit(Request(tuple(hosted.engine.begin("the 羊驼")), Sampling(max_tokens=8, temperature=0)))
    tokens = sum(len(delta.ids) for delta in stream.blocking())
    first, others = (after - then for after, then in zip(counts(), before, strict=True))
    assert tokens > 0 and first == 1 and first + others >= tokens


def test_the_description(client: httpx.Client) -> None:
    described = client.get("/openapi.json").json()
    assert {
        "/health",
        "/metrics",
        "/v1/models",
        "/v1/models/{model}",
        "/models",
        "/models/load",
        "/models/unload",
    } <= set(described["paths"])
    for path, operations in described["paths"].items():
        for operation in operations.values():
            assert {"400", "401", "404", "413", "503"} <= set(operation["responses"]) and "422" not in operation[
                "responses"
            ], path
    assert described["security"] == [{"key": []}] and described["paths"]["/health"]["get"]["security"] == []
    assert "HTTPValidationError" not in described["components"]["schemas"]


def broken_routes(app: FastAPI) -> None:
    """Routes that fail in the ways in which a route can."""
    failures: dict[str, Exception] = {
        "punaerror": PunaError("is wrong", where="prompt", mend="mend it"), "full": Full(), "closing": Closing(),
        "failed": Failed("the secret story"), "bug": ZeroDivisionError("the secret story"), "late": TimeoutError("secret"),
    }  # fmt: skip

    @app.get("/fail/{how}", include_in_schema=False)
    async def fail(how: str) -> None:
        raise failures[how]

    @app.get("/slow", include_in_schema=False)
    async def slow() -> None:
        await asyncio.sleep(30)

    @app.get("/stream/{how}", include_in_schema=False)
    async def stream(how: str) -> StreamingResponse:
        async def events() -> Any:
            yield 'data: {"a": 1}\n\n'
            if how == "bug":
                raise ZeroDivisionError("the secret story")
            await asyncio.sleep(30)

        return StreamingResponse(events(), media_type="text/event-stream")


def test_a_route_that_fails_is_told_and_the_next_request_is_answered(
    tiny_release: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        running_server({MODEL: tiny_release}, routes=broken_routes, request_seconds=1.0) as running,
        running.client() as client,
    ):
        expected = {"punaerror": (400, "prompt", None), "full": (503, None, "overloaded"), "closing": (503, None, "unavailable"),
                    "failed": (500, None, "engine_failed"), "bug": (500, None, "internal_error"), "late": (500, None, "internal_error")}  # fmt: skip
        for how, (status, param, code) in expected.items():
            answer = client.get(f"/fail/{how}")
            error = error_of(answer)
            assert (answer.status_code, error["param"], error["code"]) == (status, param, code)
            assert "secret" not in answer.text and ("retry-after" in answer.headers) == (status == 503)
            assert answer.headers["x-content-type-options"] == "nosniff"
        assert "the secret story" in caplog.text  # of a bug, the log has it all
        began = time.monotonic()
        late = client.get("/slow")
        assert (late.status_code, error_of(late)["code"]) == (504, "timeout") and time.monotonic() - began < 5
        for how, code in (("bug", "internal_error"), ("slow", "timeout")):
            events = [json.loads(line[6:]) for line in client.get(f"/stream/{how}").text.splitlines() if line]
            assert events[0] == {"a": 1} and events[1]["error"]["code"] == code and len(events) == 2
        assert client.get("/health").json() == {"status": "ok"}


def test_draining_lets_in_nobody_and_waits_for_those_inside(tiny_release: Path) -> None:
    def routes(app: FastAPI) -> None:
        @app.get("/wait/{seconds}", include_in_schema=False)
        async def wait(seconds: float) -> str:
            await asyncio.sleep(seconds)
            return "done"

    def ask(running: Running, seconds: float) -> tuple[threading.Thread, list[httpx.Response]]:
        answers: list[httpx.Response] = []
        asking = threading.Thread(
            target=lambda: answers.append(httpx.get(f"{running.base_url}/wait/{seconds}", timeout=30))
        )
        asking.start()
        time.sleep(0.3)
        return asking, answers

    with (
        running_server({MODEL: tiny_release}, routes=routes, drain_seconds=10.0) as running,
        running.client() as client,
    ):
        asking, answers = ask(running, 1.5)
        assert client.get("/health").status_code == 200
        running.server.end()
        time.sleep(0.1)
        for path in ("/health", "/v1/models"):
            refused = client.get(path)
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
            error_of(refused)
        asking.join(10)
        assert answers[0].json() == "done"
        running.thread.join(5)
        assert not running.thread.is_alive()  # nobody was inside any more
    with running_server({MODEL: tiny_release}, routes=routes, drain_seconds=0.5) as running:
        asking, answers = ask(running, 60)
        began = time.monotonic()
        running.server.end()
        asking.join(10)
        assert answers[0].status_code == 503 and time.monotonic() - began < 4
        running.thread.join(5)
        assert not running.thread.is_alive()


def test_what_pydantic_finds_names_the_field() -> None:
    def param(body: Any, *errors: tuple[tuple[Any, ...], str]) -> tuple[str | None, str]:
        made = from_validation([{"loc": loc, "type": kind, "msg": f"told {kind}"} for loc, kind in errors], body)
        assert made.status == 400
        return made.param, made.message

    body = {"stop": 5, "messages": [{"role": "user", "content": [{"type": "image"}]}]}
    assert param(body, (("body", "stop", "str"), "string_type"), (("body", "stop", "list[str]"), "list_type")) == (
        "stop", "stop: told string_type; or: told list_type"
    )  # fmt: skip
    deep = ("body", "messages", 0, "content", "list[Part]", 0, "type")
    assert param(body, (("body", "messages", 0, "content", "str"), "string_type"), (deep, "literal"))[0] == (
        "messages[0].content[0].type"
    )
    assert param(body, (("body", "model"), "missing"))[0] == "model"
    assert param(body, (("body", "messages", 0, "name"), "missing"))[0] == "messages[0].name"
    assert param(None, (("body",), "missing")) == (None, "the body must be a JSON object")
    assert param(None, (("path", "model"), "string_too_long"))[0] == "model"


def test_names_of_models(tmp_path: Path) -> None:
    release, plain, file = tmp_path / "runs/羊驼/release", tmp_path / "plain", tmp_path / "stories.bin"
    release.mkdir(parents=True)
    plain.mkdir()
    file.touch()
    assert [name_of(path) for path in (release, plain, file)] == ["羊驼", "plain", "stories"]
    given = [str(release), f"a={plain}", str(file)]
    assert sources_of(given, Path) == {"羊驼": release, "a": plain, "stories": file}
    for wrong in ([str(plain), str(plain)], [f"a/b={plain}"], [f"={plain}"], [f"{'x' * 201}={plain}"]):
        with pytest.raises(PunaError):
            sources_of(wrong, Path)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("127.8.8.8", True), ("::1", True), ("localhost", True), ("LOCALHOST", True), ("0.0.0.0", False), ("::", False),
     ("192.168.1.2", False), ("localhost.example.com", False), ("", False), ("127.0.0.1.example.com", False)],
)  # fmt: skip
def test_addresses_and_keys(host: str, loopback: bool) -> None:
    assert is_loopback(host) == loopback
    if loopback:
        assert Settings(host=host).loopback and Settings(host=host, key="k").key == "k"
    else:
        for key in (None, "short"):
            with pytest.raises(PunaError, match="key"):
                Settings(host=host, key=key)
        assert not Settings(host=host, key="long-enough-for-all").loopback
    assert "secret" not in repr(Settings(key="secret-secret"))


def test_the_key_is_read_from_a_file_or_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PUNA_SERVE_KEY", raising=False)
    assert read_key(None) is None
    monkeypatch.setenv("PUNA_SERVE_KEY", " from-the-environment\n")
    assert read_key(None) == "from-the-environment"
    file = tmp_path / "key"
    file.write_text("from-a-file\n")
    assert read_key(file) == "from-a-file"
    monkeypatch.setenv("PUNA_SERVE_KEY", "  ")
    for wrong in (None, tmp_path / "absent", tmp_path):
        with pytest.raises(PunaError):
            read_key(wrong)
    for content in ("", "two\nlines", "with space", "钥匙", "x" * 600):
        file.write_text(content)
        with pytest.raises(PunaError):
            Settings(key=read_key(file))
