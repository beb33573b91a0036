"""Real replies against OpenAI's own public description of them."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
import zstandard
from jsonschema import Draft202012Validator
from tests_serve_running import MODEL, Running
from tests_serve_schooled import WEATHER
from tests_serve_streams import events_of

DESCRIPTION = Path(__file__).parents[3] / "shared" / "data" / "schemas" / "openai-openapi.json.zst"
TOOLS = [{"type": "function", "function": {key: value for key, value in WEATHER.items() if key != "type"}}]
ASKED = [{"role": "user", "content": "旧金山天气怎么样？"}]

Check = Callable[[str, Any], None]


def with_null(value: Any) -> Any:
    """The description says `nullable` as OpenAPI 3.0 does, although it is 3.1: JSON Schema's way to say it is another."""
    if isinstance(value, list):
        return [with_null(one) for one in value]
    if not isinstance(value, dict):
        return value
    made = {key: with_null(one) for key, one in value.items()}
    if made.pop("nullable", None) is True:
        return {"anyOf": [made, {"type": "null"}]}
    return made


@pytest.fixture(scope="module")
def check() -> Check:
    """Validates a value against a schema of the description by its name."""
    if not DESCRIPTION.exists():
        pytest.skip("no ../shared/data/schemas/openai-openapi.json.zst here")
    described = json.loads(zstandard.ZstdDecompressor().decompress(DESCRIPTION.read_bytes(), max_output_size=64 << 20))
    schemas = with_null(described["components"]["schemas"])

    def validate(name: str, value: Any) -> None:
        schema = {"$ref": f"#/components/schemas/{name}", "components": {"schemas": schemas}}
        errors = [
            f"{error.json_path}: {error.message[:300]}" for error in Draft202012Validator(schema).iter_errors(value)
        ]
        assert not errors, (name, errors, value)

    return validate


@pytest.fixture
def schooled(school: Running) -> Iterator[httpx.Client]:
    with school.client() as client:
        yield client


CHATS: list[dict[str, Any]] = [
    {}, {"n": 2, "temperature": 1}, {"logprobs": True, "top_logprobs": 2}, {"tools": TOOLS}, {"tools": TOOLS, "tool_choice": "required", "logprobs": True},
    {"max_tokens": 1}, {"response_format": {"type": "json_object"}, "max_tokens": 20},
]  # fmt: skip


def test_the_description_is_strict(check: Check) -> None:
    """What we rely on does find mistakes."""
    for wrong in ({}, {"id": "x", "object": "chat.completion", "created": 1, "model": "m", "choices": [{"index": 0}]}):
        with pytest.raises(AssertionError):
            check("CreateChatCompletionResponse", wrong)


@pytest.mark.parametrize("fields", CHATS, ids=range(len(CHATS)))
def test_chat(schooled: httpx.Client, check: Check, fields: dict[str, Any]) -> None:
    body = {"model": "schooled", "messages": ASKED, "temperature": 0, "max_tokens": 60, **fields}
    check("CreateChatCompletionResponse", schooled.post("/v1/chat/completions", json=body).json())
    for options in ({}, {"stream_options": {"include_usage": True}}):
        for chunk in events_of(schooled.post("/v1/chat/completions", json={**body, "stream": True, **options})):
            check("CreateChatCompletionStreamResponse", chunk)


@pytest.mark.parametrize(
    "fields", [{}, {"n": 2}, {"logprobs": 2}, {"echo": True}, {"prompt": ["a", "b"]}, {"max_tokens": 0}], ids=range(6)
)
def test_completions(client: httpx.Client, check: Check, fields: dict[str, Any]) -> None:
    body = {"model": MODEL, "prompt": "羊驼", "max_tokens": 6, **fields}
    check("CreateCompletionResponse", client.post("/v1/completions", json=body).json())
    # A stream's chunks have the same schema there, whose finish reason has no null; OpenAI's own chunks have.
    for chunk in events_of(client.post("/v1/completions", json={**body, "stream": True})):
        for choice in chunk["choices"]:
            choice["finish_reason"] = choice["finish_reason"] or "stop"
        check("CreateCompletionResponse", chunk)


def test_errors(client: httpx.Client, check: Check) -> None:
    for path in ("/v1/chat/completions", "/v1/completions", "/v1/nothing"):
        for body in ({}, {"model": "nobody"}, {"model": "nobody", "messages": ASKED, "prompt": ""}, {"model": 5}):
            answer = client.post(path, json=body)
            assert answer.status_code in (400, 404)
            check("ErrorResponse", answer.json())
