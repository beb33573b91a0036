"""Layer 6: the chain of parents and what each one's licence asks of MODEL.

Comes in: two opened models, and whether the weights were inherited. Goes out: `verdict.Licence`. Must never happen: an obligation said to follow
from a shared architecture, or this taken for legal advice.
"""

from pathlib import Path

from puna.card import Card, read_card, read_gguf_card
from puna.ledger.licences import NOT_ADVICE, licence_named, licence_of_text, look_at
from puna.lineage.opened import Opened
from puna.lineage.verdict import Licence, LicenceLink, Obligation
from puna.model.formats import model_file
from puna.visible import clean


def compare_licences(model: Opened, reference: Opened, inherited: bool | None) -> Licence:
    """`inherited`: what the weights say; None: they cannot tell. REFERENCE's own parents stand in the chain too, as its card names them."""
    link, own = _link(reference, _card(reference)), _link(model, _card(model))
    facts = licence_named(link.licence)
    parents = tuple(
        LicenceLink(model=name, licence=None, stated_by=f"{reference.name}'s model card")
        for name in _card(reference).parents
    )
    chain = (own, link, *parents)
    told = [
        f"{one.model}: {one.title or one.licence or 'no licence known'}{f' ({one.stated_by})' if one.stated_by else ''}"
        for one in chain
    ]
    if inherited is False:
        return Licence(
            verdict="independent", chain=chain, evidence=(*told, NOT_ADVICE),
            sentence=f"Nothing that {clean(reference.name)}'s licence asks follows for {clean(model.name)}: a licence covers the weights and files that it "
            "comes with, and none of these were found here. An architecture is not licensed.",
        )  # fmt: skip
    if facts is None:
        what = (
            "states no licence"
            if link.licence is None
            else f"states {clean(link.licence)!r}, which our table does not hold"
        )
        return Licence(
            verdict="cannot tell",
            chain=chain,
            evidence=(*told, NOT_ADVICE),
            sentence=f"{clean(reference.name)} {what}: ask its maker.",
        )
    found = look_at(facts, _folder(model), model.name, own.licence)
    obligations = tuple(
        Obligation(licence=facts.ids[0], clause=one.asked.clause, asks=one.asked.asks, kept=one.kept, how=one.how)
        for one in found
    )
    failing = [one for one in obligations if one.kept is False]
    lines = [
        f"{'kept' if one.kept else 'NOT KEPT' if one.kept is False else 'cannot be seen'}: {one.asks}{f' ({one.clause})' if one.clause else ''}; {one.how}"
        for one in obligations
    ]
    unread = (
        ()
        if facts.checked
        else (f"the clauses of {facts.title} are from common knowledge and were not read again: see {facts.source}",)
    )
    if inherited is None:
        sentence = f"If {clean(model.name)} does stem from {clean(reference.name)}, {facts.title} asks the following; the weights do not tell whether it does."
        verdict = "cannot tell"
    else:
        count = len(failing)
        seen = (
            f"{count} of its {len(obligations)} obligations {'is' if count == 1 else 'are'} not kept: {'; '.join(one.asks for one in failing)}"
            if failing
            else ("of what files can show, nothing is missing")
        )
        sentence = f"The weights are inherited, so {facts.title} binds {clean(model.name)}: {seen}."
        verdict = "same" if own.licence is not None and own.licence.lower() in facts.ids else "derived"
    return Licence(
        verdict=verdict,
        chain=chain,
        obligations=obligations,
        evidence=(*told, *lines, *unread, NOT_ADVICE),
        sentence=sentence,
    )


def _link(opened: Opened, card: Card) -> LicenceLink:
    """The model's licence: as its card or file says, else known by the text beside it."""
    licence, by = card.licence, "its model card" if card.licence else ""
    folder = _folder(opened)
    if licence is None and folder is not None and (known := licence_of_text(folder)) is not None:
        licence, by = known[0], f"its file {known[1]}"
    facts = licence_named(licence)
    return LicenceLink(
        model=opened.name,
        licence=licence,
        title=facts.title if facts else "",
        source=facts.source if facts else "",
        stated_by=by,
    )


def _card(opened: Opened) -> Card:
    if opened.path is None:
        return Card()
    file = model_file(opened.path) if opened.path.exists() else None
    if file is not None:
        return read_gguf_card(file) if file.suffix.lower() == ".gguf" else read_card(file.parent)
    return read_card(opened.path)


def _folder(opened: Opened) -> Path | None:
    if opened.path is None:
        return None
    return opened.path if opened.path.is_dir() else opened.path.parent
