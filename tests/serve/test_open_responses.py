"""The checks of the Open Responses compliance suite (openresponses/openresponses, bin/compliance-test.ts, specification 2026-04-24),
one test each, in code of our own: its runner (bun) can be had from npm, the suite itself is in no registry.

The requests are the suite's, with temperature 0. What a check asks of the model's wits (that it calls the tool, that it remembers the
word) our model has learned by heart, so that what is checked is the server.
"""

from collections.abc import Callable, Iterator
from typing import Any

import httpx2 as httpx
import pytest
from tests_serve_events import parsed, wrong_events, wrong_response
from tests_serve_running import Running
from tests_serve_schooled import WEATHER

Ask = Callable[..., dict[str, Any]]


@pytest.fixture
def door(school: Running) -> Iterator[httpx.Client]:
    with school.client() as client:
        yield client


@pytest.fixture
def ask(door: httpx.Client) -> Ask:
    """What posts a request and gives back the response, checked: JSON, its fields, its status."""

    def post(input: Any, **fields: Any) -> dict[str, Any]:  # noqa: A002
        answer = door.post("/v1/responses", json={"model": "schooled", "temperature": 0, "input": input, **fields})
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"] == "application/json"
        made: dict[str, Any] = answer.json()
        assert wrong_response(made) == [] and made["output"]
        return made

    return post


@pytest.fixture
def streamed(door: httpx.Client) -> Callable[..., list[dict[str, Any]]]:
    """What posts a request for a stream and gives back its events, checked: form, fields, order, sums."""

    def post(input: Any, **fields: Any) -> list[dict[str, Any]]:  # noqa: A002
        body = {"model": "schooled", "temperature": 0, "input": input, "stream": True, **fields}
        answer = door.post("/v1/responses", json=body)
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"].startswith("text/event-stream")
        events = parsed(answer.text)
        assert wrong_events(events) == []
        return events

    return post


def message(text: Any, role: str = "user", **fields: Any) -> dict[str, Any]:
    return {"type": "message", "role": role, "content": text, **fields}


def text_of(response: dict[str, Any]) -> str:
    """The text of a response that is completed."""
    assert response["status"] == "completed" and response["completed_at"] >= response["created_at"]
    return "".join(part["text"] for item in response["output"] if item["type"] == "message" for part in item["content"])


def calls_of(response: dict[str, Any]) -> list[dict[str, Any]]:
    return [item for item in response["output"] if item["type"] == "function_call"]


def test_basic_response(ask: Ask) -> None:
    assert text_of(ask([message("Say hello in exactly 3 words.")])) == "Hello my friend."


def test_streaming_response(streamed: Callable[..., list[dict[str, Any]]]) -> None:
    events = streamed([message("Count from 1 to 5.")])
    assert events[-1]["type"] == "response.completed"
    assert text_of(events[-1]["response"]) == "1, 2, 3, 4, 5"
    assert sum(event["type"] == "response.output_text.delta" for event in events) > 3


def test_system_prompt(ask: Ask) -> None:
    told = message("You are a pirate. Always respond in pirate speak.", "system")
    assert text_of(ask([told, message("Say hello.")])) == "Ahoy, matey!"
    assert text_of(ask([{**told, "role": "developer"}, message("Say hello.")])) == "Ahoy, matey!"
    assert text_of(ask("Say hello.", instructions=told["content"])) == "Ahoy, matey!"


def test_tool_calling(ask: Ask) -> None:
    made = ask([message("What's the weather like in San Francisco?")], tools=[WEATHER])
    (call,) = calls_of(made)
    assert (call["name"], call["arguments"]) == ("get_weather", '{"location": "San Francisco, CA"}')
    assert made["status"] == "completed" and len(made["output"]) == 1


@pytest.mark.parametrize("choice", ["auto", {"type": "function", "name": "get_weather"}])
def test_tool_calling_streaming(streamed: Callable[..., list[dict[str, Any]]], choice: Any) -> None:
    """`tool-calling-streaming`, and `streaming-tool-call` with the function named."""
    events = streamed([message("What's the weather like in San Francisco?")], tools=[WEATHER], tool_choice=choice)
    kinds = [event["type"].removeprefix("response.") for event in events]
    assert kinds == ["created", "in_progress", "output_item.added", "function_call_arguments.delta", "function_call_arguments.done",
                     "output_item.done", "completed"]  # fmt: skip
    assert events[2]["item"]["name"] == "get_weather" and events[2]["item"]["arguments"] == ""


