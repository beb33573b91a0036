"""A CycloneDX 1.6 bill of materials of a model, from evidence.

Comes in: `Evidence`. Goes out: JSON bytes, the same for the same evidence. Must never happen: a field filled with a guess.

Made with the OWASP project's own library as far as its classes go (components, hashes, licences, pedigree, dependencies); `modelCard` and a
component's `data` have no class in it and are added to the JSON, which a test holds against the library's copy of the public schema.
"""

import json
import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from puna.errors import PunaError
from puna.files import canonical_json, digest_of
from puna.ledger.evidence import Ancestor, Evidence, File, Measure, Source, Training, beginning, energy

if TYPE_CHECKING:
    from cyclonedx.model.component import Component

MEND = "pip install 'puna[documents]'"
_NAMESPACE = uuid.UUID("6d0f3c38-0d4c-5a3e-9a8b-7f0f4b1f6c11")  # of serial numbers: they follow from the content
_NO_LIBRARY = ("python", "machine", "system", "threads")  # keys of an environment that are no package
_PARTS = {
    "training": "text that it was trained on",
    "tuning": "conversations that it was tuned on",
    "testing": "text that it was tested on",
}


def cyclonedx_json(evidence: Evidence) -> bytes:
    """The bill as indented JSON. Raises `PunaError` where the library is not installed."""
    try:
        from cyclonedx.model import Property
        from cyclonedx.model.bom import Bom
        from cyclonedx.model.component import Component, ComponentType, Pedigree
        from cyclonedx.model.tool import Tool
        from cyclonedx.output.json import JsonV1Dot6
    except ImportError as error:
        raise PunaError("CycloneDX needs its library", where=str(error.name), mend=MEND) from None
    model_type = ComponentType.MACHINE_LEARNING_MODEL
    ancestors = [
        Component(name=one.name, type=model_type, bom_ref=f"ancestor-{number}", hashes=_hashes(_sole(one.files)), licenses=_licences(one.licence),
                  components=_files(one.files, f"ancestor-{number}"), description=_relation(one),
                  properties=[Property(name="puna:weights", value=one.digest)] if one.digest else [])
        for number, one in enumerate(evidence.ancestors)
    ]  # fmt: skip
    model = Component(
        name=evidence.name, type=model_type, bom_ref="model", hashes=_hashes(_sole(evidence.weights)), licenses=_licences(evidence.licence),
        description=evidence.title, version=evidence.ledger_head[:12], components=_files(evidence.weights, "model"),
        pedigree=Pedigree(ancestors=ancestors, notes=_pedigree_notes(evidence)),
    )  # fmt: skip
    sources = [
        Component(name=one.name, type=ComponentType.DATA, bom_ref=f"data-{number}", hashes=_hashes(one.sha256), licenses=_licences(one.licence),
                  description=f"{_PARTS[one.part]}, {_amount(one.bytes)}")
        for number, one in enumerate(evidence.sources)
    ]  # fmt: skip
    libraries = [
        Component(name=name, type=ComponentType.LIBRARY, version=version, bom_ref=f"library-{name}")
        for name, version in sorted(evidence.environment.items()) if version != "absent" and name not in _NO_LIBRARY
    ]  # fmt: skip
    bom = Bom(
        serial_number=uuid.uuid5(_NAMESPACE, digest_of(evidence.model_dump(mode="json"))),
        components=[*sources, *libraries],
    )
    bom.metadata.component = model
    bom.metadata.timestamp = datetime.fromisoformat(evidence.created)
    bom.metadata.tools.tools.add(Tool(name="puna", version=evidence.puna))
    bom.register_dependency(model, [*sources, *libraries])
    value = json.loads(JsonV1Dot6(bom).output_as_string())
    value["metadata"]["component"]["modelCard"] = _model_card(evidence)
    for part in value.get("components", []):
        if part["type"] == "data":
            part["data"] = [_data(evidence.sources[int(part["bom-ref"].removeprefix("data-"))])]
    return json.dumps(json.loads(canonical_json(value)), indent=2, ensure_ascii=False).encode() + b"\n"


def spdx_identifier(named: str | None) -> str | None:
    """The SPDX list's identifier of a licence that somebody named, in the list's own letters; None for one that it has not.

    Raises `PunaError` where the library that brings the list is not installed.
    """
    try:
        from cyclonedx.spdx import fixup_id
    except ImportError as error:
        raise PunaError(
            "the list of licences comes with CycloneDX's library", where=str(error.name), mend=MEND
        ) from None
    return fixup_id(named) if named else None


def _licences(named: str | None) -> list[Any]:
    from cyclonedx.model.license import DisjunctiveLicense

    if not named or named == "unstated":
        return []
    known = spdx_identifier(named)
    return [DisjunctiveLicense(id=known) if known else DisjunctiveLicense(name=named)]


