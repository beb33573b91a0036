"""What a server tells of a text's tokens, read with care, and where in them the continuation begins.

Comes in: a reply of /completions. Goes out: tokens with their log-probabilities. Must never happen: a likelihood of other tokens
than the continuation's taken for it, or a number that is none.

Servers differ. OpenAI's old format (`echo`, also vLLM's and llama-cpp-python's) has lists `tokens`, `token_logprobs`, `top_logprobs`
and `text_offset`; vLLM can also tell `prompt_logprobs`. An offset is counted in characters, in bytes of UTF-8, or past a begin token
that is no part of the text, and part of a character (a Chinese one of three tokens, say) has no text of its own. So no offset is
believed that the tokens' own texts do not bear out.
"""

import math
import re
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from puna.errors import PunaError

_MOST_TOKENS = 4_000_000
_ABOVE_ZERO = 0.01  # nats that rounding may lift a log-probability above 0
_PART = re.compile(
    r"bytes:.*|token_id:\d+|<0x[0-9A-Fa-f]{2}>", re.DOTALL
)  # how servers spell what is no whole character


@dataclass(frozen=True)
class Told:
    """The tokens of one text as a server tells them; all lists have one entry a token.

    `logprobs`: nats, None for a token without a condition. `greedy`: whether no other token was likelier; None: not told.
    `offsets`: where each begins, in the server's own count; None: not told.
    """

    tokens: tuple[str, ...]
    logprobs: tuple[float | None, ...]
    greedy: tuple[bool | None, ...]
    offsets: tuple[int, ...] | None = None


def read_echo(reply: dict[str, Any], text: str, asked: int, where: str) -> Told | None:
    """The tokens of `text` in an answer to `echo`; None where the server does not echo, or tells no log-probabilities.

    `asked`: the max_tokens of the request; what was generated is left out. Raises `PunaError` for values of a wrong type.
    """
    choice = first_choice(reply, where)
    lists = choice.get("logprobs")
    if lists is None:
        return None
    if not isinstance(lists, dict):
        raise _wrong("logprobs", where)
    if not isinstance(lists.get("tokens"), list) or not isinstance(lists.get("token_logprobs"), list):
        return None  # another format, as that of chat completions, which tells of generated tokens only
    tokens = _list(lists, "tokens", str, where)
    if not isinstance(choice.get("text"), str):
        raise _wrong("text", where)
    if not choice["text"].startswith(text):
        if len(tokens) <= asked:
            return None  # only what was generated: echo is not known there
        raise PunaError("the server tells of another text than it was given; it may have cut it", where=where)
    kept = len(tokens) - _generated(reply, tokens, text, asked)
    if kept < 1:
        return None
    logprobs = [number_of(value, where) for value in lists["token_logprobs"]]
    top = lists.get("top_logprobs")
    tops = top if isinstance(top, list) else [None] * len(tokens)
    offsets = lists.get("text_offset")
    if len(logprobs) != len(tokens) or len(tops) != len(tokens):
        raise PunaError("the lists of its log-probabilities differ in length", where=where)
    if isinstance(offsets, list) and len(offsets) == len(tokens) and all(type(value) is int for value in offsets):
        offsets = tuple(offsets[:kept])
    else:
        offsets = None
    greedy = [_is_greedy(value, ways, where) for value, ways in zip(logprobs, tops, strict=True)]
    return Told(tuple(tokens[:kept]), tuple(logprobs[:kept]), tuple(greedy[:kept]), offsets)


def read_prompt_logprobs(reply: dict[str, Any], where: str) -> Told | None:
    """The tokens of a prompt from vLLM's `prompt_logprobs`; None where there are none. Raises as `read_echo` does.

    Each is None (the first) or {id: {"logprob", "rank", "decoded_token"}}: the prompt's own token first, then the likeliest.
    """
    rows = first_choice(reply, where).get("prompt_logprobs")
    if rows is None:
        return None
    if not isinstance(rows, list) or not 0 < len(rows) <= _MOST_TOKENS:
        raise _wrong("prompt_logprobs", where)
    tokens, logprobs, greedy = list[str](), list[float | None](), list[bool | None]()
    for row in rows:
        if row is None:
            tokens.append("")
            logprobs.append(None)
            greedy.append(None)
            continue
        ways = list(row.values()) if isinstance(row, dict) else []
        if not ways or not all(isinstance(way, dict) for way in ways):
            raise _wrong("prompt_logprobs", where)
        value = number_of(ways[0].get("logprob"), where)
        text = ways[0].get("decoded_token")
        tokens.append(text if isinstance(text, str) else "")
        logprobs.append(value)
        greedy.append(_is_greedy(value, {str(n): way.get("logprob") for n, way in enumerate(ways)}, where))
    return Told(tuple(tokens), tuple(logprobs), tuple(greedy))


def first_choice(reply: dict[str, Any], where: str) -> dict[str, Any]:
    """The first of a reply's choices. Raises `PunaError` where there is none."""
    choices = reply.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise _wrong("choices", where)
    return choices[0]


