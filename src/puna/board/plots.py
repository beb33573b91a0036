"""The board's drawings: intervals in rank order, which models the data cannot tell apart, score against size, one task.

Comes in: marks (a label, a value, its interval, its rank set, a size) and a width in pixels; a page carries a wide and a narrow
drawing, as letters inside an SVG shrink with it. Goes out: SVG. Must never happen: a drawing that needs colour to be read, a label
that is not escaped, or one that static/plots.js draws otherwise: the script draws the same marks again when the choice of tasks
changes, and a test holds the two side by side.
"""

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from puna import svg
from puna.words import axis_count, brief, counted, decimal, listed

PLOT_WIDE, PLOT_NARROW = 920, 340
_NARROW = 500  # below it a label stands above its row
_WIDE_LETTERS = re.compile(
    "[\u1100-\u115f\u2e80-\ua4cf\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe6f\uff00-\uff60\U00020000-\U0003fffd]"
)
_LETTER = 7.7  # pixels of a letter of a label, on average
_KEY_FIRST = "may be the best: no other is significantly better"
_KEY_BEHIND = "at least one other is significantly better"


@dataclass(frozen=True)
class Mark:
    """One model in a drawing. `value`, `lo` and `hi` are on the scale of the axis (shares in per cent, as they are printed)."""

    label: str
    value: float
    lo: float | None = None
    hi: float | None = None
    low: int | None = None  # the rank set: low to high
    high: int | None = None
    size: int | None = None  # parameters
    words: str = ""  # the value as text

    @property
    def ranks(self) -> str:
        """The rank set as text: "1 to 3", "2", or nothing."""
        return "" if self.low is None else str(self.low) if self.low == self.high else f"{self.low} to {self.high}"

    @property
    def first(self) -> bool:
        """Whether no other is significantly better."""
        return self.low == 1

    @property
    def said(self) -> str:
        """Name, value and interval for the text alternative."""
        ends = (
            f" ({decimal(self.lo, 1)} to {decimal(self.hi, 1)})" if self.lo is not None and self.hi is not None else ""
        )
        return f"{brief(self.label)} {self.words or decimal(self.value, 1)}{ends}"


def interval_plot(
    marks: Sequence[Mark], name: str, width: int, axis: str = "mean of the tasks, per cent"
) -> Markup | None:
    """Values with their 95 % intervals in the order given, rank sets beside them. None without a mark."""
    if not marks:
        return None
    narrow = width < _NARROW
    left, right, pitch, top = (8.0, width - 10.0, 46.0, 4.0) if narrow else (230.0, width - 150.0, 30.0, 26.0)
    body = [] if narrow else [svg.label(width - 78.0, 14, "score", "axis-title", "end"), svg.label(width - 1.0, 14, "rank", "axis-title", "end")]  # fmt: skip
    floor = top + pitch * len(marks)
    across, drawn = _across(marks, left, right, top, floor, 4 if narrow else 8)
    body += drawn
    for index, mark in enumerate(marks):
        y = top + pitch * index + (30.0 if narrow else pitch / 2)
        body += _row(mark, across, y, width, narrow)
    body += _floor(across, floor, axis, 4 if narrow else 8)
    height = floor + 44
    if any(mark.low is not None for mark in marks):
        body += [
            svg.mark("diamond", left + 6, floor + 58, "own-mark", 5),
            svg.label(left + 18, floor + 62, _KEY_FIRST, "tick"),
        ]
        body += [
            svg.mark("circle", left + 6, floor + 78, "rival-mark", 5),
            svg.label(left + 18, floor + 82, _KEY_BEHIND, "tick"),
        ]
        height = floor + 90
    said = "; ".join(f"{mark.said}{', rank ' + mark.ranks if mark.ranks else ''}" for mark in marks)
    return svg.frame(name, width, height, "Scores with 95 % intervals, in rank order", f"{said}.", body)


