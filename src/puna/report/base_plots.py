"""Drawings for a model that was made from another one: both on each domain's text, by position, and their needles.

Comes in: the values of `report.data` and a width in pixels. Goes out: SVG. Must never happen: a drawing that needs colour
to be read: marks, dashes and the numbers themselves say the same.
"""

import math
from collections.abc import Mapping

from markupsafe import Markup

from puna import svg
from puna.report.data import Inheritance, NeedleTest, Positions, Score
from puna.words import decimal, number, percent

_SHAPES = ("circle", "square", "triangle")  # of the models before the last, whose mark is a diamond
_LOG_FROM = 3.0  # times the least value: beyond, a straight axis presses the lower curve flat
_DARKEST = 0.5  # of a cell's shade: the number on it stays readable by day and by night


def domain_plot(inheritance: Inheritance, domain: str, name: str, width: int) -> Markup | None:
    """Bits per byte of every model on one domain's text, in the order of their making, with 95 % whiskers.

    None where the domain was not measured.
    """
    rows = [(row.model, row.scores[domain]) for row in inheritance.rows if domain in row.scores]
    known = [(model, score, score.value) for model, score in rows if score.value is not None]
    if not known:
        return None
    ends = [end for _, score, value in known for end in (score.interval or (value, value))]
    margin = max((max(ends) - min(ends)) * 0.1, 0.005)
    left, right, pitch = 74.0, width - 56.0, 34.0
    across = svg.Scale(min(ends) - margin, max(ends) + margin, left, right)
    floor = 6 + pitch * len(known)
    ticks = svg.linear_ticks(across.low, across.high, 4)
    body = [svg.line(across(tick), 6, across(tick), floor, "grid") for tick in ticks]
    for index, (model, score, value) in enumerate(known):
        body += _domain_row(
            model, score, value, index, index == len(known) - 1, across, 6 + pitch * (index + 0.5), width
        )
    body += [svg.label(across(tick), floor + 17, svg.tick_label(round(tick, 6)), "tick", "middle") for tick in ticks]
    body += [
        svg.line(left, floor, right, floor, "axis"),
        svg.label(left, floor + 36, "← fewer bits per byte is better", "axis-title"),
    ]
    said = "; ".join(f"{model} {decimal(value)}" for model, _, value in known)
    return svg.frame(name, width, floor + 42, f"Bits per byte on the {domain} text", said + ".", body)


def _domain_row(
    model: str, score: Score, value: float, index: int, own: bool, across: svg.Scale, y: float, width: int
) -> list[str]:
    class_, shape = ("own", "diamond") if own else ("rival", _SHAPES[index % len(_SHAPES)])
    body = [svg.label(0, y + 4.5, model, f"label {class_}-name")]
    if score.interval:
        body.append(svg.whisker(across(score.interval[0]), across(score.interval[1]), y, f"{class_}-whisker"))
    body.append(svg.mark(shape, across(value), y, f"{class_}-mark", 6.5 if own else 5))
    return [*body, svg.label(width - 1.0, y + 4.5, decimal(value), f"value {class_}-name", "end")]


def positions_plot(models: Mapping[str, Positions], name: str, width: int) -> Markup | None:
    """Bits per byte by position (both axes in powers where the values are far apart), with 95 % whiskers.

    A dashed upright line stands where the first model's training ended. None where nothing was measured.
    """
    known = {model: found for model, found in models.items() if found.ranges}
    if not known:
        return None
    narrow = width < 500
    left, right, top, bottom = 44.0, width - 16.0, 33.0 + 19 * (len(known) + 1), 270.0 if not narrow else 240.0
    values = [
        end for found in known.values() for one in found.ranges for end in (one.interval or (one.bits_per_byte,) * 2)
    ]
    log = max(values) > _LOG_FROM * min(values) > 0
    spread = (max(values) - min(values)) * 0.08 or 0.1
    low, high = (min(values) / 1.06, max(values) * 1.06) if log else (min(values) - spread, max(values) + spread)
    up = svg.Scale(low, high, bottom, top, log=log)
    ranges = next(iter(known.values())).ranges
    across = svg.Scale(max(1.0, ranges[0].high / 2), ranges[-1].high, left, right, log=True)
    body = [svg.label(0, 14, f"bits per byte{' (log scale)' if log else ''}", "axis-title")]
    for tick in svg.log_ticks(low, high, 7) if log else svg.linear_ticks(low, high, 6):
        body += [
            svg.line(left, up(tick), right, up(tick), "grid"),
            svg.label(left - 7, up(tick) + 4, svg.tick_label(round(tick, 6)), "tick", "end"),
        ]
    body += _trained(next(iter(known.values())), next(iter(known)), across, top, bottom, 33.0 + 19 * len(known))
    for index, (model, found) in enumerate(known.items()):
        own, shape = index == len(known) - 1, _SHAPES[index % len(_SHAPES)]
        body += _curve(found, "own" if own else "rival", "diamond" if own else shape, across, up)
        y = 33.0 + 19 * index
        body += [svg.line(left, y - 4, left + 26, y - 4, "own-whisker" if own else "limit"),
                 svg.mark("diamond" if own else shape, left + 13, y - 4, "own-mark" if own else "rival-mark", 5),
                 svg.label(left + 34, y, model, "label own-name" if own else "label rival-name")]  # fmt: skip
    for one in ranges:
        body += [svg.line(across(one.high), bottom, across(one.high), bottom + 5, "axis"),
                 svg.label(across(one.high), bottom + 19, number(one.high), "tick", "end" if one is ranges[-1] else "middle")]  # fmt: skip
    body += [
        svg.line(left, bottom, right, bottom, "axis"),
        svg.label(right, bottom + 38, "position in the document, tokens", "axis-title", "end"),
    ]
    said = "; ".join(
        f"{model}: "
        + ", ".join(f"{number(one.low)} to {number(one.high)} {decimal(one.bits_per_byte)}" for one in found.ranges)
        for model, found in known.items()
    )
    return svg.frame(name, width, bottom + 46, "Bits per byte by position", said + ".", body)


