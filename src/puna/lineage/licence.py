"""Layer 6: the chain of parents and what each one's licence asks of MODEL.

Comes in: two opened models, and whether the weights were inherited. Goes out: `verdict.Licence`. Must never happen: an obligation said to follow
from a shared architecture, or this taken for legal advice.

A licence covers what it came with (the Llama agreements: the "Llama Materials", weights and documentation). So it is the weights layer that says
whether REFERENCE's licence binds MODEL; what files can show of each obligation is looked at here, and the rest is said not to be seen.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from puna.card import Card, read_card, read_gguf_card
from puna.errors import PunaError
from puna.ledger.licences import (
    NOT_ADVICE,
    UNREAD,
    Kept,
    LicenceFacts,
    Shown,
    kept_counts,
    licence_named,
    licence_of_repository,
    licences_in,
    look_at,
    read_texts,
    stated_in_files,
    table_version,
)  # fmt: skip
from puna.lineage.opened import Opened
from puna.lineage.provenance import made_from, record
from puna.lineage.verdict import Licence, LicenceLink, Obligation, Verdict
from puna.model.formats import model_file
from puna.visible import clean

_UNSTATED = (None, "unstated", "unknown", "other")
_MOST_NAMED = 4


@dataclass(frozen=True)
class _Side:
    """A model's licence as it states it, where, and all that it shows."""

    shown: Shown
    by: str = ""
    parents: tuple[str, ...] = ()
    parents_by: str = ""
    notes: tuple[str, ...] = ()

    @property
    def facts(self) -> LicenceFacts | None:
        return licence_named(self.shown.stated)

    def link(self) -> LicenceLink:
        facts = self.facts
        return LicenceLink(model=self.shown.name, licence=self.shown.stated, title=facts.title if facts else "",
                           source=facts.source if facts else "", stated_by=self.by)  # fmt: skip


def compare_licences(model: Opened, reference: Opened, inherited: bool | None) -> Licence:
    """The chain (MODEL, REFERENCE, REFERENCE's own parents) and the obligations that come down it.

    `inherited`: what the weights say of MODEL and REFERENCE; None: they cannot tell. Verdicts: same, bound by the licence that it states
    itself; derived, bound by another one; independent, not bound; cannot tell.
    """
    own, theirs = _side(model), _side(reference)
    above = [_named(name, theirs.parents_by) for name in theirs.parents]
    chain = (own.link(), theirs.link(), *above)
    by_licence = {
        facts.ids[0]: (link, facts)
        for link in reversed(chain[1:])
        if (facts := licence_named(link.licence)) is not None
    }
    binding = list(reversed(by_licence.values()))  # each licence once, by the first that came with it
    looked = [(link, facts, one) for link, facts in binding for one in look_at(facts, own.shown)]
    evidence = [_told(link) for link in chain] + [
        *own.notes,
        *theirs.notes,
        *_contradictions(model, reference, own, theirs, inherited),
    ]
    end = (f"table of licences: {table_version()}", NOT_ADVICE)
    if inherited is False:
        why = f"does not apply: no weights of {clean(reference.name)}'s were found in it"
        return Licence(
            verdict="independent", chain=chain, sentence=_not_bound(model, reference, theirs.facts),
            obligations=tuple(_obligation(facts, Kept(one.asked, None, why)) for _, facts, one in looked), evidence=(*evidence, *_outputs(binding), *end),
        )  # fmt: skip
    obligations = tuple(_obligation(facts, one) for _, facts, one in looked)
    evidence += [
        f"{_STATE[one.kept]}: {one.asks} ({f'{one.licence}, {one.clause}'.rstrip(', ')}); {one.how}"
        for one in obligations
    ]
    verdict, sentence = _bound(model, reference, own, theirs, binding, [one for _, _, one in looked], inherited)
    return Licence(verdict=verdict, chain=chain, obligations=obligations, evidence=(*evidence, *end), sentence=sentence)


_STATE = {True: "kept", False: "NOT KEPT", None: "cannot be seen"}


