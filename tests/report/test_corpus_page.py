"""The corpus report as a stranger gets it: every document accounted for, safe with hostile text, short however much there is."""

import itertools
import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from tests_report_corpus import ARABIC, CHINESE, whole_corpus
from tests_report_pages import HOSTILE, poisoned, read

from puna.report.corpus_data import CorpusData, Histogram
from puna.report.corpus_page import corpus_html, render_corpus
from puna.report.corpus_plots import histogram, limits, waterfall
from puna.report.corpus_words import Flow, change, corpus_summary, headline
from puna.words import brief, cells, small_share, wrapped

PARTS = [part for part in whole_corpus() if part != "run"]
BAD = HOSTILE + "\u2066\ufeff"


@pytest.fixture
def corpus() -> dict[str, Any]:
    """Every part of a corpus report, fresh for each test."""
    return whole_corpus()


def page(data: dict[str, Any]) -> str:
    return corpus_html(CorpusData.model_validate(data))


def text_of(html: str) -> str:
    return " ".join(" ".join(read(html).text).replace("\u202f", " ").split())


def drawn_numbers(drawing: str) -> list[float]:
    """Every coordinate on the x axis that a drawing names, paths included."""
    named = [float(value) for value in re.findall(r'(?:x|x1|x2)="(-?[\d.]+)"', drawing)]
    return named + [float(value) for value in re.findall(r"[ML](-?[\d.]+) ", drawing)]


def test_writes_one_whole_page(corpus: dict[str, Any], tmp_path: Path) -> None:
    render_corpus(json.loads(json.dumps(corpus)), tmp_path / "corpus.html")
    assert [path.name for path in tmp_path.iterdir()] == ["corpus.html"]
    html = (tmp_path / "corpus.html").read_text(encoding="utf-8")
    text = text_of(html)
    for expected in (
        "From 184,211 documents and 1.24 GB of text, 53.7 % of the bytes and 59.1 % of the documents went;",
        "language (18.5 %), near duplicates (8.6 %) and text metrics (7.4 %) took the most.",
        "56,645 were kept as they came, 21,300 were kept with changes, and 112,398 were removed: 39,242 by language",
        "4,120 removed below 50, 812 removed above 40,000",
        "none of en, zh, ar",
        "人民法院",
        "97.3 % of the time",
        "27,400 documents stand in 9,011 groups",
        "129 to 256",
        "chinese resident id",
        "binary 12, nested too deep 1.",
        "2026-11",
    ):
        assert expected in text
    assert len(html.encode()) < 400_000


def test_nothing_is_fetched_or_run(corpus: dict[str, Any]) -> None:
    html = page(corpus)
    reader = read(html)
    assert not reader.tags & {"script", "link", "img", "iframe", "object", "embed", "form", "base"}
    keys = [key for _, key, _ in reader.attributes]
    assert not [key for key in keys if key in ("src", "srcset", "style", "action") or key.startswith("on")]
    assert "url(" not in html
    assert "@import" not in html
    assert html == page(whole_corpus())


@pytest.mark.parametrize("part", PARTS)
def test_any_part_may_be_missing_or_alone(corpus: dict[str, Any], part: str) -> None:
    assert "None" not in text_of(page({"run": "mine", part: corpus[part]}))
    del corpus[part]
    assert "None" not in text_of(page(corpus))


def test_a_bare_run_has_no_sections() -> None:
    reader = read(page({"run": "empty"}))
    assert not reader.tags & {"table", "section", "details"}


def test_sections_are_those_with_something_in_them(corpus: dict[str, Any]) -> None:
    assert {f"#{name}" for name in ("stages", "limits", "removed", "contamination")} <= {
        value for _, key, value in read(page(corpus)).attributes if key == "href"
    }
    html = page({"run": "mine", "histograms": {"en": {}}, "skipped": {"binary": 0}, "documents": {"train": 3}})
    assert "<section" not in html


def test_hostile_strings_stay_text(corpus: dict[str, Any]) -> None:
    tags = read(page(corpus)).tags
    bad = poisoned(corpus)
    for part in ("histograms", "languages", "scripts", "licences", "perplexity", "personal", "safety", "contamination",
                 "encodings", "skipped", "versions"):  # fmt: skip
        bad[part] = {f"{BAD}{index}": value for index, value in enumerate(bad[part].values())}
    bad["histograms"] = {
        lang: {f"{BAD}{name}": one for name, one in measures.items()} for lang, measures in bad["histograms"].items()
    }
    for step in bad["steps"]:
        step["removed"] = {BAD: 3}
        step["changed"] = {BAD: 1}
        for sample in step["samples"]:
            sample["text"] = BAD
    bad["accounts"]["removed"] = {BAD: sum(bad["accounts"]["removed"].values())}
    html = page(bad)
    reader = read(html)
    assert reader.tags <= tags
    assert not [key for _, key, _ in reader.attributes if key.startswith("on")]
    assert not re.search("[\x00\u202e\u2066\ufeff]", html)
    assert "⟨U+2066⟩" in html
    assert "{{ 7*7 }}" in html
    assert not re.search("[\x00\x1b\u202e\u2066]", corpus_summary(bad))


