"""An SPDX 3.0.1 document of a model with the AI and Dataset profiles, from evidence.

Comes in: `Evidence`. Goes out: JSON-LD bytes, the same for the same evidence. Must never happen: a field filled with a guess: what is not known is
`noAssertion` where the profile has that word, absent where it may be, and else an element that says that nobody stated it.

Made with the SPDX project's own bindings, which are generated from the model's SHACL shapes and refuse what breaks them.
"""

import io
import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from puna.errors import PunaError
from puna.files import digest_of
from puna.ledger.cyclonedx import MEND, spdx_identifier
from puna.ledger.evidence import Evidence, File, Measure, Source, beginning, energy, trained
from puna.ledger.licences import licence_named

# The model's own individuals for "nothing is said of it" (Core/Individuals, ExpandedLicensing/Individuals).
NO_LICENCE = "https://spdx.org/rdf/3.0.1/terms/ExpandedLicensing/NoAssertionLicense"
_NOWHERE = "https://spdx.org/rdf/3.0.1/terms/Core/NoAssertionElement"
_PARTS = {"training": "trainedOn", "tuning": "trainedOn", "testing": "testedOn"}
_TIMES = "Built: when this build read it, by its ledger. Released: when this record of it was. How old the text itself is, is not known here."


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
        self.licences: dict[str, str] = {}
        self.puna = spdx.SoftwareAgent(spdxId=f"{self.base}/puna", name=f"puna {evidence.puna}")
        self.creation = spdx.CreationInfo(specVersion="3.0.1", created=_time(evidence.created))
        self.creation.createdBy.append(self.puna.spdxId)
        self.objects.add(self.creation)
        self._keep(self.puna)
        # The profiles ask who supplied a model and who made a text; a build does not know it, and says so by these two.
        self.maker = self._keep(
            spdx.Agent(
                spdxId=f"{self.base}/maker",
                name=f"the maker of {evidence.name}",
                comment="Who that is, was not logged.",
            )
        )
        self.nobody = self._keep(
            spdx.Agent(
                spdxId=f"{self.base}/not-stated", name="not stated", comment="Nobody told the build who made this."
            )
        )

    def _keep(self, element: Any) -> Any:
        element.creationInfo = self.creation
        self.objects.add(element)
        self.elements.append(element)
        return element

    def document(self) -> None:
        spdx, evidence = self.spdx, self.evidence
        model = self._model()
        for number, source in enumerate(evidence.sources):
            self._relate(model, _PARTS[source.part], [self._data(number, source)], f"data-{number}")
        for number, one in enumerate(evidence.ancestors):
            identity, package = (
                f"{self.base}/ancestor-{number}",
                spdx.ai_AIPackage if one.own else spdx.software_Package,
            )
            # Of a model from elsewhere the AI profile's required facts (release time, supplier) are not known: a plain package of a model.
            parent = self._keep(package(spdxId=identity, name=one.name, summary=one.relation or None))
            parent.software_primaryPurpose = spdx.software_SoftwarePurpose.model
            parent.software_downloadLocation = _NOWHERE
            if one.own:
                self._as_ai(parent)
            if one.digest:
                parent.comment = (
                    f"SHA-256 over the names and digests of its weights, config and tokenizer, as read: {one.digest}"
                )
            self._contains(parent, one.files, f"ancestor-{number}")
            self._licensed(parent, one.licence, f"ancestor-{number}")
            self._relate(model, "descendantOf", [parent], f"descendant-of-{number}")
        self._relate(self.puna, "generates", [model], "generates")
        document = spdx.SpdxDocument(spdxId=f"{self.base}/document", name=f"{evidence.name}: bill of materials")
        conforms = ("core", "software", "ai", "dataset", "simpleLicensing")
        document.profileConformance.extend([getattr(spdx.ProfileIdentifierType, name) for name in conforms])
        document.rootElement.append(model.spdxId)
        document.element.extend([element.spdxId for element in self.elements])
        self._keep(document)

    def _as_ai(self, package: Any) -> None:
        """What the AI profile asks of every model, and what is known of each of ours."""
        package.software_packageVersion = self.evidence.ledger_head[:12] or "not stated"
        package.releaseTime = self.creation.created
        package.suppliedBy = self.maker.spdxId
        package.ai_autonomyType = self.spdx.PresenceType.noAssertion
        package.ai_useSensitivePersonalInformation = self.spdx.PresenceType.noAssertion

    def _model(self) -> Any:
        spdx, evidence = self.spdx, self.evidence
        model = self._keep(spdx.ai_AIPackage(spdxId=f"{self.base}/model", name=evidence.name, summary=evidence.title))
        model.software_primaryPurpose = spdx.software_SoftwarePurpose.model
        model.software_downloadLocation = _NOWHERE
        self._as_ai(model)
        model.ai_domain.append("text generation")
        model.ai_typeOfModel.append(f"transformer decoder, {evidence.architecture}, {evidence.parameters:,} parameters")
        model.ai_informationAboutTraining = _training(evidence)
        model.ai_limitation = " ".join(evidence.limits) or "none stated"
        model.ai_modelDataPreprocessing.extend(evidence.preprocessing)
        for key, value in sorted({**evidence.shape, **_settings(evidence)}.items()):
            model.ai_hyperparameter.append(spdx.DictionaryEntry(key=key, value=json.dumps(value)))
        for one in evidence.measures:
            model.ai_metric.append(
                spdx.DictionaryEntry(key=f"{one.model} {one.task} {one.metric}".strip(), value=_measured(one))
            )
        if evidence.joules is not None:
            used = spdx.ai_EnergyConsumptionDescription(
                ai_energyQuantity=evidence.joules / 1e6, ai_energyUnit=spdx.ai_EnergyUnitType.megajoule
            )
            model.ai_energyConsumption = spdx.ai_EnergyConsumption()
            model.ai_energyConsumption.ai_trainingEnergyConsumption.append(used)
        self._contains(model, evidence.weights, "model")
        self._licensed(model, evidence.licence, "model")
        return model

    def _data(self, number: int, source: Source) -> Any:
        spdx = self.spdx
        data = self._keep(
            spdx.dataset_DatasetPackage(spdxId=f"{self.base}/data-{number}", name=source.name, comment=_TIMES)
        )
        data.dataset_datasetType.append(spdx.dataset_DatasetType.text)
        data.software_primaryPurpose = spdx.software_SoftwarePurpose.data
        data.software_downloadLocation = _NOWHERE
        data.builtTime, data.releaseTime = _time(source.read or self.evidence.created), self.creation.created
        data.originatedBy.append(self.nobody.spdxId)
        data.dataset_intendedUse = source.part
        data.dataset_hasSensitivePersonalInformation = spdx.PresenceType.noAssertion
        if source.bytes is not None:
            data.dataset_datasetSize = source.bytes
        if source.sha256:
            data.verifiedUsing.append(spdx.Hash(algorithm=spdx.HashAlgorithm.sha256, hashValue=source.sha256))
        self._licensed(data, source.licence, f"data-{number}")
        return data

    def _contains(self, package: Any, files: Sequence[File], name: str) -> None:
        for file in files:
            part = self._keep(self.spdx.software_File(spdxId=f"{package.spdxId}/{quote(file.path)}", name=file.path))
            part.verifiedUsing.append(self.spdx.Hash(algorithm=self.spdx.HashAlgorithm.sha256, hashValue=file.sha256))
            self._relate(package, "contains", [part], f"{name}/contains/{quote(file.path)}")

    def _licensed(self, element: Any, named: str | None, name: str) -> None:
        """Declared and concluded, one of each, as the profiles ask. Nobody has concluded anything here beyond what the maker declares, and the
        concluded one says no more than that: the same licence where one is declared, no assertion where none is."""
        target = self._licence(named)
        for kind in ("hasDeclaredLicense", "hasConcludedLicense"):
            self._relate(element, kind, [target], f"{kind}/{name}")

    def _licence(self, named: str | None) -> str:
        """The element of a licence: a listed one by its identifier; another by a reference to its text, as the expression's grammar asks."""
        if not named or named == "unstated":
            return NO_LICENCE
        if named not in self.licences:
            listed, spdx = spdx_identifier(named), self.spdx
            reference = "LicenseRef-" + (re.sub(r"[^A-Za-z0-9.-]+", "-", named).strip("-") or digest_of(named)[:12])
            identity = f"{self.base}/licence-{len(self.licences)}"
            made = self._keep(
                spdx.simplelicensing_LicenseExpression(
                    spdxId=identity, simplelicensing_licenseExpression=listed or reference
                )
            )
            if listed is None:
                facts = licence_named(named)
                text = f"{facts.title}, {facts.source}" if facts else f"{named} (its text was not given to the build)"
                words = self._keep(
                    spdx.simplelicensing_SimpleLicensingText(
                        spdxId=f"{identity}/text", name=named, simplelicensing_licenseText=text
                    )
                )
                made.simplelicensing_customIdToUri.append(spdx.DictionaryEntry(key=reference, value=words.spdxId))
            self.licences[named] = made.spdxId
        return self.licences[named]

    def _relate(self, start: Any, kind: str, targets: list[Any], name: str) -> None:
        made = self.spdx.Relationship(
            spdxId=f"{self.base}/relation/{name}", from_=start.spdxId, relationshipType=getattr(self.spdx.RelationshipType, kind),
        )  # fmt: skip
        made.to.extend([one if isinstance(one, str) else one.spdxId for one in targets])
        self._keep(made)


def _time(told: str) -> datetime:
    """In UTC to the second, as the model's DateTime asks."""
    return datetime.fromisoformat(told).astimezone(UTC).replace(microsecond=0)


def _settings(evidence: Evidence) -> dict[str, Any]:
    return {f"{one.name}: {key}": value for one in evidence.training for key, value in one.settings.items()}


def _measured(one: Measure) -> str:
    interval = "" if one.low is None or one.high is None else f" (95 %: {one.low:.6g} to {one.high:.6g})"
    counted = "" if one.n is None else f", n={one.n}{f' {one.n_is}' if one.n_is else ''}"
    return f"{one.value:.6g}{interval}{counted}"


def _training(evidence: Evidence) -> str:
    commitment = evidence.seed_commitment or "not logged"
    told = [beginning(evidence), *(f"{trained(one)}." for one in evidence.training)]
    return f"{' '.join(told)} Seed commitment: {commitment}. Head of the ledger: {evidence.ledger_head}. {energy(evidence).capitalize()}."