def _trained(found: Positions, model: str, across: svg.Scale, top: float, bottom: float, key: float) -> list[str]:
    """Where the first model's training ended, if that lies inside the drawing, and its line in the key at `key`."""
    at = found.trained_context
    if not across.low < at < across.high:
        return []
    words = f"{model} was made for {number(at)} tokens"
    return [svg.line(across(at), top, across(at), bottom, "chance"), svg.line(across.start + 13, key - 12, across.start + 13, key + 3, "chance"),
            svg.label(across.start + 34, key, words, "chance-name")]  # fmt: skip


def _curve(found: Positions, class_: str, shape: str, across: svg.Scale, up: svg.Scale) -> list[str]:
    """A model's ranges joined by lines, each at its middle (of powers), with its interval upright."""
    points = [(across(math.sqrt(max(one.low, one.high / 2) * one.high)), up(one.bits_per_byte)) for one in found.ranges]
    line = "own-whisker" if class_ == "own" else "limit"
    body = [svg.line(*start, *end, line) for start, end in zip(points, points[1:], strict=False)]
    for (x, _), one in zip(points, found.ranges, strict=True):
        if one.interval:
            body.append(svg.line(x, up(one.interval[0]), x, up(one.interval[1]), f"{class_}-whisker"))
    return body + [svg.mark(shape, x, y, f"{class_}-mark", 5) for x, y in points]


def needle_heat(test: NeedleTest, model: str, name: str, width: int) -> Markup | None:
    """Per cent of needles told apart, by length and depth: each cell's number, and behind it a shade from chance to all.

    None where no needle fitted.
    """
    lengths = sorted({cell.length for cell in test.cells})
    depths = sorted({cell.depth for cell in test.cells if cell.depth is not None})
    if not lengths or not depths:
        return None
    left, top, tall = 56.0, 44.0, 30.0
    wide = (width - left) / len(depths)
    body = [svg.label(left, 12, "where the needle lies", "axis-title"), svg.label(0, 32, "tokens", "axis-title")]
    body += [
        svg.label(left + wide * (at + 0.5), 32, _depth(depth), "tick", "middle") for at, depth in enumerate(depths)
    ]
    for row, length in enumerate(lengths):
        body.append(svg.label(left - 10, top + tall * row + 20, number(length), "tick", "end"))
    for cell in test.cells:
        if cell.depth is not None:
            x, y = left + wide * depths.index(cell.depth), top + tall * lengths.index(cell.length)
            body += _heat_cell(x, y, wide - 2, tall - 2, cell.share, cell.chance)
    said = "; ".join(
        f"{number(cell.length)} tokens, depth {_depth(cell.depth or 0)}: {percent(cell.share, 0)}"
        for cell in test.cells
    )
    return svg.frame(name, width, top + tall * len(lengths), f"Needles told apart by {model}", said + ".", body)


def _heat_cell(x: float, y: float, width: float, height: float, share: float, chance: float) -> list[str]:
    shade = _DARKEST * min(1.0, max(0.0, (share - chance) / (1 - chance))) if chance < 1 else 0.0
    return [
        svg.rect(x, y, width, height, "rival-bar"),
        svg.element("rect", x=x, y=y, width=width, height=height, class_="own-mark", fill_opacity=f"{shade:.2f}"),
        svg.label(x + width / 2, y + height / 2 + 4.5, f"{100 * share:.0f}", "label", "middle"),
    ]


def _depth(depth: float) -> str:
    return "start" if depth == 0 else "end" if depth == 1 else percent(depth, 0)
