"""A user's own files and folders, as documents.

Comes in: paths from the recipe. Goes out: documents in the order of their names, with counts of what was passed over.
Must never happen: a file that is passed over without a count, or one that is opened and is not a regular file.
"""

import csv
import json
import os
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from puna.corpus import html, streams
from puna.corpus.documents import Document, language_of
from puna.corpus.fields import TextField
from puna.errors import PunaError

TEXT = frozenset([".txt", ".md", ".markdown", ".rst", ".text"])
HTML = frozenset([".html", ".htm", ".xhtml"])
LINES = frozenset([".jsonl", ".ndjson", ".jsonlines"])
TABLE = frozenset([".csv", ".tsv"])
SUFFIXES = TEXT | HTML | LINES | TABLE | {".json", ".parquet"}
COMPRESSED = frozenset([".gz", ".zst"])
RUN_MARKS = frozenset(["ledger.jsonl", "seed.json"])  # the two files that every run's folder holds
_FLUSH = 16 << 20  # characters of a text file held at once; a longer file becomes several documents of one source
_CSV_FIELD = 16 << 20  # characters; a quote that is never closed ends here
_PARQUET_ROWS = 256
_PARQUET_RATIO = 2000  # text over file bytes; dictionary pages can claim petabytes in kilobytes
_PARQUET_FLOOR = 1 << 30

# Encodings that a page may declare, as browsers read them. An open list would let a page name "punycode" or "unicode_escape".
_DECLARED = {
    "gb2312": "gb18030", "gbk": "gb18030", "gb18030": "gb18030", "big5": "big5hkscs", "shift_jis": "cp932",
    "euc-jp": "euc_jp", "euc-kr": "cp949", "iso-8859-1": "cp1252", "koi8-r": "koi8_r",
    **{f"windows-{page}": f"cp{page}" for page in range(1250, 1259)},
    **{f"iso-8859-{part}": f"iso8859_{part}" for part in (2, 3, 4, 5, 6, 7, 8, 10, 13, 14, 15, 16)},
}  # fmt: skip


@dataclass
class Tally:
    """What the readers passed over, and how they decoded what they read."""

    encodings: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file of a source: its path, and its name as documents and digests carry it."""

    path: Path
    name: str


def list_files(root: Path, label: str, tally: Tally | None = None) -> list[SourceFile]:
    """The readable files of a source in the order of their names; hidden ones, links to folders and Puna's own runs are left out.

    Raises PunaError where `root` is missing, or holds no file of a known kind.
    """
    tally = tally if tally is not None else Tally()
    try:
        mode = os.stat(root).st_mode
    except OSError as error:
        raise PunaError("no such file or folder", where=str(root)) from error
    if stat.S_ISREG(mode):
        if kind_of(root) is None:
            raise PunaError(f"is no kind of file that can be read ({_known()})", where=str(root))
        return [SourceFile(root, label)]
    if not stat.S_ISDIR(mode):
        raise PunaError("is neither a file nor a folder", where=str(root))
    files: list[SourceFile] = []

    def refuse(error: OSError) -> None:
        raise streams.unreadable(Path(error.filename or root), error)

    for folder, inner, names in os.walk(root, onerror=refuse):
        if set(names) >= RUN_MARKS:  # what Puna itself wrote is no text of the user's
            tally.skipped["folder of a Puna run"] += 1
            inner.clear()
            continue
        for name in inner:
            if name.startswith("."):
                tally.skipped["hidden folder"] += 1
            elif Path(folder, name).is_symlink():
                tally.skipped["link to a folder"] += 1
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        for name in names:
            path = Path(folder, name)
            if name.startswith("."):
                tally.skipped["hidden file"] += 1
            elif kind_of(path) is None:
                tally.skipped[f"unknown kind {path.suffix.lower() or '(no suffix)'}"] += 1
            elif not path.is_file():
                tally.skipped["not a regular file"] += 1
            else:
                files.append(SourceFile(path, f"{label}/{readable_name(path.relative_to(root).as_posix())}"))
    if not files:
        raise PunaError(f"holds no file that can be read ({_known()})", where=str(root))
    return sorted(files, key=lambda file: file.name)


def readable_name(name: str) -> str:
    """A file's name as text: bytes that are no UTF-8 (an archive's GBK names, say) are spelled out as \\xNN."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _known() -> str:
    return f"{' '.join(sorted(SUFFIXES))}, also as .gz and .zst"


def kind_of(path: Path) -> str | None:
    """The suffix that says how a file is read, without .gz or .zst; None for an unknown one."""
    suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]
    if suffixes and suffixes[-1] in COMPRESSED:
        suffixes.pop()
        if suffixes and suffixes[-1] == ".parquet":
            return None
    return suffixes[-1] if suffixes and suffixes[-1] in SUFFIXES else None


