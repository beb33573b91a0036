"""One item of a task, written out from a row by the templates of its task file.

Comes in: a row and its place. Goes out: a `Doc`, or a line that says what is wrong with it. Must never happen: an item with an
empty choice, a gold that is out of range, or a text that no model can be given.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from puna.errors import PunaError
from puna.judge.measured import Kind
from puna.judge.tasks import forms
from puna.judge.tasks.forms import Placed
from puna.judge.tasks.patterns import MOST_MATCHED
from puna.judge.tasks.spec import TEMPLATES, TaskSpec, sources, told
from puna.judge.tasks.templates import Expression, Template, TemplateMistake
from puna.recipe.mistakes import Mistake

_LETTERS = "ABCDEFGHIJ"


@dataclass(frozen=True, slots=True)
class Doc:
    """One item, written out. What a kind does not have is empty."""

    id: str
    subtask: str
    cluster: str
    question: str  # for people
    description: str
    query: str  # of choices, cloze and answer
    choices: tuple[str, ...]  # of contexts: the contexts
    gold: tuple[int, ...]
    answers: tuple[str, ...]  # of contexts and cloze: the one continuation; of text: the text
    shown: str  # the right answer as a few-shot example shows it
    place: int  # in its subtask, before a limit
    where: str  # file:line


class Writer:
    """Writes rows out as items, and gathers what is wrong with them."""

    def __init__(self, spec: TaskSpec) -> None:
        self.spec = spec
        given = dict(sources(spec.model_dump()))
        self.ways: dict[str, Callable[[Mapping[str, Any]], Any]] = {
            key: Template(source).render if key in TEMPLATES or "." in key else Expression(source).value
            for key, source in given.items()
        }
        self._broken: list[tuple[str, list[Mistake]]] = []  # in the order of the rows
        self._everywhere: list[Mistake] = []  # template mistakes that all rows have had: the task file's, not a row's
        self._rows, self._first = 0, ""

    def note(self, line: str) -> None:
        """Keeps a line that says where and what is wrong, for `check`."""
        self._broken.append((line, []))

    def check(self) -> None:
        """Raises one PunaError with every broken item; a template mistake that every row has is told once."""
        everywhere, lines = self._everywhere, []
        for where, wrong in self._broken:
            own = [one for one in wrong if one not in everywhere]
            if own or not wrong:
                lines.append(f"{where}: {told(own)}" if own else where)
        if everywhere and not lines:
            mend = f"so are all {self._rows:,} rows: mend the task file" if self._rows > 1 else "mend the task file"
            raise PunaError(told(everywhere), where=f"{self.spec.task} on {self._first}", mend=mend)
        if everywhere:
            lines.insert(0, f"{self._first} and every other row that can be read: {told(everywhere)}")
        forms.refuse(lines, self.spec.task, "mend the file, or the task's templates")

    def write(self, placed: Placed, names: dict[str, int]) -> Doc | None:
        """The item of a row; None where it is broken, which is kept for `check`. `names` counts the items of each subtask."""
        row = {**self.spec.tables, "file": forms.stem_of(placed.path), **placed.row}
        found: dict[str, Any] = {}
        wrong: list[Mistake] = []
        for key, way in self.ways.items():
            try:
                found[key] = way(row)
            except TemplateMistake as mistake:
                wrong.append(Mistake(key, str(mistake)))
        if not self._rows:
            self._first, self._everywhere = placed.where, wrong
        elif self._everywhere:
            self._everywhere = [one for one in self._everywhere if one in wrong]
        self._rows += 1
        if wrong:
            self._broken.append((placed.where, wrong))
            return None
        try:
            return self._doc(found, placed, names)
        except _Broken as broken:
            self.note(f"{placed.where}: {broken}")
            return None

    def _doc(self, found: dict[str, Any], placed: Placed, names: dict[str, int]) -> Doc:
        kind = self.spec.kind
        name = _label(found.get("subtask", ""), "subtask")
        place = names.get(name, 0)
        names[name] = place + 1
        choices = self._choices(found)
        gold = (
            _gold(self.spec.gold if isinstance(self.spec.gold, int) else found.get("gold"), choices) if choices else ()
        )
        if kind == "contexts" and len(gold) != 1:
            raise _Broken("has several right contexts")
        answers = self._answers(found, kind)
        query = found.get("query", "")
        shown = choices[gold[0]] if kind == "choices" else answers[0]
        question = found.get("question") or query or _question(kind, choices, answers)
        ident = f"{forms.stem_of(placed.path)}:{placed.number}"
        if "id" in found:  # a row's own id is often its own in its subtask alone
            ident = f"{name}:{_label(found['id'], 'id')}" if name else _label(found["id"], "id")
        doc = Doc(
            ident, name, _label(found.get("cluster", ""), "cluster"), question, found.get("description", ""), query,
            choices, gold, answers, found.get("fewshot_answer") or shown, place, placed.where,
        )  # fmt: skip
        texts = (ident, name, doc.cluster, question, doc.description, query, doc.shown, *choices, *answers)
        try:
            "".join(texts).encode()
        except UnicodeEncodeError as error:
            raise _Broken("holds half of a surrogate pair, which is no text") from error
        return doc

    def _choices(self, found: dict[str, Any]) -> tuple[str, ...]:
        if self.spec.choices is None:
            return ()
        given = found.get("choices")
        if isinstance(self.spec.choices, tuple):
            given = [found.get(f"choices.{place}", "") for place in range(len(self.spec.choices))]
        if not isinstance(given, list | tuple) or not all(isinstance(one, str) for one in given):
            raise _Broken("choices is no list of texts")
        if len(given) < 2:
            raise _Broken(f"has {len(given) or 'no'} choice{'' if len(given) == 1 else 's'}")
        if empty := [str(place) for place, one in enumerate(given) if not one.strip()]:
            raise _Broken(f"choice {', '.join(empty)} is empty")
        return tuple(given)

    def _answers(self, found: dict[str, Any], kind: str) -> tuple[str, ...]:
        if kind == "choices":
            return ()
        if kind in ("contexts", "cloze", "text"):
            key = "text" if kind == "text" else "continuation"
            text = found.get(key, "")
            if not text.strip():
                raise _Broken(f"{key} is empty")
            return (text,)
        given = [found["answer"]] if found.get("answer") else []
        more = found.get("answers", [])
        if not isinstance(more, list | tuple) or not all(isinstance(one, str) for one in more):
            raise _Broken("answers is no list of texts")
        answers = tuple(dict.fromkeys([*given, *more]))
        if not answers or not all(one.strip() for one in answers):
            raise _Broken("answer is empty")
        if self.spec.ignore and max(map(len, answers)) > MOST_MATCHED:
            raise _Broken(f"answer is longer than the {MOST_MATCHED:,} characters that `ignore` is run on")
        return answers


class _Broken(ValueError):
    """What is wrong with one item."""


def _label(value: Any, key: str) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise _Broken(f"{key} is no text or number")
    return str(value)


def _gold(value: Any, choices: tuple[str, ...]) -> tuple[int, ...]:
    """The places of the right choices: given by place, by the choice's own text, or by a letter."""
    given = list(value) if isinstance(value, list | tuple) else [value]
    places = []
    for one in given:
        if isinstance(one, str) and one in choices:
            places.append(choices.index(one))
        elif isinstance(one, str) and len(one.strip()) == 1 and one.strip().upper() in _LETTERS:
            places.append(_LETTERS.index(one.strip().upper()))
        elif isinstance(one, str) and one.strip().isdecimal() and len(one.strip()) < 4:
            places.append(int(one))
        elif isinstance(one, int) and not isinstance(one, bool):
            places.append(one)
        else:
            raise _Broken(f"gold {str(one)[:40]!r} is no place, no letter and none of the choices")
    if not places:
        raise _Broken("has no right choice")
    if beyond := [place for place in places if not 0 <= place < len(choices)]:
        raise _Broken(f"gold {beyond[0]} is out of range: there are {len(choices)} choices, from 0")
    return tuple(sorted(set(places)))


def _question(kind: Kind, choices: tuple[str, ...], answers: tuple[str, ...]) -> str:
    if kind == "contexts":
        return f"{' / '.join(choices)} … {answers[0]}"
    return "\n".join(choices) if kind == "choices" else answers[0]
