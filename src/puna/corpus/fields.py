"""Which field of a row holds the text.

Comes in: rows of strangers. Goes out: their text. Must never happen: a field taken by a guess that changes from row to row.
"""

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


class TextField:
    """The text field of one file: named in the recipe, or found in the file's first row and then kept.

    A row that is a plain string is its own text. Rows without the field are counted in `skipped`.
    """

    def __init__(self, name: str | None, path: Path, skipped: Counter[str]) -> None:
        self._named, self._path, self._skipped = name, path, skipped
        self._name = name
        self._rows = self._texts = 0
        self._seen: tuple[str, ...] = ()

    def of(self, row: Any) -> str | None:
        """The row's text, or None (counted). Raises PunaError where no field can be found in the first row."""
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
            texts = [key for key, value in row.items() if value is None or isinstance(value, str)]
            nested = any(isinstance(value, list | dict) for value in row.values())
            self._name = self.among(list(row), texts, lone=not nested)
        value = row.get(self._name)
        if not isinstance(value, str):
            self._skipped["row without text"] += 1
            return None
        self._texts += 1
        return value

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
        raise PunaError(
            f"no text field is found; its fields are {_list(names)}",
            where=str(self._path),
            mend='name one: [corpus] text_field = "..."',
        )

    def check(self) -> None:
        """After the last row: PunaError if the file had rows and none of them had the field."""
        if self._rows and not self._texts:
            raise self._missing(self._seen)

    def _missing(self, names: Sequence[str]) -> PunaError:
        return PunaError(
            f"no row has text in the field {self._name!r}; the fields are {_list(names)}",
            where=str(self._path),
            mend='set another: [corpus] text_field = "..."',
        )


def _list(names: Sequence[str]) -> str:
    shown = ", ".join(str(name)[:40] for name in names[:_SHOWN]) or "none"
    return f"{shown} and {len(names) - _SHOWN} more" if len(names) > _SHOWN else shown
