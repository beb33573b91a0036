"""Fifth pass: near-duplicates, repeated passages, safety, topics, decontamination, and each document's share in the mixture.

Comes in: the shelf "reduced" and what was found over all parts. Goes out: the shelf "finished": documents that are only to be
parted into those to train on and those to judge by. Must never happen: an evaluation item in them that the recipe wants out.
"""

import hashlib
import math
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from puna.corpus import decontaminate, sources
from puna.corpus.cleaning import DOCUMENTS
from puna.corpus.context import BATCH, Setting, applies
from puna.corpus.documents import WORK_SCHEMA, TableWriter, read_batches
from puna.corpus.itemindex import Hits, ItemIndex
from puna.corpus.neardup import Clusters
from puna.corpus.reducing import SHELF as REDUCED
from puna.corpus.scorers import Scorers, load_scorers
from puna.corpus.spans import without_spans
from puna.corpus.steps import Step
from puna.corpus.tables import Orders, of_partition

SHELF = "finished"
HITS = "hits.npz"
STEPS = ("near duplicates", "repeated passages", "safety", "topics", "coherent parts", "evaluation items", "mixture")
Row = dict[str, Any]
_MOST_UPWEIGHT, _MOST_COPIES = 4.0, 100.0


def near_gone(setting: Setting, clusters: Clusters) -> Orders:
    """The orders of near-duplicates that go: not the first of their cluster, and of those that the stage looks at."""
    apply = setting.config.near.apply
    gone = clusters.order[~clusters.representative()]
    out = [np.empty(0, np.int64)]
    shelf = setting.shelf(REDUCED)
    for part in shelf.names():
        table = pq.read_table(shelf.file(part, DOCUMENTS), columns=["order", "web", "kind"])
        orders = table.column("order").to_numpy()
        asked = np.array([applies(apply, row) for row in table.select(["web", "kind"]).to_pylist()], bool)
        out.append(orders[asked & np.isin(orders, gone, assume_unique=True)])
    return np.concatenate(out)


class Finish:
    """The job of this pass."""

    def __init__(
        self, setting: Setting, clusters: Clusters, gone: Orders, repeats: list[Path], index: Path | None
    ) -> None:
        self.setting, self.clusters, self.gone, self.repeats, self._index = setting, clusters, gone, repeats, index
        self.by_label = {source.label: source.weight for source in sources.all_sources(setting.config)}

    @cached_property
    def scorers(self) -> Scorers:
        """The models, loaded once by each process."""
        return load_scorers(self.setting)

    @cached_property
    def index(self) -> ItemIndex | None:
        """The evaluation items, loaded once by each process."""
        return ItemIndex.load(self._index) if self._index else None

    @cached_property
    def topic_weights(self) -> list[float]:
        """How often documents of each cluster are read: by the first of the recipe's words that labels it, else once."""
        wanted = {word.lower(): weight for word, weight in self.setting.config.topics.weights.items()}
        labels = self.scorers.topics.labels if self.scorers.topics else []
        return [next((wanted[word] for word in wanted if word in words), 1.0) for words in labels]

    def __call__(self, part: str) -> None:
        """Finish one part and put it on the shelf."""
        work, facts = _Part(self, part), {}  # type: tuple[_Part, dict[str, Any]]
        with self.setting.shelf(SHELF).writing(part, facts) as folder:
            with TableWriter(folder / DOCUMENTS, WORK_SCHEMA) as writer:
                for rows in read_batches(self.setting.shelf(REDUCED).file(part, DOCUMENTS), BATCH):
                    for row in work.batch(rows):
                        writer.add(row)
            if self.index is not None:
                decontaminate.write_hits(folder / HITS, work.hits)
            facts |= {
                "rows": writer.rows,
                "bytes": writer.bytes,
                "steps": [step.report() for step in work.steps.values()],
            }


