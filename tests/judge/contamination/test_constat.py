"""The gap against models whose truth is known: made ones, with a known head start on one task."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from puna.errors import PunaError
from puna.judge.contamination import constat as module
from puna.judge.contamination.constat import Gap, Pair, constat
from puna.judge.measured import Item, Measurement, ModelFacts, TaskFacts

TASKS = tuple(TaskFacts(name=name, title=name, kind="choices", metric="acc") for name in ("task", "twin"))


@cache
def item(number: int, score: float) -> Item:
    return Item(id=f"i{number}", question="", prompt="", score=score)


def measured(name: str, side: int, scores: np.ndarray) -> Measurement:
    return Measurement(
        model=ModelFacts(name=name), task=TASKS[side], items=tuple(item(n, float(s)) for n, s in enumerate(scores))
    )


def models(rng: np.random.Generator, count: int, head_start: float, n: int = 300) -> list[Pair]:
    """The first has read the task's items: `head_start` more of them are right than its ability gives."""
    hard = [rng.normal(0, 0.15, n), rng.normal(-0.05, 0.15, n)]
    made = []
    for number, ability in enumerate(rng.uniform(0.3, 0.75, count + 1)):
        if number == 0:
            ability = 0.5
        pair = []
        for side in (0, 1):
            right = ability + hard[side] + rng.normal(0, 0.01) + (head_start if number == side == 0 else 0)
            pair.append(measured(f"m{number}", side, rng.uniform(size=n) < right))
        made.append((pair[0], pair[1]))
    return made


def gap(rng: np.random.Generator, count: int, head_start: float, draws: int = 200) -> Gap:
    made = models(rng, count, head_start)
    return constat(made[0], made[1:], draws=draws)


@pytest.mark.parametrize("count", [8, 14])
def test_a_head_start_is_found_with_its_size(count: int) -> None:
    found = gap(np.random.default_rng(1), count, 0.25, draws=500)
    assert found.verdict == "gap" and found.p is not None and found.p < 0.02
    assert found.interval is not None and found.interval[0] < 0.25 < found.interval[1]
    assert found.delta == pytest.approx(found.score - (found.expected or 0)) and abs(found.delta - 0.25) < 0.12
    assert (found.items, found.twin_items, len(found.references)) == (300, 300, count) and "not why" in found.says


def test_without_one_it_is_found_about_as_often_as_p_says() -> None:
    rng = np.random.default_rng(2)
    found = [gap(rng, 8, 0.0, draws=60) for _ in range(60)]
    assert sum(one.p is not None and one.p < 0.05 for one in found) <= 8  # 3 expected; 8 or fewer in 99 %
    covered = sum(one.interval is not None and one.interval[0] <= 0 <= one.interval[1] for one in found)
    assert covered >= 51


def test_few_references_cannot_tell() -> None:
    made = models(np.random.default_rng(3), 4, 0.4)
    found = constat(made[0], made[1:])
    assert (
        found.verdict == "cannot tell" and found.p is None and found.interval is None and "5 are needed" in found.says
    )
    assert found.delta is not None and found.delta > 0.2
    assert constat(made[0], made[1:2]).delta is None and constat(made[0], []).verdict == "cannot tell"


def test_a_twin_score_outside_the_references_cannot_tell() -> None:
    made = models(np.random.default_rng(4), 8, 0.0)
    strong = (measured("strong", 0, np.ones(300)), measured("strong", 1, np.ones(300)))
    found = constat(strong, made[1:], draws=100)
    assert found.verdict == "cannot tell" and "outside" in found.says and found.p is not None


def test_all_mistakes_are_told_at_once() -> None:
    made = models(np.random.default_rng(5), 6, 0.0)
    failed = made[2][0].model_copy(update={"failed": "NaN"})
    with pytest.raises(PunaError) as raised:
        constat(made[0], [made[1], made[1], (failed, made[2][1]), (made[3][0], made[4][1]), (made[5][1], made[5][0])])
    told = str(raised.value)
    for part in (
        "m1 is given twice",
        "m2 failed on task: NaN",
        "m3 and m4 are two models",
        "m5: name 'twin', not 'task'",
    ):
        assert part in told
    with pytest.raises(PunaError, match="no twin of itself"):
        constat((made[0][0], made[0][0]), [(pair[0], pair[0]) for pair in made[1:]])
    other = made[1][0].model_copy(
        update={"items": tuple(i.model_copy(update={"id": f"x{i.id}"}) for i in made[1][0].items)}
    )
    with pytest.raises(PunaError, match="no item of task was answered by all"):
        constat(made[0], [(other, made[1][1]), *made[2:]])


