"""Layer 5: data and recipe. Weights do not show them; only a ledger that was kept while training can.

Comes in: two opened models. Goes out: `verdict.DataLayer`. Must never happen: data inferred from weights or from answers; a ledger believed that
is broken or speaks of other weights.

A ledger proves order and integrity of what was logged, not that it is true: so every verdict here is "by their ledgers", and says so.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from puna.ledger.logged import Logged, content_of, read_logged, record_of
from puna.lineage.opened import Opened
from puna.lineage.verdict import DataLayer
from puna.visible import clean

CORPUS = "corpus"  # the stage that gives the cleaned text
_OUTSIDE = (
    "What {who} trained on cannot be decided from outside: weights and answers do not show it. A maker who kept a ledger can show it: the sources"
    " and the recipe, logged while the model was made (puna verify), and whether a suspect was made from it, by the order of training"
    " (puna lineage claim)."
)  # fmt: skip
_TRUE = "A ledger shows that this was logged and when in the order of things, not that it is true."
_MOST_SHOWN = 6


@dataclass(frozen=True)
class Record:
    """What a model's own ledger says of it. `why_not`: why it says nothing."""

    name: str
    logged: Logged = field(default_factory=Logged)
    content: str = ""  # of the model's files, where they were read
    why_not: str = ""

    @property
    def corpus(self) -> str | None:
        """The digest of the cleaned text that went into the model."""
        stages = self.logged.before(self.content)
        return next((content for content, stage in stages.items() if stage == CORPUS), None)

    @property
    def sources(self) -> dict[str, Mapping[str, Any]]:
        """{digest: source} of all text that was read for it."""
        found: dict[str, Mapping[str, Any]] = {}
        for entry in self.logged.entries:
            listed = (
                entry["body"].get("sources") if entry["kind"] == "sources" and isinstance(entry["body"], dict) else None
            )
            for one in listed if isinstance(listed, list) else []:
                if isinstance(one, dict) and isinstance(one.get("digest"), str):
                    found[one["digest"]] = one
        return found

    @property
    def base(self) -> Mapping[str, Any]:
        """The entry of the model that it began with; empty where it began with random weights."""
        return self.logged.body("base")

    @property
    def recipe(self) -> str | None:
        """The digest of the recipe without its seed."""
        digest = self.logged.body("recipe").get("digest")
        return digest if isinstance(digest, str) else None


def compare_data(model: Opened, reference: Opened) -> DataLayer:
    """What the ledgers say of text and base.

    derived: MODEL's ledger names REFERENCE as what it began with, or holds it among what it was made from. same: both were trained on the very
    same cleaned text. independent: no source of the one is a source of the other. cannot tell: some are. Without both ledgers, and
    without a base that names REFERENCE: not decidable from outside.
    """
    ours, theirs = record(model), record(reference)
    made = made_from(model, reference)
    evidence = [line for one in (ours, theirs) for line in _said(one)]
    name, other = clean(ours.name), clean(theirs.name)
    if made:
        return _layer(
            "derived",
            f"By its ledger {name} was made from {other}: that very model is among its inputs, and its text with it. {_TRUE}",
            evidence,
        )
    how = _names(ours.base, reference)
    if how:
        return _layer(
            "derived",
            f"By its ledger {name} began with {other} ({how}): it has that model's text behind it, and its own. {_TRUE}",
            evidence,
        )
    if ours.content and ours.content != theirs.content and ours.content in theirs.logged.before(theirs.content):
        evidence.append(f"by its ledger {other} was made from {name}, not the other way round")
    known = [one for one in (ours, theirs) if not one.why_not]
    if len(known) < 2:
        who = f"{clean((ours if ours.why_not else theirs).name)} was" if known else "they were"
        return _layer("not decidable from outside", _OUTSIDE.format(who=who), evidence)
    first, second = ours.corpus, theirs.corpus
    if first is not None and first == second:
        same = ours.recipe is not None and ours.recipe == theirs.recipe
        recipe = " and by the same recipe" if same else ""
        return _layer("same", f"By their ledgers both were trained on the very same text{recipe}. That makes two models speak alike and shares no weights."
                      f" {_TRUE}", evidence)  # fmt: skip
    mine, yours = ours.sources, theirs.sources
    if not mine or not yours:
        return _layer("cannot tell", "The ledgers do not name all text that was trained on.", evidence)
    both = [one for digest, one in mine.items() if digest in yours]
    if both:
        listed = ", ".join(clean(str(one.get("name")))[:60] for one in both[:_MOST_SHOWN])
        evidence.append(f"sources in both ledgers: {listed}")
        return _layer("cannot tell", f"By their ledgers {len(both)} of {len(mine)} sources of {name} were read for {other} too, and the texts made of them"
                      f" differ. {_TRUE}", evidence)  # fmt: skip
    return _layer("independent", f"By their ledgers no source of {name} is one of {other}: {len(mine)} and {len(yours)}, by digest. Different files may still"
                  f" hold like text. {_TRUE}", evidence)  # fmt: skip


