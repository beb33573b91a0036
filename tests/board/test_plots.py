"""The board's drawings: what they say in words, that names stay text, and that nothing leaves the frame."""

import re
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from puna.board.plots import PLOT_NARROW, PLOT_WIDE, Mark, drawn, interval_plot, size_plot, task_plot, tie_plot

EVIL = "<script>window.__pwned=1</script>\u202e\"'&"
MARKS = [
    Mark("高原小羊驼", 71.5, 69.0, 74.0, 1, 1, 4_100_000, "71.5"),
    Mark(EVIL, 55.25, 53.0, 57.5, 2, 3, 1_000_000, "55.2"),
    Mark("grown-400K", 54.0, 51.5, 56.5, 2, 3, 401_000, "54.0"),
    Mark(
        "a-model-with-a-name-that-is-much-longer-than-any-column-of-a-drawing-could-hold", 31.0, None, None, 4, 4, None
    ),
]
APART = frozenset({(0, 1), (0, 2), (0, 3), (1, 3), (2, 3)})
SVG = "{http://www.w3.org/2000/svg}"


def parsed(drawing: object) -> ElementTree.Element:
    return ElementTree.fromstring(str(drawing).replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1))


def said(drawing: object) -> tuple[str, str]:
    root = parsed(drawing)
    title, description = root.find(f"{SVG}title"), root.find(f"{SVG}desc")
    assert title is not None and description is not None
    assert root.get("aria-labelledby") == f"{title.get('id')} {description.get('id')}"
    assert root.get("role") == "img"
    return title.text or "", description.text or ""


def kinds(drawing: object, class_: str) -> list[ElementTree.Element]:
    return [one for one in parsed(drawing).iter() if one.get("class") == class_]


@pytest.mark.parametrize("width", [PLOT_WIDE, PLOT_NARROW])
def test_intervals_say_every_number_and_the_rank_set(width):
    drawing = interval_plot(MARKS, "i", width)
    title, words = said(drawing)
    assert "rank order" in title
    assert "高原小羊驼 71.5 (69.0 to 74.0), rank 1;" in words
    assert "grown-400K 54.0 (51.5 to 56.5), rank 2 to 3" in words
    assert "31.0, rank 4." in words  # no interval is known: none is said, none is drawn
    assert len(kinds(drawing, "own-whisker")) == 3 and len(kinds(drawing, "rival-whisker")) == 3 * 2


def test_what_may_be_the_best_has_a_shape_of_its_own():
    drawing = interval_plot(MARKS, "i", PLOT_WIDE)
    assert len(kinds(drawing, "own-mark")) == 1 + 1  # one model, and the key
    assert all(one.tag == f"{SVG}path" for one in kinds(drawing, "own-mark"))
    assert all(one.tag == f"{SVG}circle" for one in kinds(drawing, "rival-mark"))


def test_a_name_is_text_and_hides_nothing():
    for plot in (
        interval_plot(MARKS, "i", PLOT_WIDE), tie_plot(MARKS, APART, "t", PLOT_WIDE), size_plot(MARKS, "s", PLOT_WIDE),
        task_plot(MARKS, "k", PLOT_WIDE, "per cent right"),
    ):  # fmt: skip
        assert "<script" not in str(plot)
        assert "\u202e" not in str(plot)
        assert "⟨U+202E⟩" in said(plot)[1]


@pytest.mark.parametrize("width", [PLOT_WIDE, PLOT_NARROW])
def test_ties_join_those_that_nothing_separates(width):
    drawing = tie_plot(MARKS, APART, "t", width)
    title, words = said(drawing)
    assert title == "Which models the data cannot tell apart: 1 pair of 6"
    assert "grown-400K: <script>" in words and "高原小羊驼: told apart from every other" in words
    (bow,) = kinds(drawing, "bow")
    ends = [float(number) for number in re.findall(r"[\d.]+", bow.get("d") or "")]
    circles = [float(one.get("cy") or 0) for one in kinds(drawing, "rival-mark")]
    assert [ends[1], ends[-1]] == circles[:2]  # it leads from the second to the third
    assert len(kinds(drawing, "own-mark")) == 2 + 1  # two stand alone, and the key


