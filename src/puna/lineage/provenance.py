"""Layer 5: data and recipe. Weights do not show them; only a ledger that was kept while training can.

Comes in: two opened models. Goes out: `verdict.DataLayer`. Must never happen: data inferred from weights or from answers; a ledger believed that
is broken or speaks of other weights.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from puna.errors import PunaError
from puna.ledger import Entry, Ledger
from puna.lineage.opened import Opened
from puna.lineage.verdict import DataLayer
from puna.visible import clean

_MAX_LEDGER = 64 << 20
_OUTSIDE = (
    "What either was trained on cannot be decided from outside: weights and answers do not show it. A maker who kept a ledger can show the order of"
    " training, and test a suspect against it (puna lineage claim)."
)  # fmt: skip


@dataclass(frozen=True)
class _Record:
    """What a release's ledger says, or why it says nothing."""

    entries: Sequence[Entry] = ()
    why_not: str = ""

    def last(self, kind: str, **same: Any) -> dict[str, Any]:
        """The body of the last entry of a kind (and stage)."""
        for entry in reversed(self.entries):
            body = entry["body"]
            if (
                entry["kind"] == kind
                and isinstance(body, dict)
                and all(body.get(key) == value for key, value in same.items())
            ):
                return dict(body)
        return {}


def compare_data(model: Opened, reference: Opened) -> DataLayer:
    """What the two ledgers say of the text and of a base; without both, that it cannot be decided."""
    ours, theirs = _record(model), _record(reference)
    evidence = [f"{clean(one.name)}: {record.why_not or f'a ledger of {len(record.entries)} entries, its chain whole'}"
                for one, record in ((model, ours), (reference, theirs))]  # fmt: skip
    base = ours.last("base")
    names = [str(name) for name in base.get("names", [])] if isinstance(base.get("names"), list) else []
    if base and reference.digest is not None and base.get("weights") == reference.digest:
        return DataLayer(verdict="derived", evidence=tuple(evidence),
                         sentence=f"The ledger of {clean(model.name)} says that it began with these very weights ({clean(reference.name)}).")  # fmt: skip
    if ours.entries and not theirs.entries:
        said = (
            f"it began with {', '.join(map(clean, names))}"
            if names
            else "it began with random weights and on its own text"
        )
        evidence.append(f"the ledger of {clean(model.name)} says: {said}; the weights above test that")
    if not (ours.entries and theirs.entries):
        return DataLayer(verdict="not decidable from outside", sentence=_OUTSIDE, evidence=tuple(evidence))
    first, second = (
        ours.last("stage", stage="corpus").get("content"),
        theirs.last("stage", stage="corpus").get("content"),
    )
    recipes = ours.last("recipe").get("digest"), theirs.last("recipe").get("digest")
    if first is None or second is None:
        return DataLayer(
            verdict="cannot tell",
            sentence="The ledgers do not name the text that was trained on.",
            evidence=tuple(evidence),
        )
    evidence.append(
        f"the cleaned text's digests are {'equal' if first == second else 'different'}; the recipes' {'equal' if recipes[0] == recipes[1] else 'different'}"
    )
    if first == second:
        return DataLayer(verdict="same", evidence=tuple(evidence),
                         sentence="By their ledgers both were trained on the very same text. That makes them speak alike and shares no weights.")  # fmt: skip
    return DataLayer(verdict="independent", evidence=tuple(evidence),
                     sentence="By their ledgers they were trained on different texts (parts of them may still be common).")  # fmt: skip


def _record(opened: Opened) -> _Record:
    if opened.path is None:
        return _Record(why_not="a model in memory has no ledger")
    folder = opened.path if opened.path.is_dir() else opened.path.parent
    for path in (
        folder / "puna" / "ledger.jsonl",
        folder.parent / "puna" / "ledger.jsonl" if folder.name == "base" else None,
    ):
        if path is not None and path.is_file():
            return _read(path)
    return _Record(why_not="no ledger beside it")


def _read(path: Path) -> _Record:
    try:
        if path.stat().st_size > _MAX_LEDGER:
            return _Record(why_not="its ledger is too large to be read")
        return _Record(Ledger(path).entries())
    except (PunaError, OSError) as error:
        return _Record(
            why_not=f"its ledger is not believed: {error.what[:120] if isinstance(error, PunaError) else 'it cannot be read'}"
        )
