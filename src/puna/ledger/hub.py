"""What a model hub reads of a release: licence and parents for the card's front matter, and `.eval_results` files.

Comes in: names, licences, scores. Goes out: dicts that are written as YAML. Must never happen: a relation to a base that the ledger does not
know, or a score under a data set that it was not measured on.

Keys as the Hugging Face hub documents them (huggingface/hub-docs, `modelcard.md` and `docs/hub/eval-results.md`).
"""

import re
from collections.abc import Sequence
from decimal import Decimal
from typing import Any, Literal

from puna.ledger.evidence import Evidence
from puna.ledger.licences import licence_named

FOLDER = ".eval_results"
Relation = Literal["finetune", "merge", "adapter", "quantized"]
# The identifiers that the hub's `license` field takes and that a build is likely to name; others go under "other".
_LICENCES = frozenset([
    "apache-2.0", "mit", "bsd", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0",
    "cc-by-nc-nd-4.0", "gpl-2.0", "gpl-3.0", "lgpl-3.0", "agpl-3.0", "mpl-2.0", "isc", "unlicense", "zlib", "openrail", "llama2", "llama3", "llama3.1",
    "llama3.2", "llama3.3", "gemma",
])  # fmt: skip


def licence_fields(named: str | None) -> dict[str, str]:
    """`license`; of one that the hub's list has not `license_name` too, and `license_link` where we know its text's place."""
    plain = (named or "").strip()
    if plain.lower() in _LICENCES:
        return {"license": plain.lower()}
    made = {"license": "other", "license_name": re.sub(r"[^a-z0-9.]+", "-", plain.lower()).strip("-") or "unstated"}
    facts = licence_named(plain)
    return made | ({"license_link": facts.source} if facts else {})


def base_fields(names: Sequence[str]) -> dict[str, Any]:
    """`base_model` and `base_model_relation`, of the models that the ledger's entry `base` names; empty where there is none.

    Several were merged before training went on, and the hub knows one relation: "merge". One that was trained further is a "finetune", also
    where the training went through an adapter: what is released are whole weights. A release is never quantised.
    """
    if not names:
        return {}
    relation: Relation = "merge" if len(names) > 1 else "finetune"
    return {"base_model": names[0] if len(names) == 1 else list(names), "base_model_relation": relation}


def eval_result(
    dataset: tuple[str, str], value: float, *, percent: bool, notes: Sequence[str], date: str | None = None, source: dict[str, str] | None = None
) -> dict[str, Any]:  # fmt: skip
    """One entry of an `.eval_results` file. A share of 1 is written in per cent, and the notes say which unit it is."""
    entry: dict[str, Any] = {"dataset": {"id": dataset[0], "task_id": dataset[1]}, "value": scaled(value, percent)}
    if date:
        entry["date"] = date
    if source:
        entry["source"] = source
    entry["notes"] = "; ".join([f"unit: {'percent' if percent else 'points'}", *notes])
    return entry


def scaled(value: float, percent: bool) -> float:
    """A share as a percentage, by decimal arithmetic."""
    return float(Decimal(repr(value)) * 100) if percent else value


def eval_results(evidence: Evidence) -> dict[str, list[dict[str, Any]]]:
    """{file name: entries} of the scores that were measured on a data set of the hub. The others stand in the card: the hub has no place for them."""
    files: dict[str, list[dict[str, Any]]] = {}
    for one in evidence.measures:
        if one.dataset is None:
            continue
        share = one.higher_is_better and 0 <= one.value <= 1
        notes = [f"metric: {one.metric}"] + [f"model: {one.model}" for _ in range(bool(one.model))]
        if one.n is not None:
            notes.append(f"n: {one.n}")
        if one.low is not None and one.high is not None:
            notes.append(f"95 % interval: {scaled(one.low, share):.6g} to {scaled(one.high, share):.6g}")
        name = re.sub(r"[^A-Za-z0-9._-]+", "_", one.task)
        entry = eval_result(
            one.dataset,
            one.value,
            percent=share,
            notes=[*notes, f"measured with puna {evidence.puna}"],
            date=evidence.created,
        )
        files.setdefault(f"{name}.yaml", []).append(entry)
    return files
