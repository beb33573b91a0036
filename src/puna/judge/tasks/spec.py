"""A task as one short YAML file: which data, how a row becomes a question, how the answers are counted.

Comes in: a YAML file. Goes out: a `TaskSpec` whose every key was checked and whose templates are sound. Must never happen: a
file that builds a Python object or runs code, or one mistake told where there are five.
"""

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, StrictInt, StrictStr, ValidationError

from puna.errors import PunaError
from puna.judge.tasks import forms
from puna.judge.tasks.patterns import compiled
from puna.judge.tasks.templates import Expression, Template, TemplateMistake
from puna.reading import read_text
from puna.recipe.mistakes import Mistake

MOST_TOLD = 50
_DEEPEST = 8
LARGEST_FILE = 64 << 10  # bytes of a task file
NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
TEMPLATES = ("description", "query", "continuation", "answer", "fewshot_answer", "text", "question")
EXPRESSIONS = ("choices", "gold", "answers", "id", "subtask", "cluster")
METRICS = {
    "choices": ("acc", "acc_norm", "acc_bytes", "mc2"),
    "contexts": ("acc",),
    "cloze": ("acc",),
    "answer": ("exact_match",),
    "text": ("bits_per_byte",),
    "remote": (),
}  # the first one is the default
_NEEDED = {
    "choices": ("choices", "gold"),
    "contexts": ("choices", "gold", "continuation"),
    "cloze": ("query", "continuation"),
    "answer": ("query",),
    "text": ("text",),
    "remote": (),
}
_ONLY = {  # keys that some kinds alone know
    "choices": ("choices", "contexts"),
    "gold": ("choices", "contexts"),
    "continuation": ("contexts", "cloze"),
    "query": ("choices", "cloze", "answer"),
    "text": ("text",),
    **dict.fromkeys(
        ("answer", "answers", "extract", "ignore", "ignore_case", "ignore_punctuation", "stop", "max_tokens"),
        ("answer",),
    ),
    **dict.fromkeys(
        ("fewshot", "fewshot_else", "fewshot_answer", "sampler"), ("choices", "contexts", "cloze", "answer")
    ),
}
_PLAIN = {
    "string_type": "must be text in quotes",
    "int_type": "must be a whole number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "list_type": "must be a list",
    "dict_type": "must be a table of keys",
    "tuple_type": "must be a list",
    "model_type": "must be a table of keys",
    "string_pattern_mismatch": "must be 1 to 64 of A-Z, a-z, 0-9, dot, dash and underscore, a letter or digit first",
}


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Texts = Annotated[tuple[Annotated[StrictStr, Field(max_length=2000)], ...], BeforeValidator(_listed)]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Extract(_Table):
    """How the answer is cut out of what a model wrote: all places that `regex` matches, and of these the first or the last."""

    name: StrictStr = Field(pattern=NAME)
    regex: StrictStr = Field(min_length=1, max_length=500)
    take: Literal["first", "last"] = "first"


