"""Replies of a wanted shape: which ids may come next so that the whole will be JSON of a schema, or match an expression.

In: a `Shape` that a client sent. Out: a mask over the vocabulary for each step. Must never happen: a shape is promised and not kept
(what the library cannot hold to is refused, not left out), a hostile shape holds up others or takes all memory, or anything is fetched.

The work is llguidance's (a lexer of derivatives under an Earley parser, over a trie of the tokens' bytes; MIT). It sees tokens as the
bytes that `Tokenizer.token_bytes` says, so any tokenizer serves. A reply that ends for another reason (its tokens are used up) is
the beginning of one of the wanted shape: its finish reason says so.
"""

import threading
from collections import OrderedDict
from collections.abc import Collection

import numpy as np
import numpy.typing as npt
from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from puna.engine.request import Shape
from puna.engine.shapes import grammar_of, is_plain
from puna.engine.vetting import LIMITS, complaint
from puna.errors import PunaError
from puna.tokens import Tokenizer

_KEPT = 64  # compiled shapes: a client sends the same one again and again
_SAID = 300  # characters of the library's own explanation
_FORCED = 64  # bytes that are looked ahead
_CONTINUING = bytes(range(0x80, 0xC0))  # bytes of a UTF-8 character that are not its first


class Constraints:
    """Shapes for one model: `vocab_size` ids, of which the tokenizer knows the first; `stop_ids` end a reply. For any thread."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, stop_ids: Collection[int]) -> None:
        if tokenizer.vocab_size > vocab_size:
            raise ValueError(f"{tokenizer.vocab_size} tokens and {vocab_size} ids to choose from")
        self._made_of = tokenizer, vocab_size, sorted(stop_ids)
        self._native: tuple[_Words, LLTokenizer] | None = None
        self._compiled: OrderedDict[str, LLMatcher] = OrderedDict()
        self._lock = threading.Lock()

    def start(self, shape: Shape, where: str = "response_format") -> "Constraint":
        """The shape's state at the beginning of a reply. Compiles it where it is new, without holding up other threads: a millisecond
        for plain JSON schemas, a tenth of a second for what is first tried in another process, at worst some seconds.

        Raises `PunaError` where the shape is too large or too deep, refers to another place than itself, or asks for what
        cannot be held to.
        """
        grammar = grammar_of(shape, where)
        with self._lock:
            words, native = self._native = self._native or self._make()
            matcher = self._compiled.get(grammar)
            if matcher is not None:
                self._compiled.move_to_end(grammar)
        if matcher is None:
            matcher = self._compile(native, grammar, where, plain=is_plain(shape))
            with self._lock:
                self._compiled[grammar] = matcher
                while len(self._compiled) > _KEPT:
                    self._compiled.popitem(last=False)
        return Constraint(matcher.deep_copy(), words)

    @staticmethod
    def _compile(native: LLTokenizer, grammar: str, where: str, *, plain: bool) -> LLMatcher:
        why = "" if plain else complaint(grammar)
        if not why:
            matcher = LLMatcher(native, grammar, log_level=0, limits=LLParserLimits(**LIMITS))
            matcher.compute_bitmask()  # what allows nothing at all shows here, and the first mask is the slow one
            why = matcher.get_error()
        if why:
            raise PunaError(f"this shape cannot be held to: {_short(why)}", where=where)
        return matcher

    def _make(self) -> tuple["_Words", LLTokenizer]:
        """The library's own tokenizer: 0.02 s for 4,096 tokens, 0.6 s for 100,000."""
        words = _Words(*self._made_of)
        return words, LLTokenizer(words, eos_token=words.ends)  # type: ignore[arg-type]