def task_plot(
    marks: Sequence[Mark], name: str, width: int, axis: str, chance: float | None = None, higher: bool = True
) -> Markup | None:
    """One task's scores with their intervals, in the order given, and what guessing gives as a dashed line."""
    if not marks:
        return None
    narrow = width < _NARROW
    left, right, pitch, top = (
        (8.0, width - 10.0, 46.0, 20.0)
        if narrow
        else (230.0, width - (150.0 if any(mark.ranks for mark in marks) else 82.0), 30.0, 20.0)
    )
    floor = top + pitch * len(marks)
    across, body = _across(marks, left, right, top, floor, 4 if narrow else 8, chance)
    if chance is not None:
        x = across(chance)
        body.append(svg.line(x, top - 4, x, floor, "chance"))
        body.append(
            svg.label(
                x + (-5 if x > right - 60 else 5), 12, "chance", "chance-name", "end" if x > right - 60 else "start"
            )
        )
    for index, mark in enumerate(marks):
        y = top + pitch * index + (30.0 if narrow else pitch / 2)
        body += _row(mark, across, y, width, narrow)
    body += _floor(across, floor, axis, 4 if narrow else 8)
    guess = f" Chance: {decimal(chance, 1)}." if chance is not None else ""
    said = "; ".join(mark.said for mark in marks) + "." + guess
    return svg.frame(
        name, width, floor + 44, f"Scores with 95 % intervals, {'more' if higher else 'less'} is better", said, body
    )


def tie_plot(marks: Sequence[Mark], apart: Collection[tuple[int, int]], name: str, width: int) -> Markup | None:
    """Models in rank order; a bow joins each two that the data cannot tell apart. `apart`: the others, as places in `marks`.

    None for fewer than two marks.
    """
    if len(marks) < 2:
        return None
    told = {tuple(sorted(pair)) for pair in apart}
    tied = [(i, j) for j in range(len(marks)) for i in range(j) if (i, j) not in told]
    kin = [[j if i == place else i for i, j in tied if place in (i, j)] for place in range(len(marks))]
    narrow = width < _NARROW
    pitch, top, x, reach = (30.0, 24.0, 172.0, width - 186.0) if narrow else (30.0, 24.0, 300.0, 260.0)
    body = [svg.label(0, 12, "rank", "axis-title"), svg.label(48, 12, "model", "axis-title")]
    if not narrow:
        body.append(svg.label(x + reach + 28, 12, "cannot be told apart from", "axis-title"))
    ys = [top + pitch * place + pitch / 2 for place in range(len(marks))]
    for i, j in tied:
        deep = (
            reach * (0.16 + 0.84 * (j - i) / (len(marks) - 1)) * 4 / 3
        )  # a cubic bow reaches three quarters of its handles
        body.append(svg.element("path", d=_bow(x, ys[i], ys[j], deep), class_="bow"))
    for place, (mark, y) in enumerate(zip(marks, ys, strict=True)):
        body.append(svg.label(0, y + 4.5, mark.ranks, "tick"))
        body.append(
            svg.label(
                48,
                y + 4.5,
                brief(mark.label, _letters(mark.label, x - 62)),
                "label own-name" if mark.first else "label",
            )
        )
        if kin[place]:
            body.append(svg.mark("circle", x, y, "rival-mark", 5.5))
        else:
            body.append(svg.mark("square", x, y, "own-mark", 5.5))
        if not narrow:
            body.append(svg.label(x + reach + 28, y + 4.5, _kin([marks[other].label for other in kin[place]]), "tick"))
    floor = ys[-1] + pitch / 2
    body.append(svg.mark("square", 6, floor + 14, "own-mark", 5))
    body.append(svg.label(18, floor + 18, "told apart from every other", "tick"))
    body.append(svg.mark("circle", 6, floor + 34, "rival-mark", 5))
    body.append(svg.label(18, floor + 38, "tied: a bow joins what the data cannot separate", "tick"))
    said = "; ".join(
        f"{brief(mark.label)}: {listed([brief(marks[other].label) for other in kin[place]]) if kin[place] else 'told apart from every other'}"
        for place, mark in enumerate(marks)
    )
    pairs = len(marks) * (len(marks) - 1) // 2
    title = f"Which models the data cannot tell apart: {counted(len(tied), 'pair')} of {pairs}"
    return svg.frame(name, width, floor + 46, title, f"{said}.", body)


