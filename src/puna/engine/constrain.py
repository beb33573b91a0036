"""Replies of a wanted shape: which ids may come next so that the whole will be JSON of a schema, or match an expression.

In: a `Shape` that a client sent. Out: a mask over the vocabulary for each step. Must never happen: a shape is promised and not kept
(what the library cannot hold to is refused, not left out), a hostile shape holds up others or takes all memory, or anything is fetched.

The work is llguidance's (a lexer of derivatives under an Earley parser, over a trie of the tokens' bytes; Apache-2.0, MIT). It sees
tokens as the bytes that `Tokenizer.token_bytes` says, so any tokenizer serves. A reply that ends for another reason (its tokens are
used up) is a beginning of the shape: its finish reason says so.
"""

import json
import threading
from collections import OrderedDict
from collections.abc import Collection, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from puna.engine.request import Shape
from puna.errors import PunaError
from puna.tokens import Tokenizer

MOST_BYTES = 64 << 10  # of a shape's text
MOST_DEPTH = 64  # of a schema's JSON
MOST_REGEX = 4 << 10  # bytes of an expression, alone or as a schema's pattern
_KEPT = 64  # compiled shapes: a client sends the same one again and again
_SAID = 300  # characters of the library's own explanation

# What one shape may use. A lexer's state takes 1 to 2 kB; fuel is steps of regex arithmetic: 50 a microsecond to build, 14 in a step.
_LIMITS = {
    "max_items_in_row": 2000, "initial_lexer_fuel": 1_000_000, "step_lexer_fuel": 200_000, "step_max_items": 50_000,
    "max_lexer_states": 20_000, "max_grammar_size": 100_000, "precompute_large_lexemes": False, "verbose_errors": False,
}  # fmt: skip
# One way to write each value, that of Python's json.dumps: free white space is where a small model never comes to an end.
_JSON: Any = {
    "whitespace_flexible": False, "item_separator": ", ", "key_separator": ": ", "lenient": False, "coerce_one_of": False,
}  # fmt: skip
_DATA = ("const", "enum", "default", "examples", "example")  # keywords whose values are data, not schemas
_REFERENCES = ("$ref", "$dynamicRef", "$recursiveRef")


class Constraints:
    """Shapes for one model: `vocab_size` ids, of which the tokenizer knows the first; `stop_ids` end a reply. For any thread."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, stop_ids: Collection[int]) -> None:
        if tokenizer.vocab_size > vocab_size:
            raise ValueError(f"{tokenizer.vocab_size} tokens and {vocab_size} ids to choose from")
        self._tokenizer, self._vocabulary, self._stop_ids = tokenizer, vocab_size, sorted(stop_ids)
        self._native: LLTokenizer | None = None
        self._compiled: OrderedDict[str, LLMatcher] = OrderedDict()
        self._lock = threading.Lock()

    def start(self, shape: Shape, where: str = "response_format") -> "Constraint":
        """The shape's state at the beginning of a reply. Compiles it where it is new: milliseconds, at worst about a second.

        Raises `PunaError` where the shape is too large or too deep, refers to another place than itself, or asks for what
        cannot be held to.
        """
        grammar = _grammar(shape, where)
        with self._lock:
            native = self._native = self._native or self._make()
            matcher = self._compiled.get(grammar)
            if matcher is not None:
                self._compiled.move_to_end(grammar)
        if matcher is None:
            matcher = LLMatcher(native, grammar, log_level=0, limits=LLParserLimits(**_LIMITS))  # type: ignore[arg-type]
            if matcher.is_error():
                raise PunaError(f"this shape cannot be held to: {_said(matcher)}", where=where)
            with self._lock:
                self._compiled[grammar] = matcher
                while len(self._compiled) > _KEPT:
                    self._compiled.popitem(last=False)
        return Constraint(matcher.deep_copy(), self._vocabulary, self._stop_ids)

    def _make(self) -> LLTokenizer:
        """The library's own tokenizer, a second at most. Without an end token of the model's it gets one past the last id."""
        wrapper = _Words(self._tokenizer, self._vocabulary, self._stop_ids)
        return LLTokenizer(wrapper, eos_token=self._stop_ids or [self._vocabulary])  # type: ignore[arg-type]


class Constraint:
    """One reply's state. Not for two threads at once."""

    def __init__(self, matcher: LLMatcher, vocabulary: int, stop_ids: list[int]) -> None:
        self._matcher, self._vocabulary, self._stop_ids = matcher, vocabulary, stop_ids
        self._mask: npt.NDArray[np.bool_] | None = None

    @property
    def finished(self) -> bool:
        """True where the shape is complete and nothing but an end may follow, or the end has been taken."""
        return self._matcher.is_stopped() and not self._matcher.is_error()

    @property
    def complete(self) -> bool:
        """True where the reply has the wanted shape, whether or not it could go on."""
        return self.finished or self._matcher.is_accepting()

    @property
    def error(self) -> str | None:
        """Why nothing is allowed any more, where that is so: the shape took more work in one step than it may."""
        return (
            f"the wanted shape cannot be followed further: {_said(self._matcher)}" if self._matcher.is_error() else None
        )

    def mask(self) -> npt.NDArray[np.bool_]:
        """[v]: which ids may come next; the ends where the shape is complete. Not to be written to; none where there is an `error`."""
        if self._mask is None:
            self._mask = self._ends() if self.finished else self._allowed()
        return self._mask

    def take(self, id_: int) -> None:
        """State that `id_` came next. Raises ValueError where it was not allowed; the state is then as before."""
        if self.finished:
            right = id_ in self._stop_ids
        else:
            right = 0 <= id_ < self._vocabulary and self._matcher.validate_tokens([id_]) == 1
            right = right and self._matcher.consume_token(id_)
        if not right:
            raise ValueError(f"token {id_} does not go on from here: {self.error or 'the shape does not allow it'}")
        self._mask = None

    def forced(self) -> list[int]:
        """The ids that are certain to come next, as the tokenizer writes them; often none. They are not taken by this."""
        if self._matcher.is_stopped():
            return []
        return [id_ for id_ in self._matcher.compute_ff_tokens() if id_ < self._vocabulary]

    def copy(self) -> "Constraint":
        """A state of its own at the same place."""
        return Constraint(self._matcher.deep_copy(), self._vocabulary, self._stop_ids)

    def _allowed(self) -> npt.NDArray[np.bool_]:
        if self._matcher.is_error():
            return np.zeros(self._vocabulary, dtype=bool)
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        allowed = np.unpackbits(bits, count=self._vocabulary, bitorder="little").view(bool)
        return np.zeros(self._vocabulary, dtype=bool) if self._matcher.is_error() else allowed

    def _ends(self) -> npt.NDArray[np.bool_]:
        ends = np.zeros(self._vocabulary, dtype=bool)
        ends[self._stop_ids] = True
        return ends


