"""Which items of a task stand word for word in the text that a model was trained on.

Comes in: items that a model was asked, the folders of its training text (see origin). Goes out: the same items with `dirty` set, and a
report that names the documents and shows the passages. Must never happen: an item called clean that could not be looked for: it is
counted as undecidable and its `dirty` stays None.

An item is looked for in several forms, and the greatest share counts: its question and right answer, one after the other, and as the
task writes the two, with what stands between them in the prompt ("\\nAnswer:", or the list of choices), for each of its right answers; a
question alone counts too (see puna.corpus.itemindex, which does the looking, and puna.corpus.decontaminate, which has the
thresholds). What has no question is looked for as the sentence that it is (`_leaks`). N-grams that over 10 of the items share are
their template and tell nothing; a sample of a few items therefore keeps some of it. Nothing found means clean only where each right
answer could be looked for, not where one of them is too short.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from puna.corpus import itemindex
from puna.corpus.decontaminate import CONTAMINATED, verdict
from puna.corpus.evalitems import EvalItem
from puna.corpus.itemgrams import TEMPLATE_ITEMS
from puna.corpus.itemindex import ItemIndex
from puna.errors import PunaError
from puna.judge.contamination import words
from puna.judge.contamination.passages import Found, Scan, scan_texts
from puna.judge.measured import Item, TaskFacts
from puna.progress import QUIET, Progress

FORMAT = "puna-own-text-1"
DIRTY = (
    CONTAMINATED  # share of an item's n-grams in one document of the training text from which the item counts as dirty
)
_NAMED = 1000  # found items that a report names
_TEXT = {"before", "passage", "after"}  # is shown of the first document only: a result is to stay small
_ASKED = " as asked"
_ANSWERS = (
    32  # right answers that an item is looked for with: a list of aliases may hold a hundred, and more add little
)
_BETWEEN = 4000  # characters between question and answer that are taken for the task's own way of writing them


def mark(
    items: Sequence[Item], task: TaskFacts, texts: Sequence[Path], progress: Progress = QUIET, *,
    cache: Path | None = None, whole: bool = True,
) -> tuple[list[Item], dict[str, Any]]:  # fmt: skip
    """The items with `dirty` set to the greatest share of their n-grams in one document of `texts`, and a report.

    texts: folders of corpora and conversations, all that the model was trained on; none: nothing is marked.
    cache: a folder that keeps scans between runs, by the digests of text and items.
    whole: False where the ledger names text that is not here; then what is not found stays None, for it may stand there.
    Raises PunaError for a folder that holds no text.
    """
    if not items or not texts:
        return list(items), _report(items, task, [], [], [], set())
    forms = _forms(items, task)
    index = ItemIndex.build([form for own in forms for form in own])
    scans = [scan_texts(index, Path(folder), progress, cache) for folder in texts]
    owners = [number for number, own in enumerate(forms) for _ in own]
    best: list[tuple[Found, str] | None] = [None] * len(items)
    for scan, folder in zip(scans, texts, strict=True):
        for found in scan.found:
            owner = owners[found.item]
            best[owner] = _better(best[owner], (found, Path(folder).name))
    undecidable = _undecidable(forms, index.undecidable.tolist(), best)
    marked = []
    for number, item in enumerate(items):
        found_one = best[number]
        share = found_one[0].share if found_one else 0.0
        unknown = number in undecidable or (not whole and share == 0)
        marked.append(item.model_copy(update={"dirty": None if unknown else share}))
    return marked, _report(marked, task, scans, list(texts), best, undecidable)


def as_asked(item: Item, task: TaskFacts) -> str:
    """An item with its (first) right answer as the task writes the two, without the examples before it: what a copy of it would hold."""
    question, answer = _leaks(item, task)[0]
    between = _between(item) if answer else ""
    gap = "" if not question or between.endswith((" ", "\n")) or answer.startswith((" ", "\n")) else " "
    return f"{question}{between}{gap}{answer}".strip()


def _leaks(item: Item, task: TaskFacts) -> list[tuple[str, str]]:
    """(question, right answer), one for each right answer, as a leak would hold it. Wrong choices betray nothing.

    Of contexts that is the right context with what follows, of choices without a question the right one, of a text the text: these
    are one running text, and the answer is "".
    """
    right = [
        item.choices[place] if isinstance(place, int) and 0 <= place < len(item.choices) else str(place)
        for place in item.target
    ][:_ANSWERS]
    if item.continuation or task.kind == "contexts":
        gap = "" if item.continuation[:1].isspace() else " "
        leaks = [(f"{context}{gap}{item.continuation}".rstrip(), "") for context in right]
    elif item.choices and item.question.strip() in ("", "\n".join(item.choices).strip()):
        leaks = [(choice, "") for choice in right]
    elif task.kind == "text":
        leaks = [(item.question, "")]
    else:
        leaks = [(item.question, answer) for answer in right]
    return list(dict.fromkeys(leaks)) or [(item.question, "")]


def _forms(items: Sequence[Item], task: TaskFacts) -> list[list[EvalItem]]:
    """The forms in which each item is looked for: of each right answer the plain one, then as the task writes it where that differs."""
    made = []
    for number, item in enumerate(items):
        own, asked = list[EvalItem](), list[EvalItem]()
        between = _between(item)
        for place, (question, answer) in enumerate(_leaks(item, task)):
            # Each form is a task of its own: the forms of an item share most n-grams, and would soon look like a template.
            own.append(EvalItem(f"{task.name} {place}", f"{number}", question, answer))
            if between and answer:
                asked.append(EvalItem(f"{task.name} {place}{_ASKED}", f"{number}", question, f"{between}\n{answer}"))
        made.append(own + asked)
    return made


def _between(item: Item) -> str:
    """What stands in the prompt between the item's question and its answer; "" where nothing that is read stands there."""
    question = item.question.strip()
    place = item.prompt.rfind(question) if question else -1
    between = item.prompt[place + len(question) :] if place >= 0 else ""
    return between if len(between) <= _BETWEEN and any(sign.isalnum() for sign in between) else ""