def read_file(file: SourceFile, text_field: str | None, licence: str, tally: Tally) -> Iterator[Document]:
    """The documents of one file. Raises PunaError for a damaged or hostile file, or where no text field is found."""
    kind = kind_of(file.path)
    if kind == ".parquet":
        texts: Iterator[tuple[str, str]] = _parquet(file.path, text_field, tally)
    else:
        encoding = _encoding(file.path, kind or "", tally)
        if encoding is None:
            return
        if kind in TEXT:
            texts = _plain(file.path, encoding)
        elif kind in HTML:
            texts = iter([("", html.main_text(streams.read_whole(file.path, encoding)))])
        elif kind in LINES:
            texts = _json_lines(file.path, encoding, text_field, tally)
        elif kind in TABLE:
            texts = _csv(file.path, encoding, text_field, tally)
        else:
            texts = _json(file.path, encoding, text_field, tally)
    for row, text in texts:
        yield Document(f"{file.name}{row}", text, file.name, "text", licence, language_of(text))


def _encoding(path: Path, kind: str, tally: Tally) -> streams.Encoding | None:
    encoding = streams.find_encoding(path, lines=kind in TEXT | LINES)
    if kind in HTML and (encoding is None or encoding.name.endswith("guessed")):
        with streams.open_bytes(path) as stream:
            declared = html.declared_charset(stream.read(4096))
        if codec := _DECLARED.get(declared or ""):
            encoding = streams.Encoding(f"{codec}, declared", codec, "replace")
    if encoding is None:
        tally.skipped["binary file, or in no known encoding"] += 1
        return None
    if encoding.name == "empty":
        tally.skipped["empty file"] += 1
        return None
    tally.encodings[encoding.name] += 1
    return encoding


def _plain(path: Path, encoding: streams.Encoding) -> Iterator[tuple[str, str]]:
    held: list[str] = []
    size, number = 0, 0
    for block in streams.read_blocks(path, encoding):
        held.append(block)
        size += len(block)
        cut = block.rfind("\n") + 1
        if size > _FLUSH and cut:
            yield (f"#{number}", "".join([*held[:-1], block[:cut]]))
            held, number = [block[cut:]], number + 1
            size = len(held[0])
    rest = "".join(held)
    if rest or number == 0:
        yield (f"#{number}" if number else "", rest)


def _json_lines(
    path: Path, encoding: streams.Encoding, text_field: str | None, tally: Tally
) -> Iterator[tuple[str, str]]:
    chosen = TextField(text_field, path, tally.skipped)
    for number, line in enumerate(streams.read_lines(path, encoding), 1):
        if line.strip():
            text = chosen.of(parse_json(line, f"{path}:{number}"))
            if text is not None:
                yield (f"#{number}", text)
    chosen.check()


def _json(path: Path, encoding: streams.Encoding, text_field: str | None, tally: Tally) -> Iterator[tuple[str, str]]:
    value = parse_json(streams.read_whole(path, encoding), str(path))
    chosen = TextField(text_field, path, tally.skipped)
    for number, row in enumerate(value if isinstance(value, list) else [value], 1):
        text = chosen.of(row)
        if text is not None:
            yield (f"#{number}", text)
    chosen.check()


def parse_json(text: str, where: str) -> Any:
    """A JSON value from a stranger; PunaError for bad syntax, too deep nesting and absurd numbers."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise PunaError("JSON is nested too deep", where=where) from error
    except ValueError as error:
        raise PunaError(f"is not valid JSON ({error})", where=where) from error


def _csv(path: Path, encoding: streams.Encoding, text_field: str | None, tally: Tally) -> Iterator[tuple[str, str]]:
    chosen = TextField(text_field, path, tally.skipped)
    lines = streams.read_lines(path, encoding)
    first = next(lines, "").lstrip("\ufeff")
    delimiter = max(",;\t|", key=first.count)
    header = next(csv.reader([first], delimiter=delimiter), [])
    before = csv.field_size_limit(_CSV_FIELD)
    try:
        for number, values in enumerate(csv.reader(lines, delimiter=delimiter), 2):
            if values:
                if len(values) > len(header):
                    tally.skipped["row with more fields than the header"] += 1
                    continue
                text = chosen.of(dict(zip(header, values, strict=False)))
                if text is not None:
                    yield (f"#{number}", text)
    except csv.Error as error:
        raise PunaError(f"is not valid CSV ({error})", where=str(path)) from error
    finally:
        csv.field_size_limit(before)
    chosen.check()


def _parquet(path: Path, text_field: str | None, tally: Tally) -> Iterator[tuple[str, str]]:
    limit = max(_PARQUET_FLOOR, _PARQUET_RATIO * path.stat().st_size)
    try:
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
            strings = [f.name for f in schema if pa.types.is_string(f.type) or pa.types.is_large_string(f.type)]
            chosen = TextField(text_field, path, tally.skipped)
            name = chosen.among(schema.names, strings)
            if name not in strings:
                raise PunaError(f"the field {name!r} holds {schema.field(name).type} and not text", where=str(path))
        # A dictionary column stays a dictionary: its values are not copied once for each row that repeats them.
        with pq.ParquetFile(path, read_dictionary=[name]) as file:
            number = used = 0
            for batch in file.iter_batches(batch_size=_PARQUET_ROWS, columns=[name]):
                for value in batch.column(0):
                    number += 1
                    text = value.as_py()
                    if text is None:
                        tally.skipped["row without text"] += 1
                        continue
                    used += len(text)
                    if used > limit:
                        raise PunaError("expands to far over its size", where=str(path))
                    yield (f"#{number}", text)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise PunaError(f"is not a Parquet file that can be read ({error})", where=str(path)) from error
