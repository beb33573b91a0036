"""Whole characters and stop texts, whatever the cut into tokens, in English and Chinese."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from puna.engine.text import StopStream, TextStream, Utf8Stream

WORDS = st.text(alphabet="abc你好🦙é\n", max_size=20)
STOPS = st.lists(st.text(alphabet="abc你好", min_size=1, max_size=4), max_size=3)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


@given(text=st.text(max_size=30), places=st.lists(st.integers(0, 500), max_size=10))
def test_utf8_joins_to_the_text_and_never_shows_half_a_character(text: str, places: list[int]):
    stream = Utf8Stream()
    pieces = [stream.push(piece) for piece in cut(text.encode(errors="ignore"), places)]
    assert "".join(pieces) == text.encode(errors="ignore").decode()
    assert all("\ufffd" not in piece for piece in pieces) or "\ufffd" in text
    assert stream.held == b""


@given(data=st.binary(max_size=30), places=st.lists(st.integers(0, 500), max_size=10))
def test_bytes_that_are_no_utf8_give_the_same_text_for_every_cut(data: bytes, places: list[int]):
    whole, pieces = Utf8Stream(), Utf8Stream()
    assert whole.push(data) == "".join(pieces.push(piece) for piece in cut(data, places))
    assert whole.held == pieces.held


def test_an_unfinished_character_is_held():
    stream = Utf8Stream()
    assert stream.push("你".encode() + "好".encode()[:2]) == "你"
    assert stream.held == "好".encode()[:2]
    assert stream.push("好".encode()[2:]) == "好"


def first_complete_stop(text: str, stops: list[str]) -> str:
    """The definition, letter by letter: what stands before the stop text that is complete first."""
    for end in range(1, len(text) + 1):
        complete = [stop for stop in stops if text[:end].endswith(stop)]
        if complete:
            return text[: end - max(map(len, complete))]
    return text


@given(text=WORDS, stops=STOPS, places=st.lists(st.integers(0, 500), max_size=10))
def test_stops_across_any_cut_equal_the_definition(text: str, stops: list[str], places: list[int]):
    stream = TextStream(stops)
    shown = ""
    for piece in cut(text.encode(), places):
        shown += stream.push(piece)
        assert first_complete_stop(text, stops).startswith(shown)
    shown += stream.finish()
    assert shown == first_complete_stop(text, stops)
    assert stream.stopped == any(stop in text for stop in stops)


def test_the_beginning_of_a_stop_text_is_held_back_until_it_is_certain():
    stream = StopStream(["</end>"])
    assert stream.push("yes </e") == "yes "
    assert stream.push("xit> 好</") == "</exit> 好"
    assert stream.push("end> more") == ""
    assert stream.stopped
    assert stream.push("more") + stream.finish() == ""