class TaskSpec(_Table):
    """One task. Texts are templates ({{ field }}); `choices`, `gold`, `answers`, `id`, `subtask`, `cluster` name a field or are
    an expression. docs/tasks.md tells each key."""

    task: StrictStr = Field(pattern=NAME)
    title: StrictStr = Field("", max_length=200)
    kind: Literal["choices", "contexts", "cloze", "answer", "text", "remote"]
    language: StrictStr = Field("en", max_length=20)

    data: Texts = Field((), max_length=200)  # files or patterns, relative to --data (bundled) or to this YAML
    form: Literal["rows", "hellaswag", "truthfulqa", "paragraphs"] = "rows"
    fewshot: Texts = Field((), max_length=200)  # files that the examples are drawn from
    fewshot_else: Literal["refuse", "items"] = "refuse"  # where these files are missing: draw from the other items
    sampler: Literal["first", "random"] = "random"
    shots: StrictInt = Field(0, ge=0, le=100)

    description: StrictStr = ""  # before everything else
    query: StrictStr = ""
    choices: StrictStr | tuple[StrictStr, ...] | None = None
    gold: StrictInt | StrictStr | None = None
    continuation: StrictStr = ""
    answer: StrictStr = ""
    answers: StrictStr | None = None  # all answers that count, where there are several
    fewshot_answer: StrictStr = ""  # as the examples show it; else the first right one
    text: StrictStr = ""
    question: StrictStr = ""  # for people; else the query
    id: StrictStr = ""
    subtask: StrictStr = ""
    cluster: StrictStr = ""
    tables: dict[StrictStr, dict[StrictStr, StrictStr]] = Field(
        default_factory=dict, max_length=10
    )  # words for templates

    delimiter: StrictStr = Field(" ", max_length=20)  # between a question and its answer
    fewshot_delimiter: StrictStr = Field("\n\n", max_length=20)  # between examples
    metric: StrictStr = ""
    also: Texts = ()  # other metrics
    chance: float | None = Field(None, ge=0, le=1)
    aggregate: Literal["items", "subtasks"] = "items"
    subtasks: StrictInt | None = Field(None, ge=1)  # how many the published task has: where fewer are there, it is told
    extract: tuple[Extract, ...] = Field((), max_length=10)  # the first one counts, the others are told beside it
    ignore: Texts = Field(
        (), max_length=20
    )  # regular expressions whose matches are taken out of both answers before they are compared
    ignore_case: bool = False
    ignore_punctuation: bool = False
    stop: Texts = ()
    max_tokens: StrictInt = Field(256, ge=1, le=8192)

    where: StrictStr = Field("", max_length=2000)  # told where the data are missing
    source: StrictStr = Field("", max_length=2000)
    licence: StrictStr = Field("", max_length=200)
    notes: Texts = ()  # what differs from the published protocol

    _folder: Path | None = PrivateAttr(None)
    _typed: str = PrivateAttr("")

    @property
    def folder(self) -> Path | None:
        """The folder that the files are relative to: a user's YAML's own; None for a bundled task, whose files are in --data."""
        return self._folder

    @property
    def typed(self) -> str:
        """What names it on the command line: a bundled task's name, a path, `text:PATH`, `lm_eval:NAME`."""
        return self._typed or self.task

    @property
    def metrics(self) -> tuple[str, ...]:
        """The main metric, then the others."""
        main = self.metric or (METRICS[self.kind] or ("",))[0]
        return (main, *(one for one in self.also if one != main))


def placed(spec: TaskSpec, typed: str, folder: Path | None) -> TaskSpec:
    """The same task, with what names it and the folder of its files."""
    copy = spec.model_copy()
    copy._typed, copy._folder = typed, folder
    return copy


def read_spec(path: Path, data: Path | None = None, *, bundled: bool = False) -> TaskSpec:
    """The task in a YAML file of at most LARGEST_FILE bytes.

    Raises PunaError with all its mistakes at once, and then with the files that it names and that are not there, too: beside it, where
    links may lead into `data`. Where missing files are the only mistake, reading the task tells it.
    """
    values, twice = _load(path)
    mistakes = [Mistake(key, "stands twice: keep one") for key in twice] + _template_mistakes(values)
    try:
        spec = TaskSpec.model_validate(values)
    except ValidationError as error:
        mistakes = [_mistake(found) for found in error.errors(include_url=False)] + mistakes
        spec = None
    mistakes += _cross(values)
    if mistakes or spec is None:
        mistakes += [] if bundled else _absent(values, path.resolve().parent, data)
        unique = list(dict.fromkeys(_one_a_key(mistakes)))
        raise PunaError(told(unique), where=str(path), mend="docs/tasks.md tells what a task file holds")
    return placed(spec, spec.task if bundled else str(path), None if bundled else path.resolve().parent)


def told(mistakes: Sequence[Mistake]) -> str:
    """All of them on one line, with their count where there are several; a stranger's thousands end at MOST_TOLD."""
    lines = [f"{one.key}: {one.reason}" for one in mistakes[:MOST_TOLD]]
    if len(mistakes) > MOST_TOLD:
        lines.append(f"and {len(mistakes) - MOST_TOLD} more")
    return (f"{len(mistakes)} mistakes: " if len(mistakes) > 1 else "") + "; ".join(lines)


