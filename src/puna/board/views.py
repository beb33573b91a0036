"""What the page of a model and the page of a task say, as plain values for their templates.

Comes in: a board and its results. Goes out: values for model.html.j2 and task.html.j2. Must never happen: a number without its n and
the command that makes it, or what is not known written as nought.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from puna import words
from puna.board.data import Board, Difference, Score
from puna.board.family import ParentEntry
from puna.board.filling import interval, power, score, shorten, signed
from puna.board.gather import Gathered, Shown, gain_over
from puna.board.seen import seen
from puna.called import PUNA
from puna.judge.measured import Item, ModelFacts, TaskFacts
from puna.judge.normalised import task_chance
from puna.judge.pairs import presumed
from puna.judge.ranks import rank_sets

_UNKNOWN = "unknown"
_MANY_PAIRS, _NEAR = 300, 3
_KINDS = {"weights": "run from its weights", "endpoint": "asked over HTTP", "published": "known from published scores"}


def quoted(text: str) -> str:
    """A word of a command line, in quotes where a shell would split it."""
    return (
        text
        if text and all(letter.isalnum() or letter in "._-/:" for letter in text)
        else "'" + text.replace("'", "'\\''") + "'"
    )


def known_of(facts: ModelFacts) -> list[tuple[str, str]]:
    """The facts of a model, (what, value)."""
    rows = [
        ("developer", facts.developer or _UNKNOWN),
        ("how it was judged", _KINDS[facts.kind]),
        ("parameters", words.number(facts.parameters) if facts.parameters is not None else _UNKNOWN),
        ("context", f"{words.number(facts.context)} tokens" if facts.context is not None else _UNKNOWN),
        ("training tokens", words.number(facts.train_tokens) if facts.train_tokens is not None else _UNKNOWN),
        ("training FLOPs", power(facts.flops) if facts.flops is not None else _UNKNOWN),
        ("licence", facts.licence or _UNKNOWN),
    ]
    return rows + ([("seed", str(facts.seed))] if facts.seed is not None else [])


def model_view(
    gathered: Gathered,
    model: int,
    parents: Sequence[Sequence[ParentEntry]],
    children: Sequence[Sequence[tuple[int, str]]],
    files: Mapping[str, tuple[str, str]],
) -> dict[str, Any]:
    """The values for one model's page."""
    board = gathered.board
    row = board.models[model]
    own = [one for one in gathered.results if one.model == model]
    own.sort(key=lambda one: (one.task, bool(one.why), one.result.id))
    done = sum(board.at(model, t) is not None for t in range(len(board.tasks)))
    failed = sum(s is not None and s.value is None for s in board.scores[model])
    said = f"A score on {words.counted(done, 'task')}" + (f", {failed} failed" if failed else "") + "."
    if row.imported:
        said += " All scores were published by others, none was measured here."
    return {
        "row": row, "summary": said, "known": known_of(row.facts), "notes": row.facts.notes,
        "digests": [("weights, SHA-256", row.facts.digest), ("tokenizer, SHA-256", row.facts.tokenizer_digest)],
        "seeds": [
            i for i, other in enumerate(board.models)
            if i != model and row.facts.recipe is not None and other.facts.recipe == row.facts.recipe
        ],
        "parents": parents[model], "children": children[model], "gains": board.gains[model],
        "results": [result_view(gathered, one, files) for one in own], "others": others_view(board, model),
    }  # fmt: skip


def reproduce_words(gathered: Gathered, one: Shown) -> tuple[str, str]:
    """(command that runs a result again and compares, where it is to be typed): by the beginning of its id, which no other has."""
    others = {other.result.id for other in gathered.results if other.result.id != one.result.id}
    most = len(one.result.id)
    length = next((k for k in range(8, most) if not any(name.startswith(one.result.id[:k]) for name in others)), most)
    store = _store_of(one.result.path)
    # A folder's place on the disk where the board was written is nobody else's business: then its name, typed from beside it.
    typed = Path(store.name) if store.is_absolute() else store
    option = "" if typed.as_posix() == "results" else f" --store {quoted(typed.as_posix())}"
    where = " in the folder that holds the store" if store.is_absolute() else ""
    return f"{PUNA} judge --reproduce {one.result.id[:length]}{option}", where


def _store_of(path: Path) -> Path:
    """The store's folder of a result, as it was typed: a result lies in STORE/data/TASK/DEVELOPER/MODEL/."""
    return path.parents[4]


