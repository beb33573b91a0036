"""What a hub reads: licence, parents, results; none of it without evidence."""

import pytest
from tests_ledger_evidence import evidence

from puna.ledger.evidence import Measure
from puna.ledger.hub import base_fields, eval_results, licence_fields


def test_licences_in_the_hubs_words() -> None:
    assert licence_fields("Apache-2.0") == {"license": "apache-2.0"} and licence_fields("llama2") == {
        "license": "llama2"
    }
    assert licence_fields("PSF-2.0") == {
        "license": "other",
        "license_name": "psf-2.0",
        "license_link": "https://docs.python.org/3/license.html",
    }
    assert licence_fields(None) == {"license": "other", "license_name": "unstated"}
    assert licence_fields('a"\n---') == {"license": "other", "license_name": "a"}


def test_parents_by_the_ledger() -> None:
    assert base_fields([]) == {}
    assert base_fields(["a"]) == {"base_model": "a", "base_model_relation": "finetune"}
    assert base_fields(["a", "b"]) == {"base_model": ["a", "b"], "base_model_relation": "merge"}


def test_only_what_was_measured_on_a_data_set_of_the_hub_goes_there() -> None:
    assert eval_results(evidence()) == {}
    arc = Measure(
        task="arc_challenge",
        metric="acc_norm",
        value=0.29,
        low=0.25,
        high=0.33,
        n=100,
        model="chat",
        dataset=("allenai/ai2_arc", "arc_challenge"),
    )
    ((name, (entry,)),) = eval_results(evidence(measures=(*evidence().measures, arc))).items()
    assert name == "arc_challenge.yaml" and entry["dataset"] == {"id": "allenai/ai2_arc", "task_id": "arc_challenge"}
    assert entry["value"] == pytest.approx(29.0) and entry["date"] == evidence().created
    assert (
        entry["notes"]
        == "unit: percent; metric: acc_norm; model: chat; n: 100; 95 % interval: 25 to 33; measured with puna 0.1.0"
    )
