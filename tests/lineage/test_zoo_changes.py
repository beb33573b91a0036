"""What the zoo's members are by construction, and that a truth which is a lie shows as a failure."""

import dataclasses
import itertools
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from puna.lineage.weights import relation as named
from puna.lineage.zoo import changes, training
from puna.lineage.zoo.family import DEFAULT, LARGE, SIZES, STRANGERS, STUDENT, Case, Zoo, read_state, strangers_of
from puna.lineage.zoo.training import State
from puna.lineage.zoo.trial import OTHER_FAMILY, Row, ZooResult, counted, judge_family, zoo_text

MATRIX = "model.layers.1.mlp.up_proj.weight"


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def equal(one: State, other: State) -> bool:
    return set(one) == set(other) and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def made(family: Any, init: int, order: int, steps: int) -> State:
    return training.from_scratch(family.ground.prose, init=init, order=order, steps=steps)


def test_a_start_is_its_own_seed_and_no_other(family: Any) -> None:
    start = made(family, 1, 2, 0)
    assert equal(start, made(family, 1, 5, 0))  # a sibling's: the order of the text does not reach it
    for name, tensor in made(family, 3, 2, 0).items():
        if tensor.ndim == 2:  # strangers are as unlike as chance: 5 standard errors
            cosine = torch.cosine_similarity(tensor.flatten(), start[name].flatten(), dim=0)
            assert abs(float(cosine)) < 5 / math.sqrt(tensor.numel()), name


def test_training_is_a_function_of_its_two_seeds(family: Any) -> None:
    first = made(family, 1, 2, 1)
    assert equal(first, made(family, 1, 2, 1))
    assert not equal(first, made(family, 1, 5, 1)) and not equal(first, made(family, 3, 2, 1))


def test_an_adapter_leaves_a_difference_of_its_rank_and_training_a_full_one(family: Any) -> None:
    def rank(name: str) -> int:
        singular = torch.linalg.svdvals((family[name][MATRIX] - family["first"][MATRIX]).double())
        return int((singular > 1e-5 * singular[0]).sum())

    assert rank("adapter") == 4 and rank("tuned") > 32
    assert torch.equal(family["adapter"]["model.embed_tokens.weight"], family["first"]["model.embed_tokens.weight"])


def test_a_fine_tuning_moves_less_than_a_continued_training(family: Any) -> None:
    moved = {name: float((family[name][MATRIX] - family["first"][MATRIX]).norm()) for name in ("tuned", "longer")}
    assert 0 < moved["tuned"] < moved["longer"] / 2


def test_a_member_is_read_as_it_was_written(family: Any) -> None:
    assert equal(read_state(family.folder("first")), family["first"])


def test_the_sizes_hold_the_pairs_that_are_promised() -> None:
    for size in (DEFAULT, LARGE):
        assert math.comb(size.strangers, 2) >= 500 and size.parents >= 4
        assert {0.1, 0.3, 0.5, 0.7, 0.9} <= set(size.shares)
    assert all(size.strangers > size.parents for size in SIZES.values())  # a merge needs somebody who is no parent


# Judged


@pytest.fixture(scope="module")
def zoo(family: Any) -> Zoo:
    """Two strangers, a descendant, a merge of 30 to 70, a student, and a case whose truth is a lie."""
    for name in ("first", "second", "tuned", "student"):
        family.folder(name)
    family.folder("thirty", changes.sum_of(family["first"], family["second"], 0.3))
    cases = (
        Case(named.FINE_TUNED, "tuned", ("first",), True, (named.FINE_TUNED,), sources=(0, 1, 2, 3)),
        Case(named.MERGED, "thirty", ("first", "second"), True, (named.MERGED,), coefficients=(0.3, 0.7), amount=0.3),
        Case(STUDENT, "student", ("first",), False),
        Case("a lie", "second", ("first",), True, (named.COPY,), sources=(0, 1, 2, 3)),
    )
    return Zoo(folder=family.home, ground=family.ground, strangers=("first", "second"), cases=cases, bits_per_token=7.5,
               speakers=((STUDENT, "student", "first"),), foreign=("second",))  # fmt: skip