class Constraint:
    """One reply's state. Not for two threads at once."""

    def __init__(self, matcher: LLMatcher, words: "_Words") -> None:
        self._matcher, self._words = matcher, words
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
        """Why nothing is allowed any more, where that is so: the shape takes more work in one step than it may, or is impossible."""
        why = self._matcher.get_error()
        return f"the wanted shape cannot be followed further: {_short(why)}" if why else None

    def mask(self) -> npt.NDArray[np.bool_]:
        """[v]: which ids may come next; the ends where the shape is complete. Not to be written to; none where there is an `error`."""
        if self._mask is None:
            self._mask = self._allowed()
        return self._mask

    def take(self, id_: int) -> None:
        """State that `id_` came next. Raises ValueError where it was not allowed."""
        if not self._advance(id_):
            raise ValueError(f"token {id_} does not go on from here: {self.error or 'the shape does not allow it'}")

    def forced(self) -> list[int]:
        """The ids that are certain to come next (the name of a property, say), as the tokenizer writes them; often none.

        They are not taken by this. At most as many as 64 bytes hold: each byte costs a mask.
        """
        words, certain, ahead = self._words, bytearray(), self
        while len(certain) < _FORCED and not ahead.complete:
            mask = ahead.mask()
            first = words.first[mask]
            if not len(first) or first[0] < 0 or first.min() != first.max():
                break
            byte = words.single.get(int(first[0]))
            if byte is None or not mask[byte]:
                break
            ahead = ahead.copy() if ahead is self else ahead
            if not ahead._advance(byte):  # that step takes more work than it may: this reply meets it soon enough
                break
            certain.append(int(first[0]))
        ids = words.cut(bytes(certain))
        return ids if ahead.finished else ids[:-1]  # what follows may make a longer token of the last one

    def copy(self) -> "Constraint":
        """A state of its own at the same place."""
        return Constraint(self._matcher.deep_copy(), self._words)

    def _advance(self, id_: int) -> bool:
        """Take `id_`; False where it is not allowed."""
        if self.finished:
            return id_ in self._words.stop_ids
        if not 0 <= id_ < self._words.vocabulary or self._matcher.validate_tokens([id_]) != 1:
            return False
        self._mask = None
        return self._matcher.consume_token(id_)

    def _allowed(self) -> npt.NDArray[np.bool_]:
        vocabulary, matcher = self._words.vocabulary, self._matcher
        if self.finished:
            allowed = np.zeros(vocabulary, dtype=bool)
            allowed[self._words.stop_ids] = True
            return allowed
        bits = b"" if matcher.is_error() else matcher.compute_bitmask()
        if matcher.is_error():
            return np.zeros(vocabulary, dtype=bool)
        return np.unpackbits(np.frombuffer(bits, dtype=np.uint8), count=vocabulary, bitorder="little").view(bool)


class _Words:
    """The tokenizer as llguidance wants it: each id's bytes, and how a text is cut."""

    is_tokenizer_wrapper = True

    def __init__(self, tokenizer: Tokenizer, vocabulary: int, stop_ids: list[int]) -> None:
        self._tokenizer, self.vocabulary, self.stop_ids = tokenizer, vocabulary, stop_ids
        known = [tokenizer.token_bytes(id_) for id_ in range(tokenizer.vocab_size)]
        # Ids that no token has stand for nothing and are never allowed; the one past the last is the end for a model without one.
        self.tokens = known + [b""] * (vocabulary + 1 - len(known))
        self.ends = stop_ids or [vocabulary]
        self.eos_token_id, self.bos_token_id = self.ends[0], tokenizer.bos_id
        special = {*tokenizer.special_ids, *self.ends}
        self.special_token_ids = sorted(special)
        plain = [(id_, data) for id_, data in enumerate(known) if data and id_ not in special]
        self.first = np.full(vocabulary, -1, dtype=np.int16)
        """[v]: each id's first byte; -1 for an id that is no text."""
        self.first[[id_ for id_, _ in plain]] = [data[0] for _, data in plain]
        self.single = {data[0]: id_ for id_, data in reversed(plain) if len(data) == 1}
        """Byte -> the id that is this byte alone."""

    def __call__(self, text: str) -> list[int]:
        """The ids of a text: what llguidance asks for (with `no_forcing`, for nothing that decides what is allowed)."""
        return self._tokenizer.encode(text)

    def cut(self, data: bytes) -> list[int]:
        """The ids of bytes in the middle of a reply: no space before them, nothing normalised.

        The rest of a character that has begun is taken byte by byte; half a character at the end is left out.
        """
        rest = data.lstrip(_CONTINUING)
        text, begun = rest.decode("utf-8", "ignore"), data[: len(data) - len(rest)]
        if any(byte not in self.single for byte in begun):
            return []
        # A SentencePiece tokenizer puts its space before U+0002, which is cut off together with it.
        before = "\2" if self._tokenizer.prefix_space else ""
        ids = self._tokenizer.encode(before + text) if text else []
        parts = [self._tokenizer.token_bytes(id_) for id_ in ids]
        start = next((number for number, one in enumerate(parts, 1) if one.endswith(b"\2")), 0) if before else 0
        ids = ids[start:] if b"".join(parts[start:]) == text.encode() else []
        return [*(self.single[byte] for byte in begun), *ids]


def _short(said: str) -> str:
    """The library's explanation, in one short line."""
    return " ".join(said.split())[:_SAID]
