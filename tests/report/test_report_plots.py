"""Drawings: readable alone, sound with odd numbers, small."""

import math
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from puna import svg
from puna.report import plots
from puna.report.data import Model, Results, Training


def training(losses: list[float | None], **more: Any) -> Training:
    return Training.model_validate(
        {"metrics": [{"step": i, "loss": loss, "tokens": 10 * (i + 1), **more} for i, loss in enumerate(losses)]}
    )


def coordinates(drawing: str) -> list[float]:
    return [float(value) for value in re.findall(r'(?:x|y|x1|x2|y1|y2|cx|cy|width|height)="(-?[\d.]+)"', drawing)]


def test_loss_curve_speaks_without_colour(report: dict[str, Any]) -> None:
    drawing = plots.loss_curve(Training.model_validate(report["training"]), "Loss", "a", 720)
    assert drawing is not None
    assert 'role="img"' in drawing
    assert "<title" in drawing
    assert "1 step skipped" in drawing
    assert 'class="skip"' in drawing
    assert "tokens seen" in drawing
    assert "nats per token" in drawing
    assert "learning rate" in drawing
    assert len(drawing) < 60_000


@pytest.mark.parametrize("losses", [[], [2.0], [None, None], [float("nan"), 3.0], [float("inf"), None, 2.0]])
def test_too_little_to_draw(losses: list[float | None]) -> None:
    assert plots.loss_curve(training(losses), "Loss", "a", 720) is None
    assert plots.ridge(training(losses)) is None


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.none() | st.floats(min_value=-1, max_value=1e6) | st.just(math.nan), min_size=2, max_size=60),
    st.sampled_from([340, 720]),
)
def test_loss_curve_stays_inside_its_frame(losses: list[float | None], width: int) -> None:
    drawing = plots.loss_curve(training(losses, lr=0.1), "Loss", "a", width)
    if drawing is not None:
        assert not re.search(r"\b(nan|inf)\b", drawing)
        assert all(-1 <= value <= max(width, 400) for value in coordinates(drawing))


def test_constant_loss_is_a_line() -> None:
    assert plots.loss_curve(training([2.0] * 50), "Loss", "a", 720) is not None
    assert plots.ridge(training([2.0] * 50)) is not None


def test_smoothing_leaves_out_what_was_skipped() -> None:
    rows = [{"step": i, "loss": 50.0 if i == 30 else 2.0, "tokens": i + 1, "skipped": i == 30} for i in range(60)]
    drawing = plots.loss_curve(Training.model_validate({"metrics": rows}), "Loss", "a", 720)
    assert drawing is not None
    assert "falls from 2.00 to 2.00" in drawing


def test_bits_plot_orders_and_names_what_is_beyond(report: dict[str, Any]) -> None:
    results = Results.model_validate(report["results"])
    for width in (340, 720):
        drawing = plots.bits_plot(results.scores, results.baselines, "b", width)
        assert drawing is not None
        assert "beyond the scale: uniform chance 8.000" in drawing
        places = [
            drawing.index(f">{name}<")
            for name in ("xz -9e, primed", "this model", "reference recipe", "5-gram", "xz -9e")
        ]
        assert places == sorted(places)
        assert 'class="band"' in drawing
        assert 'class="own-mark"' in drawing
    assert plots.bits_plot([], results.baselines, "b", 720) is None


def test_a_model_far_worse_than_all_is_still_drawn(report: dict[str, Any]) -> None:
    results = report["results"]
    results["scores"][0] |= {"value": 7.9, "interval": [7.8, 8.0]}
    found = Results.model_validate(results)
    drawing = plots.bits_plot(found.scores, found.baselines, "b", 720)
    assert drawing is not None
    assert ">this model<" in drawing
    assert ">xz -9e<" in drawing


def test_parameters_add_up(report: dict[str, Any]) -> None:
    model = Model.model_validate(report["model"])
    assert sum(count for _, count in plots.parameter_parts(model)) == model.parameters
    assert plots.parameters_strip(Model.model_validate({"shape": {"dim": "?"}}), "p", 720) is None


@given(st.floats(1e-3, 1e3), st.floats(1.01, 1e4), st.integers(2, 9))
def test_ticks_lie_inside(low: float, ratio: float, wished: int) -> None:
    high = low * ratio
    for ticks in (svg.linear_ticks(low, high, wished), svg.log_ticks(low, high, wished)):
        assert all(low * (1 - 1e-6) <= tick <= high * (1 + 1e-6) for tick in ticks)
        assert len(ticks) <= 3 * wished + 1


def test_labels_are_escaped() -> None:
    assert svg.label(0, 0, "<b>&\x00") == '<text x="0" y="0" class="label" text-anchor="start">&lt;b&gt;&amp;␀</text>'
