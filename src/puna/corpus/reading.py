"""First pass: every source as raw parts of bounded size.

Comes in: the recipe's sources. Goes out: the shelf "read", a part for each piece of a source, its documents as they were read
(web pages still as markup). Must never happen: a part that holds more than a worker's memory, or a row that Parquet cannot hold.

A big file is cut where its format allows (lines, row groups); any other is read by one worker, which writes a new piece each
time a part is full. So one file is not one task of the passes that follow.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from puna.corpus import hub, python, readers, sources
from puna.corpus.clean import without_surrogates
from puna.corpus.compressed import Damaged
from puna.corpus.context import Setting
from puna.corpus.documents import RAW_SCHEMA, Document, TableWriter
from puna.corpus.fields import NoTextField
from puna.corpus.readers import Split, Tally
from puna.corpus.steps import Step
from puna.errors import PunaError
from puna.progress import Progress
from puna.recipe.corpus import PYTHON_SOURCE

SHELF = "read"
_GROUP_BYTES = 4 << 20  # of files, small ones or compressed ones, that one task reads
_SPLIT_BYTES = 64 << 20  # of a file that can be cut: enough tasks for any machine, few enough to list


@dataclass(frozen=True)
class Task:
    """What one worker reads: a piece of a file of a source, some small files, or a shard of a data set on a hub."""

    label: str
    licence: str
    profile: str
    splits: tuple[Split, ...] = ()
    shard: hub.Shard | None = None
    of_folder: bool = False  # the splits are of files that a folder happens to hold

    @property
    def is_web(self) -> bool:
        """Whether its documents are pages of the web, as far as the files' names tell."""
        crawled = readers.WARC | readers.HTML
        return self.profile == "web" or (
            self.profile == "auto" and any(_kind(split) in crawled for split in self.splits)
        )

    @property
    def size(self) -> int:
        """Bytes on disk or on the hub."""
        return sum(split.file.path.stat().st_size for split in self.splits) + (self.shard.size if self.shard else 0)


class Read:
    """The job of this pass: part number n reads task n."""

    def __init__(self, setting: Setting, tasks: dict[str, Task]) -> None:
        self.setting, self.tasks = setting, tasks

    def __call__(self, part: str) -> None:
        """Read one task and put its pieces on the shelf."""
        task, tally = self.tasks[part], Tally()
        write_task(self.setting, part, task, self._documents(task, tally), tally)

    def _documents(self, task: Task, tally: Tally) -> Iterator[Document]:
        field = self.setting.config.text_field
        for split in task.splits:
            try:
                yield from readers.read_split(split, field, task.licence, tally)
            except (NoTextField, Damaged) as error:
                # A file that the recipe names is a mistake; in a folder it may be a list of settings, or one bad file of many.
                if not task.of_folder:
                    raise
                why = "no known text field" if isinstance(error, NoTextField) else "damaged"
                tally.skipped[f"file passed over, {why}: {split.file.name}"] += 1
        if task.shard is not None:
            with hub.fetched(task.shard) as file:
                yield from readers.read_file(file, field, task.licence, tally)


def write_task(setting: Setting, part: str, task: Task, documents: Iterable[Document], tally: Tally) -> None:
    """Write the documents of one task as pieces of at most a part's bytes (one document may be longer)."""
    step = Step("read")
    facts: dict[str, Any] = {"pieces": []}
    shelf = setting.shelf(SHELF)
    with shelf.writing(part, facts) as folder:
        rows = _rows(documents, task, step, tally.skipped)
        number, row = 0, next(rows, None)
        while row is not None:
            with TableWriter(folder / f"{number:05}.parquet", RAW_SCHEMA) as writer:
                while row is not None and (writer.rows == 0 or writer.bytes < setting.part_bytes):
                    writer.add(row)
                    row = next(rows, None)
            facts["pieces"].append({"rows": writer.rows, "bytes": writer.bytes})
            number += 1
        facts |= {"label": task.label, "encodings": dict(tally.encodings), "skipped": dict(tally.skipped),
                  "step": step.report()}  # fmt: skip