def test_few_passages_cannot_tell() -> None:
    made = models(np.random.default_rng(6), 6, 0.3)
    in_passages = [
        (
            task.model_copy(
                update={"items": tuple(i.model_copy(update={"cluster": f"c{n % 5}"}) for n, i in enumerate(task.items))}
            ),
            twin,
        )
        for task, twin in made
    ]
    found = constat(in_passages[0], in_passages[1:])
    assert found.verdict == "cannot tell" and "5 independent items" in found.says


def slow_isotonic(y: list[float]) -> list[float]:
    """max over starts of min over ends of the means between (Barlow et al. 1972, 1.9)."""
    n = len(y)
    mean: Callable[[int, int], float] = lambda a, b: float(np.mean(y[a : b + 1]))  # noqa: E731
    return [max(min(mean(a, b) for b in range(i, n)) for a in range(i + 1)) for i in range(n)]


def test_the_monotone_line_is_the_isotonic_one() -> None:
    rng = np.random.default_rng(7)
    x = np.sort(rng.uniform(size=15))
    y = x + rng.normal(0, 0.3, 15)
    knots, heights = module._isotonic(x, y)
    assert (np.diff(heights) > 0).all()
    wanted = slow_isotonic(y.tolist())
    assert sorted(set(np.round(wanted, 9))) == pytest.approx(np.round(heights, 9).tolist())
    assert knots[0] >= x[0] and knots[-1] <= x[-1]
    straight = module._fit(np.array([0.1, 0.2, 0.4]), np.array([0.3, 0.2, 0.1]))
    assert straight(np.array([0.0, 1.0])) == pytest.approx([0.2, 0.2])  # never falling


def test_items_of_one_name_that_are_not_the_same_are_refused() -> None:
    made = models(np.random.default_rng(8), 6, 0.0)
    for change, says in (
        ({"data_digest": "b" * 64}, "data_digest 'bbbbbbbbbbbb', not ''"),
        ({"digest": "c" * 64}, "digest 'cccccccccccc'"),
    ):
        task = made[1][0].model_copy(update={"task": TASKS[0].model_copy(update=change)})
        with pytest.raises(PunaError, match=says):
            constat(made[0], [(task, made[1][1]), *made[2:]])
    first, *rest = made[1][0].items
    worded = made[1][0].model_copy(update={"items": (first.model_copy(update={"prompt": "another"}), *rest)})
    with pytest.raises(PunaError, match="item i0 of task was asked of m1 in other words than of m0"):
        constat(made[0], [(worded, made[1][1]), *made[2:]])


def test_a_twin_is_taken_from_the_fullest_newest_plain_result(tmp_path: Path) -> None:
    from puna.judge.contamination.twins import twin_gaps
    from puna.judge.measured import Settings
    from puna.judge.store.store import Store

    store = Store(tmp_path / "results")
    made = models(np.random.default_rng(9), 2, 0.0, n=40)
    for pair in made:
        for one in pair:
            of = lambda run, **how: run.model_copy(update={"settings": Settings(**how)})  # noqa: E731
            store.add(of(one), now=10)
            few = one.model_copy(update={"items": one.items[:9]})
            store.add(of(few, limit=9), now=20)  # newer, and fewer items
            store.add(of(one, chat=True), now=30)
            other = TASKS[0].model_copy(update={"digest": "d" * 64, "name": one.task.name})
            if one.model.name == "m0":  # a new version of the task, of one model alone
                store.add(of(one.model_copy(update={"task": other})), now=40)
    gaps = twin_gaps(store.results(), "task=twin")
    assert sorted(gap.model for gap in gaps) == ["m0", "m1", "m2"]
    assert {(gap.items, gap.twin_items, len(gap.references)) for gap in gaps} == {(40, 40, 2)}
