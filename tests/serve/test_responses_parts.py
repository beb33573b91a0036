"""What a response is made of, without a server: the store, a conversation's turns, the events of a reply however it is cut."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests_serve_events import wrong_events
from tests_serve_schooled import CALL, WEATHER

from puna.engine.request import Delta, TokenLogprob
from puna.serve.errors import ApiError
from puna.serve.responses_events import Making
from puna.serve.responses_fields import ResponseRequest
from puna.serve.responses_items import Called, Result, Said, check_calls, messages_of, size_of, turns_made, turns_of
from puna.serve.responses_store import Store, new_id
from puna.serve.tools import CallReader


class Clock:
    """Time that goes on when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def response(id_: str, text: str = "") -> dict[str, Any]:
    return {"id": id_, "text": text}


def gone(store: Store, *ids: str) -> bool:
    for id_ in ids:
        with pytest.raises(ApiError) as error:
            store.get(id_)
        assert error.value.status == 404
    return True


def test_the_store_keeps_so_many() -> None:
    store = Store(3, 1 << 20, 60)
    for number in range(5):
        store.keep(response(f"r{number}"), (Said("user", "羊驼"),))
    assert len(store) == 3 and gone(store, "r0", "r1")
    assert store.get("r4").conversation == (Said("user", "羊驼"),)


def test_the_store_keeps_so_many_bytes() -> None:
    store = Store(1000, 50_000, 60)
    for number in range(30):
        store.keep(
            response(f"r{number}", "驼" * 1000),
            (Said("user", "x" * 2000), Called("c", "f", "{}"), Result("c", "y" * 100)),
        )
        assert store.bytes <= 50_000
    assert 5 < len(store) < 10 and gone(store, "r0") and store.get("r29")
    store.keep(response("large", "x" * 60_000), ())
    assert gone(store, "large") and store.get("r29")  # what is too large does not drive the others out
    for number in range(30):
        try:
            store.delete(f"r{number}")
        except ApiError:
            continue
    assert (len(store), store.bytes) == (0, 0)


def test_the_store_keeps_so_long() -> None:
    clock = Clock()
    store = Store(10, 1 << 20, 60, clock)
    store.keep(response("old"), ())
    clock.now += 40
    store.keep(response("new"), ())
    assert store.get("old") and len(store) == 2
    clock.now += 30
    assert gone(store, "old") and store.get("new") and len(store) == 1
    clock.now += 31
    assert (len(store), store.bytes) == (0, 0)


def test_ids_are_not_guessed() -> None:
    ids = {new_id("resp") for _ in range(1000)}
    assert len(ids) == 1000 and all(len(id_) == len("resp_") + 48 for id_ in ids)


def test_a_conversation_in_turns_and_messages() -> None:
    body = ResponseRequest.model_validate({
        "model": "m",
        "input": [
            {"role": "developer", "content": "短"},
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]},
            {"type": "reasoning", "id": "rs", "summary": [], "encrypted_content": "x"},
            {"type": "message", "role": "assistant", "id": "msg", "status": "completed",
             "content": [{"type": "output_text", "text": "c", "annotations": [], "logprobs": []}, {"type": "refusal", "refusal": "d"}]},
            {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}", "id": "fc", "status": "completed"},
            {"type": "function_call", "call_id": "2", "name": "g", "arguments": '{"x": 1}'},
            {"type": "function_call_output", "call_id": "2", "output": [{"type": "input_text", "text": "two"}]},
            {"type": "function_call_output", "call_id": "1", "output": "one"},
            {"type": "function_call", "call_id": "3", "name": "f", "arguments": "{}"},
        ],
    })  # fmt: skip
    turns = turns_of(body)
    assert turns == (Said("system", "短"), Said("user", "ab"), Said("assistant", "cd"), Called("1", "f", "{}"), Called("2", "g", '{"x": 1}'),
                     Result("2", "two"), Result("1", "one"), Called("3", "f", "{}"))  # fmt: skip
    check_calls(turns)
    messages = messages_of(turns, "be brief")
    assert [one["role"] for one in messages] == ["system", "system", "user", "assistant", "tool", "tool", "assistant"]
    assert messages[3]["content"] == "cd" and [call["id"] for call in messages[3]["tool_calls"]] == ["1", "2"]
    assert messages[6]["content"] is None and messages[4]["tool_call_id"] == "2"
    assert size_of(turns) > sum(len(turn.text.encode()) for turn in turns if isinstance(turn, Said))
    with pytest.raises(ApiError, match="'2'"):
        check_calls((*turns[:4], *turns[5:]))


def test_an_input_of_nothing_has_no_turns() -> None:
    assert turns_of(ResponseRequest(model="m")) == () and turns_of(ResponseRequest(model="m", input="")) == (
        Said("user", ""),
    )


def log(logprobs: Any) -> list[dict[str, Any]]:
    return [{"token": str(one.id), "logprob": one.logprob, "bytes": [one.id], "top_logprobs": []} for one in logprobs]


TEXTS = ["", "plain", "两个字", f"before\n{CALL.text()}", CALL.text(), f"{CALL.text()}\n{CALL.text()}", f"{CALL.text()} and after",
         f"<tool_call>no call</tool_call> {CALL.text()}", "<tool_call>cut", "  \n ", CALL.text().removesuffix("</tool_call>")]  # fmt: skip


@given(
    st.sampled_from(TEXTS),
    st.lists(st.integers(0, 120), max_size=8),
    st.sampled_from(["stop", "length"]),
    st.booleans(),
)
def test_events_add_up_however_the_reply_is_cut(text: str, cuts: list[int], reason: str, logged: bool) -> None:
    """Whatever comes in a step, the events are in order, and the output is the same."""
    whole = _made([text], reason, logged)
    places = sorted({0, *(min(cut, len(text)) for cut in cuts), len(text)})
    cut = _made([text[start:end] for start, end in zip(places, places[1:], strict=False)], reason, logged)
    assert wrong_events(whole) == [] and wrong_events(cut) == []
    first, second = whole[-1]["response"], cut[-1]["response"]
    assert turns_made(_without_ids(first)) == turns_made(_without_ids(second))
    assert first["status"] == ("incomplete" if reason == "length" else "completed")
    assert first["output"]


def _made(pieces: list[str], reason: str, logged: bool) -> list[dict[str, Any]]:
    body = ResponseRequest(model="m", tools=[WEATHER])  # type: ignore[list-item]
    making = Making(body, "m", 5, CallReader(["get_weather"]), log if logged else None)
    events = list(making.begin())
    for number, piece in enumerate(pieces):
        events += making.push(Delta((number,), piece, (TokenLogprob(number, -0.5),)))
    return [*events, *making.finish(reason)]


def _without_ids(made: dict[str, Any]) -> list[dict[str, Any]]:
    return [{**item, "call_id": ""} for item in made["output"]]


def test_an_event_does_not_change_after_it_was_given() -> None:
    body = ResponseRequest(model="m")
    making = Making(body, "m", 5, CallReader([]), log)
    events = list(making.begin(2))
    before = repr(events)
    added = list(making.push(Delta((7,), "text", (TokenLogprob(7, -0.5),), cached_tokens=2)))
    shown = repr(added)
    list(making.push(Delta((8,), " more", (TokenLogprob(8, -0.5),))))
    list(making.finish("stop"))
    assert repr(events) == before and repr(added) == shown
    assert making.response["usage"]["input_tokens_details"] == {"cached_tokens": 2, "cache_write_tokens": 3}
