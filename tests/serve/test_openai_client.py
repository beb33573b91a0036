"""The `openai` Python client against a real server: what its users do, with its own types and exceptions."""

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam
from pydantic import BaseModel
from tests_serve_running import MODEL, Running
from tests_serve_schooled import WEATHER

ASKED: list[ChatCompletionMessageParam] = [{"role": "user", "content": "羊驼 walks"}]
TOOLS: Any = [{"type": "function", "function": {key: value for key, value in WEATHER.items() if key != "type"}}]


def client_of(running: Running, key: str | None = None) -> openai.OpenAI:
    http = openai.DefaultHttpxClient(trust_env=False)
    return openai.OpenAI(base_url=f"{running.base_url}/v1", api_key=key or running.key, max_retries=0, http_client=http)


@pytest.fixture(scope="module")
def ai(server: Running) -> Iterator[openai.OpenAI]:
    with client_of(server) as made:
        yield made


@pytest.fixture(scope="module")
def schooled(school: Running) -> Iterator[openai.OpenAI]:
    with client_of(school) as made:
        yield made


def test_models(ai: openai.OpenAI) -> None:
    assert [one.id for one in ai.models.list()] == [MODEL]
    assert ai.models.retrieve(MODEL).owned_by == "puna"


def test_chat(schooled: openai.OpenAI) -> None:
    made = schooled.chat.completions.create(
        model="schooled", messages=[{"role": "user", "content": "你好"}], temperature=0
    )
    assert made.choices[0].message.content == "你好！我是羊驼。" and made.choices[0].finish_reason == "stop"
    assert made.usage is not None and made.usage.total_tokens == made.usage.prompt_tokens + made.usage.completion_tokens
    # The client's own message goes back as it is.
    again = schooled.chat.completions.create(
        model="schooled", temperature=0, max_completion_tokens=4,
        messages=[{"role": "user", "content": "你好"}, made.choices[0].message, {"role": "user", "content": "Count from 1 to 5."}],  # type: ignore[list-item]
    )  # fmt: skip
    assert again.usage is not None and again.usage.completion_tokens <= 4


