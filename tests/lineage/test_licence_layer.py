"""Licences down the chain: bound where weights are inherited, not bound by a shared design, and every failing obligation named."""

from collections.abc import Callable
from pathlib import Path

import pytest

from puna.ledger.licences import NOT_ADVICE
from puna.lineage.licence import compare_licences
from puna.lineage.opened import Opened
from puna.lineage.verdict import Licence
from puna.lineage.weights.reading import assembled

CARD = "---\nlicense: {licence}\n{more}---\n# A model\n{text}"
LLAMA_3 = "META LLAMA 3 COMMUNITY LICENSE AGREEMENT\n"
Make = Callable[..., Opened]


@pytest.fixture
def model(tmp_path: Path) -> Make:
    """A folder with texts, opened; `files` by name with dots as double underscores."""

    def make(name: str, card: str | None = None, more: str = "", text: str = "", **files: str) -> Opened:
        folder = tmp_path / name.replace("/", "--")
        folder.mkdir()
        if card is not None:
            (folder / "README.md").write_text(CARD.format(licence=card, more=more, text=text))
        for file, content in files.items():
            (folder / file.replace("__", ".")).write_text(content)
        return Opened(name, assembled(name, {}, {}), None, folder)

    return make


def failing(found: Licence) -> list[str]:
    return [one.clause for one in found.obligations if one.kept is False]


def test_a_fine_tuned_llama_without_its_duties(model: Make) -> None:
    own = model("SuperChat-8B", "apache-2.0", "base_model: meta-llama/Meta-Llama-3-8B\n", "Built with Meta Llama 3")
    found = compare_licences(own, model("meta-llama/Meta-Llama-3-8B"), True)
    assert (
        found.verdict == "derived"
        and "is bound by the Meta Llama 3 Community License Agreement, while it states apache-2.0" in found.sentence
    )
    assert (
        failing(found) == ["1.b.i (A)", "1.b.i", "1.b.iii"] and "3 fail: give a copy of the agreement" in found.sentence
    )
    assert [link.licence for link in found.chain] == ["apache-2.0", "llama3"]
    assert "states none itself" in found.chain[1].stated_by
    assert any(line.startswith("NOT KEPT: begin the name") for line in found.evidence)
    assert NOT_ADVICE in found.sentence and found.evidence[-1] == NOT_ADVICE


def test_one_that_keeps_them(model: Make) -> None:
    notice = "Meta Llama 3 is licensed under the Meta Llama 3 Community License, Copyright © Meta Platforms, Inc. All Rights Reserved."
    own = model(
        "Llama-3-Super",
        "llama3",
        "base_model: x/big-llama\n",
        "Built with Meta Llama 3",
        LICENSE=LLAMA_3,
        NOTICE=notice,
    )
    found = compare_licences(own, model("x/big-llama", "llama3"), True)
    assert (
        found.verdict == "same"
        and failing(found) == []
        and "which it states too" in found.sentence
        and "0 fail." in found.sentence
    )


def test_a_shared_design_binds_nobody(model: Make) -> None:
    own = model("01-ai/Yi-6B", "apache-2.0")
    found = compare_licences(own, model("meta-llama/Llama-2-7b-hf", "llama2"), False)
    assert found.verdict == "independent" and "Nothing follows from a shared architecture" in found.sentence
    assert "covers the weights" in found.sentence and NOT_ADVICE in found.sentence
    assert found.obligations and all(one.kept is None and "does not apply" in one.how for one in found.obligations)
    assert any("also binds who trains on the model's answers" in line for line in found.evidence)


def test_where_weights_do_not_tell(model: Make) -> None:
    found = compare_licences(model("a", "mit"), model("b", "gemma"), None)
    assert found.verdict == "cannot tell" and found.sentence.startswith(
        "If a stems from b, it is bound by the Gemma Terms of Use"
    )
    assert failing(found)


