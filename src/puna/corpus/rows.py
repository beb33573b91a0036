"""Files of rows (JSON lines, JSON, CSV, Parquet), as the text of each row.

Comes in: a path, or a part of one. Goes out: (name of the row, text). The name says where in the file the row is (a byte, or
its number), so it is the same however the file is split. Must never happen: a run that one bad row ends, or memory that
grows with the file.
"""

import csv
import io
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from puna.corpus import streams
from puna.corpus.compressed import COMPRESSED, Damaged, Hostile, Readable, open_bytes
from puna.corpus.fields import TextField, parse_json
from puna.corpus.streams import Encoding
from puna.corpus.tally import Tally
from puna.errors import PunaError

HEAD = 1 << 20  # bytes of a file by which its encoding is known
_CSV_FIELD = 16 << 20  # characters; a quote that is never closed ends here
_CSV_ROW = 64 << 20  # characters of one row, over all its lines
_PARQUET_ROWS = 256
_PARQUET_RATIO = 2000  # text over file bytes; dictionary pages can claim petabytes in kilobytes
_PARQUET_FLOOR = 1 << 30
_ROWS_PER_BYTE = 100  # of a Parquet file; a column of one repeated value has about 10
_ROWS_FLOOR = 10_000_000
_NO_PARQUET = (pa.ArrowException, OSError, UnicodeDecodeError, OverflowError)


def lines_encoding(path: Path) -> Encoding | None:
    """How to decode a file of JSON lines, by its first mebibyte; None if it is binary or in no known encoding.

    A few bad lines do not make it another encoding: it is UTF-8 if most of its lines are, and look like JSON.
    """
    with open_bytes(path, Counter()) as stream:
        head = streams.read_all(stream, HEAD)
    encoding = streams.encoding_of(io.BytesIO(head))
    if encoding is None or encoding.name.endswith("guessed"):
        lines = [line.strip() for line in head.split(b"\n") if line.strip()]
        if 2 * sum(line[:1] in (b"{", b"[", b'"') and _is_utf8(line) for line in lines) > len(lines):
            return Encoding("utf-8, damaged", "utf-8")
    return encoding


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


def json_lines(
    path: Path, encoding: Encoding, text_field: str | None, tally: Tally, start: int, stop: int | None
) -> Iterator[tuple[str, str]]:
    """The rows whose lines begin in the bytes [start, stop), each named by "@" and the byte that its line begins at.

    `encoding` is that of the file's head; a line that does not follow it is decoded by its own letters, or is bad. Raises
    PunaError where no field holds text, or (told by a reader that begins at 0) where the file holds little but bad lines.
    """
    chosen = TextField(text_field, path, tally.skipped)
    if start and text_field is None:
        _find_field(chosen, path, encoding)
    wide = encoding.codec in ("utf-16", "utf-32")
    codec = "utf-8" if wide or encoding.codec == "utf-8-sig" else encoding.codec
    with open_bytes(path, tally.skipped, start=max(0, start - 1)) as raw:
        stream: Readable = streams.Utf8(raw, encoding.codec) if wide else raw
        for offset, line in streams.byte_lines(stream, start, stop, tally.skipped):
            if not line.strip():
                continue
            decoded = streams.decode_line(line, codec)
            if decoded is None:
                chosen.bad("line in no known encoding", f"byte {offset}")
                continue
            text, note = decoded
            try:
                row = json.loads(text.removeprefix("\ufeff") if offset == 0 else text)
            except (ValueError, RecursionError) as error:
                chosen.bad("line that is no valid JSON", f"byte {offset}: {error}")
                continue
            if note:
                tally.encodings[note] += 1
            found = chosen.of(row)
            if found is not None:
                yield f"@{offset}", found
    if start == 0:
        chosen.check()


def _find_field(chosen: TextField, path: Path, encoding: Encoding) -> None:
    # The field is that of the file's first rows, in whichever part of the file it is asked for.
    unheard = Tally()
    probe = TextField(None, path, unheard.skipped)
    with open_bytes(path) as stream:
        for _, line in streams.byte_lines(stream, 0, None, unheard.skipped):
            decoded = streams.decode_line(line, encoding.codec)
            try:
                row = json.loads(decoded[0].removeprefix("\ufeff")) if decoded else None
            except (ValueError, RecursionError):
                continue
            if isinstance(row, dict):
                probe.of(row)
                if probe.found:
                    chosen.take(probe)
                    return


def whole_json(path: Path, encoding: Encoding, text_field: str | None, tally: Tally) -> Iterator[tuple[str, str]]:
    """The rows of one JSON value: of a list, or the value itself. Raises PunaError where it is no JSON."""
    value = parse_json(streams.read_whole(path, encoding, tally.skipped), str(path))
    chosen = TextField(text_field, path, tally.skipped)
    for number, row in enumerate(value if isinstance(value, list) else [value], 1):
        text = chosen.of(row)
        if text is not None:
            yield f"#{number}", text
    chosen.check()


