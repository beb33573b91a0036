"""`[corpus]` of the recipe: where text comes from, and what each cleaning stage does to it.

Comes in: TOML. Goes out: a `Corpus`. Must never happen: a stage that cannot be switched off by its table's `apply`.

`apply` says to which documents a stage applies: "web" (pages of crawls), "all", or "off". Text that its maker chose (books,
statutes, notes) is "curated": only repair, length, symbols and exact repetition touch it unless a table says "all".
"""

import re
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from puna.recipe.section import Section

PYTHON_SOURCE = "python"  # the default corpus: documentation and source of the running Python
HUB_PREFIX = "hf:"
Apply = Literal["off", "web", "all"]
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kMGT]?)B")
_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


class Source(Section):
    """One source of text with what is said of it."""

    path: str = Field(description='"python", a file, a folder, or hf:org/name')
    profile: Literal["auto", "web", "curated"] = Field(
        "auto", description='"auto": pages of WARC, WET and HTML files are web, all else is curated'
    )
    licence: str | None = Field(None, description="of this source; unset: corpus.licence")
    weight: float = Field(1.0, ge=0, le=100, description="times each document is read in a pass; 0.5: every other one")
    max_epochs: float | None = Field(None, gt=0, description="training stops before it reads this source more often")


class Language(Section):
    """Language identification; every document is labelled, whatever `apply` says."""

    apply: Apply = Field("web", description="documents that can be dropped")
    keep: list[str] = Field([], description='languages to keep, like ["en", "zh"]; empty: all')
    min_score: float = Field(0.5, ge=0, le=1, description="least certainty with which a document's language is told")
    weights: dict[str, float] = Field({}, description="times a document of a language is read in a pass")


class Metrics(Section):
    """Gopher, C4 and FineWeb heuristics, with thresholds per language."""

    apply: Apply = "web"


class Repetition(Section):
    """Repeated lines, paragraphs and n-grams (Gopher)."""

    apply: Apply = "web"


class Correct(Section):
    """Rule-based correction: mojibake, boilerplate lines, hyphenation, invisible characters."""

    apply: Apply = "web"
    blocklist: str | None = Field(None, description="file of domains or Adblock rules; pages of these addresses go")


class Personal(Section):
    """Personal data: e-mail, IP, phone, resident id, bank card, IBAN; replaced by fixed stand-ins."""

    apply: Apply = "web"


class Perplexity(Section):
    """An n-gram language model of the reference text; what it finds least likely goes."""

    apply: Apply = "web"
    reference: list[str] = Field([], description="files of good text; empty: the curated sources")
    drop: float = Field(0.1, ge=0, lt=1, description="share of each language that goes, the highest perplexity first")


class Quality(Section):
    """A linear classifier over hashed n-grams: the user's good examples against the crawl."""

    apply: Apply = "web"
    good: list[str] = Field([], description="files of good examples; empty: the curated sources")
    drop: float = Field(0.2, ge=0, lt=1, description="share of each language that goes, the lowest score first")


class Coherence(Section):
    """Documents of disparate passages."""

    apply: Apply = "web"
    drop: float = Field(0.02, ge=0, lt=1, description="share of each language that goes, the least coherent first")


class Paragraphs(Section):
    """Paragraphs that stood before; needs corpus.deduplicate."""

    apply: Apply = "all"


class Near(Section):
    """Near-duplicate documents: MinHash signatures, connected components; the first of a cluster stays."""

    apply: Apply = "web"
    threshold: float = Field(0.7, gt=0, le=1, description="estimated Jaccard similarity from which two are one")
    passages: bool = Field(
        False,
        description="cut documents into passages of some 2,000 letters first, so that two editions of a book meet",
    )
    upweight: bool = Field(False, description="read what stood for n documents 1 + log2(n) times, at most 4")


class Spans(Section):
    """Passages of 50 words (100 Chinese characters) and more that stood before, word for word."""

    apply: Apply = "web"


class Safety(Section):
    """Word lists and a small classifier, per category."""

    apply: Apply = "web"
    drop: list[str] = Field(["sexual", "gambling"], description="categories of which documents go")
    threshold: float = Field(0.5, ge=0, le=1, description="score from which a document is of a category")
    words: str | None = Field(None, description="a file of your own words (TOML)")


