"""What a board is made of: models, tasks, scores, and differences of pairs; no HTML, no files.

Comes in: from gather.py. Goes out: to the pages, the plots, the scripts and the downloads. Must never happen: a number in here that
no result of the store stands behind.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from puna.judge.measured import ModelFacts, TaskFacts
from puna.judge.summary import SeedSummary


@dataclass(frozen=True)
class Dirt:
    """How a score splits by what the model had read before."""

    decidable: int  # items that were looked for in the model's training text
    dirty: int
    touched: int | None  # of the clean: found in part; None: not counted
    clean_value: float | None
    clean_interval: tuple[float, float] | None
    dirty_value: float | None
    dirty_interval: tuple[float, float] | None
    difference: float | None = None  # dirty - clean
    interval: tuple[float, float] | None = None  # of the difference
    threshold: float = 0.0  # share of an item's n-grams from which it is dirty

    @property
    def share(self) -> float:
        """Of the decidable items, those that the model had read."""
        return self.dirty / self.decidable if self.decidable else 0.0


@dataclass(frozen=True)
class Part:
    """The score on one subtask."""

    name: str
    n: int
    value: float | None
    interval: tuple[float, float] | None
    chance: float | None


@dataclass(frozen=True)
class Score:
    """One model on one task: the result that the board shows for them."""

    result: str  # the result's id
    path: str  # of its file in the store, as it is typed
    command: str  # what makes it again; "" for somebody else's number
    value: float | None  # in the task's unit; None where it failed
    interval: tuple[float, float] | None = None  # 95 %
    variance: float | None = None  # of `value`: its standard error squared
    method: str = ""  # how the interval was made
    n: int | None = None  # items; None where it is not known
    n_source: str = ""  # how that is known, of somebody else's score
    clusters: int | None = None  # what was independent among them
    norm: float | None = None  # (value - chance) / (1 - chance), per subtask
    norm_variance: float | None = None
    clipped: float | None = None  # the same, below chance counted as chance, per subtask
    failed: str | None = None
    failed_items: int = 0
    truncated: int = 0  # items whose prompt was cut
    truncated_tokens: int = 0
    ties: int = 0  # items on which two choices were exactly as likely
    chance: float | None = None  # of the items asked
    above_chance: float | None = None  # p-value of "no better than guessing"
    chance_test: str = ""  # how it was found
    parts: tuple[Part, ...] = ()
    dirt: Dirt | None = None
    source: str = ""  # who published it, where it was not measured here
    source_url: str = ""
    source_notes: str = ""
    paired: bool = True  # its items are known


@dataclass(frozen=True)
class Column:
    """A task on the board: results with equal questions, asked and counted equally."""

    slug: str
    facts: TaskFacts
    in_mean: bool  # a share, more is better: may be averaged with others
    chat: bool = False  # asked in the models' chat format
    variants: tuple[str, ...] = ()  # what differs between results: "prompts in the chat format: ..."


@dataclass(frozen=True)
class Row:
    """A model on the board."""

    slug: str
    facts: ModelFacts
    imported: bool  # all its scores are somebody else's


@dataclass(frozen=True)
class Difference:
    """Model i minus model j on one task."""

    value: float
    variance: float | None  # None: not known, the two cannot be told apart
    interval: tuple[float, float] | None
    p: float | None
    norm: float | None
    norm_variance: float | None
    paired: bool
    test: str  # in words
    n: int  # items of both
    both: int = 0  # right in both, in the first only, in the second only, in neither (scores of 0 and 1)
    first_only: int = 0
    second_only: int = 0
    neither: int = 0
    binary: bool = False  # the four counts mean something
    more: int | None = None  # how many items would show this difference
    visible: float | None = None  # the smallest difference that these items show in four of five samples


@dataclass(frozen=True)
class SeedGroup:
    """Models of one recipe that differ by their seed, on one task."""

    models: tuple[int, ...]
    summary: SeedSummary


@dataclass(frozen=True)
class Ranked:
    """A model's place under one choice of tasks."""

    model: int  # its number on the board
    mean: float
    interval: tuple[float, float] | None
    low: int  # rank set: its true rank lies in low..high
    high: int


@dataclass(frozen=True)
class Ranking:
    """All models under one choice of tasks on one scale."""

    tasks: tuple[int, ...]
    scale: str  # "raw", "clipped", "unclipped"
    rows: tuple[Ranked, ...]
    lacking: tuple[tuple[int, tuple[int, ...]], ...]  # (model, tasks that it lacks)
    apart: frozenset[tuple[int, int]]  # (better, worse): models that the data separate


@dataclass(frozen=True)
class Preset:
    """A choice of tasks with a name."""

    id: str
    label: str
    tasks: tuple[int, ...]


@dataclass(frozen=True)
class Gain:
    """A model beside one parent that is on the board too, over the tasks that both have."""

    parent: int
    value: float  # mean difference over the tasks
    interval: tuple[float, float] | None
    tasks: tuple[int, ...]
    paired: bool


@dataclass
class Board:
    """All of it. Lists are indexed by the numbers of models and tasks."""

    title: str
    models: list[Row]
    tasks: list[Column]
    scores: list[list[Score | None]]  # [model][task]; None: never run
    pairs: list[dict[tuple[int, int], Difference]]  # [task][(i, j)] with i < j
    presets: list[Preset] = field(default_factory=list)
    start: int = 0  # the preset that the page shows first
    seeds: list[list[SeedGroup]] = field(default_factory=list)  # [task]
    gains: list[list[Gain]] = field(default_factory=list)  # [model]
    refused: Sequence[tuple[str, str]] = ()  # (path, why) of results that were not taken

    def at(self, model: int, task: int) -> Score | None:
        """The score of a model on a task where there is one that did not fail."""
        score = self.scores[model][task]
        return score if score is not None and score.value is not None else None
