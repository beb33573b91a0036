"""Text of strangers made safe to look at: nothing in it stays hidden.

Comes in: any text. Goes out: the same, its unprintable characters as pictures or numbers. Must never happen: a mark that turns the
reading direction, or a control, reaching a page or a terminal.
"""

import unicodedata

_KEPT = "\n\t"


def clean(text: str) -> str:
    """Text with nothing hidden: controls as their pictures, direction marks and lone surrogates as their numbers.

    NUL and other C0 controls become U+2400 and on; whatever else Python calls not printable (direction marks, C1
    controls, lone surrogates, private and unassigned points) becomes its number, ⟨U+202E⟩. Line ends, tabs, spaces
    of any width and the joiners of emoji stay.
    """
    if all(
        line.isprintable() for line in text.split("\n")
    ):  # nearly always, and much faster than a look at each character
        return text
    return "".join(char if char in _KEPT or char.isprintable() else _visible(char) for char in text)


def _visible(char: str) -> str:
    code = ord(char)
    if code < 0x20:
        return chr(0x2400 + code)
    if code == 0x7F:
        return "\u2421"
    category = unicodedata.category(char)
    if category == "Zs" or code in (0x200C, 0x200D):  # spaces, and the joiners that emoji and scripts need
        return char
    return f"\u27e8U+{code:04X}\u27e9"
