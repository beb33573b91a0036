"""What is known of a model at its release, in one record: the model card and both bills of materials are written from it, and from nothing else.

Comes in: what a build measured and logged. Goes out: `Evidence`. Must never happen: a statement that rests on nobody's measurement; what is not
known is None, and the documents say so.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue


class Part(BaseModel):
    """Immutable; unknown keys are refused; NaN and infinity are no JSON."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class File(Part):
    """A file of the release."""

    path: str
    bytes: int
    sha256: str


class Source(Part):
    """A text that went in."""

    name: str
    sha256: str | None = None  # over its files
    bytes: int | None = None
    files: int | None = None
    licence: str | None = None
    part: Literal["training", "tuning"] = "training"


class Ancestor(Part):
    """A model that this one began with."""

    name: str
    sha256: str | None = None  # of its weights
    relation: str = ""  # "continued", "merged", ...
    licence: str | None = None


class Measure(Part):
    """A score, with its 95 % interval where one was made."""

    task: str
    metric: str
    value: float
    low: float | None = None
    high: float | None = None
    n: int | None = None
    chance: float | None = None
    higher_is_better: bool = True
    model: str = ""  # "base" or "chat"


class Training(Part):
    """One training of the build."""

    name: str  # "pretraining", "tuning 1"
    tokens: int | None = None
    steps: int | None = None
    seconds: float | None = None
    settings: dict[str, JsonValue] = Field(default_factory=dict)  # the plan: rates, batch, precision


class Evidence(Part):
    """All of it. `created`: the time of the ledger's last entry, so that a build made again gives the same bytes."""

    name: str
    title: str
    created: str
    puna: str  # version
    architecture: str
    parameters: int
    shape: dict[str, JsonValue] = Field(default_factory=dict)
    licence: str | None = None
    languages: tuple[str, ...] = ()
    chats: bool = False
    weights: tuple[File, ...] = ()  # weights, config, tokenizer
    others: tuple[File, ...] = ()
    sources: tuple[Source, ...] = ()
    ancestors: tuple[Ancestor, ...] = ()
    training: tuple[Training, ...] = ()
    measures: tuple[Measure, ...] = ()
    environment: dict[str, str] = Field(default_factory=dict)
    machine: str = ""
    seed_commitment: str | None = None
    step0: str | None = None  # digest of the initial weights
    ledger_entries: int = 0
    ledger_head: str = ""
    contamination_checked: bool = False
    limits: tuple[str, ...] = ()

    @property
    def from_scratch(self) -> bool:
        """Whether it began with random weights, by the ledger."""
        return not self.ancestors
