"""Text in, clean documents out: the way through the room.

Comes in: `[corpus]` of the recipe. Goes out: a folder with train.parquet, heldout.parquet, corpus.json, contamination.json and,
for the default corpus, functions.jsonl. Must never happen: a document lost without a count, or text on both sides of the split.

Between two passes over the parts (each in its own file, each part by itself, many at a time) stands a barrier: a question to all
parts at once. read - clean - [equal documents, training of the scorers] - score - [marks, equal paragraphs] - reduce -
[near-duplicates, repeated passages] - finish - [what is held out] - separate.
"""

import errno
import importlib.util
import platform
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from puna.corpus import (
    cleaning,
    decontaminate,
    evalitems,
    finishing,
    frames,
    functions,
    holdout,
    language,
    neardup,
    python,
    reading,
    reducing,
    scorers,
    scoring,
    sources,
    summary,
)  # fmt: skip
from puna.corpus.context import Setting
from puna.corpus.correct import load_blocklist
from puna.corpus.documents import FINAL_SCHEMA, TableWriter, read_rows
from puna.corpus.frames import Job
from puna.corpus.parts import Shelf
from puna.corpus.reducing import Barrier
from puna.corpus.safety import read_lists
from puna.corpus.steps import Step
from puna.corpus.tables import Orders, Without
from puna.corpus.tally import Tally
from puna.corpus.thresholds import load_thresholds
from puna.errors import PunaError
from puna.files import write_json
from puna.progress import QUIET, Progress
from puna.recipe.corpus import PYTHON_SOURCE, Corpus


def build_documents(config: Corpus, out: Path, progress: Progress = QUIET, work: Path | None = None) -> dict[str, Any]:
    """Run the whole pipeline; write the artefact to `out`; return corpus.json.

    `work` keeps finished parts over a kill: called again with the same config and sources, the build goes on and ends with the
    same bytes. Equal sources, recipe and library versions give equal bytes, for any number of workers and any bound on memory.
    Raises PunaError for sources that are missing, empty, binary or hostile, and where too little text is left.
    """
    check_extra()
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    try:
        if work is not None:
            work.mkdir(parents=True, exist_ok=True)
            return _Build(Setting(config, work.resolve()), out, progress).run()
        with tempfile.TemporaryDirectory(prefix=".corpus-", dir=out) as name:
            return _Build(Setting(config, Path(name).resolve()), out, progress).run()
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise PunaError("the disk is full", where=str(out), mend="free some space and run it again") from error
        raise


