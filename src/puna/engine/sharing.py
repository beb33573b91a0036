"""Which rows share work: the plan by which texts with common beginnings are read together.

In: sequences of token ids, sorted. Out: runs of them and how many first tokens each run has in common. Must never happen: a run
whose members do not begin alike that far, or one that costs more than it saves by the stated count.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Run:
    """Members `start` to `end` - 1 of a sorted list; all begin with the same `depth` tokens."""

    start: int
    end: int
    depth: int


def sort_key(ids: Sequence[int]) -> bytes:
    """Bytes that sort as the ids do: four big-endian ones for each."""
    return np.asarray(ids, dtype=">u4").tobytes()


def common(one: bytes, other: bytes) -> int:
    """How many first ids two keys share."""
    size = min(len(one), len(other))
    if one[:size] == other[:size]:
        return size // 4
    low, high = 0, size // 4  # the first `low` are equal, the first `high` are not
    while high - low > 1:
        middle = (low + high) // 2
        if one[4 * low : 4 * middle] == other[4 * low : 4 * middle]:
            low = middle
        else:
            high = middle
    return low


def best_runs(neighbours: Sequence[int], gain: Callable[[Run], float]) -> list[Run]:
    """The set of disjoint runs with the largest total gain, in order; members in no run gain nothing.

    `neighbours[i]`: how many first tokens members i and i + 1 share, of n - 1 pairs. Only maximal runs of each depth are looked at
    (the nodes of the tree of common beginnings; Abouelhoda et al. 2004, "LCP intervals"), so 2·n calls of `gain` at most.
    """
    found: list[tuple[Run, bool]] = []  # every node, and whether it is better than the best of what is below it
    stack: list[tuple[int, int, float]] = []  # start, depth, the best that its finished parts gain
    for end in range(1, len(neighbours) + 2):
        depth = neighbours[end - 1] if end <= len(neighbours) else -1
        start, carried = end - 1, 0.0
        while stack and stack[-1][1] > depth:
            start, deep, inner = stack.pop()
            run = Run(start, end, deep)
            inner += carried
            own = gain(run)
            found.append((run, own > max(inner, 0.0)))
            carried = max(own, inner, 0.0)
        if stack and stack[-1][1] == depth:
            stack[-1] = (*stack[-1][:2], stack[-1][2] + carried)
        elif depth >= 0:
            stack.append((start, depth, carried))
    chosen: list[Run] = []
    for run, better in sorted(found, key=lambda pair: (pair[0].start, -pair[0].end)):
        if better and (not chosen or run.start >= chosen[-1].end):
            chosen.append(run)
    return chosen