def result_view(gathered: Gathered, one: Shown, files: Mapping[str, tuple[str, str]]) -> dict[str, Any]:
    """The values for one result."""
    board = gathered.board
    facts, found, settings = one.result.task, one.score, one.result.settings
    counted = words.number(found.n) if found.n is not None else _UNKNOWN
    rows = [("items", f"{counted} ({found.n_source})" if found.n is not None and found.n_source else counted)]
    if found.clusters and found.clusters != found.n:
        rows.append(("of these independent", words.number(found.clusters)))
    if found.n and facts.items_in_all > found.n:
        rows.append(("of items in all", words.number(facts.items_in_all)))
    if found.norm is not None:
        rows.append(("chance taken off", score(found.norm, facts)))
        rows.append(("the same, clipped at chance", score(found.clipped, facts)))
    elif found.value is not None and facts.unit == "share":
        rows.append(("chance taken off", "not known: the chance level, or that of its subtasks, is not known"))
    if found.above_chance is not None:
        rows.append(("no better than guessing: p", words.p_value(found.above_chance)))
    rows += [("interval", found.method)] if found.method else []
    if found.truncated:
        cut = f"{words.counted(found.truncated, 'item')}, {words.counted(found.truncated_tokens, 'token')} in all"
        rows.append(("cut to the context", cut))
    rows += [("items without a score", words.number(found.failed_items))] if found.failed_items else []
    rows += [("items with a tie", words.number(found.ties))] if found.ties else []
    rows.append(("shots", f"not stated; usual are {facts.shots}" if presumed(one.result.facts()) else str(facts.shots)))
    rows += [("to be known", note) for note in facts.notes] if found.source else []
    if not found.source:
        rows.append(
            ("prompts", "in the model’s chat format" if settings.chat or facts.kind == "quiz" else "plain text")
        )
        rows.append(("precision, device", f"{settings.dtype}, {settings.device}"))
        sample = f"{settings.limit} by seed {settings.seed}" if settings.limit is not None else "all items"
        rows.append(("sample", sample))
    digests = [
        (name, value[:12])
        for name, value in (("task", facts.digest), ("data", facts.data_digest), ("prompts", facts.prompt_digest))
        if value
    ]
    rows += [(f"{name}, SHA-256 begins", value) for name, value in digests]
    if found.source_notes:
        rows.append(("published", shorten(found.source_notes, 300)))
    rows += [(f"version of {name}", version) for name, version in sorted(one.result.harness.items())]
    record, samples = files.get(one.result.id, ("", ""))
    again, where = reproduce_words(gathered, one) if not found.source and found.command else ("", "")
    return {
        "score": found, "facts": facts, "task": one.task, "shown": not one.why, "why": one.why,
        "anchor": board.tasks[one.task].slug if not one.why else f"result-{one.result.id}", "rows": rows,
        "dirt_words": dirt_words(found, facts), "seen": seen(one.result.contamination),
        "reproduce": again, "reproduce_where": where,
        "download": _address(record), "samples": _address(samples),
    }  # fmt: skip


def _address(path: str) -> str:
    """A path inside the board as a link: names of folders may have letters of any script."""
    return quote(path)


def dirt_words(found: Score, facts: TaskFacts) -> str:
    """One sentence on what the model had read before."""
    dirt = found.dirt
    if dirt is None:
        return ""
    if not dirt.dirty:
        said = f"None of {words.counted(dirt.decidable, 'item')}"
        if dirt.touched == 0:
            return f"{said} was found in the model’s training text, not even in part."
        in_part = f"; {words.number(dirt.touched)} in part" if dirt.touched else ""
        return (
            f"{said} stands as good as whole in the model’s training text (at least {words.percent(dirt.threshold, 0)} of its "
            f"n-grams){in_part}."
        )
    parts = [
        f"{words.number(dirt.dirty)} of {words.counted(dirt.decidable, 'item')} stand in the model’s training text"
    ]
    parts.append(
        f"(at least {words.percent(dirt.threshold, 0)} of an item’s n-grams){f'; {words.number(dirt.touched)} more in part' if dirt.touched else ''}."
    )
    if dirt.clean_value is not None:
        parts.append(
            f"On the clean ones it scores {score(dirt.clean_value, facts)} ({interval(dirt.clean_interval, facts)}),"
        )
    if dirt.dirty_value is not None:
        parts.append(f"on the dirty ones {score(dirt.dirty_value, facts)} ({interval(dirt.dirty_interval, facts)}).")
    if dirt.difference is not None:
        parts.append(
            f"Dirty less clean: {signed(dirt.difference, facts)} ({interval(dirt.interval, facts, signs=True)})."
        )
    return " ".join(parts)


