"""BPE that goes on where a given tokenizer stopped: which neighbours of its tokens the text joins most often.

Comes in: words as token ids, with how often each stands in the text. Goes out: new entries in the order they were learned,
each with the pairs that make it. Must never happen: an entry that the finished tokenizer would not build from the same text.

Every new entry's pairs rank after all before it and its text is no entry's yet, so the finished tokenizer works through the
old merges first, unhindered, and then through the new ones in this order: exactly the state that is kept here. The text is one
array of ids, changed in place; `after` and `before` chain the positions that still stand. So an entry costs what its first
half's places cost and not a pass over the text (Sennrich et al. 2016, algorithm 1, with counts kept up instead of counted anew).
"""

import heapq
import unicodedata
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from jaxtyping import Int32, Int64
from numpy import ndarray

from puna.progress import QUIET, Progress

SPACE = "\u2581"  # SentencePiece's sign for a space
_EDGE, _GONE = -1, -2  # in place of an id: between two words; joined to the token before
_LOW = (1 << 32) - 1
_BORN = -1  # in place of a pair's first half: a character becomes an entry


@dataclass(frozen=True)
class Entry:
    """A new entry, in ids of the words given. `pairs` is empty where it is the character `token` itself."""

    token: int
    text: str
    pairs: tuple[tuple[int, int], ...]
    count: int


class Rules(Protocol):
    """Which texts may become entries, and which pairs then make them."""

    def pairs(self, left: int, right: int, text: str) -> tuple[tuple[int, int], ...]:
        """All pairs of entries that spell `text`, the found one first; none: it may be no entry."""

    def add(self, text: str, token: int) -> None:
        """`text` is an entry from now on."""


class ByteRules:
    """For byte-level BPE, whose merges are a list: an entry is made by its own pair alone.

    It is whole characters, or lies inside one: an entry that ends within the next character could never be shown alone.
    """

    def __init__(self, known: Collection[str], alphabet: Mapping[str, int], longest: int) -> None:
        """`known`: texts of the old entries, spelled in `alphabet`; `longest`: bytes of a new one."""
        self._known, self._alphabet, self._longest = set(known), alphabet, longest

    def pairs(self, left: int, right: int, text: str) -> tuple[tuple[int, int], ...]:
        """The pair itself, or none."""
        if text in self._known or len(text) > self._longest:
            return ()
        return ((left, right),) if whole_or_within(bytes(self._alphabet[char] for char in text)) else ()

    def add(self, text: str, token: int) -> None:
        """`text` is an entry from now on."""
        self._known.add(text)


class PieceRules:
    """For SentencePiece, GGUF and llama2.c: any two neighbours whose joint text is a piece are joined, by the piece's score.

    So a new piece is made by every pair of pieces that spells it, and it must not complete a pair of a piece that is there
    already: that pair would be joined at the old piece's rank. Nor may it overlap itself where several pairs spell it:
    which of two overlapping ones is joined first is not the same in all these programs.
    """

    def __init__(self, known: Mapping[str, int], longest: int) -> None:
        """`known`: the old pieces; `longest`: bytes of a new one."""
        self._ids, self._longest = dict(known), longest
        self._partners: dict[str, set[str]] = {}  # part of a piece that is no piece itself -> the rests
        for piece in known:
            self._learn_parts(piece)

    def pairs(self, left: int, right: int, text: str) -> tuple[tuple[int, int], ...]:
        """The pair, then all others that spell `text`; or none."""
        if len(text.encode()) > self._longest or not self.allows(text):
            return ()
        ids = self._ids
        halves = ((ids.get(text[:cut]), ids.get(text[cut:])) for cut in range(1, len(text)))
        found = tuple((a, b) for a, b in halves if a is not None and b is not None)
        overlaps = any(text.startswith(text[cut:]) for cut in range(1, len(text)))
        if overlaps and len(found) > 1:
            return ()
        return ((left, right), *(pair for pair in found if pair != (left, right)))

    def allows(self, text: str) -> bool:
        """Whether `text` can be added without giving an older piece a new pair."""
        return text not in self._ids and not any(rest in self._ids for rest in self._partners.get(text, ()))

    def add(self, text: str, token: int) -> None:
        """`text` is an entry from now on."""
        self._ids[text] = token
        self._learn_parts(text)

    def _learn_parts(self, piece: str) -> None:
        for cut in range(1, len(piece)):
            for part, rest in ((piece[:cut], piece[cut:]), (piece[cut:], piece[:cut])):
                if part not in self._ids:
                    self._partners.setdefault(part, set()).add(rest)