class _Words:
    """The tokenizer as llguidance wants it: each id's bytes, and how a text is cut."""

    is_tokenizer_wrapper = True

    def __init__(self, tokenizer: Tokenizer, vocabulary: int, stop_ids: list[int]) -> None:
        self._tokenizer = tokenizer
        known = [tokenizer.token_bytes(id_) for id_ in range(tokenizer.vocab_size)]
        # Ids that no token has stand for nothing and are never allowed; the one past the last is an end for a model without one.
        self.tokens = known + [b""] * (vocabulary + 1 - len(known))
        self.eos_token_id = stop_ids[0] if stop_ids else vocabulary
        self.bos_token_id = tokenizer.bos_id
        self.special_token_ids = sorted({*tokenizer.special_ids, *stop_ids, self.eos_token_id})
        self._by_bytes = {
            data: id_ for id_, data in reversed(list(enumerate(known))) if id_ not in tokenizer.special_ids
        }
        self._longest = max(map(len, self._by_bytes), default=1)

    def __call__(self, text: str) -> list[int]:
        """The ids of a text in the middle of a reply: no space before it, nothing normalised."""
        # A SentencePiece tokenizer would put its space before U+0002, which is cut off together with it.
        before = "\2" if self._tokenizer.prefix_space else ""
        ids = self._tokenizer.encode(before + text)
        data = [self._tokenizer.token_bytes(id_) for id_ in ids]
        first = next((number for number, one in enumerate(data, 1) if one.endswith(b"\2")), 0) if before else 0
        return ids[first:] if b"".join(data[first:]) == text.encode() else self._longest_first(text.encode())

    def _longest_first(self, data: bytes) -> list[int]:
        ids, at = [], 0
        while at < len(data):
            for size in range(min(self._longest, len(data) - at), 0, -1):
                id_ = self._by_bytes.get(data[at : at + size])
                if id_ is not None:
                    break
            else:
                return ids  # no token begins like the rest: it cannot be forced
            ids.append(id_)
            at += size
        return ids


def _grammar(shape: Shape, where: str) -> str:
    """llguidance's text of a shape, whose size, depth and references are checked before the library sees them."""
    if shape.json_schema is not None:
        schema = shape.json_schema
        _check_schema(schema, where)
        if isinstance(schema, dict):
            schema = {key: value for key, value in schema.items() if key != "x-guidance"}  # the library's own switches
        text = json.dumps(schema if isinstance(schema, dict) else {} if schema else {"not": {}}, ensure_ascii=False)
        _check_size(text, MOST_BYTES, where)
        return LLMatcher.grammar_from_json_schema(text, overrides=_JSON)
    if shape.regex is not None:
        _check_size(shape.regex, MOST_REGEX, where)
        return LLMatcher.grammar_from_regex(shape.regex)
    lark = shape.lark or ""
    _check_size(lark, MOST_BYTES, where)
    return LLMatcher.grammar_from_lark(lark)


def _check_size(text: str, most: int, where: str) -> None:
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise PunaError("holds a lone surrogate, which is half a character", where=where) from None
    if size > most:
        raise PunaError(f"the shape has {size} bytes and may have {most}", where=where, mend="make it smaller")


def _check_schema(schema: Any, where: str) -> None:
    """Raise `PunaError` for a schema that is too deep, or that refers to anything outside itself."""
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


def _inside(schema: Any) -> Iterator[tuple[str | None, Any, int]]:
    """(keyword, value, depth) of all that a schema holds, without recursion."""
    todo: list[tuple[str | None, Any, int]] = [(None, schema, 1)]
    while todo:
        keyword, value, depth = todo.pop()
        yield keyword, value, depth
        if depth > MOST_DEPTH or keyword in _DATA and isinstance(value, str | int | float | bool):
            continue
        if isinstance(value, dict):
            todo += [(str(name), one, depth + 1) for name, one in value.items()]
        elif isinstance(value, list):
            todo += [(None, one, depth + 1) for one in value]


def _said(matcher: LLMatcher) -> str:
    """The library's explanation, in one short line."""
    return " ".join(matcher.get_error().split())[:_SAID]