def dirt_brief(board: Board, model: int) -> str:
    """What is known of a model's contamination over all its tasks, for the table of facts."""
    found = [
        (t, s.dirt) for t in range(len(board.tasks)) if (s := board.at(model, t)) is not None and s.dirt is not None
    ]
    if not found:
        return ""
    looked, dirty = sum(dirt.decidable for _, dirt in found), sum(dirt.dirty for _, dirt in found)
    touched = sum(dirt.touched or 0 for _, dirt in found)
    if not dirty and all(dirt.touched == 0 for _, dirt in found):
        return f"none of {words.counted(looked, 'item')}, not even in part"
    if not dirty:
        said = f"none of {words.counted(looked, 'item')} as good as whole"
        return f"{said}; {words.number(touched)} in part" if touched else said
    worst = max(found, key=lambda one: one[1].share)
    facts = board.tasks[worst[0]].facts
    told = f"{words.number(dirty)} of {words.counted(looked, 'item')}; most in {words.brief(facts.title, 40)}"
    if worst[1].clean_value is not None and worst[1].dirty_value is not None:
        told += f": clean {score(worst[1].clean_value, facts)}, dirty {score(worst[1].dirty_value, facts)}"
    return told


def others_view(board: Board, model: int) -> list[dict[str, Any]]:
    """This model beside each other one."""
    rows: list[dict[str, Any]] = []
    for other in range(len(board.models)):
        if other == model:
            continue
        gain = gain_over(board, model, other)
        if gain is None:
            rows.append({"model": other, "tasks": 0, "value": None, "interval": None, "how": ""})
            continue
        how = "item by item" if gain.paired else "unpaired on at least one task"
        rows.append(
            {"model": other, "tasks": len(gain.tasks), "value": gain.value, "interval": gain.interval, "how": f"{how};"}
        )
    return rows


def task_ranks(board: Board, task: int) -> tuple[list[int], dict[int, str]]:
    """(models with a score, best first; the rank set of each) on one task, by its own exact tests."""
    scored = [i for i in range(len(board.models)) if board.at(i, task) is not None]
    higher = board.tasks[task].facts.higher_is_better
    place = {model: k for k, model in enumerate(scored)}
    pairs = {
        (place[i], place[j]): (found.value, found.p) if found.p is not None else (0.0, 1.0)
        for (i, j), found in board.pairs[task].items()
        if i in place and j in place
    }
    sets = rank_sets(len(scored), pairs, higher_is_better=higher)
    values = {i: value for i in scored if (cell := board.at(i, task)) is not None and (value := cell.value) is not None}
    order = sorted(scored, key=lambda i: (-values[i] if higher else values[i], i))
    return order, {i: str(sets[place[i]] or 1) for i in scored}


def task_view(gathered: Gathered, task: int, example: Item | None) -> dict[str, Any]:
    """The values for one task's page."""
    board = gathered.board
    column = board.tasks[task]
    facts = column.facts
    order, ranks = task_ranks(board, task)
    rows = []
    for place, i in enumerate(order):
        cell = board.at(i, task)
        if cell is not None:
            after = order[place + 1] if place + 1 < len(order) else None
            rows.append(
                {
                    "model": i,
                    "score": cell,
                    "rank": ranks[i],
                    "dirt": _clean_dirty(cell, facts),
                    "next": _to_next(board, task, i, after),
                }
            )
    pairs = sorted(board.pairs[task].items())
    near = len(pairs) > _MANY_PAIRS  # then only those of neighbours: 60 models make 1,770 rows
    if near:
        places = {model: k for k, model in enumerate(order)}
        pairs = [(pair, found) for pair, found in pairs if abs(places[pair[0]] - places[pair[1]]) <= _NEAR]
    return {
        "number": task, "column": column, "visible": _visible(board, task), "rows": rows, "order": order, "example": example,
        "failed": [(i, s.failed) for i, row in enumerate(board.scores) if (s := row[task]) is not None and s.value is None],
        "pairs": [(i, j, found) for (i, j), found in pairs], "near": _NEAR if near else 0, "known": _task_facts(facts),
        "digests": [("definition, SHA-256", facts.digest), ("data, SHA-256", facts.data_digest), ("prompts, SHA-256", facts.prompt_digest)],
        "subtasks": _subtasks(board, task, order), "scored": order, "summary": _task_summary(board, task, order, ranks),
        "caption": f"{facts.metric}, {'more' if facts.higher_is_better else 'less'} is better{', in per cent' if facts.unit == 'share' else ''}; rank sets at 5 % over all pairs (Holm)",
    }  # fmt: skip


