"""A response while it comes into being: a state machine whose every change is an event (Open Responses, "Semantic events").

In: what became certain in each step of a reply. Out: events in order, and the response object as it stands. Must never happen: an event
out of its place (a delta before its item, an item that is never done), or a stream whose deltas do not add up to the response.

The order: response.created, response.in_progress; for each message output_item.added, content_part.added, output_text.delta ...,
output_text.done, content_part.done, output_item.done; for each call output_item.added, function_call_arguments.delta, .done,
output_item.done; at last response.completed, .incomplete or .failed.
"""

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from puna.engine.request import Delta, TokenLogprob
from puna.serve.errors import ApiError
from puna.serve.responses_fields import AllowedTools, JsonSchemaFormat, ResponseRequest, ToolChoice
from puna.serve.responses_store import new_id
from puna.serve.tools import Call, CallReader

Event = dict[str, Any]


class Making:
    """One response. Give it deltas, then `finish` or `fail`; `response` is the object as it stands.

    `prompt`: tokens of the prompt. `reader` finds calls in the text. `logprobs`: how a token's log-probability is written, or None
    where none are wanted.
    """

    def __init__(
        self, body: ResponseRequest, model: str, prompt: int, reader: CallReader,
        logprobs: Callable[[Sequence[TokenLogprob]], list[dict[str, Any]]] | None,
    ) -> None:  # fmt: skip
        self._reader, self._logprobs = reader, logprobs
        self._prompt, self._made, self._cached = prompt, 0, 0
        self._message: dict[str, Any] | None = None
        self._waiting: list[dict[str, Any]] = []  # log-probabilities of tokens whose text is not certain yet
        self._numbers = 0
        self.response = _begun(body, model)

    @property
    def output(self) -> list[dict[str, Any]]:
        """The items so far."""
        items: list[dict[str, Any]] = self.response["output"]
        return items

    def begin(self, cached: int = 0) -> Iterator[Event]:
        """The first events. `cached`: how many of the prompt's tokens were found in the cache."""
        self._cached = cached
        self.response["usage"] = self._usage()  # OpenAI's description knows no null here
        for kind in ("created", "in_progress"):
            yield self._event(f"response.{kind}", response=self._snapshot())

    def push(self, delta: Delta) -> Iterator[Event]:
        """What one step brought."""
        self._made += len(delta.ids)
        self._cached = self._cached or delta.cached_tokens  # only the first delta has them
        if self._logprobs is not None:
            self._waiting += self._logprobs(delta.logprobs)
        yield from self._add(self._reader.push(delta.text))

    def finish(self, finish_reason: str | None) -> Iterator[Event]:
        """The last events of a reply that ended by itself ("stop") or because it was long enough ("length")."""
        yield from self._add(self._reader.finish())
        cut = finish_reason == "length"
        if self._waiting and self._message is not None:
            yield from self._text("")
        if not self.output:
            yield from self._open()
        yield from self._close("incomplete" if cut else "completed")
        self.response["usage"] = self._usage()
        if cut:
            self.response["incomplete_details"] = {"reason": "max_output_tokens"}
        else:
            self.response["completed_at"] = int(time.time())
        yield self._end("incomplete" if cut else "completed")

    def fail(self, error: ApiError) -> Iterator[Event]:
        """The last events of a reply that could not be finished. The error is told first, in OpenAI's form and in Open Responses'."""
        told = error.body()["error"]
        yield self._event("error", **{key: told[key] for key in ("code", "message", "param")}, error=told)
        for item in self.output:
            item["status"] = "completed" if item["status"] == "completed" else "incomplete"
        self.response["error"] = {"code": "server_error", "message": told["message"]}
        self.response["usage"] = self._usage()
        yield self._end("failed")

    # Items

    def _add(self, pieces: Sequence[str | Call]) -> Iterator[Event]:
        for piece in pieces:
            if isinstance(piece, str):
                yield from self._text(piece)
            else:
                yield from self._call(piece)

    def _text(self, text: str) -> Iterator[Event]:
        if self._message is None:
            yield from self._open()
        part = self._part()
        entries, self._waiting = self._waiting, []
        part["text"] += text
        part["logprobs"] += entries
        yield self._in_part("response.output_text.delta", delta=text, logprobs=entries)

    def _open(self) -> Iterator[Event]:
        self._message = {
            "id": new_id("msg"),
            "type": "message",
            "status": "in_progress",
            "role": "assistant",
            "content": [],
        }
        self.output.append(self._message)
        yield self._of_item("response.output_item.added")
        self._message["content"].append({"type": "output_text", "text": "", "annotations": [], "logprobs": []})
        yield self._in_part("response.content_part.added", part=copy.deepcopy(self._part()))

    def _close(self, status: str) -> Iterator[Event]:
        if self._message is None:
            return
        part = self._part()
        yield self._in_part("response.output_text.done", text=part["text"], logprobs=part["logprobs"])
        yield self._in_part("response.content_part.done", part=part)
        self._message["status"] = status
        yield self._of_item("response.output_item.done")
        self._message = None

    def _call(self, call: Call) -> Iterator[Event]:
        yield from self._close("completed")
        self._waiting = []  # they are of the call's tokens, which are no text
        item = {"id": new_id("fc"), "type": "function_call", "status": "in_progress", "call_id": call.id, "name": call.name,
                "arguments": ""}  # fmt: skip
        self.output.append(item)
        yield self._of_item("response.output_item.added")
        place = {"item_id": item["id"], "output_index": len(self.output) - 1}
        item["arguments"] = call.arguments
        yield self._event("response.function_call_arguments.delta", **place, delta=call.arguments)
        yield self._event("response.function_call_arguments.done", **place, name=call.name, arguments=call.arguments)
        item["status"] = "completed"
        yield self._of_item("response.output_item.done")

    def _part(self) -> dict[str, Any]:
        part: dict[str, Any] = self.output[-1]["content"][0]
        return part

    # Events

    def _event(self, kind: str, **fields: Any) -> Event:
        number, self._numbers = self._numbers, self._numbers + 1
        return {"type": kind, "sequence_number": number, **fields}

    def _of_item(self, kind: str) -> Event:
        return self._event(kind, output_index=len(self.output) - 1, item=copy.deepcopy(self.output[-1]))

    def _in_part(self, kind: str, **fields: Any) -> Event:
        place = {"item_id": self.output[-1]["id"], "output_index": len(self.output) - 1, "content_index": 0}
        return self._event(kind, **place, **fields)

    def _end(self, status: str) -> Event:
        self.response["status"] = status
        return self._event(f"response.{status}", response=self._snapshot())

    def _snapshot(self) -> dict[str, Any]:
        return copy.deepcopy(self.response)

    def _usage(self) -> dict[str, Any]:
        return {
            "input_tokens": self._prompt,
            "input_tokens_details": {"cached_tokens": self._cached, "cache_write_tokens": self._prompt - self._cached},
            "output_tokens": self._made,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": self._prompt + self._made,
        }


