"""Means and rank sets under a choice of tasks: against the known truth, against the judge's own comparison, and the presets."""

import math

import pytest
from board_sample import ABILITY, MODELS, measurement

from puna.board.choice import SCALES, mean_difference, ranking
from puna.board.gather import Gathered, gather
from puna.judge.pairs import Comparison, compare, difference_of_means


@pytest.fixture(scope="module")
def gathered(sample_results) -> Gathered:
    return gather(sample_results, title="t")


def number(gathered: Gathered, model: int) -> int:
    return next(i for i, row in enumerate(gathered.board.models) if row.facts.name == MODELS[model].name)


def test_every_paired_difference_is_the_judges(gathered):
    board = gathered.board
    for which in range(6):
        t = next(t for t, column in enumerate(board.tasks) if column.facts.name == measurement(0, which).task.name)
        for a, b in ((0, 3), (2, 3)):
            i, j = number(gathered, a), number(gathered, b)
            found = board.pairs[t].get((min(i, j), max(i, j)))
            if board.at(i, t) is None or board.at(j, t) is None:
                assert found is None
                continue
            for normalised, pair in (
                (False, lambda d: (d.value, d.variance)),
                (True, lambda d: (d.norm, d.norm_variance)),
            ):
                own = compare(measurement(a, which), measurement(b, which), normalised=normalised)
                if not isinstance(own, Comparison):
                    assert pair(found) == (None, None)
                    continue
                value, variance = pair(found)
                assert found.paired
                assert value * (1 if i < j else -1) == pytest.approx(own.difference, abs=1e-12)
                assert variance == pytest.approx(own.variance, rel=1e-9)


def test_the_truth_is_found_and_no_more_than_it(gathered):
    board = gathered.board
    start = board.presets[board.start]
    assert [board.tasks[t].facts.name for t in start.tasks] == ["arc_challenge", "hellaswag", "mmlu", "truthfulqa_mc2"]
    found = ranking(board, start.tasks)
    apart = {
        (number(gathered, a), number(gathered, b)) for a in range(4) for b in range(4) if ABILITY[a] - ABILITY[b] > 0.5
    }
    assert apart <= found.apart
    middle = {number(gathered, 1), number(gathered, 2)}  # abilities 0.9 and 1.0
    assert not any(set(pair) == middle for pair in found.apart)
    assert found.rows[0].model == number(gathered, 3)


@pytest.mark.parametrize("scale", SCALES)
def test_means_intervals_and_sets_by_hand(gathered, scale):
    board = gathered.board
    tasks = board.presets[board.start].tasks
    found = ranking(board, tasks, scale)
    # Of the published model no subtask of MMLU is known, and they have different chances: it has no normalised score there.
    able = [i for i, row in enumerate(board.models) if scale == "raw" or not row.imported]
    assert sorted(row.model for row in found.rows) == able
    for row in found.rows:
        cells = [board.at(row.model, t) for t in tasks]
        values = [{"raw": c.value, "clipped": c.clipped, "unclipped": c.norm}[scale] for c in cells]
        assert row.mean == pytest.approx(sum(values) / len(tasks), abs=1e-8)
        variances = [c.variance if scale == "raw" else c.norm_variance for c in cells]
        if None in variances:
            assert row.interval is None
        else:
            half = 1.959963984540054 * math.sqrt(sum(variances)) / len(tasks)
            assert row.interval == pytest.approx((row.mean - half, row.mean + half), abs=1e-8)
        better = sum(pair[1] == row.model for pair in found.apart)
        worse = sum(pair[0] == row.model for pair in found.apart)
        assert (row.low, row.high) == (1 + better, len(found.rows) - worse)
    assert [row.mean for row in found.rows] == sorted((row.mean for row in found.rows), reverse=True)


def test_a_model_that_lacks_a_task_has_no_rank_and_is_named(gathered):
    board = gathered.board
    every = next(preset for preset in board.presets if preset.id == "all")
    found = ranking(board, every.tasks)
    cmmlu = next(t for t, column in enumerate(board.tasks) if column.facts.name == "cmmlu")
    lacking = {board.models[i].facts.name: tasks for i, tasks in found.lacking}
    assert set(lacking) == {MODELS[2].name, "Yi-34B"} and set(lacking.values()) == {(cmmlu,)}
    assert {row.model for row in found.rows}.isdisjoint(i for i, _ in found.lacking)


def test_a_difference_of_means_is_the_judges_own(gathered):
    board = gathered.board
    tasks = board.presets[board.start].tasks
    gaps = [board.pairs[t][0, 1] for t in tasks]
    told = difference_of_means([gap.value for gap in gaps], [gap.variance for gap in gaps])
    ours, back = mean_difference(board, tasks, 0, 1), mean_difference(board, tasks, 1, 0)
    assert ours == pytest.approx((told.difference, told.standard_error, told.p), rel=1e-6)
    assert back == pytest.approx((-told.difference, told.standard_error, told.p), rel=1e-6)


def test_what_cannot_be_averaged_is_refused(gathered):
    board = gathered.board
    bits = next(t for t, column in enumerate(board.tasks) if column.facts.unit != "share")
    assert all(bits not in preset.tasks for preset in board.presets)
    with pytest.raises(ValueError, match="averaged"):
        ranking(board, [bits])
    nobody = ranking(board, [])
    assert nobody.rows == () and len(nobody.lacking) == len(board.models)


def test_the_published_model_is_compared_unpaired_and_not_told_apart_without_an_n(gathered):
    board = gathered.board
    yi = next(i for i, row in enumerate(board.models) if row.imported)
    arc, hella = (
        next(t for t, c in enumerate(board.tasks) if c.facts.name == name) for name in ("arc_challenge", "hellaswag")
    )
    known = [found for pair, found in board.pairs[arc].items() if yi in pair]
    assert len(known) == 4 and all(not found.paired and found.variance and "unpaired" in found.test for found in known)
    assert all(found.variance is None for pair, found in board.pairs[hella].items() if yi in pair)  # nobody said n
    row = next(row for row in ranking(board, board.presets[board.start].tasks).rows if row.model == yi)
    assert (row.low, row.high, row.interval) == (1, 5, None)
