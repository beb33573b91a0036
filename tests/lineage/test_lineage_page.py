"""The page of a comparison: self-contained, with its maps, and safe whatever a model is called."""

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from puna.lineage.compare import compare
from puna.lineage.verdict import Lineage
from puna.lineage.zoo import changes
from puna.report.lineage_page import lineage_html, write_lineage_page

HOSTILE = '"><script>alert(1)</script><img src=x onerror=alert(1)>\u202e{{ 7 * 7 }}'


class Seen(HTMLParser):
    """Every tag with what it holds."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def parsed(html: str) -> list[tuple[str, dict[str, str | None]]]:
    seen = Seen()
    seen.feed(html)
    return seen.tags


@pytest.fixture(scope="module")
def found(family: Any) -> list[Lineage]:
    grown = family.opened("duplicate", changes.grown(family["first"], "duplicate"))
    return compare(grown, [family.opened("first"), family.opened("second")])


def named(found: list[Lineage], name: str) -> list[Lineage]:
    return [one.model_copy(update={"model": name, "reference": name}) for one in found]


def test_the_page_loads_nothing(found: list[Lineage]) -> None:
    html = lineage_html(found)
    for tag, attributes in parsed(html):
        for key in ("src", "href", "xlink:href", "action", "data", "srcset", "poster"):
            value = attributes.get(key) or "#"
            assert value.startswith(("#", "data:")), (tag, key, value)
        assert tag not in ("iframe", "object", "embed", "base")
        assert not any(key.startswith("on") for key in attributes), (tag, attributes)
    assert not re.search(r"@import|url\((?!['\"]?data:)", html)


def test_the_maps_are_drawn_and_described(found: list[Lineage]) -> None:
    html = lineage_html(found)
    assert html.count("Which block comes from which") >= 2 and "How much each tensor differs" in html
    assert "block 3 from 1" in html and "block 5 from 3" in html  # the drawing's words, for who cannot see it
    assert "0-2 from 0-2, 3-5 from 1-3" in html
    assert sum(tag == "svg" for tag, _ in parsed(html)) >= 4


def test_p_values_stand_beside_their_nulls(found: list[Lineage]) -> None:
    html = lineage_html(found)
    for test in found[0].layers.weights.tests:
        assert test.title.split(":")[0] in html
        if test.ran:
            assert test.null.replace("'", "&#39;")[:60] in html
        else:
            assert f"not run: {test.why_not}" in html


def test_a_hostile_name_stays_text(found: list[Lineage]) -> None:
    plain, html = lineage_html(found), lineage_html(named(found, HOSTILE))

    def counted(page: str) -> dict[str, int]:
        tags = [tag for tag, _ in parsed(page)]
        return {tag: tags.count(tag) for tag in ("script", "img")}

    assert counted(html) == counted(plain)
    assert "<script>alert" not in html and "&lt;script&gt;" in html
    assert "\u202e" not in html and "{{ 7 * 7 }}" in html


def test_written_whole(found: list[Lineage], tmp_path: Path) -> None:
    write_lineage_page(found, tmp_path / "lineage.html")
    assert (tmp_path / "lineage.html").read_text(encoding="utf-8") == lineage_html(found)
    with pytest.raises(ValueError, match="no comparison"):
        lineage_html([])
