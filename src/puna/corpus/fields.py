"""Which field of a row holds the text, and which rows are none.

Comes in: rows of strangers. Goes out: their text. Must never happen: a field taken by a guess that changes from row to row,
or a run that one bad row ends.
"""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from puna.errors import PunaError

# Names under which the field keeps running text, the likeliest first.
KNOWN = (
    "text", "content", "raw_content", "body", "markdown", "article", "document", "passage", "story", "正文", "内容", "文本",
)  # fmt: skip
_SHOWN = 12
_TRIED = 20  # rows in which a text field is looked for
_JUDGED = 20  # rows from which on a file can be mostly bad


def parse_json(text: str, where: str) -> Any:
    """A JSON value from a stranger; PunaError for bad syntax, too deep nesting and absurd numbers."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise PunaError("JSON is nested too deep", where=where) from error
    except ValueError as error:
        raise PunaError(f"is not valid JSON ({error})", where=where) from error


class NoTextField(PunaError):
    """A file of which nobody knows which field holds the text."""


class TextField:
    """The text field of one file: named in the recipe, or found in the file's first rows and then kept.

    A row that is a plain string is its own text. Rows without the field, and bad ones, are counted in `skipped`.
    """

    def __init__(self, name: str | None, path: Path, skipped: Counter[str]) -> None:
        self._named, self._path, self._skipped = name, path, skipped
        self._name = name
        self._rows = self._texts = self._unresolved = self._bad = 0
        self._seen: tuple[str, ...] = ()
        self._not_found: NoTextField | None = None
        self._first_bad: tuple[str, str] = ("", "")

    @property
    def found(self) -> bool:
        """Whether the field is known."""
        return self._name is not None

    def take(self, other: "TextField") -> None:
        """Use the field that another part of the same file has found."""
        self._name = other._name

    def of(self, row: Any) -> str | None:
        """The row's text, or None (counted). Raises PunaError where no field is found in the first 20 rows."""
        self._rows += 1
        if isinstance(row, str):
            self._texts += 1
            return row
        if not isinstance(row, dict):
            self._skipped["row that is no object"] += 1
            return None
        if not self._seen:
            self._seen = tuple(row)
        if self._name is None:
            self._find(row)
        value = row.get(self._name)
        if not isinstance(value, str):
            self._skipped["row without text"] += 1
            return None
        self._texts += 1
        return value

    def _find(self, row: dict[Any, Any]) -> None:
        texts = [key for key, value in row.items() if value is None or isinstance(value, str)]
        nested = any(isinstance(value, list | dict) for value in row.values())
        try:
            self._name = self.among(list(row), texts, lone=not nested)
        except NoTextField as error:
            self._not_found = self._not_found or error
            self._unresolved += 1
            if self._unresolved >= _TRIED:
                raise self._not_found from None

    def bad(self, reason: str, place: str) -> None:
        """Count a row that cannot be read at all; `place` ("line 7") is told if the file turns out to hold little else."""
        self._skipped[reason] += 1
        self._bad += 1
        if self._bad == 1:
            self._first_bad = (reason, place)

    def among(self, names: Sequence[str], strings: Sequence[str], *, lone: bool = True) -> str:
        """The field to take of a table's `names`, of which `strings` may hold text. Raises PunaError with all names.

        `lone`: the only one that may hold text is taken whatever its name.
        """
        if self._named is not None:
            if self._named not in names:
                raise self._missing(names)
            return self._named
        for name in KNOWN:
            match = next((field for field in strings if field.lower() == name), None)
            if match is not None:
                return match
        if lone and len(strings) == 1:
            return strings[0]
        raise NoTextField(
            f"no text field is found; its fields are {_list(names)}",
            where=str(self._path),
            mend='name one: [corpus] text_field = "..."',
        )

    def check(self) -> None:
        """After the file's last row: PunaError if it had rows and no text, or more bad rows than good ones of 20 or more."""
        rows = self._rows + self._bad
        if self._bad and (not self._rows or (rows >= _JUDGED and 2 * self._bad > rows)):
            reason, place = self._first_bad
            raise PunaError(
                f"{self._bad:,} of its {rows:,} rows cannot be read, the first: {place} ({reason})",
                where=str(self._path),
            )
        if self._rows and not self._texts:
            raise self._not_found or self._missing(self._seen)

    def _missing(self, names: Sequence[str]) -> PunaError:
        return PunaError(
            f"no row has text in the field {self._name!r}; the fields are {_list(names)}",
            where=str(self._path),
            mend='set another: [corpus] text_field = "..."',
        )


def _list(names: Sequence[str]) -> str:
    shown = ", ".join(str(name)[:40] for name in names[:_SHOWN]) or "none"
    return f"{shown} and {len(names) - _SHOWN} more" if len(names) > _SHOWN else shown
