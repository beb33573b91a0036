"""What the Open Responses specification (2026-04-24) asks of a response and of the events of a stream, as checks of our own.

In: JSON. Out: what is wrong with it, in words. The fields, their types and the order of events are the specification's (Apache-2.0);
nothing of its code is here.
"""

import json
from collections.abc import Iterable
from typing import Any

TEXT, WHOLE, NUMBER, YES, LIST, OBJECT, NONE = str, int, (int, float), bool, list, dict, type(None)
RESPONSE: dict[str, Any] = {
    "id": TEXT, "object": TEXT, "created_at": WHOLE, "completed_at": (WHOLE, NONE), "status": TEXT, "incomplete_details": (OBJECT, NONE),
    "model": TEXT, "previous_response_id": (TEXT, NONE), "instructions": (TEXT, NONE), "output": LIST, "error": (OBJECT, NONE),
    "tools": LIST, "tool_choice": (TEXT, OBJECT), "truncation": TEXT, "parallel_tool_calls": YES, "text": OBJECT, "top_p": NUMBER,
    "presence_penalty": NUMBER, "frequency_penalty": NUMBER, "top_logprobs": WHOLE, "temperature": NUMBER, "reasoning": (OBJECT, NONE),
    "usage": (OBJECT, NONE), "max_output_tokens": (WHOLE, NONE), "max_tool_calls": (WHOLE, NONE), "store": YES, "background": YES,
    "service_tier": TEXT, "metadata": OBJECT, "safety_identifier": (TEXT, NONE), "prompt_cache_key": (TEXT, NONE),
}  # fmt: skip
MESSAGE = {"id": TEXT, "type": TEXT, "status": TEXT, "role": TEXT, "content": LIST}
CALL = {"id": TEXT, "type": TEXT, "status": TEXT, "call_id": TEXT, "name": TEXT, "arguments": TEXT}
PART = {"type": TEXT, "text": TEXT, "annotations": LIST, "logprobs": LIST}
LOGPROB = {"token": TEXT, "logprob": NUMBER, "bytes": LIST}
USAGE = {"input_tokens": WHOLE, "output_tokens": WHOLE, "total_tokens": WHOLE, "input_tokens_details": OBJECT,
         "output_tokens_details": OBJECT}  # fmt: skip
TOOL = {"type": TEXT, "name": TEXT, "description": (TEXT, NONE), "parameters": (OBJECT, NONE), "strict": (YES, NONE)}
STATUSES = ("in_progress", "completed", "incomplete")
_PLACE = {"item_id": TEXT, "output_index": WHOLE}
_PARTS = {**_PLACE, "content_index": WHOLE}
EVENTS: dict[str, dict[str, Any]] = {
    **{
        f"response.{name}": {"response": OBJECT}
        for name in ("created", "in_progress", "completed", "incomplete", "failed")
    },
    "response.output_item.added": {"output_index": WHOLE, "item": OBJECT},
    "response.output_item.done": {"output_index": WHOLE, "item": OBJECT},
    "response.content_part.added": {**_PARTS, "part": OBJECT},
    "response.content_part.done": {**_PARTS, "part": OBJECT},
    "response.output_text.delta": {**_PARTS, "delta": TEXT, "logprobs": LIST},
    "response.output_text.done": {**_PARTS, "text": TEXT, "logprobs": LIST},
    "response.function_call_arguments.delta": {**_PLACE, "delta": TEXT},
    "response.function_call_arguments.done": {**_PLACE, "arguments": TEXT},
    "error": {"error": OBJECT},
}
ENDS = ("response.completed", "response.incomplete", "response.failed")


def wrong_fields(value: dict[str, Any], fields: dict[str, Any], where: str) -> list[str]:
    """Fields that are missing or of another type. A truth value is no number."""
    found = []
    for name, kinds in fields.items():
        wanted = kinds if isinstance(kinds, tuple) else (kinds,)
        if name not in value:
            found.append(f"{where}.{name} is missing")
        elif not isinstance(value[name], wanted) or (isinstance(value[name], bool) and bool not in wanted):
            found.append(f"{where}.{name} is {value[name]!r}")
    return found


