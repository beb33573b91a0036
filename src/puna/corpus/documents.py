"""What a document is between the steps, and how tables of documents lie on disk.

Comes in: documents from the readers. Goes out: Parquet files whose bytes depend on their rows alone.
Must never happen: a row group cut by chance (thread timing, batch sizes of an engine), so that equal rows give other bytes.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

# The order of columns in train.parquet and heldout.parquet.
FINAL_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("text", pa.large_string()),
        ("source", pa.string()),
        ("kind", pa.string()),
        ("licence", pa.string()),
        ("lang", pa.string()),
        ("chars", pa.int64()),
        ("symbol_share", pa.float64()),
    ]
)
# Between the steps a row also carries its place in the reading order and the document that it is a piece of.
WORK_SCHEMA = pa.schema([("order", pa.int64()), ("document", pa.string()), ("origin", pa.int64()), *FINAL_SCHEMA])

_ROW_GROUP_ROWS = 4096
_ROW_GROUP_BYTES = 32 << 20

_HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")
_KANA = re.compile(r"[\u3040-\u30ff]")
_LETTER = re.compile(r"[^\W\d_]")
_ENGLISH = re.compile(r"\b(?:the|of|and|to|in|is|a|for|that|it|with|as|on|be|are|this|or|an|by|if)\b", re.IGNORECASE)
_WORD = re.compile(r"\b\w+\b")


@dataclass(frozen=True, slots=True)
class Document:
    """One document as a reader gives it. `source` is the unit of the held-out split: a module or a file."""

    id: str
    text: str
    source: str
    kind: str
    licence: str
    lang: str


def language_of(text: str) -> str:
    """Which language a text is in, as far as counting letters and the commonest words can tell: "zh", "en" or "und".

    A look at the first 20,000 characters; Japanese (kana) is "und", not "zh".
    """
    sample = text[:20_000]
    letters = len(_LETTER.findall(sample))
    if letters == 0:
        return "und"
    han, kana = len(_HAN.findall(sample)), len(_KANA.findall(sample))
    if han > 0.3 * letters and kana < 0.05 * letters:
        return "zh"
    words = len(_WORD.findall(sample))
    return "en" if words and len(_ENGLISH.findall(sample)) >= 0.08 * words else "und"


class TableWriter:
    """Writes rows to one Parquet file, row groups cut by count and bytes of the rows alone."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._schema = schema
        self._writer = pq.ParquetWriter(path, schema, compression="zstd", compression_level=3)
        self._rows: list[dict[str, Any]] = []
        self._bytes = 0
        self.rows = 0
        self.bytes = 0

    def add(self, row: dict[str, Any]) -> None:
        """Add one row; keys beyond the schema are left out."""
        size = len(row["text"].encode())
        self._rows.append(row)
        self._bytes += size
        self.rows += 1
        self.bytes += size
        if len(self._rows) >= _ROW_GROUP_ROWS or self._bytes >= _ROW_GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        if not self._rows:
            return
        columns = {name: [row[name] for row in self._rows] for name in self._schema.names}
        table = pa.table(columns, schema=self._schema)
        self._writer.write_table(table, row_group_size=len(self._rows))
        self._rows, self._bytes = [], 0

    def __enter__(self) -> "TableWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._flush()
        self._writer.close()


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a table in the order in which they were written, a row group at a time."""
    with pq.ParquetFile(path) as file:
        for group in range(file.metadata.num_row_groups):
            yield from file.read_row_group(group).to_pylist()


def as_rows(documents: Iterable[Document]) -> Iterator[dict[str, Any]]:
    """Documents as rows of `WORK_SCHEMA`, not measured yet; `order` counts from 0."""
    for order, item in enumerate(documents):
        yield {
            "order": order,
            "origin": order,
            "document": item.id,
            "id": item.id,
            "text": item.text,
            "source": item.source,
            "kind": item.kind,
            "licence": item.licence,
            "lang": item.lang,
            "chars": 0,
            "symbol_share": 0.0,
        }
