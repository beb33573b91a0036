"""What a measurement comes to, on made-up scores and on the real questions of MMLU."""

import json
import math
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zstandard
from scipy import stats as scipy_stats

from puna.corpus.decontaminate import CONTAMINATED
from puna.judge.measured import Item, Measurement, ModelFacts, Published, TaskFacts
from puna.judge.normalised import above_chance, item_chances, leaderboard, leaderboard_interval, unclipped
from puna.judge.stats import wilson
from puna.judge.summary import Summary, summarise, summarise_seeds

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "evals"
LETTERS = ("a", "b", "c", "d")


def item(number: int, score: float | None, **facts: Any) -> Item:
    return Item(
        **{"id": str(number), "question": "?", "prompt": "?", "choices": LETTERS, "target": (0,), "score": score}
        | facts
    )


def measured(items: list[Item], **facts: Any) -> Measurement:
    task = {"name": "made_up", "title": "Made up", "kind": "choices", "metric": "acc", "chance": 0.25} | facts
    return Measurement(model=ModelFacts(name="model"), task=TaskFacts(**task), items=tuple(items))


def flips(level: float, n: int, seed: int = 0) -> list[float]:
    return (np.random.default_rng(seed).random(n) < level).astype(float).tolist()


def test_a_plain_task() -> None:
    scores = flips(0.6, 200)
    found = summarise(measured([item(i, s) for i, s in enumerate(scores)]))
    mean = np.mean(scores)
    assert found.score == pytest.approx(mean)
    assert found.standard_error == pytest.approx(math.sqrt(mean * (1 - mean) / 199))
    assert found.interval == pytest.approx(wilson(sum(scores), 200), abs=2e-3)
    assert (found.n, found.clusters, found.failed, found.subtasks, found.dirt) == (200, 200, None, (), None)
    assert found.p_chance == pytest.approx(scipy_stats.binomtest(int(sum(scores)), 200, 0.25, "greater").pvalue)
    assert "exact" in found.p_method
    assert found.normalised == pytest.approx((mean - 0.25) / 0.75)
    assert found.clipped == pytest.approx(found.normalised)
    assert found.normalised_error == pytest.approx(found.standard_error / 0.75)
    assert found.clipped_interval == pytest.approx([(end - 0.25) / 0.75 for end in found.interval])
    assert Summary.model_validate_json(found.model_dump_json()) == found


def test_passages_are_one_unit() -> None:
    scores = np.repeat(flips(0.5, 30, 1), 10)
    alone = summarise(measured([item(i, s) for i, s in enumerate(scores)]))
    kin = summarise(measured([item(i, s, cluster=f"p{i // 10}") for i, s in enumerate(scores)]))
    assert (kin.n, kin.clusters) == (300, 30)
    assert kin.standard_error > 3 * alone.standard_error
    assert kin.p_chance > alone.p_chance
    assert "clustered" in kin.method
    assert "t test" in kin.p_method


def test_one_failed_item_and_there_is_no_score() -> None:
    items = [item(i, s) for i, s in enumerate(flips(0.5, 40))]
    found = summarise(measured([*items, item(40, None, subtask="x")]))
    assert (found.score, found.interval, found.failed_items, found.n) == (None, None, 1, 41)
    assert found.failed == "1 of 41 items have no score"
    assert found.subtasks[0].score is None
    said = summarise(measured(items).model_copy(update={"failed": "the model gave no numbers"}))
    assert (said.score, said.failed) == (None, "the model gave no numbers")
    assert summarise(measured([])).failed == "no items"


def test_subtasks_weigh_the_same_where_the_task_says_so() -> None:
    items = [item(i, float(i < 10 or i % 2), subtask="few" if i < 10 else "many") for i in range(110)]
    over_items, over_subtasks = summarise(measured(items)), summarise(measured(items, aggregate="subtasks"))
    assert over_items.score == pytest.approx(60 / 110)
    assert over_subtasks.score == pytest.approx(0.75)
    few, many = over_subtasks.subtasks
    assert (few.name, few.n, few.score, many.n, many.score) == ("few", 10, 1.0, 100, 0.5)
    assert few.interval == pytest.approx(wilson(10, 10))
    assert many.normalised == pytest.approx(1 / 3)
    assert over_subtasks.normalised == pytest.approx((1 + 1 / 3) / 2)
    assert over_items.normalised == pytest.approx(
        over_subtasks.normalised
    )  # the leaderboard's way: always over subtasks


def test_clipping_lifts_a_model_that_guesses() -> None:
    items = [item(i, s, subtask=f"s{i % 40}") for i, s in enumerate(flips(0.25, 1600, 3))]
    found = summarise(measured(items, aggregate="subtasks"))
    parts = [leaderboard(part.score, 0.25) for part in found.subtasks]
    assert found.clipped == pytest.approx(np.mean(parts))
    assert found.clipped > 0.02
    assert found.normalised_interval[0] < 0 < found.normalised_interval[1]
    assert found.clipped_interval[0] > 0  # the published way is sure of what is not there
    assert found.p_chance > 0.05