def document_batches(folder: Path, split: str, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
    """The documents of a finished artefact, `split` "train" or "heldout", a bounded batch at a time, in order."""
    if split not in ("train", "heldout"):
        raise ValueError(f"split must be 'train' or 'heldout'; got {split!r}")
    path = Path(folder) / f"{split}.parquet"
    try:
        with pq.ParquetFile(path) as file:
            yield from file.iter_batches(batch_size=512, columns=columns)
    except (pa.ArrowException, OSError) as error:
        raise PunaError(
            f"is not a table of documents ({error})", where=str(path), mend="build the corpus again"
        ) from error


def read_documents(folder: Path, split: str) -> pa.Table:
    """All documents of a finished artefact, `split` "train" or "heldout", with the columns of FINAL_SCHEMA; all in memory."""
    return pa.Table.from_batches(document_batches(folder, split), schema=FINAL_SCHEMA)


# A module of each library of the extra `data`, by what a corpus cannot do without; those of one reader are asked for there.
_NEEDED = ("ftfy", "rjieba", "scipy", "sklearn", "threadpoolctl", "trafilatura", "lxml", "py3langid")


def check_extra() -> None:
    """Raises PunaError where the libraries of the extra `data` are not installed: before the first page, not at the thousandth."""
    if missing := [name for name in _NEEDED if importlib.util.find_spec(name) is None]:
        raise PunaError(f"the data pipeline needs {', '.join(missing)}", where="corpus",
                        mend="pip install 'puna[data]'; ./puna has them")  # fmt: skip


class _Build:
    def __init__(self, setting: Setting, out: Path, progress: Progress) -> None:
        self.setting, self.config, self.out, self.progress = setting, setting.config, out, progress
        self.barrier = Barrier(setting, progress)
        self.tally = Tally()
        self.python: python.PythonCorpus | None = None

    def run(self) -> dict[str, Any]:
        digests = sources.source_digest(self.config)["sources"]
        for name in (
            reading.SHELF,
            cleaning.SHELF,
            scorers.SHELF,
            scoring.SHELF,
            reducing.SHELF,
            finishing.SHELF,
            holdout.SHELF,
        ):
            self.setting.shelf(name).verify()
        index = self.check()
        self.read()
        self.clean()
        same = self.barrier.same_documents()
        scorers.train_scorers(self.setting, Without(same), self.progress)
        marks = self.score()
        self.reduce(marks, same)
        clusters = self.finish(index)
        plan, once = self.separate()
        self.write(holdout.SHELF)
        report = summary.of_build(self.setting, digests, self.tally, marks, clusters, plan, once,
                                  python=platform.python_version() if self.python else None)  # fmt: skip
        if self.python is not None:
            step = functions.write(self.python, plan.units, self.config.near_duplicate, self.out / "functions.jsonl")
            report["functions"] = step.report()
        report["contamination"] = self.contamination(index)
        self.progress.note(summary.told(report))
        write_json(self.out / "corpus.json", report)
        return report

    def check(self) -> Path | None:
        """All files that the stages read beside the sources, before the first document; the evaluation items' index."""
        own = self.config.thresholds
        load_thresholds(Path(own) if own else None)
        if self.config.correct.blocklist is not None:
            load_blocklist(Path(self.config.correct.blocklist))
        words = self.config.safety.words
        categories = read_lists([Path(words)] if words else [])
        languages = language.claimed()
        for where, given, known, mend in (
            ("corpus.safety.drop", self.config.safety.drop, categories, f"name some of {', '.join(sorted(categories))}"),
            ("corpus.language.keep", self.config.language.keep, languages, 'write codes of ISO 639, like "en" and "zh"'),
            ("corpus.language.weights", self.config.language.weights, languages, 'write codes of ISO 639, like "en" and "zh"'),
        ):  # fmt: skip
            if unknown := sorted(set(given) - {*known, "und", "code"}):
                raise PunaError(f"there is no {unknown[0]!r}", where=where, mend=mend)
        return self.evaluation_index()

    def passed(self, title: str, job: Job, shelf: Shelf, parts: list[str]) -> None:
        """Run a pass over those of `parts` that are not on its shelf yet."""
        waiting = [part for part in parts if not shelf.has(part)]
        frames.run_parts(job, waiting, title=title, workers=self.setting.workers, ray=self.setting.ray,
                         apart=self.setting.apart, finished=lambda: len(shelf.names()), progress=self.progress)  # fmt: skip

    def know(self, **facts: Any) -> None:
        """Tell the passes that follow what was found."""
        self.setting = replace(self.setting, **facts)
        self.barrier = Barrier(self.setting, self.progress)

    def read(self) -> None:
        shelf = self.setting.shelf(reading.SHELF)
        tasks = reading.tasks_of(self.setting, self.tally)
        for part, task in tasks.items():
            if task.label == PYTHON_SOURCE:
                self.python = reading.read_python(self.setting, part, task, self.progress)
        others = [part for part, task in tasks.items() if task.label != PYTHON_SOURCE]
        self.know(size=sum(task.size for task in tasks.values()))
        self.passed("reading", reading.Read(self.setting, tasks), shelf, others)
        reading.check_sources(self.setting)
        self.know(size=sum(piece["bytes"] for part in shelf.names() for piece in shelf.facts(part)["pieces"]))

    def clean(self) -> None:
        job, parts = cleaning.clean_parts(self.setting)
        shelf = self.setting.shelf(cleaning.SHELF)
        self.passed("cleaning", job, shelf, parts)
        facts = [shelf.facts(part) for part in parts]
        if not any(one["rows"] for one in facts):
            raise _too_little("go on with", [step for one in facts for step in one["steps"]])
        self.know(has_web=any(one["web"] for one in facts))

    def score(self) -> scoring.Marks:
        shelf = self.setting.shelf(scoring.SHELF)
        self.passed("scoring", scoring.Score(self.setting), shelf, self.setting.shelf(cleaning.SHELF).names())
        return scoring.marks_of(self.setting)

    def reduce(self, marks: scoring.Marks, same: Orders) -> None:
        shelf, parts = self.setting.shelf(reducing.SHELF), self.setting.shelf(cleaning.SHELF).names()
        if all(map(shelf.has, parts)):
            return
        repeats = self.barrier.paragraphs(np.concatenate([same, self.barrier.by_scores(marks)]))
        self.passed("reducing", reducing.Reduce(self.setting, marks, same, repeats), shelf, parts)

    def evaluation_index(self) -> Path | None:
        """The evaluation items' n-grams, where the recipe names any."""
        config = self.config.decontaminate
        if not config.evals or config.apply == "off":
            return None
        skipped: Counter[str] = Counter()
        items = list(evalitems.read_items(config.evals, skipped))
        if not items:
            why = ", ".join(f"{reason}: {n}" for reason, n in sorted(skipped.items()))
            raise PunaError(f"no evaluation item is in {', '.join(map(str, config.evals))} ({why or 'no file'})",
                            where="corpus.decontaminate.evals", mend="docs/corpus.md says which forms are read")  # fmt: skip
        for reason, count in sorted(skipped.items()):
            self.progress.note(f"  evaluation files passed over: {count:,} {reason}")
        path = self.setting.work / "items.npz"
        decontaminate.ItemIndex.build(items, config.words, config.characters).save(path)
        return path

    def finish(self, index: Path | None) -> neardup.Clusters:
        shelf, reduced = self.setting.shelf(finishing.SHELF), self.setting.shelf(reducing.SHELF)
        clusters = self.near()
        gone = finishing.near_gone(self.setting, clusters)
        parts = reduced.names()
        if not all(map(shelf.has, parts)):
            named = any(reduced.holds(part, reducing.SPANS) for part in parts)
            repeats = (
                self.barrier.repeats(reducing.SHELF, reducing.SPANS, "comparing passages", Without(gone))
                if named
                else []
            )
            self.passed("finishing", finishing.Finish(self.setting, clusters, gone, repeats, index), shelf, parts)
        if not any(shelf.facts(part)["rows"] for part in parts):
            names = (cleaning.SHELF, reducing.SHELF, finishing.SHELF)
            told = [step for name in names for part in parts for step in self.setting.shelf(name).facts(part)["steps"]]
            raise _too_little("go on with", told)
        return clusters

    def near(self) -> neardup.Clusters:
        shelf = self.setting.shelf(reducing.SHELF)
        parts = [part for part in shelf.names() if shelf.holds(part, reducing.BANDS)]
        none = np.empty(0, np.int64)
        if not parts:
            return neardup.Clusters(none, none, none)
        return neardup.find_clusters(
            [shelf.file(part, reducing.BANDS) for part in parts], [shelf.file(part, reducing.SKETCHES) for part in parts],
            self.setting.work / "repeats" / "near", self.setting.memory // 3, self.config.near.threshold,
            run=self.barrier.run("comparing signatures"),
        )  # fmt: skip

    def separate(self) -> tuple[holdout.Plan, Step]:
        """Choose what is held out, write it, and take its near-duplicates out of the rest."""
        pinned = python.PINNED if self.python is not None else frozenset()
        self.progress.start("choosing what is held out")
        plan = holdout.plan_holdout(self.setting, pinned)
        once, heldout = holdout.write_heldout(self.setting, plan, pinned, self.out / "heldout.parquet")
        self.progress.finish()
        for note in plan.notes:
            self.progress.note(note)
        index = self.setting.work / "heldout.npy"
        holdout.write_index(self.out / "heldout.parquet", index)
        job = holdout.Separate(self.setting, plan, index)
        self.passed("taking out near-duplicates of held-out text", job, self.setting.shelf(holdout.SHELF),
                    self.setting.shelf(finishing.SHELF).names())  # fmt: skip
        if heldout.rows == 0:
            raise _too_little("judge with", summary.steps_of(self.setting))
        return plan, once

    def write(self, shelf_name: str) -> None:
        """train.parquet, of all parts in order."""
        shelf = self.setting.shelf(shelf_name)
        with TableWriter(self.out / "train.parquet", FINAL_SCHEMA) as train:
            for part in shelf.names():
                for row in read_rows(shelf.file(part, cleaning.DOCUMENTS)):
                    train.add(row)
        if train.rows == 0:
            raise _too_little("train on", summary.steps_of(self.setting))
        models = self.setting.shelf(scorers.SHELF).folder / scorers.PART
        if made := sorted(models.glob("*.npz")) if models.is_dir() else []:
            (self.out / "scorers").mkdir(exist_ok=True)
            for path in made:
                shutil.copyfile(path, self.out / "scorers" / path.name)

    def contamination(self, index: Path | None) -> dict[str, Any] | None:
        """contamination.json: of every evaluation item what of it stood in the corpus; its counts by task."""
        if index is None:
            return None
        shelf = self.setting.shelf(finishing.SHELF)
        files = [shelf.file(part, finishing.HITS) for part in shelf.names()]
        report = decontaminate.report(
            decontaminate.ItemIndex.load(index), files, action=self.config.decontaminate.action
        )
        write_json(self.out / "contamination.json", report)
        return {"tasks": report["tasks"]}


def _too_little(use: str, steps: list[dict[str, Any]]) -> PunaError:
    removed: Counter[str] = Counter()
    for step in steps:
        removed.update({f"{why} ({step['step']})": count for why, count in step["removed"].items() if count})
    told = ", ".join(f"{count:,} {why}" for why, count in removed.items())
    return PunaError(f"too little text: nothing is left to {use}{f'; taken out: {told}' if told else ''}", where="corpus",
                     mend="give more, or other, text, or change what took it")  # fmt: skip
