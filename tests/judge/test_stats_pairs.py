"""Two models, and many: paired tests on made-up scores whose truth is known, rank sets, what may not be compared."""

import importlib.util
import math
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from puna.judge.measured import Item, Measurement, ModelFacts, Published, Settings, TaskFacts
from puna.judge.pairs import (
    Comparison,
    NotComparable,
    Prepared,
    compare,
    compare_scores,
    compare_unpaired,
    difference_of_means,
)
from puna.judge.ranks import holm, rank_sets, tied

ROOT = Path(__file__).resolve().parents[2]


def measurement(model: str, scores: list[float], failed: str | None = None, **facts: Any) -> Measurement:
    """A model's scores, of items that share passages of four and two subtasks."""
    items = tuple(
        Item(id=str(i), subtask=f"s{i % 2}", cluster=f"p{i // 8}", question="?", prompt=f"? {i}", choices=("a", "b", "c", "d"),
             target=(0,), score=score)
        for i, score in enumerate(scores)
    )  # fmt: skip
    task = {
        "name": "made_up",
        "title": "Made up",
        "kind": "choices",
        "metric": "acc",
        "chance": 0.25,
        "digest": "d",
    } | facts
    return Measurement(model=ModelFacts(name=model), task=TaskFacts(**task), items=items, failed=failed)


def random_scores(level: float, n: int, seed: int) -> list[float]:
    return (np.random.default_rng(seed).random(n) < level).astype(float).tolist()


def test_independent_answers_are_mcnemars() -> None:
    first = np.repeat([1.0, 1.0, 0.0, 0.0], [40, 30, 12, 18])
    second = np.repeat([1.0, 0.0, 1.0, 0.0], [40, 30, 12, 18])
    found = compare_scores(first, second)
    exact = scipy_stats.binomtest(12, 42).pvalue
    assert (found.higher, found.lower, found.equal, found.n) == (30, 12, 58, 100)
    assert found.p == pytest.approx(exact - scipy_stats.binom.pmf(12, 42, 0.5))
    assert found.p == found.sign_p
    more, less = 31 / 102, 13 / 102  # Bonett & Price 2012
    half = 1.959964 * math.sqrt((more + less - (more - less) ** 2) / 102)
    assert found.interval == pytest.approx((more - less - half, more - less + half), abs=1e-6)
    assert "McNemar" in found.method
    back = compare_scores(second, first)
    assert (back.difference, back.p) == (-found.difference, found.p)


def test_passages_widen_the_interval_and_change_the_test() -> None:
    rng = np.random.default_rng(1)
    passage = np.repeat(np.arange(40), 10)
    first = (rng.random(40)[passage] < 0.5).astype(float)  # the whole passage is right, or wrong
    second = (rng.random(40)[passage] < 0.5).astype(float)
    kin, alone = compare_scores(first, second, clusters=passage), compare_scores(first, second)
    assert kin.standard_error > 2.5 * alone.standard_error
    assert kin.p > alone.p
    assert (kin.clusters, kin.sign_p) == (40, None)
    assert "clustered" in kin.method
    assert kin.items_needed > 6 * alone.items_needed
    by_passage = (first - second)[::10]
    assert kin.p == pytest.approx(scipy_stats.ttest_1samp(by_passage, 0).pvalue)


def test_shares_are_a_paired_t_test() -> None:
    rng = np.random.default_rng(2)
    first, second = rng.random(60), rng.random(60)
    found = compare_scores(first, second)
    expected = scipy_stats.ttest_rel(first, second)
    assert found.p == pytest.approx(expected.pvalue)
    assert found.interval == pytest.approx(tuple(expected.confidence_interval()))


def test_bits_per_byte_are_paired() -> None:
    rng = np.random.default_rng(3)
    sizes = np.exp(rng.normal(size=80)) * 500
    hard = sizes * np.exp(rng.normal(size=80) * 0.5)  # documents differ much more than models
    found = compare_scores(hard * 0.97, hard, weights=sizes)
    assert found.difference == pytest.approx(-0.03 * hard.sum() / sizes.sum())
    assert found.p < 1e-6
    assert found.interval[1] < 0
    assert "bootstrap" in found.method


