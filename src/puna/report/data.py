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


Interval = tuple[float, float] | None  # 95 %


class Gap(Part):
    """A paired difference."""

    value: float
    interval: Interval = None


class InheritedRow(Part):
    """One model's scores by domain."""

    model: str
    scores: dict[str, Score]


class InheritedGap(Part):
    """What changed from one model to a later one on the text of a domain. `holds`: it got better; None: cannot tell."""

    domain: str
    before: str
    after: str
    difference: Gap
    holds: bool | None = None
    words: str = ""


class LanguageRow(Part):
    """One model on the text of one language."""

    bits_per_byte: float
    bytes_per_token: float
    interval: Interval = None


class LanguageFound(Part):
    """All models on the text of one language, and the last one minus the first."""

    bytes: Count
    documents: Count = 0
    rows: Annotated[dict[str, LanguageRow], Field(min_length=1)]  # in the order of `models`
    difference: Gap


class Inheritance(Part):
    """What the model has of its base and what is its own, as `judge_inheritance` gives it."""

    models: Annotated[list[str], Field(min_length=2)]
    rows: Annotated[list[InheritedRow], Field(min_length=2)]
    differences: list[InheritedGap] = []
    languages: dict[str, dict[str, LanguageFound]] = {}
    words: list[str] = []


class PositionRange(Part):
    """Bits per byte of the tokens at positions `low` to `high`."""

    low: Count = Field(alias="from")
    high: Annotated[int, Field(ge=1)] = Field(alias="to")
    bits_per_byte: Annotated[float, Field(gt=0)]
    interval: Interval = None


class Positions(Part):
    """One model by position; `ranges` is empty, and `reason` says why, where there were too few long documents."""

    trained_context: Count = 0
    n: Count = 0
    n_is: str = "documents"
    ranges: list[PositionRange] = []
    reason: str = ""


class Needles(Part):
    """Needles of one length, at one depth or at all of them together."""

    length: Annotated[int, Field(ge=1)]
    depth: float | None = None
    n: Count
    share: float
    interval: Interval = None
    recall: float = 0.0
    lift_bits: float = 0.0
    chance: float
    p_value: float | None = None


class NeedleTest(Part):
    """One model's needle test, as `needle_test` gives it."""

    choices: int
    cells: list[Needles] = []
    by_length: list[Needles] = []
    left_out: list[dict[str, Any]] = []


class LongContext(Part):
    """What a longer context is worth, as `judge_long_context` gives it. `positions["models"]` holds `Positions` by model."""

    context: Annotated[int, Field(ge=1)]
    models: list[str]
    positions: dict[str, Any] = {}
    needle: dict[str, NeedleTest] = {}
    words: list[str] = []

    @property
    def by_position(self) -> dict[str, Positions]:
        """The models that were read by position."""
        return {name: Positions.model_validate(found) for name, found in self.positions.get("models", {}).items()}


class Extension(Part):
    """What new entries of the vocabulary gain on the text of one script, in UTF-8 bytes per token."""

    bytes: Count = 0
    bytes_per_token_before: Annotated[float, Field(gt=0)]
    bytes_per_token_after: Annotated[float, Field(gt=0)]
    kept: float | None = None  # the share of the old tokens that stay as they are


class Results(Part):
    """results.json as the judge writes it."""

    scores: list[Score] = []
    baselines: list[Score] = []
    samples: list[Sample] = []
    left_out: list[dict[str, str]] = []  # {"task", "reason"} of what could not be measured
    contamination: dict[str, Any] = {}  # {"value": a share, "what": of what}
    inheritance: Inheritance | None = None
    long_context: LongContext | None = None


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
    step0: str | None = None  # digest of the weights that the first training began with


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
    base: dict[
        str, Any
    ] = {}  # the open weights it was made from ("names", "parameters", ...) and what was changed ("start")
    extension: dict[str, Extension] = {}  # by script: what the entries that were added to the base's tokenizer gain
    model: Model | None = None
    training: Training | None = None
    tuning: list[Training] = []
    chat_data: dict[str, Any] = {}  # what the maker of conversations counted; or a dict of such, by stage
    results: Results | None = None
    gate: list[Check] = []
    stages: list[Stage] = []
    ledger: LedgerFacts | None = None
    commands: list[Command | str] = Field(default=[])