def test_questions_with_fewer_options_have_their_own_chance() -> None:
    rng = np.random.default_rng(4)
    sizes = [10] * 830 + [4] * 170  # as in MMLU-Pro: 17 % with fewer than ten options
    items = [item(i, float(rng.random() < 1 / k), choices=tuple("abcdefghij"[:k])) for i, k in enumerate(sizes * 4)]
    found = summarise(measured(items, chance=0.1))
    assert found.chance == pytest.approx(0.83 * 0.1 + 0.17 * 0.25)
    assert found.p_chance > 0.05
    assert found.normalised_interval[0] < 0 < found.normalised_interval[1]
    assert found.clipped_interval[0] > 0


def test_chances_of_items() -> None:
    facts = measured([], chances={"x": 0.5}).task
    items = [
        item(0, 1.0),
        item(1, 1.0, target=(0, 2)),
        item(2, 1.0, choices=(), target=("42",)),
        item(3, 1.0, choices=(), subtask="x"),
    ]
    assert item_chances(facts, items).tolist() == [0.25, 0.5, 0.25, 0.5]
    unknown = facts.model_copy(update={"chance": None, "chances": {}})
    assert item_chances(unknown, items) is None
    for kind in ("answer", "cloze"):  # written freely: guessing gives nothing, and that is known
        assert item_chances(unknown.model_copy(update={"kind": kind}), items).tolist() == [0, 0, 0, 0]
    assert item_chances(unknown.model_copy(update={"chance": 0.0}), items).tolist() == [0, 0, 0, 0]


def test_a_chance_level_that_nobody_knows_is_not_nought() -> None:
    items = [item(i, float(i % 2)) for i in range(40)]
    unknown, free = summarise(measured(items, chance=None)), summarise(measured(items, chance=None, kind="answer"))
    assert (unknown.score, unknown.chance, unknown.normalised, unknown.clipped, unknown.p_chance) == (
        0.5,
        None,
        None,
        None,
        None,
    )
    assert (free.chance, free.normalised, free.clipped, free.p_chance) == (
        0.0,
        pytest.approx(0.5),
        pytest.approx(0.5),
        None,
    )
    bare = measured([], chance=None).model_copy(update={"published": Published(score=0.7, n=100)})
    assert (summarise(bare).normalised, summarise(bare).clipped) == (None, None)
    given = bare.model_copy(update={"task": bare.task.model_copy(update={"chance": 0.0})})
    assert summarise(given).normalised == pytest.approx(0.7)


def test_items_found_in_part_are_counted() -> None:
    found = summarise(measured([item(i, 1.0, dirty=0.3 if i < 4 else 0.0) for i in range(20)])).dirt
    assert (found.looked_for, found.dirty.n, found.touched) == (20, 0, 4)


def test_above_chance() -> None:
    assert above_chance(0.1, 0.25) == pytest.approx(-0.2)
    assert leaderboard(0.1, 0.25) == 0
    with pytest.raises(ValueError):
        leaderboard(0.5, 1.0)


def test_unclipped_agrees_with_the_bootstrap() -> None:
    rng = np.random.default_rng(5)
    chances = np.where(rng.random(500) < 0.3, 0.25, 0.1)
    values = (rng.random(500) < chances + 0.3).astype(float)
    found = unclipped(values, chances)
    draws = [(values[k] - chances[k]).sum() / (1 - chances[k]).sum() for k in rng.integers(0, 500, (2000, 500))]
    assert found.value == pytest.approx((values - chances).sum() / (1 - chances).sum())
    assert found.standard_error == pytest.approx(np.std(draws), rel=0.1)


def test_the_leaderboards_interval_holds_its_score_away_from_chance() -> None:
    rng, strata = np.random.default_rng(6), np.arange(600) % 6
    values = (rng.random(600) < 0.6).astype(float)
    low, high = leaderboard_interval(values, strata, dict.fromkeys(range(6), 0.25))
    error = math.sqrt(0.24 / 600) / 0.75
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.15)


