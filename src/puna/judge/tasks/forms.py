"""The files of benchmarks, as rows: JSON lines, JSON, CSV, HellaSwag's text of six lines an item, TruthfulQA's CSV.

Comes in: patterns of file names and the folder that they are in. Goes out: rows (field -> value), each with its place. Must never
happen: a missing file passed over, a row of unbounded size, or a row that is not what its file says.
"""

import csv
import io
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from puna.corpus.compressed import COMPRESSED, open_bytes
from puna.corpus.fields import parse_json
from puna.corpus.streams import WHOLE_LIMIT, read_all
from puna.errors import PunaError
from puna.judge.tasks.templates import MOST_LETTERS

Row = dict[str, Any]
FORMS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".txt")
MOST_FILES = 1000
MOST_BROKEN = 20  # of what is broken in a file so many are named, the rest is counted
_HELLASWAG_LINES = 6


class Placed(NamedTuple):
    """A row and where it stands: its file, its line (or number) from 1."""

    path: Path
    number: int
    row: Row

    @property
    def where(self) -> str:
        """For messages."""
        return f"{self.path}:{self.number}"


def check_limit(limit: int | None, where: str) -> None:
    """Raises PunaError for a limit below 1."""
    if limit is not None and limit < 1:
        raise PunaError(f"a limit of {limit} items asks nothing", where=where, mend="give 1 or more")


def find(
    patterns: Sequence[str], folder: Path, *, known: bool = True, inside: Sequence[Path] | None = None
) -> tuple[list[Path], list[str]]:
    """The files that patterns name, in the order of the patterns, then of the names; and the patterns that name none.

    A file may be compressed though its pattern does not say so. A pattern stays inside its folder, unless it is a plain path.
    Raises PunaError for over MOST_FILES files, with `known` for a file of an unknown kind, and with `inside` for a file that lies in
    none of these folders, links followed.
    """
    found: dict[Path, None] = {}
    missing = []
    roots = None if inside is None else [root.resolve() for root in inside]
    for pattern in patterns:
        if roots is not None and not any(letter in pattern for letter in "*?["):
            _check_inside(folder / pattern, pattern, roots)
        paths = _matches(pattern, folder)
        for path in paths if roots is not None else ():
            _check_inside(path, pattern, roots or [])
        if not paths:
            missing.append(pattern)
        found.update(dict.fromkeys(paths))
        if len(found) > MOST_FILES:
            raise PunaError(f"{pattern} names over {MOST_FILES} files", where=str(folder))
    for path in found:
        if known and form_of(path) is None:
            raise PunaError("is no kind of task file", where=str(path), mend=f"known are {' '.join(FORMS)}")
    return list(found), missing


def _check_inside(path: Path, pattern: str, roots: Sequence[Path]) -> None:
    try:
        real = path.resolve()
    except (OSError, ValueError, RuntimeError) as error:  # a loop of links, a zero byte in the name
        raise PunaError(f"data: {pattern[:200]!r} is no path", where=str(roots[0])) from error
    if not any(real.is_relative_to(root) for root in roots):
        raise PunaError(
            f"data: {pattern} lies outside the folder of the task file",
            where=str(roots[0]),
            mend="put the file beside the task file; for a text of your own write text:FILE",
        )


def _matches(pattern: str, folder: Path) -> list[Path]:
    endings = ("", *sorted(COMPRESSED))
    if not any(letter in pattern for letter in "*?["):
        try:
            return next(([path] for ending in endings if (path := folder / (pattern + ending)).exists()), [])
        except (OSError, ValueError):  # longer than a name can be, a zero byte in it: no such file can be there
            return []
    if pattern.startswith("/") or ".." in Path(pattern).parts:
        raise PunaError(f"{pattern}: a pattern stays inside its folder", where=str(folder))
    by_name: dict[str, Path] = {}
    for ending in endings:  # of "a.jsonl" and "a.jsonl.zst" the first
        for path in folder.glob(pattern + ending):
            by_name.setdefault(str(path).removesuffix(ending), path)
    return [by_name[name] for name in sorted(by_name)]


