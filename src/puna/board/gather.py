"""From the results store to a board: which model, which task, which result counts, and what every pair differs by.

Comes in: results of the store. Goes out: a `Board`. Must never happen: scores of unequal questions in one column, a failed result
shown as absent, or all items of all models in memory with their texts.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from puna.board.choice import mean_difference, presets
from puna.board.compare import task_pairs
from puna.board.data import Board, Column, Dirt, Gain, Part, Row, Score, SeedGroup
from puna.board.descent import with_descent
from puna.board.family import parents_of
from puna.board.writing import slugs
from puna.errors import PunaError
from puna.judge.distributions import normal_point
from puna.judge.lining import Prepared
from puna.judge.measured import Measurement, ModelFacts, TaskFacts
from puna.judge.pairs import presumed
from puna.judge.store.store import StoredResult
from puna.judge.summary import summarise_seeds
from puna.lineage.verdict import Lineage
from puna.progress import QUIET, Progress

ORDER = (
    "arc_challenge", "hellaswag", "mmlu", "truthfulqa_mc2", "winogrande", "gsm8k", "drop", "arc_easy", "openbookqa", "boolq",
    "lambada", "blimp", "cmmlu",
)  # fmt: skip


@dataclass(frozen=True)
class Shown:
    """A result of the store and where it stands on the board."""

    result: StoredResult
    model: int
    task: int
    score: Score
    why: str = ""  # why the table shows another one; "": the table shows this


@dataclass
class Gathered:
    """A board and the results behind it."""

    board: Board
    results: list[Shown]


Reader = Callable[
    [Board, int, int, Measurement], None
]  # what is told each measurement of the table: board, model, task, it


def gather(
    results: Sequence[StoredResult],
    *,
    title: str,
    refused: Sequence[tuple[str, str]] = (),
    comparisons: Sequence[Lineage] = (),
    reader: Reader | None = None,
    progress: Progress = QUIET,
) -> Gathered:
    """Read all results into a board. A result whose items cannot be read is refused and named, and the board goes on.

    `reader` is handed every measurement of the table, whole, as it is read: reading takes most of the time, so it is done once.
    """
    turned_away = list(refused)
    results = sorted(results, key=lambda one: one.id)
    models, model_of = _models(results)
    models = [replace(row, facts=with_descent(row.facts, comparisons)) for row in models]
    tasks, task_of = _tasks(results)
    every = [
        Shown(one, model_of[one.id], task_of[one.id], score_of(one)) for one in results
    ]  # by id: the same for any order in which they come
    every = _chosen(every)
    scores: list[list[Score | None]] = [[None] * len(tasks) for _ in models]
    for one in every:
        if not one.why:
            scores[one.model][one.task] = one.score
    board = Board(title, models, tasks, scores, [{} for _ in tasks], refused=turned_away)
    board.seeds = [[] for _ in tasks]
    progress.start("Reading items, comparing pairs", sum(not one.why for one in every), "results")
    done = 0
    for t in range(len(tasks)):
        own = sorted((one for one in every if one.task == t and not one.why), key=lambda one: one.model)
        measured: dict[int, Prepared] = {}
        for one in own:
            whole = _read(board, one)
            if whole is not None:
                if reader is not None:
                    reader(board, one.model, t, whole)
                # The texts of 60 models' items would fill the memory; the numbers do not, nor the marks of what was asked.
                measured[one.model] = replace(Prepared.of(whole), measurement=_without_texts(whole))
            done += 1
            progress.update(done)
        _compare(board, t, measured)
    progress.finish()
    board.presets, board.start = presets(board.tasks, board.scores)
    board.gains = _gains(board)
    return Gathered(board, every)


def _read(board: Board, one: Shown) -> Measurement | None:
    """A result with its items; where they cannot be read, the cell says so."""
    try:
        return one.result.measurement()
    except PunaError as error:
        board.refused = [*board.refused, (error.where or str(one.result.path), error.what)]
        board.scores[one.model][one.task] = replace(
            one.score, value=None, failed=f"its items cannot be read: {error.what}", paired=False
        )
        return None


def _without_texts(whole: Measurement) -> Measurement:
    slim = {"question": "", "prompt": ""}
    items = (item.model_copy(update=slim | {"choices": ("",) * len(item.choices)}) for item in whole.items)
    return whole.model_copy(update={"items": tuple(items)})


def _compare(board: Board, t: int, measured: Mapping[int, Prepared]) -> None:
    """Compare all pairs on one task, and note what differs between the results."""
    scores = {i: score for i in measured if (score := board.scores[i][t]) is not None and score.value is not None}
    board.pairs[t] = task_pairs(measured, scores)
    board.seeds[t] = _seeds({i: measured[i].measurement for i in scores})
    variants = _variants([one.measurement for one in measured.values()])
    asked = {tuple(one.asked) for one in measured.values() if len(one.asked) and not one.measurement.settings.limit}
    if len(asked) > 1:
        variants += (f"questions and prompts: {len(asked)} different sets; only items asked alike are paired",)
    board.tasks[t] = replace(board.tasks[t], variants=variants)


def _seeds(measured: Mapping[int, Measurement]) -> list[SeedGroup]:
    """Models of one recipe with different seeds, asked the same items."""
    groups: dict[str, list[int]] = {}
    for i, one in measured.items():
        if one.model.recipe and one.model.seed is not None and one.items:
            groups.setdefault(one.model.recipe, []).append(i)
    found = []
    for own in groups.values():
        one_each = list({measured[i].model.seed: i for i in reversed(own)}.values())[::-1]
        try:
            if len(one_each) > 1:
                found.append(SeedGroup(tuple(one_each), summarise_seeds([measured[i] for i in one_each])))
        except ValueError:
            continue  # they were asked different items: no mean over seeds
    return found


def score_of(result: StoredResult) -> Score:
    """A result as a cell of the board."""
    facts, found = result.facts(), result.summary
    origin = facts.origin
    dirt = found.dirt
    return Score(
        result=result.id, path=str(result.path), command=facts.command, value=found.score, interval=found.interval,
        variance=found.variance, method=found.method, n=found.n,
        n_source="" if facts.published is None else facts.published.n_source, clusters=found.clusters, norm=found.normalised,
        norm_variance=None if found.normalised_error is None else found.normalised_error**2, clipped=found.clipped,
        failed=found.failed or facts.failed or (None if found.score is not None else "no score"),
        failed_items=found.failed_items, truncated=found.truncated_items, truncated_tokens=found.truncated_tokens,
        ties=found.ties, chance=found.chance, above_chance=found.p_chance, chance_test=found.p_method,
        parts=tuple(Part(one.name, one.n, one.score, one.interval, one.chance) for one in found.subtasks),
        dirt=None if dirt is None else Dirt(
            dirt.looked_for, dirt.dirty.n, dirt.touched, dirt.clean.score, dirt.clean.interval, dirt.dirty.score, dirt.dirty.interval,
            dirt.difference, dirt.interval, dirt.threshold,
        ),
        source="" if origin is None else origin.name, source_url="" if origin is None else origin.url,
        source_notes="" if origin is None else "; ".join(part for part in (origin.date, origin.notes) if part),
        paired=result.samples is not None,
    )  # fmt: skip


def _models(results: Sequence[StoredResult]) -> tuple[list[Row], dict[str, int]]:
    """The models, and the number of each result's. One model: one name, developer, and digests of weights and tokenizer."""

    def key(facts: ModelFacts) -> tuple[str, str, str]:
        return facts.name, facts.developer, f"{facts.digest or ''}{facts.tokenizer_digest or ''}"

    groups: dict[tuple[str, str, str], list[StoredResult]] = {}
    for one in results:
        groups.setdefault(key(one.model), []).append(one)
    ordered = sorted(groups, key=lambda who: (who[0].casefold(), who))
    names = slugs([(who[0], f"{who[1]}\n{who[2]}") for who in ordered])
    rows = [
        Row(slug, _fullest([one.model for one in groups[who]]), all(one.imported is not None for one in groups[who]))
        for who, slug in zip(ordered, names, strict=True)
    ]
    place = {who: i for i, who in enumerate(ordered)}
    return rows, {one.id: place[key(one.model)] for one in results}


