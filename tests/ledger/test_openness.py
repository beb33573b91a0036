"""The checklists: no item without its file, no class with one missing, and what is missing named."""

import pytest
from tests_ledger_evidence import CHILD, HOSTILE, evidence

from puna.ledger.evidence import Code
from puna.ledger.openness import MOF, OSAID, openness, openness_markdown

FILES = ["config.json", "model.safetensors", "README.md", "tokenizer.json", "base/model.safetensors", "puna/results.json", "puna/corpus.json",
         "puna/recipe.toml", "puna/ledger.jsonl", "puna/cyclonedx.json", "puna/report.html"]  # fmt: skip
MORE = ["puna/evaluation/quiz.jsonl"]
MOST = [*MORE, "paper.pdf", "puna/data/train.parquet", "puna/milestones/1/model.safetensors"]


def test_the_framework_has_seventeen_components_in_three_classes() -> None:
    items = [one for one in openness(evidence(), FILES).items if one.checklist == MOF]
    assert [sum(one.mof_class == number for one in items) for number in (3, 2, 1)] == [7, 5, 5]
    assert {one.item for one in items if one.optional} == {"sample model outputs", "model metadata"}


def test_the_classes_follow_from_the_files() -> None:
    assert openness(evidence(), FILES).mof_class == 3
    assert openness(evidence(), FILES).next_class == ("evaluation data",)
    assert openness(evidence(), [*FILES, *MORE]).mof_class == 2
    assert (
        openness(evidence(), [*FILES, *MOST]).mof_class == 1 and openness(evidence(), [*FILES, *MOST]).next_class == ()
    )


@pytest.mark.parametrize(
    "gone",
    ["README.md", "model.safetensors", "config.json", "puna/results.json", "puna/corpus.json", "puna/report.html"],
)
def test_no_class_without_each_of_its_files(gone: str) -> None:
    found = openness(evidence(), FILES)
    less = openness(evidence(), [name for name in FILES if name != gone])
    assert less.mof_class is None and set(less.missing) > set(found.missing)


def test_no_item_is_met_without_a_file() -> None:
    assert not [one.item for one in openness(evidence(), []).items if one.met and one.item != "terms"]
    assert all(set(one.found) <= set(FILES) for one in openness(evidence(), FILES).items)


def test_the_base_beside_a_tuned_model_is_no_checkpoint_on_the_way() -> None:
    (found,) = [one for one in openness(evidence(), FILES).items if one.item == "model parameters, intermediate"]
    assert not found.met


def test_code_counts_only_as_it_was_published() -> None:
    assert openness(evidence(), FILES).osaid_met
    for code in (Code(), Code(digest="7" * 64, commit="4" * 40, changed=True)):
        found = openness(evidence(code=code), FILES)
        assert f"{OSAID}: code" in found.missing and f"{MOF}: evaluation code" in found.missing
    assert openness(evidence(code=Code(digest="7" * 64)), FILES).osaid_met  # an installed package has no commit


def test_what_is_not_open_is_named() -> None:
    unstated = openness(evidence(licence="unstated"), FILES)
    assert unstated.mof_class is None and not unstated.osaid_met and "unstated" in unstated.next_class[0]
    child = openness(evidence(**CHILD), FILES)
    assert {f"{OSAID}: data information", f"{OSAID}: terms"} <= set(child.missing) and child.mof_class is None
    assert "llama: llama2" in openness_markdown(child)
    assert openness(evidence(samples=0), FILES).mof_class == 3  # they are optional


def test_the_page_says_both_results_and_lets_no_name_break_its_table() -> None:
    page = openness_markdown(openness(evidence(), FILES))
    assert (
        "every item is there" in page
        and "Class III, open model. For Class II, open tooling it lacks: evaluation data." in page
    )
    parent = CHILD["ancestors"][0].model_copy(update={"name": HOSTILE})
    rows = [
        line
        for line in openness_markdown(openness(evidence(ancestors=(parent,)), FILES)).splitlines()
        if line.startswith("| ")
    ]
    assert len(rows) == 4 + 17 + 2 and all(line.replace("\\|", "").count("|") == 6 for line in rows)
    assert not any("<b>" in line.replace("\\<", "") for line in rows)
