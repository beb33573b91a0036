"""The corpus report's drawings: the waterfall of the stages, histograms with their limits, the horizon.

Comes in: parts of `report.corpus_data`. Goes out: SVG. Must never happen: a drawing that needs colour to be read:
what a stage took is hatched, limits are dashed and say their number, and documents have a bar of another height.
"""

import bisect
import itertools
from collections.abc import Callable, Sequence

from markupsafe import Markup

from puna import svg
from puna.report import plots
from puna.report.corpus_data import Histogram
from puna.report.corpus_words import Flow, change
from puna.words import axis_count, compact, counted, label, number, size_bytes, wrapped

HISTOGRAM = 340  # pixels: what a phone shows, and two of them a desk
_EASED = 8  # points of the horizon from one stage to the next


def waterfall(flow: Sequence[Flow], name: str, width: int) -> Markup | None:
    """Bytes (thick) and documents (thin) through the stages: full is what a stage gave on, hatched what it took.

    Each bar begins where the one above it ended. Where a stage made documents (by splitting), an open box shows the
    new ones. None where nothing came in.
    """
    most_bytes = max((max(row.bytes_in, row.bytes_out) for row in flow), default=0)
    most_documents = max((max(row.documents_in, row.documents_out) for row in flow), default=0)
    if not most_bytes or not most_documents:
        return None
    narrow = width < 500
    left, right = (0.0, 218.0) if narrow else (206.0, width - 152.0)
    pitch, top, bar = (60.0, 40.0, 20.0) if narrow else (44.0, 40.0, 6.0)
    bytes_, documents = svg.Scale(0, most_bytes, left, right), svg.Scale(0, most_documents, left, right)
    body = _waterfall_key(narrow)
    thick: list[list[svg.Box]] = [[], [], []]  # what stayed, what went, what came anew
    thin: list[list[svg.Box]] = [[], [], []]
    for index, row in enumerate(flow):
        y = top + pitch * index
        body.append(svg.line(0, y, width, y, "grid"))
        if index:  # where the bytes of the row above ended
            x, until = bytes_(row.bytes_in), y if narrow else y + bar  # a phone has the stage's name there
            body.append(svg.line(x, y - pitch + bar + 14, x, until, "drop"))
        for boxes, scale, came, gone, offset, height in (
            (thick, bytes_, row.bytes_in, row.bytes_out, 0.0, 14.0),
            (thin, documents, row.documents_in, row.documents_out, 18.0, 7.0),
        ):
            least, most = scale(min(came, gone)), scale(max(came, gone))
            boxes[0].append((left, y + bar + offset, least - left, height))
            boxes[1 if gone < came else 2].append((least, y + bar + offset, most - least, height))
        body += _waterfall_words(row, index, y, bar, width, narrow)
    for boxes, class_ in ((thick, "text"), (thin, "docs")):
        body += [
            svg.boxes(boxes[0], f"kept-{class_}"),
            svg.boxes(boxes[1], "gone"),
            svg.hatch(boxes[1]),
            svg.boxes(boxes[2], "added"),
        ]
    last = flow[-1]
    said = (
        f"{counted(flow[0].documents_in, 'document')} and {size_bytes(flow[0].bytes_in)} came in; after "
        f"{counted(len(flow), 'stage')} {counted(last.documents_out, 'document')} and {size_bytes(last.bytes_out)} "
        f"are left. The table that follows has every number."
    )
    return svg.frame(name, width, top + pitch * len(flow) + 4, "Bytes and documents through the stages", said, body)


def _waterfall_key(narrow: bool) -> list[str]:
    """What thick, thin, full and hatched mean."""
    gap = 170.0 if narrow else 200.0
    taken = (gap, 2.0, 24.0, 12.0)
    return [
        svg.boxes([(0.0, 2.0, 24.0, 12.0)], "kept-text"), svg.label(32, 13, "bytes left"),
        svg.boxes([(0.0, 22.0, 24.0, 7.0)], "kept-docs"), svg.label(32, 30, "documents left"),
        svg.boxes([taken], "gone"), svg.hatch([taken]), svg.label(gap + 32, 13, "taken by the stage"),
    ]  # fmt: skip


def _waterfall_words(row: Flow, index: int, y: float, bar: float, width: int, narrow: bool) -> list[str]:
    lines = wrapped(label(row.name), 42 if narrow else 24, most=1 if narrow else 2)
    base = y + 15 if narrow else y + (18 if len(lines) > 1 else 24)
    body = [svg.label(0, base, str(index + 1), "tick")]
    body += [svg.label(22, base + 15 * at, text, "label stage-name") for at, text in enumerate(lines)]
    columns = (width - 64.0, width - 1.0)
    for text, came, gone, offset, class_ in (
        (size_bytes(row.bytes_out), row.bytes_in, row.bytes_out, 11.5, "value"),
        (_count(row.documents_out), row.documents_in, row.documents_out, 26.0, "tick"),
    ):
        body.append(svg.label(columns[0], y + bar + offset, text, class_, "end"))
        body.append(svg.label(columns[1], y + bar + offset, change(came, gone), class_, "end"))
    return body


def _count(value: int) -> str:
    return compact(value) if value >= 1e6 else number(value)


