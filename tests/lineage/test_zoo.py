"""The zoo: a small one from end to end, and how its rows are counted."""

import json
from pathlib import Path
from typing import Any

import pytest

from puna.lineage.weights import relation as named
from puna.lineage.zoo.family import STRANGERS, STUDENT, TINY, build_family, strangers_of
from puna.lineage.zoo.training import bits_per_token
from puna.lineage.zoo.trial import Row, Spoken, counted, judge_family, zoo_text


def row(kind: str, derived: bool, verdict: str, relation: str | None = None, **more: Any) -> Row:
    right = (verdict in ("same", "derived")) if derived else verdict == "independent"
    return Row(
        kind=kind,
        member="m",
        reference="r",
        derived=derived,
        verdict=verdict,
        relation=relation,
        verdict_right=right,
        **more,
    )  # type: ignore[arg-type]


ROWS = [
    *(row(STRANGERS, False, "independent", tests={"phi_U": -0.5, "norms": -9.0}) for _ in range(9)),
    row(STRANGERS, False, "derived", tests={"phi_U": -20.0}),
    row(STRANGERS, False, "cannot tell", tests={"phi_U": -5.0}),
    row(STUDENT, False, "independent"),
    row(named.NOISED, True, "derived", named.NOISED, relation_right=True, log10_p=-30.0, tests={"phi_U": -30.0}),
    row(named.NOISED, True, "independent", relation_right=False, log10_p=-1.0, tests={"phi_U": -1.0}),
    row(named.GROWN, True, "derived", named.GROWN, relation_right=True, map_right=True, log10_p=-400.0),
    row(named.GROWN, True, "derived", named.GROWN, relation_right=True, map_right=False, log10_p=-400.0),
    row(named.MERGED, True, "derived", named.MERGED, relation_right=True, coefficient_error=0.049),
    row(named.MERGED, True, "derived", named.MERGED, relation_right=True, coefficient_error=0.051),
]


def test_rates_are_counted_from_the_rows() -> None:
    found = counted(ROWS, (), 4.0, 7, {})
    assert (found.false_positives.hits, found.false_positives.n, found.undecided.hits) == (1, 11, 1)
    assert {kind: (one.hits, one.n) for kind, one in found.detected.items()} == {
        named.NOISED: (1, 2),
        named.GROWN: (2, 2),
        named.MERGED: (2, 2),
    }
    assert (found.relations[named.NOISED].hits, found.relations[named.NOISED].n) == (1, 2)
    assert found.maps is not None and (found.maps.hits, found.maps.n) == (1, 2)
    assert found.coefficients is not None and (found.coefficients.hits, found.coefficients.n) == (1, 2)
    phi = found.by_test["phi_U"]
    assert (phi["false_positives"].hits, phi["false_positives"].n, phi["power"].hits, phi["power"].n) == (1, 11, 1, 2)
    assert "power" not in found.by_test["norms"]


def test_the_table_fits_and_hides_no_failure() -> None:
    spoken = (
        Spoken(kind=STUDENT, model="m", reference="r", agreement=0.9, controls=(0.2, 0.4), p_value=1e-9, alike=True),
    )
    said = zoo_text(counted(ROWS, spoken, 4.0, 7, {}))
    assert max(map(len, said.splitlines())) <= 80
    for words in (
        "called derived         1",
        "wrong or undecided (3)",
        "relations named rightly: 5 of 6",
        "block maps right: 1 of 2",
        "second opinion",
        "1 of 1 speak alike",
    ):
        assert words in said, words


def test_a_descendant_beside_its_own_parent_is_no_stranger() -> None:
    """`strangers_of`: every pair of models from scratch once."""

    class Four:
        strangers = ("a", "b", "c", "d")

    pairs = {(case.member, name) for case in strangers_of(Four()) for name in case.references}  # type: ignore[arg-type]
    assert len(pairs) == 6 and not any(one == other for one, other in pairs)


def test_training_teaches(family: Any) -> None:
    prose = family.ground.prose
    assert bits_per_token(family["first"], prose) < 8.0  # 512 tokens at random: 9 bits


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_tiny_zoo_from_end_to_end(tmp_path: Path) -> None:
    zoo = build_family(TINY, tmp_path / "zoo", seed=11)
    result = judge_family(zoo, seed=11)
    assert result.pairs == 6 and result.false_positives.hits == 0 and result.other_family.hits == 0
    missed = [
        (one.member, one.verdict) for one in result.rows if one.derived and one.verdict not in ("same", "derived")
    ]
    assert missed == []
    right, n = (sum(getattr(one, what) for one in result.relations.values()) for what in ("hits", "n"))
    assert right / n >= 0.9, [(one.member, one.relation) for one in result.rows if one.relation_right is False]
    assert result.maps is not None and result.maps.hits == result.maps.n
    assert result.coefficients is not None and result.coefficients.hits == result.coefficients.n
    assert max(map(len, zoo_text(result).splitlines())) <= 80
    json.dumps(result.model_dump(mode="json"), allow_nan=False)
