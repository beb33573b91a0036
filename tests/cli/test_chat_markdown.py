"""Markdown on a terminal while it grows: nothing is lost, nothing steers, what is drawn at the end is what a single drawing gives."""

import io
import os
import re
from collections.abc import Iterator

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rich.cells import cell_len
from tests_cli_terminal import Picture

from puna.cli.chatting.blocks import MOST, Block, Blocks
from puna.cli.chatting.markdown import render
from puna.cli.chatting.region import Region
from puna.cli.chatting.safe import visible
from puna.cli.chatting.screen import MarkdownReply, Screen
from puna.cli.chatting.wrap import breaks

SAMPLE = """\
# A title
Some **bold**, *slanted* and `code`; a [link](http://x "t"), <b>HTML</b> and &#13;&#x202e;.
second line
    indented

## 中文标题
羊驼走过高原的草地，你好，世界。这是一个很长的句子，用来检查中文的换行是否正确，Python 是一种编程语言，（括号）不应该在行首。

- one
- two
  - nested 羊驼
    and on
- three

9. nine
10. ten

> quoted
> twice

| animal | legs |
|--------|-----:|
| llama  | 4    |
| 羊驼   | 44   |

```python
def f(x):
    \"\"\"doc\"\"\"
    return x + 1  # why
```
---
last
"""
SHOWN = """\
A title

Some bold, slanted and `code`; a [link](http://x "t"), <b>HTML</b> and
&#13;&#x202e;.
second line
    indented

中文标题

羊驼走过高原的草地，你好，世界。这是一个很长的句子，用来检查中文的换行是否正
确，Python 是一种编程语言，（括号）不应该在行首。

 • one
 • two
    • nested 羊驼
      and on
 • three

  9. nine
 10. ten

▌ quoted
▌ twice

animal   legs
─────────────
llama       4
羊驼       44

python
    def f(x):
        \"\"\"doc\"\"\"
        return x + 1  # why

-------------------------------------------------------------------------------

last"""
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
# Pieces of Markdown that meet in every way, hostile ones among them.
PIECES = ["\n", "\n\n", "# ", "- ", "  - ", "3. ", "> ", "```", "```py\n", "~~~", "| a | b |", "|--|--|", "---", "===", "*", "**", "_", "`",
          "[a](b)", "![x](y)", "<b>", "&#27;", "&lt;", "\\", "    ", " ", "word", "羊驼", "，", "\t", "\x1b[2J", "\x07", "[a]: b", "1", "e\u0301",
          "👩‍👧", "\u202e"]  # fmt: skip
markdowns = st.lists(st.sampled_from(PIECES), max_size=40).map("".join)


def shown(rows: list[str]) -> list[str]:
    return [COLOUR.sub("", row) for row in rows]


def whole(text: str, width: int) -> str:
    """A reply's rows where it is drawn at once."""
    blocks = Blocks()
    blocks.add(text)
    drawn = [rows for block in [*blocks.closed(), blocks.open] if (rows := render(block, width))]
    return "\n\n".join("\n".join(shown(rows)) for rows in drawn)


def test_a_sample_reads_well_in_black_and_white():
    assert whole(SAMPLE, 79) == SHOWN


def test_emphasis_and_code_have_looks_that_need_no_colour():
    assert render(Block("**a** *b* `c`"), 79) == ["\x1b[1ma\x1b[0m \x1b[3mb\x1b[0m \x1b[36m`c`\x1b[0m"]
    assert render(Block("```python\nreturn '羊驼'\n"), 79)[1] == "    \x1b[1mreturn\x1b[0m \x1b[32m'羊驼'\x1b[0m"
    assert shown(render(Block("```no-such-language\na b\n```"), 79)) == ["no-such-language", "    a b"]


@given(markdowns, st.randoms(use_true_random=False))
@example("> quote\n#hashtag", None)
@example("para\n---\nmore", None)
@example("a | b\n--|--\n1|2\n\n- x\n\n\n- y\nz\n", None)
def test_blocks_hold_the_whole_reply_and_close_for_good(text: str, random):
    fast = Blocks()
    fast.add(text)
    once = [*fast.closed(), fast.open]
    slow = Blocks()
    pieces: list[Block] = []
    place = 0
    while place < len(text):
        step = 1 if random is None else random.randint(1, 5)
        slow.add(text[place : place + step])
        pieces += slow.closed()
        place += step
    pieces.append(slow.open)
    assert "".join(block.source for block in once) == text
    assert [block.source for block in pieces] == [block.source for block in once]