def _bound(
    model: Opened, reference: Opened, own: _Side, theirs: _Side, binding: Sequence[tuple[LicenceLink, LicenceFacts]], looked: Sequence[Kept],
    inherited: bool | None,
) -> tuple[Verdict, str]:  # fmt: skip
    """(verdict, sentence) where the weights are inherited, or may be."""
    name, other = clean(model.name), clean(reference.name)
    if not binding:
        stated = theirs.shown.stated
        what = (
            "states no licence"
            if stated in _UNSTATED
            else f"states {clean(str(stated))}, which our table does not hold"
        )
        return "cannot tell", f"{other} {what}: what it asks, only its maker can say. {NOT_ADVICE}"
    title = ", and ".join(dict.fromkeys(facts.title for _, facts in binding))
    if not looked:
        seen = "It asks nothing of who passes the model on."
    else:
        kept, failed, unseen = kept_counts(looked)
        failing = [one.asked.asks for one in looked if one.kept is False]
        more = f" and {len(failing) - _MOST_NAMED} more" if len(failing) > _MOST_NAMED else ""
        seen = f"Of {len(looked)} obligations {kept} {'is' if kept == 1 else 'are'} kept, {unseen} cannot be seen in files, {failed} {'fails' if failed == 1 else 'fail'}"
        seen += f": {'; '.join(failing[:_MOST_NAMED])}{more}." if failing else "."
    if inherited is None:
        return (
            "cannot tell",
            f"If {name} stems from {other}, it is bound by the {title}; the weights do not tell whether it does. {seen} {NOT_ADVICE}",
        )
    same = own.facts is not None and all(facts.ids == own.facts.ids for _, facts in binding)
    how = (
        "which it states too"
        if same
        else f"while it states {clean(own.shown.stated)}"
        if own.shown.stated
        else "and states no licence of its own"
    )
    return (
        "same" if same else "derived",
        f"The weights are inherited, so {name} is bound by the {title}, {how}. {seen} {NOT_ADVICE}",
    )


def _not_bound(model: Opened, reference: Opened, facts: LicenceFacts | None) -> str:
    what = f"the {facts.title}" if facts else "a licence"
    return (
        f"The weights are independent, so {clean(model.name)} is not bound by what {clean(reference.name)} came with: {what} covers the weights"
        f" and files that it is given with, and not a design. Nothing follows from a shared architecture. {NOT_ADVICE}"
    )  # fmt: skip


def _outputs(binding: Sequence[tuple[LicenceLink, LicenceFacts]]) -> list[str]:
    return [
        f"the {facts.title} also binds who trains on the model's answers; weights do not show whether that was done"
        for facts in dict.fromkeys(facts for _, facts in binding) if facts.outputs
    ]  # fmt: skip


def _contradictions(model: Opened, reference: Opened, own: _Side, theirs: _Side, inherited: bool | None) -> list[str]:
    """Where what MODEL says of its parents and what its weights say differ."""
    if made_from(model, reference):
        return ["both are of one run, by its ledger: no maker is bound by a licence of its own"]
    named = any(_last(name) == _last(theirs.shown.name) for name in own.parents)
    if inherited and own.parents and not named:
        return [
            f"{own.parents_by} names {', '.join(map(clean, own.parents[:3]))}, and not {clean(theirs.shown.name)}, as what it was made from"
        ]
    if inherited and not own.parents:
        return [f"{clean(own.shown.name)} names nothing that it was made from"]
    if inherited is False and named:
        return [
            f"{own.parents_by} names {clean(theirs.shown.name)} as what it was made from, and the weights do not show it: ask its maker"
        ]
    return []


def _last(name: str) -> str:
    return name.rstrip("/").rsplit("/", 1)[-1].lower()


def _obligation(facts: LicenceFacts, one: Kept) -> Obligation:
    how = one.how if facts.was_read(one.asked) else f"{one.how} ({UNREAD})"
    return Obligation(licence=facts.ids[0], clause=one.asked.clause, asks=one.asked.asks, kept=one.kept, how=clean(how))


def _told(link: LicenceLink) -> str:
    what = link.title or (f"{link.licence}, which our table does not hold" if link.licence else "no licence known")
    return clean(f"{link.model}: {what}" + (f" ({link.stated_by})" if link.stated_by else ""))


