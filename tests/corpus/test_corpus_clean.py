"""Repair, cutting, and web pages."""

import time
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from puna.corpus import clean, html
from puna.corpus.documents import language_of


def test_repairs_are_named() -> None:
    text, done = clean.repair("a\r\nb\rc\x00d\u2028e\ufeff \ud800cafe\u0301\n")
    assert text == "a\nb\ncd\ne \ufffdcaf\u00e9"
    assert done == ["line ends", "lone surrogates", "control characters", "NFC", "trailing blanks"][:4]
    assert clean.repair("一行\n二行") == ("一行\n二行", [])


@given(st.text(st.characters(exclude_categories=()), max_size=400))
def test_repair_gives_clean_text_and_is_done_once(text: str) -> None:
    fixed, _ = clean.repair(text)
    assert unicodedata.is_normalized("NFC", fixed)
    assert not any(unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t" for c in fixed)
    fixed.encode()
    assert clean.repair(fixed) == (fixed, [])


@given(st.text(alphabet="ab 。.\n中", max_size=300), st.integers(5, 60))
def test_pieces_are_short_and_lose_only_line_ends(text: str, most: int) -> None:
    pieces = list(clean.split_long(text, most))
    assert all(len(piece) <= most for piece in pieces)
    assert "".join(pieces).replace("\n", "") == text.replace("\n", "")


@given(st.text(alphabet="ab 。.\n中", min_size=1, max_size=300), st.floats(0.01, 0.49))
def test_a_tail_is_about_its_share(text: str, share: float) -> None:
    at = clean.cut_at_paragraph(text, share)
    assert abs(len(text) * (1 - share) - at) <= len(text) / 10 + 3


def test_a_page_keeps_its_text_and_drops_the_rest() -> None:
    page = """<!DOCTYPE html><html><head><title>Titel</title><style>p{}</style><script>if (a<b) "</p>"</script></head><body>
    <nav><ul><li>Home</li></ul></nav><svg><path></svg><video><p>Erster Absatz &amp; mehr.</p>
    <p>中文<b>段落</b>。<br>第二行</p><pre>def f():
    return 1</pre><!-- nichts --><footer>Impressum</footer><p>1 < 2</p></body></html>"""
    assert html.main_text(page).splitlines() == [
        "Titel", "Erster Absatz & mehr.", "中文段落。", "第二行", "def f():", "    return 1", "1 < 2",
    ]  # fmt: skip


def test_main_wins_where_it_is_the_text() -> None:
    body = "A long enough sentence of the main text. " * 5
    assert html.main_text(f"<p>Menu</p><main><p>{body}</p></main>") == body.strip()
    assert html.main_text(f"<article>Teaser</article><p>{body}</p>") == f"Teaser\n{body.strip()}"


@pytest.mark.parametrize(
    "part", ["<!--", "<a ", '<a x="', "<![CDATA[", "</", "<?", "&#", "<script>", "<p", "<nav>", "<svg><p>"]
)
def test_hostile_markup_takes_linear_time(part: str) -> None:
    start = time.process_time()
    html.main_text(part * (1_000_000 // len(part)))
    assert time.process_time() - start < 5


@given(st.text(alphabet="<>!-/ab=\"' &;#", max_size=200))
def test_any_markup_is_read(markup: str) -> None:
    html.main_text(markup)


def test_languages() -> None:
    assert language_of("中华人民共和国公民在法律面前一律平等。") == "zh"
    assert language_of("これは日本語の文章です。") == "und"
    assert language_of("This is the house that the man built for it.") == "en"
    assert language_of("12345 ---") == "und"
    assert language_of("Это предложение на русском языке") == "und"