class Topics(Section):
    """Clusters of documents by meaning, labelled by their words."""

    apply: Apply = "web"
    clusters: int | None = Field(None, ge=2, le=4096, description="unset: by the number of documents")
    weights: dict[str, float] = Field(
        {}, description="times documents of the clusters that a word labels are read; 0: they go"
    )
    outliers: float = Field(0.0, ge=0, lt=0.5, description="share of documents farthest from every centre that goes")


class Decontaminate(Section):
    """Exact n-gram overlap with evaluation items."""

    apply: Apply = "all"
    evals: list[str] = Field([], description="files and folders of evaluation items")
    action: Literal["flag", "cut", "drop"] = Field("cut", description="what is done to the text that holds an item")
    words: int = Field(13, ge=5, le=50, description="length of the n-grams")
    characters: int = Field(13, ge=5, le=50, description="the same for Chinese, Japanese and Korean")


class Scale(Section):
    """How much of the machine, or which cluster, the pipeline takes."""

    memory: str = Field("2GB", description="bound on the pipeline's memory, whatever the input's size")
    workers: int | None = Field(
        None, ge=1, le=4096, description="processes; unset: one for each core; never more than memory allows"
    )
    ray: str | None = Field(None, description='address of a Ray cluster, like "ray://head:10001"')

    @field_validator("memory")
    @classmethod
    def _a_size(cls, value: str) -> str:
        if bytes_of(value) < 512 * 10**6:
            raise ValueError('write a size of at least 512MB, like "2GB"')
        return value


class Corpus(Section):
    """Text in, clean documents out."""

    sources: list[str | Source] = Field(
        default=[PYTHON_SOURCE], min_length=1, description='"python", files, folders, hf:org/name, or tables of them'
    )
    text_field: str | None = Field(
        None, description="field of JSON, CSV and Parquet rows that holds the text; found when unset"
    )
    licence: str = Field("unstated", description="licence of your own text, written beside every document")
    heldout_share: float = Field(
        0.05,
        gt=0,
        lt=0.5,
        description="share of the text kept for judging (16 MiB of a source at most), by module or file; of a lone file, its end",
    )
    min_chars: int = Field(80, ge=1, description="shorter documents are dropped")
    max_chars: int = Field(2_000_000, ge=1000, description="longer documents are split at line ends")
    max_symbol_share: float = Field(
        0.6, gt=0, le=1, description="documents with more non-letters than this are dropped"
    )
    near_duplicate: float = Field(
        0.5, gt=0, le=1, description="training text that shares this much with held-out text goes"
    )
    deduplicate: bool = Field(True, description="exact duplicates of documents and paragraphs go")
    thresholds: str | None = Field(None, description="a file of thresholds of your own; unset: the bundled table")
    language: Language = Language()
    metrics: Metrics = Metrics()
    repetition: Repetition = Repetition()
    correct: Correct = Correct()
    personal: Personal = Personal()
    perplexity: Perplexity = Perplexity()
    quality: Quality = Quality()
    coherence: Coherence = Coherence()
    paragraphs: Paragraphs = Paragraphs()
    near: Near = Near()
    spans: Spans = Spans()
    safety: Safety = Safety()
    topics: Topics = Topics()
    decontaminate: Decontaminate = Decontaminate()
    scale: Scale = Scale()

    @property
    def named(self) -> list[Source]:
        """All sources as tables."""
        return [Source(path=item) if isinstance(item, str) else item for item in self.sources]

    @property
    def paths(self) -> list[str]:
        """What the sources are read from: "python", paths and hf: names."""
        return [source.path for source in self.named]

    @model_validator(mode="after")
    def _known_words(self) -> "Corpus":
        for table in ("language", "topics"):
            for word, weight in getattr(self, table).weights.items():
                if not 0 <= weight <= 100:
                    raise ValueError(f"{table}.weights.{word} must be between 0 and 100")
        return self


def bytes_of(size: Any) -> int:
    """ "2GB" -> 2,000,000,000. Raises ValueError for anything else."""
    found = _SIZE.fullmatch(str(size).strip())
    if not found:
        raise ValueError('write a number and a unit, like "2GB" or "500MB"')
    return int(float(found[1]) * _UNITS[found[2]])
