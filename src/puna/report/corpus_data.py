"""What a corpus report is made of: one typed value, filled by the build from what each stage counted.

Comes in: a plain dict (JSON's types). Goes out: a `CorpusData`. Must never happen: a misspelt part that is left out
of the page in silence (the top level refuses unknown keys), or documents whose counts do not add up: then there is no
page. Below the top level further keys are allowed, as in `report.data`.

Every part but `run` may be missing: the page then says nothing about it.
"""

import itertools
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, model_validator

from puna.report.data import Amount, Count, Part, Source, Split, Step


class Stage(Step):
    """One step of the pipeline, and the stage of the Yi paper that it is, where it is one."""

    stage: str | None = None


class Accounts(Part):
    """Where every document went: documents_in + split_off = kept + changed + the sum of removed."""

    documents_in: Count
    split_off: Count = 0  # further documents, made by cutting long ones
    kept: Count  # as they came
    changed: Count = 0  # kept, but not as they came
    removed: dict[str, Count] = Field(default={})  # by the step that removed them

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        came, went = self.documents_in + self.split_off, self.kept + self.changed + sum(self.removed.values())
        if came != went:
            raise ValueError(
                f"documents in and split off are {came:,}, but kept, changed and removed are {went:,}: "
                f"{abs(came - went):,} {'are not accounted for' if came > went else 'are counted twice'}"
            )
        return self


class Histogram(Part):
    """How one measure is spread over the documents that came to its step: `counts[i]` lie in `edges[i]..edges[i+1]`.

    Values beyond the outer edges are counted in the outer bins. `below` and `above` are the documents removed for
    falling short of `low` or exceeding `high`.
    """

    edges: list[FiniteFloat] = Field(min_length=2)
    counts: list[Count]
    low: FiniteFloat | None = None
    high: FiniteFloat | None = None
    below: Count = 0
    above: Count = 0

    @model_validator(mode="after")
    def _bins_fit(self) -> Self:
        if len(self.edges) != len(self.counts) + 1:
            raise ValueError(f"{len(self.counts)} counts need {len(self.counts) + 1} edges, not {len(self.edges)}")
        if any(right <= left for left, right in itertools.pairwise(self.edges)):
            raise ValueError("the edges must rise")
        return self


class Topic(Amount):
    """One cluster of documents, named by its words."""

    id: int | str
    words: list[str] = Field(default=[])
    weight: FiniteFloat | None = None


class Mixed(Amount):
    """One row of the mixture. `share` is of the tokens to train on, 0 to 1; `epochs` is how often its text is read."""

    source: str = ""
    lang: str = ""
    topic: int | str | None = None
    tokens: Count | None = None
    weight: FiniteFloat | None = None
    epochs: FiniteFloat | None = None
    share: FiniteFloat | None = None


class Quality(Part):
    """The quality classifier: area under the ROC curve on held-out pages, what it learned from, and words about it."""

    auc: FiniteFloat | None = None
    interval: tuple[FiniteFloat, FiniteFloat] | None = None  # 95 %
    good: Count | None = None  # examples of good text
    crawl: Count | None = None  # examples of the crawl
    notes: list[str] | str = Field(default=[])


class Perplexity(Part):
    """One language's limit: documents above `threshold`, the given percentile of `n` measured ones, were removed."""

    percentile: FiniteFloat | None = None  # 0 to 100
    threshold: FiniteFloat | None = None
    n: Count | None = None


class Cluster(Part):
    """One group of near duplicates, and the beginning of its text."""

    size: Count
    sample: str = ""


class Duplicates(Part):
    """Groups of near duplicates: `sizes[k]` groups had k documents."""

    clusters: Count = 0
    documents: Count = 0
    largest: list[Cluster] = Field(default=[])
    sizes: dict[Count, Count] = Field(default={})


class Safety(Part):
    """Documents over a category's threshold."""

    documents: Count = 0
    threshold: FiniteFloat | None = None


class Contamination(Part):
    """The items of one evaluation task, by what of them stands in the corpus."""

    items: Count = 0
    clean: Count = 0
    touched: Count = 0
    contaminated: Count = 0
    undecidable: Count = 0


class Parted(Part):
    """How one source was split: `by` is "document", "file", ... or "tail", the end of each document."""

    source: str = ""
    by: str = ""
    units: Count | None = None
    heldout_units: Count | None = None
    bytes_heldout: Count | None = None


class CorpusData(BaseModel):
    """Everything that a corpus report shows."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    run: str
    title: str | None = None
    created: str = ""  # ISO 8601, given by the build: a page never reads the clock
    puna_version: str | None = None
    documents: Split | None = None
    bytes: Split | None = None
    steps: list[Stage] = []
    accounts: Accounts | None = None
    histograms: dict[str, dict[str, Histogram]] = {}  # by language, then by measure
    languages: dict[str, Amount] = {}
    scripts: dict[str, Amount] = {}
    topics: list[Topic] = []
    mixture: list[Mixed] = []
    sources: list[Source] = []
    licences: dict[str, Amount] = {}
    quality: Quality | None = None
    perplexity: dict[str, Perplexity] = {}
    duplicates: Duplicates | None = None
    personal: dict[str, Count] = {}
    safety: dict[str, Safety] = {}
    contamination: dict[str, Contamination] = {}
    encodings: dict[str, Count] = {}
    skipped: dict[str, Count] = {}
    split: list[Parted] = []
    versions: dict[str, Any] = {}
    seconds: FiniteFloat | None = None
    notes: list[str] = []
