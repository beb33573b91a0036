"""An SPDX 3.0.1 document of a model with the AI and Dataset profiles, from evidence.

Comes in: `Evidence`. Goes out: JSON-LD bytes, the same for the same evidence. Must never happen: a field filled with a guess: what is not known is
`noAssertion` where the profile has that word, and absent where it has not.

Made with the SPDX project's own bindings, which are generated from the model's SHACL shapes and refuse what breaks them.
"""

import io
import json
from datetime import UTC, datetime
from typing import Any

from puna.errors import PunaError
from puna.files import digest_of
from puna.ledger.evidence import Evidence

MEND = "pip install 'puna[documents]'"
_NONE = "https://spdx.org/rdf/3.0.1/terms/Licensing/NoAssertion"


def spdx_json(evidence: Evidence) -> bytes:
    """The document as JSON-LD. Raises `PunaError` where the bindings are not installed."""
    try:
        from spdx_python_model import v3_0_1 as spdx
    except ImportError as error:
        raise PunaError("SPDX needs its bindings", where=str(error.name), mend=MEND) from None
    maker = _Maker(spdx, evidence)
    maker.document()
    out = io.BytesIO()
    spdx.JSONLDSerializer().write(maker.objects, out)
    value = json.loads(out.getvalue())
    value["@graph"].sort(key=lambda one: (one.get("type", ""), one.get("spdxId", one.get("@id", ""))))
    return json.dumps(value, indent=2, ensure_ascii=False, sort_keys=True).encode() + b"\n"