def whole_or_within(data: bytes) -> bool:
    """Whether bytes are whole UTF-8 characters, or a part of a single one."""
    try:
        data.decode()
        return True
    except UnicodeDecodeError:
        rest = data[1:] if data[0] >= 0xC0 else data
        return len(data) < 4 and all(0x80 <= byte < 0xC0 for byte in rest)


def is_word(text: str) -> bool:
    """Letters and their marks only: what pieces are made of. Digits and punctuation stay pieces of their own."""
    return bool(text) and all(unicodedata.category(char)[0] in "LM" for char in text)


def learn(
    words: Mapping[bytes, int], texts: list[str], entries: int, rules: Rules, *, least: int,
    characters: Mapping[int, tuple[int, int]] | None = None, progress: Progress = QUIET,
) -> list[Entry]:  # fmt: skip
    """At most `entries` new entries, each time the one that saves most tokens; of equal ones the lowest ids.

    `words`: int32 ids of each distinct word -> how often it stands in the text. `texts`: the text of each id, as the vocabulary
    spells it; new ids follow on. `characters`: ids that are no entries yet -> (how often in the text, tokens of each now);
    one is chosen like a pair and only then joined to others. `least`: how often a pair must stand in the text.
    """
    return _Learner(words, texts, rules, least, dict(characters or {})).go(entries, progress)


