"""Passages that stand word for word in more than one place, wherever they begin and end.

Comes in: tokens of documents (segment.py). Goes out: keys of windows for tables.find_repeats, and texts without the passages
that it found. Must never happen: a word taken out that does not stand, in a repeated window, at another place that stays.

A window is WORDS tokens in a row, or CHARACTERS where it begins with a Chinese, Japanese or Korean one (Lee et al. 2022 take
50 BPE tokens, some 38 words). Winnowing (Schleimer, Wilkerson and Aiken 2003) keeps of any SPAN windows in a row the one with
the smallest hash: some 2 / (SPAN + 1) of all windows, and of every repeated run of WORDS + SPAN - 1 tokens (CHARACTERS +
SPAN - 1) at least one on either side. As SPAN is not over WORDS, the windows found in a long run leave no gap.
The price: at each end of a repeated run up to SPAN - 1 tokens stay, as only windows that were kept are known to be repeats.
"""

import re
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from puna.corpus.segment import CHUNK, Batch, hashes_of, running_sum, segment
from puna.corpus.tables import Hashes, Occurrences, Orders, Places

WORDS, CHARACTERS = 50, 100  # tokens of a window
SPAN = 50  # windows in a row of which one is kept; at most WORDS
_LEAST = WORDS // 2  # tokens; less than this between windows that stay is not worth a cut
_BORDER_TOKENS = 40  # how far a cut gives way to the next sentence
_TOP = np.uint64(0xFFFFFFFFFFFFFFFF)
_GAP = 64  # characters between two tokens that are looked at; possessive, so that "......" is no trap
_TERMINAL = "[.!?…]++[\"'’”»)\\]]*+(?=\\s)|[。！？…]++[”’」』）]*+"
_SENTENCE = re.compile(rf"[^\n]*?(?:{_TERMINAL})|\S*+(?=[^\S\n]*+\n)")


def span_keys(batch: Batch, orders: Sequence[int]) -> tuple[Hashes, Orders, Places]:
    """The kept windows of a batch of documents: hashes, orders, and the token at which each window begins: (k,) each.

    A document under WORDS tokens has none. Works on some 250,000 tokens at a time, or one document.
    """
    hashes: list[Hashes] = [np.empty(0, np.uint64)]
    owners, places = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for first, end in _groups(batch.offsets):
        found, at = _winnow(batch, first, end)
        owner = np.searchsorted(batch.offsets, at, "right") - 1
        hashes.append(found)
        owners.append(owner)
        places.append(at - batch.offsets[owner])
    order = np.asarray(orders, np.int64)[np.concatenate(owners)]
    return np.concatenate(hashes), order, np.concatenate(places).astype(np.int32)


