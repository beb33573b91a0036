"""Exact repeats: whole documents and paragraphs.

Comes in: texts. Goes out: keys for tables.find_repeats, and texts without what it found. Must never happen: two different
paragraphs under one key, or code without the lines that it shares with other code.

Two units, one way: the map writes a key per unit (`document_keys`, `paragraph_keys`), the barrier finds the keys that occur more
than once, and each text is written again without its repeats. The first in reading order stays.
"""

from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b

import numpy as np

from puna.corpus.tables import Hashes, Orders, Places

PARAGRAPH_BYTES = 200  # shorter paragraphs (headings, "All rights reserved.") may stand in many documents
CODE = "source"  # the kind of document whose paragraphs stay: a class that repeats another's lines is no class
_BREAK = ("\n\n", "\n")  # between paragraphs: of curated text, of a page of the web
Keys = tuple[Hashes, Orders, Places]


def document_keys(texts: Sequence[str], orders: Sequence[int], kinds: Sequence[str]) -> Keys:
    """A key per document: equal for equal words and marks of one kind, however they are spaced. Hashes, orders, places."""
    return _keys((_hash(kind, " ".join(text.split())), order, 0) for text, order, kind in zip(
        texts, orders, kinds, strict=True))  # fmt: skip


def paragraph_keys(
    texts: Sequence[str], orders: Sequence[int], kinds: Sequence[str], web: Sequence[bool] | None = None
) -> Keys:
    """A key per paragraph of PARAGRAPH_BYTES or more, code left out: hashes, orders, and the paragraphs' numbers, (k,) each.

    A blank line parts paragraphs; in a page of the `web`, as extraction gives it, any line end does.
    """
    return _keys(_paragraphs(texts, orders, kinds, web or [False] * len(texts)))


def without_paragraphs(text: str, places: Iterable[int], web: bool = False) -> tuple[str, list[str]]:
    """A text without the paragraphs of these numbers, and they."""
    gone = set(places)
    parts = text.split(_BREAK[web])
    kept = [part for place, part in enumerate(parts) if place not in gone]
    return _BREAK[web].join(kept).strip("\n"), [parts[place] for place in sorted(gone)]


def _keys(rows: Iterator[tuple[int, int, int]]) -> Keys:
    table = np.fromiter(rows, np.dtype([("hash", "<u8"), ("order", "<i8"), ("place", "<i4")]))
    return table["hash"].copy(), table["order"].copy(), table["place"].copy()


def _paragraphs(
    texts: Sequence[str], orders: Sequence[int], kinds: Sequence[str], web: Sequence[bool]
) -> Iterator[tuple[int, int, int]]:
    for text, order, kind, page in zip(texts, orders, kinds, web, strict=True):
        if kind == CODE:
            continue
        for place, part in enumerate(text.split(_BREAK[page])):
            if len(part) * 4 >= PARAGRAPH_BYTES:
                body = part.strip()
                if len(body) >= PARAGRAPH_BYTES or len(body.encode("utf-8", "surrogatepass")) >= PARAGRAPH_BYTES:
                    yield _hash(kind, body), order, place


def _hash(kind: str, body: str) -> int:
    # 64 bits: among 10 million keys two different ones meet with a chance of 3 in a million.
    digest = blake2b(kind.encode() + b"\0" + body.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little")
