"""A user's own files and folders, as documents.

Comes in: paths from the recipe. Goes out: documents in the order of their names, with counts of what was passed over; HTML as
markup, which `extract` turns into text later and in parallel. Big files are read in parts: a document's id and text are
the same in whichever parts. Must never happen: a file that is passed over without a count, or one that is opened and is not a
regular file.
"""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path, PurePosixPath

from puna.corpus import archives, html, pdf, rows, streams, warc
from puna.corpus.compressed import COMPRESSED as COMPRESSED
from puna.corpus.compressed import SHORT, Hostile, open_bytes
from puna.corpus.documents import Document
from puna.corpus.fields import parse_json as parse_json
from puna.corpus.tally import Tally as Tally
from puna.errors import PunaError

TEXT = frozenset([".txt", ".md", ".markdown", ".rst", ".text"])
HTML = frozenset([".html", ".htm", ".xhtml"])
LINES = frozenset([".jsonl", ".ndjson", ".jsonlines"])
TABLE = frozenset([".csv", ".tsv"])
WARC = frozenset([".warc", ".wet"])
ARCHIVES = frozenset([".tar", ".zip"])
WHOLE = frozenset([".parquet", ".pdf", ".zip"])  # what is never compressed once more
SUFFIXES = TEXT | HTML | LINES | TABLE | WARC | ARCHIVES | WHOLE | {".json"}
RUN_MARKS = frozenset(["ledger.jsonl", "seed.json"])  # the two files that every run's folder holds
_PIECE = 16 << 20  # bytes of a text file; a longer file becomes several documents of one source
_PAGE = 32 << 20  # bytes of an HTML file


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file of a source: its path, and its name as documents and digests carry it."""

    path: Path
    name: str


@dataclass(frozen=True, slots=True)
class Split:
    """A part of a file: bytes [start, stop) of lines or text, row groups of Parquet, else (0, None) for all of it."""

    file: SourceFile
    start: int = 0
    stop: int | None = None


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
    return f"{' '.join(sorted(SUFFIXES))}, most of them also as {' '.join(sorted(COMPRESSED))}"


def kind_of(path: PurePosixPath | Path) -> str | None:
    """The suffix that says how a file is read, without .gz and its like; None for an unknown one."""
    suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]
    if suffixes:
        suffixes[-1:] = [".tar", SHORT[suffixes[-1]]] if suffixes[-1] in SHORT else suffixes[-1:]
    if suffixes and suffixes[-1] in COMPRESSED:
        suffixes.pop()
        if suffixes and suffixes[-1] in WHOLE:
            return None
    return suffixes[-1] if suffixes and suffixes[-1] in SUFFIXES else None


def splits_of(file: SourceFile, target_bytes: int) -> list[Split]:
    """The parts of a file, of about `target_bytes` where its kind can be read from the middle; else the file.

    The documents of all parts together, their ids and their order are those of the whole file.
    """
    if target_bytes < 1:
        raise ValueError(f"target_bytes must be positive; got {target_bytes}")
    kind, size = kind_of(file.path), file.path.stat().st_size
    marks = [0]
    if size > target_bytes and kind == ".parquet":
        held = 0
        for group, packed in enumerate(rows.parquet_groups(file.path)):
            if held >= target_bytes:
                marks.append(group)
                held = 0
            held += packed
    elif size > target_bytes and (kind in LINES or (kind in TEXT and size > _PIECE)) and rows.splittable(file.path):
        step = target_bytes if kind in LINES else max(1, target_bytes // _PIECE) * _PIECE
        marks = list(range(0, size, step))
    return [Split(file, start, stop) for start, stop in zip(marks, [*marks[1:], None], strict=True)]


def read_file(file: SourceFile, text_field: str | None, licence: str, tally: Tally) -> Iterator[Document]:
    """The documents of a whole file, as `read_split` gives them."""
    return read_split(Split(file), text_field, licence, tally)


def read_split(split: Split, text_field: str | None, licence: str, tally: Tally) -> Iterator[Document]:
    """The documents of one part of a file; `kind` "html" has markup as its text, and `lang` is always "und".

    Bad records are counted in `tally`. Raises PunaError where no text field is found, or nothing but bad records is in the file;
    Hostile, a PunaError too, where it goes over a limit (a bomb).
    """
    file = split.file
    kind = kind_of(file.path)
    if kind in ARCHIVES:
        yield from _archive(file, text_field, licence, tally)
        return
    for row, text, form, url in _texts(split, kind or "", text_field, tally):
        yield Document(f"{file.name}{row}", text, file.name, form, licence, "und", url)


def _texts(split: Split, kind: str, text_field: str | None, tally: Tally) -> Iterator[tuple[str, str, str, str]]:
    # (name of the row, text or markup, kind of document, address)
    path = split.file.path
    if kind in WARC:
        for page in warc.pages(path, tally):
            yield f"#{page.number}", page.text, "html" if page.markup else "text", page.url
    elif kind in HTML:
        if markup := _page(path, tally):
            yield "", markup, "html", ""
    elif kind == ".pdf":
        if text := pdf.text_of(path, tally):
            yield "", text, "text", ""
    else:
        for row, text in _rows(split, kind, text_field, tally):
            yield row, text, "text", ""


def _rows(split: Split, kind: str, text_field: str | None, tally: Tally) -> Iterator[tuple[str, str]]:
    path = split.file.path
    if kind == ".parquet":
        yield from rows.parquet(path, text_field, tally, split.start, split.stop)
        return
    # Lines are judged one by one, and a text by its first piece: else each part of a file would read all of it.
    if kind in LINES:
        encoding = rows.lines_encoding(path)
    else:
        encoding = streams.find_encoding(path, lines=False, limit=_PIECE if kind in TEXT else None)
    if encoding is None or encoding.name == "empty":
        tally.skipped["empty file" if encoding else "binary file, or in no known encoding"] += 1
        return
    if split.start == 0:
        tally.encodings[encoding.name] += 1
    if kind in LINES:
        yield from rows.json_lines(path, encoding, text_field, tally, split.start, split.stop)
    elif kind in TABLE:
        yield from rows.table(path, encoding, text_field, tally)
    elif kind in TEXT:
        yield from _text(split, encoding, tally)
    else:
        yield from rows.whole_json(path, encoding, text_field, tally)


def _text(split: Split, encoding: streams.Encoding, tally: Tally) -> Iterator[tuple[str, str]]:
    path = split.file.path
    wide = encoding.codec in ("utf-16", "utf-32")
    codec = "utf-8" if wide else encoding.codec
    with open_bytes(path, tally.skipped, start=max(0, split.start - 1)) as raw:
        stream = streams.Utf8(raw, encoding.codec) if wide else raw
        pieces = streams.byte_pieces(stream, split.start, split.stop, _PIECE, tally.skipped)
        first = next(pieces, None)
        if first is None:
            if split.start == 0:
                tally.skipped["empty file"] += 1
            return
        second = next(pieces, None)
        packed = path.suffix.lower() in COMPRESSED
        numbered = second is not None if packed else path.stat().st_size > _PIECE
        for number, data in chain([first], [second] if second else [], pieces):
            yield f"#{number}" if numbered else "", data.decode(codec, encoding.errors)


def _page(path: Path, tally: Tally) -> str:
    with open_bytes(path, tally.skipped) as stream:
        data = streams.read_all(stream, _PAGE + 1)
    if len(data) > _PAGE:
        tally.skipped[f"page over {_PAGE >> 20} MiB"] += 1
        return ""
    decoded = html.decode_page(data)
    if decoded is None or decoded[1] == "empty":
        tally.skipped["empty file" if decoded else "binary file, or in no known encoding"] += 1
        return ""
    tally.encodings[decoded[1]] += 1
    return decoded[0]


def _archive(file: SourceFile, text_field: str | None, licence: str, tally: Tally) -> Iterator[Document]:
    def suffix_of(name: str) -> str | None:
        path = PurePosixPath(name)
        kind = kind_of(path)
        if path.name.startswith(".") or "__MACOSX" in path.parts:
            tally.skipped["hidden file"] += 1
        elif kind in ARCHIVES or path.suffix.lower() in (".7z", ".rar"):
            tally.skipped["archive inside an archive"] += 1
        elif kind is None:
            tally.skipped[f"unknown kind {path.suffix.lower()[:20] or '(no suffix)'}"] += 1
        else:
            packed = path.suffix.lower() if path.suffix.lower() in COMPRESSED else ""
            return f"{kind}{packed}"
        return None

    for member in archives.members(file.path, suffix_of, tally):
        inside = SourceFile(member.path, f"{file.name}/{readable_name(member.name)}")
        try:
            yield from read_split(Split(inside), text_field, licence, tally)
        except Hostile as error:
            raise Hostile(error.what, where=f"{file.path}: {member.name}", mend=error.mend) from error
        except PunaError:
            tally.skipped["archive member that cannot be read"] += 1