def test_function_call_roundtrip(ask: Ask) -> None:
    asked = "Use the weather tool to get the temperature in San Francisco."
    first = ask(asked, tools=[WEATHER], tool_choice={"type": "function", "name": "get_weather"})
    (call,) = calls_of(first)
    result = {"type": "function_call_output", "call_id": call["call_id"], "output": "64 degrees and clear"}
    second = ask([result], previous_response_id=first["id"])
    assert text_of(second) == "It is clear, 64 degrees." and second["previous_response_id"] == first["id"]
    # The same without the server's memory: the client sends everything back as it got it.
    assert text_of(ask([message(asked), *first["output"], result], store=False)) == "It is clear, 64 degrees."


def test_multi_turn(ask: Ask) -> None:
    talk = [message("My name is Alice."), message("Hello Alice! Nice to meet you. How can I help you today?", "assistant"),
            message("What is my name?")]  # fmt: skip
    assert text_of(ask(talk)) == "Your name is Alice."


def test_previous_response_id(ask: Ask) -> None:
    first = ask("Remember this code word: papaya. Reply with only OK.")
    assert text_of(first) == "OK"
    assert text_of(ask("What code word did I ask you to remember?", previous_response_id=first["id"])) == "papaya"
    assert text_of(ask("What code word did I ask you to remember?")) == "none"  # it is the memory that knows


def test_assistant_phase(ask: Ask) -> None:
    talk = [message("I should answer with the saved number.", "assistant", phase="commentary"),
            message("The number is four.", "assistant", phase="final_answer"), message("Repeat only the number.")]  # fmt: skip
    assert text_of(ask(talk)) == "four"


def test_previous_response_not_found(door: httpx.Client) -> None:
    """The suite asks for this code over WebSocket."""
    answer = door.post(
        "/v1/responses", json={"model": "schooled", "input": "x", "previous_response_id": "resp_missing"}
    )
    error = answer.json()["error"]
    assert answer.status_code == 404
    assert (error["code"], error["param"]) == ("previous_response_not_found", "previous_response_id")


IMAGE = {"type": "input_image", "image_url": "data:image/png;base64,iVBORw0KGgo="}
FILE = {"type": "input_file", "filename": "fixture.pdf", "file_data": "data:application/pdf;base64,JVBERi0xLjEK"}
REFUSED = {
    "image-input": (
        {"input": [message([{"type": "input_text", "text": "What do you see?"}, IMAGE])]},
        "input[0].content[1]",
    ),
    "file-input": ({"input": [message([{"type": "input_text", "text": "Read it."}, FILE])]}, "input[0].content[1]"),
    "file-search": (
        {"input": "Search.", "tools": [{"type": "file_search", "vector_store_ids": ["x"]}]},
        "tools[0].type",
    ),
    "offline-web-search": (
        {"input": "Find.", "tools": [{"type": "web_search", "external_web_access": False}]},
        "tools[0].type",
    ),
    "compaction-item": ({"input": [{"type": "compaction", "encrypted_content": "x"}]}, "input[0]"),
}


@pytest.mark.parametrize("check", REFUSED)
def test_what_a_text_model_cannot_do_is_refused_by_name(door: httpx.Client, check: str) -> None:
    """These checks of the suite (two of them optional) ask for eyes, files or hosted tools. Nothing is taken and then ignored."""
    fields, param = REFUSED[check]
    answer = door.post("/v1/responses", json={"model": "schooled", **fields})
    error = answer.json()["error"]
    assert (answer.status_code, error["type"], error["param"]) == (400, "invalid_request_error", param)


def test_what_is_not_served(door: httpx.Client) -> None:
    """Compaction (which the specification leaves to the server) and WebSocket: no route, told as such."""
    assert door.post("/v1/responses/compact", json={"model": "schooled", "input": "x"}).status_code == 405
    upgrade = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "x" * 22 + "==",
    }
    assert door.get("/v1/responses", headers=upgrade).status_code == 405