def _load(path: Path) -> tuple[dict[str, Any], list[str]]:
    """Its keys and values, and the keys that it has twice."""
    import yaml

    text = read_text(path, LARGEST_FILE)
    try:
        depth = 0
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            # An alias may stand for a thousand others, each of a thousand: none is needed in a file this short.
            if isinstance(event, yaml.AliasEvent):
                raise PunaError("uses a YAML alias (*name)", where=str(path), mend="write it out")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > _DEEPEST:  # time grows with the square of the depth: 9,000 brackets take a minute
                raise PunaError("is no plain YAML (lists in lists in lists)", where=str(path))
        tree = yaml.compose(text, Loader=yaml.SafeLoader)
        values = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise PunaError(f"is no plain YAML ({error.problem or error.context}{line})", where=str(path)) from error
    except (
        yaml.YAMLError,
        ValueError,
        RecursionError,
    ) as error:  # a character or a date that there is not; nested too deep
        raise PunaError(f"is no plain YAML ({str(error)[:120]})", where=str(path)) from error
    if not isinstance(values, dict) or not isinstance(tree, yaml.MappingNode):
        raise PunaError("holds no task: a task file is a list of `key: value`", where=str(path))
    keys = [str(key.value) for key, _ in tree.value]
    twice = sorted({key for key in keys if keys.count(key) > 1})
    return {str(key): value for key, value in values.items()}, twice


def _template_mistakes(values: dict[str, Any]) -> list[Mistake]:
    """Syntax mistakes of all templates, whatever else is wrong with the file."""
    found = []
    for key, source in sources(values):
        try:
            (Template if key.partition(".")[0] in TEMPLATES or "." in key else Expression)(source)
        except TemplateMistake as mistake:
            found.append(Mistake(key, str(mistake)))
    for key, pattern in _patterns(values):
        try:
            compiled(pattern)
        except ValueError as error:
            found.append(Mistake(key, str(error)))
    return found


def sources(values: dict[str, Any]) -> list[tuple[str, str]]:
    """(key, text) of every template and expression; those of a list of choices are `choices.0` and so on, and are templates."""
    found = []
    for key in (*TEMPLATES, *EXPRESSIONS):
        given = values.get(key)
        if isinstance(given, str) and given:
            found.append((key, given))
        elif key == "choices" and isinstance(given, list | tuple):
            found += [(f"choices.{place}", one) for place, one in enumerate(given) if isinstance(one, str)]
    return found


def _patterns(values: dict[str, Any]) -> list[tuple[str, str]]:
    ignore, extract = _listed(values.get("ignore")), values.get("extract")
    found = [("ignore", one) for one in (ignore if isinstance(ignore, list) else []) if isinstance(one, str)]
    for place, one in enumerate(extract if isinstance(extract, list) else []):
        if isinstance(one, dict) and isinstance(one.get("regex"), str):
            found.append((f"extract.{place}.regex", one["regex"]))
    return found


def _absent(values: dict[str, Any], folder: Path, data: Path | None) -> list[Mistake]:
    """The files that are named and not there, or that may not be read."""
    found = []
    shots = values.get("shots", 0)
    asks = isinstance(shots, int) and shots > 0 and values.get("fewshot_else") != "items"
    for key in ("data", *(["fewshot"] if asks else [])):
        given = _listed(values.get(key))
        names = [one for one in given if isinstance(one, str) and one] if isinstance(given, list) else []
        wrong, missing = [], []
        for name in names[:200]:
            try:
                missing += forms.find([name], folder, inside=[folder, *([data] if data else [])])[1]
            except PunaError as error:
                wrong.append(error.what.removeprefix("data: ")[:300])
        if missing:
            listed = ", ".join(one if len(one) <= 200 else one[:197] + "..." for one in missing)
            are = "is" if len(missing) == 1 else "are"
            wrong.insert(0, f"{listed} {are} not there (nor compressed), searched in {folder}")
        if wrong:
            found.append(Mistake(key, ", ".join(wrong)))
    return found


