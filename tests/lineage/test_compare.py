"""All six layers side by side: the Yi case, the form of the JSON, and the behaviour beside the weights."""

import json
from typing import Any

import pytest

from puna.lineage.behaviour import LocalModel
from puna.lineage.compare import compare
from puna.lineage.verdict import LAYERS, Lineage
from puna.report.lineage_text import lineage_text, verdict_words

YI = {"input_layernorm": "ln1", "post_attention_layernorm": "ln2"}


@pytest.fixture(scope="module")
def yi(family: Any) -> Lineage:
    """Two models of one shape and one tokenizer trained apart, one of them with its norms renamed."""
    renamed = {}
    for name, tensor in family["second"].items():
        for old, new in YI.items():
            name = name.replace(old, new)
        renamed[name] = tensor
    return compare(family.opened("yi", renamed), [family.opened("first")])[0]


def test_the_yi_case(yi: Lineage) -> None:
    layers = yi.layers
    assert verdict_words(yi, "names") == "same after 2 renames"
    assert {one.model for one in layers.names.renames} == {"model.layers.{}.ln1.weight", "model.layers.{}.ln2.weight"}
    assert layers.architecture.verdict == "same" and layers.tokenizer.verdict == "same"
    assert layers.weights.verdict == "independent" and layers.weights.relation is None


def test_the_yi_case_reads_for_a_journalist(yi: Lineage) -> None:
    said = yi.layers.weights.sentence
    assert said.startswith("The weights of yi show no trace of those of first")
    assert "same architecture" in said and "does not count" in said
    assert not {"phi", "Spearman", "Fisher", "Holm", "cosine", "log10"} & set(said.replace(",", " ").split())
    assert "label" in yi.layers.names.sentence  # that names prove nothing is said where names are


def test_no_score_of_the_six(yi: Lineage) -> None:
    assert set(yi.as_json()["layers"]) == set(LAYERS)
    assert "never one score" in lineage_text(yi)
    assert not {"score", "verdict", "overall"} & set(yi.as_json())


def test_the_json_is_of_the_form_of_the_issue(yi: Lineage) -> None:
    value = json.loads(json.dumps(yi.as_json(), allow_nan=False))
    assert {"model", "reference", "layers"} <= set(value)
    assert set(value["layers"]) == {"names", "architecture", "tokenizer", "weights", "data", "licence"}
    assert all("verdict" in layer for layer in value["layers"].values())
    weights = value["layers"]["weights"]
    assert {"verdict", "p_value", "null", "relation", "share", "blocks", "tests"} <= set(weights)
    assert isinstance(weights["tests"], list) and all(
        {"name", "null", "p_value", "why_not"} <= set(one) for one in weights["tests"]
    )
    assert Lineage.model_validate(value) == yi


def test_several_references_are_several_findings(family: Any) -> None:
    found = compare(family.opened("tuned"), [family.opened("second"), family.opened("first")])
    assert [one.reference for one in found] == ["second", "first"]
    assert [one.layers.weights.verdict for one in found] == ["independent", "derived"]
    assert all(one.model == "tuned" and one.seconds >= 0 and one.puna for one in found)
    assert found[0].model_facts is not None and found[0].model_facts.parameters == sum(
        t.numel() for t in family["tuned"].values()
    )


def test_weights_decide_neither_names_nor_tokenizer(family: Any) -> None:
    """The same two checkpoints' first three layers, whatever their weights: only the licence asks those."""
    stranger, kin = (
        compare(family.opened("second"), [family.opened("first")])[0],
        compare(family.opened("tuned"), [family.opened("first")])[0],
    )
    for key in ("names", "architecture", "tokenizer"):
        assert getattr(stranger.layers, key).verdict == getattr(kin.layers, key).verdict == "same", key


def test_a_student_speaks_like_its_teacher_and_is_independent(family: Any) -> None:
    controls = [LocalModel(family.folder("second"), "second")]
    found = compare(family.opened("student"), [family.opened("first")], controls=controls)[0].layers.weights
    assert found.verdict == "independent" and found.behaviour is not None
    assert found.behaviour.contexts > 0 and set(found.behaviour.controls) == {"second"}
    assert 0 <= found.behaviour.agreement <= 1 and found.behaviour.sentence
    same = compare(family.opened("first"), [family.opened("first")], controls=controls)[0].layers.weights
    assert same.behaviour is not None and same.behaviour.agreement == 1.0


def test_sampled_finds_the_same(family: Any) -> None:
    for name, verdict in (("tuned", "derived"), ("second", "independent")):
        assert compare(family.opened(name), [family.opened("first")], sampled=True)[0].layers.weights.verdict == verdict