def test_quotations_keep_their_direction_and_language(corpus: dict[str, Any]) -> None:
    html = page(corpus)
    assert f'<pre class="text" dir="auto" lang="">{ARABIC}' in html
    assert f'<pre class="text" dir="auto" lang="zh">{CHINESE}' in html
    assert "<bdi>كتاب</bdi>" in html
    assert '<bdi lang="zh">法律</bdi>' in html


def test_accounts_that_do_not_add_up_give_no_page(corpus: dict[str, Any], tmp_path: Path) -> None:
    corpus["accounts"]["kept"] -= 3
    with pytest.raises(ValidationError, match="3 are not accounted for"):
        render_corpus(corpus, tmp_path / "corpus.html")
    corpus["accounts"]["kept"] += 5
    with pytest.raises(ValidationError, match="2 are counted twice"):
        corpus_summary(corpus)
    assert list(tmp_path.iterdir()) == []


def test_stages_that_do_not_meet_are_said(corpus: dict[str, Any]) -> None:
    assert "do not meet" not in page(corpus)
    corpus["documents"], corpus["bytes"] = {"train": 9, "heldout": 804}, {"train": 9, "heldout": 5_200_000}
    last = corpus["steps"][-1]
    last["documents_in"] -= 804
    last["bytes_in"] -= 5_200_000
    assert "804 documents (5.20 MB) were set aside to judge by" in text_of(page(corpus))
    corpus["steps"][4]["documents_in"] += 1
    assert "Between url block list and language the counts do not meet" in text_of(page(corpus))


@pytest.mark.parametrize("change_of", [
    {"accuonts": {}},
    {"histograms": {"en": {"words": {"edges": [0, 1, 1], "counts": [1, 1]}}}},
    {"histograms": {"en": {"words": {"edges": [0, 1], "counts": [1, 1]}}}},
    {"histograms": {"en": {"words": {"edges": [0, float("inf")], "counts": [1]}}}},
    {"languages": {"en": {"documents": -1}}},
])  # fmt: skip
def test_what_has_not_the_shape_is_refused(change_of: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        page({"run": "mine", **change_of})


def test_much_of_everything_stays_short(corpus: dict[str, Any]) -> None:
    amount = {"documents": 5, "bytes": 50}
    corpus |= {
        part: {f"{part}-{index}": amount for index in range(2_000)} for part in ("languages", "scripts", "licences")
    }
    corpus["histograms"] = {f"x{index}": corpus["histograms"]["en"] for index in range(300)}
    for part in ("topics", "mixture", "sources", "split"):
        corpus[part] = corpus[part] * 500
    for part in ("personal", "encodings", "skipped"):
        corpus[part] = {f"{part}-{index}": 3 for index in range(2_000)}
    corpus["steps"][4]["samples"] = [
        {"reason": f"reason {index % 400}" * 50, "source": "s" * 100_000, "text": "字\u202e" * 100_000} for index in range(900)
    ]  # fmt: skip
    started = time.process_time()
    html = page(corpus)
    assert time.process_time() - started < 5
    assert len(html.encode()) < 2_000_000
    text = text_of(html)
    assert "1,960 others" in text
    assert "288 more languages" in text
    assert "[…]" in text


def test_waterfall_says_all_in_shapes_and_words(corpus: dict[str, Any]) -> None:
    html = page(corpus)
    for width in ("wide", "narrow"):
        drawing = html.split(f'id="waterfall-{width}-title"')[1].split("</svg>")[0]
        names = re.findall(r'stage-name" text-anchor="start">([^<]+)<', drawing)
        assert "near duplicates" in names
        assert names[:2] == ["read", "repair"]
        assert 'class="hatch"' in drawing
        assert 'class="added"' in drawing
        assert "taken by the stage" in drawing
        assert "184,211 documents and 1.24\u202fGB came in" in drawing


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 10**13), st.integers(0, 10**13), st.text(max_size=60)), min_size=1, max_size=24),
    st.sampled_from([340, 720]),
)
def test_waterfall_stays_inside_its_frame(ends: list[tuple[int, int, str]], width: int) -> None:
    rows = [Flow(name, came, gone, gone, came) for came, gone, name in ends]
    drawing = waterfall(rows, "w", width)
    if drawing is None:
        assert not any(came or gone for came, gone, _ in ends)
        return
    assert all(-0.1 <= x <= width + 0.1 for x in drawn_numbers(drawing))


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.floats(-1e9, 1e9), min_size=2, max_size=40, unique=True).map(sorted),
    st.data(),
)
def test_histogram_stays_inside_its_frame(edges: list[float], data: st.DataObject) -> None:
    size = len(edges) - 1
    limit = st.none() | st.floats(-2e9, 2e9)
    found = Histogram.model_validate(
        {"edges": edges, "counts": data.draw(st.lists(st.integers(0, 10**12), min_size=size, max_size=size)),
         "low": data.draw(limit), "high": data.draw(limit)}
    )  # fmt: skip
    drawing = histogram(found, "words", "h")
    if drawing is None:
        assert not any(found.counts)
        return
    assert all(-0.1 <= x <= 340.1 for x in drawn_numbers(drawing))


