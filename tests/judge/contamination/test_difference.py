"""Dirty against clean: by hand, under clusters, beside a control model; and how often nothing is taken for something."""

import numpy as np
import pytest

from puna.errors import PunaError
from puna.judge.contamination.difference import clean_and_dirty, difference_in_differences
from puna.judge.measured import Item, TaskFacts


def items(scores: list[float], dirty: list[float | None], clusters: list[str] | None = None) -> list[Item]:
    names = clusters or [""] * len(scores)
    return [Item(id=f"i{n}", question="q", prompt="p", score=score, dirty=share, cluster=cluster)
            for n, (score, share, cluster) in enumerate(zip(scores, dirty, names, strict=True))]  # fmt: skip


def test_the_means_are_those_of_either_side() -> None:
    made = items([1, 1, 1, 0] * 5 + [1, 0, 0, 0] * 10 + [1.0] * 4, [0.7] * 20 + [0.0] * 20 + [0.69] * 20 + [None] * 4)
    made.append(Item(id="failed", question="q", prompt="p", dirty=1.0))
    found = clean_and_dirty(made, draws=2000)
    assert (found.dirty, found.clean, found.difference) == (0.75, 0.25, 0.5)
    assert (found.dirty_items, found.clean_items, found.dirty_clusters, found.clean_clusters) == (20, 40, 20, 40)
    assert found.interval is not None and 0.2 < found.interval[0] < 0.35 and 0.65 < found.interval[1] < 0.8
    assert found.p is not None and found.p < 0.005
    assert "control model" in found.says
    assert found == clean_and_dirty(made, draws=2000)


def test_too_few_items_tell_nothing() -> None:
    found = clean_and_dirty(items([1.0] * 7 + [0.0] * 40, [1.0] * 7 + [0.0] * 40))
    assert (found.difference, found.interval, found.p) == (1.0, None, None) and "fewer than 8" in found.says
    found = clean_and_dirty(items([1.0] * 7, [0.0] * 7))
    assert found.difference is None and found.dirty is None and "no dirty items" in found.says


def test_items_of_one_passage_are_drawn_together() -> None:
    scores = [float(n // 10 % 2) for n in range(400)]  # ten items of a passage stand or fall together
    dirty: list[float | None] = [1.0] * 200 + [0.0] * 200
    alone = clean_and_dirty(items(scores, dirty), draws=1000)
    together = clean_and_dirty(items(scores, dirty, [f"c{n // 10}" for n in range(400)]), draws=1000)
    assert alone.interval is not None and together.interval is not None
    widths = [high - low for low, high in (alone.interval, together.interval)]
    assert 2.5 < widths[1] / widths[0] < 4  # the root of 10
    assert together.dirty_clusters == 20


def test_easier_items_do_not_count_beside_a_control() -> None:
    rng = np.random.default_rng(1)
    dirty: list[float | None] = [1.0] * 150 + [0.0] * 150
    easy = np.array([0.8] * 150 + [0.4] * 150)
    model, control = ((rng.uniform(size=300) < easy).astype(float).tolist() for _ in range(2))
    alone = clean_and_dirty(items(model, dirty), draws=1000)
    beside = difference_in_differences(items(model, dirty), items(control, [None] * 300), draws=1000)
    assert alone.p is not None and alone.p < 0.01
    assert (
        beside.p is not None
        and beside.p > 0.1
        and beside.interval is not None
        and beside.interval[0] < 0 < beside.interval[1]
    )
    learnt = (np.array(model) + np.array([0.3] * 150 + [0.0] * 150)).tolist()
    beside = difference_in_differences(items(learnt, dirty), items(control, [None] * 300), draws=1000)
    assert (
        beside.p is not None
        and beside.p < 0.01
        and beside.difference is not None
        and abs(beside.difference - 0.3) < 0.15
    )
    with pytest.raises(PunaError, match="no item in common"):
        difference_in_differences(items(model, dirty), [Item(id="x", question="q", prompt="p", score=1.0)])
    with pytest.raises(PunaError, match="one name"):
        difference_in_differences(items(model, dirty) * 2, items(control, dirty))


def test_labels_that_say_nothing_are_found_significant_as_often_as_p_says() -> None:
    rng = np.random.default_rng(2)
    names = [f"c{n // 4}" for n in range(160)]
    hits = inside = 0
    for seed in range(120):
        level = np.repeat(rng.uniform(0.1, 0.9, 40), 4)  # passages differ, their labels do not matter
        scores = (rng.uniform(size=160) < level).astype(float).tolist()
        found = clean_and_dirty(items(scores, [1.0] * 60 + [0.0] * 100, names), draws=200, seed=seed)
        hits += found.p is not None and found.p <= 0.05
        inside += found.interval is not None and found.interval[0] <= 0 <= found.interval[1]
    assert 1 <= hits <= 14  # 6 expected; what chance adds in 99.8 %
    assert 104 <= inside <= 119


def test_items_that_only_share_a_name_are_no_pairs() -> None:
    dirty: list[float | None] = [1.0] * 20 + [0.0] * 20
    model, control = items([1.0, 0.0] * 20, dirty), items([0.0, 1.0] * 20, dirty)
    asked = [item.model_copy(update={"prompt": "in other words"}) for item in control]
    with pytest.raises(PunaError, match="item i0 was asked of the control in other words"):
        difference_in_differences(model, asked)
    task = TaskFacts(name="t", title="T", kind="choices", metric="acc", data_digest="a")
    other = task.model_copy(update={"data_digest": "b"})
    assert difference_in_differences(model, control, tasks=(task, task), draws=50).difference == 0
    with pytest.raises(PunaError, match="other data"):
        difference_in_differences(model, control, tasks=(task, other), draws=50)
