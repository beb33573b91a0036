"""JSON as strictly as its standard has it (RFC 8259), before any handler sees it.

In: a body's bytes. Out: nothing, or a refusal that names the field. Must never happen: a body that two readers understand differently
(a key given twice), or one that no reply could repeat (NaN, half of a surrogate pair).
"""

import json
import math
import re
from typing import Any, NoReturn

from puna.serve.errors import ApiError

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_TOKEN = re.compile(r'"((?:[^"\\]|\\.)*)"|([\[{])|([\]}])')
_DIGITS = 400  # of a whole number; one above 10^309 is no float either


class _Odd:
    """Stands for a value that JSON does not have, or that is too long."""

    def __init__(self, text: str) -> None:
        self.told = f"{text} is no JSON value" if text in ("NaN", "Infinity", "-Infinity") else "the number is too long"


def check(body: bytes, depth: int, values: int) -> None:
    """Raise `ApiError` 400 unless `body` is JSON of at most `depth` levels and `values` values."""
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError:
        raise ApiError(400, "the body is not UTF-8") from None
    try:
        try:
            value = json.loads(text, parse_constant=_Odd, object_pairs_hook=_object)
        except json.JSONDecodeError as error:
            raise ApiError(400, f"the body is not JSON: {error}") from None
        except ValueError:  # more digits than Python converts: read again with a name for them
            value = json.loads(text, parse_constant=_Odd, parse_int=_int, object_pairs_hook=_object)
    except RecursionError:
        _too_deep(_deep_field(text, depth), depth)
    _walk(value, depth, values, surrogates=_SURROGATE.search(text) is not None)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ApiError(400, f"{twice}: the key is given twice", param=twice[:200])
    return made


def _int(text: str) -> int | _Odd:
    return int(text) if len(text) < _DIGITS else _Odd(text)


def _walk(value: Any, depth: int, values: int, *, surrogates: bool) -> None:
    """Look at every value; the field in a refusal is the outermost one that it is in."""
    todo: list[tuple[Any, int, str | None]] = [(value, 1, None)]
    seen = 0
    while todo:
        value, level, field = todo.pop()
        if isinstance(value, _Odd):
            _refuse(value.told, field)
        elif isinstance(value, float):
            if not math.isfinite(value):
                _refuse("the number is too large", field)
        elif isinstance(value, str):
            if surrogates and not _whole(value):
                _refuse("the text holds half of a surrogate pair", field)
        elif isinstance(value, dict | list):
            seen += len(value)
            if level > depth:
                _too_deep(field, depth)
            if seen > values:
                _refuse(f"the body holds more than {values:,} values", field)
            if isinstance(value, list):
                todo += [(one, level + 1, field) for one in value if type(one) is not int]
                continue
            for key, one in value.items():
                if surrogates and not _whole(key):
                    _refuse("a key holds half of a surrogate pair", field)
                todo.append((one, level + 1, key if field is None else field))


def _whole(text: str) -> bool:
    return text.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in text)


def _refuse(told: str, field: str | None) -> NoReturn:
    raise ApiError(400, f"{field}: {told}" if field else told, param=field[:200] if field else None)


def _too_deep(field: str | None, depth: int) -> NoReturn:
    _refuse(
        f"is nested deeper than {depth} levels" if field else f"the body is nested deeper than {depth} levels", field
    )


def _deep_field(text: str, depth: int) -> str | None:
    """The outermost field in which the nesting passes `depth`, found without recursion."""
    level, field, last = 0, None, None
    for token in _TOKEN.finditer(text):
        if token[2]:
            level += 1
            if level == 2:
                field = last if text.lstrip().startswith("{") else None
            if level > depth:
                return field
        elif token[3]:
            level -= 1
        elif level == 1:
            last = token[1]
    return None