def size_plot(marks: Sequence[Mark], name: str, width: int, axis: str = "mean of the tasks, per cent") -> Markup | None:
    """Value against parameters on a logarithmic axis. Marks without a size are left out; None where fewer than two have one."""
    known = [mark for mark in marks if mark.size is not None and mark.size > 0]
    if len(known) < 2:
        return None
    narrow = width < _NARROW
    left, right, top, bottom = (34.0, width - 8.0, 26.0, 270.0) if narrow else (44.0, width - 12.0, 26.0, 350.0)
    sizes = [float(mark.size or 0) for mark in known]
    low, high = _span([end for mark in known for end in _ends(mark)])
    across = svg.Scale(min(sizes) / 1.5, max(sizes) * 1.5, left, right, log=True)
    up = svg.Scale(low, high, bottom, top)
    body = [svg.label(0, 12, axis, "axis-title")]
    for tick in svg.linear_ticks(low, high, 6):
        body += [
            svg.line(left, up(tick), right, up(tick), "grid"),
            svg.label(left - 7, up(tick) + 4, svg.tick_label(tick), "tick", "end"),
        ]
    for tick in svg.log_ticks(across.low, across.high, 4 if narrow else 8):
        body += [
            svg.line(across(tick), bottom, across(tick), bottom + 5, "axis"),
            svg.label(across(tick), bottom + 19, axis_count(tick), "tick", "middle"),
        ]
    body += [
        svg.line(left, bottom, right, bottom, "axis"),
        svg.label(right, bottom + 38, "parameters (log scale)", "axis-title", "end"),
    ]
    spots = [(across(float(mark.size or 0)), up(mark.value)) for mark in known]
    for mark, (x, _) in zip(known, spots, strict=True):
        if mark.lo is not None and mark.hi is not None:
            body.append(svg.line(x, up(mark.lo), x, up(mark.hi), "rival-whisker"))
    for mark, (x, y) in zip(known, spots, strict=True):
        body.append(
            svg.mark("diamond" if mark.first else "circle", x, y, "own-mark" if mark.first else "rival-mark", 5.5)
        )
    reaches = [(min(up(end) for end in _ends(mark)), max(up(end) for end in _ends(mark))) for mark in known]
    labels, keys = _labels(known, spots, reaches, (left, top, right, bottom), 16 if narrow else 30)
    body += labels
    height = bottom + 46
    for key in keys:
        body.append(svg.label(left, height + 12, key, "tick"))
        height += 18
    said = "; ".join(f"{mark.said} with {axis_count(float(f'{mark.size:.3g}'))} parameters" for mark in known)
    return svg.frame(name, width, height, "Score against size", f"{said}.", body)


def _labels(
    marks: Sequence[Mark],
    spots: Sequence[tuple[float, float]],
    reaches: Sequence[tuple[float, float]],
    room: svg.Box,
    most: int,
) -> tuple[list[str], list[str]]:
    """A name beside each spot where there is room for it, else a number and a line for the key below: (drawing, key).

    `reaches`: from where to where each one's interval stands upright. `room`: left, top, right, bottom.
    """
    left, top, right, bottom = room
    taken = [
        (x - 7, min(y - 7, high), x + 7, max(y + 7, low)) for (x, y), (high, low) in zip(spots, reaches, strict=True)
    ]
    body, keys = [], []
    for place, (mark, (x, y), (high, low)) in enumerate(zip(marks, spots, reaches, strict=True)):
        for text in (brief(mark.label, most), str(place + 1)):
            long = _long(text)
            sides = [(x + 10, y + 4.5, "start", x + 10), (x - 10, y + 4.5, "end", x - 10 - long),
                     (x, min(y - 7, high) - 4, "middle", x - long / 2), (x, max(y + 7, low) + 13, "middle", x - long / 2)]  # fmt: skip
            free = [
                (at, line, anchor, (edge, line - 11, edge + long, line + 3))
                for at, line, anchor, edge in sides
                if edge >= left and edge + long <= right and line - 11 >= top - 8 and line + 3 <= bottom
                and not any(_meet((edge, line - 11, edge + long, line + 3), other) for other in taken)
            ]  # fmt: skip
            if free:
                at, line, anchor, box = free[0]
                taken.append(box)
                body.append(svg.label(at, line, text, "label own-name" if mark.first else "label", anchor))
                break
        else:
            body.append(svg.label(x + 10, y + 4.5, str(place + 1), "label"))
            text = str(place + 1)
        if text == str(place + 1):
            keys.append(f"{place + 1}: {brief(mark.label, 40)}")
    return body, keys


