"""SPDX 3.0.1: read back and written again by the project's own bindings, with what its two profiles ask, and nothing invented."""

import io
import json
import os
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from spdx_python_model import load_data
from spdx_python_model import v3_0_1 as spdx
from tests_ledger_evidence import CHILD, LITTLE, READ, evidence

from puna.errors import PunaError
from puna.ledger.spdx import spdx_json

NO_LICENCE = "expandedlicensing_NoAssertionLicense"  # as the context shortens the individual

CASES = {"whole": {}, "child": CHILD, "little": LITTLE, "joules": {"joules": 3.6e6}}
# What the profiles' own pages ask beside the shapes: AI/Classes/AIPackage.md and Dataset/Classes/DatasetPackage.md, "External properties restrictions".
ASKED = {
    "ai_AIPackage": ["suppliedBy", "software_downloadLocation", "software_packageVersion", "software_primaryPurpose", "releaseTime"],
    "dataset_DatasetPackage": ["builtTime", "originatedBy", "releaseTime", "software_downloadLocation", "software_primaryPurpose", "dataset_datasetType"],
}  # fmt: skip


def graph(**changes: Any) -> list[dict[str, Any]]:
    return json.loads(spdx_json(evidence(**changes)))["@graph"]


def of(elements: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [one for one in elements if one["type"] == kind]


def check(value: Any) -> None:
    """Raises where the document breaks a shape: reading looks at names, types and words, writing at what must be there and how often."""
    _, found = load_data(value)
    spdx.JSONLDSerializer().write(found, io.BytesIO())


@cache
def validator(kind: str) -> Draft202012Validator:
    """Of one class, as the schema's list of all classes would come to it: to try each of sixty on each element takes a minute."""
    told = os.environ.get("PUNA_SPDX_SCHEMA")
    if told is None:
        pytest.skip("PUNA_SPDX_SCHEMA does not name spdx-json-schema.json of SPDX 3.0.1, which no package carries")
    schema = json.loads(Path(told).read_text(encoding="utf-8"))
    assert {"$ref": f"#/$defs/{kind}"} in schema["$defs"]["AnyClass"]["anyOf"]
    return Draft202012Validator({"$ref": f"#/$defs/{kind}", "unevaluatedProperties": False, "$defs": schema["$defs"]})


@pytest.mark.parametrize("changes", CASES.values(), ids=CASES)
def test_it_is_valid_by_the_json_schema(changes: dict) -> None:
    value = json.loads(spdx_json(evidence(**changes)))
    assert (
        set(value) == {"@context", "@graph"} and value["@context"] == "https://spdx.org/rdf/3.0.1/spdx-context.jsonld"
    )
    seen = set()
    for one in value["@graph"]:
        small = {
            key: part[:2] if key == "element" else part for key, part in one.items()
        }  # of a long list two are as good as all
        assert [error.message for error in validator(one["type"]).iter_errors(small)] == []
        if one["type"] not in seen:
            seen.add(one["type"])
            assert not validator(one["type"]).is_valid({**small, "wonder": 1}), "the schema refuses nothing"


@pytest.mark.parametrize("changes", CASES.values(), ids=CASES)
def test_it_keeps_to_the_models_shapes(changes: dict) -> None:
    check(json.loads(spdx_json(evidence(**changes))))


@pytest.mark.parametrize(
    ("kind", "change"),
    [("ai_AIPackage", {"ai_autonomyType": "perhaps"}), ("ai_AIPackage", {"wonder": 1}), ("ai_AIPackage", {"releaseTime": "today"}), ("ai_AIPackage", {"creationInfo": None}),
     ("Relationship", {"to": None}), ("Relationship", {"relationshipType": None}), ("dataset_DatasetPackage", {"dataset_datasetType": None}),
     ("Hash", {"algorithm": "sha0"}), ("CreationInfo", {"createdBy": None})],
)  # fmt: skip
def test_the_check_itself_refuses_what_breaks_them(kind: str, change: dict[str, Any]) -> None:
    value = json.loads(spdx_json(evidence()))
    element = next(one for one in value["@graph"] if one["type"] == ("ai_AIPackage" if kind == "Hash" else kind))
    if kind == "Hash":
        element = next(part for one in value["@graph"] for part in one.get("verifiedUsing", []))
    element.update(change)
    for key in [key for key, told in change.items() if told is None]:
        del element[key]
    with pytest.raises((ValueError, KeyError, TypeError)):
        check(value)


@pytest.mark.parametrize("changes", CASES.values(), ids=CASES)
def test_it_has_what_the_two_profiles_ask(changes: dict) -> None:
    elements = graph(**changes)
    identities = {one.get("spdxId") for one in elements}
    for kind, keys in ASKED.items():
        for one in of(elements, kind):
            assert [key for key in keys if not one.get(key)] == [], one["name"]
            for relation in ("hasDeclaredLicense", "hasConcludedLicense"):
                assert (
                    sum(
                        r["relationshipType"] == relation and r["from"] == one["spdxId"]
                        for r in of(elements, "Relationship")
                    )
                    == 1
                )
    for relation in of(elements, "Relationship"):  # nothing points into the void
        assert {relation["from"], *relation["to"]} - {NO_LICENCE} <= identities


def test_the_relations_say_what_was_done() -> None:
    elements = graph(**CHILD)
    names = {one["spdxId"]: one["name"] for one in elements if "name" in one}
    found = [
        (names[r["from"]], r["relationshipType"], names[r["to"][0]])
        for r in of(elements, "Relationship")
        if r["to"][0] in names
    ]
    for relation in [("mine", "trainedOn", "python"), ("mine", "trainedOn", "talks"), ("mine", "testedOn", "held-out text"), ("mine", "descendantOf", "llama"),
                     ("mine", "descendantOf", "mine, before tuning"), ("puna 0.1.0", "generates", "mine"), ("mine", "contains", "model.safetensors")]:  # fmt: skip
        assert relation in found
    assert not [one for one in found if one[1] == "descendantOf" and one[2] == "python"]


def test_what_is_not_known_is_not_told() -> None:
    elements = graph(**CHILD)
    (llama,) = of(elements, "software_Package")  # no AI package: its release and its supplier are not known
    assert not {"releaseTime", "suppliedBy", "builtTime", "software_packageVersion"} & set(llama)
    data = {one["name"]: one for one in of(elements, "dataset_DatasetPackage")}
    assert data["python"]["builtTime"] == READ[:19] + "Z" and "How old the text itself is" in data["python"]["comment"]
    assert "dataset_datasetSize" not in data["notes"] and "verifiedUsing" not in data["notes"]
    agents = {one["spdxId"]: one["name"] for one in of(elements, "Agent")}
    assert [agents[one] for one in data["python"]["originatedBy"]] == ["not stated"]
    (model,) = of(graph(**LITTLE), "ai_AIPackage")
    assert (
        "ai_metric" not in model
        and "Energy was not measured" in model["ai_informationAboutTraining"]
        and "ai_energyConsumption" not in model
    )
    assert "None" not in json.dumps(graph(**LITTLE))


def test_measured_energy_and_scores_are_told() -> None:
    model = next(one for one in graph(joules=3.6e6) if one.get("name") == "mine" and one["type"] == "ai_AIPackage")
    (used,) = model["ai_energyConsumption"]["ai_trainingEnergyConsumption"]
    assert float(used["ai_energyQuantity"]) == 3.6 and used["ai_energyUnit"] == "megajoule"
    assert {
        "type": "DictionaryEntry",
        "key": "base heldout bits_per_byte",
        "value": "1.25 (95 %: 1.1 to 1.4), n=20 modules",
    } in model["ai_metric"]


def test_licences_are_expressions_by_the_grammar() -> None:
    elements = graph(**CHILD)
    told = {one["simplelicensing_licenseExpression"]: one for one in of(elements, "simplelicensing_LicenseExpression")}
    assert set(told) == {"Apache-2.0", "PSF-2.0", "LicenseRef-Our-own-terms", "LicenseRef-llama2"}
    (entry,) = told["LicenseRef-llama2"]["simplelicensing_customIdToUri"]
    (text,) = [one for one in elements if one.get("spdxId") == entry["value"]]
    assert "Llama 2 Community License Agreement" in text["simplelicensing_licenseText"]
    of_model = [
        r["to"]
        for r in of(graph(licence=None), "Relationship")
        if r["relationshipType"] == "hasDeclaredLicense" and r["from"].endswith("/model")
    ]
    assert of_model == [[NO_LICENCE]]


def test_the_same_evidence_gives_the_same_bytes_and_another_gives_other_names() -> None:
    assert spdx_json(evidence()) == spdx_json(evidence())
    names = [{one["spdxId"] for one in graph(**changes) if "spdxId" in one} for changes in ({}, {"parameters": 1})]
    assert not names[0] & names[1]


def test_without_the_bindings_it_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "spdx_python_model", None)
    with pytest.raises(PunaError) as raised:
        spdx_json(evidence())
    assert "puna[documents]" in raised.value.line()