@given(markdowns, st.integers(8, 100))
@example("> " * 60 + "deep", 79)
@example("- " * 60 + "deep", 30)
@example("|" + "a|" * 50 + "\n|" + "-|" * 50 + "\n|" + "b|" * 50, 79)
@example("`" * 3 + "x" * 200, 20)
@example("999999999. 999999999. 999999999. deep", 20)
def test_no_row_is_too_wide_and_no_word_is_lost(text: str, width: int):
    text = visible(text)
    blocks = Blocks()
    blocks.add(text)
    rows = [row for block in [*blocks.closed(), blocks.open] for row in shown(render(block, width))]
    assert all(cell_len(row) <= width for row in rows)
    assert all(letter.isprintable() or letter in "\u200d" for row in rows for letter in row)
    if "|--" not in text:  # a table's row longer than its head is cut by the rules of its Markdown
        for letter in ("羊", "w", "⟨", "␛"):
            assert "".join(rows).count(letter) == text.count(letter)


@pytest.mark.parametrize("width", [7, 20, 79])
def test_chinese_breaks_anywhere_but_before_its_full_stop(width: int):
    text = "羊驼走过高原的草地，你好，世界。Python 是一种编程语言（高原）。" * 4
    edges = [0, *breaks(text, width), len(text)]
    rows = [text[start:end] for start, end in zip(edges, edges[1:], strict=False)]
    assert "".join(rows) == text
    assert all(cell_len(row.rstrip()) <= width for row in rows)
    if width > 7:
        assert not any(row[0] in "，。）" or row.rstrip()[-1] == "（" for row in rows)
        assert all(cell_len(row) > width - 10 for row in rows[:-1])  # no row ends early because no space is there


class FakeTerminal(io.StringIO):
    """A terminal's end that keeps what is written."""

    def isatty(self) -> bool:
        return True

    def fileno(self) -> int:
        return 1


