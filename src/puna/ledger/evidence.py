"""What is known of a model at its release, in one record: both bills of materials and the checklists are written from it, and from nothing else.

Comes in: what a build measured and logged. Goes out: `Evidence`. Must never happen: a statement that rests on nobody's measurement; what is not
known is None or empty, and the documents say so.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue


class Part(BaseModel):
    """Immutable; unknown keys are refused; NaN and infinity are no JSON."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class File(Part):
    """A file. `bytes` is None of a file that is not in the release."""

    path: str
    bytes: int | None = None
    sha256: str


class Source(Part):
    """A text: what the model was trained on, tuned on, or tested on (`part`)."""

    name: str
    sha256: str | None = None  # over its files; of a tuning or a test over the one file that was made of it
    bytes: int | None = None
    files: int | None = None
    licence: str | None = None
    part: Literal["training", "tuning", "testing"] = "training"
    read: str | None = None  # ISO 8601: when this build read it, by the ledger


class Ancestor(Part):
    """A model that this one began with. `own`: made by the same run and part of the release, not taken from elsewhere."""

    name: str
    files: tuple[File, ...] = ()
    digest: str | None = (
        None  # of weights, config and tokenizer as the build read them: SHA-256 over their names and digests
    )
    relation: str = ""  # "continued", "merged", "tuned"
    licence: str | None = None  # as its own card states it
    parents: tuple[str, ...] = ()  # as its own card names them
    own: bool = False


class Measure(Part):
    """A score, with its 95 % interval where one was made."""

    task: str
    metric: str
    value: float
    low: float | None = None
    high: float | None = None
    n: int | None = None
    n_is: str = ""  # what is counted: "modules"
    chance: float | None = None
    higher_is_better: bool = True
    model: str = ""  # "base", "chat"; of what is inherited and what is own: "inherited", "init", "own"
    dataset: tuple[str, str] | None = None  # (data set, task) on the Hugging Face hub


class Training(Part):
    """One training of the build. `settings`: the plan's own numbers."""

    name: str  # "pretraining", "tuning 1"
    tokens: int | None = None
    steps: int | None = None
    seconds: float | None = None
    optimiser: str = ""
    began_with: str | None = None  # digest of its first weights
    settings: dict[str, JsonValue] = Field(default_factory=dict)


class Check(Part):
    """One check of the export gate."""

    check: str
    passed: bool
    value: str = ""


class Contamination(Part):
    """How much of a test stands in the training text: a share of 1, and of what."""

    value: float
    what: str


class Code(Part):
    """What ran. `changed`: files differed from the commit; None: not known, as of an installed package."""

    digest: str | None = None  # of Puna's source, as the ledger has it
    commit: str | None = None
    changed: bool | None = None


class Evidence(Part):
    """All of it. `created`: the time of the ledger's last entry, so that a release written again has the same bytes."""

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
    weights: tuple[File, ...] = ()  # what an engine loads: weights, config, tokenizer
    others: tuple[File, ...] = ()
    sources: tuple[Source, ...] = ()
    preprocessing: tuple[str, ...] = ()  # what each step took out, in the order of the steps
    ancestors: tuple[Ancestor, ...] = ()
    training: tuple[Training, ...] = ()
    measures: tuple[Measure, ...] = ()
    samples: int = 0  # texts that the model wrote, kept with the results
    contamination: Contamination | None = None
    gate: tuple[Check, ...] = ()
    environment: dict[str, str] = Field(default_factory=dict)
    machine: dict[str, JsonValue] = Field(default_factory=dict)
    joules: float | None = None  # of the whole build; None: not measured
    code: Code = Code()
    seed_commitment: str | None = None
    step0: str | None = None  # digest of the weights that the first training began with
    ledger_entries: int = 0
    ledger_head: str = ""
    limits: tuple[str, ...] = ()

    @property
    def parents(self) -> tuple[Ancestor, ...]:
        """The models from elsewhere that this one began with."""
        return tuple(one for one in self.ancestors if not one.own)

    @property
    def from_scratch(self) -> bool:
        """Whether it began with random weights, by the ledger."""
        return not self.parents

    def of(self, part: str) -> list[tuple[int, Source]]:
        """(number, source) of the texts of one part."""
        return [(number, one) for number, one in enumerate(self.sources) if one.part == part]


def beginning(evidence: Evidence) -> str:
    """How the weights began, as a sentence."""
    if evidence.from_scratch:
        return f"Began with random weights (digest of step 0: {evidence.step0 or 'not logged'})."
    return f"Began with the weights of {', '.join(one.name for one in evidence.parents)}."


def trained(one: Training) -> str:
    """One training as a clause: tokens, steps, optimiser."""
    counts = [f"{one.tokens:,} tokens" if one.tokens else "", f"{one.steps:,} steps" if one.steps else ""]
    told = " in ".join(count for count in counts if count) or "length not logged"
    return f"{one.name}: {told}{f', {one.optimiser}' if one.optimiser else ''}"


def energy(evidence: Evidence) -> str:
    """What is known of the energy."""
    return "energy was not measured" if evidence.joules is None else f"{evidence.joules:,.0f} joules were measured"