def _cross(values: dict[str, Any]) -> list[Mistake]:
    """What single keys cannot know: whether they fit together.

    Where the kind is missing or none, what would be a mistake for every kind that has the other keys, or for the kind that it is near to.
    """
    kind = values.get("kind")
    if isinstance(kind, str) and kind in METRICS:
        return _of_kind(values, kind)
    every = [one for one in METRICS if one != "remote"]
    fitting = [one for one in every if not any(key in values and one not in _ONLY[key] for key in _ONLY)]
    kinds = difflib.get_close_matches(str(kind), METRICS, 1) or fitting or every
    several = [{mistake.key: mistake for mistake in _of_kind(values, one)} for one in kinds]
    found = []
    for key, mistake in several[0].items():
        told_so = {one[key].reason for one in several if key in one}
        if all(key in one for one in several):
            named = f"is no metric of kind {' or '.join(kinds)}" if key in ("metric", "also") else "is missing"
            found.append(mistake if len(told_so) == 1 else Mistake(key, named))
    return found


def _of_kind(values: dict[str, Any], kind: str) -> list[Mistake]:
    found = [
        Mistake(key, f"is missing, and a task of kind {kind} needs it") for key in _NEEDED[kind] if _empty(values, key)
    ]
    if kind == "answer" and _empty(values, "answer") and _empty(values, "answers"):
        found.append(Mistake("answer", "is missing: write answer or answers"))
    if kind != "remote" and _empty(values, "data"):
        found.append(Mistake("data", "is missing: the file of the items"))
    for key, kinds in _ONLY.items():
        if key in values and kind not in kinds:
            found.append(Mistake(key, f"means nothing for kind {kind}"))
    also = _listed(values.get("also", []))
    named = [("metric", values.get("metric")), *(("also", one) for one in (also if isinstance(also, list) else []))]
    for key, metric in named:
        if isinstance(metric, str) and metric and metric not in METRICS[kind]:
            found.append(Mistake(key, f"kind {kind} knows no {metric!r}, only {', '.join(METRICS[kind])}"))
    shots = values.get("shots", 0)
    if isinstance(shots, int) and shots > 0 and kind != "text":
        if _empty(values, "fewshot") and values.get("fewshot_else") != "items":
            found.append(
                Mistake(
                    "fewshot",
                    "is missing: name the file of the examples, or write fewshot_else: items to draw from the items",
                )
            )
        if values.get("sampler") == "first" and values.get("fewshot_else") == "items":
            found.append(
                Mistake("sampler", "first needs a file of examples: the first items would be among their own examples")
            )
    if values.get("form") == "paragraphs" and kind != "text":
        found.append(Mistake("form", "paragraphs are for kind text"))
    if kind == "text" and isinstance(shots, int) and shots:
        found.append(Mistake("shots", "a text has no examples"))
    if values.get("aggregate") == "subtasks" and _empty(values, "subtask"):
        found.append(Mistake("aggregate", "subtasks needs the key subtask"))
    extract = values.get("extract")
    names = [one.get("name") for one in (extract if isinstance(extract, list) else []) if isinstance(one, dict)]
    if len(names) != len({str(name) for name in names}):
        found.append(Mistake("extract", "two have one name"))
    return found


def _empty(values: dict[str, Any], key: str) -> bool:
    return key not in values or values[key] is None or values[key] == "" or values[key] == []


def _mistake(finding: Any) -> Mistake:
    place = [
        str(part)
        for part in finding["loc"]
        if part not in ("str", "int") and not str(part).startswith(("tuple[", "function"))
    ]
    key = ".".join(place) or "the file"
    if finding["type"] == "missing":
        return Mistake(key, "is missing")
    if finding["type"] == "extra_forbidden":
        table: Any = Extract if place[0] == "extract" else TaskSpec
        near = difflib.get_close_matches(place[-1], table.model_fields, 1)
        return Mistake(key, f"no such key{f' (did you mean {near[0]}?)' if near else ''}")
    reason = _PLAIN.get(finding["type"]) or finding["msg"].replace("Input should be", "must be")
    given = repr(finding.get("input"))
    more = "; title may be in any script" if key == "task" else ""
    return Mistake(key, f"{reason} (got {given if len(given) <= 60 else given[:57] + '...'}){more}")


def _one_a_key(mistakes: list[Mistake]) -> list[Mistake]:
    """Of a key that may be of several types, the first finding alone."""
    seen: set[str] = set()
    return [one for one in mistakes if not (one.key in seen or seen.add(one.key))]  # type: ignore[func-returns-value]
