"""The report's drawings: the loss curve, scores as dots with intervals, shares as bars, parameters as one strip.

Comes in: the values of `report.data` and a width in pixels (a page carries a wide and a narrow drawing, as letters
inside an SVG shrink with it). Goes out: SVG. Must never happen: a drawing that needs colour to be read: shapes,
dashes and hatching say the same.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from puna import svg
from puna.report.data import Metric, Model, Score, Training
from puna.report.verdict import baseline_label, is_bits
from puna.words import axis_count, compact, counted, decimal, in_words, number, percent

_CHANCE = "chance"
_LEAST_LOSS = 1e-6  # nats per token; below it fp32 cannot tell a probability from one, and a logarithm has no end
_HILLS = 160  # points of a range of hills
_COLUMNS = 300  # of the raw curve: more than a screen shows; each keeps its least and greatest value


@dataclass(frozen=True)
class _Curve:
    """A training run's loss: `at` is tokens seen (or steps), both lists of equal length."""

    at: list[float]
    raw: list[float]
    smooth: list[float]
    skipped: list[tuple[float, float]]  # (at, loss) of the steps whose update was not applied
    unit: str


def _curve(metrics: Sequence[Metric]) -> _Curve | None:
    known = [metric for metric in metrics if metric.loss is not None and math.isfinite(metric.loss) and metric.loss > 0]
    if len(known) < 2:
        return None
    in_tokens = all(metric.tokens is not None for metric in known)
    at = [float(metric.tokens or 0) if in_tokens else float(metric.step) for metric in known]
    if at[-1] <= at[0]:
        return None
    raw = [max(float(metric.loss or 0), _LEAST_LOSS) for metric in known]
    skipped = [(x, y) for x, y, metric in zip(at, raw, known, strict=True) if metric.skipped]
    applied = [None if metric.skipped else loss for loss, metric in zip(raw, known, strict=True)]
    return _Curve(at, raw, _smoothed(applied), skipped, "tokens" if in_tokens else "steps")