def _rows(documents: Iterable[Document], task: Task, step: Step, skipped: Counter[str]) -> Iterator[dict[str, Any]]:
    for item in documents:
        if not item.text.strip():
            skipped["document without text"] += 1
            continue
        text = without_surrogates(item.text)
        if text != item.text:
            step.changed["lone surrogates"] += 1
        size = len(text.encode())
        step.enter(size)
        step.leave(size)
        web = task.profile == "web" or (task.profile == "auto" and (item.kind == "html" or bool(item.url)))
        yield {"id": item.id, "text": text, "source": item.source, "kind": item.kind, "licence": item.licence,
               "lang": item.lang, "label": task.label, "url": item.url, "web": web}  # fmt: skip


def tasks_of(setting: Setting, tally: Tally) -> dict[str, Task]:
    """All that is to be read, numbered in reading order; curated text first, so that a page that quotes a book is the copy.

    The running Python, if it is a source, has neither split nor shard: `python.collect` reads it.
    Raises PunaError where a source is missing or holds nothing that can be read.
    """
    found: list[Task] = []
    for source in sources.all_sources(setting.config):
        said = (source.label, source.licence, source.profile)
        if source.path == PYTHON_SOURCE:
            found.append(Task(*said))
        elif source.hub:
            found += [Task(*said, shard=shard) for shard in hub.list_dataset(source.path).shards]
        else:
            root = Path(source.path).expanduser()
            files = readers.list_files(root, source.label, tally)
            found += [Task(*said, splits=splits, of_folder=root.is_dir()) for splits in _grouped(files)]
    found.sort(key=lambda task: task.is_web)
    return {f"{number:06}": task for number, task in enumerate(found)}


def _kind(split: Split) -> str | None:
    return readers.kind_of(split.file.path)


def _grouped(files: list[readers.SourceFile]) -> Iterator[tuple[Split, ...]]:
    """The splits of all files in order, small ones together: a folder of a million pages is not a million tasks."""
    group: list[Split] = []
    held = 0
    for file in files:
        try:
            splits = readers.splits_of(file, _SPLIT_BYTES)
        except Damaged:
            splits = [Split(file)]  # whoever reads it says so
        size = file.path.stat().st_size
        other = bool(group) and _kind(group[-1]) != _kind(splits[0])  # a task is web or it is not
        if group and (len(splits) > 1 or held + size > _GROUP_BYTES or other):
            yield tuple(group)
            group, held = [], 0
        if len(splits) > 1:
            yield from ((split,) for split in splits)
            continue
        group += splits
        held += size
    if group:
        yield tuple(group)


def pieces_of(setting: Setting) -> list[str]:
    """The raw parts in reading order: "000003/00001"."""
    shelf = setting.shelf(SHELF)
    return [f"{part}/{number:05}" for part in shelf.names() for number in range(len(shelf.facts(part)["pieces"]))]


def check_sources(setting: Setting) -> None:
    """Raises PunaError for a source of which not one document came out."""
    rows: Counter[str] = Counter()
    skipped: dict[str, Counter[str]] = {}
    shelf = setting.shelf(SHELF)
    for part in shelf.names():
        facts = shelf.facts(part)
        rows[facts["label"]] += sum(piece["rows"] for piece in facts["pieces"])
        skipped.setdefault(facts["label"], Counter()).update(facts["skipped"])
    for source in sources.all_sources(setting.config):
        if not rows[source.label]:
            why = ", ".join(f"{reason}: {n}" for reason, n in sorted(skipped.get(source.label, Counter()).items()))
            raise PunaError(f"holds no text ({why or 'its files are empty'})", where=source.path)


def read_python(setting: Setting, part: str, task: Task, progress: Progress) -> python.PythonCorpus:
    """The running Python's documents, as the part of that number, and what else is made of it later."""
    progress.start("reading the running Python")
    found = python.collect()
    tally = Tally(found.encodings, found.skipped)
    if not setting.shelf(SHELF).has(part):
        write_task(setting, part, task, found.documents, tally)
    found.documents = []  # they are on disk now
    progress.finish()
    return found