def _undecidable(
    forms: Sequence[Sequence[EvalItem]], lost: Sequence[bool], best: Sequence[tuple[Found, str] | None]
) -> set[int]:
    """The items that were not found, and of which a right answer is too short to be looked for. `lost`: of every form."""
    found, place = set[int](), 0
    for number, own in enumerate(forms):
        here, place = lost[place : place + len(own)], place + len(own)
        one = best[number]
        # The form as asked alone does not clear an item: a leak need not hold the choices that make it long enough.
        short = any(gone and not form.task.endswith(_ASKED) for form, gone in zip(own, here, strict=True))
        if short and (one is None or one[0].share == 0):
            found.add(number)
    return found


def _better(one: tuple[Found, str] | None, other: tuple[Found, str]) -> tuple[Found, str]:
    return other if one is None or (other[0].share, other[0].near) > (one[0].share, one[0].near) else one


def _report(
    items: Sequence[Item], task: TaskFacts, scans: Sequence[Scan], texts: Sequence[Path], best: Sequence[tuple[Found, str] | None],
    undecidable: set[int],
) -> dict[str, Any]:  # fmt: skip
    counts = {
        "items": len(items),
        "clean": 0,
        "touched": 0,
        "contaminated": 0,
        "undecidable": len(undecidable),
        "unknown": 0,
    }
    suspected, found = list[dict[str, Any]](), list[dict[str, Any]]()
    for number, item in enumerate(items):
        one = best[number] if best else None
        if item.dirty is not None:
            counts[verdict(item.dirty)] += 1
        elif number not in undecidable:
            counts["unknown"] += 1
        if one is not None and one[0].share > 0:
            where = [
                {**place.model_dump(exclude=_TEXT if after else None), "corpus": one[1]}
                for after, place in enumerate(one[0].places)
            ]
            found.append({"id": item.id, "subtask": item.subtask, "share": one[0].share, "verdict": verdict(one[0].share),
                          "documents": one[0].documents, "places": where})  # fmt: skip
        elif one is not None and one[0].near > 0:
            suspected.append({"id": item.id, "subtask": item.subtask, "near": one[0].near})
    found.sort(key=lambda row: -row["share"])
    return {
        "format": FORMAT, "task": task.name, **counts, "suspected": len(suspected), "dirty_from": DIRTY,
        "texts": [{"name": Path(folder).name, "digest": scan.text, "documents": scan.documents, "characters": scan.characters}
                  for folder, scan in zip(texts, scans, strict=True)],
        "method": {"words": itemindex.WORDS, "characters": itemindex.CHARACTERS,
                   "whole": [itemindex.WHOLE_WORDS, itemindex.WHOLE_CHARACTERS], "template_items": TEMPLATE_ITEMS},
        "found": found[:_NAMED], "found_not_named": max(0, len(found) - _NAMED), "suspicions": suspected[:_NAMED],
        "undecidable_items": [items[number].id for number in sorted(undecidable)][:_NAMED],
        "says": words.own_text(counts, bool(texts)),
    }  # fmt: skip


def check(report: dict[str, Any]) -> None:
    """Raises PunaError where `report` is none that `mark` makes: for whoever reads one from a file."""
    numbers = ("items", "clean", "touched", "contaminated", "undecidable", "unknown", "suspected")
    wrong = [key for key in numbers if not isinstance(report.get(key), int) or isinstance(report.get(key), bool)]
    wrong += [key for key in ("texts", "found", "suspicions") if not isinstance(report.get(key), list)]
    if report.get("format") != FORMAT or wrong:
        raise PunaError(
            f"is no report of {FORMAT}" + (f" ({', '.join(wrong)})" if wrong else ""), where="contamination"
        )
