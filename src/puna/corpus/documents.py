"""What a document is between the steps, and how tables of documents lie on disk.

Comes in: documents from the readers. Goes out: Parquet files whose bytes depend on their rows alone.
Must never happen: a row group cut by chance (thread timing, batch sizes of an engine), so that equal rows give other bytes.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

# What a document carries from the readers to the end; `label` is the source that it came from, as the recipe names it.
_CORE = [
    ("id", pa.string()),
    ("text", pa.large_string()),
    ("source", pa.string()),
    ("kind", pa.string()),
    ("licence", pa.string()),
    ("lang", pa.string()),
]
# The order of columns in train.parquet and heldout.parquet. What a stage that did not apply would have measured is null.
FINAL_SCHEMA = pa.schema(
    [
        *_CORE,
        ("chars", pa.int64()),
        ("symbol_share", pa.float64()),
        ("script", pa.string()),
        ("lang_score", pa.float64()),
        ("label", pa.string()),
        ("url", pa.string()),
        ("perplexity", pa.float64()),
        ("quality", pa.float64()),
        ("coherence", pa.float64()),
        ("topic", pa.int64()),
        ("cluster_size", pa.int64()),
        ("copies", pa.int64()),
    ]
)
# Between the steps a row also carries its place in the reading order, the document that it is a piece of, whether it is a page
# of the web, whether a step has changed it, and its weakest gap (see coherence.py).
WORK_SCHEMA = pa.schema(
    [
        ("order", pa.int64()),
        ("document", pa.string()),
        ("web", pa.bool_()),
        ("changed", pa.bool_()),
        ("seam", pa.float64()),
        *FINAL_SCHEMA,
    ]
)
RAW_SCHEMA = pa.schema([*_CORE, ("label", pa.string()), ("url", pa.string()), ("web", pa.bool_())])

T = TypeVar("T")
_ROW_GROUP_ROWS = 4096
_ROW_GROUP_BYTES = 32 << 20


@dataclass(frozen=True, slots=True)
class Document:
    """One document as a reader gives it. `source` is the unit of the held-out split: a module or a file.

    `kind` is "text", "source" or "docstring", or "html": then `text` is markup that is still to be extracted. `url` is the
    address that a page came from, where that is known.
    """

    id: str
    text: str
    source: str
    kind: str
    licence: str
    lang: str
    url: str = ""


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
        columns = {name: [row.get(name) for row in self._rows] for name in self._schema.names}
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


def read_batches(path: Path, size: int) -> Iterator[list[dict[str, Any]]]:
    """The rows of a table in lists of about `size` characters of text, for work that goes over many texts at once."""
    return batched(read_rows(path), size, lambda row: len(row["text"]))


def batched(items: Iterable[T], size: int, weigh: Callable[[T], int]) -> Iterator[list[T]]:
    """Things in lists, each as long as it takes until they weigh `size`."""
    batch: list[T] = []
    held = 0
    for item in items:
        batch.append(item)
        held += weigh(item)
        if held >= size:
            yield batch
            batch, held = [], 0
    if batch:
        yield batch