def _fullest(known: Sequence[ModelFacts]) -> ModelFacts:
    """Facts of one model from several results: of each field the first that is known, in the order of the fullest."""
    ordered = sorted(known, key=lambda facts: (-sum(bool(value) for _, value in facts), facts.model_dump_json()))
    first = ordered[0]
    missing = {
        name: found
        for name, value in first
        if value in (None, "", ()) and (found := next((getattr(o, name) for o in ordered if getattr(o, name)), None))
    }
    notes = tuple(
        dict.fromkeys(note for facts in ordered for note in facts.notes)
    )  # what one result warns of holds for the model
    return first.model_copy(update=missing | {"notes": notes})


class _What(NamedTuple):
    """What makes a column: results that agree in all of it stand in one."""

    name: str
    metric: str
    unit: str
    aggregate: str = ""
    digest: str = ""
    data_digest: str = ""
    shots: int = 0
    chat: bool = False


def _tasks(results: Sequence[StoredResult]) -> tuple[list[Column], dict[str, int]]:
    """The columns, and the number of each result's. One column: one metric over equal data by one definition, with as many examples,
    all in plain text or all in the models' chat formats.

    Somebody else's result, which has no digests, joins the most common column of its name and metric that has its number of
    examples and its format, as far as its source states them.
    """
    exact: Counter[_What] = Counter()
    column_of: dict[str, _What] = {}
    # First what is surest: what has digests, then what states its examples, then the rest.
    for one in sorted(results, key=lambda one: (not one.task.digest, presumed(one.facts()), one.id)):
        task, facts = one.task, one.facts()
        chat = one.settings.chat and task.kind != "quiz"  # a quiz is always a chat
        own = _What(task.name, task.metric, task.unit, shots=task.shots, chat=chat)
        if task.digest:
            own = own._replace(aggregate=task.aggregate, digest=task.digest, data_digest=task.data_digest)
        else:
            any_shots, any_chat = presumed(facts), facts.origin is not None and facts.origin.form != "lm_eval"
            known = sorted(
                (
                    what
                    for what in exact
                    if what[:3] == own[:3]
                    and (any_shots or what.shots == own.shots)
                    and (any_chat or what.chat == own.chat)
                ),
                key=lambda what: (not what.digest, -exact[what], what),
            )
            own = known[0] if known else own
        exact[own] += 1
        column_of[one.id] = own
    groups: dict[_What, list[TaskFacts]] = {}
    for one in results:
        groups.setdefault(column_of[one.id], []).append(one.task)
    chosen = {what: _described(own) for what, own in groups.items()}
    for title in {facts.title for facts in chosen.values()}:
        same = [what for what in chosen if chosen[what].title == title]
        for what in same if len({(other.shots, other.chat) for other in same}) > 1 else []:
            told = f"{title}, {what.shots}-shot{', chat' if what.chat else ''}"
            chosen[what] = chosen[what].model_copy(update={"title": told})
    ordered = sorted(chosen, key=lambda what: (_rank(chosen[what]), chosen[what].title.casefold(), what))
    names = slugs([(chosen[what].name, "\n".join(map(str, what))) for what in ordered])
    columns = [
        Column(slug, chosen[what], chosen[what].unit == "share" and chosen[what].higher_is_better, what.chat)
        for what, slug in zip(ordered, names, strict=True)
    ]
    place = {what: t for t, what in enumerate(ordered)}
    return columns, {one.id: place[column_of[one.id]] for one in results}