def test_p_and_interval_agree_where_both_are_by_t() -> None:
    rng = np.random.default_rng(4)
    for _ in range(200):
        gap = rng.normal(0.2, 1, 90)
        for extra in (
            {},
            {"clusters": np.arange(90) // 3},
            {"strata": np.arange(90) % 4},
            {"weights": np.full(90, 2.0)},
        ):
            found = compare_scores(gap, np.zeros(90), draws=200, **extra)
            assert (found.p < 0.05) == (not found.interval[0] <= 0 <= found.interval[1])


@pytest.mark.parametrize("level", [0.0, 1.0])
def test_models_that_answer_alike_are_not_told_apart(level: float) -> None:
    same = np.full(50, level)
    for extra in ({}, {"clusters": np.arange(50) // 5}, {"strata": np.arange(50) % 5}):
        found = compare_scores(same, same, **extra)
        assert (found.difference, found.p) == (0, 1)
        assert found.interval[0] < 0 < found.interval[1]
    assert compare_scores(same / 3, same / 3).p == 1


def test_always_the_same_difference_is_told_by_its_clusters() -> None:
    found = compare_scores(np.ones(100), np.zeros(100), clusters=np.arange(100) // 10)
    assert found.p == pytest.approx(2**-10)  # ten passages, all for the first: 2 * 2^-10 less half (mid-p)
    assert 0 < found.interval[0] < found.interval[1] <= 1
    shares = compare_scores(np.full(100, 0.75), np.full(100, 0.5), clusters=np.arange(100) // 10)
    assert (shares.p, shares.interval) == (pytest.approx(2**-10), None)


def test_few_passages_tell_nothing() -> None:
    found = compare_scores(np.ones(70), np.zeros(70), clusters=np.arange(70) // 10)
    assert (found.difference, found.interval, found.p) == (1, None, None)


def test_measurements_are_matched_by_id_whatever_their_order() -> None:
    first, second = random_scores(0.7, 160, 1), random_scores(0.5, 160, 2)
    one, two = measurement("one", first), measurement("two", second)
    found = compare(one, two)
    assert isinstance(found, Comparison)
    mixed = two.model_copy(update={"items": tuple(reversed(two.items))})
    assert compare(one, mixed) == found
    assert compare(Prepared.of(one), Prepared.of(mixed)) == found
    less = compare(one, two.model_copy(update={"items": two.items[:120]}))
    assert isinstance(less, Comparison)
    assert (less.n, less.left_out_first, less.left_out_second) == (120, 40, 0)
    assert less.difference == pytest.approx(np.mean(first[:120]) - np.mean(second[:120]))


def test_subtasks_weigh_the_same() -> None:
    scores = [float(i % 2) for i in range(160)]
    one = measurement("one", scores, aggregate="subtasks")
    uneven = one.model_copy(update={"items": one.items[:80] + tuple(i for i in one.items[80:] if i.subtask == "s1")})
    nought = measurement("two", [0.0] * 160, aggregate="subtasks")
    assert compare(uneven, nought).difference == 0.5


def test_normalised_differences_keep_the_test_where_chance_is_one() -> None:
    one, two = measurement("one", random_scores(0.7, 160, 1)), measurement("two", random_scores(0.5, 160, 2))
    raw, normal = compare(one, two), compare(one, two, normalised=True)
    by_subtask = [np.mean([a.score - b.score for a, b in zip(one.items, two.items, strict=True) if a.subtask == s])
                  for s in ("s0", "s1")]  # fmt: skip
    assert normal.difference == pytest.approx(np.mean(by_subtask) / 0.75)
    assert normal.standard_error > raw.standard_error


def test_normalised_differences_with_chances_that_differ() -> None:
    def facts(name: str, seed: int) -> Measurement:
        made = measurement(name, random_scores(0.5, 160, seed))
        items = [i.model_copy(update={"choices": i.choices[: 2 + n % 3]}) for n, i in enumerate(made.items)]
        return made.model_copy(update={"items": tuple(items)})

    one, two = facts("one", 1), facts("two", 2)
    expected = []
    for name in ("s0", "s1"):
        own = [(a, b) for a, b in zip(one.items, two.items, strict=True) if a.subtask == name]
        chance = np.mean([1 / len(a.choices) for a, _ in own])
        expected.append(np.mean([a.score - b.score for a, b in own]) / (1 - chance))
    assert compare(one, two, normalised=True).difference == pytest.approx(np.mean(expected))


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"name": "other"}, "different tasks"),
        ({"metric": "acc_norm"}, "metrics"),
        ({"digest": "e"}, "definitions"),
        ({"shots": 5}, "examples"),
        ({"aggregate": "subtasks"}, "subtasks"),
    ],
)
def test_no_difference_of_unequal_questions(facts: dict[str, Any], words: str) -> None:
    found = compare(measurement("one", [1.0] * 40), measurement("two", [0.0] * 40, **facts))
    assert isinstance(found, NotComparable)
    assert words in found.reason


def test_no_difference_of_unequal_data_or_formats() -> None:
    one, two = (measurement(name, [1.0] * 40, data_digest=name) for name in ("one", "two"))
    assert "data" in compare(one, two).reason and isinstance(compare(one, two), NotComparable)
    plain = measurement("one", [1.0] * 40)
    chat = measurement("two", [0.0] * 40)
    chat = chat.model_copy(update={"settings": Settings(chat=True)})
    assert isinstance(compare(plain, chat), NotComparable) and "chat" in compare(plain, chat).reason


def test_a_sample_lies_in_a_larger_one() -> None:
    whole = measurement("one", random_scores(0.7, 200, 1), prompt_digest="of 200")
    part = measurement("two", random_scores(0.5, 200, 2), prompt_digest="of 100")
    part = part.model_copy(update={"items": part.items[:100]})
    found = compare(whole, part)
    assert (found.paired, found.n, found.left_out_first, found.unlike) == (True, 100, 100, 0)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"prompt": "another"}, "prompts"),
        ({"question": "another"}, "prompts"),
        ({"choices": ("x", "y", "z", "w")}, "prompts"),
    ],
)
def test_items_that_were_not_asked_alike_are_no_pairs(changed: dict[str, Any], told: str) -> None:
    one = measurement("one", random_scores(0.7, 200, 1), digest="")
    two = measurement("two", random_scores(0.5, 200, 2), digest="")

    def unlike(count: int) -> Measurement:
        items = [item.model_copy(update=changed) if k < count else item for k, item in enumerate(two.items)]
        return two.model_copy(update={"items": tuple(items)})

    some = compare(one, unlike(60))
    assert (some.paired, some.n, some.unlike, some.left_out_first, some.reason) == (True, 140, 60, 0, "")
    for count in (101, 200):
        apart = compare(one, unlike(count))
        assert isinstance(apart, Comparison)
        assert (apart.paired, apart.p is not None) == (False, True) and told in apart.reason
        assert "McNemar" not in apart.method


