"""What one model did on one task, item by item: the form in which everything in this room is handed on.

Comes in: from whoever asks a model. Goes out: to the statistics, the store and the board. Must never happen: a number without the
items that it is made of, or torch imported here (the board reads these).
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

Kind = Literal["choices", "contexts", "cloze", "answer", "text", "quiz", "remote"]


class _Fact(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Parent(_Fact):
    """A model that another one stems from, what was done to it, and how that is known."""

    name: str
    relation: str = ""  # "fine-tuned", "continued", "merged", ...; "" where it is not known
    digest: str | None = None  # of the parent's weights
    evidence: str = ""  # one plain sentence: "its ledger says so", "the maker says so"


class ModelFacts(_Fact):
    """Which model it was. What is not known is None, never guessed."""

    name: str  # what a person calls it
    developer: str = ""
    kind: Literal["weights", "endpoint", "published"] = "weights"  # run here; asked over HTTP; somebody else's number
    digest: str | None = None  # SHA-256 over the weights, config and tokenizer
    tokenizer_digest: str | None = None
    parameters: int | None = None
    context: int | None = None  # tokens
    train_tokens: int | None = None
    flops: float | None = None  # of training
    licence: str | None = None
    parents: tuple[Parent, ...] = ()
    no_parent: str = ""  # how it is known that there is none; "" where nobody knows
    seed: int | None = None  # of its training, where it is one of several of one recipe
    recipe: str | None = None  # digest of the recipe without the seed: models of one recipe are seeds of each other
    notes: tuple[str, ...] = ()  # what a reader must know of these facts, said aloud


class TaskFacts(_Fact):
    """Which questions, asked how, counted how."""

    name: str  # "arc_challenge"
    title: str  # "ARC-Challenge"
    kind: Kind
    metric: str  # "acc_norm"
    higher_is_better: bool = True
    unit: Literal["share", "bits per byte", "points"] = "share"
    chance: float | None = None  # of the whole, where guessing gives a score
    chances: dict[str, float] = Field(default_factory=dict)  # of each subtask, where they differ
    shots: int = 0
    language: str = "en"
    aggregate: Literal["items", "subtasks"] = "items"  # the mean over items, or over the subtasks' means
    digest: str = ""  # of the task's definition
    data_digest: str = ""  # of the files that the items come from
    prompt_digest: str = ""  # over all prompts, in order
    items_in_all: int = 0  # before a limit
    source: str = ""  # where the data come from
    licence: str = ""
    notes: tuple[str, ...] = ()  # what differs from the published protocol, said aloud


class Item(_Fact):
    """One question and what the model made of it."""

    id: str  # stable within the task
    subtask: str = ""
    cluster: str = ""  # items that share a passage have the same one; "": it stands alone
    question: str  # the item's own text, for people
    prompt: str  # all that the model was given, few-shot examples too
    choices: tuple[str, ...] = ()  # empty where the answer is written freely
    continuation: str = ""  # where the choices are contexts: what follows each of them, as it was asked
    target: tuple[int | str, ...] = ()  # places of the right choices, or the right answers
    # The place of the chosen one, or what was written; None where it failed. "": a continuation that the model would not write, and
    # what it would write is not known.
    answer: int | str | None = None
    loglikelihoods: tuple[float | None, ...] = ()  # nats, of each choice; None where they are no numbers
    score: float | None = None  # the main metric of this item; None where it failed
    weight: float = 1.0  # bytes where the score is bits per byte (then `score` is bits, not bits per byte)
    scores: dict[str, float] = Field(default_factory=dict)  # every metric
    truncated: int = 0  # tokens of the prompt that the model's context could not hold
    tie: bool = False  # another choice was exactly as likely as the chosen one
    dirty: float | None = None  # share of the item's n-grams in the model's own training text; None: not looked for


class Settings(_Fact):
    """How it was run: what another run needs to give the same numbers."""

    limit: int | None = None  # items of a task (of a subtask, where there are any): a sample by `seed`
    seed: int = 1234
    chat: bool = False  # prompts in the model's chat format
    batch_tokens: int = 4096
    dtype: str = "float32"
    device: str = "cpu"
    threads: int | None = None
    data: str | None = None  # the --data folder as it was typed
    extra: dict[str, Any] = Field(default_factory=dict)


class Origin(_Fact):
    """Where somebody else's result comes from. None on a measurement: it was measured here."""

    form: Literal["lm_eval", "eval_results", "every_eval_ever", "table"]  # how it was written down
    name: str  # who says so: "Open LLM Leaderboard"
    url: str = ""
    date: str = ""  # as the source gives it
    notes: str = ""


class Published(_Fact):
    """A score whose items are not known: comparisons with it cannot be paired."""

    score: float  # in the task's unit
    n: int | None = None  # items that it is a mean over
    n_source: str = ""  # how `n` is known
    standard_error: float | None = None  # as published; None: not published
    scores: dict[str, float] = Field(default_factory=dict)  # every metric
    subtasks: dict[str, float] = Field(default_factory=dict)  # the main metric of each subtask
    subtask_n: dict[str, int] = Field(default_factory=dict)


class Measurement(_Fact):
    """One model on one task. `failed` says why there is no score; then the items that there are still stand here."""

    model: ModelFacts
    task: TaskFacts
    settings: Settings = Settings()
    items: tuple[Item, ...] = ()
    failed: str | None = None
    seconds: float = 0.0
    harness: dict[str, str] = Field(default_factory=dict)  # versions of what measured
    command: str = ""  # what makes it again
    origin: Origin | None = None  # somebody else's result
    published: Published | None = None  # the score, where there are no items to make it from
    contamination: dict[str, JsonValue] = Field(
        default_factory=dict
    )  # what the methods for models without a corpus found