def _described(known: Sequence[TaskFacts]) -> TaskFacts:
    """Of the results' descriptions of one task the fullest: one with digests, of the most items."""
    return min(known, key=lambda task: (not task.digest, -task.items_in_all, task.model_dump_json()))


def _rank(task: TaskFacts) -> tuple[bool, int]:
    return task.unit != "share", ORDER.index(task.name) if task.name in ORDER else len(ORDER)


def _chosen(every: Sequence[Shown]) -> list[Shown]:
    """Of several results in one cell the table shows one: not failed, measured here, most items, newest; the rest say why not."""
    best: dict[tuple[int, int], Shown] = {}
    for one in every:
        cell = one.model, one.task
        if cell not in best or _worth(one) > _worth(best[cell]):
            best[cell] = one
    return [
        one if best[one.model, one.task] is one else replace(one, why=_reason(one, best[one.model, one.task]))
        for one in every
    ]


def _worth(one: Shown) -> tuple[bool, bool, int, float, str]:
    score = one.score
    return score.failed is None, not score.source, score.n or 0, one.result.retrieved, one.result.id


def _reason(one: Shown, better: Shown) -> str:
    for word, left, right in zip(
        ("it failed", "it was not measured here", "another has more items", "another is newer"),
        _worth(one),
        _worth(better),
        strict=False,
    ):
        if left != right:
            return word
    return "another is equal to it"


def _variants(measured: Sequence[Measurement]) -> tuple[str, ...]:
    """What differs between the results of one column, in words."""
    found = []
    for words, values in (
        ("items", {len(one.items) for one in measured if one.items}),
        ("sample seed", {one.settings.seed for one in measured if one.settings.limit}),
        ("precision", {one.settings.dtype for one in measured if one.origin is None}),
        ("examples (shots)", {"not stated" if presumed(one) else one.task.shots for one in measured}),
    ):
        if len(values) > 1:
            found.append(f"{words}: {', '.join(sorted(map(str, values)))}")
    return tuple(found)


def _gains(board: Board) -> list[list[Gain]]:
    """[model] its gain over each parent on the board, on the tasks of the mean that both have."""
    found: list[list[Gain]] = []
    for i, entries in enumerate(parents_of(board.models)):
        own = []
        for parent in dict.fromkeys(entry.model for entry in entries if entry.model is not None):
            gain = gain_over(board, i, parent)
            if gain is not None:
                own.append(gain)
        found.append(own)
    return found


def gain_over(board: Board, model: int, other: int) -> Gain | None:
    """A model's mean difference to another one: on the tasks shown first, or where one lacks some, on all that both have."""
    start = board.presets[board.start].tasks if board.presets else ()
    both = tuple(
        t for t, column in enumerate(board.tasks) if column.in_mean and board.at(model, t) and board.at(other, t)
    )
    tasks = tuple(start) if start and set(start) <= set(both) else both
    if not tasks:
        return None
    pair = min(model, other), max(model, other)
    sign = 1.0 if model < other else -1.0
    gaps = [board.pairs[t][pair] for t in tasks]
    told = mean_difference(board, tasks, model, other)
    value = sign * sum(gap.value for gap in gaps) / len(tasks) if told is None else told[0]
    half = None if told is None else normal_point(0.975) * told[1]
    interval = None if half is None else (value - half, value + half)
    return Gain(other, value, interval, tasks, all(gap.paired for gap in gaps))