def test_what_nobody_knows_to_be_asked_alike_is_not_paired() -> None:
    blank = {"question": "", "prompt": "", "choices": ()}
    one, two = (measurement(name, random_scores(0.5, 80, k)) for k, name in enumerate(("one", "two")))
    bare = [m.model_copy(update={"items": tuple(i.model_copy(update=blank) for i in m.items)}) for m in (one, two)]
    found = compare(*bare)
    assert (found.paired, found.reason) == (False, "the prompts are not known")
    twice = one.model_copy(update={"items": (*one.items, one.items[0])})
    assert "one id" in compare(twice, two).reason


def test_an_unknown_chance_level_is_not_taken_off() -> None:
    one, two = (measurement(name, random_scores(0.5, 80, k), chance=None) for k, name in enumerate(("one", "two")))
    found = compare(one, two, normalised=True)
    assert isinstance(found, NotComparable) and "chance" in found.reason
    free = [m.model_copy(update={"task": m.task.model_copy(update={"kind": "answer"})}) for m in (one, two)]
    assert isinstance(compare(*free, normalised=True), Comparison)


def test_no_difference_where_one_failed_or_prompts_differ() -> None:
    whole = measurement("one", [1.0] * 40)
    assert "out of luck" in compare(whole, measurement("two", [0.0] * 40, failed="out of luck")).reason
    lost = whole.model_copy(update={"items": (*whole.items[:-1], whole.items[-1].model_copy(update={"score": None}))})
    assert "1 items have no score" in compare(whole, lost).reason
    other = whole.model_copy(update={"items": tuple(i.model_copy(update={"prompt": "!"}) for i in whole.items)})
    assert "prompts" in compare(whole, other).reason
    apart = whole.model_copy(update={"items": tuple(i.model_copy(update={"id": f"x{i.id}"}) for i in whole.items)})
    assert "no item" in compare(whole, apart).reason
    assert "no items" in compare(whole, whole.model_copy(update={"items": ()})).reason


def published(name: str, score: float, n: int | None) -> Measurement:
    made = measurement(name, [], digest="")
    return made.model_copy(update={"published": Published(score=score, n=n)})


