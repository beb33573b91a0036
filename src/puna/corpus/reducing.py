"""Fourth pass: what goes because of a score, and what stood before word for word.

Comes in: the shelves "clean" and "scores", the marks, the repeats that were found over all parts. Goes out: the shelf "reduced",
with the keys by which near-duplicates and repeated passages are found. Must never happen: a repeat taken out whose first
occurrence goes too; so a document that goes here counts as absent when paragraphs are compared.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from puna.corpus import frames, neardup, scoring, spans
from puna.corpus.cleaning import DOCUMENTS, KEYS
from puna.corpus.cleaning import SHELF as CLEAN
from puna.corpus.context import BATCH, Setting
from puna.corpus.documents import WORK_SCHEMA, TableWriter, read_batches
from puna.corpus.paragraphs import without_paragraphs
from puna.corpus.scoring import MEASURES, PARAGRAPHS, SEAM, Marks
from puna.corpus.segment import segment
from puna.corpus.signatures import signatures
from puna.corpus.steps import Step
from puna.corpus.tables import Job, Occurrences, Orders, Without, find_repeats, of_partition, write_keys
from puna.progress import Progress

SHELF = "reduced"
BANDS, SKETCHES, SPANS = "bands.parquet", "sketches.parquet", "spans.parquet"
STEPS = ("duplicate documents", *MEASURES, "duplicate paragraphs")
Row = dict[str, Any]


@dataclass(frozen=True)
class Barrier:
    """What is found by asking all parts at once."""

    setting: Setting
    progress: Progress

    def run(self, title: str) -> Callable[[Job, Sequence[str]], None]:
        """How tables.find_repeats has its ranges worked out: by the engine that runs the passes."""

        def run(job: Job, names: Sequence[str]) -> None:
            # One range at a time on this machine: each takes the memory that was given to it.
            workers = 1 if self.setting.ray is None else self.setting.workers
            frames.run_parts(
                job,
                names,
                title=title,
                workers=workers,
                ray=self.setting.ray,
                apart=self.setting.apart,
                progress=self.progress,
            )

        return run

    def repeats(self, shelf: str, name: str, title: str, keep: Without | None = None) -> list[Path]:
        """The files of what occurs more than once among the keys of that name."""
        place = self.setting.shelf(shelf)
        files = [place.file(part, name) for part in place.names() if place.holds(part, name)]
        folder = self.setting.work / "repeats" / name.removesuffix(".parquet")
        return find_repeats(files, folder, self.setting.memory // 3, keep, self.run(title))

    def same_documents(self) -> Orders:
        """The orders of documents whose text came before, sorted."""
        if not self.setting.config.deduplicate:
            return np.empty(0, np.int64)
        repeats = self.repeats(CLEAN, KEYS, "comparing documents")
        gone = [np.empty(0, np.int64)]
        for first, end in self.setting.bounds(self.setting.shelf(CLEAN)):
            found = of_partition(repeats, first, end)
            gone.append(found.order[~found.is_first()])
        return np.concatenate(gone)

    def by_scores(self, marks: Marks) -> Orders:
        """The orders of documents that go by a score, sorted."""
        gone = [np.empty(0, np.int64)]
        for part in self.setting.shelf(scoring.SHELF).names():
            scores = scoring.read_scores(self.setting, part)
            out = [
                any(scoring.reason(m, scores[m][row], lang, marks) for m in MEASURES)
                for row, lang in enumerate(scores["lang"])
            ]
            gone.append(scores["order"][np.array(out, bool)])
        return np.concatenate(gone)

    def paragraphs(self, gone: Orders) -> list[Path]:
        """The files of paragraphs that stand more than once in documents that stay."""
        config = self.setting.config
        if not config.deduplicate or config.paragraphs.apply == "off":
            return []
        return self.repeats(scoring.SHELF, PARAGRAPHS, "comparing paragraphs", Without(np.sort(gone)))


class Reduce:
    """The job of this pass."""

    def __init__(self, setting: Setting, marks: Marks, same: Orders, repeats: list[Path]) -> None:
        self.setting, self.marks, self.repeats = setting, marks, repeats
        self.stands = Without(same)

    def __call__(self, part: str) -> None:
        """Reduce one part and put it on the shelf."""
        setting, facts = self.setting, {}  # type: tuple[Setting, dict[str, Any]]
        steps = {name: Step(name) for name in STEPS}
        scores = scoring.read_scores(setting, part)
        orders = scores["order"]
        first, end = (int(orders[0]), int(orders[-1]) + 1) if len(orders) else (0, 0)
        repeats = of_partition(self.repeats, first, end) if self.repeats else None
        bands: list[tuple[npt.NDArray[Any], Orders]] = []
        keys: list[tuple[npt.NDArray[Any], ...]] = []
        place = 0
        with setting.shelf(SHELF).writing(part, facts) as folder:
            with TableWriter(folder / DOCUMENTS, WORK_SCHEMA) as writer:
                for rows in read_batches(setting.shelf(CLEAN).file(part, DOCUMENTS), BATCH):
                    for row in rows:
                        values = {name: scores[name][place] for name in (*MEASURES, SEAM)}
                        row |= {name: _known(value) for name, value in values.items()}
                        # Judged as they were scored, not as they are rounded for the table.
                        row["reasons"] = {m: scoring.reason(m, values[m], row["lang"], self.marks) for m in MEASURES}
                        place += 1
                    kept = self._batch(rows, steps, repeats)
                    for row in kept:
                        writer.add(row)
                    self._keys(kept, bands, keys)
            if bands:
                found = np.concatenate([signature for signature, _ in bands])
                neardup.write_bands(
                    folder / BANDS, folder / SKETCHES, found, np.concatenate([order for _, order in bands])
                )
            if keys:
                hashes, at, places = (np.concatenate([key[column] for key in keys]) for column in range(3))
                write_keys(folder / SPANS, hashes, at, places)
            facts |= {"rows": writer.rows, "bytes": writer.bytes, "steps": [step.report() for step in steps.values()]}

    def _batch(self, rows: list[Row], steps: dict[str, Step], repeats: Occurrences | None) -> list[Row]:
        kept = []
        stands = self.stands(np.array([row["order"] for row in rows], np.int64))
        for row, stays in zip(rows, stands, strict=True):
            reasons = {"duplicate documents": "" if stays else "the same text came before"}
            reasons |= row.pop("reasons")
            size = len(row["text"].encode())
            if _leaves(row, size, steps, reasons):
                continue
            step = steps["duplicate paragraphs"]
            step.enter(size)
            if repeats is not None and not self._without_repeats(row, repeats.of(row["order"]), step):
                continue
            step.leave(len(row["text"].encode()))
            kept.append(row)
        return kept

    def _without_repeats(self, row: Row, found: Occurrences, step: Step) -> bool:
        """Whether enough of the document is left."""
        places = found.place[~found.is_first()].tolist()
        if not places:
            return True
        text, removed = without_paragraphs(row["text"], places, row["web"])
        for passage in removed:
            step.remove("the same paragraph came before", row["source"], passage)
        if len(text) < self.setting.config.min_chars:
            step.remove("document too short without its repeated paragraphs", row["source"], row["text"])
            return False
        row |= {"text": text, "chars": len(text), "changed": True}
        return True

    def _keys(self, rows: list[Row], bands: list[Any], keys: list[Any]) -> None:
        config = self.setting.config
        prose = [row for row in rows if row["kind"] == "text"]
        if not prose or (config.near.apply == "off" and config.spans.apply == "off"):
            return
        # Where only pages of the web can go, and there is none in the corpus, nothing needs to be compared.
        if "all" not in (config.near.apply, config.spans.apply) and not self.setting.has_web:
            return
        batch = segment([row["text"] for row in prose])
        orders = np.array([row["order"] for row in prose], np.int64)
        if config.near.apply != "off":
            bands.append((signatures(batch), orders))
        if config.spans.apply != "off":
            keys.append(spans.span_keys(batch, orders.tolist()))


def _leaves(row: Row, size: int, steps: dict[str, Step], reasons: dict[str, str]) -> bool:
    for name, why in reasons.items():
        steps[name].enter(size)
        if why:
            steps[name].remove(why, row["source"], row["text"])
            return True
        steps[name].leave(size)
    return False


def _known(value: float) -> float | None:
    return None if not np.isfinite(value) else round(float(value), 5)
