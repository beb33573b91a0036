"""/v1/responses: against OpenAI's public description, through OpenAI's own client, and where things go wrong."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import openai
import pytest
from openai import OpenAI
from pydantic import BaseModel
from tests_serve_events import parsed, wrong_events
from tests_serve_openai import wrong_by_openai
from tests_serve_running import MODEL, Running, running_server
from tests_serve_schooled import WEATHER

LOGPROBS = "message.output_text.logprobs"
STORIES = Path(__file__).resolve().parents[3] / "shared" / "data" / "weights"


@pytest.fixture
def door(school: Running) -> Iterator[httpx.Client]:
    with school.client() as client:
        yield client


@pytest.fixture
def client(school: Running) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{school.base_url}/v1", api_key=school.key, max_retries=0) as client:
        yield client


@pytest.fixture
def tiny(server: Running) -> Iterator[httpx.Client]:
    """Random weights and a context of 512: its replies end where they are long enough."""
    with server.client() as client:
        yield client


def post(door: httpx.Client, input: Any, model: str = "schooled", **fields: Any) -> Any:  # noqa: A002
    """The whole response."""
    answer = door.post("/v1/responses", json={"model": model, "temperature": 0, "input": input, **fields})
    assert answer.status_code == 200, answer.text
    return answer.json()


def stream(door: httpx.Client, input: Any, model: str = "schooled", **fields: Any) -> list[dict[str, Any]]:  # noqa: A002
    """The events of a stream."""
    body = {"model": model, "temperature": 0, "input": input, "stream": True, **fields}
    return parsed(door.post("/v1/responses", json=body).text)


def refusal(answer: httpx.Response) -> tuple[int, str, str]:
    error = answer.json()["error"]
    return answer.status_code, error["param"], error["message"]


KINDS: dict[str, dict[str, Any]] = {
    "text": {"input": "Count from 1 to 5."},
    "chinese": {"input": "你好", "instructions": None, "metadata": {"谁": "羊驼"}, "user": "u", "prompt_cache_key": "k"},
    "call": {"input": "What's the weather like in San Francisco?", "tools": [WEATHER], "parallel_tool_calls": False},
    "text and call": {"input": "旧金山天气怎么样？", "tools": [{**WEATHER, "strict": True}]},
    "allowed": {"input": "Say hello.", "tools": [WEATHER],
                "tool_choice": {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "get_weather"}]}},
    "logprobs": {"input": "你好", "include": [LOGPROBS], "top_logprobs": 3},
    "schema": {"input": "Tell me of a llama.", "text": {"format": {"type": "json_schema", "name": "llama", "schema": {"type": "object"}}}},
    "object": {"input": "Tell me of a llama.", "text": {"format": {"type": "json_object"}, "verbosity": "low"}},
    "cut": {"input": "Count from 1 to 5.", "max_output_tokens": 3},
    "cut within a character": {"input": "你好", "max_output_tokens": 1},
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_every_answer_and_event_is_as_openai_describes_it(door: httpx.Client, kind: str) -> None:
    whole = post(door, **KINDS[kind])
    events = stream(door, **KINDS[kind])
    assert wrong_by_openai(whole, "Response") == []
    assert [wrong for event in events for wrong in wrong_by_openai(event, "ResponseStreamEvent")] == []
    assert wrong_events(events) == []
    # The stream ends with what the whole response is, but for ids, times and what the cache had by then.
    assert _bare(events[-1]["response"]) == _bare(whole)
    assert whole["status"] == ("incomplete" if "cut" in kind else "completed")


def _bare(response: dict[str, Any]) -> dict[str, Any]:
    output = [
        {key: value for key, value in item.items() if key not in ("id", "call_id")} for item in response["output"]
    ]
    usage = {key: value for key, value in response["usage"].items() if key != "input_tokens_details"}
    rest = {key: value for key, value in response.items() if key not in ("id", "created_at", "completed_at")}
    return {**rest, "output": output, "usage": usage}


def test_the_description_can_find_fault(door: httpx.Client) -> None:
    events = stream(door, "你好")
    assert wrong_by_openai({**events[-1]["response"], "status": "done"}, "Response")
    assert wrong_by_openai({**events[4], "delta": 1}, "ResponseStreamEvent")
    assert wrong_events(events[:3] + events[4:]) and wrong_events(events[:-1])


# OpenAI's client


def test_client_creates_and_reads_again(client: OpenAI) -> None:
    made = client.responses.create(model="schooled", input="你好", temperature=0, metadata={"a": "b"})
    assert made.output_text == "你好！我是羊驼。" and made.status == "completed"
    assert made.usage is not None and made.usage.total_tokens == made.usage.input_tokens + made.usage.output_tokens
    again = client.responses.retrieve(made.id)
    assert again == made and again.metadata == {"a": "b"}
    client.responses.delete(made.id)
    for gone in (client.responses.retrieve, client.responses.delete):
        with pytest.raises(openai.NotFoundError):
            gone(made.id)
    with pytest.raises(openai.NotFoundError) as error:
        client.responses.create(model="schooled", input="x", previous_response_id=made.id)
    assert (error.value.code, error.value.param) == ("previous_response_not_found", "previous_response_id")


def test_client_streams(client: OpenAI) -> None:
    with client.responses.stream(model="schooled", input="Count from 1 to 5.", temperature=0) as events:
        texts = [event.delta for event in events if event.type == "response.output_text.delta"]
        final = events.get_final_response()
    assert "".join(texts) == final.output_text == "1, 2, 3, 4, 5" and len(texts) > 3
    plain = list(client.responses.create(model="schooled", input="Count from 1 to 5.", temperature=0, stream=True))
    assert plain[-1].type == "response.completed" and plain[-1].response.output_text == final.output_text


class Llama(BaseModel):
    """What the model is asked for."""

    name: str
    age: int


def test_client_parses(client: OpenAI) -> None:
    made = client.responses.parse(model="schooled", input="Tell me of a llama.", text_format=Llama, temperature=0)
    assert made.output_parsed == Llama(name="Lily", age=3)
    wild = client.responses.parse(
        model="schooled", input="你好", text_format=Llama, temperature=1.5, max_output_tokens=200
    )
    assert wild.status == "incomplete" or isinstance(wild.output_parsed, Llama)  # it was never taught to


def test_client_calls_a_tool(client: OpenAI) -> None:
    talk: list[Any] = [{"role": "user", "content": "Use the weather tool to get the temperature in San Francisco."}]
    made = client.responses.create(model="schooled", input=talk, tools=[WEATHER], temperature=0)  # type: ignore[list-item]
    call = made.output[0]
    assert call.type == "function_call" and json.loads(call.arguments) == {"location": "San Francisco, CA"}
    talk += [*made.output, {"type": "function_call_output", "call_id": call.call_id, "output": "64 degrees and clear"}]
    assert (
        client.responses.create(model="schooled", input=talk, temperature=0).output_text == "It is clear, 64 degrees."
    )


def test_client_raises_what_went_wrong(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as error:
        client.responses.create(model="schooled", input="x", temperature=3)
    assert error.value.param == "temperature"
    with pytest.raises(openai.NotFoundError) as missing:
        client.responses.create(model="nobody", input="x")
    assert missing.value.code == "model_not_found"


# What the fields do


def test_log_probabilities_come_with_the_text_they_are_of(door: httpx.Client) -> None:
    plain = post(door, "你好")["output"][0]["content"][0]
    events = stream(door, "你好", include=[LOGPROBS], top_logprobs=2)
    part = events[-1]["response"]["output"][0]["content"][0]
    assert part["text"] == plain["text"] and plain["logprobs"] == []
    deltas = [event for event in events if event["type"] == "response.output_text.delta"]
    assert [entry for event in deltas for entry in event["logprobs"]] == part["logprobs"]
    assert b"".join(bytes(entry["bytes"]) for entry in part["logprobs"]).decode() == part["text"]
    for entry in part["logprobs"]:
        assert len(entry["top_logprobs"]) == 2 and entry["logprob"] <= 0
        assert entry["top_logprobs"][0]["bytes"] == entry["bytes"]  # greedy takes the likeliest
    assert post(door, "你好", include=[LOGPROBS])["output"][0]["content"][0]["logprobs"][0]["top_logprobs"] == []


def test_a_seed_gives_the_same_reply(tiny: httpx.Client) -> None:
    fields = {"model": MODEL, "temperature": 1.0, "max_output_tokens": 12}
    texts = {
        seed: [post(tiny, "羊驼", seed=seed, **fields)["output"][0]["content"][0]["text"] for _ in range(2)]
        for seed in (1, 2, -3)
    }
    assert all(first == second for first, second in texts.values()) and len({first for first, _ in texts.values()}) == 3


def test_usage_counts_what_the_cache_had(tiny: httpx.Client) -> None:
    first = post(tiny, "the llama walks over the high grass " * 6, MODEL, max_output_tokens=4)
    second = post(tiny, "and the wind", MODEL, max_output_tokens=4, previous_response_id=first["id"])
    usage = second["usage"]
    assert usage["input_tokens_details"]["cached_tokens"] >= first["usage"]["input_tokens"] // 2
    assert sum(usage["input_tokens_details"].values()) == usage["input_tokens"]
    assert usage["output_tokens"] == 4 and usage["output_tokens_details"] == {"reasoning_tokens": 0}


def test_tools_that_may_not_be_called_are_not(door: httpx.Client) -> None:
    made = post(
        door, "What's the weather like in San Francisco?", tools=[WEATHER], tool_choice="none", max_output_tokens=60
    )
    assert [item["type"] for item in made["output"]] == ["message"]
    other = {**WEATHER, "name": "get_time"}
    choice = {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "get_time"}]}
    made = post(
        door,
        "What's the weather like in San Francisco?",
        tools=[WEATHER, other],
        tool_choice=choice,
        max_output_tokens=60,
    )
    assert not [item for item in made["output"] if item.get("name") == "get_weather"]


def test_a_conversation_branches(door: httpx.Client) -> None:
    first = post(door, "My name is Alice.")
    talk = [{"role": "user", "content": "My name is Alice."}, *first["output"]]
    for question in ("What is my name?", "你好"):
        kept = post(door, question, previous_response_id=first["id"])
        sent = post(door, [*talk, {"role": "user", "content": question}])
        assert _bare(kept)["output"] == _bare(sent)["output"]
        assert kept["usage"]["input_tokens"] == sent["usage"]["input_tokens"]


def test_instructions_are_not_carried_over(door: httpx.Client) -> None:
    alone = post(door, "Say hello.")
    first = post(door, "Say hello.", instructions="You are a pirate. Always respond in pirate speak.")
    assert first["output"][0]["content"][0]["text"] == "Ahoy, matey!"
    second = post(door, "Say hello.", previous_response_id=first["id"])
    assert second["instructions"] is None
    longer = first["usage"]["input_tokens"] - alone["usage"]["input_tokens"]
    kept = post(
        door,
        "Say hello.",
        previous_response_id=first["id"],
        instructions="You are a pirate. Always respond in pirate speak.",
    )
    assert kept["usage"]["input_tokens"] - second["usage"]["input_tokens"] == longer > 0


def test_what_is_not_stored_is_not_there(door: httpx.Client) -> None:
    for made in (post(door, "你好", store=False), stream(door, "你好", store=False)[-1]["response"]):
        assert made["store"] is False and door.get(f"/v1/responses/{made['id']}").status_code == 404


def test_what_was_streamed_is_stored(door: httpx.Client) -> None:
    made = stream(door, "你好")[-1]["response"]
    assert door.get(f"/v1/responses/{made['id']}").json() == made
    assert refusal(door.get(f"/v1/responses/{made['id']}?stream=true"))[:2] == (400, "stream")


# The context


def test_a_conversation_too_long_is_refused_with_both_numbers(tiny: httpx.Client) -> None:
    answer = tiny.post("/v1/responses", json={"model": MODEL, "input": "羊驼走过高原的草地。" * 400})
    status, param, told = refusal(answer)
    assert (status, param) == (400, "input") and " 512 " in told
    assert max(int(word) for word in told.replace(",", " ").split() if word.isdigit()) > 512


def test_a_conversation_too_long_loses_its_oldest_exchanges(tiny: httpx.Client) -> None:
    talk: list[dict[str, Any]] = [{"role": "system", "content": "walk"}]
    for number in range(40):
        talk += [
            {"role": "user", "content": f"the llama {number} walks"},
            {"role": "assistant", "content": f"over the grass {number}"},
        ]
    talk.append({"role": "user", "content": "你好"})
    fields = {"model": MODEL, "max_output_tokens": 40}
    assert (
        tiny.post("/v1/responses", json={**fields, "input": talk}).json()["error"]["code"] == "context_length_exceeded"
    )
    made = post(tiny, talk, truncation="auto", **fields)
    assert made["usage"]["output_tokens"] == 40 and 300 < made["usage"]["input_tokens"] <= 472
    # It is the newest that stay, and the system text: the same prompt, sent as such.
    for dropped in range(1, 40):
        rest = [talk[0], *talk[1 + 2 * dropped :]]
        answer = tiny.post("/v1/responses", json={**fields, "temperature": 0, "input": rest})
        if answer.status_code == 200 and answer.json()["usage"]["input_tokens"] <= 472:
            assert answer.json()["usage"]["input_tokens"] == made["usage"]["input_tokens"]
            assert answer.json()["output"][0]["content"] == made["output"][0]["content"]
            return
    raise AssertionError("no end of the conversation fits")


def test_what_belongs_together_goes_together(tiny: httpx.Client) -> None:
    """A call and its result go with the question that they answer."""
    talk: list[dict[str, Any]] = []
    for number in range(12):
        call = {"type": "function_call", "call_id": f"c{number}", "name": "f", "arguments": '{"n": 1}'}
        talk += [{"role": "user", "content": f"llama {number}"}, call,
                 {"type": "function_call_output", "call_id": f"c{number}", "output": "高原的草地"}]  # fmt: skip
    fields = {"model": MODEL, "max_output_tokens": 40}
    made = post(tiny, talk, truncation="auto", **fields)
    lengths = [post(tiny, talk[start:], **fields)["usage"]["input_tokens"] for start in (33, 30, 27)]
    assert lengths == sorted(lengths) and made["usage"]["input_tokens"] + 40 <= 512
    fitting = [
        post(tiny, talk[start:], truncation="auto", **fields)["usage"]["input_tokens"] for start in range(0, 34, 3)
    ]
    assert (
        max(fitting) == fitting[0] == made["usage"]["input_tokens"]
    )  # whatever older exchanges there are, the same ones stay
    alone = post(tiny, talk, MODEL, truncation="auto", max_output_tokens=500)
    assert (
        alone["usage"]["input_tokens"] == lengths[0]
    )  # a reply may have a half of the context: two exchanges are more than the rest


# What is refused


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no input": ({}, "input"),
    "no items": ({"input": []}, "input"),
    "only reasoning": ({"input": [{"type": "reasoning", "id": "rs_1", "summary": []}]}, "input"),
    "a number": ({"input": 5}, "input"),
    "no role": ({"input": [{"type": "message", "content": "x"}]}, "input[0].role"),
    "a role of its own": ({"input": [{"role": "tool", "content": "x"}]}, "input[0].role"),
    "null content": ({"input": [{"role": "user", "content": None}]}, "input[0].content"),
    "an address": ({"input": [{"role": "user", "content": [{"type": "input_file", "file_url": "http://x"}]}]}, "input[0].content[0]"),
    "a result of no call": ({"input": [{"type": "function_call_output", "call_id": "c", "output": "x"}]}, "input"),
    "a hosted call": ({"input": [{"type": "web_search_call", "id": "x", "status": "completed"}]}, "input[0]"),
    "a reference": ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0]"),
    "background": ({"input": "x", "background": True}, "background"),
    "conversation": ({"input": "x", "conversation": "conv_1"}, "conversation"),
    "prompt": ({"input": "x", "prompt": {"id": "p"}}, "prompt"),
    "mcp": ({"input": "x", "tools": [{"type": "mcp", "server_url": "http://x"}]}, "tools[0].type"),
    "two of one name": ({"input": "x", "tools": [WEATHER, WEATHER]}, "tools"),
    "a choice of none": ({"input": "x", "tool_choice": "required"}, "tool_choice"),
    "a choice of another": ({"input": "x", "tools": [WEATHER], "tool_choice": {"type": "function", "name": "other"}}, "tool_choice"),
    "parameters that are no object": ({"input": "x", "tools": [{**WEATHER, "parameters": {"type": "string"}}]}, "tools"),
    "a schema elsewhere": ({"input": "x", "text": {"format": {"type": "json_schema", "name": "a", "schema": {"$ref": "http://x"}}}},
                           "text.format"),
    "an unknown field": ({"input": "x", "max_tokens": 5}, "max_tokens"),
    "no tokens": ({"input": "x", "max_output_tokens": 0}, "max_output_tokens"),
    "too many tokens": ({"input": "x", "max_output_tokens": 1 << 40}, "max_output_tokens"),
    "many pairs": ({"input": "x", "metadata": {str(n): "x" for n in range(17)}}, "metadata"),
    "a long key": ({"input": "x", "metadata": {"k" * 65: "x"}}, "metadata"),
    "a truth value": ({"input": "x", "temperature": True}, "temperature"),
    "top_logprobs": ({"input": "x", "top_logprobs": 21}, "top_logprobs"),
}  # fmt: skip


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("bad", BAD)
def test_bad_input_is_refused_by_name(door: httpx.Client, bad: str, streamed: bool) -> None:
    fields, param = BAD[bad]
    answer = door.post("/v1/responses", json={"model": "schooled", "stream": streamed, **fields})
    assert refusal(answer)[:2] == (400, param), answer.text


def test_a_model_without_a_chat_format_is_refused() -> None:
    if not STORIES.is_dir():
        pytest.skip(f"no {STORIES}")
    path = next(STORIES.glob("**/*260K*.bin"))
    with running_server({"stories": path}) as running, running.client() as client:
        status, param, told = refusal(client.post("/v1/responses", json={"model": "stories", "input": "Once"}))
    assert (status, param) == (400, "model") and "chat format" in told