def _layer(verdict: Any, sentence: str, evidence: list[str]) -> DataLayer:
    return DataLayer(verdict=verdict, sentence=sentence, evidence=tuple(evidence))


def made_from(model: Opened, reference: Opened) -> bool:
    """Whether MODEL's ledger, where it is believed, holds these very files of REFERENCE's among what MODEL was made from."""
    ours, theirs = record(model), record(reference)
    if ours.why_not or reference.path is None or not reference.path.is_dir():
        return False
    content = theirs.content or content_of(reference.path)
    return content != ours.content and content in ours.logged.before(ours.content)


def record(opened: Opened) -> Record:
    """The model's own ledger where it is believed: its chain holds and one of its training stages ended with these files."""
    kept = opened.checkpoint.kept  # reading every byte of a model is done once
    if "ledger" not in kept:
        kept["ledger"] = _read(opened)
    found: Record = kept["ledger"]
    return found


def _read(opened: Opened) -> Record:
    if opened.path is None:
        return Record(opened.name, why_not="a model in memory has no ledger")
    folder, _ = record_of(opened.path)
    if folder is None:
        return Record(opened.name, why_not="no ledger lies beside it")
    content = content_of(opened.path)
    logged = read_logged(folder / "ledger.jsonl", opened.path, content)
    if logged.broken:
        return Record(opened.name, content=content, why_not=f"its ledger is not believed: {logged.broken}")
    return Record(opened.name, logged, content)


def _names(base: Mapping[str, Any], reference: Opened) -> str:
    """How a ledger's base names REFERENCE: by digest, by name, or "" for not at all."""
    if reference.digest is not None and base.get("weights") == reference.digest:
        return "by the digest of its weights"
    names = base.get("names")
    if isinstance(names, list) and any(_last(str(one)) == _last(reference.name) for one in names):
        return "by name; the digests were not compared"
    return ""


def _last(name: str) -> str:
    return name.rstrip("/").rsplit("/", 1)[-1].lower()


def _said(record: Record) -> list[str]:
    name = clean(record.name)
    if record.why_not:
        return [f"{name}: {clean(record.why_not)}"]
    names = record.base.get("names")
    began = (
        ", ".join(clean(str(one))[:60] for one in names[:_MOST_SHOWN])
        if isinstance(names, list) and names
        else "random weights"
    )
    lines = [
        f"{name}: a ledger of {len(record.logged.entries)} entries, its chain whole, its last training stage these files; it began with {began}"
    ]
    for digest, one in list(record.sources.items())[:_MOST_SHOWN]:
        size = one.get("bytes")
        told = f", {size:,} bytes" if isinstance(size, int) else ""
        lines.append(
            f"{name}: read {clean(str(one.get('name')))[:60]} ({clean(str(one.get('licence')))[:40]}{told}, sha256 {clean(digest)[:12]})"
        )
    return lines
