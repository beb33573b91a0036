"""Which script a text is written in, by its letters: enough to say for whom a vocabulary is good.

Comes in: a text. Goes out: a name. Must never happen: a name of a language, which a script alone cannot tell.
"""

import numpy as np

# First and last code points of the letters (Unicode 16, Blocks.txt), the large scripts; the rest is "other".
_BLOCKS = (
    ("Latin", 0x0041, 0x005A), ("Latin", 0x0061, 0x007A), ("Latin", 0x00C0, 0x024F), ("Greek", 0x0370, 0x03FF),
    ("Cyrillic", 0x0400, 0x052F), ("Armenian", 0x0530, 0x058F), ("Hebrew", 0x0590, 0x05FF), ("Arabic", 0x0600, 0x06FF),
    ("Arabic", 0x0750, 0x077F), ("Devanagari", 0x0900, 0x097F), ("Bengali", 0x0980, 0x09FF), ("Tamil", 0x0B80, 0x0BFF),
    ("Telugu", 0x0C00, 0x0C7F), ("Thai", 0x0E00, 0x0E7F), ("Georgian", 0x10A0, 0x10FF), ("Hangul", 0x1100, 0x11FF),
    ("Ethiopic", 0x1200, 0x137F), ("Latin", 0x1E00, 0x1EFF), ("Greek", 0x1F00, 0x1FFF), ("Kana", 0x3041, 0x30FF),
    ("Hangul", 0x3130, 0x318F), ("Han", 0x3400, 0x4DBF), ("Han", 0x4E00, 0x9FFF), ("Hangul", 0xAC00, 0xD7AF),
    ("Han", 0xF900, 0xFAFF), ("Kana", 0xFF66, 0xFF9F), ("Han", 0x20000, 0x3FFFF),
)  # fmt: skip
_NAMES = tuple(dict.fromkeys(name for name, _, _ in _BLOCKS))
_FIRST = np.array([first for _, first, _ in _BLOCKS])
_LAST = np.array([last for _, _, last in _BLOCKS])
_INDEX = np.array([_NAMES.index(name) for name, _, _ in _BLOCKS])
OTHER = "other"


def main_script(text: str) -> str:
    """The script of most letters of a text ("Han", "Latin", ...); "other" where it has none of those listed."""
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    block = np.searchsorted(_FIRST, points, side="right") - 1
    inside = (block >= 0) & (points <= _LAST[block])
    counts = np.bincount(_INDEX[block[inside]], minlength=len(_NAMES))
    return _NAMES[int(counts.argmax())] if counts.any() else OTHER
