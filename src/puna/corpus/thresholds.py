"""The thresholds of the filters: which measures there are, and what is too little or too much of each in which language.

Comes in: the versioned table that ships with Puna (thresholds/*.toml, each with its sources) and a user's own table over
it. Goes out: `Thresholds`, valid as a whole. Must never happen: a misspelt measure or an unknown key passed over in silence.
"""

import math
import tomllib
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from puna.errors import PunaError

VERSION = "2026-11"
_TABLES = Path(__file__).parent / "thresholds"
_MOST_BYTES = 1_000_000

# What is measured of each document, and how a reason names it. Shares lie between 0 and 1.
METRICS = {
    "words": "words",
    "mean_word_length": "mean word length",
    "hashes": "# per word",
    "ellipses": "ellipses per word",
    "bullet_lines": "share of lines that are bullet points",
    "ellipsis_lines": "share of lines that end in an ellipsis",
    "alphabetic_words": "share of words with a letter",
    "stop_words": "different stop words",
    "punctuated_lines": "share of lines that end a sentence",
    "short_lines": "share of short lines",
    "newlines": "line ends per word",
    "sentences": "sentences in whole lines",
    "whole_lines": "share of lines that C4 keeps",
    "script_lines": "share of lines on JavaScript",
    "policy_lines": "share of lines on cookies and terms of use",
    "braces": "opening braces",
    "lorem_ipsum": "lorem ipsum",
}
TOP_SIZES, DUPLICATE_SIZES = (2, 3, 4), (5, 6, 7, 8, 9, 10)
REPETITION = {
    "duplicate_paragraphs": "share of paragraphs said before",
    "duplicate_paragraph_characters": "share of characters in paragraphs said before",
    "duplicate_lines": "share of lines said before",
    "duplicate_line_characters": "share of characters in lines said before",
    **{f"top_{n}_gram": f"share of characters in the commonest {n}-gram" for n in TOP_SIZES},
    **{f"duplicate_{n}_grams": f"share of characters in {n}-grams said before" for n in DUPLICATE_SIZES},
    "repeated_text": "share of visible lines' characters said before",
}
STAGES = {"metrics": METRICS, "repetition": REPETITION}
MEASURES = {**METRICS, **REPETITION}


class Section(BaseModel):
    """A table: no key beyond those named, no change once it is read."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Limits(Section):
    """A document stays where min <= measure <= max; one side may be open."""

    min: float | None = Field(None, strict=True)
    max: float | None = Field(None, strict=True)

    @model_validator(mode="after")
    def _a_range(self) -> "Limits":
        if self.min is None and self.max is None:
            raise ValueError("needs min, max or both; write `false` to switch the rule off")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min:g} is over max {self.max:g}")
        return self

    def bounds(self) -> tuple[float, float]:
        """The two ends, an open one infinite."""
        return -math.inf if self.min is None else self.min, math.inf if self.max is None else self.max


class Source(Section):
    """Where a table's values come from: they are facts, carried over with their source."""

    name: str
    url: str
    licence: str
    used_for: str


class Language(Section):
    """What a document of one language has to reach.

    language_score: the least probability of the identified language, as its source set it for its own identifier;
    stop_words: words whose different occurrences `stop_words` counts, case kept; limits: by measure.
    """

    language_score: float | None = Field(None, ge=0, le=1)
    stop_words: tuple[str, ...] = ()
    limits: dict[str, Limits] = {}

    @field_validator("limits")
    @classmethod
    def _known(cls, value: dict[str, Limits]) -> dict[str, Limits]:
        for name in value:
            if name not in MEASURES:
                raise ValueError(f"unknown measure `{name}`; there are {', '.join(MEASURES)}")
        return value


class Thresholds(Section):
    """One version of all tables. `default` holds for every language that has none of its own."""

    version: str = Field(min_length=1, max_length=100)
    sources: tuple[Source, ...] = ()
    default: Language
    languages: dict[str, Language] = {}

    def of(self, lang: str) -> Language:
        """The table of a language (ISO 639-1, or 639-3 where there is no shorter one), else the default one."""
        return self.languages.get(lang, self.default)


def load_thresholds(path: Path | None = None) -> Thresholds:
    """The table that ships with Puna; with `path`, a user's TOML file over it, value by value.

    The file has the same form as thresholds/2026-11.toml and needs to name only what it changes: `[languages.zh.limits]`
    with `words = {min = 20}`. `words = false` switches one rule off. A language that has no table yet begins with the
    default one. A PunaError names the file and every wrong key.
    """
    table = _read(_TABLES / f"{VERSION}.toml")
    if path is None:
        return _checked(table, _TABLES / f"{VERSION}.toml")
    own = _read(path)
    own.setdefault("version", f"{VERSION} changed by {path.name}")
    languages = own.get("languages", {})
    if isinstance(languages, dict):
        for code in languages:
            table["languages"].setdefault(code, table["default"])
    return _checked(_merged(table, own), path)


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise PunaError(f"has more than {_MOST_BYTES:,} bytes", where=str(path), mend="name a table of thresholds")
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise PunaError(f"cannot be read ({error.strerror})", where=str(path), mend="name a TOML file") from error
    except UnicodeDecodeError as error:
        raise PunaError("is not UTF-8", where=str(path), mend="save it as UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        raise PunaError(f"is not TOML: {error}", where=str(path), mend="mend that line") from error


def _merged(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    result = dict(under)
    for key, value in over.items():
        here = result.get(key)
        result[key] = _merged(here, value) if isinstance(here, dict) and isinstance(value, dict) else value
    return result


def _checked(table: dict[str, Any], path: Path) -> Thresholds:
    languages = table.get("languages")
    for language in (table.get("default"), *(languages.values() if isinstance(languages, dict) else ())):
        if isinstance(language, dict) and isinstance(limits := language.get("limits"), dict):
            unknown = [name for name, value in limits.items() if value is False and name not in MEASURES]
            if unknown:
                raise PunaError(f"unknown measure `{unknown[0]}`", where=str(path), mend=f"use {', '.join(MEASURES)}")
            language["limits"] = {name: value for name, value in limits.items() if value is not False}
    try:
        return Thresholds.model_validate(table)
    except ValidationError as error:
        wrong = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()]
        raise PunaError("; ".join(wrong), where=str(path), mend="mend these keys") from error
