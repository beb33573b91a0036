"""A model made from another one: its page and card show both rows, the long context and the vocabulary, and nothing else changes."""

import re
from typing import Any

import pytest
from pydantic import ValidationError
from tests_report_base import inheritance_part, long_context_part, with_base
from tests_report_pages import HOSTILE, poisoned, read

from puna.report import ReportData, render_card
from puna.report.base_plots import domain_plot, needle_heat, positions_plot
from puna.report.data import Inheritance, LongContext
from puna.report.page import report_html

SECTIONS = ("inherited", "long-context", "vocabulary")


def page(data: dict[str, Any]) -> str:
    return report_html(ReportData.model_validate(data))


def test_three_sections_with_tables_drawings_and_sentences(report: dict[str, Any]) -> None:
    html = page(with_base(report))
    reader = read(html)
    text = " ".join(reader.text)
    assert set(SECTIONS) <= set(reader.ids)
    for expected in ("Inherited and own", "2.310", "1.980", "1.710", "forgot 0.090 bits per byte on the old text", "made from the open weights of stories260K",
                     "inherited was made for 128 tokens", "9.100", "80.0", "3.02", "2.31", "theta 500,000", "1.07"):  # fmt: skip
        assert expected in text, expected
    assert "trained from random weights" not in text
    assert html.index('id="verdict"') < html.index("gained 0.330 bits per byte") < html.index('id="vocabulary"')
    assert not [key for _, key, _ in reader.attributes if key == "style"]


def test_without_them_nothing_is_said(report: dict[str, Any]) -> None:
    html = page(report)
    assert not set(SECTIONS) & set(read(html).ids)
    assert "trained from random weights" in html
    again = {
        **report,
        "base": {},
        "extension": {},
        "results": {**report["results"], "inheritance": None, "long_context": None},
    }
    assert page(again) == html
    assert render_card(again) == render_card(report)
    # The same style sheet with and without: a page of a build from random weights is what it was.
    assert re.findall("<style>.*?</style>", html, re.S) == re.findall(
        "<style>.*?</style>", page(with_base(report)), re.S
    )


@pytest.mark.parametrize("part", ["inheritance", "long_context"])
def test_each_may_be_alone(report: dict[str, Any], part: str) -> None:
    results = {part: with_base(report)["results"][part]}
    html = page({"run": "x", "results": results})
    assert (set(SECTIONS) & set(read(html).ids)) == {"inherited" if part == "inheritance" else "long-context"}
    assert "None" not in " ".join(read(html).text)
    render_card({"run": "x", "results": results})


def test_only_the_new_text_and_too_few_documents(report: dict[str, Any]) -> None:
    data = with_base(report)
    for row in data["results"]["inheritance"]["rows"]:
        del row["scores"]["old"]
    models = data["results"]["long_context"]["positions"]["models"]
    for found in models.values():
        del found["ranges"]
        found["reason"] = "3 documents of 512 tokens or more; 8 are needed"
    text = " ".join(read(page(data)).text)
    assert "is like that which the base was made for" not in text
    assert "Bits per byte by position" not in text


def test_hostile_names_stay_text(report: dict[str, Any]) -> None:
    tags = read(page(with_base(report))).tags
    bad = poisoned(with_base(report))
    bad["extension"] = {HOSTILE: bad["extension"]["Han"]}
    bad["results"]["inheritance"]["languages"] = {
        HOSTILE: {HOSTILE: bad["results"]["inheritance"]["languages"]["new"]["zh"]}
    }
    reader = read(page(bad))
    assert reader.tags <= tags
    assert not [key for _, key, _ in reader.attributes if key.startswith("on")]
    card = render_card(bad).split("## Inherited and own")[1].split("\n## Data")[0]
    assert "<script>" not in card
    assert "\\<script\\>" in card
    rows = [line for line in card.split("\n") if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in rows} == {6, 4}  # five cells, and three of the vocabulary


def test_the_card_holds_table_and_sentences(report: dict[str, Any]) -> None:
    card = render_card(with_base(report))
    part = card.split("## Inherited and own")[1].split("## Vocabulary")[0]
    assert "| inherited | 2.310 | 2.260 to 2.360 | 1.620 | 1.570 to 1.670 |" in part
    assert "| own minus inherited, old text |  |  | 0.090 | 0.080 to 0.100 |" in part
    assert "- All that was done to the base forgot 0.090 bits per byte on the old text." in part
    assert "| Han | 1.31 | 3.02 |" in card
    assert "Beyond the 128 tokens" in card.split("## Long context")[1]
    assert "\n\n\n" not in card


def test_drawings_hold_every_number_for_those_who_cannot_see_them() -> None:
    inheritance, long = Inheritance.model_validate(inheritance_part()), LongContext.model_validate(long_context_part())
    dots, curves = domain_plot(inheritance, "old", "a", 340), positions_plot(long.by_position, "b", 720)
    heat = needle_heat(long.needle["own"], "own", "c", 340)
    assert dots and "inherited 1.620; init 1.660; own 1.710" in dots
    assert curves and "256 to 512 9.100" in curves and "log scale" in curves
    assert heat and "512 tokens, depth 50" in heat
    assert heat.count(">80<") == 6
    assert domain_plot(inheritance, "none", "a", 340) is None
    assert positions_plot({}, "b", 340) is None
    close = {"own": long.by_position["own"]}
    assert "log scale" not in str(positions_plot(close, "b", 340))


def test_a_wrong_shape_is_refused(report: dict[str, Any]) -> None:
    data = with_base(report)
    data["results"]["inheritance"]["rows"] = data["results"]["inheritance"]["rows"][:1]
    with pytest.raises(ValidationError):
        page(data)
    data = with_base(report)
    data["extension"]["Han"]["bytes_per_token_before"] = 0
    with pytest.raises(ValidationError):
        page(data)