def test_every_pair_of_strangers_is_judged_once(zoo: Zoo) -> None:
    names = tuple(f"scratch-{n}" for n in range(6))
    cases = strangers_of(dataclasses.replace(zoo, strangers=names))
    found = [tuple(sorted((case.member, other))) for case in cases for other in case.references]
    assert sorted(found) == sorted(itertools.combinations(names, 2))
    assert not any(case.derived for case in cases)


def test_a_family_judged(zoo: Zoo) -> None:
    result = judge_family(zoo, 5)
    rows = {(row.kind, row.member, row.reference): row for row in result.rows}
    stranger = rows[STRANGERS, "first", "second"]
    assert result.pairs == 1 and stranger.verdict == "independent" and stranger.verdict_right
    tuned = rows[named.FINE_TUNED, "tuned", "first"]
    assert tuned.verdict == "derived" and tuned.verdict_right and tuned.relation_right and tuned.map_right
    for parent in ("first", "second"):
        merged = rows[named.MERGED, "thirty", parent]
        assert merged.verdict_right and merged.relation_right, parent
        assert merged.coefficient_error is not None and merged.coefficient_error < 0.05
    student = rows[STUDENT, "student", "first"]
    assert student.verdict == "independent" and student.verdict_right and student.relation_right is None
    lie = rows["a lie", "second", "first"]  # what is not so is not found, and the table says that it was looked for
    assert not lie.verdict_right and lie.relation_right is False and lie.map_right is False
    assert result.detected["a lie"].hits == 0 and result.relations["a lie"].hits == 0
    assert "  second / first: independent, None" in zoo_text(result)


# Counted: what test_zoo.py leaves


def row(kind: str = STRANGERS, **facts: Any) -> Row:
    derived = kind not in (STRANGERS, OTHER_FAMILY, STUDENT)
    verdict = facts.pop("verdict", "derived" if derived else "independent")
    right = (verdict in ("same", "derived")) if derived else verdict == "independent"
    given = {
        "member": "model",
        "reference": "other",
        "relation": None,
        "log10_p": -1.0,
        "verdict_right": right,
        **facts,
    }
    return Row(kind=kind, derived=derived, verdict=verdict, **given)


def count(*rows: Row) -> ZooResult:
    return counted([row(), row(OTHER_FAMILY), *rows], (), 7.5, 1, {})


@pytest.mark.parametrize("kind", [OTHER_FAMILY, STUDENT])
@pytest.mark.parametrize("verdict", ["derived", "same"])
def test_a_descendant_called_a_strangers_is_counted_apart(kind: str, verdict: str) -> None:
    found = count(row(kind, verdict=verdict))
    assert (found.other_family.hits, found.other_family.n, found.false_positives.hits) == (1, 2, 0)


def test_a_test_that_did_not_run_neither_errs_nor_is_right() -> None:
    found = count(
        row(tests={"phi_U": -8.1}),
        row(tests={"phi_U": -7.9}),
        row(named.NOISED, tests={"phi_U": -9.0}),
        row(named.NOISED),
    )
    false_positives, power = found.by_test["phi_U"]["false_positives"], found.by_test["phi_U"]["power"]
    assert (false_positives.hits, false_positives.n, power.hits, power.n) == (1, 2, 1, 1)


def test_every_failure_stands_in_the_table() -> None:
    missed = [
        row(named.NOISED, member=f"scratch-{n}-noise-30", reference=f"scratch-{n}", verdict="independent")
        for n in range(14)
    ]
    misnamed = [
        row(named.MERGED, member=f"scratch-{n}-merged-0.02", relation=named.CONTINUED, relation_right=False)
        for n in range(14)
    ]
    text = zoo_text(count(*missed, *misnamed))
    for one in (*missed, *misnamed):
        assert f"  {one.member} / {one.reference}: {one.verdict}" in text
    assert max(map(len, text.splitlines())) <= 80


def test_a_result_comes_back_from_json() -> None:
    found = count(row(tests={"stream": -0.3}), row(named.COPY, tests={"stream": -89.0}, relation_right=True))
    assert ZooResult.model_validate_json(found.model_dump_json()) == found