def histogram(found: Histogram, measure: str, name: str) -> Markup | None:
    """How a measure is spread over documents, its limits as dashed lines, and what lies beyond them hatched.

    Every bin is equally wide in the drawing, so edges on a logarithm are read as well as even ones; the axis says the
    values. None where nothing was counted.
    """
    most = max(found.counts, default=0)
    if not most:
        return None
    left, right, top, floor = 40.0, HISTOGRAM - 8.0, 36.0, 136.0
    up = svg.Scale(0, most, floor, top)
    across = _binned(found.edges, left, right)
    body = []
    for tick in svg.linear_ticks(0, most, 4):
        body.append(svg.line(left, up(tick), right, up(tick), "grid"))
        body.append(svg.label(left - 6, up(tick) + 4, axis_count(tick), "tick", "end"))
    low = left if found.low is None else across(found.low)
    high = right if found.high is None else across(found.high)
    kept: list[svg.Box] = []
    gone: list[svg.Box] = []
    for count, (start, end) in zip(found.counts, itertools.pairwise(found.edges), strict=True):
        x, until = across(start), across(end)
        tall = max(floor - up(count), 0.8 if count else 0.0)  # one document among millions is still to be seen
        for boxes, begin, stop in (
            (gone, x, min(until, low)),
            (kept, max(x, low), min(until, high)),
            (gone, max(x, high, low), until),
        ):
            boxes.append((begin, floor - tall, stop - begin, tall))
    body += [svg.boxes(kept, "kept-text"), svg.boxes(gone, "gone"), svg.hatch(gone, gap=4)]
    body.append(svg.line(left, floor, right, floor, "axis"))
    for tick in _bin_ticks(found.edges):
        body.append(svg.line(across(tick), floor, across(tick), floor + 4, "axis"))
        body.append(svg.label(across(tick), floor + 17, _tick(tick), "tick", "middle"))
    for value, words, baseline in ((found.low, "at least", 11.0), (found.high, "at most", 25.0)):
        if value is not None and found.edges[0] <= value <= found.edges[-1]:
            x = across(value)
            # On the side that is kept, where there is room.
            after = x < right - 110 if words == "at least" else x < left + 70
            text = f"{words} {_limit(value)}"
            body.append(svg.line(x, baseline - 9, x, floor, "limit"))
            body.append(svg.label(x + (5 if after else -5), baseline, text, "tick", "start" if after else "end"))
    said = f"{counted(sum(found.counts), 'document')} from {_limit(found.edges[0])} to {_limit(found.edges[-1])}; {limits(found)}."
    return svg.frame(name, HISTOGRAM, floor + 24, f"{label(measure)}, by documents", said, body)


def limits(found: Histogram) -> str:
    """What the limits of a measure took, in words."""
    parts = []
    for value, side, count in ((found.low, "below", found.below), (found.high, "above", found.above)):
        if value is not None:
            parts.append(f"{number(count) if count else 'none'} removed {side} {_limit(value)}")
    return ", ".join(parts) or "no limit"


def _limit(value: float) -> str:
    return number(value) if abs(value) >= 1000 else f"{value:.4g}".replace("-", "\u2212")


def _binned(edges: Sequence[float], left: float, right: float) -> Callable[[float], float]:
    """Maps a value onto pixels so that every bin is equally wide; values outside are held at the edge."""
    wide = (right - left) / (len(edges) - 1)

    def across(value: float) -> float:
        held = min(max(value, edges[0]), edges[-1])
        at = min(bisect.bisect_right(edges, held), len(edges) - 1) - 1
        return left + wide * (at + (held - edges[at]) / (edges[at + 1] - edges[at]))

    return across


def _bin_ticks(edges: Sequence[float]) -> list[float]:
    """Round values where the bins are even, or rise from nought by a logarithm; else some of the edges."""
    widths = [right - left for left, right in itertools.pairwise(edges)]
    if max(widths) <= 1.01 * min(widths):
        return svg.linear_ticks(edges[0], edges[-1], 4)
    if edges[0] >= 0:
        first = edges[0] or edges[1]
        ticks = svg.log_ticks(first, edges[-1], 5)
        if len(ticks) >= 2:
            return ticks
    return list(edges[:: -(-len(edges) // 4)])


def _tick(value: float) -> str:
    return axis_count(float(f"{value:.3g}"))


def ridge(flow: Sequence[Flow]) -> Markup | None:
    """The page's horizon: the bytes left stage by stage as a hillside, the documents as the range behind."""
    most_bytes = max((row.bytes_in for row in flow), default=0)
    most_documents = max((max(row.documents_in, row.documents_out) for row in flow), default=0)
    if len(flow) < 3 or not most_bytes or not most_documents:
        return None
    near = [flow[0].bytes_in / most_bytes, *(row.bytes_out / most_bytes for row in flow)]
    far = [flow[0].documents_in / most_documents, *(row.documents_out / most_documents for row in flow)]
    return plots.horizon(_eased(far), _eased(near))


def _eased(heights: Sequence[float]) -> list[float]:
    """Slopes between heights instead of steps (Perlin's 3t² - 2t³)."""
    points = [heights[0]]
    for start, end in itertools.pairwise(heights):
        for index in range(1, _EASED + 1):
            t = index / _EASED
            points.append(start + (end - start) * t * t * (3 - 2 * t))
    return points
