"""Third pass: every document's scores, and where the marks lie.

Comes in: the shelf "clean" and the scorers. Goes out: the shelf "scores": narrow tables, and keys of paragraphs; then the
thresholds by percentile and language, and the documents that go. Must never happen: a score for a document that its stage does
not look at.
"""

from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from puna.corpus import paragraphs
from puna.corpus.cleaning import DOCUMENTS
from puna.corpus.cleaning import SHELF as CLEAN
from puna.corpus.context import BATCH, Setting, applies
from puna.corpus.documents import read_batches
from puna.corpus.histograms import Histograms
from puna.corpus.perplexity import threshold
from puna.corpus.scorers import Scorers, load_scorers
from puna.corpus.tables import write_keys

SHELF = "scores"
SCORES, PARAGRAPHS = "scores.parquet", "paragraphs.parquet"
MEASURES = ("perplexity", "quality", "coherence")
SEAM = "seam"  # the weakest gap of a document: where it may turn into another
_SCHEMA = pa.schema(
    [("order", pa.int64()), ("lang", pa.string()), *((name, pa.float32()) for name in (*MEASURES, SEAM))]
)
_SAMPLED = 1_000_000  # documents whose scores set the marks: the percentile of more is the same
Marks = dict[str, dict[str, float]]  # measure -> language -> where documents begin to go


class Score:
    """The job of this pass."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting

    @cached_property
    def scorers(self) -> Scorers:
        """The models, loaded once by each process."""
        return load_scorers(self.setting)

    def __call__(self, part: str) -> None:
        """Score one part and put it on the shelf."""
        config = self.setting.config
        columns: dict[str, list[Any]] = {name: [] for name in _SCHEMA.names}
        keys = []
        facts: dict[str, Any] = {}
        histograms = Histograms(None)
        with self.setting.shelf(SHELF).writing(part, facts) as folder:
            for rows in read_batches(self.setting.shelf(CLEAN).file(part, DOCUMENTS), BATCH):
                columns["order"] += [row["order"] for row in rows]
                columns["lang"] += [row["lang"] for row in rows]
                for name, values in self._scores(rows).items():
                    columns[name] += values.tolist()
                if config.deduplicate and config.paragraphs.apply != "off":
                    asked = [row for row in rows if config.paragraphs.apply == "all" or row["web"]]
                    texts, at, kinds, web = ([row[name] for row in asked] for name in ("text", "order", "kind", "web"))
                    keys.append(paragraphs.paragraph_keys(texts, at, kinds, web))
            langs = np.array(columns["lang"], object)
            for lang in sorted(set(columns["lang"])):
                for name in MEASURES:
                    histograms.add(lang, name, np.array(columns[name])[langs == lang], (None, None))
            facts["histograms"] = histograms.report()
            pq.write_table(pa.table(columns, schema=_SCHEMA), folder / SCORES, compression="zstd", compression_level=1)
            if keys:
                hashes, orders, places = (np.concatenate([key[column] for key in keys]) for column in range(3))
                write_keys(folder / PARAGRAPHS, hashes, orders, places)

    def _scores(self, rows: list[dict[str, Any]]) -> dict[str, npt.NDArray[np.float32]]:
        """{measure: (n,)}; NaN for documents that a measure does not apply to."""
        scores = {name: np.full(len(rows), np.nan, np.float32) for name in (*MEASURES, SEAM)}
        for name in MEASURES:
            model = getattr(self.scorers, name)
            at = [place for place, row in enumerate(rows) if applies(getattr(self.setting.config, name).apply, row)]
            if model is None or not at:
                continue
            found = model.score([rows[place]["text"] for place in at], [rows[place]["lang"] for place in at])
            if name == "coherence":
                scores[name][at], scores[SEAM][at] = found[:, 0], found[:, 1]
            else:
                scores[name][at] = found
        return scores


def marks_of(setting: Setting) -> Marks:
    """Above which perplexity, and below which quality and coherence, documents of a language go."""
    scores = _sampled(setting)
    config, langs = setting.config, scores["lang"].tolist()
    return {
        "perplexity": threshold(scores["perplexity"], langs, 100 * (1 - config.perplexity.drop)),
        "quality": threshold(scores["quality"], langs, 100 * config.quality.drop),
        "coherence": threshold(scores["coherence"], langs, 100 * config.coherence.drop),
    }


def _sampled(setting: Setting) -> dict[str, npt.NDArray[Any]]:
    """The scores of every n-th document in reading order: the same ones however the corpus was cut into parts."""
    shelf = setting.shelf(SHELF)
    files = [shelf.file(part, SCORES) for part in shelf.names()]
    counts = [int(pq.read_metadata(path).num_rows) for path in files]
    one_in = max(1, sum(counts) // _SAMPLED)
    tables, before = [], 0
    for path, count in zip(files, counts, strict=True):
        chosen = (np.arange(before, before + count) % one_in) == 0
        tables.append(pq.read_table(path).filter(pa.array(chosen)))
        before += count
    joined = pa.concat_tables(tables)
    return {name: joined.column(name).to_numpy() for name in _SCHEMA.names}


def read_scores(setting: Setting, part: str) -> dict[str, npt.NDArray[Any]]:
    """The scores of one part's documents, in the order of its rows."""
    table = pq.read_table(setting.shelf(SHELF).file(part, SCORES))
    return {name: table.column(name).to_numpy() for name in _SCHEMA.names}


def reason(measure: str, value: float, lang: str, marks: Marks) -> str:
    """Why a document goes by this measure, or ""."""
    mark = marks[measure].get(lang)
    if mark is None or not np.isfinite(value):
        return ""
    gone = value > mark if measure == "perplexity" else value < mark
    return f"{lang}, {'over' if measure == 'perplexity' else 'under'} {mark:.3g}" if gone else ""
