"""Comparisons kept for the board, and what a stranger puts beside them."""

from pathlib import Path

import pytest

from puna.errors import PunaError
from puna.lineage.records import FOLDER, load, save
from puna.lineage.verdict import (
    Architecture,
    DataLayer,
    Layers,
    Licence,
    Lineage,
    Names,
    Subject,
    TokenizerLayer,
    Weights,
)


def made(model: str = "a", reference: str = "b", digest: str | None = None, seconds: float = 1.0) -> Lineage:
    said = {"verdict": "cannot tell", "sentence": "None."}
    layers = Layers(
        names=Names.model_validate(said), architecture=Architecture.model_validate(said), tokenizer=TokenizerLayer.model_validate(said),
        weights=Weights.model_validate(said), data=DataLayer.model_validate(said), licence=Licence.model_validate(said),
    )  # fmt: skip
    facts = None if digest is None else Subject(name=model, digest=digest)
    return Lineage(model=model, reference=reference, layers=layers, model_facts=facts, seconds=seconds)


def test_there_and_back(tmp_path: Path) -> None:
    one, two = made(), made("c")
    paths = {save(one, tmp_path), save(two, tmp_path)}
    assert len(paths) == 2 and {path.parent for path in paths} == {tmp_path / FOLDER}
    assert sorted(load(tmp_path), key=lambda found: found.model) == [one, two]


def test_the_same_pair_again_replaces(tmp_path: Path) -> None:
    assert save(made(), tmp_path) == save(made(seconds=2.0), tmp_path)
    assert [one.seconds for one in load(tmp_path)] == [2.0]


def test_a_pair_is_its_weights_and_its_direction(tmp_path: Path) -> None:
    assert save(made("name", digest="d"), tmp_path) == save(made("other name", digest="d"), tmp_path)
    assert save(made("a", "b"), tmp_path) != save(made("b", "a"), tmp_path)
    assert save(made("a", digest="1"), tmp_path) != save(made("a", digest="2"), tmp_path)


def test_hostile_names_stay_in_the_folder(tmp_path: Path) -> None:
    path = save(made("../../x\n", "/etc/passwd"), tmp_path / "store")
    assert path.parent == tmp_path / "store" / FOLDER
    assert [one.model for one in load(tmp_path / "store")] == ["../../x\n"]


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", "{" * 10_000, '{"model": 1}', "\ud800".encode("utf-8", "surrogatepass").decode("latin-1")]
)
def test_what_is_no_comparison_is_told(tmp_path: Path, text: str) -> None:
    good = save(made(), tmp_path)
    (good.parent / "odd.json").write_text(text, encoding="utf-8")
    problems: list[PunaError] = []
    assert len(load(tmp_path, problems)) == 1 and len(problems) == 1
    assert "odd.json" in problems[0].line() and "\n" not in problems[0].line()
    with pytest.raises(PunaError):
        load(tmp_path)


def test_more_than_the_form_is_refused(tmp_path: Path) -> None:
    path = save(made(), tmp_path)
    path.write_text(path.read_text().replace('"seconds"', '"overall_score": 0.9, "seconds"'))
    with pytest.raises(PunaError, match="overall_score"):
        load(tmp_path)


def test_no_store_is_no_comparison(tmp_path: Path) -> None:
    assert load(tmp_path / "nowhere") == []
    (tmp_path / "file").write_text("")
    with pytest.raises(PunaError, match="cannot be written"):
        save(made(), tmp_path / "file")