def test_stream(schooled: openai.OpenAI) -> None:
    asked: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Count from 1 to 5."}]
    made = schooled.chat.completions.create(
        model="schooled", messages=asked, temperature=0, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(made)
    assert "".join(one.choices[0].delta.content or "" for one in chunks if one.choices) == "1, 2, 3, 4, 5"
    assert chunks[0].choices[0].delta.role == "assistant" and chunks[0].choices[0].delta.content is None
    assert [one.choices[0].finish_reason for one in chunks[-3:-1]] == [None, "stop"]
    assert chunks[-1].choices == [] and chunks[-1].usage is not None and all(one.usage is None for one in chunks[:-1])
    with schooled.chat.completions.stream(
        model="schooled", messages=asked, temperature=0
    ) as stream:  # the client puts it together
        texts = [event.delta for event in stream if event.type == "content.delta"]
        assert "".join(texts) == stream.get_final_completion().choices[0].message.content == "1, 2, 3, 4, 5"


def test_leaving_a_stream(roomy: Running) -> None:
    ends = {str(id_): -100 for id_ in roomy.models.get(MODEL).engine.stop_ids}
    with client_of(roomy) as ai:
        for _ in ai.chat.completions.create(model=MODEL, messages=ASKED, stream=True, logit_bias=ends, n=2, seed=1):
            break
    from test_replies import idle

    assert idle(roomy)


def test_completions(ai: openai.OpenAI) -> None:
    made = ai.completions.create(
        model=MODEL, prompt=["the llama", "羊驼"], max_tokens=5, n=2, seed=3, logprobs=2, echo=True
    )
    assert [one.index for one in made.choices] == [0, 1, 2, 3]
    assert [one.text[:2] for one in made.choices] == ["th", "th", "羊驼", "羊驼"]
    logs = made.choices[0].logprobs
    assert logs is not None and logs.tokens and logs.token_logprobs and len(logs.tokens) == len(logs.token_logprobs)
    text = "".join(
        one.choices[0].text
        for one in ai.completions.create(model=MODEL, prompt="the llama", max_tokens=5, seed=3, stream=True)
    )
    assert text == ai.completions.create(model=MODEL, prompt="the llama", max_tokens=5, seed=3).choices[0].text


def test_logprobs(ai: openai.OpenAI) -> None:
    made = ai.chat.completions.create(model=MODEL, messages=ASKED, max_tokens=5, logprobs=True, top_logprobs=3, seed=1)
    assert made.choices[0].logprobs is not None and made.choices[0].logprobs.content
    for one in made.choices[0].logprobs.content:
        assert one.bytes is not None and len(one.top_logprobs) == 3
        assert one.top_logprobs[0].logprob >= one.top_logprobs[1].logprob and one.logprob <= one.top_logprobs[0].logprob


def test_sampling(ai: openai.OpenAI) -> None:
    def ask(**fields: Any) -> list[str | None]:
        made = ai.chat.completions.create(model=MODEL, messages=ASKED, **{"max_tokens": 10, "seed": 5, **fields})
        return [one.message.content for one in made.choices]

    assert ask() == ask() and len(set(ask(n=3))) == 3 and ask(n=3)[0] == ask()[0]
    (text,) = ask(temperature=0, max_tokens=30)
    assert text is not None and ask(temperature=0, max_tokens=30, stop=text[3:5]) == [text[: text.index(text[3:5])]]
    assert len(set(ask(logit_bias={"65": 100}, max_tokens=6)[0] or "")) == 1
    assert ask(
        presence_penalty=1.5,
        frequency_penalty=0.5,
        temperature=0,
        extra_body={"top_k": 5, "min_p": 0.1, "repetition_penalty": 1.3},
    )


@pytest.mark.parametrize("asked", ["What's the weather like in San Francisco?", "旧金山天气怎么样？"])
def test_tools(schooled: openai.OpenAI, asked: str) -> None:
    fields: Any = {
        "model": "schooled",
        "messages": [{"role": "user", "content": asked}],
        "tools": TOOLS,
        "temperature": 0,
    }
    named = {"type": "function", "function": {"name": "get_weather"}}
    for choice in ("auto", "required", named):
        made = schooled.chat.completions.create(**fields, tool_choice=choice).choices[0]
        assert made.finish_reason == "tool_calls" and made.message.tool_calls
        (call,) = made.message.tool_calls
        assert call.type == "function" and call.function.name == "get_weather"
        assert "location" in json.loads(call.function.arguments)
        arguments, name = "", ""
        for chunk in schooled.chat.completions.create(**fields, tool_choice=choice, stream=True):
            for piece in chunk.choices[0].delta.tool_calls or ():
                assert piece.index == 0 and piece.function is not None
                name += piece.function.name or ""
                arguments += piece.function.arguments or ""
        assert (name, arguments) == (call.function.name, call.function.arguments)
    assert (
        schooled.chat.completions.create(**fields, tool_choice="none", max_tokens=5).choices[0].message.tool_calls
        is None
    )
    strict = [{"type": "function", "function": {**TOOLS[0]["function"], "strict": True}}]
    assert schooled.chat.completions.create(**{**fields, "tools": strict}).choices[0].message.tool_calls
    answered = [*fields["messages"], made.message, {"role": "tool", "tool_call_id": call.id, "content": "64 degrees"}]
    assert schooled.chat.completions.create(**{**fields, "messages": answered}, max_tokens=5).usage


class Llama(BaseModel):
    name: str
    age: int


def test_response_formats(ai: openai.OpenAI, schooled: openai.OpenAI) -> None:
    made = ai.chat.completions.create(
        model=MODEL, messages=ASKED, response_format={"type": "json_object"}, max_tokens=20, seed=1
    )
    assert (made.choices[0].message.content or "").startswith("{")
    asked: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Tell me of a llama."}]
    parsed = schooled.chat.completions.parse(model="schooled", messages=asked, response_format=Llama, temperature=0)
    assert parsed.choices[0].message.parsed == Llama(name="Lily", age=3)


def test_errors(ai: openai.OpenAI, server: Running) -> None:
    def ask(**fields: Any) -> None:
        ai.chat.completions.create(**{"model": MODEL, "messages": ASKED, "max_tokens": 2, **fields})

    with pytest.raises(openai.NotFoundError) as missing:
        ask(model="gpt-4")
    assert (missing.value.code, missing.value.param, missing.value.type) == (
        "model_not_found",
        "model",
        "invalid_request_error",
    )
    with pytest.raises(openai.BadRequestError) as long:
        ask(messages=[{"role": "user", "content": "草" * 600}], stream=True)
    assert long.value.code == "context_length_exceeded" and "512" in long.value.message
    for fields in ({"temperature": 3}, {"n": 100}, {"extra_body": {"functions": []}}, {"extra_body": {"no_such": 1}}):
        with pytest.raises(openai.BadRequestError) as wrong:
            ask(**fields)
        assert wrong.value.param in ("temperature", "n", "functions", "no_such")
    with client_of(server, "sk-wrong") as stranger, pytest.raises(openai.AuthenticationError) as denied:
        stranger.chat.completions.create(model=MODEL, messages=ASKED)
    assert denied.value.code == "invalid_api_key"
    with pytest.raises(openai.APIStatusError) as large:
        ask(messages=[{"role": "user", "content": "x" * (3 << 20)}])
    assert large.value.status_code == 413


def test_a_failure_within_a_stream_is_raised(roomy: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    from puna.engine.reply import Reply

    take, taken = Reply.take, [0]

    def fail(self: Reply, *args: Any, **kwargs: Any) -> Any:
        taken[0] += 1
        if taken[0] > 4:
            raise RuntimeError("a fault put in by the test")
        return take(self, *args, **kwargs)

    with client_of(roomy) as ai:
        ends = {str(id_): -100 for id_ in roomy.models.get(MODEL).engine.stop_ids}
        monkeypatch.setattr(Reply, "take", fail)
        with pytest.raises(openai.APIError) as failed:
            list(ai.chat.completions.create(model=MODEL, messages=ASKED, stream=True, logit_bias=ends))
        assert (
            "fault" not in str(failed.value) and failed.value.code == "engine_failed"
        )  # the log has the story, the client has not
        with pytest.raises(openai.InternalServerError):
            ai.chat.completions.create(model=MODEL, messages=ASKED, logit_bias=ends)
        monkeypatch.undo()
        assert ai.chat.completions.create(model=MODEL, messages=ASKED, max_tokens=3).choices
