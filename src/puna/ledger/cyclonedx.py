"""A CycloneDX 1.6 bill of materials of a model, from evidence.

Comes in: `Evidence`. Goes out: JSON bytes, the same for the same evidence. Must never happen: a field filled with a guess.

Made with the OWASP project's own library as far as its classes go (components, hashes, licences, pedigree, dependencies); the `modelCard` has
no class in it and is added to the JSON, which a test holds against the library's copy of the public schema.
"""

import json
import uuid
from datetime import datetime
from typing import TYPE_CHECKING, Any

from puna.errors import PunaError
from puna.files import canonical_json, digest_of
from puna.ledger.evidence import Evidence, Measure

if TYPE_CHECKING:
    from cyclonedx.model.component import Component

MEND = "pip install 'puna[documents]'"
_NAMESPACE = uuid.UUID("6d0f3c38-0d4c-5a3e-9a8b-7f0f4b1f6c11")  # of serial numbers: they follow from the content
_SPDX_IDS = {
    "apache-2.0": "Apache-2.0", "mit": "MIT", "bsd-3-clause": "BSD-3-Clause", "bsd-2-clause": "BSD-2-Clause", "cc0-1.0": "CC0-1.0",
    "cc-by-4.0": "CC-BY-4.0", "cc-by-sa-4.0": "CC-BY-SA-4.0", "cc-by-nc-4.0": "CC-BY-NC-4.0", "cc-by-nc-sa-4.0": "CC-BY-NC-SA-4.0",
    "psf-2.0": "PSF-2.0", "gpl-3.0": "GPL-3.0-only", "agpl-3.0": "AGPL-3.0-only", "unlicense": "Unlicense", "isc": "ISC", "zlib": "Zlib",
    "mpl-2.0": "MPL-2.0",
}  # fmt: skip


def cyclonedx_json(evidence: Evidence) -> bytes:
    """The bill as indented JSON. Raises `PunaError` where the library is not installed."""
    try:
        from cyclonedx.model import HashAlgorithm, HashType
        from cyclonedx.model.bom import Bom
        from cyclonedx.model.component import Component, ComponentType, Pedigree
        from cyclonedx.model.tool import Tool
        from cyclonedx.output.json import JsonV1Dot6
    except ImportError as error:
        raise PunaError("CycloneDX needs its library", where=str(error.name), mend=MEND) from None

    def component(
        name: str, kind: ComponentType, ref: str, digest: str | None, licence: str | None, **more: Any
    ) -> "Component":
        hashes = [HashType(alg=HashAlgorithm.SHA_256, content=digest)] if digest else []
        return Component(name=name, type=kind, bom_ref=ref, hashes=hashes, licenses=_licences(licence), **more)

    ancestors = [component(one.name, ComponentType.MACHINE_LEARNING_MODEL, f"ancestor-{number}", one.sha256, one.licence, description=one.relation or None)
                 for number, one in enumerate(evidence.ancestors)]  # fmt: skip
    weights = next((one.sha256 for one in evidence.weights if one.path.endswith(".safetensors")), None)
    model = component(
        evidence.name, ComponentType.MACHINE_LEARNING_MODEL, "model", weights, evidence.licence, description=evidence.title, version=evidence.ledger_head[:12],
        pedigree=Pedigree(ancestors=ancestors, notes=_pedigree_notes(evidence)),
    )  # fmt: skip
    sources = [component(one.name, ComponentType.DATA, f"data-{number}", one.sha256, one.licence, description=f"{one.part} text, {_amount(one.bytes)}")
               for number, one in enumerate(evidence.sources)]  # fmt: skip
    libraries = [Component(name=name, type=ComponentType.LIBRARY, version=version, bom_ref=f"library-{name}")
                 for name, version in sorted(evidence.environment.items()) if version != "absent"]  # fmt: skip
    bom = Bom(
        serial_number=uuid.uuid5(_NAMESPACE, digest_of(evidence.model_dump(mode="json"))), components=[*sources, *libraries],
    )  # fmt: skip
    bom.metadata.component = model
    bom.metadata.timestamp = datetime.fromisoformat(evidence.created)
    bom.metadata.tools.tools.add(Tool(name="puna", version=evidence.puna))
    bom.register_dependency(model, sources)
    value = json.loads(JsonV1Dot6(bom).output_as_string())
    value["metadata"]["component"]["modelCard"] = _model_card(evidence)
    return json.dumps(json.loads(canonical_json(value)), indent=2, ensure_ascii=False).encode() + b"\n"


def _licences(named: str | None) -> list[Any]:
    from cyclonedx.model.license import DisjunctiveLicense

    if not named or named == "unstated":
        return []
    known = _SPDX_IDS.get(named.lower())
    return [DisjunctiveLicense(id=known) if known else DisjunctiveLicense(name=named)]


def _pedigree_notes(evidence: Evidence) -> str:
    if evidence.from_scratch:
        start = f"Began with random weights (digest of step 0: {evidence.step0 or 'not logged'})."
    else:
        start = f"Began with {', '.join(one.name for one in evidence.ancestors)}."
    return f"{start} By a ledger of {evidence.ledger_entries} entries; the hash of its last one when this was written: {evidence.ledger_head}."


def _model_card(evidence: Evidence) -> dict[str, Any]:
    card: dict[str, Any] = {
        "modelParameters": {
            "approach": {"type": "self-supervised"}, "task": "text-generation", "architectureFamily": "transformer decoder (LLaMA)",
            "modelArchitecture": evidence.architecture,
            "datasets": [{"ref": f"data-{number}"} for number in range(len(evidence.sources))],
            "inputs": [{"format": "text"}], "outputs": [{"format": "text"}],
        },
        "considerations": {"technicalLimitations": list(evidence.limits)},
        "properties": [{"name": f"puna:shape:{key}", "value": json.dumps(value)} for key, value in sorted(evidence.shape.items())]
        + [{"name": f"puna:{one.name}:{key}", "value": json.dumps(value)} for one in evidence.training for key, value in sorted(_facts(one).items())]
        + [{"name": "puna:parameters", "value": str(evidence.parameters)}, {"name": "puna:ledger_head", "value": evidence.ledger_head}]
        + ([{"name": "puna:seed_commitment", "value": evidence.seed_commitment}] if evidence.seed_commitment else []),
    }  # fmt: skip
    if evidence.measures:
        card["quantitativeAnalysis"] = {"performanceMetrics": [_metric(one) for one in evidence.measures]}
    return card


def _metric(one: Measure) -> dict[str, Any]:
    made: dict[str, Any] = {
        "type": one.metric,
        "value": repr(one.value),
        "slice": " ".join(part for part in (one.model, one.task, f"n={one.n}" if one.n else "") if part),
    }
    if one.low is not None and one.high is not None:
        made["confidenceInterval"] = {"lowerBound": repr(one.low), "upperBound": repr(one.high)}
    return made


def _facts(one: Any) -> dict[str, Any]:
    return {
        key: value
        for key, value in {"tokens": one.tokens, "steps": one.steps, **one.settings}.items()
        if value is not None
    }


def _amount(count: int | None) -> str:
    return "size not known" if count is None else f"{count:,} bytes"
