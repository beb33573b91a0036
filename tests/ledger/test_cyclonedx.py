"""CycloneDX: valid by the public schema, the same bytes for the same evidence, and nothing invented."""

import json
import sys

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from tests_ledger_evidence import CHILD, LITTLE, READ, evidence

from puna.errors import PunaError
from puna.ledger.cyclonedx import cyclonedx_json, spdx_identifier
from puna.ledger.evidence import File

SHARDED = {
    "weights": (
        File(path="model-00001.safetensors", sha256="1" * 64),
        File(path="model-00002.safetensors", sha256="2" * 64),
    )
}


@pytest.mark.parametrize(
    "changes", [{}, CHILD, LITTLE, SHARDED, {"joules": 12.5}], ids=["whole", "child", "little", "sharded", "joules"]
)
def test_it_is_valid_by_the_public_schema(changes: dict) -> None:
    text, strict = cyclonedx_json(evidence(**changes)).decode(), JsonStrictValidator(SchemaVersion.V1_6)
    assert strict.validate_str(text) is None
    value = json.loads(text)
    for where, bad in (
        ("approach", {"type": "wonder"}),
        ("task", 3),
        ("guess", "x"),
    ):  # the part that the library has no class for is looked at
        broken = json.loads(text)
        broken["metadata"]["component"]["modelCard"]["modelParameters"][where] = bad
        assert strict.validate_str(json.dumps(broken)) is not None
    references = [one["bom-ref"] for one in value.get("components", [])] + ["model"]
    assert len(set(references)) == len(references)
    told = value["metadata"]["component"]["modelCard"]["modelParameters"].get("datasets", [])
    assert {one["ref"] for one in told} <= set(references)


def test_it_says_what_was_measured_and_no_more() -> None:
    value = json.loads(cyclonedx_json(evidence(**CHILD)))
    model = value["metadata"]["component"]
    first, second = model["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    assert (
        first["confidenceInterval"] == {"lowerBound": "1.1", "upperBound": "1.4"} and "confidenceInterval" not in second
    )
    assert first["slice"] == "base, heldout, n=20 modules, chance 8" and second["slice"] == "quiz"
    llama, before = model["pedigree"]["ancestors"]
    assert (
        llama["hashes"] == [{"alg": "SHA-256", "content": "c" * 64}] and "meta-llama/Llama-2-7b" in llama["description"]
    )
    assert "part of this release" in before["description"]
    assert {"license": {"id": "Apache-2.0"}} in model["licenses"] and {"license": {"name": "llama2"}} in llama[
        "licenses"
    ]
    libraries = [part["name"] for part in value["components"] if part["type"] == "library"]
    assert libraries == ["torch"]  # what is absent is no part, and neither a machine nor a Python is a library
    card = {one["name"]: one["value"] for one in model["modelCard"]["properties"]}
    assert card["puna:energy"] == "energy was not measured" and card["puna:environment:python"] == "3.11.7"
    assert card["puna:gate:loads"] == "passed: yes" and card["puna:contamination"].startswith("0.003 ")
    assert "llama" in model["pedigree"]["notes"]
    assert "random weights" in json.loads(cyclonedx_json(evidence()))["metadata"]["component"]["pedigree"]["notes"]


def test_the_test_text_is_a_part_and_no_training_data() -> None:
    value = json.loads(cyclonedx_json(evidence()))
    names = {part["bom-ref"]: part["name"] for part in value["components"] if part["type"] == "data"}
    told = [names[one["ref"]] for one in value["metadata"]["component"]["modelCard"]["modelParameters"]["datasets"]]
    assert set(names.values()) == {"python", "notes", "talks", "held-out text"} and told == ["python", "notes", "talks"]
    data = {part["name"]: part for part in value["components"] if part["type"] == "data"}
    assert {"name": "puna:read", "value": READ} in data["python"]["data"][0]["contents"]["properties"]
    assert (
        "contents" not in data["notes"]["data"][0]
        and "hashes" not in data["notes"]
        and "size not known" in data["notes"]["description"]
    )


def test_several_shards_have_their_own_digests_and_the_model_none() -> None:
    model = json.loads(cyclonedx_json(evidence(**SHARDED)))["metadata"]["component"]
    assert "hashes" not in model and [one["hashes"][0]["content"][0] for one in model["components"]] == ["1", "2"]


def test_the_same_evidence_gives_the_same_bytes_and_another_gives_another_number() -> None:
    assert cyclonedx_json(evidence()) == cyclonedx_json(evidence())
    one, two = (json.loads(cyclonedx_json(evidence(**changes)))["serialNumber"] for changes in ({}, {"parameters": 1}))
    assert one != two


def test_licences_are_named_as_the_list_has_them() -> None:
    assert spdx_identifier("apache-2.0") == "Apache-2.0" and spdx_identifier("psf-2.0") == "PSF-2.0"
    assert spdx_identifier("llama2") is None and spdx_identifier(None) is None


def test_without_the_library_it_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cyclonedx.model", None)
    with pytest.raises(PunaError) as raised:
        cyclonedx_json(evidence())
    assert "puna[documents]" in raised.value.line()
