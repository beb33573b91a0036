"""From a wanted shape to the library's grammar, once its size, its depth and what it refers to are known to be harmless.

In: a `Shape` of a client's. Out: a grammar in llguidance's Lark. Must never happen: a shape reaches the library that could make it fetch
something, recurse without end, or use switches that are not the client's.
"""

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

from llguidance import LLMatcher

from puna.engine.request import Shape
from puna.errors import PunaError

MOST_BYTES = 64 << 10  # of a shape's text
MOST_DEPTH = 64  # of a schema's JSON
MOST_REGEX = 4 << 10  # bytes of an expression, alone or as a schema's pattern

# Bytes that are certain are not followed by the library itself: it would follow an endless run of them (a million equal items).
_OPTIONS = '%llguidance {"no_forcing": true}\n'
# One way to write each value, that of Python's json.dumps: free white space is where a small model never comes to an end.
_JSON = {
    "whitespace_flexible": False, "item_separator": ", ", "key_separator": ": ", "lenient": False, "coerce_one_of": False,
}  # fmt: skip
# Keywords whose schemas compile in a time that their size bounds; patterns, and what is intersected, may take any.
_PLAIN = frozenset((
    "type", "properties", "required", "additionalProperties", "items", "enum", "const", "anyOf", "$ref", "$defs", "definitions",
    "title", "description", "default", "examples", "$schema", "$comment", "minItems", "maxItems", "minLength", "maxLength", "minimum",
    "maximum", "exclusiveMinimum", "exclusiveMaximum",
))  # fmt: skip
_DATA = ("const", "enum", "default", "examples", "example")  # keywords with data below, not schemas
_NAMED = (
    "properties",
    "patternProperties",
    "$defs",
    "definitions",
    "dependentSchemas",
)  # with a schema for each of some names
_URI = "#/%~!$&'()*+,;=:@?-._"  # characters that stay as they are in a reference
_REFERENCES = ("$ref", "$dynamicRef", "$recursiveRef")


def grammar_of(shape: Shape, where: str) -> str:
    """llguidance's text of a shape. Raises `PunaError` (at `where`) for one that is too large, too deep, or refers to elsewhere."""
    if shape.regex is not None:
        _check_size(shape.regex, MOST_REGEX, where)
        quoted: str = json.loads(LLMatcher.grammar_from_regex(shape.regex))["grammars"][0]["lark_grammar"]
        return _OPTIONS + quoted
    if shape.lark is not None:
        _check_size(shape.lark, MOST_BYTES, where)
        return _OPTIONS + shape.lark
    schema = shape.json_schema
    if schema is False:
        raise PunaError("the schema `false` allows nothing", where=where)
    _check_schema(schema, where)
    # "x-guidance" is the library's own switches, and a later key takes an earlier one's place.
    value = {**(_quoted(schema) if isinstance(schema, dict) else {}), "x-guidance": _JSON}
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:  # no JSON: NaN, or a value of Python's own
        raise PunaError(f"the schema is no JSON ({error})", where=where) from None
    _check_size(text, MOST_BYTES, where)
    return f"{_OPTIONS}start: %json {text}\n"


def is_plain(shape: Shape) -> bool:
    """Whether the shape is a JSON schema of such keywords alone that its size bounds the time to compile it."""
    return shape.json_schema is not None and all(
        keyword is None or keyword in _PLAIN for keyword, _, _ in _inside(shape.json_schema)
    )


def _check_size(text: str, most: int, where: str) -> None:
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise PunaError("holds a lone surrogate, which is half a character", where=where) from None
    if size > most:
        raise PunaError(f"the shape has {size} bytes and may have {most}", where=where, mend="make it smaller")


def _check_schema(schema: Any, where: str) -> None:
    for keyword, value, depth in _inside(schema):
        if depth > MOST_DEPTH:
            raise PunaError(f"the schema is nested more than {MOST_DEPTH} deep", where=where, mend="make it flatter")
        if keyword in _REFERENCES and isinstance(value, str) and not value.startswith("#"):
            raise PunaError(
                f"{keyword} to {value[:100]!r}: only a schema's own parts (#/...) can be referred to, nothing is fetched",
                where=where,
                mend="write the part into $defs",
            )
        if keyword == "pattern" and isinstance(value, str):
            _check_size(value, MOST_REGEX, where)


def _quoted(schema: Any) -> Any:
    """The schema with the names in its references percent-encoded: the library takes them as URIs, and writers write 树 in them."""
    if isinstance(schema, list):
        return [_quoted(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        name: quote(one, safe=_URI)
        if name in _REFERENCES and isinstance(one, str)
        else one if name in _DATA else _quoted(one)
        for name, one in schema.items()
    }  # fmt: skip


def _inside(schema: Any) -> Iterator[tuple[str | None, Any, int]]:
    """(keyword, value, depth) of all that a schema holds; None for what is named by no keyword (an item, a property, data).

    Without recursion: its depth is not known yet.
    """
    todo: list[tuple[str | None, Any, int, str]] = [(None, schema, 1, "schema")]
    while todo:
        keyword, value, depth, kind = todo.pop()
        yield keyword, value, depth
        if depth > MOST_DEPTH:
            continue
        if keyword in _DATA:
            kind = "data"
        if isinstance(value, dict):
            if kind == "schema" and keyword in _NAMED:
                todo += [(None, one, depth + 1, "schema") for one in value.values()]
            else:
                todo += [(str(name) if kind == "schema" else None, one, depth + 1, kind) for name, one in value.items()]
        elif isinstance(value, list):
            todo += [(None, one, depth + 1, kind) for one in value]
