"""Calls over HTTP: those that a model was taught, and those that it must make."""

import json
import re
from typing import Any

import httpx2 as httpx
from test_chat import TOOLS, ask, whole
from tests_serve_running import Running
from tests_serve_streams import events_of, put_together


def test_tools(school: Running) -> None:
    asked: dict[str, Any] = {"model": "schooled", "temperature": 0, "max_tokens": None, "tools": TOOLS}
    call = {"name": "get_weather", "arguments": '{"location": "San Francisco, CA"}'}
    with school.client() as client:
        for content, text in (
            ("What's the weather like in San Francisco?", None),
            ("旧金山天气怎么样？", "我来看看。"),
        ):
            for choice in ({}, {"tool_choice": "auto"}, {"parallel_tool_calls": False}):
                fields = {**asked, "messages": [{"role": "user", "content": content}], **choice}
                (made,) = whole(client, **fields)["choices"]
                assert made["finish_reason"] == "tool_calls" and made["message"]["content"] == text
                (one,) = made["message"]["tool_calls"]
                assert (one["type"], one["function"]) == ("function", call) and re.fullmatch(
                    "call_[0-9a-f]{24}", one["id"]
                )
                (told,) = put_together(events_of(ask(client, **fields, stream=True)))
                assert (told.text, told.finish_reason, told.calls[0]["function"]) == (text or "", "tool_calls", call)
        answered = [{"role": "user", "content": "Use the weather tool to get the temperature in San Francisco."},
                    {"role": "assistant", "content": None, "refusal": None, "tool_calls": [{**one, "id": "c1"}]},
                    {"role": "tool", "content": "64 degrees and clear", "tool_call_id": "c1"}]  # fmt: skip
        (made,) = whole(client, **{**asked, "messages": answered, "tools": None})["choices"]
        assert made["message"]["content"] == "It is clear, 64 degrees." and "tool_calls" not in made["message"]


def test_calls_that_must_be(roomy: Running) -> None:
    """A model that was taught nothing calls what it must, with arguments that follow the schema."""
    with roomy.client() as client:
        check_calls(client)


def check_calls(client: httpx.Client) -> None:
    functions = {
        "paint": {"type": "object", "properties": {"colour": {"enum": ["red", "白"]}}, "required": ["colour"], "additionalProperties": False},
        "count": {"type": "object", "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 99}}, "required": ["n"],
                  "additionalProperties": False},
        "rest": None,
    }  # fmt: skip
    tools = [
        {"type": "function", "function": {"name": name, **({"parameters": one} if one else {})}}
        for name, one in functions.items()
    ]
    named: Any = {"type": "function", "function": {"name": "count"}}
    some: Any = {
        "type": "allowed_tools",
        "allowed_tools": {"mode": "required", "tools": [{"type": "function", "function": {"name": "paint"}}]},
    }
    for choice, names in (("required", set(functions)), (named, {"count"}), (some, {"paint"})):
        for seed in range(4):
            (made,) = whole(
                client,
                tools=tools,
                tool_choice=choice,
                max_tokens=200,
                seed=seed,
                temperature=1,
                parallel_tool_calls=False,
            )["choices"]
            (one,) = made["message"]["tool_calls"]
            assert (
                made["finish_reason"] == "tool_calls"
                and made["message"]["content"] is None
                and one["function"]["name"] in names
            )
            arguments = json.loads(one["function"]["arguments"])
            if one["function"]["name"] == "paint":
                assert arguments["colour"] in ("red", "白")
            elif one["function"]["name"] == "count":
                assert 0 <= arguments["n"] <= 99
            else:
                assert arguments == {}
    for choice in ("none", None):
        (made,) = whole(client, tools=tools, tool_choice=choice)["choices"]
        assert "tool_calls" not in made["message"]
    cut = whole(client, tools=tools, tool_choice="required", max_tokens=5)["choices"][0]
    assert (
        cut["finish_reason"] == "length"
        and "tool_calls" not in cut["message"]
        and cut["message"]["content"].startswith("<tool")
    )
