"""Scalable drawings as strings: scales, ticks, a few shapes, and a frame with a text alternative.

Comes in: numbers and labels. Goes out: SVG for putting inside a page. Must never happen: a label that is not escaped,
a style attribute (the page's content policy forbids them; looks are in report.css, under the class names used here).
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from markupsafe import Markup

from puna.visible import clean

Box = tuple[float, float, float, float]  # x, y, width, height in pixels


@dataclass(frozen=True)
class Scale:
    """Maps the values `low..high` onto the pixels `start..end`, straight or by logarithm."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """The pixel of a value; values outside are held at the edge."""
        held = min(max(value, self.low), self.high)
        if self.log:
            share = math.log(held / self.low) / math.log(self.high / self.low)
        else:
            share = (held - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)


def linear_ticks(low: float, high: float, wished: int) -> list[float]:
    """About `wished` round values (1, 2, 2.5 or 5 times a power of ten) inside `low..high`."""
    if high <= low:
        return [low]
    rough = (high - low) / max(1, wished)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next((nice * power for nice in (1, 2, 2.5, 5, 10) if nice * power >= rough * 0.999), 10 * power)
    first = math.ceil(low / step - 1e-9)
    return [index * step for index in range(first, math.floor(high / step + 1e-9) + 1)]


def log_ticks(low: float, high: float, wished: int) -> list[float]:
    """At most `wished` or so readable values inside `low..high` of a logarithmic axis."""
    for mantissas in (
        (1, 1.2, 1.4, 1.6, 1.8, 2, 2.5, 3, 3.5, 4, 5, 6, 7, 8, 9),
        (1, 1.5, 2, 3, 4, 6, 8),
        (1, 2, 4),
        (1, 3),
        (1,),
    ):
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        ticks = [m * 10.0**power for power in powers for m in mantissas if low <= m * 10.0**power <= high]
        if len(ticks) <= wished:
            return ticks
    return ticks[:: math.ceil(len(ticks) / wished)]


def tick_label(value: float) -> str:
    """A tick's number with no more digits than it has."""
    return f"{value:.6g}"


def element(tag: str, content: str = "", /, **attributes: object) -> str:
    """One element. Attribute names: `_` becomes `-`, a trailing one is dropped (`class_`); None leaves it out."""
    pairs = ((key.rstrip("_").replace("_", "-"), value) for key, value in attributes.items() if value is not None)
    written = "".join(f' {"viewBox" if key == "viewbox" else key}="{escape(_value(value))}"' for key, value in pairs)
    return f"<{tag}{written}>{content}</{tag}>" if content else f"<{tag}{written}/>"


def label(x: float, y: float, text: str, class_: str = "label", anchor: str = "start") -> str:
    """A line of text with its baseline at (x, y)."""
    return element("text", escape(clean(text)), x=x, y=y, class_=class_, text_anchor=anchor)


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> str:
    """A straight line."""
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


def rect(x: float, y: float, width: float, height: float, class_: str) -> str:
    """A box; a width below nought is none."""
    return element("rect", x=x, y=y, width=max(0.0, width), height=height, class_=class_)


def path(points: Sequence[tuple[float, float]], class_: str, *, closed: bool = False) -> str:
    """A line through points, in pixels with one decimal."""
    steps = "L".join(f"{_value(x)} {_value(y)}" for x, y in points)
    return element("path", d=f"M{steps}{'Z' if closed else ''}", class_=class_)


def boxes(rects: Iterable[Box], class_: str) -> str:
    """Many boxes as one path: a histogram's bars in a tenth of the bytes."""
    steps = "".join(
        f"M{_value(x)} {_value(y)}h{_value(width)}v{_value(height)}h{_value(-width)}z"
        for x, y, width, height in rects
        if width > 0 and height > 0
    )
    return element("path", d=steps, class_=class_) if steps else ""


def hatch(rects: Iterable[Box], class_: str = "hatch", gap: float = 5.0) -> str:
    """Slanted lines inside boxes, which run on from one box to the next: what went, readable without colour."""
    steps = []
    for x, y, width, height in rects:
        if width <= 0 or height <= 0:
            continue
        for index in range(math.ceil((x + y) / gap), math.floor((x + y + width + height) / gap) + 1):
            total = index * gap  # the line x + y = total, cut to the box
            left, right = max(x, total - y - height), min(x + width, total - y)
            if right > left:
                steps.append(f"M{_value(left)} {_value(total - left)}L{_value(right)} {_value(total - right)}")
    return element("path", d="".join(steps), class_=class_) if steps else ""


def mark(shape: str, x: float, y: float, class_: str, size: float = 5.5) -> str:
    """A marker centred at (x, y): circle, square, diamond, triangle, cross. Shapes carry the meaning without colour."""
    if shape == "circle":
        return element("circle", cx=x, cy=y, r=size * 0.92, class_=class_)
    if shape == "square":
        return rect(x - size * 0.85, y - size * 0.85, size * 1.7, size * 1.7, class_)
    if shape == "cross":
        arms = f"M{_value(x - size)} {_value(y - size)}l{_value(2 * size)} {_value(2 * size)}"
        return element("path", d=f"{arms}m0 {_value(-2 * size)}l{_value(-2 * size)} {_value(2 * size)}", class_=class_)
    corners = {
        "diamond": [(0, -1.25), (1.25, 0), (0, 1.25), (-1.25, 0)],
        "triangle": [(0, -1.1), (1.1, 0.85), (-1.1, 0.85)],
    }[shape]
    return path([(x + size * dx, y + size * dy) for dx, dy in corners], class_, closed=True)


def whisker(low: float, high: float, y: float, class_: str, cap: float = 5) -> str:
    """A horizontal interval with end caps, in pixels."""
    ends = line(low, y - cap, low, y + cap, class_) + line(high, y - cap, high, y + cap, class_)
    return line(low, y, high, y, class_) + ends


def frame(name: str, width: int, height: float, title: str, description: str, body: Iterable[str]) -> Markup:
    """A whole drawing. `name` is unique in the page: it ties the drawing to its title and description."""
    head = element("title", escape(clean(title)), id=f"{name}-title")
    head += element("desc", escape(clean(description)) or " ", id=f"{name}-desc")
    drawing = element(
        "svg", head + "".join(body), viewbox=f"0 0 {width} {_value(height)}", width=width, height=height,
        role="img", aria_labelledby=f"{name}-title {name}-desc", class_="plot",
    )  # fmt: skip
    return Markup(drawing)  # noqa: S704  every label above is escaped


def _value(value: object) -> str:
    """Numbers with one decimal at most, so that pages are small and the same on every machine."""
    if isinstance(value, float):
        return f"{round(value, 1) + 0.0:.1f}".removesuffix(".0")  # + 0.0 turns minus nought into nought
    return str(value)
