"""N-grams of evaluation items: their hashes, a table of which items hold them, and the look-up of many at once.

Comes in: tokens of items, then hashes of a text's n-grams. Goes out: matches. Must never happen: an n-gram over the border of
two texts, or one that stands for a task's template.

The hash of an n-gram is the polynomial of its tokens' hashes modulo 2^64 (Karp and Rabin 1987). A look-up in a table of bits
by the hash of its first tokens, and one by its own, rule out nearly all of ordinary text (Bloom 1970); the rest is searched.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from puna.corpus.segment import Batch, mix

Hashes = npt.NDArray[np.uint64]
Places = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

TEMPLATE_ITEMS = 10  # GPT-3 left out what stood in more than 10 documents (Brown et al. 2020, appendix C)
_BASE = np.uint64(0x9E6C63D0876A9A99)  # odd
_LENGTH = np.uint64(0xD6E8FEB86659FD93)  # odd: n-grams of different length have unlike hashes
_BITS_PER_HASH = 8  # of ordinary text one hash in 8 to 16 passes the table, and of two hashes both in one of 100 or so
_LEAST_BITS = 16


@dataclass(frozen=True, slots=True)
class Rows:
    """N-grams as they stand in the items: hash, hash of its first tokens, item, first token and length, each (r,)."""

    hash: Hashes
    prefix: Hashes
    item: Places
    place: Places
    length: Places


@dataclass(frozen=True, slots=True)
class Matches:
    """N-grams of a text that items hold: token of the text, item, number of the n-gram, its place in the item, its length."""

    token: Places
    item: Places
    gram: Places
    place: Places
    length: Places

    def __len__(self) -> int:
        return len(self.token)

    def of(self, chosen: npt.NDArray[Any]) -> "Matches":
        """Those that a mask or an order picks."""
        return Matches(*(getattr(self, field.name)[chosen] for field in fields(self)))


@dataclass(frozen=True, slots=True)
class Grams:
    """The n-grams of all items, in one tier.

    hashes: sorted and distinct (g,); n-gram i stands in the items items[offsets[i]:offsets[i + 1]], first at their tokens
    places[...] (p,); bits: the table that rules out (2^k / 8,); lengths: those that occur; totals: n-grams of each item (n,),
    question_totals: those within its question; templates: distinct n-grams left out as a task's template (1,).
    """

    hashes: Hashes
    offsets: Places
    items: npt.NDArray[np.int32]
    places: npt.NDArray[np.int32]
    bits: npt.NDArray[np.uint8]
    lengths: Places
    totals: Places
    question_totals: Places
    templates: Places

    def may_hold(self, prefixes: Hashes) -> Mask:
        """Which hashes, whole ones or plain ones of first tokens (m,), some n-gram may have: all that one has, few others."""
        places = prefixes >> np.uint64(64 - (len(self.bits) * 8).bit_length() + 1)
        return np.asarray((self.bits[places >> np.uint64(3)] >> (places & np.uint64(7)).astype(np.uint8)) & 1, bool)

    def matches(self, hashes: Hashes, tokens: Places, lengths: Places) -> Matches:
        """The items that hold the n-grams `hashes` (m,), which begin at `tokens` of the text: one row for each of them."""
        if not len(self.hashes):
            return joined(())
        likely = np.flatnonzero(self.may_hold(hashes))
        grams = np.minimum(np.searchsorted(self.hashes, hashes[likely]), len(self.hashes) - 1)
        true = self.hashes[grams] == hashes[likely]
        held, grams = likely[true], grams[true]
        counts = self.offsets[grams + 1] - self.offsets[grams]
        rows = np.repeat(self.offsets[grams] - np.cumsum(counts) + counts, counts) + np.arange(counts.sum())
        return Matches(
            np.repeat(tokens[held], counts),
            self.items[rows].astype(np.int64),
            np.repeat(grams, counts),
            self.places[rows].astype(np.int64),
            np.repeat(lengths[held], counts),
        )


def joined(parts: Sequence[Matches]) -> Matches:
    """The matches of all parts, one after the other."""
    none = np.empty(0, np.int64)
    return Matches(
        *(np.concatenate([none, *(getattr(part, field.name) for part in parts)]) for field in fields(Matches))
    )


def rolling(codes: Hashes, lengths: Collection[int]) -> dict[int, Hashes]:
    """For each length the plain hashes of that many tokens in a row, beginning at each token: (t,), 0 where they end."""
    found: dict[int, Hashes] = {}
    total = codes.copy()
    for length in range(1, max(lengths, default=0) + 1):
        if length > 1:
            total *= _BASE
            total[: max(0, len(codes) - length + 1)] += codes[length - 1 :]
        if length in lengths:
            found[length] = total.copy()
    return found


def hash_at(codes: Hashes, tokens: Places, length: int) -> Hashes:
    """The hashes of the n-grams of `length` tokens that begin at `tokens` (m,)."""
    total = codes[tokens].copy()
    for step in range(1, length):
        total *= _BASE
        total += codes[tokens + step]
    return finish(total, np.int64(length))


def finish(plain: Hashes, lengths: Places | np.int64) -> Hashes:
    """The hashes of n-grams from their plain ones and their lengths (m,)."""
    return mix(plain + np.asarray(lengths).astype(np.uint64) * _LENGTH)


def rows_of(
    batch: Batch, question_tokens: Places, words: int, characters: int, prefix: int, whole: tuple[int, int] | None
) -> Rows:
    """The n-grams of a batch of items, `words` long, or `characters` where the first token is a character.

    With `whole` (least words, least characters), a question that holds none is one n-gram of its own, and so is an item that
    holds none at all. `prefix`: how many first tokens the table of bits is asked for; 0 for all.
    """
    owners = batch.owners()
    place = np.arange(len(owners)) - batch.offsets[owners]
    size = np.diff(batch.offsets)
    length = np.where(batch.cjk, characters, words)
    token = np.flatnonzero(place + length <= size[owners])
    parts = [(token, length[token])]
    if whole is not None:
        parts += _whole(batch, question_tokens, size, token, place, length, owners, whole)
    tokens, lengths = (np.concatenate([part[column] for part in parts]) for column in (0, 1))
    plain = np.empty(len(tokens), np.uint64)
    for one in np.unique(lengths).tolist():
        chosen = lengths == one
        plain[chosen] = hash_at(batch.codes, tokens[chosen], one)
    if prefix:
        prefixes = rolling(batch.codes, (prefix,))[prefix][tokens] if len(tokens) else np.empty(0, np.uint64)
    else:
        found = rolling(batch.codes, (words, characters))
        prefixes = np.where(lengths == characters, found[characters][tokens], found[words][tokens])
    return Rows(plain, prefixes, owners[tokens], place[tokens], lengths)


def _whole(
    batch: Batch,
    question_tokens: Places,
    size: Places,
    token: Places,
    place: Places,
    length: Places,
    owners: Places,
    whole: tuple[int, int],
) -> list[tuple[Places, Places]]:
    count = len(batch)
    within = place[token] + length[token] <= question_tokens[owners[token]]
    windows = np.bincount(owners[token], minlength=count)
    question_windows = np.bincount(owners[token[within]], minlength=count)
    characters = np.bincount(owners[batch.cjk], minlength=count)
    least = np.where(2 * characters > size, whole[1], whole[0])
    question = (question_windows == 0) & (question_tokens >= least)
    item = (windows == 0) & ~question & (size >= least)
    first = batch.offsets[:-1]
    return [(first[question], question_tokens[question]), (first[item], size[item])]


def table(parts: Sequence[Rows], tasks: Places, question_tokens: Places) -> Grams:
    """The table of the n-grams in `parts`; `tasks` numbers the task of each item (n,), `question_tokens` are its question's."""
    columns = {field.name: np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Rows)}
    # Of an n-gram that an item holds twice, the first place counts.
    order = np.lexsort((columns["place"], columns["item"], columns["hash"]))
    rows = Rows(**{name: column[order] for name, column in columns.items()})
    fresh = changes(rows.hash) | changes(rows.item)
    rows = _chosen(rows, fresh)
    common = _templates(rows.hash, tasks[rows.item])
    templates = len(np.unique(rows.hash[common]))
    rows = _chosen(rows, ~common)
    begins = np.flatnonzero(changes(rows.hash))
    inside = rows.place + rows.length <= question_tokens[rows.item]
    count = len(tasks)
    return Grams(
        rows.hash[begins],
        np.append(begins, len(rows.hash)).astype(np.int64),
        rows.item.astype(np.int32),
        rows.place.astype(np.int32),
        _bits(np.concatenate([rows.prefix, rows.hash])),
        np.unique(rows.length),
        np.bincount(rows.item, minlength=count),
        np.bincount(rows.item[inside], minlength=count),
        np.array([templates]),
    )


def _chosen(rows: Rows, mask: Mask) -> Rows:
    return Rows(*(getattr(rows, field.name)[mask] for field in fields(Rows)))


def changes(values: npt.NDArray[Any]) -> Mask:
    """Where a value differs from the one before it; the first one does (n,)."""
    mask = np.ones(len(values), bool)
    mask[1:] = values[1:] != values[:-1]
    return mask


def _templates(hashes: Hashes, tasks: Places) -> Mask:
    """Which rows hold an n-gram that over TEMPLATE_ITEMS items of one task share, in whatever task."""
    order = np.lexsort((tasks, hashes))
    begins = np.flatnonzero(changes(hashes[order]) | changes(tasks[order]))
    counts = np.diff(np.append(begins, len(order)))
    return np.asarray(np.isin(hashes, np.unique(hashes[order][begins[counts > TEMPLATE_ITEMS]])))


def _bits(hashes: Hashes) -> npt.NDArray[np.uint8]:
    size = max(_LEAST_BITS, int(len(hashes) * _BITS_PER_HASH - 1).bit_length())
    bits = np.zeros(1 << size, np.uint8)
    bits[hashes >> np.uint64(64 - size)] = 1
    return np.packbits(bits, bitorder="little")
