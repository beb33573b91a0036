"""What the licences of open models ask, as versioned data; which licence a text is; and what of it a folder's files show to be kept.

Comes in: an identifier, a repository's name, a model's folder. Goes out: `LicenceFacts`, and one `Kept` an obligation. Must never happen: this
taken for legal advice; a clause said to be kept that nobody could see.
"""

import tomllib
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from puna.card import FILE as CARD
from puna.card import Card
from puna.reading import find_inside, read_bytes

NOT_ADVICE = "This is not legal advice: the licences' own texts bind."
UNREAD = "not read in the licence's text"
_TABLE = Path(__file__).with_name("licences.toml")
_MOST_TEXT, _MOST_FILES = 1 << 20, 40
_TEXTS = (".txt", ".md", ".rst", ".html", ".model", "")

Check = Literal[
    "name", "text", "notice", "copy", "changes", "restrictions", "policy", "non_commercial", "same_licence", "unseen"
]


class _Data(BaseModel):
    """Immutable; an unknown key in the table is a mistake."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Asked(_Data):
    """One obligation, in plain words. `check`, `of`: how a program looks at it, see licences.toml. `checked`: None takes the licence's."""

    clause: str
    asks: str
    check: Check
    of: tuple[str, ...] = ()
    checked: bool | None = None


class LicenceFacts(_Data):
    """`ids`: the house's own first. `checked`: whether the clauses were read in the text (`read`). `outputs`: clauses on the answers too.

    `refines`: the identifier of a common licence that a maker uses with a notice of its own.
    """

    ids: tuple[str, ...]
    title: str
    date: str
    source: str
    obligations: tuple[Asked, ...]
    checked: bool
    read: str = ""
    commercial: bool = True
    outputs: bool = False
    refines: str = ""
    marks: tuple[str, ...] = ()
    makers: tuple[str, ...] = ()

    def was_read(self, asked: Asked) -> bool:
        """Whether this clause was read in the licence's text."""
        return self.checked if asked.checked is None else asked.checked


class _Table(_Data):
    version: str
    licence: tuple[LicenceFacts, ...]


@dataclass(frozen=True)
class Shown:
    """What a model shows of itself: its name, its card, the texts beside it, the licence that it states.

    `called`: the name that it was given, where its folder has another.
    `files`: {name: text} of its licences, notices and policies; None for a model that has no folder of its own.
    """

    name: str
    card: Card = field(default_factory=Card)
    files: dict[str, str] | None = None
    stated: str | None = None
    called: str = ""


@dataclass(frozen=True)
class Kept:
    """`kept`: True, False, or None where files cannot show it; `how`: what was looked at."""

    asked: Asked
    kept: bool | None
    how: str


@cache
def _table() -> _Table:
    return _Table.model_validate(tomllib.loads(_TABLE.read_text(encoding="utf-8")))


def known_licences() -> tuple[LicenceFacts, ...]:
    """The table, in its order."""
    return _table().licence


def table_version() -> str:
    """The table's version, a month: "2026-11"."""
    return _table().version


def licence_named(identifier: str | None) -> LicenceFacts | None:
    """The licence of an identifier, in any case; None for one that the table has not."""
    wanted = (identifier or "").strip().lower()
    return next((one for one in known_licences() if wanted in one.ids), None)


def licence_of_repository(name: str) -> LicenceFacts | None:
    """The licence under which the makers published a repository of this name; None for one that the table has not."""
    found = [
        (len(begin), one) for one in known_licences() for begin in one.makers if name.lower().startswith(begin.lower())
    ]
    return max(found, key=lambda pair: pair[0])[1] if found else None


def licences_in(text: str) -> tuple[LicenceFacts, ...]:
    """The licences whose texts these are, in their order: a licence is known by a sentence of its own."""
    plain = _plain(text)
    places = []
    for one in known_licences():
        found = [place for mark in one.marks if (place := plain.find(_plain(mark))) >= 0]
        if found:
            places.append((min(found), one))
    places.sort(key=lambda pair: pair[0])
    return tuple(one for _, one in places)


def read_texts(folder: Path) -> dict[str, str]:
    """{file name: text} of a model folder's card, licences, notices and policies, each of at most a megabyte.

    Raises `PunaError` where one is a link that leads out of the folder, or no ordinary file.
    """
    names = sorted(path.name for path in folder.iterdir() if _tells(path))
    found = {}
    for name in names[:_MOST_FILES]:
        path = find_inside(folder, name)
        if path is not None and path.stat().st_size <= _MOST_TEXT:
            found[name] = read_bytes(path, _MOST_TEXT).decode("utf-8", "replace")
    return found


def _tells(path: Path) -> bool:
    name = path.name.upper()
    kinds = ("LICENSE", "LICENCE", "COPYING", "NOTICE", "USE_POLICY", "TERMS")
    return path.name == CARD or (path.suffix.lower() in _TEXTS and any(kind in name for kind in kinds))


