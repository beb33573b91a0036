"""The plan of what is read together, held against trying everything."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from puna.engine.sharing import Run, best_runs, common, sort_key

IDS = st.lists(st.sampled_from([0, 1, 255, 256, 70_000]), max_size=9)


@given(IDS, IDS)
def test_keys_sort_as_the_ids_do_and_tell_what_is_common(one: list[int], other: list[int]) -> None:
    assert (sort_key(one) < sort_key(other)) == (one < other)
    shared = 0
    while shared < min(len(one), len(other)) and one[shared] == other[shared]:
        shared += 1
    assert common(sort_key(one), sort_key(other)) == shared


def _best_by_trying(neighbours: list[int], gain: dict[tuple[int, int], float]) -> float:
    """The largest total over all sets of disjoint runs, each with its members' common depth."""
    count = len(neighbours) + 1
    best = [0.0] * (count + 1)
    for end in range(1, count + 1):
        best[end] = max([best[end - 1], *(best[start] + gain[start, end] for start in range(end - 1))])
    return best[count]


@pytest.mark.parametrize("seed", range(30))
def test_the_runs_are_the_best_there_are(seed: int) -> None:
    draw = random.Random(seed)
    neighbours = [draw.choice([0, 1, 2, 5, 9]) for _ in range(draw.randint(0, 14))]

    def gain(run: Run) -> float:  # what longer runs and longer beginnings save, less a price: nested runs compete
        return (run.end - run.start - 1) * run.depth - 3.0 - 0.4 * (run.end - run.start) ** 2

    everything = {
        (start, end): gain(Run(start, end, min(neighbours[start : end - 1])))
        for end in range(2, len(neighbours) + 2)
        for start in range(end - 1)
    }
    maximal = {  # a run that could grow without losing depth is no node of the tree
        (start, end): value if _is_maximal(neighbours, start, end) else -1e9
        for (start, end), value in everything.items()
    }
    runs = best_runs(neighbours, gain)
    for run in runs:
        assert run.depth == min(neighbours[run.start : run.end - 1])
    assert all(one.end <= two.start for one, two in zip(runs, runs[1:], strict=False))
    assert sum(map(gain, runs)) == pytest.approx(_best_by_trying(neighbours, maximal))


def _is_maximal(neighbours: list[int], start: int, end: int) -> bool:
    depth = min(neighbours[start : end - 1])
    left = start == 0 or neighbours[start - 1] < depth
    return left and (end == len(neighbours) + 1 or neighbours[end - 1] < depth)


def test_no_run_where_nothing_is_gained() -> None:
    assert best_runs([5, 5, 5], lambda run: -1.0) == []
    assert best_runs([], lambda run: 1.0) == []