def test_ties_of_all_and_of_none():
    all_tied = tie_plot(MARKS, frozenset(), "t", PLOT_WIDE)
    assert len(kinds(all_tied, "bow")) == 6
    none = tie_plot(MARKS, {(i, j) for j in range(4) for i in range(j)}, "t", PLOT_WIDE)
    assert not kinds(none, "bow") and "no pairs of 6" in said(none)[0]
    assert tie_plot(MARKS[:1], frozenset(), "t", PLOT_WIDE) is None


def test_size_leaves_out_what_has_no_size():
    _, words = said(size_plot(MARKS, "s", PLOT_WIDE))
    assert "4.1\u202fM parameters" in words and "much-longer" not in words
    assert size_plot(MARKS[2:], "s", PLOT_WIDE) is None


def test_size_axis_is_logarithmic():
    marks = [Mark(str(size), 50.0, size=size) for size in (10**6, 10**7, 10**8)]
    xs = [float(one.get("cx") or 0) for one in kinds(size_plot(marks, "s", PLOT_WIDE), "rival-mark")]
    assert xs[1] - xs[0] == pytest.approx(xs[2] - xs[1], abs=0.11)


def test_crowded_spots_get_numbers_and_a_key():
    marks = [Mark(f"{n:02d} of a crowd", 50 + 0.01 * (n % 3), size=1_000_000 + n) for n in range(40)]
    texts = [one.text or "" for one in parsed(size_plot(marks, "s", PLOT_NARROW)).iter(f"{SVG}text")]
    keyed = [text for text in texts if re.match(r"\d+: \d\d of a crowd", text)]
    beside = [text for text in texts if re.fullmatch(r"\d\d of a crowd", text)]
    assert keyed and beside and len(keyed) + len(beside) == 40  # each is named once: at its spot or in the key
    assert all(text.split(":")[0] in texts for text in keyed)  # and a number stands at the spot of what the key names


def test_a_task_shows_what_guessing_gives():
    drawing = task_plot([Mark("a", 40.0, 35.0, 45.0)], "k", PLOT_WIDE, "per cent right, more is better", chance=25.0)
    assert "Chance: 25.0." in said(drawing)[1]
    (line,) = kinds(drawing, "chance")
    mark = kinds(drawing, "rival-mark")[0]
    assert float(line.get("x1") or 0) < float(mark.get("cx") or 0)


def test_drawn_twice_and_not_at_all():
    both = str(drawn(lambda name, width: interval_plot(MARKS, name, width), "i"))
    assert both.count("<svg") == 2 and 'id="i-wide-title"' in both and 'id="i-narrow-title"' in both
    assert drawn(lambda name, width: interval_plot([], name, width), "i") is None


names = st.text(max_size=40)
numbers = st.floats(-50, 150, allow_nan=False)


@st.composite
def any_mark(draw: st.DrawFn) -> Mark:
    value, low = draw(numbers), draw(st.integers(1, 9))
    spread = draw(st.none() | st.floats(0, 60))
    return Mark(
        draw(names), value, None if spread is None else value - spread, None if spread is None else value + spread,
        low, low + draw(st.integers(0, 9)), draw(st.none() | st.integers(1, 10**13)),
    )  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.lists(any_mark(), max_size=9), st.sampled_from([PLOT_WIDE, PLOT_NARROW]))
def test_any_marks_give_a_whole_drawing_inside_its_frame(marks, width):
    for plot in (
        interval_plot(marks, "i", width),
        tie_plot(marks, frozenset(), "t", width),
        size_plot(marks, "s", width),
    ):
        if plot is None:
            continue
        root = parsed(plot)
        height = float(root.get("height") or 0)
        for one in root.iter():
            for key, most in (
                ("x", width),
                ("x1", width),
                ("x2", width),
                ("cx", width),
                ("y", height),
                ("y1", height),
                ("cy", height),
            ):
                if one.get(key) is not None:
                    assert -1 <= float(one.get(key) or 0) <= most + 1
