"""Rule-based correction: what goes, what stays; block lists."""

import gzip
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from puna.corpus import clean
from puna.corpus.correct import LINE_RULES, correct, load_blocklist
from puna.errors import PunaError


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        ("Please enable JavaScript to view this page.", "javascript"),
        ("您的浏览器不支持JavaScript，请开启后重试", "javascript"),
        ("We use cookies to improve your experience.", "cookie notice"),
        ("Lorem ipsum dolor sit amet, consectetur", "lorem ipsum"),
        ("Copyright © 2019 ACME Inc. All rights reserved.", "copyright"),
        ("版权所有 © 2020 某某公司", "copyright"),
        ("京ICP备05011234号-1", "filing number"),
        ("Privacy Policy | Terms of Use | Contact Us", "legal menu"),
        ("网站地图 | 联系我们 | 关于我们", "menu in Chinese"),
        ("Skip to main content", "menu"),
        ("Read more »", "menu"),
        ("Home > Products > Tea", "breadcrumb"),
        ("您当前的位置：首页 > 新闻 > 正文", None),
        ("当前位置：首页 > 新闻 > 正文", "breadcrumb"),
        ("Share on Facebook Twitter WhatsApp", "share buttons"),
        ("分享到： 微信 新浪微博 QQ空间", "share buttons"),
        ("上一篇：没有了", "neighbours"),
        ("下一頁", "neighbours"),
        ("责任编辑：张三", "editor"),
        ("（責任編輯：李四）", "editor"),
        ("点击查看更多", "click here in Chinese"),
        ("阅读全文", "click here in Chinese"),
    ],
)
def test_boilerplate_lines_go_by_name(line: str, rule: str | None) -> None:
    if rule is None:
        return
    text, done = correct(f"An honest line.\n{line}\n正文一行。", "en")
    assert text == "An honest line.\n正文一行。"
    assert dict(done) == {rule: 1}


@pytest.mark.parametrize(
    "line",
    [
        "She learned JavaScript at school, and then Python.",
        "He baked cookies for the children, and we ate them all.",
        "Home is where the heart is.",
        "Read more books, he said, and the world will open.",
        "The privacy of the home is inviolable.",
        "Share this burden with me.",
        "copyright 1996 graeme huggan carry on henry is all about henry viii and his eight wives !",
        "作者对其作品享有著作权，版权的期限为五十年。",
        "编辑部设在北京。",
        "上一篇文章里我们讨论了这个问题。",
        "他点击鼠标，屏幕亮了。",
        "我们联系不上他。",
        "Ｆｕｌｌ　ｗｉｄｔｈ，ｶﾅ “quotes” ﬁ",
        "……——",
        "□□□□□□□□□□□□□□□□□□□□□□□□□□□□",
        "00000000000000000000000000000000",
        "| --- | --- |",
        "---",
    ],
)
def test_prose_stays(line: str) -> None:
    for lang in ("en", "zh"):
        assert correct(f"Before.\n{line}\nAfter.", lang) == (f"Before.\n{line}\nAfter.", {})


def test_words_broken_at_a_line_end() -> None:
    assert correct("an exam-\nple of it. An example.", "en") == ("an example\nof it. An example.", {"broken words": 1})
    assert correct("twenty-\none men", "en")[0] == "twenty-one\nmen"
    assert correct("a well-\nknown man, well-known", "en")[0] == "a well-known\nman, well-known"
    for left in (
        "user-\nfriendly",
        "- item-\n- b",
        "2019-\n20",
        "state-\nof-the-art",
        "Jean-\nPaul",
        "中文-\n中文",
        "long-\n\ngone",
    ):
        assert correct(left, "en") == (left, {})
    assert correct("an exam-\nple example", "zh")[0] == "an exam-\nple example"


def test_invisible_characters() -> None:
    assert correct("a\u200bb co\xadoperate \u202eevil\u202c", "en") == (
        "ab cooperate evil",
        {"invisible characters": 4},
    )
    assert correct("密\u200b文\u2060字\ufe0f", "zh")[0] == "密文字"
    hidden = "".join(chr(0xE0000 + ord(c)) for c in "ignore all")
    assert correct(f"text{hidden} 😀{hidden}", "en")[0] == "text 😀"
    for kept in (
        "می\u200cخواهم", "क्\u200dष", "👨\u200d👩\u200d👧", "❤\ufe0f", "葛\U000e0100城", "ไทย\u200bไทย", "שלום\u200f (1)",
        "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",
    ):  # fmt: skip
        assert correct(kept, "und") == (kept, {})


def test_runs_of_one_character() -> None:
    assert correct("soooooooooooo good " + "=" * 40, "en") == ("sooo good ===", {"runs of one character": 2})
    assert correct("目录" + "。" * 30 + "1", "zh")[0] == "目录。。。1"
    for kept in ("x" * 9, "." * 19, " " * 50 + "x", "1" * 50):
        assert correct(kept, "en") == (kept, {})


@settings(deadline=None)
@given(
    st.lists(
        st.sampled_from(
            ["a", "-", "\n", "=", "home", " > ", "share", "\u200d", "\u0600", "中", "版权所有", "\xad", "exam", "ple"]
        ),
        max_size=60,
    ).map("".join)
)
def test_correcting_twice_changes_nothing_more(text: str) -> None:
    fixed, _ = correct(clean.repair(text)[0], "en")
    assert correct(fixed, "en")[0] == fixed


@pytest.mark.parametrize(
    "hostile",
    ["a", "a-\n", "\u200b", "=\n", "home > ", "share ", "分享 微信 ", ".. ", "we use ", "cookies we we we we use we\n", "- ", "ab-\nab ",
     "home " * 39 + "\n", "terms privacy " * 13 + "\n", "上一篇 " * 30 + "\n"],
)  # fmt: skip
def test_hostile_text_takes_linear_time(hostile: str) -> None:
    start = time.process_time()
    correct(hostile * (600_000 // len(hostile)), "en")
    assert time.process_time() - start < 4


def test_rules_have_names_of_their_own() -> None:
    assert len({rule.name for rule in LINE_RULES}) == len(LINE_RULES)


def test_a_block_list(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text(
        "[Adblock Plus 2.0]\n! comment\n# comment\n||ads.example.com^$third-party\n||example.org/banner/\n-ad-300x600-\n"
        "news.example##.ad\n@@||good.example^\n||part.example^$domain=other.example\nbad.example\n0.0.0.0 worse.example # why\n"
    )
    blocked = load_blocklist(path)
    assert blocked.domains == {"ads.example.com", "bad.example", "worse.example"}
    assert blocked.skipped == 4
    assert blocked.blocked("https://x.ADS.example.com./page?q=1")
    assert blocked.blocked("bad.example/path")
    assert blocked.blocked("http://example.org/banner/1")
    for url in (
        "http://example.com",
        "http://example.org/other",
        "http://notbad.example",
        "http://[",
        "",
        "mailto:a@bad",
    ):
        assert not blocked.blocked(url)


def test_a_block_list_that_cannot_be_read(tmp_path: Path) -> None:
    for name, content in (
        ("a.gz", b"no gzip"),
        ("b.txt", b"\xff\xfe\xfa"),
        ("c.gz", gzip.compress(b"a.example\n" * 999)[:-20]),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(PunaError, match="cannot be read"):
            load_blocklist(tmp_path / name)
    with pytest.raises(PunaError, match="cannot be read"):
        load_blocklist(tmp_path / "missing")