def stated_in_files(files: dict[str, str]) -> tuple[LicenceFacts, str] | None:
    """(licence, file) of the first licence's text among a folder's files, the card apart."""
    return next(
        ((found[0], name) for name, text in files.items() if name != CARD and (found := licences_in(text))), None
    )


def look_at(facts: LicenceFacts, shown: Shown) -> list[Kept]:
    """Each obligation of a licence against what the derivative shows."""
    return [Kept(asked, *_look(asked, facts, shown)) for asked in facts.obligations]


def _look(asked: Asked, facts: LicenceFacts, shown: Shown) -> tuple[bool | None, str]:
    stated, files = licence_named(shown.stated), shown.files
    match asked.check:
        case "unseen":
            return None, "no file shows it"
        case "name":
            name = shown.called or shown.name.rstrip("/").rsplit("/", 1)[-1]
            plain = _word(name)
            return any(plain.startswith(_word(one)) for one in asked.of), f"its name is {name}"
        case "non_commercial" | "same_licence":
            return _look_at_stated(asked, facts, shown.stated, stated)
    if files is None:
        return None, "it is one file, without a folder to look in"
    return _look_in(asked, facts, shown, stated, files)


def _look_at_stated(
    asked: Asked, facts: LicenceFacts, said: str | None, stated: LicenceFacts | None
) -> tuple[bool | None, str]:
    if said is None:
        return None, "it states no licence"
    if asked.check == "same_licence":
        return said.strip().lower() in facts.ids, f"it states {said}"
    if stated is None:
        return None, f"it states {said}, which the table has not"
    return (
        not stated.commercial,
        f"it states {said}, which {'allows' if stated.commercial else 'forbids'} commercial use",
    )


def _look_in(
    asked: Asked, facts: LicenceFacts, shown: Shown, stated: LicenceFacts | None, files: dict[str, str]
) -> tuple[bool | None, str]:
    having = [name for name, text in files.items() if any(_plain(part) in _plain(text) for part in asked.of)]
    match asked.check:
        case "text":
            return bool(having), f"{having[0]} has it" if having else f'no file has "{asked.of[0]}"'
        case "notice":
            notices = [name for name in files if "NOTICE" in name.upper()]
            if right := [name for name in having if name in notices]:
                return True, f"{right[0]} has it"
            beside = (
                f"{having[0]} has it, a NOTICE has not"
                if having
                else f"{notices[0]} has not the sentence"
                if notices
                else "there is no NOTICE"
            )
            return False, beside
        case "copy":
            wanted = {facts.ids[0], *asked.of}
            for name, text in files.items():
                if name != CARD and wanted & {one.ids[0] for one in licences_in(text)}:
                    return True, f"{name} is its text"
            other = stated_in_files(files)
            return (
                False,
                f"{other[1]} is another licence's text ({other[0].title})"
                if other
                else "no file with its text is there",
            )
        case "changes":
            if shown.card.parents:
                return True, f"its card names {', '.join(shown.card.parents[:3])} as what it was made from"
            return None, "its card names nothing that it was made from"
        case "restrictions":
            if stated is not None and stated.ids == facts.ids:
                return True, f"it states {shown.stated}, which holds them"
            if having:
                return True, f"{having[0]} has them"
            return (
                (None, "it states no licence")
                if shown.stated is None
                else (False, f"it states {shown.stated}, and no file has them")
            )
        case "policy":
            return (
                None,
                f"{having[0]} names the policy; that it is kept to no file shows"
                if having
                else "no file names the policy",
            )
    raise ValueError(f"no such check: {asked.check}")


def kept_counts(found: Sequence[Kept]) -> tuple[int, int, int]:
    """(kept, not kept, not to be seen)."""
    return (
        sum(one.kept is True for one in found),
        sum(one.kept is False for one in found),
        sum(one.kept is None for one in found),
    )


def _plain(text: str) -> str:
    """A text without what copies of a sentence differ in: case, spaces, quotation marks, emphasis and the sign for copyright."""
    text = unicodedata.normalize("NFKC", text).replace("©", "(c)").translate(_ALIKE)
    return " ".join(text.lower().split())


_ALIKE = str.maketrans({"“": '"', "”": '"', "’": "'", "‘": "'", "*": "", "`": "", "#": " ", ">": " ", "\\": ""})


def _word(name: str) -> str:
    """A name without what separates its parts: "Llama-3-Foo", "llama 3 foo" and "Llama3_Foo" are one."""
    return "".join(letter for letter in name.lower() if letter.isalnum() or letter == ".")


__all__ = [
    "NOT_ADVICE", "UNREAD", "Asked", "Kept", "LicenceFacts", "Shown", "kept_counts", "known_licences", "licence_named",
    "licence_of_repository", "licences_in", "look_at", "read_texts", "stated_in_files", "table_version",
]  # fmt: skip