def form_of(path: Path) -> str | None:
    """The ending that says how a file is read, without its compression; None where it is no such file."""
    suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]
    if suffixes and suffixes[-1] in COMPRESSED:
        suffixes.pop()
    return suffixes[-1] if suffixes and suffixes[-1] in FORMS else None


@lru_cache(maxsize=MOST_FILES)
def stem_of(path: Path) -> str:
    """A file's name without its endings: "adjunct_island" of adjunct_island.jsonl.zst."""
    name = path.name
    for suffix in reversed(path.suffixes[-2:]):
        if suffix.lower() in COMPRESSED or suffix.lower() in FORMS:
            name = name.removesuffix(suffix)
    return name


def read_text_of(path: Path) -> str:
    """A file's text, decompressed. Raises PunaError over WHOLE_LIMIT bytes, where it is no UTF-8, and for no ordinary file."""
    try:
        ordinary = stat.S_ISREG(path.stat().st_mode)
    except OSError as error:
        raise PunaError(f"cannot be read ({error.strerror})", where=str(path)) from error
    if not ordinary:
        raise PunaError("is not an ordinary file", where=str(path))
    with open_bytes(path) as stream:
        data = read_all(stream, WHOLE_LIMIT + 1)
    if len(data) > WHOLE_LIMIT:
        raise PunaError(f"unpacks to over {WHOLE_LIMIT >> 20} MiB", where=str(path), mend="split it")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise PunaError(f"is no UTF-8 ({error.reason} at byte {error.start:,})", where=str(path)) from error


def refuse(broken: Sequence[str], where: str, mend: str) -> None:
    """Raises one PunaError that names all of these, MOST_BROKEN at most, and counts the others; nothing for none."""
    if broken:
        count = f"{len(broken):,} broken items: " if len(broken) > 1 else ""
        more = f"; and {len(broken) - MOST_BROKEN:,} more" if len(broken) > MOST_BROKEN else ""
        raise PunaError(count + "; ".join(broken[:MOST_BROKEN]) + more, where=where, mend=mend)


def rows(path: Path, form: str, text: str, broken: Callable[[str], None] | None = None) -> Iterator[Placed]:
    """The rows of a file with this text, in its order.

    What is no row is told to `broken`, with its line, and the rows after it follow; without `broken` it raises PunaError.
    """
    kind = form_of(path)
    found: Iterator[tuple[int, Any]]  # a value that cannot be a row may be the PunaError that says why
    if form == "hellaswag" and kind == ".txt":
        found = _hellaswag_text(text, path)
    elif kind == ".txt":
        mend = "write JSON lines, or CSV with a header"
        found = iter([(0, PunaError("is plain text, which holds no rows", where=str(path), mend=mend))])
    elif kind in (".csv", ".tsv"):
        found = _table(text, "\t" if kind == ".tsv" else ",", path)
    elif kind == ".json":
        found = _json(text, path)
    else:
        found = _lines(text, path)
    for number, value in found:
        try:
            row = _row(value, form, f"{path}:{number}")
        except PunaError as error:
            if broken is None:
                raise
            broken(error.line())
            continue
        yield Placed(path, number, row)


def _row(value: Any, form: str, where: str) -> Row:
    if isinstance(value, PunaError):
        raise value
    if not isinstance(value, dict):
        raise PunaError("is no row: a row is a table of fields", where=where)
    if form == "hellaswag":
        return _hellaswag(value, where)
    return _truthfulqa(value, where) if form == "truthfulqa" else value


def _parsed(text: str, where: str) -> Any:
    try:
        return parse_json(text, where)
    except PunaError as error:
        return error


def _lines(text: str, path: Path) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(text.split("\n"), 1):
        where = f"{path}:{number}"
        if len(line) > 2 * MOST_LETTERS:
            yield number, PunaError(f"is longer than {2 * MOST_LETTERS:,} characters", where=where)
        elif line.strip():
            yield number, _parsed(line, where)


def _json(text: str, path: Path) -> Iterator[tuple[int, Any]]:
    value = _parsed(text, str(path))
    if isinstance(value, dict):  # {"data": [...]} and the like: the longest list is the table
        value = max((part for part in value.values() if isinstance(part, list)), key=len, default=[value])
    if isinstance(value, list):
        yield from enumerate(value, 1)
    else:
        yield 0, value if isinstance(value, PunaError) else PunaError("holds no list of rows", where=str(path))


