"""Evaluation items from local files: the questions and answers that must not stand in training text.

Comes in: files and folders in the forms that benchmarks are published in. Goes out: `EvalItem`s with stable names, in the
order of the files. Must never happen: a file passed over without a count, or an item whose name changes with the order of
the paths.

Forms: JSON lines and JSON lists (multiple choice with a gold index or letter, contexts and continuations, questions and
answers, minimal pairs, turns, code), CSV and TSV with a header, and HellaSwag's text of six lines an item; each also as .gz, .bz2,
.zst and .xz. Wrong choices are left out: they betray nothing. Of a BLiMP pair the good sentence is the item.
"""

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from puna.corpus.compressed import COMPRESSED, open_bytes
from puna.corpus.streams import WHOLE_LIMIT
from puna.errors import PunaError

_FORMS = frozenset([".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".txt"])
_CSV_FIELD = 16 << 20  # characters; a quote that is never closed ends here

# Fields of the question, in the order in which an examiner would read them out; names are compared in lower case.
_QUESTION = (
    "passage", "article", "story", "context", "ctx", "sentence_good", "sentence", "premise", "text", "instruction", "input",
    "problem", "query", "question", "goal", "prompt", "turns", "题目", "问题",
)  # fmt: skip
_ANSWER = (
    "answer", "best answer", "correct answers", "answers", "continuation", "canonical_solution", "solution", "target",
    "completion", "reference", "output", "ideal", "答案",
)  # fmt: skip
_GOLD = ("gold", "answerkey", "label", "answer", "target", "答案")
_CHOICES = ("choices", "options", "endings", "mc1_targets")
_OWN_ID = ("id", "task_id", "question_id", "qid", "pairid")
_HEAD = re.compile(r"\A\s*(?:question|passage|context|q)\s*[:：]\s*", re.IGNORECASE)
_TAIL = re.compile(r"\s{1,9}(?:answer|a)\s{0,9}[:：]\s{0,9}\Z", re.IGNORECASE)
_LETTERS = "abcdefghij"
_HELLASWAG_LINES = 6


@dataclass(frozen=True, slots=True)
class EvalItem:
    """One item of a benchmark: its task ("mmlu/test"), its name in the task, and the text that would betray it."""

    task: str
    id: str
    question: str
    answer: str


def read_items(paths: Iterable[str | Path], skipped: Counter[str] | None = None) -> Iterator[EvalItem]:
    """The items of files and folders; a folder's files in the order of their names, folders inside included.

    A task is named by its file and the folder that holds it ("mmlu/test"), so that a path may be given in any way. An item's id
    is its own where the row has one, else the number of its line (its row in JSON and CSV), from 1. In a folder, files that are
    no evaluation items are counted in `skipped`. Raises PunaError for a missing, unreadable or damaged file, for a named file that
    holds no item, and where two files would give one task its name.
    """
    skipped = Counter() if skipped is None else skipped
    seen: dict[str, Path] = {}
    for root in map(Path, paths):
        for path in _files(root, skipped):
            task = _task_of(path)
            if (other := seen.get(task)) is not None:
                if other == path.resolve():  # given twice: once by itself, once in its folder
                    continue
                raise PunaError(
                    f'two files are the task "{task}"', where=f"{other}, {path}", mend="rename one, or its folder"
                )
            count = 0
            for item in _items(path, task):
                count += 1
                yield item
            if count:
                seen[task] = path.resolve()
            elif path == root:
                raise PunaError("holds no evaluation items in a known form", where=str(path))
            else:
                skipped["file without evaluation items"] += 1


def _files(root: Path, skipped: Counter[str]) -> list[Path]:
    if root.is_file():
        if _form(root) is None:
            raise PunaError(
                "is no kind of evaluation file", where=str(root), mend=f"known are {' '.join(sorted(_FORMS))}"
            )
        return [root]
    if not root.is_dir():
        raise PunaError("no such file or folder", where=str(root))
    found: list[Path] = []
    for path in sorted(root.rglob("*"), key=lambda path: path.relative_to(root).as_posix()):
        hidden = any(part.startswith(".") for part in path.relative_to(root).parts)
        if hidden or not path.is_file():
            continue
        if _form(path) is None:
            skipped[f"unknown kind {path.suffix.lower() or '(no suffix)'}"] += 1
        else:
            found.append(path)
    if not found:
        raise PunaError("holds no evaluation file", where=str(root), mend=f"known are {' '.join(sorted(_FORMS))}")
    return found


def _form(path: Path) -> str | None:
    suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]
    if suffixes and suffixes[-1] in COMPRESSED:
        suffixes.pop()
    return suffixes[-1] if suffixes and suffixes[-1] in _FORMS else None


def _task_of(path: Path) -> str:
    path = path.resolve()
    packed = path.suffix.lower() in COMPRESSED
    name = Path(path.stem).stem if packed else path.stem
    return f"{path.parent.name}/{name}" if path.parent.name else name


def _items(path: Path, task: str) -> Iterator[EvalItem]:
    text = _text(path)
    form = _form(path)
    if form == ".txt":
        yield from _hellaswag(text, task)
        return
    names: Counter[str] = Counter()
    for number, row in _rows(text, form or "", path):
        if not isinstance(row, dict):
            continue
        question, answer = parts_of(row)
        if question or answer:
            own = next(
                (row[key] for key in row if str(key).lower() in _OWN_ID and isinstance(row[key], str | int)), number
            )
            names[name := str(own)] += 1
            yield EvalItem(task, name if names[name] == 1 else f"{name}@{number}", question, answer)


def _text(path: Path) -> str:
    """A file's text, decompressed. Raises PunaError over WHOLE_LIMIT bytes, and where it is no UTF-8."""
    parts: list[bytes] = []
    size = 0
    with open_bytes(path) as stream:
        while block := stream.read(1 << 20):
            parts.append(block)
            size += len(block)
            if size > WHOLE_LIMIT:
                raise PunaError(f"unpacks to over {WHOLE_LIMIT >> 20} MiB", where=str(path), mend="split it")
    try:
        return b"".join(parts).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise PunaError(f"is no UTF-8 ({error.reason} at byte {error.start:,})", where=str(path)) from error


def _rows(text: str, form: str, path: Path) -> Iterator[tuple[int, Any]]:
    if form in (".csv", ".tsv"):
        before = csv.field_size_limit(_CSV_FIELD)
        try:
            table = csv.DictReader(io.StringIO(text, newline=""), delimiter="\t" if form == ".tsv" else ",")
            yield from enumerate(table, 1)
        except csv.Error as error:
            raise PunaError(f"is no readable table ({error})", where=str(path)) from error
        finally:
            csv.field_size_limit(before)
    elif form == ".json":
        value = _json(text, str(path))
        if isinstance(value, dict):  # {"data": [...]} and the like: the longest list is the table
            value = max((part for part in value.values() if isinstance(part, list)), key=len, default=[value])
        yield from enumerate(value if isinstance(value, list) else [], 1)
    else:
        for number, line in enumerate(text.split("\n"), 1):
            if line.strip():
                yield number, _json(line, f"{path}:{number}")


def _json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise PunaError(f"is no JSON ({error})", where=where) from error


def _hellaswag(text: str, task: str) -> Iterator[EvalItem]:
    lines = text.rstrip("\n").split("\n")
    golds = lines[1::_HELLASWAG_LINES]
    if len(lines) % _HELLASWAG_LINES or any(gold.strip() not in ("0", "1", "2", "3") for gold in golds):
        return
    for number, gold in enumerate(golds, 1):
        start = (number - 1) * _HELLASWAG_LINES
        yield EvalItem(task, str(number), lines[start].strip(), lines[start + 2 + int(gold)].strip())


def parts_of(row: Mapping[str | None, Any]) -> tuple[str, str]:
    """The question and the gold answer of one row of a benchmark; "" for what it does not have.

    Known fields are taken by name. A gold index or letter is looked up among the choices (or the columns A, B, C, D).
    """
    fields = {key.strip().lower(): value for key, value in row.items() if isinstance(key, str)}
    options = fields.get("context_options")
    gold = next((index for key in _GOLD if (index := _index(fields.get(key))) is not None), None)
    if isinstance(options, list) and gold is not None and gold < len(options):
        return _clean(_flat(options[gold])), _clean(_flat(fields.get("continuation")))
    question = "\n".join(text for key in _QUESTION if (text := _flat(fields.get(key))))
    return _clean(question), _clean(_answer(fields, gold))


def _answer(fields: Mapping[str, Any], gold: int | None) -> str:
    choices = next((fields[key] for key in _CHOICES if key in fields), None)
    if isinstance(choices, dict):  # Hugging Face's ARC: {"text": [...], "label": [...]}
        labels, key = choices.get("label"), _flat(fields.get("answerkey"))
        if isinstance(labels, list) and key in labels:
            gold = labels.index(key)
        choices = choices.get("text")
    if choices is None and gold is not None and gold < len(_LETTERS):
        lettered = _flat(fields.get(_LETTERS[gold]))
        if lettered:
            return lettered
    if isinstance(choices, list):
        if gold is not None and gold < len(choices):
            return _flat(choices[gold])
        if gold is None and any(isinstance(choice, dict) for choice in choices):  # MT-bench's answers: choices of turns
            return "\n".join(_flat(choice.get("turns")) for choice in choices if isinstance(choice, dict))
    return next((text for key in _ANSWER if (text := _flat(fields.get(key)))), "")


def _index(value: Any) -> int | None:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    if isinstance(value, str):
        letter = value.strip().lower()
        if len(letter) == 1 and letter in _LETTERS:
            return _LETTERS.index(letter)
        if letter.isdecimal() and len(letter) < 3:
            return int(letter)
    return None


def _flat(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, list):
        return "\n".join(part for part in value if isinstance(part, str))
    if isinstance(value, dict):
        return _flat(value.get("text"))
    return ""


def _clean(text: str) -> str:
    """Without the labels that a prompt puts around a question; what a leak would copy is what stands between them."""
    return _TAIL.sub("", _HEAD.sub("", text)).strip()