def _visible(board: Board, task: int) -> str:
    """The smallest difference that the items show, from the best to the worst of the pairs."""
    found = sorted(one.visible for one in board.pairs[task].values() if one.visible is not None)
    facts = board.tasks[task].facts
    if not found:
        return ""
    low, high = score(found[0], facts), score(found[-1], facts)
    return low if low == high else f"{low} to {high}"


def _task_facts(facts: TaskFacts) -> list[tuple[str, str]]:
    rows = [
        ("name", facts.name), ("kind", facts.kind), ("metric", facts.metric), ("unit", "share, in per cent" if facts.unit == "share" else facts.unit),
        ("better", "more" if facts.higher_is_better else "less"), ("examples in the prompt", str(facts.shots)),
        ("guessing gives", _chance_words(facts)),
        ("the score is", "the mean over items" if facts.aggregate == "items" else "the mean of the subtasks’ means"),
        ("items in all", words.number(facts.items_in_all) if facts.items_in_all else _UNKNOWN), ("language", facts.language),
        ("data from", facts.source or _UNKNOWN), ("licence of the data", facts.licence or _UNKNOWN),
    ]  # fmt: skip
    return [(key, shorten(value, 400)) for key, value in rows]


def _chance_words(facts: TaskFacts) -> str:
    level = task_chance(facts)
    if facts.unit != "share":
        return "no chance level"
    return "not known" if level is None else score(level, facts) if level else "nothing"


def _task_summary(board: Board, task: int, order: Sequence[int], ranks: Mapping[int, str]) -> str:
    if not order:
        return "No model has a score on this task."
    first = [words.brief(board.models[i].facts.name, 40) for i in order if ranks[i].split(" ")[0] == "1"]
    if len(order) == 1:
        return "One model has a score on this task."
    if len(first) == 1:
        return f"{words.counted(len(order), 'model')}; {first[0]} is ahead of all others, as far as 5 % can tell."
    shown = words.listed(first[:4]) if len(first) <= 4 else f"{words.listed(first[:3], ', ')} and {len(first) - 3} more"
    return f"{words.counted(len(order), 'model')}; the data do not tell which is the best of {shown}."


def _clean_dirty(cell: Score, facts: TaskFacts) -> str:
    if cell.dirt is None:
        return "not looked for"
    if not cell.dirt.dirty:
        return f"none of {words.number(cell.dirt.decidable)}" + (
            f"; {words.number(cell.dirt.touched)} in part" if cell.dirt.touched else ""
        )
    return f"{words.number(cell.dirt.dirty)} of {words.number(cell.dirt.decidable)}: {score(cell.dirt.clean_value, facts)}, {score(cell.dirt.dirty_value, facts)}"


def _to_next(board: Board, task: int, model: int, after: int | None) -> str:
    """How far the next one in the order is, and how many items would tell the two apart."""
    if after is None:
        return words.decimal(None)
    found: Difference | None = board.pairs[task].get((min(model, after), max(model, after)))
    if found is None:
        return "cannot be compared"
    facts = board.tasks[task].facts
    gap = signed(found.value if model < after else -found.value, facts)
    if found.p is not None and found.p <= 0.05:
        return f"{gap}, p {words.p_value(found.p)}"
    if found.more is None:
        return f"{gap}, no difference to be seen" if found.value == 0 else f"{gap}, cannot be tested"
    return f"{gap}, would need {words.number(found.more)} items"


def _subtasks(board: Board, task: int, order: Sequence[int]) -> list[tuple[str, float | None, list[float | None]]]:
    names: dict[str, float | None] = {}
    cells = [cell for i in order if (cell := board.at(i, task)) is not None]
    for cell in cells:
        for part in cell.parts:
            names.setdefault(part.name, part.chance)
    values = [{part.name: part.value for part in cell.parts} for cell in cells]
    return (
        [(name, chance, [own.get(name) for own in values]) for name, chance in sorted(names.items())]
        if len(names) > 1
        else []
    )