def _named(name: str, by: str) -> LicenceLink:
    """A parent of which only the name is known: the licence is the one under which a repository of this name was published."""
    facts = licence_of_repository(name)
    stated = f"named by {by}" + ("; its licence by the repository's name" if facts else "")
    return LicenceLink(model=name, licence=facts.ids[0] if facts else None, title=facts.title if facts else "", source=facts.source if facts else "",
                       stated_by=stated)  # fmt: skip


def _side(opened: Opened) -> _Side:
    """What a model states: its ledger's recipe first, then its card or GGUF file, then the licence's text beside it, then its repository's name."""
    if opened.path is None or not opened.path.exists():
        return _published(opened, _Side(Shown(opened.name)))
    file, notes = model_file(opened.path), []
    if file is not None:
        # A single file lies among others, whose card and licence need not be its own: only what a GGUF says of itself counts.
        card, files = (read_gguf_card(file), None) if file.suffix.lower() == ".gguf" else (Card(), None)
        card_by, own_card = "the file itself", "the file"
    else:
        card, card_by, own_card = read_card(opened.path), "its model card", "its model card"
        try:
            files = read_texts(opened.path)
        except PunaError as error:
            files = {}
            notes.append(f"{clean(opened.name)}: its licence files cannot be read: {error.line()[:160]}")
    notes += [f"{clean(opened.name)}: {note}" for note in card.notes]
    stated, by = (None, "") if card.licence in _UNSTATED else (card.licence, card_by)
    beside = stated_in_files(files) if files else None
    recipe, bases, called = _of_the_ledger(opened)
    if recipe is not None:
        stated, by = recipe, "its ledger"
    elif stated is None and beside is not None:
        stated, by = beside[0].ids[0], f"its file {beside[1]}"
    facts = licence_named(stated)
    if (
        beside is not None
        and facts is not None
        and beside[0].ids[0] not in (facts.ids[0], facts.refines)
        and beside[0].refines not in facts.ids
    ):
        notes.append(
            f"{clean(opened.name)}: {by} says {clean(str(stated))}, and its file {clean(beside[1])} is the text of {beside[0].title}"
        )
    parents, parents_by = (bases, "its ledger") if bases else (card.parents, own_card)
    side = _Side(
        Shown(opened.name, card, files, stated, called),
        by,
        tuple(parents),
        f"{clean(opened.name)}'s {parents_by.removeprefix('its ')}",
        tuple(notes),
    )
    return _published(opened, side)


def _published(opened: Opened, side: _Side) -> _Side:
    """Where a model states nothing: the licence under which a repository of its name was published. Where it states a common licence that its
    maker uses with a notice of its own: that one."""
    stated = licence_named(side.shown.stated)
    of_files = [facts for text in (side.shown.files or {}).values() for facts in licences_in(text)]
    published = licence_of_repository(opened.name)
    if side.shown.stated is None and published is not None:
        return replace(
            side, shown=replace(side.shown, stated=published.ids[0]), by="its repository's name; it states none itself"
        )
    known = [
        facts
        for facts in (*of_files, published)
        if facts is not None and stated is not None and facts.refines in stated.ids
    ]
    if known:
        return replace(
            side, shown=replace(side.shown, stated=known[0].ids[0]), by=f"{side.by}, with its maker's notice"
        )
    return side


def _of_the_ledger(opened: Opened) -> tuple[str | None, tuple[str, ...], str]:
    """(licence, bases, name) as a Puna release's own ledger has them, where it is believed."""
    logged = record(opened).logged
    recipe = logged.body("recipe").get("recipe")
    release = recipe.get("release") if isinstance(recipe, dict) else None
    licence = release.get("licence") if isinstance(release, dict) else None
    names = logged.body("base").get("names")
    bases = tuple(str(name)[:200] for name in names[:32]) if isinstance(names, list) else ()
    called = recipe.get("name") if isinstance(recipe, dict) else None
    stated = licence if isinstance(licence, str) and licence not in _UNSTATED else None
    return stated, bases, called if isinstance(called, str) else ""