def _hashes(digest: str | None) -> list[Any]:
    from cyclonedx.model import HashAlgorithm, HashType

    return [HashType(alg=HashAlgorithm.SHA_256, content=digest)] if digest else []


def _files(files: Sequence[File], of: str) -> "list[Component]":
    from cyclonedx.model.component import Component, ComponentType

    return [
        Component(name=one.path, type=ComponentType.FILE, bom_ref=f"{of}/{one.path}", hashes=_hashes(one.sha256))
        for one in files
    ]


def _sole(files: Sequence[File]) -> str | None:
    """The digest of the weights where they are one file; of several only the parts have digests."""
    weights = [one for one in files if one.path.endswith((".safetensors", ".bin", ".gguf"))]
    return weights[0].sha256 if len(weights) == 1 else None


def _relation(one: Ancestor) -> str:
    told = [one.relation or "relation not known"]
    if one.own:
        told.append("made by the same run, part of this release")
    if one.parents:
        told.append(f"by its own card made from {', '.join(one.parents)}")
    return "; ".join(told)


def _pedigree_notes(evidence: Evidence) -> str:
    return (
        f"{beginning(evidence)} By a ledger of {evidence.ledger_entries} entries; the hash of its last one when this was "
        f"written: {evidence.ledger_head}. It proves the order and integrity of what was logged, not that it is true."
    )


def _data(one: Source) -> dict[str, Any]:
    """A text as CycloneDX's `componentData`; its reference in the model card is the component's own."""
    told = {"files": one.files, "bytes": one.bytes, "read": one.read}
    known = [{"name": f"puna:{key}", "value": str(value)} for key, value in told.items() if value is not None]
    made: dict[str, Any] = {"type": "dataset", "name": one.name, "description": _PARTS[one.part]}
    return made | ({"contents": {"properties": known}} if known else {})


def _model_card(evidence: Evidence) -> dict[str, Any]:
    facts = {
        "parameters": evidence.parameters, "ledger_head": evidence.ledger_head, "seed_commitment": evidence.seed_commitment, "step0": evidence.step0,
        "energy": energy(evidence), "code": evidence.code.digest, "commit": evidence.code.commit, "commit_changed": evidence.code.changed,
        **{f"environment:{name}": evidence.environment.get(name) for name in _NO_LIBRARY},
        **{f"machine:{key}": value for key, value in evidence.machine.items()}, **{f"shape:{key}": value for key, value in evidence.shape.items()},
        **{f"{one.name}:{key}": value for one in evidence.training for key, value in _facts(one).items()},
        **{f"gate:{one.check}": f"{'passed' if one.passed else 'FAILED'}: {one.value}" for one in evidence.gate},
        **{f"preprocessing:{number:02}": told for number, told in enumerate(evidence.preprocessing, start=1)},
        **({"contamination": f"{evidence.contamination.value:.6g} {evidence.contamination.what}"} if evidence.contamination else {}),
    }  # fmt: skip
    card: dict[str, Any] = {
        "modelParameters": {
            "approach": {"type": "self-supervised"}, "task": "text-generation", "architectureFamily": "transformer decoder (LLaMA)",
            "modelArchitecture": evidence.architecture,
            "datasets": [{"ref": f"data-{number}"} for number, one in enumerate(evidence.sources) if one.part != "testing"],
            "inputs": [{"format": "text"}], "outputs": [{"format": "text"}],
        },
        "considerations": {"technicalLimitations": list(evidence.limits)},
        "properties": [{"name": f"puna:{key}", "value": _plain(value)} for key, value in sorted(facts.items()) if value is not None],
    }  # fmt: skip
    if evidence.measures:
        card["quantitativeAnalysis"] = {"performanceMetrics": [_metric(one) for one in evidence.measures]}
    return card


def _metric(one: Measure) -> dict[str, Any]:
    counted = " ".join(part for part in (f"n={one.n}" if one.n else "", one.n_is) if part)
    chance = "" if one.chance is None else f"chance {one.chance:.6g}"
    made: dict[str, Any] = {
        "type": one.metric,
        "value": repr(one.value),
        "slice": ", ".join(part for part in (one.model, one.task, counted, chance) if part),
    }
    if one.low is not None and one.high is not None:
        made["confidenceInterval"] = {"lowerBound": repr(one.low), "upperBound": repr(one.high)}
    return made


def _facts(one: Training) -> dict[str, Any]:
    return {
        "tokens": one.tokens, "steps": one.steps, "seconds": one.seconds, "optimiser": one.optimiser or None, "began_with": one.began_with,
        **one.settings,
    }  # fmt: skip


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _amount(count: int | None) -> str:
    return "size not known" if count is None else f"{count:,} bytes"
