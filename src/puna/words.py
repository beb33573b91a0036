"""Numbers and strangers' text as a reader wants them: counts, sizes, times, and nothing invisible.

Comes in: numbers with their unit in the function's name, text of any origin. Goes out: short strings.
Must never happen: a control or direction character of a stranger's reaches a page unseen.
"""

import math
import re
import unicodedata
from collections.abc import Sequence

from puna.visible import clean

_DASH = "–"
_CJK = re.compile(r"[\u3400-\u9fff\uf900-\ufaff\u3040-\u30ff\U00020000-\U0003ffff]")
_NAME = 90  # characters of a name in a table or a sentence
THIN = "\u202f"  # a narrow space that does not break, between a number and its unit


def number(value: float | int | None) -> str:
    """A whole number with thousands apart: 4,123,456."""
    return _DASH if value is None else f"{value:,.0f}"


def compact(value: float | None) -> str:
    """A count in three figures for axes and key figures: 4.12 M, 850, 12.3 k."""
    if value is None:
        return _DASH
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{_figures(value / size)}{THIN}{unit}"
    return f"{value:.0f}"


def flops(value: float) -> str:
    """A rate of floating-point operations: 226 GFLOP/s."""
    for size, unit in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M")):
        if abs(value) >= size:
            return f"{_figures(value / size)}{THIN}{unit}FLOP/s"
    return f"{value:.0f}{THIN}FLOP/s"


def axis_count(value: float) -> str:
    """A round count with no more figures than it has: 2 M, 2.5 M, 0."""
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{THIN}{unit}"
    return f"{value:g}"


def moment(iso: str) -> str:
    """An ISO 8601 time as people write it, to the minute; what is not one stays as it is."""
    found = re.fullmatch(r"(\d{4}-\d{2}-\d{2})[T ](\d{2}:\d{2})(?::\d{2}(?:\.\d+)?)?(Z|[+-]\d{2}:?\d{2})?", iso)
    if not found:
        return clean(iso)
    zone = found[3] or ""
    return f"{found[1]}, {found[2]} {'UTC' if zone in ('Z', '+00:00', '+0000') else zone}".rstrip()


def in_words(value: float) -> str:
    """A count as prose says it: 4.1 million."""
    for size, unit in ((1e12, "trillion"), (1e9, "billion"), (1e6, "million")):
        if abs(value) >= size:
            return f"{_figures(value / size, 2)} {unit}"
    return number(value)


def size_bytes(value: float | None) -> str:
    """A size in decimal units: 12.3 MB."""
    if value is None:
        return _DASH
    for size, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if abs(value) >= size:
            return f"{_figures(value / size)}{THIN}{unit}"
    return f"{value:.0f}{THIN}bytes"


def duration(seconds: float | None) -> str:
    """A time in at most two units: 0.4 s, 6 min 12 s, 2 h 05 min."""
    if seconds is None:
        return _DASH
    if seconds < 9.95:
        return f"{seconds:.1f}{THIN}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}{THIN}s"
    if whole < 3600:
        return f"{whole // 60}{THIN}min {whole % 60:02d}{THIN}s"
    minutes = round(seconds / 60)
    return f"{minutes // 60}{THIN}h {minutes % 60:02d}{THIN}min"


def counted(count: int, one: str, many: str | None = None) -> str:
    """A count and its noun: 1 step, 2 steps, no steps."""
    return f"{number(count) if count else 'no'} {one if count == 1 else many or one + 's'}"


def percent(share: float | None, places: int = 1) -> str:
    """A share of one as per cent: 41.2 %."""
    return _DASH if share is None else f"{100 * share:.{places}f}{THIN}%"


def small_share(share: float | None) -> str:
    """A share of one as per cent that is not written as nought unless it is: 12.3 %, 0.04 %, <0.01 %."""
    if share is None or not 0 < abs(share) < 0.0005:
        return percent(share)
    return percent(share, 2) if abs(share) >= 0.0001 else f"<{percent(0.0001, 2)}"


def decimal(value: float | None, places: int = 3) -> str:
    """A number with a fixed count of decimals and a true minus sign."""
    if value is None or not math.isfinite(value):
        return _DASH
    return f"{value:.{places}f}".replace("-", "\u2212")


def p_value(value: float | None) -> str:
    """A p-value, never printed as nought."""
    if value is None:
        return _DASH
    return "< 0.0001" if value < 1e-4 else f"{value:.4f}" if value < 0.01 else f"{value:.2f}"


def listed(items: Sequence[str], separator: str = ", ") -> str:
    """Items as prose lists them: a, b and c. With another separator the last one stands like the others."""
    if len(items) < 2 or separator != ", ":
        return separator.join(items)
    return f"{', '.join(items[:-1])} and {items[-1]}"


def label(key: str) -> str:
    """A key as a label: `bytes_per_token` is "bytes per token"."""
    return " ".join(clean(key).replace("_", " ").split())


def brief(text: str, most: int = _NAME) -> str:
    """A name of any origin on one line, shortened in its middle, as the ends of paths tell the most."""
    few = text if len(text) <= 4 * most else text[: 2 * most] + text[-2 * most :]
    line = " ".join(clean(few).split())
    return line if len(line) <= most else f"{line[: most - most // 3 - 1]}…{line[-(most // 3) :]}"


def plain(value: object) -> str:
    """Any JSON value in a few characters, for facts whose keys a page does not know."""
    if value is None:
        return _DASH
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return number(value)
    if isinstance(value, float):
        if value.is_integer() and abs(value) < 1e12:
            return number(value)
        return f"{value:,.4g}" if abs(value) < 1e6 else compact(value)
    if isinstance(value, dict):
        return ", ".join(f"{label(str(key))} {plain(inner)}" for key, inner in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(plain(inner) for inner in value)
    return clean(str(value))


def cells(text: str) -> int:
    """The columns that text takes on a terminal, and about its width in a drawing: two for wide letters, none for marks."""
    return sum(
        0 if unicodedata.combining(char) or char == "\u200d" else 2 if unicodedata.east_asian_width(char) in "WF" else 1
        for char in text
    )


def wrapped(text: str, width: int, most: int | None = None) -> list[str]:
    """Cleaned text in lines of at most `width` cells, broken at spaces and where a word is longer than a line.

    At most `most` lines; a sign ends the last where more would follow.
    """
    lines, used = [""], 0
    for word in clean(text).split(" "):
        needed = cells(word)
        if lines[-1] and used + 1 + needed <= width:
            lines[-1], used = f"{lines[-1]} {word}", used + 1 + needed
            continue
        if lines[-1]:
            lines.append("")
            used = 0
        for char in word:
            wide = cells(char)
            if used + wide > width:
                lines.append("")
                used = 0
            lines[-1], used = lines[-1] + char, used + wide
            if most and len(lines) > most:
                break
        if most and len(lines) > most:
            break
    if most and len(lines) > most:
        last = lines[most - 1]
        while last and cells(last) > width - 1:
            last = last[:-1]
        return [*lines[: most - 1], f"{last.rstrip()}…"]
    return lines


def language(text: str) -> str | None:
    """The tag `zh` where the text has Han characters or kana, so that a browser picks the right glyphs; else None."""
    return "zh" if _CJK.search(text) else None


def _figures(value: float, figures: int = 3) -> str:
    """Three figures, and no more decimals than they need."""
    places = max(0, figures - 1 - math.floor(math.log10(abs(value)))) if value else 0
    return f"{value:.{places}f}"
