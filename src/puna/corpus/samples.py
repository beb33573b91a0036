"""A bounded sample of the cleaned documents, and of a user's own example files: what the scorers learn from.

Comes in: the shelf "clean". Goes out: texts with their languages. Must never happen: a sample that depends on how the corpus
was cut into parts, or one that grows with it. A document is in the sample by the hash of its name.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from puna.corpus import clean, language, readers
from puna.corpus.cleaning import DOCUMENTS
from puna.corpus.extract import main_text
from puna.corpus.parts import Shelf
from puna.corpus.tables import Without
from puna.corpus.tally import Tally

PASSAGE = 3000  # characters: a long document gives passages of about a page's length
_PASSAGES = 20  # of one document at most: one long book is not the whole sample
_NARROW = ["order", "id", "lang", "kind", "web", "chars"]


@dataclass
class Sample:
    """Texts, each with its language."""

    texts: list[str] = field(default_factory=list)
    langs: list[str] = field(default_factory=list)

    def add(self, text: str, lang: str) -> None:
        """One more."""
        self.texts.append(text)
        self.langs.append(lang)

    def __len__(self) -> int:
        return len(self.texts)


def take(
    shelf: Shelf, most_chars: int, wanted: Callable[[dict[str, Any]], bool], keep: Without, *, passages: bool = False
) -> Sample:
    """Documents of a shelf that are `wanted` (asked with the narrow columns) and that `keep` lets stand.

    The smallest hashes of names, up to about `most_chars` characters in all. With `passages`, long ones give some of their
    passages instead of themselves.
    """
    cost = (lambda chars: min(chars, _PASSAGES * PASSAGE)) if passages else (lambda chars: chars)
    found: list[tuple[bytes, int, str, int]] = []  # (hash, cost, part, row), the narrow side of what may be taken
    held = 0
    for part in shelf.names():
        table = pq.read_table(shelf.file(part, DOCUMENTS), columns=_NARROW)
        stands = keep(table.column("order").to_numpy())
        for place, row in enumerate(table.to_pylist()):
            if stands[place] and wanted(row):
                found.append(
                    (hashlib.blake2b(row["id"].encode(), digest_size=8).digest(), cost(row["chars"]), part, place)
                )
                held += found[-1][1]
        if held > 2 * most_chars:
            found, held = _smallest(found, most_chars)
    found, _ = _smallest(found, most_chars)
    sample = Sample()
    by_part: dict[str, list[int]] = {}
    for _, _, part, place in found:
        by_part.setdefault(part, []).append(place)
    for part in sorted(by_part):
        for row in _rows(shelf.file(part, DOCUMENTS), sorted(by_part[part])):
            for text in _pieces(row["text"]) if passages else [row["text"]]:
                sample.add(text, row["lang"])
    return sample


def _smallest(found: list[tuple[bytes, int, str, int]], most: int) -> tuple[list[tuple[bytes, int, str, int]], int]:
    found.sort()
    held = 0
    for place, entry in enumerate(found):
        held += entry[1]
        if held > most:
            return found[: place + 1], held
    return found, held


def _rows(path: Path, places: list[int]) -> Iterator[dict[str, Any]]:
    first = 0
    with pq.ParquetFile(path) as file:
        for group in range(file.metadata.num_row_groups):
            count = file.metadata.row_group(group).num_rows
            here = [place - first for place in places if first <= place < first + count]
            if here:
                yield from pc.take(file.read_row_group(group, columns=["text", "lang"]), pa.array(here)).to_pylist()
            first += count


def _pieces(text: str) -> list[str]:
    pieces = list(clean.split_long(text, PASSAGE))
    if len(pieces) <= _PASSAGES:
        return pieces
    return [pieces[place * len(pieces) // _PASSAGES] for place in range(_PASSAGES)]


def of_files(paths: Iterable[str], text_field: str | None, most_chars: int) -> Sample:
    """Passages of a user's own example files: all, or those with the smallest hashes. PunaError where one cannot be read."""
    tally, held = Tally(), 0
    found: list[tuple[bytes, str]] = []
    for path in paths:
        root = Path(path).expanduser()
        for file in readers.list_files(root, root.name, tally):
            for document in readers.read_file(file, text_field, "", tally):
                markup = document.kind == "html"
                text, _ = clean.repair(clean.without_surrogates(main_text(document.text) if markup else document.text))
                for piece in clean.split_long(text, PASSAGE):
                    if piece.strip():
                        found.append((hashlib.blake2b(piece.encode(), digest_size=8).digest(), piece))
                        held += len(piece)
                if held > 2 * most_chars:
                    found, held = _fewer(found, most_chars)
    found, _ = _fewer(found, most_chars)
    sample = Sample()
    for (_, piece), lang in zip(found, language.identify([piece for _, piece in found]).code, strict=True):
        sample.add(piece, lang)
    return sample


def _fewer(found: list[tuple[bytes, str]], most: int) -> tuple[list[tuple[bytes, str]], int]:
    found.sort()
    held = 0
    for place, (_, piece) in enumerate(found):
        held += len(piece)
        if held > most:
            return found[: place + 1], held
    return found, held