def number_of(value: object, where: str) -> float | None:
    """A log-probability in nats, or None. Raises `PunaError` where it is none."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise PunaError("gives a log-probability that is no number", where=where)
    if value > _ABOVE_ZERO:
        raise PunaError(f"gives a log-probability of {value:.3g}, which is more than certain", where=where)
    return float(value)


def first_of(told: Told, text: str, border: int, ask: Callable[[str], Told]) -> int:
    """Which token is the first of the continuation: the one that begins at `border` (characters), or that straddles it.

    By the offsets where they are borne out, else by the tokens' own texts, else by asking for the context's tokens alone and
    taking what comes after those that both have (`ask`: one more request).
    """
    if border <= 0:
        return 0
    for way in (_by_offsets, _by_spelling):
        found = way(told, text, border)
        if found is not None:
            return found
    alone = ask(text[:border]).tokens
    shared = 0
    while shared < min(len(alone), len(told.tokens)) and alone[shared] == told.tokens[shared]:
        shared += 1
    return shared


def total(told: Told, first: int, text: str, where: str) -> tuple[float, bool | None, int]:
    """(log-likelihood in nats, whether all are greedy, tokens of the text without a likelihood) of the tokens from `first` on.

    None for greedy where the server does not tell. A first token has no condition and no likelihood; where it is part of the
    text (no begin token) it is counted. Raises `PunaError` where nothing is left, or another one has none.
    """
    logprobs, unscored = told.logprobs, 0
    if first == 0 and logprobs[0] is None:
        unscored = int(_is_text(told.tokens[0], text))
        first = 1
    values = logprobs[first:]
    if not values and first > 1:
        raise PunaError("no token of the continuation is told of", where=where)
    if not values:
        raise PunaError("the text's only token has no likelihood: nothing stands before it", where=where,
                        mend="name the text that begins a document for this model: --bos '<s>'")  # fmt: skip
    numbers = [value for value in values if value is not None]
    if len(numbers) < len(values):
        raise PunaError("gives no log-probability (null) for a token in the middle of a text", where=where)
    greedy = told.greedy[first:]
    return math.fsum(numbers), None if None in greedy else all(greedy), unscored


def _list(lists: dict[str, Any], key: str, kind: type, where: str) -> list[Any]:
    values: list[Any] = lists[key]
    if len(values) > _MOST_TOKENS or not all(isinstance(value, kind) for value in values):
        raise _wrong(key, where)
    return values


def _wrong(key: str, where: str) -> PunaError:
    return PunaError(f'the reply\'s "{key}" is not what a server of this kind gives', where=where)


def _is_greedy(value: float | None, ways: object, where: str) -> bool | None:
    """Whether no way was likelier than the one taken; a tie counts as greedy."""
    if value is None or not isinstance(ways, dict) or not ways:
        return None
    others = [number for way in ways.values() if (number := number_of(way, where)) is not None]
    return value >= max(others, default=value)


def _generated(reply: dict[str, Any], tokens: Sequence[str], text: str, asked: int) -> int:
    """How many of the tokens, at their end, were generated: what leaves a last token that ends the text as it should."""
    usage = reply.get("usage")
    said = usage.get("completion_tokens") if isinstance(usage, dict) else None
    likely = said if type(said) is int and 0 <= said <= asked else asked
    for count in dict.fromkeys([likely, *range(asked + 1)]):
        if count < len(tokens) and _is_clean(tokens[-1 - count]) and text.endswith(tokens[-1 - count]):
            return count
    return min(likely, len(tokens))


def _is_clean(token: str) -> bool:
    """Whether a token's text stands in the text itself: it is no part of a character, and not empty."""
    return bool(token) and "\ufffd" not in token and not _PART.fullmatch(token)


def _is_text(token: str, text: str) -> bool:
    """Whether the first token is the text's own, and not a begin token that the server has put before it."""
    return (not _is_clean(token) and bool(token)) or (_is_clean(token) and text.lstrip().startswith(token.lstrip()))


def _by_offsets(told: Told, text: str, border: int) -> int | None:
    if told.offsets is None or not text:
        return None
    for unit, place in (
        (text, border),
        (text.encode("utf-8", "surrogatepass"), len(text[:border].encode("utf-8", "surrogatepass"))),
    ):
        starts = _borne_out(told, unit)
        if starts is None:
            continue
        at = [number for number, start in enumerate(starts) if start == place]
        if len(at) == 1:
            return at[0]
        # Several begin there: parts of one character, of which the first may still be the context's.
        return None if at else max(0, bisect_left(starts, place) - 1)  # the one that straddles the border
    return None


def _borne_out(told: Told, unit: str | bytes) -> list[int] | None:
    """Each token's start in `unit` (the text, or its bytes) where the offsets fit the tokens, None where they do not."""
    offsets, shift, seen = told.offsets or (), 0, 0
    first = told.tokens[0]
    if (
        told.logprobs[0] is None
        and len(offsets) > 1
        and not _is_text(first, unit if isinstance(unit, str) else unit.decode("utf-8", "surrogatepass"))
    ):
        shift = offsets[1]  # a begin token's own length is counted in by some
    starts = [0, *(offset - shift for offset in offsets[1:])]
    for token, start, end in zip(told.tokens, starts, [*starts[1:], len(unit)], strict=True):
        if not start <= end <= len(unit):
            return None
        if start == 0 or not _is_clean(token):  # a text's first token may have a space that the text has not
            continue
        written = token if isinstance(unit, str) else token.encode("utf-8", "surrogatepass")
        if unit[start : start + len(written)] != written or end - start != len(written):
            return None
        seen += 1
    return starts if seen else None


def _by_spelling(told: Told, text: str, border: int) -> int | None:
    """From the end: tokens whose texts are the text's end, up to the border."""
    place, number = len(text), len(told.tokens)
    while place > border:
        token = told.tokens[number - 1] if number else ""
        if not _is_clean(token) or not text.endswith(token, 0, place):
            return None
        place, number = place - len(token), number - 1
    return number
