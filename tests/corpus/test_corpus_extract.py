"""The main text of pages: gold pages beside the peers, hostile pages, encodings."""

import json
import tarfile
import time
from pathlib import Path

import pytest
import zstandard

from puna.corpus import extract, html

DATA = Path(__file__).parents[3] / "shared/data/dirty"
EN = "The quick brown fox jumps over the lazy dog, and then it goes home to its family to sleep. "
ZH = "中华人民共和国公民在法律面前一律平等。国家尊重和保障人权，任何公民享有宪法和法律规定的权利，同时必须履行宪法和法律规定的义务。"

ARTICLE = f"""<!DOCTYPE html><html lang="en"><head><title>The fox</title><script>var a = "<p>not text</p>";</script>
<style>p {{ color: red }}</style></head><body>
<nav><ul><li><a href="/">Home</a></li><li><a href="/about">About us</a></li></ul></nav>
<article><h1>The fox and the dog</h1><p>{EN * 4}</p><!-- hidden note --><p>{ZH * 2}</p><p>{EN * 3}Last words.</p></article>
<footer><p>Copyright 2024. All rights reserved.</p><a href="/imprint">Imprint</a></footer></body></html>"""


def gold_pages() -> list[tuple[str, dict[str, list[str]]]]:
    if not DATA.is_dir():
        pytest.skip("needs ../shared/data/dirty")
    gold = json.loads((DATA / "web_html_gold.json").read_text())
    with zstandard.open(DATA / "web_html.tar.zst", "rb") as stream, tarfile.open(fileobj=stream, mode="r|") as tar:
        pages = {Path(m.name).name: tar.extractfile(m).read() for m in tar if m.isreg()}  # type: ignore[union-attr]
    found = []
    for entry in gold.values():
        decoded = html.decode_page(pages[entry["file"]])
        assert decoded is not None, entry["file"]
        found.append((decoded[0], entry))
    return found


def test_an_article_keeps_its_paragraphs_and_loses_the_rest() -> None:
    lines = extract.main_text(ARTICLE).split("\n")
    assert lines == ["The fox and the dog", (EN * 4).strip(), ZH * 2, f"{EN * 3}Last words."]
    assert extract.main_text(ARTICLE, "https://example.org/fox").split("\n") == lines


def test_chinese_pages_are_read_like_english_ones() -> None:
    page = ARTICLE.replace(EN, ZH)
    assert extract.main_text(page).count(ZH) == 9
    assert "Home" not in extract.main_text(page)


def test_gold_pages_are_all_decoded_and_extracted_well() -> None:
    hits = {"with": 0, "without": 0}
    total = dict(hits)
    for markup, entry in gold_pages()[::4]:  # bench/extraction.py has all of them, and the peers
        text = " ".join(extract.main_text(markup).split())
        for side in hits:
            total[side] += len(entry[side])
            hits[side] += sum(" ".join(snippet.split()) in text for snippet in entry[side])
    recall, precision = hits["with"] / total["with"], hits["with"] / (hits["with"] + hits["without"])
    assert recall > 0.9
    assert 2 * recall * precision / (recall + precision) > 0.89


HOSTILE = {
    "nested 10,000 deep": "<html><body>" + "<div>" * 10_000 + EN + "</div>" * 10_000,
    "nested and never closed": "<p>" + "<b><i>" * 10_000 + EN,
    "nested tables": "<table><tr><td>" * 10_000 + EN,
    "comments that never end": EN + "<!--" * 50_000,
    "scripts that never end": EN + "<script>" * 50_000,
    "only <": EN + "<" * 200_000,
    "tags that never end": EN + "<a " * 300_000,
    "100,000 attributes": "<div " + " ".join(f"a{n}=1" for n in range(100_000)) + ">" + EN,
    "100,000 quoted attributes": "<div " + "".join(f"a{n}='>'" for n in range(100_000)) + ">" + EN,
    "40 tags of 3,000 attributes": ("<p " + " ".join(f"a{n}" for n in range(3000)) + ">" + EN) * 40,
    "a line of a megabyte": "<p>" + EN * 11_000 + "</p>",
    "a word of four megabytes": "<p>" + EN + "a" * 4_000_000 + "</p>",
    "entities": f"<p>{EN}" + "&#x110000;&#0;&#xd800;&amp" * 50_000,
    "NULs": EN + "\0" * 100_000,
    "half characters": f"<p>{EN}" + "\ud800\udc00\ufffe" * 1000,
    "200,000 links": f"<p>{EN}" + "<a href='/x'>link</a> " * 200_000,
    "300,000 line breaks": f"<p>{EN}" + "x<br>" * 300_000,
    "200,000 cells": f"<table><tr><td>{EN}" + "<tr><td>a<td>b" * 100_000,
    "forms": "<form><div>" * 50_000 + EN,
    "svg": "<svg>" * 50_000 + "</svg>" * 50_000 + f"<p>{EN}</p>",
    "Chinese without end": "<p>" + ZH * 50_000,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pages_take_bounded_time_and_keep_their_text(name: str) -> None:
    begin = time.process_time()
    text = extract.main_text(HOSTILE[name])
    assert time.process_time() - begin < 6
    assert "lazy dog" in text or ZH in text
    text.encode()


@pytest.mark.parametrize("page", ["", "  ", "<", "<!", "<p", "\0", "<html></html>", "<!---->", "<script>1</script>"])
def test_pages_without_text_give_none(page: str) -> None:
    assert extract.main_text(page).strip() in ("", "<")


def test_a_page_is_decoded_as_it_or_its_server_declares() -> None:
    polish = "<html><head><meta charset='{}'></head><p>Zażółć gęślą jaźń, proszę państwa</p>"
    for said, codec in [("iso-8859-2", "iso-8859-2"), ("UTF-8'><meta charset='windows-1250", "cp1250")]:
        markup, name = html.decode_page(polish.format(said).encode(codec)) or ("", "")
        assert "Zażółć gęślą jaźń" in markup
        assert name.endswith("declared")
    assert "Zażółć" in (html.decode_page("Zażółć gęślą jaźń".encode("cp1250"), "Windows-1250") or ("", ""))[0]
    chinese = f"<meta charset=gb2312><p>{ZH}"
    assert html.decode_page(chinese.encode("gb18030"), "utf-8") == (chinese, "gb18030, declared")
    assert html.decode_page(chinese.encode()) == (chinese, "utf-8")  # what is whole UTF-8 is UTF-8
    assert (html.decode_page(f"<p>{ZH}".encode("gb18030")) or ("", ""))[1] == "gb18030, guessed"
    for name in ("unicode_escape", "punycode", "rot13", "zip"):
        assert "declared" not in str(html.decode_page(f"<meta charset={name}><p>caf\\u00e9 é é".encode("cp1252")))
    assert html.decode_page(b"\0\1\2" * 100) is None
    assert html.decode_page(b"") == ("", "empty")
