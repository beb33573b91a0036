"""An OpenAI stream read strictly: what the contract says of every stream is checked wherever one is read."""

import json
from dataclasses import dataclass, field
from typing import Any

import httpx2 as httpx


def events_of(response: httpx.Response) -> list[dict[str, Any]]:
    """The chunks of a whole stream, which ends with [DONE]."""
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream") and "content-length" not in response.headers
    body = response.content.decode()
    assert body.endswith("data: [DONE]\n\n")
    blocks = body.removesuffix("\n\n").split("\n\n")
    assert all(block.startswith("data: ") and len(block.splitlines()) == 1 for block in blocks)
    return [json.loads(block.removeprefix("data: ")) for block in blocks[:-1]]


@dataclass
class Told:
    """One choice of a stream, put together. Of a text completion `text` alone."""

    text: str = ""
    calls: list[dict[str, Any]] = field(default_factory=list)
    logprobs: list[dict[str, Any]] = field(default_factory=list)
    finish_reason: str | None = None


def put_together(chunks: list[dict[str, Any]], *, usage: bool = False) -> list[Told]:
    """The choices of a chat stream; every rule of the contract is asserted."""
    assert (
        len({(one["id"], one["created"], one["model"], one["object"], one.get("system_fingerprint")) for one in chunks})
        == 1
    )
    if usage:
        assert chunks[-1]["choices"] == [] and chunks[-1]["usage"]["total_tokens"] > 0
        assert all(one["usage"] is None for one in chunks[:-1])
        chunks = chunks[:-1]
    else:
        assert all("usage" not in one for one in chunks)
    told: dict[int, Told] = {}
    for chunk in chunks:
        (choice,) = chunk["choices"]
        delta = choice.get("delta", {"content": choice.get("text")})
        number = choice["index"]
        if number not in told:
            told[number] = Told()
            if chunk["object"] == "chat.completion.chunk":
                assert delta == {"role": "assistant", "content": None} and choice["finish_reason"] is None
                continue
        own = told[number]
        assert own.finish_reason is None and "role" not in delta
        if choice["finish_reason"] is not None:
            assert delta in ({}, {"content": ""}) and choice["logprobs"] is None
            own.finish_reason = choice["finish_reason"]
            continue
        own.text += delta.get("content") or ""
        for call in delta.get("tool_calls", ()):
            if call["index"] == len(own.calls):
                assert set(call) == {"index", "id", "type", "function"} and call["type"] == "function"
                own.calls.append({"id": call["id"], "type": "function", "function": dict(call["function"])})
            else:
                assert call["index"] == len(own.calls) - 1 and set(call["function"]) == {"arguments"}
                own.calls[-1]["function"]["arguments"] += call["function"]["arguments"]
        if choice["logprobs"] is not None:
            logs = choice["logprobs"]
            own.logprobs += logs.get("content", [logs])
    assert sorted(told) == list(range(len(told))) and all(one.finish_reason for one in told.values())
    return [told[number] for number in sorted(told)]