def _table(text: str, delimiter: str, path: Path) -> Iterator[tuple[int, Any]]:
    before = csv.field_size_limit(2 * MOST_LETTERS)
    try:
        table = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        for number, row in enumerate(table, 1):
            if None in row or None in row.values():
                yield (
                    number,
                    PunaError("has another number of fields than the header", where=f"{path}, row {number}"),
                )
            else:
                yield number, {str(key).strip(): value for key, value in row.items()}
    except csv.Error as error:
        yield 0, PunaError(f"is no readable table ({error})", where=str(path))
    finally:
        csv.field_size_limit(before)


# HellaSwag. The harness makes the question of activity_label + ": " + ctx_a + " " + ctx_b.capitalize(), then takes out what
# WikiHow left in brackets (lm_eval, tasks/hellaswag/utils.py).


def _hellaswag_text(text: str, path: Path) -> Iterator[tuple[int, Any]]:
    lines = text.removesuffix("\n").split("\n")
    if len(lines) % _HELLASWAG_LINES:
        yield 0, PunaError(f"has {len(lines):,} lines, and an item has {_HELLASWAG_LINES}", where=str(path))
        return
    for start in range(0, len(lines), _HELLASWAG_LINES):
        head, gold, *endings = lines[start : start + _HELLASWAG_LINES]
        number = start // _HELLASWAG_LINES + 1
        if gold.strip() in ("0", "1", "2", "3"):
            yield number, {"head": head, "label": int(gold), "endings": endings}
        else:
            wrong = PunaError("the second line of an item is its label, 0 to 3", where=f"{path}:{start + 2}")
            yield number, wrong


def _hellaswag(row: Row, where: str) -> Row:
    """The row with `query`, `choices` and `gold`, from the text form or from the published JSON lines."""
    if "head" in row:
        head = _capitalised(row["head"])
    else:
        parts = [row.get(key) for key in ("activity_label", "ctx_a", "ctx_b")]
        if not all(isinstance(part, str) for part in parts):
            raise PunaError("lacks activity_label, ctx_a or ctx_b", where=where)
        head = f"{parts[0]}: {parts[1]} {str(parts[2]).capitalize()}"
    endings = row.get("endings")
    if not isinstance(endings, list) or not all(isinstance(ending, str) for ending in endings):
        raise PunaError("endings is no list of texts", where=where)
    return {
        **row,
        "query": _wikihow(head),
        "choices": [_wikihow(ending) for ending in endings],
        "gold": row.get("label"),
    }


def _capitalised(head: str) -> str:
    """The text form joins ctx_a and ctx_b: a last sentence that begins with a small letter is ctx_b, and is written as the
    harness writes it, with a capital and small letters after it."""
    before, stop, last = head.rpartition(". ")
    return before + stop + last.capitalize() if stop and last[:1].islower() and not last.endswith(".") else head


def _wikihow(text: str) -> str:
    text = re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". "))
    return text.replace("  ", " ")


def _truthfulqa(row: Row, where: str) -> Row:
    """The row with `question`, `choices` (the true answers, then the false ones) and `gold` (the places of the true ones)."""
    fields = [row.get(key) for key in ("Question", "Correct Answers", "Incorrect Answers")]
    if not all(isinstance(field, str) for field in fields):
        raise PunaError("lacks Question, Correct Answers or Incorrect Answers", where=where)
    question, true, false = (str(field) for field in fields)
    right, wrong = _answers(true), _answers(false)
    wrong = [answer for answer in wrong if answer not in right]
    return {**row, "question": question.strip(), "choices": right + wrong, "gold": list(range(len(right)))}


def _answers(text: str) -> list[str]:
    """Answers parted by semicolons, each ended by a full stop, none twice: as the project's own multiple-choice file has them."""
    closed = [part if part.endswith(".") else part + "." for piece in text.split(";") if (part := piece.strip())]
    return list(dict.fromkeys(closed))