def test_bits_per_byte_are_a_ratio() -> None:
    rng = np.random.default_rng(7)
    sizes = np.exp(rng.normal(size=60)) * 400
    bits = sizes * 1.1 * np.exp(rng.normal(size=60) * 0.1)
    items = [
        item(i, b, weight=w, choices=(), target=())
        for i, (b, w) in enumerate(zip(bits.tolist(), sizes.tolist(), strict=True))
    ]
    facts = {"unit": "bits per byte", "higher_is_better": False, "chance": None, "metric": "bits_per_byte"}
    found = summarise(measured(items, **facts))
    assert found.score == pytest.approx(bits.sum() / sizes.sum())
    assert found.interval[0] < found.score < found.interval[1]
    assert "bootstrap" in found.method
    assert (found.normalised, found.chance, found.p_chance) == (None, None, None)
    assert summarise(measured([item(0, 5.0, weight=0.0)], **facts)).failed == "no bytes"


def test_what_was_cut_and_what_was_even_is_counted() -> None:
    items = [item(i, 1.0, truncated=7 * (i < 3), tie=i == 5) for i in range(20)]
    found = summarise(measured(items))
    assert (found.truncated_items, found.truncated_tokens, found.ties) == (3, 21, 1)


def test_clean_and_dirty_items_side_by_side() -> None:
    scores = flips(0.4, 200, 8) + flips(0.9, 100, 9)
    items = [item(i, s, dirty=0.1 if i < 200 else CONTAMINATED) for i, s in enumerate(scores)]
    found = summarise(measured([*items, item(300, 1.0)])).dirt  # the last was not looked for
    assert (found.looked_for, found.clean.n, found.dirty.n) == (300, 200, 100)
    assert found.difference == pytest.approx(np.mean(scores[200:]) - np.mean(scores[:200]))
    assert 0 < found.interval[0] < found.difference < found.interval[1]
    clean = summarise(measured([item(i, s, dirty=0.0) for i, s in enumerate(scores)])).dirt
    assert (clean.dirty.n, clean.dirty.score, clean.difference) == (0, None, None)
    few = summarise(measured(items[:205])).dirt
    assert (few.dirty.n, few.dirty.interval, few.interval) == (5, None, None)
    assert few.difference is not None


def test_published_scores() -> None:
    def said(**known: Any) -> Summary:
        return summarise(measured([]).model_copy(update={"published": Published(**known)}))

    found = said(score=0.7635, n=14042)
    assert (found.score, found.n) == (0.7635, 14042)
    assert found.interval == pytest.approx(wilson(0.7635 * 14042, 14042), abs=1e-4)
    assert found.normalised == pytest.approx((0.7635 - 0.25) / 0.75)
    unknown = said(score=0.7635)
    assert (unknown.interval, unknown.standard_error, unknown.n) == (None, None, None)
    assert "not known" in unknown.method
    own = said(score=0.5, n=100, standard_error=0.1)
    assert own.standard_error == 0.1
    assert own.interval[1] - own.interval[0] == pytest.approx(2 * 1.96 * 0.1, rel=0.1)
    parts = said(score=0.5, n=200, subtasks={"a": 0.2, "b": 0.8}, subtask_n={"a": 100, "b": 100})
    assert parts.clipped == pytest.approx((0 + 0.55 / 0.75) / 2)
    assert parts.normalised == pytest.approx((-0.05 / 0.75 + 0.55 / 0.75) / 2)


def test_seeds_of_one_recipe() -> None:
    runs = [measured([item(i, s) for i, s in enumerate(flips(0.5 + seed / 10, 100, seed))]) for seed in range(3)]
    found = summarise_seeds(runs)
    own = [summarise(run).score for run in runs]
    assert (found.mean, found.seeds, found.n) == (pytest.approx(np.mean(own)), 3, 100)
    assert found.deviation == pytest.approx(np.std(own, ddof=1))
    assert found.interval[0] < min(own)
    with pytest.raises(ValueError):
        summarise_seeds(runs[:1])
    with pytest.raises(ValueError):
        summarise_seeds([runs[0], runs[1].model_copy(update={"items": runs[1].items[:-1]})])


def test_the_whole_of_mmlu_takes_no_time() -> None:
    path = DATA / "mmlu" / "test.jsonl.zst"
    if not path.is_file():
        pytest.skip(f"no {path}")
    with zstandard.open(path, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    rng = np.random.default_rng(10)
    items = [
        item(i, float(rng.integers(4) == row["answer"]), subtask=row["subject"], choices=tuple(row["choices"]),
             target=(row["answer"],), dirty=float(rng.random()))
        for i, row in enumerate(rows)
    ]  # fmt: skip
    made = measured(items, aggregate="subtasks")
    begin = time.process_time()
    found = summarise(made)
    assert time.process_time() - begin < 1
    assert (found.n, len(found.subtasks)) == (14042, 57)
    assert found.p_chance > 0.001
    assert found.normalised_interval[0] < 0.01
    assert found.clipped > 0.005  # guessing, as the second leaderboard would print it


def test_nothing_here_loads_torch() -> None:
    code = "import sys, puna.judge.summary, puna.judge.pairs, puna.judge.ranks; print({'torch', 'scipy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