def wrong_item(item: dict[str, Any], where: str) -> list[str]:
    found = wrong_fields(item, CALL if item.get("type") == "function_call" else MESSAGE, where)
    if item.get("status") not in STATUSES:
        found.append(f"{where}.status is {item.get('status')}")
    for number, part in enumerate(item.get("content", [])):
        found += wrong_fields(part, PART, f"{where}.content[{number}]")
        for entry in part.get("logprobs", []):
            found += wrong_fields(entry, {**LOGPROB, "top_logprobs": LIST}, f"{where}.logprobs")
            found += [
                wrong for top in entry["top_logprobs"] for wrong in wrong_fields(top, LOGPROB, f"{where}.top_logprobs")
            ]
    return found


def wrong_response(response: dict[str, Any]) -> list[str]:
    """What is wrong with a response object."""
    found = wrong_fields(response, RESPONSE, "response")
    for number, item in enumerate(response.get("output", [])):
        found += wrong_item(item, f"output[{number}]")
    for tool in response.get("tools", []):
        found += wrong_fields(tool, TOOL, "tools")
    if response.get("usage") is not None:
        found += wrong_fields(response["usage"], USAGE, "usage")
    ends = [item["status"] == "incomplete" for item in response.get("output", [])]
    if any(ends[:-1]) or (any(ends) and response["status"] not in ("incomplete", "failed")):
        found.append("an incomplete item is not the last one, or its response is not incomplete")
    return found


def parsed(body: str) -> list[dict[str, Any]]:
    """The events of a stream's body. Raises AssertionError where it is not as the specification has server-sent events."""
    blocks = body.split("\n\n")
    assert blocks[-1] == "" and blocks[-2] == "data: [DONE]", "the stream does not end with [DONE]"
    events = []
    for block in blocks[:-2]:
        lines = block.split("\n")
        assert len(lines) == 2 and lines[0].startswith("event: ") and lines[1].startswith("data: "), block
        events.append(json.loads(lines[1][6:]))
        assert events[-1]["type"] == lines[0][7:], "the event's name is not its type"
    return events


def wrong_events(events: Iterable[dict[str, Any]]) -> list[str]:
    """What is wrong with a stream: fields, numbers, order, and whether its parts add up to the response at its end."""
    events, found = list(events), []
    for number, event in enumerate(events):
        kind = event["type"]
        if kind not in EVENTS:
            found.append(f"event {number}: {kind} is unknown")
            continue
        found += wrong_fields(event, EVENTS[kind], f"event {number} {kind}")
        if event.get("sequence_number") != number:
            found.append(f"event {number}: sequence_number is {event.get('sequence_number')}")
        if "response" in event:
            found += wrong_response(event["response"])
        if "item" in event:
            found += wrong_item(event["item"], f"event {number}")
    if [event["type"] for event in events[:2]] != ["response.created", "response.in_progress"]:
        found.append("the stream does not begin with created and in_progress")
    if [event["type"] in ENDS for event in events] != [False] * (len(events) - 1) + [True]:
        found.append("the last event and it alone ends the response")
    return found or _wrong_order(events)


def _wrong_order(events: list[dict[str, Any]]) -> list[str]:
    items: list[list[dict[str, Any]]] = []
    for event in events:
        if "output_index" not in event:
            continue
        if event["type"] == "response.output_item.added":
            items.append([])
        if event["output_index"] != len(items) - 1:
            return [f"{event['type']} is of item {event['output_index']}, and {len(items) - 1} is the one in work"]
        items[-1].append(event)
    found = []
    for own, final in zip(items, events[-1]["response"]["output"], strict=True):
        kinds = [event["type"].removeprefix("response.") for event in own]
        inner = kinds[2:-3] if final["type"] == "message" else kinds[1:-2]
        call = [
            "output_item.added",
            "function_call_arguments.delta",
            "function_call_arguments.done",
            "output_item.done",
        ]
        said = ["output_item.added", "content_part.added", "output_text.done", "content_part.done", "output_item.done"]
        delta, frame = ("output_text.delta", said) if final["type"] == "message" else (call[1], [call[0], *call[2:]])
        rest = [kind for kind in kinds if kind != delta]
        if rest != frame or set(inner) - {delta}:
            found.append(f"the events of a {final['type']} come as {kinds}")
        joined = "".join(event["delta"] for event in own if "delta" in event)
        whole = final["arguments"] if final["type"] == "function_call" else final["content"][0]["text"]
        if joined != whole or own[-1]["item"] != final or own[0]["item"]["status"] != "in_progress":
            found.append(f"the pieces do not add up to {final}")
        if any(event.get("item_id", final["id"]) != final["id"] for event in own):
            found.append("an event names another item")
    return found