def test_the_chain_goes_on_to_the_parents(model: Make) -> None:
    """What the reference was made from binds too, though only its card names it."""
    reference = model("mid", "mit", "base_model:\n- meta-llama/Llama-3.2-1B\n- somebody/unknown\n")
    found = compare_licences(model("mine", "mit", "base_model: mid\n"), reference, True)
    assert [(link.model, link.licence) for link in found.chain] == [
        ("mine", "mit"), ("mid", "mit"), ("meta-llama/Llama-3.2-1B", "llama3.2"), ("somebody/unknown", None)
    ]  # fmt: skip
    assert found.verdict == "derived" and {one.licence for one in found.obligations} == {"mit", "llama3.2"}
    assert "named by mid's model card; its licence by the repository's name" in found.chain[2].stated_by


def test_the_licence_by_its_text(model: Make) -> None:
    reference = model("ref", LICENSE=LLAMA_3)
    assert compare_licences(model("a", "mit"), reference, True).chain[1].stated_by == "its file LICENSE"
    lying = model("liar", "apache-2.0", LICENSE=LLAMA_3)
    found = compare_licences(model("b", "mit"), lying, True)
    assert any(
        "its model card says apache-2.0, and its file LICENSE is the text of Meta Llama 3" in line
        for line in found.evidence
    )


def test_the_makers_notice_of_yi(model: Make) -> None:
    notice = "This work, [Your Model Name], is based on the work originally authored by 01.AI."
    named, noticed = model("01-ai/Yi-9B", "apache-2.0"), model("copy-of-yi", "apache-2.0", NOTICE=notice)
    own = model("mine", "apache-2.0", "base_model: 01-ai/Yi-9B\n", LICENSE="Apache License\nVersion 2.0, January 2004")
    for reference in (named, noticed):
        found = compare_licences(own, reference, True)
        assert found.chain[1].licence == "yi-apache-2.0" and "with its maker's notice" in found.chain[1].stated_by
        assert failing(found) == ["4.d, NOTICE"]
    thanks = model("kind", "apache-2.0", LICENSE="Apache License Version 2.0, January 2004",
                   NOTICE="This work is a derivative of Yi-9B by 01.AI, used under the Apache 2.0 License.")  # fmt: skip
    assert failing(compare_licences(thanks, named, True)) == []


def test_contradictions_are_said(model: Make) -> None:
    reference = model("ref", "mit")
    says = compare_licences(model("a", "mit", "base_model: org/ref\n"), reference, False)
    assert any("names ref as what it was made from, and the weights do not show it" in line for line in says.evidence)
    other = compare_licences(model("b", "mit", "base_model: another\n"), reference, True)
    assert any("names another, and not ref" in line for line in other.evidence)
    silent = compare_licences(model("c", "mit"), reference, True)
    assert any("names nothing that it was made from" in line for line in silent.evidence)


def test_nothing_stated(model: Make) -> None:
    found = compare_licences(model("a"), model("b", "other"), True)
    assert found.verdict == "cannot tell" and "b states no licence" in found.sentence and found.obligations == ()
    strange = compare_licences(model("c"), model("d", "my-own-licence"), True)
    assert "states my-own-licence, which our table does not hold" in strange.sentence
    assert compare_licences(Opened("m", assembled("m", {}, {})), model("e", "mit"), True).verdict == "derived"


def test_clauses_that_were_not_read_are_said_to_be(model: Make) -> None:
    found = compare_licences(model("a", "mit"), model("Qwen/Qwen2.5-72B", "other", "license_name: qwen\n"), True)
    built = next(one for one in found.obligations if "Built with Qwen" in one.asks)
    assert built.kept is False and "not read in the licence's text" in built.how
    assert "not read" not in next(one for one in found.obligations if one.clause == "3.c").how


def test_hostile_folders(model: Make, tmp_path: Path) -> None:
    """Links out of the folder and cards that do not end are told of, and what can be read is still compared."""
    (tmp_path / "secret").write_text("Built with Llama")
    own = model("evil\x1b[31m", "mit", "base_model: &a [*a]\n")
    assert own.path is not None
    (own.path / "LICENSE").symlink_to(tmp_path / "secret")
    found = compare_licences(own, model("ref", "llama3.1"), True)
    assert any("cannot be read" in line for line in found.evidence) and "\x1b" not in found.sentence + "".join(
        found.evidence
    )
    assert found.verdict == "derived"
