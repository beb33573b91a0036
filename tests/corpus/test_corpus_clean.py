"""Repair, cutting, and web pages."""

import time
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from puna.corpus import clean, html


def test_repairs_are_named() -> None:
    text, done = clean.repair("a\r\nb\rc\x00d\u2028e\ufeff \ud800cafe\u0301\n")
    assert text == "a\nb\ncd\ne \ufffdcaf\u00e9"
    assert done == ["lone surrogates", "control characters", "line ends", "NFC"]
    assert clean.repair("一行\n二行") == ("一行\n二行", [])


@given(st.text(st.characters(exclude_categories=()), max_size=400))
def test_repair_gives_clean_text_and_is_done_once(text: str) -> None:
    fixed, _ = clean.repair(text)
    assert unicodedata.is_normalized("NFC", fixed)
    assert not any(unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t" for c in fixed)
    fixed.encode()
    assert clean.repair(fixed) == (fixed, [])


@pytest.mark.parametrize(
    ("broken", "mended"),
    [
        ("itâ€™s a cafÃ©", "it’s a café"),
        ("it\u00e2\u0080\u0099s", "it’s"),
        ("smart \x93quotes\x94 here", "smart “quotes” here"),
        ("中文字符，你好".encode().decode("cp1252", "replace").replace("\ufffd", "\x81"), None),
        ("Привет, мир".encode().decode("cp1251"), "Привет, мир"),
        ("人权宣言，是的。在中国也一样".encode().decode("gb18030", "replace"), None),
        ("中文字符，你好".encode().decode("latin-1"), "中文字符，你好"),
    ],
)
def test_mojibake_is_read_again(broken: str, mended: str | None) -> None:
    fixed, done = clean.repair(broken)
    assert clean.repair(fixed) == (fixed, [])
    if mended is not None:
        assert (fixed, done) == (mended, ["mojibake"])


@pytest.mark.parametrize(
    "text",
    [
        "café… côté» l’été—à «oui» naïve ½ × ² São Paulo; Ça va?",
        "ﬁ “q” ‘s’ Ａ１ ，。 ｶﾅ ½ № ™",
        "涓涓细流，銆是编码，鐨也是。“全角”与half-width",
        "Œuvre à l’œuvre, Ångström, Übergröße — fünf € «äöü»",
        "Всё это — «кавычки», № 5. Ђорђе",
    ],
)
def test_clean_text_is_left_alone(text: str) -> None:
    assert clean.repair(text) == (text, [])


def test_a_long_run_of_blanks_takes_linear_time() -> None:
    start = time.process_time()
    clean.repair("x" + " " * 1_000_000 + "y")
    clean.repair("é" + "Ã©" * 300_000)
    assert time.process_time() - start < 5


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