class _Part:
    """The steps of one part while its documents pass through them."""

    def __init__(self, job: Finish, part: str) -> None:
        self.job, self.config = job, job.setting.config
        self.steps = {name: Step(name) for name in STEPS}
        self.hits: list[tuple[list[str], Hits]] = []
        place = job.setting.shelf(REDUCED).names().index(part)
        first, end = job.setting.bounds(job.setting.shelf(REDUCED))[place]
        self.clusters = job.clusters.of(first, end)
        self.sizes = dict(zip(self.clusters.order.tolist(), self.clusters.size.tolist(), strict=True))
        self.first = set(self.clusters.order[self.clusters.representative()].tolist())
        low, high = np.searchsorted(job.gone, [first, end])
        self.gone = set(job.gone[low:high].tolist())
        self.repeats = of_partition(job.repeats, first, end) if job.repeats else None

    def batch(self, rows: list[Row]) -> list[Row]:
        """What is left of some neighbouring documents."""
        for stage in (self.near, self.spans, self.safety, self.topics, self.parts, self.evaluation, self.mixture):
            rows = list(stage(rows))
        return rows

    def near(self, rows: list[Row]) -> Iterator[Row]:
        """The first of each cluster stays, and knows how many there were."""
        for row in rows:
            row["cluster_size"] = self.sizes.get(row["order"], 1)
        return self.steps["near duplicates"].through(
            rows, lambda row: "nearly the same text came before" if row["order"] in self.gone else ""
        )

    def spans(self, rows: list[Row]) -> Iterator[Row]:
        """Passages that stand elsewhere are cut out."""
        step = self.steps["repeated passages"]
        for row in rows:
            step.enter(len(row["text"].encode()))
            if self.repeats is not None and applies(self.config.spans.apply, row):
                text, removed = without_spans(row["text"], self.repeats.of(row["order"]))
                for passage in removed:
                    step.remove("the same passage stands elsewhere", row["source"], passage)
                if removed and len(text) < self.config.min_chars:
                    step.remove("document too short without its repeated passages", row["source"], row["text"])
                    continue
                if removed:
                    row |= {"text": text, "chars": len(text), "changed": True}
            step.leave(len(row["text"].encode()))
            yield row

    def safety(self, rows: list[Row]) -> Iterator[Row]:
        """Documents of the categories that the recipe drops."""
        model, config = self.job.scorers.safety, self.config.safety
        asked = [row for row in rows if model is not None and applies(config.apply, row)]
        why: dict[int, str] = {}
        if model is not None and asked:
            scores = model.score([row["text"] for row in asked], [row["lang"] for row in asked])
            for category, values in scores.items():
                for row, value in zip(asked, values.tolist(), strict=True):
                    if value >= config.threshold:
                        self.steps["safety"].changed[
                            f"{category}, {'dropped' if category in config.drop else 'kept'}"
                        ] += 1
                        if category in config.drop:
                            why.setdefault(id(row), category)
        return self.steps["safety"].through(rows, lambda row: why.get(id(row), ""))

    def topics(self, rows: list[Row]) -> Iterator[Row]:
        """Each document's cluster; outliers, and clusters of no weight, go."""
        model, config = self.job.scorers.topics, self.config.topics
        asked = [row for row in rows if model is not None and applies(config.apply, row)]
        why: dict[int, str] = {}
        if model is not None and asked:
            labels, distances = model.assign([row["text"] for row in asked])
            limits = model.limits(round(100 * (1 - config.outliers)))
            for row, label, distance in zip(asked, labels.tolist(), distances.tolist(), strict=True):
                if label < 0:
                    continue
                row["topic"] = label
                if self.job.topic_weights[label] == 0:
                    why[id(row)] = f"of no weight: {', '.join(model.labels[label][:3])}"
                elif config.outliers and distance > limits[label]:
                    why[id(row)] = "far from every cluster"
        return self.steps["topics"].through(rows, lambda row: why.get(id(row), ""))

    def parts(self, rows: list[Row]) -> Iterator[Row]:
        """Two documents that were run together become two."""
        step, model = self.steps["coherent parts"], self.job.scorers.coherence
        pieces: dict[int, list[str]] = {}
        if model is not None:
            known = [row for row in rows if row["seam"] is not None]
            suspects = model.suspects([row["seam"] for row in known], [row["lang"] for row in known])
            asked = [row for row, suspect in zip(known, suspects, strict=True) if suspect]
            split = model.split([row["text"] for row in asked], [row["lang"] for row in asked])
            pieces = {id(row): parts for row, parts in zip(asked, split, strict=True) if len(parts) > 1}
        for row in rows:
            step.enter(len(row["text"].encode()))
            parts = [part.strip("\n") for part in pieces.get(id(row), [])]
            if sum(len(part) >= self.config.min_chars for part in parts) < 2:
                step.leave(len(row["text"].encode()))
                yield row
                continue
            step.changed["cut where it turns into another document"] += 1
            for number, part in enumerate(parts):
                if len(part) < self.config.min_chars:
                    step.remove("a piece too short to stand alone", row["source"], part)
                    continue
                step.leave(len(part.encode()))
                name = f"{row['id']}~{number}" if number else row["id"]
                yield {**row, "id": name, "text": part, "chars": len(part), "changed": True}

    def evaluation(self, rows: list[Row]) -> Iterator[Row]:
        """Evaluation items are looked for, and what holds them is flagged, cut or dropped."""
        step, index, config = self.steps["evaluation items"], self.job.index, self.config.decontaminate
        texts = [row["text"] for row in rows]
        after, flagged = texts, np.zeros(len(rows), bool)
        if index is not None and rows:
            asked = [place for place, row in enumerate(rows) if config.apply == "all" or row["web"]]  # code too
            hits = index.scan([texts[place] for place in asked])
            self.hits.append(([rows[place]["id"] for place in asked], hits))
            flagged[asked] = decontaminate.flagged(hits, len(asked))
            if config.action == "cut":
                cut = decontaminate.cut([texts[place] for place in asked], hits)
                after = list(texts)
                for place, text in zip(asked, cut, strict=True):
                    after[place] = text
        for row, text, hit in zip(rows, after, flagged.tolist(), strict=True):
            step.enter(len(row["text"].encode()))
            if hit and config.action == "flag":
                step.changed["holds an evaluation item, kept"] += 1
            elif hit and (config.action == "drop" or len(text) < self.config.min_chars):
                step.remove("holds an evaluation item", row["source"], row["text"])
                continue
            elif text != row["text"]:
                step.changed["an evaluation item cut out"] += 1
                row |= {"text": text, "chars": len(text), "changed": True}
            step.leave(len(row["text"].encode()))
            yield row

    def mixture(self, rows: list[Row]) -> Iterator[Row]:
        """How often each document is read in a pass: the product of its weights, the rest by the hash of its name."""
        for row in rows:
            weight = self.job.by_label[row["label"]] * self.config.language.weights.get(row["lang"], 1.0)
            if row.get("topic") is not None:
                weight *= self.job.topic_weights[row["topic"]]
            if self.config.near.upweight and row["order"] in self.first:
                weight *= min(1.0 + math.log2(row["cluster_size"]), _MOST_UPWEIGHT)
            row["copies"] = _copies(min(weight, _MOST_COPIES), row["id"])
        return self.steps["mixture"].through(rows, lambda row: "" if row["copies"] else "left out by its weight")


def _copies(weight: float, name: str) -> int:
    whole = math.floor(weight)
    part = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8, person=b"mixture").digest(), "big") / 2**64
    return whole + (part < weight - whole)