class _Learner:
    def __init__(
        self, words: Mapping[bytes, int], texts: list[str], rules: Rules, least: int, asleep: dict[int, tuple[int, int]]
    ) -> None:
        self.texts, self.rules, self.least, self.asleep = list(texts), rules, least, asleep
        edge = np.int32(_EDGE).tobytes()
        self.ids = np.frombuffer(edge + b"".join(word + edge for word in words), np.int32).copy()
        sizes = np.fromiter((len(word) // 4 + 1 for word in words), np.int64, len(words))
        weights = np.repeat(np.fromiter(words.values(), np.int32, len(words)), sizes)
        self.weight = np.concatenate([np.zeros(1, np.int32), weights])
        positions = np.arange(len(self.ids), dtype=np.int32)
        self.before, self.after = positions - 1, positions + 1
        order = np.argsort(self.ids, kind="stable").astype(np.int32)
        tokens, starts = np.unique(self.ids[order], return_index=True)
        self.places: dict[int, Int32[ndarray, " n"]] = dict(
            zip(tokens.tolist(), np.split(order, starts[1:]), strict=True)
        )
        self.counts: dict[int, int] = {}
        self.heap: list[tuple[int, int, int]] = []
        real = (self.ids[:-1] >= 0) & (self.ids[1:] >= 0)
        self._gain(_keys(self.ids[:-1][real], self.ids[1:][real]), self.weight[:-1][real])
        for token, (count, pieces) in asleep.items():
            if count >= least:
                heapq.heappush(self.heap, (-count * max(1, pieces - 1), _BORN, token))

    def go(self, entries: int, progress: Progress) -> list[Entry]:
        made: list[Entry] = []
        progress.start("learning new entries", entries, "entries")
        while self.heap and len(made) < entries:
            negative, left, right = heapq.heappop(self.heap)
            if left == _BORN:
                entry = self._wake(right)
            elif (count := self.counts.get(left << 32 | right)) is None:
                continue  # below the least by now, or never allowed
            elif count != -negative:
                heapq.heappush(self.heap, (-count, left, right))
                continue
            else:
                entry = self._join(left, right, count)
            if entry is not None:
                made.append(entry)
                progress.update(len(made))
        progress.finish()
        return made

    def _wake(self, token: int) -> Entry | None:
        """A character becomes an entry; its pairs may be joined from now on."""
        text = self.texts[token]
        if isinstance(self.rules, PieceRules) and not self.rules.allows(text):
            return None
        count, _ = self.asleep.pop(token)
        self.rules.add(text, token)
        places = self.places.get(token, np.zeros(0, np.int32))
        places = places[self.ids[places] == token]
        left, right = self.ids[self.before[places]], self.ids[self.after[places]]
        here = np.full(len(places), token, np.int32)
        keys = np.concatenate([_keys(left, here)[left >= 0], _keys(here, right)[right >= 0]])
        for key in np.unique(keys).tolist():
            if key in self.counts:
                heapq.heappush(self.heap, (-self.counts[key], key >> 32, key & _LOW))
        return Entry(token, text, (), count)

    def _join(self, left: int, right: int, count: int) -> Entry | None:
        if left in self.asleep or right in self.asleep:
            return None  # comes again when both are awake
        text = self.texts[left] + self.texts[right]
        pairs = self.rules.pairs(left, right, text)
        if not pairs:
            del self.counts[left << 32 | right]
            return None
        token = len(self.texts)
        self.texts.append(text)
        self.rules.add(text, token)
        self._replace(pairs, token)
        return Entry(token, text, pairs, count)

    def _replace(self, pairs: tuple[tuple[int, int], ...], token: int) -> None:
        """Join all of `pairs` wherever they stand, and keep the counts of all pairs up."""
        ids, before, after = self.ids, self.before, self.after
        first = np.sort(np.concatenate([self._find(left, right) for left, right in pairs]))
        second, outer = after[first], before[first]
        following = after[second]
        meets = np.zeros(len(first), dtype=bool)  # the next joined pair begins right behind this one
        meets[:-1] = following[:-1] == first[1:]
        weight = self.weight[first]
        lost = [_keys(ids[first], ids[second]), _keys(ids[outer], ids[first]), _keys(ids[second], ids[following])]
        kept = [np.ones(len(first), dtype=bool), ids[outer] >= 0, (ids[following] >= 0) & ~meets]
        ids[first], ids[second] = token, _GONE
        after[first], before[following] = following, first
        here = np.full(len(first), token, np.int32)
        outer = before[first]
        won = [_keys(ids[outer], here), _keys(here, ids[following])]
        new = [ids[outer] >= 0, kept[2]]
        self.places[token] = first
        self._lose(
            np.concatenate([keys[mask] for keys, mask in zip(lost, kept, strict=True)]),
            np.concatenate([weight[mask] for mask in kept]),
        )
        self._gain(
            np.concatenate([keys[mask] for keys, mask in zip(won, new, strict=True)]),
            np.concatenate([weight[mask] for mask in new]),
        )

    def _find(self, left: int, right: int) -> Int32[ndarray, " n"]:
        """Where the pair stands, ascending; of overlapping ones (a token twice) every second, from the left."""
        places = self.places.get(left, np.zeros(0, np.int32))
        places = places[self.ids[places] == left]
        self.places[left] = places
        found = places[self.ids[self.after[places]] == right]
        if left != right or not len(found):
            return found
        goes_on = np.zeros(len(found), dtype=bool)
        goes_on[1:] = self.after[found[:-1]] == found[1:]
        index = np.arange(len(found))
        start = np.maximum.accumulate(np.where(goes_on, 0, index))
        return found[(index - start) % 2 == 0]

    def _lose(self, keys: Int64[ndarray, " n"], weights: Int32[ndarray, " n"]) -> None:
        for key, lost in zip(*_sums(keys, weights), strict=True):
            if (count := self.counts.get(key)) is not None:
                if count - lost >= self.least:
                    self.counts[key] = count - lost
                else:
                    del self.counts[key]  # a pair only ever gets rarer once both its halves are there

    def _gain(self, keys: Int64[ndarray, " n"], weights: Int32[ndarray, " n"]) -> None:
        """Count pairs that stand in the text for the first time."""
        for key, count in zip(*_sums(keys, weights), strict=True):
            if count >= self.least:
                self.counts[key] = count
                heapq.heappush(self.heap, (-count, key >> 32, key & _LOW))


def _keys(left: Int32[ndarray, " n"], right: Int32[ndarray, " n"]) -> Int64[ndarray, " n"]:
    return left.astype(np.int64) << 32 | right


def _sums(keys: Int64[ndarray, " n"], weights: Int32[ndarray, " n"]) -> tuple[list[int], list[int]]:
    """Each key once, ascending, with the sum of its weights."""
    if not len(keys):
        return [], []
    order = np.argsort(keys)
    keys = keys[order]
    starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
    return keys[starts].tolist(), np.add.reduceat(weights[order], starts, dtype=np.int64).tolist()
