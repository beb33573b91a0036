"""Text of a model made safe for a terminal.

In: a piece of a reply. Out: the same with what could steer the terminal shown as a picture or a number.
Must never happen: an escape sequence, or a mark that turns the reading direction, reaches the terminal.
"""

_DIRECTION = frozenset(range(0x202A, 0x202F)) | frozenset(range(0x2066, 0x206A))


def visible(text: str) -> str:
    """Control characters as their pictures (U+2400...), so that a reply cannot steer the terminal."""
    return "".join(_picture(letter) for letter in text)


def _picture(letter: str) -> str:
    code = ord(letter)
    if letter in "\n\t":
        return letter
    if code < 0x20:
        return chr(0x2400 + code)
    if code in _DIRECTION:
        return f"\u27e8U+{code:04X}\u27e9"
    return "\ufffd" if 0x7F <= code < 0xA0 or 0xD800 <= code < 0xE000 else letter
