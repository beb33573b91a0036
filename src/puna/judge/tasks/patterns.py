"""Which regular expressions of a stranger's task file may be run on what a model wrote.

Comes in: a pattern. Goes out: None, or why it is refused. Must never happen: a pattern let through whose time grows faster than with
the square of the text's length.

Python's `re` tries one way after the other. A pattern is slow where one text can be matched in many ways: a repeat in a repeat,
alternatives that begin alike in a repeat, or two open-ended repeats of the same characters one after the other. These are told by the
pattern's form alone, on its parsed tree; some that would be harmless are refused with them.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from re import _constants as signs  # type: ignore[attr-defined]
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any, NamedTuple

MOST_MATCHED = 10_000  # characters of an answer that patterns are run on: the square of it is a second
_MANY = 10  # a repeat that may come so often counts as open-ended
_MOST_WAYS = 64  # in which small optional parts may match one text
_REPEATS = (signs.MAX_REPEAT, signs.MIN_REPEAT, signs.POSSESSIVE_REPEAT)
_KINDS: dict[Any, tuple[Callable[[str], bool], bool]] = {
    signs.CATEGORY_DIGIT: (str.isdecimal, True), signs.CATEGORY_NOT_DIGIT: (str.isdecimal, False),
    signs.CATEGORY_SPACE: (str.isspace, True), signs.CATEGORY_NOT_SPACE: (str.isspace, False),
    signs.CATEGORY_WORD: (lambda one: one.isalnum() or one == "_", True),
    signs.CATEGORY_NOT_WORD: (lambda one: one.isalnum() or one == "_", False),
}  # fmt: skip
Signs = frozenset[int]


class _Part(NamedTuple):
    """A stretch of a pattern: the characters it may hold, in how many ways it matches (inf: more with each character), its least length."""

    signs: Signs
    ways: float
    least: int
    first: Signs


class _Refused(ValueError):
    """Why."""


def refusal(pattern: str) -> str | None:
    """Why a pattern is refused, in plain words; None where its time grows at most with the square of the text.

    Raises re.error, RecursionError or OverflowError where it is no regular expression.
    """
    tree = parser.parse(pattern)
    every = frozenset(range(128)) | {0xE9, 0x660, 0x3000, 0x4E2D, 0x1F600} | frozenset(_named(tree))
    try:
        _Walk(every).sequence(list(tree), ends=True)
    except _Refused as refused:
        return str(refused)
    return None


def _named(tree: Any) -> Iterable[int]:
    """All characters that a pattern names, with both cases: those that can tell two of its sets apart."""
    for kind, value in tree:
        stack = [(kind, value)]
        while stack:
            one, held = stack.pop()
            if one in (signs.LITERAL, signs.NOT_LITERAL):
                yield from _cases(held)
            elif one is signs.RANGE:
                yield from (*_cases(held[0]), *_cases(held[1]))
            elif one is signs.IN:
                stack += held
            else:
                for inner in _inside(one, held):
                    stack += list(inner)


def _inside(kind: Any, held: Any) -> list[Any]:
    if kind in _REPEATS:
        return [held[2]]
    if kind is signs.SUBPATTERN:
        return [held[3]]
    if kind is signs.ATOMIC_GROUP:
        return [held]
    if kind is signs.BRANCH:
        return list(held[1])
    return [held[1]] if kind in (signs.ASSERT, signs.ASSERT_NOT) else []


def _cases(code: int) -> set[int]:
    letter = chr(code)
    return {ord(one) for one in (letter, letter.lower(), letter.upper(), letter.swapcase()) if len(one) == 1}


class _Walk:
    def __init__(self, every: Signs) -> None:
        self.every = every

    def one(self, kind: Any, held: Any) -> Signs | None:
        """The characters of what matches a single one; None for anything else. Case is ignored, which can only refuse more."""
        if kind is signs.LITERAL:
            return frozenset(_cases(held))
        if kind is signs.NOT_LITERAL:
            return self.every - {held}
        if kind is signs.ANY:
            return self.every
        if kind is not signs.IN:
            return None
        inside: set[int] = set()
        for part, value in held:
            if part is signs.LITERAL:
                inside |= _cases(value)
            elif part is signs.RANGE:
                within = {code for code in self.every if value[0] <= code <= value[1]}
                inside |= {case for code in within for case in _cases(code)}
            elif part is signs.CATEGORY:
                test, wanted = _KINDS[value]
                inside |= {code for code in self.every if test(chr(code)) is wanted}
        if held[0][0] is signs.NEGATE:
            plain = {
                value for part, value in held if part is signs.LITERAL
            }  # with case ignored more may match, never less
            whole = {
                code
                for part, value in held
                if part is signs.RANGE
                for code in self.every
                if value[0] <= code <= value[1]
            }
            kinds = {code for part, value in held if part is signs.CATEGORY for code in self.every
                     if _KINDS[value][0](chr(code)) is _KINDS[value][1]}  # fmt: skip
            return self.every - plain - whole - kinds
        return frozenset(inside)

    def part(self, kind: Any, held: Any) -> _Part | None:
        """One node; None where it takes no characters."""
        single = self.one(kind, held)
        if single is not None:
            return _Part(single, 1, 1, single)
        if kind is signs.AT:
            return None
        if kind in (signs.ASSERT, signs.ASSERT_NOT):
            inner = self.sequence(list(held[1]), ends=False)
            return _Part(frozenset(), inner.ways, 0, frozenset()) if inner.ways > 1 else None
        if kind is signs.SUBPATTERN:
            return self.sequence(list(held[3]), ends=False)
        if kind is signs.ATOMIC_GROUP:
            return self.sequence(list(held), ends=False)
        if kind is signs.BRANCH:
            return self.branch([self.sequence(list(one), ends=False) for one in held[1]])
        if kind in _REPEATS:
            return self.repeat(int(held[0]), int(held[1]), self.sequence(list(held[2]), ends=False))
        raise _Refused("refers back to what it matched, which can take for ever")

    def branch(self, parts: Sequence[_Part]) -> _Part:
        alike = any(one.first & other.first for place, one in enumerate(parts) for other in parts[:place])
        empty = sum(one.least == 0 for one in parts)
        ways = max(one.ways for one in parts) * (len(parts) if alike else 1)
        # An empty alternative is as good as a question mark.
        return _Part(_union(one.signs for one in parts), max(ways, 2 if empty else 1), min(one.least for one in parts),
                     _union(one.first for one in parts))  # fmt: skip

    def repeat(self, least: int, most: int, body: _Part) -> _Part:
        if most > 1 and body.ways == float("inf"):
            raise _Refused("has an open-ended repeat in a repeat, like (a+)+, which can take for ever")
        if most >= _MANY and body.ways > 1:
            raise _Refused(
                "has a repeat or alternatives that begin alike in a repeat, like (a?b)+ or (a|ab)+, which can take for ever"
            )
        if most >= _MANY and body.least == 0:
            raise _Refused("repeats what may be empty, like (a|)+, which can take for ever")
        ways = body.ways ** min(most, _MANY) * (most - least + 1 if most < _MANY else 1)
        if most >= _MANY and most != least:
            ways = float("inf")
        if most < _MANY and ways > _MOST_WAYS:
            raise _Refused(f"can match one text in over {_MOST_WAYS} ways")
        return _Part(body.signs, ways, min(least * body.least, 1000), body.first)

    def sequence(self, nodes: list[Any], *, ends: bool) -> _Part:
        """Nodes one after the other. `ends`: nothing comes after them, so that the last one cannot fail."""
        while len(nodes) == 1 and nodes[0][0] is signs.SUBPATTERN:
            nodes = list(nodes[0][1][3])
        if ends and len(nodes) == 1 and nodes[0][0] is signs.BRANCH:
            return self.branch([self.sequence(list(one), ends=True) for one in nodes[0][1][1]])
        flat = _flat(nodes)
        parts = [self.part(kind, held) for kind, held in flat]
        chain: Signs = frozenset()  # the characters that the repeats so far can pass to and fro
        ways, most, first, least, open_first = 1.0, 1.0, frozenset[int](), 0, True
        between: list[Signs] = []
        for place, part in enumerate(parts):
            if part is None:
                continue
            least += part.least
            if open_first:
                first |= part.first
                open_first = part.least == 0
            if part.ways == 1:
                if chain and part.least and not part.signs & chain:
                    chain, ways, between = frozenset(), 1.0, []
                elif part.least:
                    between.append(part.signs)
                continue
            if ends and place == len(parts) - 1:  # what comes last takes what it gets
                most = max(most, part.ways)
                continue
            apart = not part.signs & chain
            if (apart and part.least) or any(not one & part.signs for one in between) or not chain:
                chain, ways = part.signs, part.ways
            elif apart:
                chain, ways = chain | part.signs, max(ways, part.ways)
            else:
                if ways * part.ways > _MOST_WAYS and ways > 1:
                    raise _Refused(
                        "has two open-ended repeats of the same characters and nothing certain between them, like .*a.*b, "
                        "whose time grows with the cube of the text: write what may not stand there, like [^a]*"
                    )
                chain, ways = chain | part.signs, ways * part.ways
            between = []
            most = max(most, ways)
        return _Part(_union(part.signs for part in parts if part), most, min(least, 1000), first)


def _flat(nodes: Sequence[Any]) -> list[Any]:
    """Nodes with the groups among them opened."""
    out: list[Any] = []
    for kind, held in nodes:
        if kind is signs.SUBPATTERN:
            out += _flat(held[3])
        else:
            out.append((kind, held))
    return out


def _union(sets: Iterable[Signs]) -> Signs:
    return frozenset[int]().union(*sets)


def compiled(pattern: str) -> re.Pattern[str]:
    """The pattern. Raises ValueError with the reason where it is refused or none."""
    try:
        found = re.compile(pattern)
        reason = refusal(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(f"is no regular expression ({error})") from error
    if reason:
        raise ValueError(reason)
    return found
