"""What a report is made of: one typed value, filled by the build from the artefacts of a run.

Comes in: a plain dict (JSON's types). Goes out: a `ReportData`. Must never happen: a misspelt part that is left out
of the page in silence; the top level therefore refuses unknown keys. The values of other rooms (corpus.json,
results.json, metrics.jsonl) may say more than a page shows, so below the top level further keys are allowed.

Every part but `run` may be missing: the page then says nothing about it.
"""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field


class Part(BaseModel):
    """A part of the report. It never changes after loading."""

    model_config = ConfigDict(extra="allow", frozen=True)


Count = Annotated[int, Field(ge=0)]


class Amount(Part):
    """Documents and their bytes (UTF-8)."""

    documents: Count = 0
    bytes: Count = 0


class Split(Part):
    """A count for each side of the split."""

    train: int = 0
    heldout: int = 0


class Removed(Part):
    """One text that a step took out, shortened by the corpus."""

    reason: str
    source: str = ""
    text: str = ""


class Step(Part):
    """One cleaning step: documents and bytes (UTF-8) before and after it."""

    step: str
    documents_in: int
    documents_out: int
    bytes_in: int
    bytes_out: int
    removed: dict[str, int] = {}
    changed: dict[str, int] = {}  # what was repaired and kept
    samples: list[Removed] = []


class Source(Part):
    """One source of text and its digest."""

    name: str
    digest: str = ""
    files: int = 0
    bytes: int = 0
    licence: str = "unstated"


class Corpus(Part):
    """corpus.json as the corpus room writes it."""

    documents: Split = Split()
    bytes: Split = Split()
    steps: list[Step] = []
    sources: list[Source] = []
    python: str | None = None
    encodings: dict[str, int] = {}
    skipped: dict[str, int] = {}
    languages: dict[str, Amount] = {}  # what there is to train on
    split: list[dict[str, Any]] = []  # how each source was split: "by" is "module", "file", ... or "tail"

    @property
    def by_tail(self) -> list[str]:
        """The sources of which the end of each document is held out, for want of whole documents."""
        return [str(row["source"]) for row in self.split if row.get("by") == "tail"]

    @property
    def whole(self) -> str:
        """What was never cut in two by the split: "modules", "files", "documents", or several of them."""
        kinds = dict.fromkeys(f"{row['by']}s" for row in self.split if row.get("by") not in (None, "tail"))
        return " or ".join(kinds) or "documents"


class Model(Part):
    """The decoder. `shape` has the keys of `recipe.scaling.Shape`."""

    shape: dict[str, Any] = {}
    parameters: int = 0
    architecture: str = "LlamaForCausalLM"


class Metric(Part):
    """One line of metrics.jsonl. `loss` is in nats per token and is None or not finite where a step had none."""

    step: int
    loss: float | None = None
    lr: float | None = None
    grad_norm: float | None = None
    tokens: int | None = None  # seen up to and including this step
    tokens_per_second: float | None = None
    skipped: bool | str | None = None  # the update of this step was not applied: a spike


class Training(Part):
    """One training run: pretraining, or one tuning."""

    title: str | None = None  # "Fine-tuning on conversations"
    plan: dict[str, Any] = {}
    metrics: list[Metric] = []
    seconds: float | None = None
    passes: float | None = None  # tokens read over the tokens that there are
    skipped: int | None = None  # spikes whose update was not applied
    peak_share: float | None = None  # of the machine's measured matmul peak, 0 to 1


class Score(Part):
    """One measured number with its interval, as the judge writes it. A baseline has the same form."""

    task: str
    metric: str
    value: float | None = None
    n: int | None = None
    interval: tuple[float, float] | None = None  # 95 %
    chance: float | None = None
    p_value: float | None = None
    higher_is_better: bool = True
    detail: Any = None
    name: str | None = None  # of a baseline


class Sample(Part):
    """Text that the model wrote: `prompt` and what followed, or a whole talk in `messages`."""

    kind: str
    prompt: str = ""
    text: str = ""
    messages: list[dict[str, str]] | None = None


class Results(Part):
    """results.json as the judge writes it."""

    scores: list[Score] = []
    baselines: list[Score] = []
    samples: list[Sample] = []
    left_out: list[dict[str, str]] = []  # {"task", "reason"} of what could not be measured
    contamination: dict[str, Any] = {}  # {"value": a share, "what": of what}


class Check(Part):
    """One check of the export gate."""

    check: str
    passed: bool
    value: str = ""


class Stage(Part):
    """What one stage of the build cost. Energy appears only where it was measured."""

    name: str
    seconds: float | None = None
    reused: bool = False
    bytes: int | None = None
    peak_rss_bytes: int | None = None  # the most memory that the process had taken until the stage ended
    joules: float | None = None


class LedgerFacts(Part):
    """The run's ledger at the time of the release."""

    entries: int
    head: str
    seed_commitment: str | None = None


class Command(Part):
    """One command a reader may type, and what it does."""

    what: str
    command: str


class ReportData(BaseModel):
    """Everything that a report and a model card show."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    run: str  # the run's name
    title: str | None = None  # how the model calls itself; the name when unset
    created: str = ""  # ISO 8601, given by the build: a page never reads the clock
    recipe_toml: str = ""  # the frozen recipe, seed included
    licence: str | None = None  # of the released weights: an SPDX name, or words
    puna_version: str | None = None
    machine: dict[str, Any] = {}
    corpus: Corpus | None = None
    tokenizer: dict[str, Any] = {}
    model: Model | None = None
    training: Training | None = None
    tuning: list[Training] = []
    chat_data: dict[str, Any] = {}  # what the maker of conversations counted; or a dict of such, by stage
    results: Results | None = None
    gate: list[Check] = []
    stages: list[Stage] = []
    ledger: LedgerFacts | None = None
    commands: list[Command | str] = Field(default=[])
