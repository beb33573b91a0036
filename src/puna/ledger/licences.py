"""What licences of open models ask, as data; and which licence a text is.

Comes in: an identifier, a licence's text, a model's folder. Goes out: `LicenceFacts`, obligations that were looked at. Must never happen: this taken
for legal advice; a clause said to be kept that nobody could see.
"""

import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from puna.errors import PunaError
from puna.reading import find_inside, read_text

NOT_ADVICE = "This is not legal advice: the licences' own texts bind."
_TABLE = Path(__file__).with_name("licences.toml")
_FILES = (
    "LICENSE",
    "LICENSE.txt",
    "LICENSE.md",
    "LICENCE",
    "COPYING",
    "NOTICE",
    "NOTICE.txt",
    "README.md",
    "USE_POLICY.md",
)
_LICENCE_FILES = _FILES[:5]
_MOST_TEXT = 1 << 20
# Sentences by which a licence's text is known, in its first thousand lines; the more special ones first.
_KNOWN_BY = (
    ("llama3.3", "LLAMA 3.3 COMMUNITY LICENSE AGREEMENT"), ("llama3.2", "LLAMA 3.2 COMMUNITY LICENSE AGREEMENT"),
    ("llama3.1", "LLAMA 3.1 COMMUNITY LICENSE AGREEMENT"), ("llama3", "META LLAMA 3 COMMUNITY LICENSE AGREEMENT"),
    ("llama2", "LLAMA 2 COMMUNITY LICENSE AGREEMENT"), ("yi-license", "Yi Series Models Community License Agreement"),
    ("gemma", "Gemma Terms of Use"), ("qwen-research", "Qwen RESEARCH LICENSE AGREEMENT"), ("qwen", "Tongyi Qianwen LICENSE AGREEMENT"),
    ("cc-by-nc-sa-4.0", "Attribution-NonCommercial-ShareAlike 4.0 International"), ("cc-by-nc-4.0", "Attribution-NonCommercial 4.0 International"),
    ("cc-by-sa-4.0", "Attribution-ShareAlike 4.0 International"), ("cc-by-4.0", "Attribution 4.0 International"),
    ("cc0-1.0", "CC0 1.0 Universal"), ("gpl-3.0", "GNU GENERAL PUBLIC LICENSE"), ("apache-2.0", "Apache License"),
    ("mit", "Permission is hereby granted, free of charge, to any person obtaining a copy"),
    ("bsd-3-clause", "Redistribution and use in source and binary forms, with or without modification"),
    ("psf-2.0", "PYTHON SOFTWARE FOUNDATION LICENSE"),
)  # fmt: skip


@dataclass(frozen=True)
class Asked:
    """One obligation. `check`: how a program can look at it; see licences.toml."""

    clause: str
    asks: str
    check: str


@dataclass(frozen=True)
class LicenceFacts:
    """`ids`: the first is the house's, the others are found elsewhere. `checked`: whether the clauses were read in `source`."""

    ids: tuple[str, ...]
    title: str
    date: str
    source: str
    checked: bool
    obligations: tuple[Asked, ...]


@dataclass(frozen=True)
class Kept:
    """`kept`: True, False, or None where files cannot show it; `how`: what was looked at."""

    asked: Asked
    kept: bool | None
    how: str


@cache
def known_licences() -> tuple[LicenceFacts, ...]:
    """The table, in its order."""
    return tuple(
        LicenceFacts(tuple(one["ids"]), one["title"], one["date"], one["source"], one.get("checked", False),
                     tuple(Asked(**asked) for asked in one["obligations"]))
        for one in tomllib.loads(_TABLE.read_text(encoding="utf-8"))["licence"]
    )  # fmt: skip


def licence_named(identifier: str | None) -> LicenceFacts | None:
    """The licence of an identifier, in any case; None for one that the table has not."""
    wanted = (identifier or "").strip().lower()
    return next((one for one in known_licences() if wanted in one.ids), None)


def licence_of_text(folder: Path) -> tuple[str, str] | None:
    """(identifier, file) of the licence whose text lies in a model's folder, known by a sentence of its own; None where none is."""
    for name in _LICENCE_FILES:
        text = _text_of(folder, name).lower()
        for identifier, sentence in _KNOWN_BY:
            if sentence.lower() in text:
                return identifier, name
    return None


def look_at(facts: LicenceFacts, folder: Path | None, name: str, stated: str | None) -> list[Kept]:
    """Each obligation against the files of the derivative's `folder`, its `name` and the licence that it states."""
    return [_look(asked, facts, folder, name, stated) for asked in facts.obligations]


def _look(asked: Asked, facts: LicenceFacts, folder: Path | None, name: str, stated: str | None) -> Kept:
    check, _, value = asked.check.partition(":")
    if check == "name_starts_with":
        wanted = value.split("|")
        plain = name.rsplit("/", 1)[-1].replace("-", " ").lower()
        kept = any(plain.startswith(one.replace("-", " ").lower()) for one in wanted)
        return Kept(asked, kept, f"the name is {name!r}")
    if check == "non_commercial":
        other = licence_named(stated)
        if stated is None:
            return Kept(asked, None, "the derivative states no licence")
        kept = other is not None and any(one.check == "non_commercial" for one in other.obligations)
        return Kept(asked, kept, f"it states {stated}")
    if check == "same_licence":
        return Kept(
            asked,
            None if stated is None else stated.lower() in facts.ids,
            "it states no licence" if stated is None else f"it states {stated}",
        )
    if folder is None or check == "none":
        return Kept(asked, None, "files do not show it" if folder is not None else "there is no folder to look in")
    if check == "file":
        found = next((one for one in value.split("|") if _is_there(folder, one)), None)
        return Kept(
            asked, found is not None, f"{found} is there" if found else f"none of {value.replace('|', ', ')} is there"
        )
    if check == "text":
        for one in _FILES:
            text = _text_of(folder, one)
            if any(part in text for part in value.split("|")):
                return Kept(asked, True, f"{one} has it")
        return Kept(asked, False, f"no file has {value.split('|')[0]!r}")
    raise ValueError(f"licences.toml knows no check {asked.check!r}")


def _is_there(folder: Path, name: str) -> bool:
    try:
        return find_inside(folder, name) is not None
    except PunaError:  # a link that leads out of the folder is no copy of the text
        return False


def _text_of(folder: Path, name: str) -> str:
    return (
        read_text(folder / name, _MOST_TEXT)
        if _is_there(folder, name) and (folder / name).stat().st_size <= _MOST_TEXT
        else ""
    )