def _smoothed(values: Sequence[float | None]) -> list[float]:
    """A centred mean that widens with the step: nothing at the start, where the fall is real, 2 % each side later."""
    sums, counts = [0.0], [0]
    for value in values:
        sums.append(sums[-1] + (value or 0.0))
        counts.append(counts[-1] + (value is not None))
    result: list[float] = []
    last = next((value for value in values if value is not None), 1.0)
    least = min((value for value in values if value is not None), default=0.0)
    for index in range(len(values)):
        reach = min(index // 8, max(1, len(values) // 50), len(values) - 1 - index)
        count = counts[index + reach + 1] - counts[index - reach]
        if count:  # the difference of two sums loses small values beside large ones
            last = max(least, (sums[index + reach + 1] - sums[index - reach]) / count)
        result.append(last)
    return result


def _thinned(at: Sequence[float], values: Sequence[float]) -> list[tuple[float, float]]:
    """The least and the greatest value of each column, in their order: the curve's outline in few points."""
    if len(at) <= 2 * _COLUMNS:
        return list(zip(at, values, strict=True))
    points: list[tuple[float, float]] = []
    for column in range(_COLUMNS):
        piece = range(column * len(at) // _COLUMNS, (column + 1) * len(at) // _COLUMNS)
        ends = {min(piece, key=values.__getitem__), max(piece, key=values.__getitem__)}
        points += [(at[index], values[index]) for index in sorted(ends)]
    return points


def loss_curve(training: Training, title: str, name: str, width: int) -> Markup | None:
    """Loss in nats per token over tokens seen, raw and smoothed, with the learning rate in a strip below.

    The loss axis is logarithmic. Skipped steps are crosses. None where fewer than two steps were logged.
    """
    curve = _curve(training.metrics)
    if curve is None:
        return None
    narrow = width < 500
    left, right, top, bottom = 44.0, width - 12.0, 30.0, 236.0 if not narrow else 206.0
    low, high = min(*curve.raw, *curve.smooth) * 0.97, max(*curve.raw, *curve.smooth) * 1.03
    across, up = svg.Scale(curve.at[0], curve.at[-1], left, right), svg.Scale(low, high, bottom, top, log=True)
    body = [svg.label(0, 14, "loss, nats per token (log scale)", "axis-title")]
    for tick in svg.log_ticks(low, high, 8):
        body.append(svg.line(left, up(tick), right, up(tick), "grid"))
        body.append(svg.label(left - 7, up(tick) + 4, svg.tick_label(tick), "tick", "end"))
    body.append(svg.path([(across(x), up(y)) for x, y in _thinned(curve.at, curve.raw)], "curve-raw"))
    body.append(svg.path([(across(x), up(y)) for x, y in _thinned(curve.at, curve.smooth)], "curve"))
    body += [svg.mark("cross", across(x), up(y), "skip", 4.5) for x, y in curve.skipped]
    floor, strip = _rate_strip(training, curve, across, bottom + 26)
    body += strip
    for tick in svg.linear_ticks(curve.at[0], curve.at[-1], 4 if narrow else 7):
        body.append(svg.line(across(tick), floor, across(tick), floor + 5, "axis"))
        anchor = "end" if across(tick) > right - 14 else "middle"
        body.append(svg.label(across(tick), floor + 19, axis_count(tick), "tick", anchor))
    body.append(svg.line(left, floor, right, floor, "axis"))
    body.append(
        svg.label(right, floor + 38, f"{curve.unit} seen" if curve.unit == "tokens" else "step", "axis-title", "end")
    )
    body += _loss_key(curve, left, right, top, narrow)
    said = (
        f"Loss falls from {decimal(curve.smooth[0], 2)} to {decimal(curve.smooth[-1], 2)} nats per token "
        f"over {in_words(curve.at[-1])} {curve.unit}; {counted(len(curve.skipped), 'step')} skipped."
    )
    return svg.frame(name, width, floor + 46, title, said, body)


def _rate_strip(training: Training, curve: _Curve, across: svg.Scale, top: float) -> tuple[float, list[str]]:
    """The learning rate as a share of its peak: (y of the floor, drawing). Without rates, the floor alone."""
    rates = [
        (float(metric.tokens or 0) if curve.unit == "tokens" else float(metric.step), metric.lr)
        for metric in training.metrics
        if metric.lr is not None and math.isfinite(metric.lr)
    ]
    peak = max((rate for _, rate in rates), default=0.0)
    if peak <= 0:
        return top, []
    floor = top + 36
    outline = [(across(x), floor - 32 * rate / peak) for x, rate in rates]
    outline = [
        point for i, point in enumerate(outline) if i % max(1, len(outline) // _COLUMNS) == 0 or i == len(outline) - 1
    ]
    area = [(outline[0][0], floor), *outline, (outline[-1][0], floor)]
    words = svg.label(across.start + 4, floor - 6, "learning rate, share of its peak", "on-fill")
    return floor, [svg.path(area, "rate", closed=True), words]


def _loss_key(curve: _Curve, left: float, right: float, top: float, narrow: bool) -> list[str]:
    """What the lines mean, at the top right where a falling curve leaves room."""
    rows = [("curve-raw", "each step"), ("curve", "smoothed")]
    x = max(left + 60, right - 118)
    body = [svg.rect(x - 8, top + 2, right - x + 8, 19.0 * (len(rows) + bool(curve.skipped)) + 6, "ground")]
    for row, (class_, words) in enumerate(rows):
        y = top + 18 + 19 * row
        body += [svg.line(x, y - 4, x + 22, y - 4, class_), svg.label(x + 30, y, words)]
    if curve.skipped:
        y = top + 18 + 19 * len(rows)
        body += [svg.mark("cross", x + 11, y - 4, "skip", 4.5), svg.label(x + 30, y, "skipped")]
    return body


def bits_plot(scores: Sequence[Score], baselines: Sequence[Score], name: str, width: int) -> Markup | None:
    """Bits per byte of model and baselines, best on top: a mark of its own shape each, 95 % intervals as whiskers.

    The model's interval runs through the whole drawing as a band. Values beyond twice the next are named below
    and not drawn, as they would press the others together. None without a bits-per-byte score.
    """
    model = next((score for score in scores if is_bits(score) and score.value is not None), None)
    if model is None or model.value is None:
        return None
    rivals = [score for score in baselines if is_bits(score) and score.value is not None]
    rows = sorted([(model.value, "", model), *((rival.value or 0.0, baseline_label(rival), rival) for rival in rivals)],
                  key=lambda row: (row[0], row[1]))  # fmt: skip
    shown = [row for row in rows if row[0] <= 2 * max(model.value, sorted(row[0] for row in rows)[len(rows) // 2])]
    beyond = [f"{name_} {decimal(value)}" for value, name_, _ in rows if (value, name_, _) not in shown]
    narrow = width < 500
    left, right, pitch, top = (14.0, width - 20.0, 50.0, 14.0) if narrow else (168.0, width - 82.0, 36.0, 10.0)
    ends = [end for value, _, score in shown for end in (score.interval or (value, value))]
    margin = max((max(ends) - min(ends)) * 0.08, 0.01)
    across = svg.Scale(min(ends) - margin, max(ends) + margin, left, right)
    floor = top + pitch * len(shown)
    body = [
        svg.line(across(tick), top, across(tick), floor, "grid")
        for tick in svg.linear_ticks(across.low, across.high, 5)
    ]
    if model.interval:
        body.append(
            svg.rect(
                across(model.interval[0]),
                top,
                across(model.interval[1]) - across(model.interval[0]),
                floor - top,
                "band",
            )
        )
    for index, (value, label, score) in enumerate(shown):
        y = top + pitch * index + (32 if narrow else pitch / 2)
        body += _bits_row(score, value, label or "this model", across, y, width, narrow)
    for tick in svg.linear_ticks(across.low, across.high, 5):
        body.append(svg.label(across(tick), floor + 17, svg.tick_label(round(tick, 6)), "tick", "middle"))
    body.append(svg.line(left, floor, right, floor, "axis"))
    body.append(svg.label(left, floor + 37, "← better: fewer bits per byte of held-out text", "axis-title"))
    height = floor + 44
    if beyond:
        body.append(svg.label(left, floor + 56, f"beyond the scale: {', '.join(beyond)}", "tick"))
        height += 18
    said = "; ".join(f"{label or 'this model'} {decimal(value)}" for value, label, _ in rows)
    return svg.frame(name, width, height, "Bits per byte of held-out text, fewer is better", said + ".", body)


def _bits_row(
    score: Score, value: float, label: str, across: svg.Scale, y: float, width: int, narrow: bool
) -> list[str]:
    own = label == "this model"
    shape = "diamond" if own else "square" if "reference" in label else "triangle" if "xz" in label else "circle"
    class_ = "own" if own else "rival"
    body = (
        [svg.label(across.start, y - 13, label, f"label {class_}-name")]
        if narrow
        else [svg.label(0, y + 4.5, label, f"label {class_}-name")]
    )
    if score.interval:
        body.append(svg.whisker(across(score.interval[0]), across(score.interval[1]), y, f"{class_}-whisker"))
    body.append(svg.mark(shape, across(value), y, f"{class_}-mark", 6.5 if own else 5))
    body.append(svg.label(width - 1.0, y - 13 if narrow else y + 4.5, decimal(value), f"value {class_}-name", "end"))
    return body


def shares_plot(shares: Sequence[tuple[str, Score]], name: str, width: int) -> Markup | None:
    """Scores that are shares of one as bars from 0 to 100 %, with 95 % whiskers and each one's chance as a dashed line."""
    known = [(label, score, score.value) for label, score in shares if score.value is not None]
    if not known:
        return None
    narrow = width < 500
    left, right, pitch, top = (14.0, width - 20.0, 66.0, 6.0) if narrow else (168.0, width - 82.0, 46.0, 6.0)
    across = svg.Scale(0, 1, left, right)
    floor = top + pitch * len(known)
    body = [svg.line(across(tick), top, across(tick), floor, "grid") for tick in (0, 0.25, 0.5, 0.75, 1)]
    for index, (label, score, value) in enumerate(known):
        y = top + pitch * index + (38 if narrow else pitch / 2)
        who = "rival" if score.name else "own"
        body.append(svg.rect(left, y - 8, across(value) - left, 16, "rival-bar" if score.name else "bar"))
        if score.interval:
            body.append(svg.whisker(across(score.interval[0]), across(score.interval[1]), y, "bar-whisker"))
        if score.chance:
            body.append(svg.line(across(score.chance), y - 15, across(score.chance), y + 15, "chance"))
            body.append(svg.label(across(score.chance) + 5, y + (20 if narrow else -11), _CHANCE, "chance-name"))
        body.append(svg.label(left if narrow else 0, y - 22 if narrow else y + 4.5, label, f"label {who}-name"))
        body.append(svg.label(width - 1.0, y - 22 if narrow else y + 4.5, percent(value), f"value {who}-name", "end"))
    for tick in (0, 0.25, 0.5, 0.75, 1):
        body.append(svg.label(across(tick), floor + 17, f"{tick:.0%}", "tick", "middle"))
    body.append(svg.line(left, floor, right, floor, "axis"))
    said = "; ".join(f"{label} {percent(value)}, {_CHANCE} {percent(score.chance)}" for label, score, value in known)
    return svg.frame(name, width, floor + 24, "Shares of right answers, more is better", said + ".", body)


def parameter_parts(model: Model) -> list[tuple[str, int]]:
    """Where the parameters sit: (part, count), from the shape; empty where the shape does not say."""
    shape = model.shape
    needed = ("dim", "layers", "heads", "kv_heads", "head_dim", "ffn", "vocab")
    if not all(isinstance(shape.get(key), int) for key in needed):
        return []
    dim, layers, heads, kv_heads, head_dim, ffn, vocab = (shape[key] for key in needed)
    tied = bool(shape.get("tied", True))
    gains = dim * (2 * layers + 1) + (2 * head_dim * layers if shape.get("qk_norm") else 0)
    return [
        ("embedding (tied head)" if tied else "embedding and head", vocab * dim * (1 if tied else 2)),
        ("attention", layers * dim * head_dim * (2 * heads + 2 * kv_heads)),
        ("feed-forward (SwiGLU)", layers * 3 * dim * ffn),
        ("norm gains", gains),
    ]


def parameters_strip(model: Model, name: str, width: int) -> Markup | None:
    """One strip, cut in proportion to the parameters of each part, and its key."""
    parts = [(label, count) for label, count in parameter_parts(model) if count > 0]
    total = sum(count for _, count in parts)
    if not total:
        return None
    body, x = [], 0.0
    for index, (label, count) in enumerate(parts):
        wide = width * count / total
        body.append(svg.rect(x, 0, max(0.0, wide - 2), 24, f"part part-{index}"))
        y = 50.0 + 21 * index
        body.append(svg.rect(0, y - 10, 12, 12, f"part part-{index}"))
        body.append(svg.label(20, y, label))
        body.append(
            svg.label(
                width - 1.0,
                y,
                f"{compact(count) if width < 500 else number(count)}  ·  {percent(count / total)}",
                "value",
                "end",
            )
        )
        x += wide
    said = "; ".join(f"{label} {percent(count / total)}" for label, count in parts)
    return svg.frame(name, width, 50 + 21 * len(parts) - 8, "Where the parameters sit", said + ".", body)


def share_bar(left: float, gone: float) -> Markup:
    """A strip for a table's cell: `left` of one full, `gone` of one hatched, the rest empty. Says nothing to a reader's ear:
    the numbers stand beside it."""
    body = svg.rect(0, 0, 100.0 * left, 8, "kept") + svg.rect(100.0 * left, 0, 100.0 * gone, 8, "gone")
    return Markup(  # noqa: S704  numbers only
        svg.element("svg", body, viewbox="0 0 100 8", preserveAspectRatio="none", aria_hidden="true", class_="strip")
    )


def ridge(training: Training | None) -> Markup | None:
    """The page's horizon: this run's own loss curve as a hillside, its rate of falling as the range behind."""
    curve = _curve(training.metrics) if training else None
    if curve is None or len(curve.at) < 20:
        return None
    low, high = math.log(min(curve.smooth)), math.log(max(curve.smooth))
    height = [(math.log(value) - low) / (high - low) if high > low else 0.0 for value in curve.smooth]
    rough = [(math.log(value) - low) / (high - low) if high > low else 0.0 for value in curve.raw]

    def seen(values: list[float]) -> list[float]:
        # Early steps fall steeply and late ones hardly: a square spreads them over the width.
        return [values[min(len(values) - 1, int((at / _HILLS) ** 2 * (len(values) - 1)))] for at in range(_HILLS + 1)]

    return horizon(seen(rough), seen(height))


def horizon(far: Sequence[float], near: Sequence[float]) -> Markup:
    """Two ranges of hills: `near` falls to the right, `far` stands behind it, mirrored. Heights of nought to one."""
    body = []
    for class_, values, tall, floor in (("far", list(reversed(far)), 70.0, 34.0), ("near", list(near), 64.0, 10.0)):
        points = [
            (1000.0 * index / (len(values) - 1), 120.0 - floor - tall * min(1.1, max(0.0, value)))
            for index, value in enumerate(values)
        ]
        body.append(svg.path([(0.0, 120.0), *points, (1000.0, 120.0)], class_, closed=True))
    return Markup(  # noqa: S704  numbers only
        svg.element(
            "svg", "".join(body), viewbox="0 0 1000 120", preserveAspectRatio="none", aria_hidden="true", class_="ridge"
        )
    )