class _RowLines:
    """Lines for the CSV reader, which holds a whole row: one that never ends is stopped."""

    def __init__(self, lines: Iterator[str]) -> None:
        self._lines, self.held = lines, 0

    def __iter__(self) -> "_RowLines":
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        self.held += len(line)
        if self.held > _CSV_ROW:
            raise csv.Error(f"row longer than {_CSV_ROW >> 20} MiB")
        return line


def table(path: Path, encoding: Encoding, text_field: str | None, tally: Tally) -> Iterator[tuple[str, str]]:
    """The rows of a CSV or TSV file. Raises PunaError where no field holds text, or little but bad rows is in it."""
    lines = _RowLines(streams.read_lines(path, encoding, tally.skipped))
    first = next(lines, "").lstrip("\ufeff")
    delimiter = max(",;\t|", key=first.count)
    before = csv.field_size_limit(_CSV_FIELD)
    try:
        header = next(csv.reader([first], delimiter=delimiter), [])
        name = TextField(text_field, path, tally.skipped).among(header, header)
        chosen = TextField(name, path, tally.skipped)
        reader = csv.reader(lines, delimiter=delimiter)
        number = 1
        while True:
            lines.held, number = 0, number + 1
            try:
                values = next(reader)
            except StopIteration:
                break
            except csv.Error as error:
                chosen.bad("row that is no valid CSV", f"row {number}: {error}")
                continue
            if len(values) > len(header):
                chosen.bad("row with more fields than the header", f"row {number}")
            elif values:
                text = chosen.of(dict(zip(header, values, strict=False)))
                if text is not None:
                    yield f"#{number}", text
    except csv.Error as error:
        raise PunaError(f"is not valid CSV ({error})", where=str(path)) from error
    finally:
        csv.field_size_limit(before)
    chosen.check()


def parquet_groups(path: Path) -> list[int]:
    """Compressed bytes of each row group, as the file's own table of contents has them. Raises PunaError, Hostile."""
    try:
        with pq.ParquetFile(path) as file:
            _refuse_absurd(file, path)
            groups = [file.metadata.row_group(number) for number in range(file.num_row_groups)]
            return [
                sum(group.column(column).total_compressed_size for column in range(group.num_columns))
                for group in groups
            ]
    except _NO_PARQUET as error:
        raise _no_parquet(path, error) from error


def parquet(
    path: Path, text_field: str | None, tally: Tally, start: int, stop: int | None
) -> Iterator[tuple[str, str]]:
    """The rows of the row groups [start, stop), named by "#" and their number in the file.

    Raises Hostile where the file claims, or its text grows to, what no file of its size holds.
    """
    limit = max(_PARQUET_FLOOR, _PARQUET_RATIO * path.stat().st_size)
    try:
        with pq.ParquetFile(path) as file:
            _refuse_absurd(file, path)
            schema = file.schema_arrow
            strings = [f.name for f in schema if pa.types.is_string(f.type) or pa.types.is_large_string(f.type)]
            name = TextField(text_field, path, tally.skipped).among(schema.names, strings)
            if name not in strings:
                raise PunaError(f"the field {name!r} holds {schema.field(name).type} and not text", where=str(path))
            groups = range(start, file.num_row_groups if stop is None else stop)
            number = sum(file.metadata.row_group(group).num_rows for group in range(start))
        if not groups:
            return
        # A dictionary column stays a dictionary: its values are not copied once for each row that repeats them.
        with pq.ParquetFile(path, read_dictionary=[name]) as file:
            used, last = 0, number + _row_limit(path)
            for batch in file.iter_batches(batch_size=_PARQUET_ROWS, row_groups=list(groups), columns=[name]):
                for value in batch.column(0):
                    number += 1
                    text = value.as_py()
                    used += len(text or "")
                    if used > limit or number > last:
                        raise Hostile("expands to far over its size", where=str(path))
                    if text is None:
                        tally.skipped["row without text"] += 1
                    else:
                        yield f"#{number}", text
    except _NO_PARQUET as error:
        raise _no_parquet(path, error) from error


def _row_limit(path: Path) -> int:
    return max(_ROWS_FLOOR, _ROWS_PER_BYTE * path.stat().st_size)


def _refuse_absurd(file: pq.ParquetFile, path: Path) -> None:
    groups = [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)]
    rows = max(file.metadata.num_rows, sum(groups))
    if rows > _row_limit(path) or min([file.metadata.num_rows, *groups], default=0) < 0:
        raise Hostile(f"claims {rows:,} rows, which no file of its size holds", where=str(path))


def _no_parquet(path: Path, error: Exception) -> PunaError:
    return Damaged(f"is not a Parquet file that can be read ({error})", where=str(path))


def splittable(path: Path) -> bool:
    """Whether a file's lines can be read from the middle: it is not compressed, and its bytes are not UTF-16 or UTF-32."""
    if path.suffix.lower() in COMPRESSED:
        return False
    with open_bytes(path) as stream:
        return not stream.read(4).startswith((b"\xff\xfe", b"\xfe\xff", b"\0\0\xfe\xff"))
