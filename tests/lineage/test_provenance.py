"""Data and recipe: told by ledgers that are believed, and by nothing else."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from puna.ledger import Ledger
from puna.ledger.logged import content_of
from puna.lineage.licence import compare_licences
from puna.lineage.opened import Opened, open_for_comparison
from puna.lineage.provenance import compare_data

TEXTS = ["Llamas walk over the high grassland. 羊驼走过高原的草地。"] * 40
PYTHON = {"name": "python", "licence": "PSF-2.0", "digest": "a" * 64, "bytes": 1000}
BOOKS = {"name": "books", "licence": "CC0-1.0", "digest": "b" * 64, "bytes": 2000}
Release = Callable[..., Opened]


@pytest.fixture
def release(tmp_path: Path, tiny_model: Callable[..., Path]) -> Release:
    """A model folder with the ledger of its making, as `build.finish` lays them out."""

    def write(name: str, seed: int, sources: list[dict[str, Any]], corpus: str, *, base: dict[str, Any] | None = None, tuned: bool = False,
              recipe: str = "r", licence: str = "MIT") -> Opened:  # fmt: skip
        top = tiny_model(tmp_path / name, TEXTS, 400, seed=seed)
        ledger = Ledger(tmp_path / f"{name}.jsonl")
        ledger.append("recipe", {"digest": recipe, "recipe": {"name": name, "release": {"licence": licence}}})
        ledger.append("sources", {"artefact": "corpus-1", "sources": sources})
        ledger.append("stage", {"stage": "corpus", "content": corpus, "inputs": {}})
        if base is not None:
            ledger.append("base", base)
        inputs = {"corpus": corpus}
        if tuned:
            inner = tiny_model(top / "base", TEXTS, 400, seed=seed + 50)
            ledger.append("stage", {"stage": "pretrain", "content": content_of(inner), "inputs": inputs})
            inputs = {"pretrain": content_of(inner)}
        ledger.append(
            "stage", {"stage": "tune-0" if tuned else "pretrain", "content": content_of(top), "inputs": inputs}
        )
        (top / "puna").mkdir()
        shutil.copyfile(ledger.path, top / "puna" / "ledger.jsonl")
        return open_for_comparison(top)

    return write


@pytest.fixture
def foreign(tmp_path: Path, tiny_model: Callable[..., Path]) -> Opened:
    return open_for_comparison(tiny_model(tmp_path / "foreign", TEXTS, 400, seed=9))


def test_without_ledgers_nothing_is_decided(release: Release, foreign: Opened) -> None:
    one = release("one", 1, [PYTHON], "c1")
    for pair, who in (
        ((foreign, foreign), "they were"),
        ((one, foreign), "foreign was"),
        ((foreign, one), "foreign was"),
    ):
        found = compare_data(*pair)
        assert found.verdict == "not decidable from outside" and f"What {who} trained on" in found.sentence
        assert "puna lineage claim" in found.sentence and "puna verify" in found.sentence
    assert any(
        "one: read python (PSF-2.0, 1,000 bytes, sha256 aaaaaaaaaaaa)" in line
        for line in compare_data(one, foreign).evidence
    )


def test_the_same_text(release: Release) -> None:
    one, two = release("one", 1, [PYTHON], "c1"), release("two", 2, [PYTHON], "c1")
    found = compare_data(one, two)
    assert (
        found.verdict == "same"
        and "the very same text and by the same recipe" in found.sentence
        and "shares no weights" in found.sentence
    )
    assert "not that it is true" in found.sentence
    other = compare_data(one, release("three", 3, [PYTHON], "c1", recipe="q"))
    assert other.verdict == "same" and "same recipe" not in other.sentence


def test_other_texts(release: Release) -> None:
    one = release("one", 1, [PYTHON], "c1")
    apart = compare_data(one, release("two", 2, [BOOKS], "c2"))
    assert apart.verdict == "independent" and "no source of one is one of two: 1 and 1, by digest" in apart.sentence
    partly = compare_data(one, release("three", 3, [PYTHON, BOOKS], "c3"))
    assert partly.verdict == "cannot tell" and "1 of 1 sources of one were read for three too" in partly.sentence
    assert "sources in both ledgers: python" in partly.evidence


def test_a_base_is_where_the_text_came_from(release: Release, foreign: Opened) -> None:
    by_name = release("grown", 4, [PYTHON], "c1", base={"names": ["somewhere/Foreign"], "weights": "e" * 64})
    found = compare_data(by_name, foreign)
    assert (
        found.verdict == "derived" and "began with foreign (by name; the digests were not compared)" in found.sentence
    )
    digest = Opened(foreign.name, foreign.checkpoint, foreign.tokenizer, foreign.path, digest="e" * 64)
    assert "by the digest of its weights" in compare_data(by_name, digest).sentence
    assert any("it began with somewhere/Foreign" in line for line in found.evidence)
    assert (
        compare_data(foreign, by_name).verdict == "not decidable from outside"
    )  # the other way round nothing is known


def test_a_tuned_model_and_its_own_base(release: Release) -> None:
    top = release("talk", 5, [PYTHON], "c1", tuned=True)
    assert top.path is not None
    base = open_for_comparison(top.path / "base", "talk/base")
    found = compare_data(top, base)
    assert found.verdict == "derived" and "that very model is among its inputs" in found.sentence
    back = compare_data(base, top)
    assert (
        back.verdict == "same"
        and "by its ledger talk was made from talk/base, not the other way round" in back.evidence
    )


def test_ledgers_that_are_not_believed(release: Release) -> None:
    one, two = release("one", 1, [PYTHON], "c1"), release("two", 2, [PYTHON], "c1")
    assert one.path is not None and two.path is not None
    shutil.copyfile(one.path / "puna" / "ledger.jsonl", two.path / "puna" / "ledger.jsonl")
    found = compare_data(one, two)
    assert found.verdict == "not decidable from outside" and "What two was trained on" in found.sentence
    assert any("none of its training stages ended with these files" in line for line in found.evidence)
    three = release("three", 3, [PYTHON], "c1")
    assert three.path is not None
    ledger = three.path / "puna" / "ledger.jsonl"
    ledger.write_bytes(ledger.read_bytes().replace(b"python", b"pythom"))
    found = compare_data(three, one)
    assert any("its ledger is not believed: the entry was changed" in line for line in found.evidence)


def test_the_licence_and_the_bases_of_a_ledger(release: Release) -> None:
    made = release("mine", 6, [PYTHON], "c1", base={"names": ["meta-llama/Llama-3.2-1B"]}, licence="Apache-2.0")
    other = release("other", 7, [PYTHON], "c1", licence="unstated")
    found = compare_licences(other, made, True)
    assert (found.chain[1].licence, found.chain[1].stated_by) == ("Apache-2.0", "its ledger")
    assert found.chain[2].licence == "llama3.2" and found.chain[0].licence is None
    assert "named by mine's ledger" in found.chain[2].stated_by
    named = next(one for one in found.obligations if one.licence == "llama3.2" and "begin the name" in one.asks)
    assert named.kept is False and named.how == "its name is other"


def test_no_maker_is_bound_by_its_own_licence(release: Release) -> None:
    top = release("talk", 5, [PYTHON], "c1", tuned=True)
    assert top.path is not None
    found = compare_licences(top, open_for_comparison(top.path / "base", "talk/base"), True)
    assert any("no maker is bound by a licence of its own" in line for line in found.evidence)