def test_published_scores_are_compared_without_pairing() -> None:
    found = compare(published("one", 0.707, 1000), published("two", 0.687, 1000))
    assert isinstance(found, Comparison)
    assert found.paired is False
    assert found.difference == pytest.approx(0.02)
    assert found.standard_error == pytest.approx(math.sqrt(0.707 * 0.293 / 1000 + 0.687 * 0.313 / 1000), rel=0.01)
    assert 0.3 < found.p < 0.36
    unknown = compare(published("one", 0.707, None), published("two", 0.687, 1000))
    assert (unknown.difference, unknown.p, unknown.interval) == (pytest.approx(0.02), None, None)
    measured = compare(measurement("one", random_scores(0.7, 400, 1)), published("two", 0.3, 1000))
    assert measured.paired is False
    assert measured.p < 1e-6
    assert compare(published("one", 0.707, 1000), published("two", 0.687, 1000), normalised=True).p == pytest.approx(
        found.p
    )
    assert compare_unpaired((0.5, 0.0), (0.5, 0.0)).p is None


def test_mean_over_tasks() -> None:
    found = difference_of_means([0.02, 0.04, -0.03], [1e-4, 4e-4, 4e-4])
    assert found.difference == pytest.approx(0.01)
    assert found.standard_error == pytest.approx(0.03 / 3)
    assert found.p == pytest.approx(2 * scipy_stats.norm.sf(1))
    with pytest.raises(ValueError):
        difference_of_means([], [])


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), max_size=12))
def test_holm_keeps_the_order_and_never_helps(p_values: list[float]) -> None:
    found = holm(p_values)
    assert all(1 >= after >= before for before, after in zip(p_values, found, strict=True))
    assert all(found[i] <= found[j] for i in range(len(found)) for j in range(len(found)) if p_values[i] < p_values[j])
    assert not p_values or min(found) == pytest.approx(min(1, len(p_values) * min(p_values)))


def test_rank_sets_show_ties_as_ties() -> None:
    # 0 and 1 cannot be told apart; both are better than 2; 3 was never compared, 4 only without a result
    pairs = {(0, 1): (0.01, 0.6), (0, 2): (0.2, 1e-6), (2, 1): (-0.19, 1e-5), (3, 4): None, (0, 4): (0.5, None)}
    sets = rank_sets(5, pairs)
    assert [str(found) if found else None for found in sets] == ["1 to 2", "1 to 2", "3", None, None]
    assert tied(sets) == [(0, 1)]
    assert sets[2].better == (0, 1)
    less_is_better = rank_sets(3, {k: v for k, v in pairs.items() if max(k) < 3}, higher_is_better=False)
    assert [str(found) for found in less_is_better] == ["2 to 3", "2 to 3", "1"]
    assert rank_sets(2, {(0, 1): (0.5, 0.051)}) == rank_sets(2, {(1, 0): (-0.5, 0.051)})
    for wrong in ({(0, 0): (0.1, 0.1)}, {(0, 1): (0.1, 0.1), (1, 0): (-0.1, 0.1)}, {(0, 2): (0.1, 0.1)}):
        with pytest.raises(ValueError):
            rank_sets(2, wrong)


def bench() -> ModuleType:
    spec = importlib.util.spec_from_file_location("judge_statistics", ROOT / "bench" / "judge_statistics.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["judge_statistics"] = module
    spec.loader.exec_module(module)
    return module


def test_false_positives_coverage_and_power_against_truth() -> None:
    """A small run of the bench, on passages. 300 simulations: bounds are the nominal ones and three standard errors."""
    module = bench()
    row = module.measure(next(cell for cell in module.CELLS if cell.kin == 0.4), 300, 7)
    wide = 3 * math.sqrt(0.05 * 0.95 / 300)
    assert abs(row["false"] - 0.05) < wide
    for name in ("cover", "cover_difference", "cover_difference_there"):
        assert abs(row[name] - 0.95) < wide
    assert 0.63 < row["power"] < 0.88
    assert row["false_flat"] > 0.12
    assert row["cover_flat"] < 0.85


@pytest.mark.slow
def test_every_cell_of_the_bench() -> None:
    module = bench()
    for place, cell in enumerate(module.CELLS):
        row = module.measure(cell, 600, 50 + place)
        wide = 3.5 * math.sqrt(0.05 * 0.95 / 600)
        assert abs(row["false"] - 0.05) < wide, row
        for name in ("cover", "cover_difference", "cover_difference_there"):
            assert abs(row[name] - 0.95) < wide, row


def test_rank_sets_keep_their_promise_against_truth() -> None:
    found = bench().rank_errors((0.0,) * 5, 120, 3, items=300)
    assert found["wrong"] < 0.05 + 3 * math.sqrt(0.05 * 0.95 / 120)
    assert found["wrong_without_holm"] > 0.15
