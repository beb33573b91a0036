"""A task read from its files: every item written out as it will be asked, with its right answers.

Comes in: a `TaskSpec` and the folder of the data. Goes out: a `Task`: facts, items, examples. Must never happen: an item that is
passed over because it is broken, a sample that depends on the clock or on the order of the files, or a template that lm_eval gets
to see.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from puna.errors import PunaError
from puna.judge.measured import TaskFacts
from puna.judge.tasks import forms
from puna.judge.tasks.catalog import TEXT
from puna.judge.tasks.docs import Doc, Writer
from puna.judge.tasks.spec import TaskSpec

_NOTE_ITEMS = (
    "Few-shot examples are drawn by seed from the other items of the same file, never the item itself: the file of the "
    "published protocol's examples is not there."
)


@dataclass(frozen=True)
class Task:
    """A task that can be asked."""

    spec: TaskSpec
    facts: TaskFacts
    docs: tuple[Doc, ...]  # those that are asked, subtask by subtask
    fewshot: dict[str, tuple[Doc, ...]]  # of each subtask, where examples come from
    counts: dict[str, int]  # items of each subtask before the limit
    from_items: bool = False  # the examples are drawn from the items themselves
    seed: int = 1234
    limit: int | None = None
    files: tuple[Path, ...] = ()
    remote: dict[str, Any] = field(default_factory=dict)  # lm_eval's own objects, of a task that it reads itself

    @property
    def subtasks(self) -> tuple[str, ...]:
        """Their names in order; ("",) where there are none."""
        return tuple(self.counts)


class Missing(NamedTuple):
    """What a task lacks of its files."""

    task: str
    files: tuple[str, ...]  # names or patterns, as its task file has them
    folder: Path | None  # where they were looked for; None where no folder was given
    wrong: str = ""  # instead of missing files: what is wrong with those that are named
    where: str = ""  # where to get them

    @property
    def what(self) -> str:
        """In words, without the folder."""
        if self.wrong or self.folder is None:
            return self.wrong or f"needs its data ({', '.join(self.files)})"
        return f"{', '.join(self.files)} {'is' if len(self.files) == 1 else 'are'} not there (nor compressed)"


def read_all(specs: Sequence[TaskSpec], data: Path | None, limit: int | None = None, seed: int = 1234) -> list[Task]:
    """Reads tasks, in their order, after all files of all of them were looked for.

    Raises PunaError as `check_files` does, and then as `read_task` does.
    """
    check_files(specs, data)
    return [read_task(spec, data, limit, seed) for spec in specs]


def missing_files(specs: Sequence[TaskSpec], data: Path | None) -> list[Missing]:
    """What these tasks lack of their files, task by task: none for one that is complete, or that lm_eval reads itself."""
    found = (_find(spec, data)[3] for spec in specs if spec.kind != "remote")
    return [one for one in found if one is not None]


def check_files(specs: Sequence[TaskSpec], data: Path | None) -> None:
    """Raises one PunaError that names every missing file of every task, with where to get each."""
    _refuse(missing_files(specs, data))


def _refuse(missing: Sequence[Missing]) -> None:
    if not missing:
        return
    mend = "give --data DIR" if any(one.folder is None and not one.wrong for one in missing) else ""
    if len(missing) == 1:
        one = missing[0]
        searched = f", searched in {one.folder}" if one.folder is not None and not one.wrong else ""
        put = "" if mend or one.wrong else "put them there"
        raise PunaError(
            one.what + searched, where=one.task, mend="; ".join(filter(None, [mend, one.where or put])) or None
        )
    lines = []
    folders = {one.folder for one in missing if not one.wrong}
    for one in missing:
        searched = (
            f", searched in {one.folder}" if len(folders) > 1 and one.folder is not None and not one.wrong else ""
        )
        lines.append(f"{one.task}: {one.what}{searched}" + (f" [{one.where}]" if one.where else ""))
    common = f", searched in {folder}" if len(folders) == 1 and (folder := next(iter(folders))) is not None else ""
    raise PunaError(f"{len(missing)} tasks lack files{common}: {'; '.join(lines)}", mend=mend or None)


def read_task(spec: TaskSpec, data: Path | None, limit: int | None = None, seed: int = 1234) -> Task:
    """Reads a task's files and writes its items out.

    `limit` keeps so many items of the task, or of each of its subtasks where it has any: those with the smallest SHA-256 of
    (seed, task, subtask, id), so a larger limit keeps the same items and more, and every model gets the same ones. Raises
    PunaError for missing files (each named), for template mistakes (all of them), and for broken items (each with its line).
    """
    forms.check_limit(limit, spec.task)
    if spec.kind == "remote":
        from puna.judge.tasks.remote import read_remote

        return read_remote(spec, limit, seed)
    files, shots, from_items = _files(spec, data)
    if spec.form == "paragraphs":
        return _text(spec, files, limit, seed)
    writer = Writer(spec)
    read = {path: forms.read_text_of(path) for path in (*files, *shots)}  # each once: a digest needs it too
    by_subtask = _written(writer, {path: read[path] for path in files})
    pool = by_subtask if from_items else {}
    if shots:
        pool = _written(writer, {path: read[path] for path in shots})
    writer.check()
    if not by_subtask:
        raise PunaError("holds no items", where=", ".join(map(str, files)))
    fewshot = {name: tuple(pool.get(name, pool.get("", ()))) for name in by_subtask} if spec.shots else {}
    for name, found in fewshot.items():
        if len(found) < spec.shots + from_items:
            of_one = f" for {name}" if name else ""
            raise PunaError(f"{len(found)} examples{of_one}, and the task shows {spec.shots}", where=spec.task)
    docs = tuple(doc for name in by_subtask for doc in keep_sample(by_subtask[name], spec.task, limit, seed))
    return Task(
        spec, _facts(spec, by_subtask, read.values(), from_items), docs, fewshot,
        {name: len(of_one) for name, of_one in by_subtask.items()}, from_items, seed, limit, (*files, *shots),
    )  # fmt: skip


def text_task(
    paths: Sequence[Path], name: str = "text", title: str = "", limit: int | None = None, seed: int = 1234
) -> Task:
    """Bits per byte on any text: `.jsonl`, `.json` and `.csv` by their field `text`, other files by their paragraphs.

    A document of a row is one item, and stands alone. A plain file's paragraphs (parted by blank lines) are gathered to about 2,000
    bytes; neighbours are not independent, so blocks of them are the clusters (see `texts.block`).
    """
    spec = TaskSpec(
        task=name, title=title, kind="text", form="paragraphs", data=tuple(map(str, paths)), text="{{ text }}"
    )
    return _text(spec, list(paths), limit, seed)


def _text(spec: TaskSpec, paths: Sequence[Path], limit: int | None, seed: int) -> Task:
    from puna.judge.tasks.texts import block, holds_rows, pieces

    docs: list[Doc] = []
    read = {path: forms.read_text_of(path) for path in paths}
    names = [path.name for path in paths]
    broken: list[str] = []
    for path, whole in read.items():
        name = path.name if names.count(path.name) == 1 else f"{path.parent.name}/{path.name}"
        found = list(pieces(path, whole, broken.append))
        size = 0 if holds_rows(path) else block(len(found))
        for number, (label, text) in enumerate(found):
            where, cluster = f"{path}:{label}", f"{name}, part {number // size + 1}" if size else ""
            docs.append(Doc(f"{name}:{label}", "", cluster, text, "", "", (), (), (text,), "", len(docs), where))
    forms.refuse(broken, spec.task, "mend the file")
    if not docs:
        raise PunaError("holds no text", where=", ".join(map(str, paths)))
    kept = keep_sample(docs, spec.task, limit, seed)
    facts = _facts(spec, {"": docs}, read.values(), False)
    return Task(spec, facts, tuple(kept), {}, {"": len(docs)}, False, seed, limit, tuple(paths))


def _files(spec: TaskSpec, data: Path | None) -> tuple[list[Path], list[Path], bool]:
    files, shots, from_items, missing = _find(spec, data)
    if missing is not None:
        _refuse([missing])
    return files, shots, from_items


def _find(spec: TaskSpec, data: Path | None) -> tuple[list[Path], list[Path], bool, Missing | None]:
    """The files of the items, those of the examples, whether the items are the examples, and what is missing of the files."""
    folder = spec.folder or data
    needed = (*spec.data, *(spec.fewshot if spec.shots and spec.fewshot_else == "refuse" else ()))
    if folder is None:
        return [], [], False, Missing(spec.task, needed, None, where=spec.where)
    # A task file may be a stranger's, and its items are published; `text:FILE` was typed by the user.
    free = spec.folder is None or spec.typed.startswith(TEXT)
    inside = None if free else [folder, *([data] if data else [])]
    known = spec.form != "paragraphs" or not free
    try:
        files, missing = forms.find(spec.data, folder, known=known, inside=inside)
        shots, absent = forms.find(spec.fewshot, folder, inside=inside) if spec.shots else ([], [])
    except PunaError as error:
        return [], [], False, Missing(spec.task, needed, folder, wrong=error.line())
    from_items = bool(spec.shots) and spec.fewshot_else == "items" and (not shots or bool(absent))
    if from_items:
        shots = []
    else:
        missing += absent
    lacks = Missing(spec.task, tuple(dict.fromkeys(missing)), folder, where=spec.where) if missing else None
    return files, shots, from_items, lacks


def _written(writer: Writer, texts: Mapping[Path, str]) -> dict[str, list[Doc]]:
    """The items of all files, by subtask, in the order of the files; ids made stable and unique."""
    names: dict[str, int] = {}
    by_subtask: dict[str, list[Doc]] = {}
    ids: set[str] = set()
    form = writer.spec.form
    for one in (placed for path, text in texts.items() for placed in forms.rows(path, form, text, writer.note)):
        doc = writer.write(one, names)
        if doc is None:
            continue
        if doc.id in ids:
            writer.note(f"{one.where}: its id {doc.id[:60]!r} stands twice")
        ids.add(doc.id)
        by_subtask.setdefault(doc.subtask, []).append(doc)
    return by_subtask


def keep_sample(docs: Sequence[Doc], task: str, limit: int | None, seed: int) -> list[Doc]:
    """The items that a limit keeps, in their order; `read_task` tells which."""
    if limit is None or limit >= len(docs):
        return list(docs)
    drawn = sorted(docs, key=lambda doc: hashlib.sha256(f"{seed}\0{task}\0{doc.subtask}\0{doc.id}".encode()).digest())[
        :limit
    ]
    return sorted(drawn, key=lambda doc: doc.place)


def _facts(
    spec: TaskSpec, by_subtask: Mapping[str, Sequence[Doc]], texts: Iterable[str], from_items: bool
) -> TaskFacts:
    chances = {name: _chance(docs) for name, docs in by_subtask.items()}
    known = {name: chance for name, chance in chances.items() if chance is not None}
    count = sum(map(len, by_subtask.values()))
    chance = spec.chance
    if chance is None and known:
        if spec.aggregate == "subtasks":
            chance = sum(known.values()) / len(known)
        else:
            chance = sum(known[name] * len(docs) for name, docs in by_subtask.items()) / count
    text = spec.kind == "text"
    return TaskFacts(
        name=spec.task, title=spec.title or spec.task, kind=spec.kind, metric=spec.metrics[0], higher_is_better=not text,
        unit="bits per byte" if text else "share", chance=chance,
        chances=known if spec.chance is None and len(by_subtask) > 1 else {}, shots=spec.shots, language=spec.language,
        aggregate=spec.aggregate, digest=spec_digest(spec), data_digest=texts_digest(texts), items_in_all=count,
        source=spec.source, licence=spec.licence, notes=(*spec.notes, *_notes(spec, len(by_subtask), from_items)),
    )  # fmt: skip


def _notes(spec: TaskSpec, subtasks: int, from_items: bool) -> list[str]:
    fewer = spec.subtasks is not None and subtasks < spec.subtasks
    return [
        *(
            [f"Of the published {spec.subtasks} subtasks {subtasks} are there, and the score is of these."]
            if fewer
            else []
        ),
        *([_NOTE_ITEMS] if from_items else []),
    ]


def _chance(docs: Sequence[Doc]) -> float | None:
    """What guessing gives: the mean share of right choices. Of the mass of the right answers (mc2) it is the same."""
    shares = [len(doc.gold) / len(doc.choices) for doc in docs if doc.choices]
    return sum(shares) / len(shares) if len(shares) == len(docs) and docs else None


def spec_digest(spec: TaskSpec) -> str:
    """SHA-256 of what a task file says that can change a score; its title, source and notes cannot."""
    said = spec.model_dump(mode="json", exclude={"title", "where", "source", "licence", "notes", "data", "fewshot"})
    return hashlib.sha256(json.dumps(said, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def texts_digest(texts: Iterable[str]) -> str:
    """SHA-256 over the unpacked texts of the files, in order: the same however they are packed and wherever they lie."""
    whole = hashlib.sha256()
    for text in texts:
        whole.update(hashlib.sha256(text.encode()).digest())
    return whole.hexdigest()