def test_histogram_cuts_a_bar_at_its_limit() -> None:
    found = Histogram(edges=[0.0, 10.0, 20.0], counts=[4, 2], low=5.0, below=2)
    drawing = histogram(found, "words", "h")
    assert drawing is not None
    assert "at least 5" in drawing
    assert limits(found) == "2 removed below 5"
    bars = {
        name: re.findall(r"M(\S+) \S+h(\S+)v", box) for box, name in re.findall(r'd="([^"]+)" class="(\S+)"', drawing)
    }
    kept, gone = bars["kept-text"], bars["gone"]
    assert float(gone[0][1]) == pytest.approx(float(kept[0][1]), abs=0.11)  # half of the first bar is each
    assert float(gone[0][0]) + float(gone[0][1]) == pytest.approx(float(kept[0][0]), abs=0.11)
    assert len(gone) == 1


def test_summary_fits_a_terminal(corpus: dict[str, Any]) -> None:
    corpus["steps"][5]["step"] = "去除与保留集近似重复的段落以及其他所有过长的名称"
    corpus["steps"][6]["step"] = "a" * 300
    said = corpus_summary(corpus)
    lines = said.split("\n")
    assert max(map(cells, lines)) <= 80
    assert re.search(r"^ +5  language +144,995 +-21\.3 % +995 MB +-18\.7 %$", said, flags=re.M)
    assert sum(bool(re.match(r" *\d+  ", line)) for line in lines) == 20
    assert "went" in said
    assert "21,300 were kept" in said.replace("\n", " ")
    assert corpus_summary({"run": "empty"}) == ""


def test_headline_is_modest_where_little_is_known() -> None:
    step = {"step": "read", "documents_in": 3, "documents_out": 3, "bytes_in": 900, "bytes_out": 90}
    assert headline(CorpusData.model_validate({"run": "r", "steps": [step]})).endswith("nothing was taken away.")
    grown = {"step": "cut", "documents_in": 3, "documents_out": 9, "bytes_in": 90, "bytes_out": 45}
    said = headline(CorpusData.model_validate({"run": "r", "steps": [step, grown]})).replace("\u202f", " ")
    assert said == "From 3 documents and 90 bytes of text, 50.0 % of the bytes went, all of it by cut."


def test_small_shares_are_never_written_as_nought() -> None:
    assert [small_share(share).replace("\u202f", " ") for share in (0.123, 0.0004, 0.0000021, 0.0)] == [
        "12.3 %", "0.04 %", "<0.01 %", "0.0 %"]  # fmt: skip
    assert (change(10, 10), change(0, 3)) == ("–", "+")
    assert change(1_000_000, 999_990) == "\u2212<0.01\u202f%"


@given(st.text(max_size=200), st.integers(2, 40), st.none() | st.integers(1, 4))
def test_wrapped_lines_are_never_too_wide(text: str, width: int, most: int | None) -> None:
    lines = wrapped(text, width, most)
    assert all(cells(line) <= width for line in lines)
    assert most is None or len(lines) <= most


def test_names_keep_their_ends() -> None:
    name = brief("/".join(itertools.repeat("folder", 5_000)) + "/page.html\n\u202e")
    assert len(name) <= 90
    assert name.startswith("folder/folder")
    assert "page.html" in name
