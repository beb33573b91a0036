"""How often each test errs, as the zoo measured it: false positives on strangers, power on descendants.

Comes in: `calibration.json`, written by `./puna bench lineage_zoo`. Goes out: rates beside each p-value. Must never happen: a rate from
models of another kind shown as if it were of these: `of` says on what it was measured.
"""

from functools import cache
from pathlib import Path

from puna.files import read_json
from puna.lineage.verdict import Rate, Weights

_FILE = Path(__file__).with_name("calibration.json")


@cache
def rates() -> dict[str, dict[str, Rate]]:
    """Test name -> {"false_positives": Rate, "power": Rate}; empty where no zoo was measured."""
    if not _FILE.is_file():
        return {}
    return {
        name: {key: Rate.model_validate(value) for key, value in found.items()}
        for name, found in read_json(_FILE)["tests"].items()
    }


def with_rates(weights: Weights) -> Weights:
    """The same, with the zoo's rates beside each test that ran."""
    known = rates()
    tests = tuple(
        test.model_copy(update={"false_positives": known[test.name].get("false_positives"), "power": known[test.name].get("power")})
        if test.ran and test.name in known else test
        for test in weights.tests
    )  # fmt: skip
    return weights.model_copy(update={"tests": tests})
