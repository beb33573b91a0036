"""Calls out of text, however it is cut; shapes that make them certain; what the model is told."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from puna.engine import Engine
from puna.engine.request import Shape
from puna.errors import PunaError
from puna.serve.prompts import turns
from puna.serve.tools import Call, CallReader, Offer, Tool, told

WEATHER = Tool("get_weather", "天气", {"type": "object", "properties": {"city": {"enum": ["Lima", "北京"]}, "days": {"type": "integer"}},
                                      "required": ["city"], "additionalProperties": False})  # fmt: skip
CLOCK = Tool("clock")
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "北京"}}\n</tool_call>'
TICK = '<tool_call>\n{"name": "clock", "arguments": {}}\n</tool_call>'


def read(*pieces: str, names: tuple[str, ...] = ("get_weather", "clock")) -> tuple[str, list[tuple[str, Any]]]:
    """The text and the calls of a reply that comes in these pieces."""
    reader = CallReader(names)
    parts = [part for piece in pieces for part in reader.push(piece)] + reader.finish()
    calls = [part for part in parts if isinstance(part, Call)]
    assert reader.calls == len(calls)
    return "".join(part for part in parts if isinstance(part, str)), [
        (one.name, json.loads(one.arguments)) for one in calls
    ]


BEIJING = ("get_weather", {"city": "北京"})


@pytest.mark.parametrize(
    ("text", "shown", "calls"),
    [
        ("no call 没有", "no call 没有", []),
        (CALL, "", [BEIJING]),
        (f"好的。\n\n{CALL}\n", "好的。", [BEIJING]),
        (f"\n{CALL}\n{TICK}\n", "", [BEIJING, ("clock", {})]),
        (f"{CALL}\n then text", "then text", [BEIJING]),
        ("a < b <tool> <tool_cal", "a < b <tool> <tool_cal", []),
        ("  \n", "  \n", []),
        (CALL.removesuffix("</tool_call>"), "", [BEIJING]),  # the end came before the mark
        (CALL[:40], CALL[:40], []),  # and before the object was whole
        ("x <tool_call>[1]</tool_call> y", "x <tool_call>[1]</tool_call> y", []),
        ('<tool_call>{"name": "rm", "arguments": {}}</tool_call>', '<tool_call>{"name": "rm", "arguments": {}}</tool_call>', []),
        ('<tool_call>{"name": ["clock"]}</tool_call>', '<tool_call>{"name": ["clock"]}</tool_call>', []),
        ('<tool_call>{"name": "clock", "arguments": [1]}</tool_call>', '<tool_call>{"name": "clock", "arguments": [1]}</tool_call>', []),
        ('<tool_call>{"name": "clock", "arguments": {"a": NaN}}</tool_call>', '<tool_call>{"name": "clock", "arguments": {"a": NaN}}</tool_call>', []),
        ('<tool_call>{"name": "clock", "arguments": {"a": 1e999}}</tool_call>', '<tool_call>{"name": "clock", "arguments": {"a": 1e999}}</tool_call>', []),
        ('<tool_call>{"name": "clock", "arguments": {"a": "\\ud800"}}</tool_call>', '<tool_call>{"name": "clock", "arguments": {"a": "\\ud800"}}</tool_call>', []),
        ('<tool_call>{"name": "clock", "arguments": "{\\"a\\": 1}"}</tool_call>', "", [("clock", {"a": 1})]),
        ('<tool_call>{"name": "clock"}</tool_call>', "", [("clock", {})]),
        ('<tool_call>{"name": "clock", "arguments": {"a": "</tool_call> 中"}}</tool_call>', "", [("clock", {"a": "</tool_call> 中"})]),
        (f"<tool_call>bad</tool_call> {TICK}", "<tool_call>bad</tool_call>", [("clock", {})]),
        ("<tool_call>" + "[" * 100_000 + "</tool_call>", "<tool_call>" + "[" * 100_000 + "</tool_call>", []),
    ],
    ids=range(21),
)  # fmt: skip
def test_what_is_read(text: str, shown: str, calls: list[tuple[str, Any]]) -> None:
    assert read(text) == (shown, calls)
    if len(text) < 1000:
        assert read(*text) == (shown, calls)


def test_without_tools_all_is_text() -> None:
    assert read(f"\n{CALL}\n", names=()) == (f"\n{CALL}\n", [])


def test_text_is_shown_as_soon_as_it_is_certain() -> None:
    reader = CallReader(["clock"])
    assert [reader.push(piece) for piece in ("Hello", " wor", "ld <", "b> ", "<tool_", "box>")] == [
        ["Hello"], [" wor"], ["ld"], [" <b>"], [], [" <tool_box>"],
    ]  # fmt: skip


PIECES = [
    "<tool_call>",
    "</tool_call>",
    "\n",
    " ",
    '{"name": "clock", "arguments": {',
    '"a": "',
    '"',
    "}}",
    "<",
    "tool",
    "x",
    "羊驼",
    CALL,
    TICK,
]


@given(st.lists(st.sampled_from(PIECES), max_size=12), st.randoms(use_true_random=False))
def test_the_cut_does_not_matter(parts: list[str], chance: random.Random) -> None:
    text = "".join(parts)
    places = sorted(chance.randrange(len(text) + 1) for _ in range(chance.randrange(6)))
    pieces = [text[start:end] for start, end in zip([0, *places], [*places, len(text)], strict=True)]
    assert read(*pieces) == read(text)


def test_what_the_model_is_told() -> None:
    text = told([WEATHER, CLOCK])
    lines = text.split("<tools>\n")[1].split("\n</tools>")[0].splitlines()
    assert [json.loads(line)["function"]["name"] for line in lines] == ["get_weather", "clock"]
    assert "天气" in text and told([]) == ""


def test_turns() -> None:
    called = {"id": "call_1", "type": "function", "function": {"name": "clock", "arguments": "{}"}}
    made = turns(
        [
            {"role": "system", "content": "Be kind."},
            {"role": "user", "content": [{"type": "text", "text": "几"}, {"type": "text", "text": "点？"}]},
            {"role": "assistant", "content": "I look.", "tool_calls": [called, called]},
            {"role": "tool", "content": "12:00", "tool_call_id": "call_1"},
            {"role": "tool", "content": "十二点", "tool_call_id": "call_1"},
            {"role": "developer", "content": "Be brief."},
            {"role": "assistant", "content": None, "tool_calls": [called]},
        ],
        [CLOCK],
    )
    assert [one["role"] for one in made] == ["system", "user", "assistant", "user", "assistant"]
    assert made[0]["content"].startswith("Be kind.\n\nBe brief.\n\n# Tools")
    assert made[1]["content"] == "几点？"
    assert made[2]["content"] == f"I look.\n{TICK}\n{TICK}"
    assert made[3]["content"] == "<tool_response>\n12:00\n</tool_response>\n<tool_response>\n十二点\n</tool_response>"
    assert made[4]["content"] == TICK


def test_offers() -> None:
    offer = Offer((WEATHER, CLOCK))
    assert offer.shape() is None and Offer().shape() is None
    answer = Shape(json_schema={"type": "object"})
    assert Offer().shape(answer) is answer
    assert offer.only(["clock"], must=True) == Offer((CLOCK,), must=True)
    for make in (lambda: Offer((CLOCK, CLOCK)), lambda: Offer((), must=True), lambda: offer.only(["rm"], must=False),
                 lambda: Tool("x", parameters={"type": "string"})):  # fmt: skip
        with pytest.raises(PunaError):
            make()


@pytest.fixture(scope="module")
def follows(tiny_release: Path) -> Callable[[Shape | None, str], str]:
    """How far a text follows a shape: "all" (and may end there), "more" (and must go on), or "no"."""
    engine = Engine.load(tiny_release, device="cpu")

    def check(shape: Shape | None, text: str) -> str:
        assert shape is not None
        state = engine.constraints.start(shape)
        for id_ in engine.tokenizer.encode(text):
            if not state.mask()[id_]:
                return "no"
            state.take(id_)
        return "all" if state.complete else "more"

    return check


STRICT = Tool("get_weather", "天气", WEATHER.parameters, strict=True)


@pytest.mark.parametrize(
    ("offer", "answer", "text", "result"),
    [
        (Offer((WEATHER, CLOCK), must=True), None, CALL, "all"),
        (Offer((WEATHER, CLOCK), must=True), None, f"{CALL}\n{TICK}", "all"),
        (Offer((WEATHER, CLOCK), must=True, parallel=False), None, f"{CALL}\n{TICK}", "no"),
        (Offer((WEATHER, CLOCK), must=True, parallel=False), None, CALL, "all"),
        (Offer((CLOCK,), must=True), None, CALL, "no"),
        (Offer((WEATHER,), must=True), None, CALL[:30], "more"),
        (Offer((WEATHER,), must=True), None, CALL.replace("北京", "Cusco"), "no"),
        (Offer((WEATHER,), must=True), None, "Hello", "no"),
        (Offer((WEATHER,)), True, '{"a": 1}', "all"),
        (Offer((WEATHER,)), True, CALL, "all"),
        (Offer((WEATHER,)), True, "Hello", "no"),
        (Offer((STRICT, CLOCK)), None, "Hello 你好 <tool> ", "all"),
        (Offer((STRICT, CLOCK)), None, f"Hello {CALL} and {TICK} so", "all"),
        (Offer((STRICT, CLOCK)), None, "Hello <tool_call>\n{}", "no"),
        (Offer((STRICT, CLOCK)), None, CALL.replace("北京", "Cusco"), "no"),
        (Offer((STRICT, CLOCK), parallel=False), None, CALL, "all"),
        (Offer((STRICT, CLOCK), parallel=False), None, f"{CALL} so", "no"),
    ],
    ids=range(17),
)  # fmt: skip
def test_shapes(
    follows: Callable[[Shape | None, str], str], offer: Offer, answer: object, text: str, result: str
) -> None:
    shape = offer.shape(
        Shape(json_schema={"type": "object", "properties": {"a": {"type": "integer"}}}) if answer else None
    )
    assert follows(shape, text) == result


def test_a_clients_switches_and_references(follows: Callable[[Shape | None, str], str]) -> None:
    """A schema's own references are its own; a client cannot change how the library works, or have anything fetched."""
    switched = {"type": "object", "x-guidance": {"whitespace_flexible": True}, "properties": {"a": {"$ref": "#/$defs/n"}},
                "$defs": {"n": {"type": "integer"}}, "required": ["a"]}  # fmt: skip
    offer = Offer((Tool("f", parameters=switched), CLOCK), must=True)
    call = '<tool_call>\n{"name": "f", "arguments": {"a": 5}}\n</tool_call>'
    assert follows(offer.shape(), call) == "all"
    assert follows(offer.shape(), call.replace('"a": 5', '"a":    5')) == "no"
    assert follows(offer.shape(), call.replace("5", '"x"')) == "no"
    for reference in ("http://example.com/x.json", "file:///etc/passwd", "other.json#/x"):
        remote = Offer((Tool("f", parameters={"type": "object", "properties": {"a": {"$ref": reference}}}),), must=True)
        with pytest.raises(PunaError):
            follows(remote.shape(), call)