def drawn(
    pieces: Iterator[str] | list[str], size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> tuple[Picture, str]:
    """The picture after a reply that came in pieces, each one drawn."""
    monkeypatch.setattr("puna.cli.chatting.screen._FRAME", 0.0)
    monkeypatch.setattr("puna.cli.chatting.screen._SHARE", 0)
    monkeypatch.setattr("os.get_terminal_size", lambda _handle: os.terminal_size(size))
    out = FakeTerminal()
    reply = MarkdownReply(out)
    for piece in pieces:
        reply.add(piece)
    reply.close()
    # A terminal turns each line end into two characters.
    return Picture(*size).feed("above\r\n" + out.getvalue().replace("\n", "\r\n")), out.getvalue()


@pytest.mark.parametrize("size", [(80, 60), (80, 24), (80, 8), (40, 10), (24, 5)])
@pytest.mark.parametrize("step", [1, 7])
def test_drawn_as_it_grows_it_is_what_is_drawn_at_once(
    size: tuple[int, int], step: int, monkeypatch: pytest.MonkeyPatch
):
    """Also where it is taller than the screen: what scrolls away is final."""
    pieces = [SAMPLE[place : place + step] for place in range(0, len(SAMPLE), step)]
    picture, _ = drawn(pieces, size, monkeypatch)
    assert str(picture) == "above\n" + "\n".join(row.rstrip() for row in whole(SAMPLE, size[0] - 1).split("\n"))


@pytest.mark.parametrize(
    "text",
    [
        "```python\n" + "".join(f"x{n} = '羊驼'\n" for n in range(100)) + "```\nend",
        "".join(f"{n}. item {n}\n" for n in range(1, 100)) + "\nend",
        "".join(f"- item {n}\n" for n in range(100)),
        "".join(f"line {n}\n" for n in range(100)),
        "> " + "\n> ".join(f"line {n}" for n in range(100)),
        "word " * 500,
        "羊驼走过高原，" * 300,
        "x" * 3000,
        "| a | b |\n|---|---|\n" + "".join(f"| {n} | 羊驼 |\n" for n in range(30)) + "\nend",
    ],
    ids=["code", "numbers", "bullets", "lines", "quote", "words", "chinese", "one word", "table"],
)
def test_a_block_taller_than_the_screen_is_whole_in_the_scroll_back(text: str, monkeypatch: pytest.MonkeyPatch):
    pieces = [text[place : place + 9] for place in range(0, len(text), 9)]
    picture, written = drawn(pieces, (80, 12), monkeypatch)
    expected = whole(text, 79)
    if text.endswith((" ", "，", "x")):  # rows of a paragraph may end at another place where it was cut
        assert str(picture).removeprefix("above").replace("\n", "").replace(" ", "") == text.replace(" ", "")
    else:
        assert str(picture) == "above\n" + expected
    assert len(written) < 120 * len(text)  # redrawing stays bounded


def test_an_endless_table_is_cut_before_it_grows_slow(monkeypatch: pytest.MonkeyPatch):
    text = "| a | b |\n|---|---|\n" + "|羊驼 | x |\n" * (2 * MOST // 11)
    picture, _ = drawn([text[place : place + 3000] for place in range(0, len(text), 3000)], (80, 12), monkeypatch)
    assert str(picture).count("羊驼") == text.count("羊驼")


def test_only_rows_that_differ_are_written():
    region = Region()
    assert region.update([], ["a", "b"]) == "\x1b[Ka\n\x1b[Kb"
    assert region.update([], ["a", "bc"]) == "\r\x1b[Kbc"
    assert region.update([], ["a", "bc", "d"]) == "\n\x1b[Kd"
    assert region.update([], ["x"]) == "\r\x1b[2A\x1b[Kx\x1b[J"
    assert region.update(["x"], ["y"]) == "\n\x1b[Ky"
    assert region.update(["y"], []) == "\n"
    assert region.update([], []) == ""


def test_a_hostile_reply_is_shown_and_not_obeyed(monkeypatch: pytest.MonkeyPatch):
    text = "a\x1b[2J\x1b]8;;http://evil\x07b\x9b3J &#27;[2J &#x1b;[2J &#13;c\u202edef\r\n[x](http://y)\n```\x1bpy\n\x1b[2J\n```\n"
    picture, written = drawn(list(text), (80, 24), monkeypatch)
    assert "␛[2J␛]8;;http://evil␇b\ufffd3J &#27;[2J &#x1b;[2J &#13;c⟨U+202E⟩def␍" in str(picture)
    assert "[x](http://y)" in str(picture)
    assert str(picture).startswith("above\na␛")
    sent = set(re.findall(r"\x1b(?:\[[0-9;?]*[A-Za-z]|.)", written))
    assert all(re.fullmatch(r"\x1b\[([0-9;]*m|[0-9]*A|K|J)", one) for one in sent)


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_plain_where_the_user_or_the_terminal_wants_it(name: str, value: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert not Screen(FakeTerminal(), FakeTerminal()).plain
    assert Screen(io.StringIO(), FakeTerminal()).plain
    assert Screen(FakeTerminal(), FakeTerminal(), plain=True).plain
    monkeypatch.setenv(name, value)
    monkeypatch.setattr("os.get_terminal_size", lambda _handle: os.terminal_size((80, 24)))
    out = FakeTerminal()
    screen = Screen(out, FakeTerminal())
    assert screen.plain
    screen.say("notice")
    reply = screen.open()
    reply.add("**a**")
    reply.close()
    assert out.getvalue() == "notice\n**a**\n"


@pytest.mark.parametrize(("new", "again"), [((100, 24), False), ((30, 24), True), ((80, 3), True)])
def test_a_terminal_that_becomes_too_small_keeps_what_was_drawn(
    new: tuple[int, int], again: bool, monkeypatch: pytest.MonkeyPatch
):
    size = [(80, 24)]
    monkeypatch.setattr("puna.cli.chatting.screen._FRAME", 0.0)
    monkeypatch.setattr("puna.cli.chatting.screen._SHARE", 0)
    monkeypatch.setattr("os.get_terminal_size", lambda _handle: os.terminal_size(size[0]))
    out = FakeTerminal()
    reply = MarkdownReply(out)
    reply.add("line one of a paragraph that is about sixty columns wide, no less\nline two\nline three")
    before = out.tell()
    size[0] = new
    reply.add(" and more")
    reply.close()
    after = out.getvalue()[before:]
    assert after.startswith("\n") is again  # drawn once more below, not over what may stand elsewhere now
    assert ("line two" in after) is again
    assert "and more" in after
    assert not re.search(r"\x1b\[[3-9]A", after)
