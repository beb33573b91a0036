"""Which piece of which document stands in which row: best-fit packing, on lengths alone.

Comes in: document lengths and a row's capacity, both in tokens. Goes out: a `Layout`. Must never happen: a token laid
out twice, or not at all, or (where pieces may be split) a gap in any row but the last.

Best-fit decreasing after Ding et al. 2024, "Fewer Truncations Improve Language Modeling". It leaves gaps; the least
filled rows are then taken apart to fill them, so that only documents of those few rows are split.
"""

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64
from numpy import ndarray


@dataclass(frozen=True)
class Layout:
    """Pieces in the order they are written: by row, then by document, then by place in the document."""

    document: Int64[ndarray, " pieces"]  # number of the document
    offset: Int64[ndarray, " pieces"]  # first token, counted from the document's start
    length: Int64[ndarray, " pieces"]
    row: Int64[ndarray, " pieces"]
    rows: int


def lay_out(lengths: Int64[ndarray, " documents"], capacity: int, split: bool) -> Layout:
    """Lay documents (each of at least one token) into rows of `capacity` tokens.

    With `split`, documents longer than a row are cut into rows and every row but the last is full. Without it, each
    document is one piece, of at most its first `capacity` tokens, and rows may have gaps at their ends.
    """
    if not split:
        length = np.minimum(lengths, capacity)
        row, free = best_fit(length, capacity)
        document = np.arange(len(lengths), dtype=np.int64)
        return _sorted(document, np.zeros_like(document), length, row, len(free))
    whole, rest = np.divmod(lengths, capacity)
    # Rows that one document fills alone.
    document = np.repeat(np.arange(len(lengths), dtype=np.int64), whole)
    offset = (_arange_within(whole)) * capacity
    row = np.arange(len(document), dtype=np.int64)
    length = np.full(len(document), capacity, dtype=np.int64)
    # What is left of each document: best fit, then the gaps are filled.
    tail = np.flatnonzero(rest)
    tails = _fill_gaps(tail, whole[tail] * capacity, rest[tail], capacity)
    rows = len(document) + tails.rows
    return _sorted(
        np.concatenate([document, tails.document]), np.concatenate([offset, tails.offset]),
        np.concatenate([length, tails.length]), np.concatenate([row, tails.row + len(document)]), rows,
    )  # fmt: skip


def lay_out_turns(lengths: Int64[ndarray, " documents"], turns: Sequence[int], capacity: int, split: bool) -> Layout:
    """As `lay_out`, each turn by itself: `turns` are the numbers of their first documents, the first of them 0."""
    parts: list[Layout] = []
    rows = 0
    for begin, end in zip(turns, [*turns[1:], len(lengths)], strict=True):
        part = lay_out(lengths[begin:end], capacity, split)
        parts.append(Layout(part.document + begin, part.offset, part.length, part.row + rows, part.rows))
        rows += part.rows
    document, offset, length, row = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("document", "offset", "length", "row")
    )
    return Layout(document, offset, length, row, rows)


def best_fit(
    lengths: Int64[ndarray, " pieces"], capacity: int
) -> tuple[Int64[ndarray, " pieces"], Int64[ndarray, " rows"]]:
    """Best-fit decreasing: longest piece first, each into the fullest row that still holds it.

    Returns each piece's row and each row's free tokens. Pieces of one length are placed together: once a piece has
    gone into a row, that row is the fullest that fits until it no longer does, so whole groups of rows move at once.
    """
    order = np.argsort(-lengths, kind="stable")
    row_of = np.empty(len(lengths), dtype=np.int64)
    values, counts = np.unique(lengths, return_counts=True)
    open_rows: dict[int, list[int]] = {}  # free tokens -> rows
    sizes: list[int] = []  # the keys of open_rows that have rows, ascending
    rows = cursor = 0
    for length, count in zip(values[::-1].tolist(), counts[::-1].tolist(), strict=True):
        left = count
        while left:
            at = bisect_left(sizes, length)
            free = sizes[at] if at < len(sizes) else capacity
            each = free // length
            taken = max(1, left // each)
            if at < len(sizes):
                stack = open_rows[free]
                taken = min(taken, len(stack))
                chosen = stack[-taken:]
                del stack[-taken:]
                if not stack:
                    del sizes[at]
            else:
                chosen = list(range(rows, rows + taken))
                rows += taken
            each = min(each, left)  # the last row of a group may get fewer
            placed = each * taken
            row_of[order[cursor : cursor + placed]] = np.repeat(np.array(chosen, dtype=np.int64), each)
            cursor, left = cursor + placed, left - placed
            if remaining := free - each * length:
                if not open_rows.setdefault(remaining, []):
                    insort(sizes, remaining)
                open_rows[remaining] += chosen
    filled = np.bincount(row_of, weights=lengths, minlength=rows).astype(np.int64)
    return row_of, capacity - filled


def _fill_gaps(
    document: Int64[ndarray, " pieces"], offset: Int64[ndarray, " pieces"], length: Int64[ndarray, " pieces"],
    capacity: int,
) -> Layout:  # fmt: skip
    row, free = best_fit(length, capacity)
    fullest = np.argsort(free, kind="stable")
    # Take apart the k least filled rows, with the smallest k whose tokens fill the gaps of all others. As k-1 rows
    # did not suffice, fewer than `capacity` tokens are left over: they are the one last row.
    emptiest = fullest[::-1]
    content = np.concatenate([[0], np.cumsum(capacity - free[emptiest])])
    gaps = free.sum() - np.concatenate([[0], np.cumsum(free[emptiest])])
    apart = int(np.argmax(content >= gaps))
    kept = len(free) - apart
    new_row = np.empty(len(free), dtype=np.int64)
    new_row[fullest] = np.arange(len(free), dtype=np.int64)
    stays = new_row[row] < kept
    moves = np.flatnonzero(~stays)
    # One stream of loose tokens against one stream of gaps: a cut wherever either has an edge.
    piece_edges = np.concatenate([[0], np.cumsum(length[moves])])
    gap_edges = np.concatenate([[0], np.cumsum(free[fullest[:kept]])])
    total = int(piece_edges[-1])
    edges = np.union1d(piece_edges, gap_edges[gap_edges <= total])
    begin, size = edges[:-1], np.diff(edges)
    source = np.searchsorted(piece_edges, begin, side="right") - 1
    target = np.searchsorted(gap_edges, begin, side="right") - 1  # `kept` beyond the last gap: the last row
    return Layout(
        document=np.concatenate([document[stays], document[moves][source]]),
        offset=np.concatenate([offset[stays], offset[moves][source] + begin - piece_edges[source]]),
        length=np.concatenate([length[stays], size]),
        row=np.concatenate([new_row[row[stays]], target]),
        rows=kept + int(total > gap_edges[-1]),
    )


def _sorted(
    document: Int64[ndarray, " pieces"], offset: Int64[ndarray, " pieces"], length: Int64[ndarray, " pieces"],
    row: Int64[ndarray, " pieces"], rows: int,
) -> Layout:  # fmt: skip
    # By document inside a row, or the shortest pieces would always stand last and the model would learn so.
    order = np.lexsort((offset, document, row))
    return Layout(document[order], offset[order], length[order], row[order], rows)


def _arange_within(counts: Int64[ndarray, " n"]) -> Int64[ndarray, " total"]:
    """0, 1, ... counts[0]-1, 0, 1, ... counts[1]-1, and so on."""
    first = np.cumsum(counts) - counts
    return np.arange(int(counts.sum()), dtype=np.int64) - np.repeat(first, counts)
