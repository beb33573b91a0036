"""One block of Markdown as rows for a terminal.

In: a block's source and the width. Out: rows with their colours, none wider than that, none with a line end.
Must never happen: a word of the reply is not shown, an escape sequence of the model's is let through, or something is told
by colour alone (code keeps its backticks, a heading is bold, a quotation has a bar).

Rich renders; here stand the elements that it draws for wide dark screens: boxes around code and headings in the middle.
Colours are the terminal's own sixteen, so they suit light and dark ones.
"""

import io
from collections.abc import Sequence

from markdown_it.token import Token
from rich import box, markdown
from rich.console import Console, ConsoleOptions, RenderResult
from rich.padding import Padding
from rich.segment import Segment
from rich.style import Style
from rich.table import Table
from rich.text import Text
from rich.theme import Theme

from puna.cli.chatting.blocks import PARSER, Block
from puna.cli.chatting.safe import visible
from puna.cli.chatting.wrap import rows

_THEME = Theme(
    {
        "markdown.h1": Style(bold=True, underline=True),
        **{f"markdown.h{level}": Style(bold=True) for level in range(2, 7)},
        "markdown.code": Style(color="cyan"),
        "markdown.block_quote": Style.null(),
        "markdown.item.bullet": Style.null(),
        "markdown.item.number": Style.null(),
        "markdown.hr": Style(dim=True),
        "markdown.table.border": Style(dim=True),
        "markdown.table.header": Style(bold=True),
    }
)
_INDENT = 4  # columns before code: it stands out in black and white too, and marks no line that is copied


def render(block: Block, width: int) -> list[str]:
    """The block's rows at `width` columns, each with its own colours, begun and ended. Empty for a blank block."""
    tokens = PARSER.parse(block.source.expandtabs(4))
    if not tokens:
        return []
    console = Console(
        file=io.StringIO(), width=width, force_terminal=True, color_system="standard", theme=_THEME, legacy_windows=False,
        emoji=False, markup=False, highlight=False, _environ={},
    )  # fmt: skip
    options = console.options.update(width=width)
    as_written = Text("\n").join(rows(Text(block.source.strip("\n").expandtabs(4)), width))
    shown = _Markdown(_marked(tokens), block.joined) if _fits(tokens, width) else as_written
    lines = console.render_lines(shown, options, pad=False)
    if any(Segment.get_line_length(line) > width for line in lines):  # there was no room for it after all
        lines = console.render_lines(as_written, options, pad=False)
    made = [_row(line) for line in lines]
    while made and not made[-1]:
        made.pop()
    while made and not made[0]:
        made.pop(0)
    return made


def _fits(tokens: Sequence[Token], width: int) -> bool:
    """Whether to try: each level takes 2 columns or more and leaves few for words, and a table's column at least 4."""
    columns = sum(token.type == "th_open" for token in tokens)
    return max(token.level for token in tokens) <= width // 4 and columns <= width // 4


def _marked(tokens: list[Token]) -> list[Token]:
    """The same tokens, with code within a line in its backticks."""
    for token in tokens:
        for child in token.children or []:
            if child.type == "code_inline":
                child.content = f"{child.markup}{child.content}{child.markup}"
    return tokens


def _row(segments: Sequence[Segment]) -> str:
    """One row's text with its colours. Control characters, from wherever they come, are shown and not sent."""
    kept = [(visible(one.text).replace("\n", ""), one.style) for one in Segment.simplify(segments) if not one.control]
    while kept and not kept[-1][0].strip(" "):
        kept.pop()
    if kept:
        kept[-1] = (kept[-1][0].rstrip(" "), kept[-1][1])
    return "".join(_coloured(text, style) for text, style in kept)


def _coloured(text: str, style: Style | None) -> str:
    from rich.color import ColorSystem

    return style.update_link(None).render(text, color_system=ColorSystem.STANDARD) if style and text else text


class _Markdown(markdown.Markdown):
    """Rich's, over tokens of our own parser."""

    def __init__(self, tokens: list[Token], joined: bool) -> None:
        super().__init__("", hyperlinks=False)
        self.parsed, self.joined = tokens, joined


class _Paragraph(markdown.Paragraph):
    """Its lines as they were written, broken as Chinese wants it too."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Text("\n").join(rows(self.text, options.max_width))


class _Heading(markdown.Heading):
    """At the left, as everything else."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Text("\n").join(rows(self.text, options.max_width))


class _CodeBlock(markdown.CodeBlock):
    """Indented under its language, in few colours, long lines broken and not cut."""

    def __init__(self, lexer_name: str, info: str) -> None:
        super().__init__(lexer_name, "ansi")
        self.info = info

    @classmethod
    def create(cls, markdown: markdown.Markdown, token: Token) -> "_CodeBlock":
        info = token.info.strip()
        return cls(info.partition(" ")[0], "" if getattr(markdown, "joined", False) else info)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = max(1, options.max_width - _INDENT)
        if self.info:
            yield from console.render(Text("\n").join(rows(Text(self.info, style="dim"), options.max_width)), options)
        code = str(self.text).rstrip("\n")
        if code.strip():
            lines = rows(_highlighted(code, self.lexer_name), width, between_words=False)
            yield Padding(Text("\n").join(lines), (0, 0, 0, _INDENT))


def _highlighted(code: str, language: str) -> Text:
    """The code with its language's words marked, where pygments is there and knows the language."""
    try:
        from pygments.token import Comment, Keyword, Number, String
        from rich.syntax import ANSISyntaxTheme, Syntax
    except ImportError:  # rich asks for pygments; a package of rich without it still shows code
        return Text(code)
    looks = {
        Keyword: Style(bold=True),
        String: Style(color="green"),
        Number: Style(color="magenta"),
        Comment: Style(italic=True),
    }
    text = Syntax(code, language or "text", theme=ANSISyntaxTheme(looks)).highlight(code)
    text.right_crop(len(text.plain) - len(code))  # the highlighter ends the last line
    return text if text.plain == code else Text(code)


class _BlockQuote(markdown.BlockQuote):
    """With a bar at its left."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for line in console.render_lines(self.elements, options.update(width=max(1, options.max_width - 2)), pad=False):
            yield Segment("▌ ")
            yield from line
            yield Segment.line()


class _ListItem(markdown.ListItem):
    """Numbered as it was written: with a full stop."""

    def render_number(self, console: Console, options: ConsoleOptions, number: int, last_number: int) -> RenderResult:
        width = max(2, len(str(last_number - 1))) + 3  # the tenth item moves none of those before it
        inner = options.update(width=max(1, options.max_width - width))
        for place, line in enumerate(console.render_lines(self.elements, inner, style=self.style, pad=False)):
            yield Segment(f"{number}. ".rjust(width) if place == 0 else " " * width)
            yield from line
            yield Segment.line()


class _Table(markdown.TableElement):
    """Lines under the heads alone; long words broken and not cut."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, style="markdown.table.border")
        for cell in self.header.row.cells if self.header and self.header.row else []:
            head = cell.content.copy()
            head.stylize("markdown.table.header")
            table.add_column(head, overflow="fold", justify=cell.justify)
        for row in self.body.rows if self.body else []:
            table.add_row(*[cell.content for cell in row.cells])
        yield table


_Markdown.elements = {
    **markdown.Markdown.elements,
    "paragraph_open": _Paragraph,
    "heading_open": _Heading,
    "fence": _CodeBlock,
    "code_block": _CodeBlock,
    "blockquote_open": _BlockQuote,
    "list_item_open": _ListItem,
    "table_open": _Table,
}
