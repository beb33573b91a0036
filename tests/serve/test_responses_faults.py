"""/v1/responses where things go wrong: in the middle of a reply, before it begins, and when the client goes away."""

import json
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from typing import Any

import httpx2 as httpx
import openai
import pytest
from openai import OpenAI
from tests_serve_events import parsed
from tests_serve_openai import wrong_by_openai
from tests_serve_running import MODEL, Running

from puna.engine.request import Delta, Failed, Full

LONG = {"model": MODEL, "input": "羊驼", "max_output_tokens": 490, "temperature": 0}


@pytest.fixture
def door(server: Running) -> Iterator[httpx.Client]:
    with server.client() as client:
        yield client


@pytest.fixture
def client(server: Running) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{server.base_url}/v1", api_key=server.key, max_retries=0) as client:
        yield client


def failing(*deltas: Delta, error: Exception) -> Callable[..., AsyncGenerator[tuple[int, Delta], None]]:
    async def pieces(_hosted: Any, _requests: Sequence[Any]) -> AsyncGenerator[tuple[int, Delta], None]:
        for delta in deltas:
            yield 0, delta
        raise error

    return pieces


def test_an_error_in_the_middle_ends_the_stream_as_failed(
    door: httpx.Client, client: OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "puna.serve.responses.pieces", failing(Delta((1, 2), "half "), error=Failed("a fault with /a/path"))
    )
    events = parsed(door.post("/v1/responses", json={"model": MODEL, "input": "你好", "stream": True}).text)
    assert [event["type"].removeprefix("response.") for event in events[-3:]] == [
        "output_text.delta",
        "error",
        "failed",
    ]
    failed = events[-1]["response"]
    assert (failed["status"], failed["error"]["code"], failed["completed_at"]) == ("failed", "server_error", None)
    assert failed["output"][0]["status"] == "incomplete" and failed["output"][0]["content"][0]["text"] == "half "
    assert "/a/path" not in json.dumps(events)
    assert [wrong for event in events for wrong in wrong_by_openai(event, "ResponseStreamEvent")] == []
    assert door.get(f"/v1/responses/{failed['id']}").status_code == 404
    with pytest.raises(openai.APIError, match="could not finish"):
        list(client.responses.create(model=MODEL, input="x", stream=True))
    assert door.post("/v1/responses", json={"model": MODEL, "input": "x"}).status_code == 500


def test_an_error_before_the_first_event_has_its_own_status(
    door: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("puna.serve.responses.pieces", failing(error=Full("full")))
    answer = door.post("/v1/responses", json={"model": MODEL, "input": "x", "stream": True})
    assert answer.status_code == 503 and answer.headers["retry-after"] == "1"


def test_work_for_a_reader_that_stops_reading_ends(server: Running) -> None:
    before = server.models.get(MODEL).loop.stats().generated_tokens
    with server.client() as client, client.stream("POST", "/v1/responses", json={**LONG, "stream": True}) as answer:
        next(answer.iter_lines())
    assert ended(server) - before < 490


def test_work_for_a_client_that_goes_away_ends(server: Running) -> None:
    before = server.models.get(MODEL).loop.stats().generated_tokens
    with server.client() as client, pytest.raises(httpx.ReadTimeout):
        client.post("/v1/responses", json=LONG, timeout=httpx.Timeout(60, read=0.03))
    assert ended(server) - before < 490


def ended(server: Running) -> int:
    """How many tokens were made when nothing was left to do."""
    loop = server.models.get(MODEL).loop
    until = time.monotonic() + 5
    while ((stats := loop.stats()).running or stats.waiting) and time.monotonic() < until:
        time.sleep(0.01)
    assert (stats.running, stats.waiting, stats.blocks_free) == (0, 0, stats.blocks)
    return stats.generated_tokens