def without_spans(text: str, found: Occurrences) -> tuple[str, list[str]]:
    """A text without its repeated passages, and they; `found` are its occurrences, places as span_keys gave them.

    A window that is the first of its hash stays whole, also where another one laps over it: so all that goes stands
    elsewhere, and "ha ha ha ..." keeps one window. Cuts give way to the next end of a sentence or line, up to a quarter
    of their length; one that finds none leaves a line break. ValueError where `found` is not of this text.
    """
    batch = segment([text])
    count = len(batch.codes)
    if len(found.place) == 0:
        return text, []
    place = found.place.astype(np.int64)
    if place.max() >= count or (end := place + np.where(batch.cjk[place], CHARACTERS, WORDS)).max() > count:
        raise ValueError("a repeated window ends beyond the text: the keys were made from another text")
    first = found.is_first()
    gone = _covered(place[~first], end[~first], count) & ~_covered(place[first], end[first], count)
    edges = np.flatnonzero(np.diff(gone, prepend=False, append=False))
    pieces: list[str] = []
    removed: list[str] = []
    begin, mark = 0, ""  # where the text that stays goes on, and what parts it from what stayed before
    for a, b in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
        if b - a < _LEAST:
            continue
        left, before = _border(text, batch, a, 1, min(_BORDER_TOKENS, (b - a) // 4))
        right, after = _border(text, batch, b, -1, min(_BORDER_TOKENS, (b - a) // 4))
        stays = text[begin:left]
        pieces.append(mark + stays.strip() if pieces else stays.rstrip())
        removed.append(text[left:right])
        begin, mark = right, max(before, after, key=lambda space: (space.count("\n"), len(space)))
    if not removed:
        return text, []
    rest = text[begin:].lstrip()
    return ("".join(pieces) + mark + rest if rest else "".join(pieces)).lstrip("\n"), removed


def _groups(offsets: npt.NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Documents first:end in a row with CHUNK tokens or fewer together, or one."""
    first = 0
    while first < len(offsets) - 1:
        end = max(first + 1, int(np.searchsorted(offsets, offsets[first] + CHUNK, "right")) - 1)
        yield first, end
        first = end


def _winnow(batch: Batch, first: int, end: int) -> tuple[Hashes, npt.NDArray[np.int64]]:
    """The kept windows of documents first:end: hashes, and the tokens of the batch at which they begin."""
    offsets = batch.offsets[first : end + 1] - batch.offsets[first]
    tokens = slice(batch.offsets[first], batch.offsets[end])
    count = int(offsets[-1])
    at = np.arange(count)
    ends = at + np.where(batch.cjk[tokens], CHARACTERS, WORDS)
    lengths = np.diff(offsets)
    fits = np.flatnonzero(ends <= np.repeat(offsets[1:], lengths))
    if len(fits) == 0:
        return np.empty(0, np.uint64), np.empty(0, np.int64)
    values = np.full(count, _TOP)
    values[fits] = hashes_of(running_sum(batch.codes[tokens]), fits, ends[fits])
    # The last WORDS - 1 windows of a document do not fit, so that SPAN windows in a row never reach the next document's.
    last = np.zeros(len(lengths), np.int64)  # of each document, the window before which SPAN still fit
    np.maximum.at(last, np.searchsorted(offsets, fits, "right") - 1, fits + 1)
    last = np.maximum(last - SPAN, offsets[:-1])
    lowest = _sliding(np.minimum, values, _TOP)
    lowest[at > np.repeat(last, lengths)] = 0
    # values[i] is the smallest of SPAN in a row, exactly where the largest of the minima of the rows that hold i is values[i].
    highest = _sliding(np.maximum, lowest[::-1], np.uint64(0))[::-1]
    kept = fits[highest[fits] == values[fits]]
    kept = _thinned(kept, values[kept], np.searchsorted(offsets, kept, "right"))
    return values[kept], kept + batch.offsets[first]


def _sliding(ufunc: np.ufunc, values: Hashes, beyond: np.uint64) -> Hashes:
    """ufunc (minimum, maximum) over values[i : i + SPAN] for each i: (n,), three operations each (van Herk 1992)."""
    blocks = -(-len(values) // SPAN) + 1
    padded = np.full((blocks, SPAN), beyond)
    padded.ravel()[: len(values)] = values
    ahead = ufunc.accumulate(padded, axis=1).ravel()
    behind = ufunc.accumulate(padded[:, ::-1], axis=1)[:, ::-1].ravel()
    return np.asarray(ufunc(behind[: len(values)], ahead[SPAN - 1 : SPAN - 1 + len(values)]))


def _thinned(kept: npt.NDArray[np.int64], values: Hashes, owner: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Of kept neighbours with one hash ("ha ha ha ..."), the first, the last, and between them as few as SPAN allows."""
    same = (values[1:] == values[:-1]) & (owner[1:] == owner[:-1])
    if not same.any():
        return kept
    stays = np.ones(len(kept), bool)
    edges = np.flatnonzero(np.diff(same, prepend=False, append=False))
    for first, last in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
        stays[first + 1 : last] = False
        at = first
        while at < last:
            stays[at] = True
            at = max(at + 1, int(np.searchsorted(kept[: last + 1], kept[at] + SPAN, "right")) - 1)
    return kept[stays]


def _covered(starts: npt.NDArray[np.int64], ends: npt.NDArray[np.int64], count: int) -> npt.NDArray[np.bool_]:
    """Which of `count` tokens stand in any of starts[i]:ends[i]."""
    depth = np.bincount(starts, minlength=count + 1) - np.bincount(ends, minlength=count + 1)
    return np.asarray(np.cumsum(depth)[:count] > 0)


def _border(text: str, batch: Batch, token: int, step: int, most: int) -> tuple[int, str]:
    """The nearest end of a sentence or line before a token, from `token` on by `step`, at most `most` tokens away.

    Its place in the text and the space that follows it there; the edge of the token itself and a line break if there is none.
    """
    count = len(batch.codes)
    for at in range(token, token + step * (most + 1), step):
        if at in (0, count):
            return (0 if at == 0 else len(text)), ""
        gap = text[batch.ends[at - 1] : min(batch.starts[at], batch.ends[at - 1] + _GAP)]
        if match := _SENTENCE.match(gap):
            rest = gap[match.end() :]
            return int(batch.ends[at - 1]) + match.end(), rest[: len(rest) - len(rest.lstrip())]
    return int(batch.ends[token - 1] if step > 0 else batch.starts[token]), "\n"