class _Maker:
    """Everything of one document; names follow from the evidence's digest."""

    def __init__(self, spdx: Any, evidence: Evidence) -> None:
        self.spdx, self.evidence = spdx, evidence
        self.base = f"urn:puna:{digest_of(evidence.model_dump(mode='json'))[:32]}"
        self.objects = spdx.SHACLObjectSet()
        self.elements: list[Any] = []
        agent = spdx.SoftwareAgent(spdxId=f"{self.base}/puna", name=f"puna {evidence.puna}")
        created = datetime.fromisoformat(evidence.created).astimezone(UTC).replace(microsecond=0)
        self.creation = spdx.CreationInfo(specVersion="3.0.1", created=created)
        self.creation.createdBy.append(agent.spdxId)
        agent.creationInfo = self.creation
        self.objects.add(self.creation)
        self._keep(agent)

    def _keep(self, element: Any) -> Any:
        element.creationInfo = self.creation
        self.objects.add(element)
        self.elements.append(element)
        return element

    def document(self) -> None:
        spdx, evidence = self.spdx, self.evidence
        model = self._model()
        for number, source in enumerate(evidence.sources):
            data = self._keep(spdx.dataset_DatasetPackage(spdxId=f"{self.base}/data-{number}", name=source.name))
            data.dataset_datasetType.append(spdx.dataset_DatasetType.text)
            data.software_primaryPurpose = spdx.software_SoftwarePurpose.data
            data.software_packageVersion = (source.sha256 or "unknown")[:12]
            data.builtTime = data.releaseTime = self.creation.created
            data.originatedBy.append(self.elements[0].spdxId)
            data.software_downloadLocation = "https://spdx.org/rdf/3.0.1/terms/Core/NoAssertion"
            if source.bytes is not None:
                data.dataset_datasetSize = source.bytes
            if source.sha256:
                data.verifiedUsing.append(spdx.Hash(algorithm=spdx.HashAlgorithm.sha256, hashValue=source.sha256))
            self._licensed(data, source.licence)
            self._relate(model, "trainedOn", [data], f"trained-{number}")
        for number, one in enumerate(evidence.ancestors):
            parent = self._keep(self._plain_model(f"{self.base}/ancestor-{number}", one.name))
            if one.sha256:
                parent.verifiedUsing.append(spdx.Hash(algorithm=spdx.HashAlgorithm.sha256, hashValue=one.sha256))
            self._licensed(parent, one.licence)
            self._relate(parent, "ancestorOf", [model], f"ancestor-of-{number}")
        document = spdx.SpdxDocument(spdxId=f"{self.base}/document", name=f"{evidence.name}: bill of materials")
        conforms = ("core", "software", "ai", "dataset", "simpleLicensing")
        document.profileConformance.extend([getattr(spdx.ProfileIdentifierType, name) for name in conforms])
        document.rootElement.append(model.spdxId)
        document.element.extend([element.spdxId for element in self.elements])
        self._keep(document)

    def _plain_model(self, identity: str, name: str) -> Any:
        spdx = self.spdx
        package = spdx.ai_AIPackage(spdxId=identity, name=name)
        package.software_primaryPurpose = spdx.software_SoftwarePurpose.model
        package.software_packageVersion = "unknown"
        package.software_downloadLocation = "https://spdx.org/rdf/3.0.1/terms/Core/NoAssertion"
        package.releaseTime = self.creation.created
        package.suppliedBy = self.elements[0].spdxId
        package.ai_autonomyType = spdx.PresenceType.noAssertion
        package.ai_useSensitivePersonalInformation = spdx.PresenceType.noAssertion
        return package

    def _model(self) -> Any:
        spdx, evidence = self.spdx, self.evidence
        model = self._keep(self._plain_model(f"{self.base}/model", evidence.name))
        model.software_packageVersion = evidence.ledger_head[:12]
        model.summary = evidence.title
        model.ai_domain.append("text generation")
        model.ai_typeOfModel.append(f"transformer decoder, {evidence.architecture}, {evidence.parameters:,} parameters")
        model.ai_informationAboutTraining = _training(evidence)
        model.ai_limitation = " ".join(evidence.limits) or "none stated"
        for key, value in sorted(evidence.shape.items()):
            model.ai_hyperparameter.append(spdx.DictionaryEntry(key=key, value=json.dumps(value)))
        for one in evidence.measures:
            interval = "" if one.low is None else f" (95 %: {one.low:.6g} to {one.high:.6g})"
            model.ai_metric.append(
                spdx.DictionaryEntry(
                    key=f"{one.model} {one.task} {one.metric}".strip(), value=f"{one.value:.6g}{interval}, n={one.n}"
                )
            )
        for file in evidence.weights:
            part = self._keep(spdx.software_File(spdxId=f"{self.base}/file/{file.path}", name=file.path))
            part.verifiedUsing.append(spdx.Hash(algorithm=spdx.HashAlgorithm.sha256, hashValue=file.sha256))
            self._relate(model, "contains", [part], f"contains/{file.path}")
        self._licensed(model, evidence.licence)
        return model

    def _licensed(self, element: Any, named: str | None) -> None:
        """Declared and concluded, one of each, as the AI profile asks; concluded is what the maker's ledger states."""
        spdx = self.spdx
        if named and named != "unstated":
            identity = f"{self.base}/licence/{named.lower()}"
            licence = next((one for one in self.elements if one.spdxId == identity), None)
            if licence is None:
                licence = self._keep(spdx.simplelicensing_LicenseExpression(spdxId=identity))
                licence.simplelicensing_licenseExpression = named
            target = licence.spdxId
        else:
            target = _NONE
        for kind in ("hasDeclaredLicense", "hasConcludedLicense"):
            self._relate(element, kind, [target], f"{kind}/{element.spdxId.rsplit('/', 1)[-1]}")

    def _relate(self, start: Any, kind: str, targets: list[Any], name: str) -> None:
        spdx = self.spdx
        made = spdx.Relationship(
            spdxId=f"{self.base}/relation/{name}",
            from_=start.spdxId,
            relationshipType=getattr(spdx.RelationshipType, kind),
        )
        made.to.extend([one if isinstance(one, str) else one.spdxId for one in targets])
        self._keep(made)


def _training(evidence: Evidence) -> str:
    told = [
        f"{one.name}: {one.tokens:,} tokens in {one.steps:,} steps"
        for one in evidence.training
        if one.tokens and one.steps
    ]
    start = (
        "began with random weights"
        if evidence.from_scratch
        else f"began with {', '.join(one.name for one in evidence.ancestors)}"
    )
    return f"{start}; {'; '.join(told)}; seed commitment {evidence.seed_commitment}; ledger head {evidence.ledger_head}"