def _begun(body: ResponseRequest, model: str) -> dict[str, Any]:
    """The response object at its beginning, with what the request said or left to the defaults."""
    text = body.text.format if body.text is not None else None
    return {
        "id": new_id("resp"),
        "object": "response",
        "created_at": int(time.time()),
        "completed_at": None,
        "status": "in_progress",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "max_tool_calls": body.max_tool_calls,
        "model": model,
        "output": [],
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "presence_penalty": body.presence_penalty or 0.0,
        "frequency_penalty": body.frequency_penalty or 0.0,
        "previous_response_id": body.previous_response_id,
        "prompt_cache_key": body.prompt_cache_key,
        "reasoning": {"effort": None, "summary": None},
        "safety_identifier": body.safety_identifier,
        "service_tier": "default",
        "store": body.store is not False,
        "temperature": 1.0 if body.temperature is None else body.temperature,
        "text": {"format": {"type": "text"} if text is None else _format(text)},
        "tool_choice": _choice(body.tool_choice),
        "tools": [tool.model_dump() for tool in body.tools or ()],
        "top_logprobs": body.top_logprobs or 0,
        "top_p": 1.0 if body.top_p is None else body.top_p,
        "truncation": body.truncation or "disabled",
        "usage": None,
        "metadata": body.metadata or {},
        **({} if body.user is None else {"user": body.user}),
    }


def _choice(choice: ToolChoice | None) -> str | dict[str, Any]:
    if choice is None or isinstance(choice, str):
        return choice or "auto"
    told = choice.model_dump()
    return {**told, "mode": told["mode"] or "auto"} if isinstance(choice, AllowedTools) else told


def _format(text: Any) -> dict[str, Any]:
    told: dict[str, Any] = text.model_dump(by_alias=True, exclude_none=True)
    return {**told, "strict": True} if isinstance(text, JsonSchemaFormat) else told
