"""Bills of materials and checklists: valid by the public schemas, the same bytes for the same evidence, and nothing invented."""

import json

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from spdx_python_model import load_data

from puna.ledger.cyclonedx import cyclonedx_json
from puna.ledger.evidence import Ancestor, Evidence, File, Measure, Source, Training
from puna.ledger.openness import openness, openness_markdown
from puna.ledger.spdx import spdx_json

FILES = ["config.json", "model.safetensors", "README.md", "tokenizer.json", "base/model.safetensors", "puna/results.json", "puna/corpus.json",
         "puna/recipe.toml", "puna/ledger.jsonl", "puna/cyclonedx.json"]  # fmt: skip


def evidence(**changes: object) -> Evidence:
    plain = Evidence(
        name="mine", title="Mine <b>模型</b>", created="2026-11-28T08:00:00.123456Z", puna="0.1.0", architecture="LlamaForCausalLM", parameters=139_584,
        shape={"dim": 64, "layers": 2}, licence="Apache-2.0", languages=("en", "zh"), chats=True,
        weights=(File(path="model.safetensors", bytes=3, sha256="a" * 64), File(path="config.json", bytes=2, sha256="9" * 64)),
        sources=(Source(name="python", sha256="b" * 64, bytes=100, files=3, licence="PSF-2.0"), Source(name="notes", licence="Our own terms")),
        training=(Training(name="pretraining", tokens=1000, steps=10, settings={"lr_matrix": 0.1}),),
        measures=(Measure(task="heldout", metric="bits_per_byte", value=1.25, low=1.1, high=1.4, n=20), Measure(task="quiz", metric="accuracy", value=0.5)),
        environment={"torch": "2.13.0", "transformers": "absent"}, seed_commitment="d" * 64, step0="e" * 64, ledger_entries=5, ledger_head="f" * 64,
        limits=("It is small.",),
    )  # fmt: skip
    return plain.model_copy(update=changes)


CHILD = {"ancestors": (Ancestor(name="llama", sha256="c" * 64, relation="continued", licence="llama2"),)}


@pytest.mark.parametrize("changes", [{}, CHILD, {"measures": (), "sources": (), "licence": None}])
def test_cyclonedx_is_valid_by_the_public_schema(changes: dict) -> None:
    text = cyclonedx_json(evidence(**changes)).decode()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    assert (
        JsonStrictValidator(SchemaVersion.V1_6).validate_str(text.replace('"machine-learning-model"', '"wonder"', 1))
        is not None
    )


def test_cyclonedx_says_what_was_measured_and_no_more() -> None:
    value = json.loads(cyclonedx_json(evidence(**CHILD)))
    model = value["metadata"]["component"]
    first, second = model["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    assert (
        first["confidenceInterval"] == {"lowerBound": "1.1", "upperBound": "1.4"} and "confidenceInterval" not in second
    )
    assert model["pedigree"]["ancestors"][0]["hashes"] == [{"alg": "SHA-256", "content": "c" * 64}]
    assert {"license": {"id": "Apache-2.0"}} in model["licenses"]
    assert [c["name"] for c in value["components"] if c["type"] == "library"] == ["torch"]  # what is absent is no part
    assert (
        "began with random weights"
        in json.loads(cyclonedx_json(evidence()))["metadata"]["component"]["pedigree"]["notes"].lower()
    )


@pytest.mark.parametrize("write", [cyclonedx_json, spdx_json])
def test_the_same_evidence_gives_the_same_bytes_and_another_gives_others(write) -> None:
    assert write(evidence()) == write(evidence())
    assert write(evidence()) != write(evidence(parameters=1))


@pytest.mark.parametrize("changes", [{}, CHILD, {"measures": (), "sources": (), "licence": None}])
def test_spdx_is_read_back_by_the_projects_own_bindings(changes: dict) -> None:
    module, found = load_data(json.loads(spdx_json(evidence(**changes))))
    packages = list(found.foreach_type(module.ai_AIPackage))
    assert len(packages) == 1 + len(changes.get("ancestors", ()))
    relations = list(found.foreach_type(module.Relationship))
    for package in packages:  # the AI profile: exactly one declared and one concluded licence each
        for kind in (module.RelationshipType.hasDeclaredLicense, module.RelationshipType.hasConcludedLicense):
            assert sum(one.relationshipType == kind and one.from_ in (package, package._id) for one in relations) == 1
    assert len(list(found.foreach_type(module.dataset_DatasetPackage))) == len(evidence(**changes).sources)


def test_no_item_is_met_without_its_file() -> None:
    found = openness(evidence(), FILES)
    assert found.mof_class == 3 and "MOF: evaluation data" in found.missing
    for gone in ("README.md", "model.safetensors", "puna/results.json"):
        less = openness(evidence(), [name for name in FILES if name != gone])
        assert less.mof_class is None, gone
        assert set(less.missing) > set(found.missing)
    assert all(one.found for one in found.items if one.met and one.item != "terms")


def test_the_definition_asks_for_open_licences_of_everything() -> None:
    assert not openness(evidence(), FILES).osaid_met  # "Our own terms" is none
    own = evidence(sources=(Source(name="python", licence="PSF-2.0"),))
    assert openness(own, FILES).osaid_met
    assert not openness(own.model_copy(update=CHILD), FILES).osaid_met  # llama2 is not open
    assert "Our own terms" in openness_markdown(openness(evidence(), FILES))