def _meet(one: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _long(text: str) -> float:
    """About how many pixels a label takes."""
    return _LETTER * sum(2 if _WIDE_LETTERS.match(letter) else 1 for letter in text)


def _letters(text: str, room: float) -> int:
    """How many letters of a label fit into `room` pixels."""
    return max(4, int(room / (_long(text) / len(text)))) if text else 4


def _ends(mark: Mark) -> list[float]:
    return [mark.value] if mark.lo is None or mark.hi is None else [mark.lo, mark.hi, mark.value]


def _span(ends: Sequence[float]) -> tuple[float, float]:
    """The ends of an axis: a little more than what stands on it."""
    margin = max((max(ends) - min(ends)) * 0.04, 0.01)
    return min(ends) - margin, max(ends) + margin


def _across(
    marks: Sequence[Mark], left: float, right: float, top: float, floor: float, ticks: int, chance: float | None = None
) -> tuple[svg.Scale, list[str]]:
    """The axis of values and its grid."""
    low, high = _span([end for mark in marks for end in _ends(mark)] + ([] if chance is None else [chance]))
    across = svg.Scale(low, high, left, right)
    return across, [
        svg.line(across(tick), top, across(tick), floor, "grid") for tick in svg.linear_ticks(low, high, ticks)
    ]


def _floor(across: svg.Scale, floor: float, axis: str, ticks: int) -> list[str]:
    body = [svg.label(across(tick), floor + 17, svg.tick_label(tick), "tick", "middle") for tick in svg.linear_ticks(across.low, across.high, ticks)]  # fmt: skip
    return [
        *body,
        svg.line(across.start, floor, across.end, floor, "axis"),
        svg.label(across.start, floor + 37, axis, "axis-title"),
    ]


def _row(mark: Mark, across: svg.Scale, y: float, width: int, narrow: bool) -> list[str]:
    """One line of intervals: name, whisker, mark, value and rank set."""
    who = "own" if mark.first else "rival"
    words = mark.words or decimal(mark.value, 1)
    if narrow:
        aside = f"{words}  ·  {mark.ranks}" if mark.ranks else words
        room = width - _long(aside) - 12
        body = [svg.label(0, y - 13, brief(mark.label, _letters(mark.label, room)), f"label {who}-name"), svg.label(width - 1.0, y - 13, aside, "value", "end")]  # fmt: skip
    else:
        body = [svg.label(0, y + 4.5, brief(mark.label, _letters(mark.label, across.start - 16)), f"label {who}-name")]
        body.append(svg.label(width - (78.0 if mark.ranks else 1.0), y + 4.5, words, f"value {who}-name", "end"))
        if mark.ranks:
            body.append(svg.label(width - 1.0, y + 4.5, mark.ranks, "tick", "end"))
    if mark.lo is not None and mark.hi is not None:
        body.append(svg.whisker(across(mark.lo), across(mark.hi), y, f"{who}-whisker"))
    body.append(svg.mark("diamond" if mark.first else "circle", across(mark.value), y, f"{who}-mark", 5))
    return body


def _bow(x: float, y1: float, y2: float, deep: float) -> str:
    numbers = [round(number, 1) + 0.0 for number in (x, y1, x + deep, y1, x + deep, y2, x, y2)]
    return "M{} {}C{} {} {} {} {} {}".format(*(f"{number:.1f}".removesuffix(".0") for number in numbers))


def _kin(others: Sequence[str]) -> str:
    """Whom a model is tied with, in few words: the bows show the rest."""
    if not others:
        return "told apart from every other"
    return listed([brief(name, 20) for name in others]) if len(others) <= 2 else f"{len(others)} others"


def drawn(plot: Callable[[str, int], Markup | None], name: str) -> Markup | None:
    """A plot twice: for wide screens and for narrow ones; the style sheet shows one of them. None where there is none."""
    wide, narrow = plot(f"{name}-wide", PLOT_WIDE), plot(f"{name}-narrow", PLOT_NARROW)
    if wide is None or narrow is None:
        return None
    return Markup('<div class="wide">{}</div><div class="narrow">{}</div>').format(wide, narrow)
