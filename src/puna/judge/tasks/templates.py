"""The small language in which a task file says how a row becomes a question: Jinja's, with everything dangerous left out.

Comes in: templates and expressions of a stranger's YAML, and rows of a stranger's data. Goes out: bounded text and plain values.
Must never happen: code that runs, an attribute of a Python object that is reached, or a template that fills the memory.

Jinja's sandbox forbids attributes that lead to the interpreter, but not `'a' * 10 ** 10`, so what may stand in a template is
listed here and everything else is a mistake: fields, constants, lists, comparisons, `if`, one `for` over a field, a few filters
and methods whose results are no longer than what goes in. Nothing is assigned, so nothing can grow by being doubled, and a list
never becomes a text by itself: Python's way to write it doubles every backslash, level by level.
"""

from collections.abc import Callable, Mapping
from typing import Any

from jinja2 import StrictUndefined, TemplateError, Undefined, nodes, pass_context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from puna.errors import PunaError

MOST_LETTERS = 1 << 20  # characters of one question; LongBench's longest has about 400,000
_LONGEST_TEMPLATE = 20_000
_MOST_FILTERS = 20
_MOST_STEPS = 10_000  # of a loop
_MOST_WORK = (
    20_000_000  # steps of a loop times the characters of the row, in one row: a few filters over these are a second
)
_MOST_WORK_IN_ALL = 5_000_000_000  # the same over all rows of a file
_MOST_SEARCH = (
    100_000_000  # characters of a text times those looked for in it from its end, which Python does pair by pair
)
_LOOP = "loop steps"  # no name that a template can write
_MOST_SUMS = 50
_ALLOWED = (
    nodes.Template, nodes.Output, nodes.TemplateData, nodes.Name, nodes.Const, nodes.List, nodes.Tuple,
    nodes.Getattr, nodes.Getitem, nodes.Slice, nodes.Filter, nodes.Test, nodes.Call, nodes.Add, nodes.Sub,
    nodes.Compare, nodes.Operand, nodes.And, nodes.Or, nodes.Not, nodes.Neg, nodes.CondExpr, nodes.If, nodes.For,
)  # fmt: skip
_FILTERS = frozenset(
    ["first", "last", "length", "int", "reverse", "default", "abs"]
)  # Jinja's own; those of texts are below
_TESTS = frozenset(
    [
        "defined",
        "undefined",
        "none",
        "string",
        "number",
        "sequence",
        "mapping",
        "true",
        "false",
        "in",
        "equalto",
        "eq",
        "ne",
        "lt",
        "gt",
    ]
)
_METHODS = frozenset(
    [
        "strip",
        "lstrip",
        "rstrip",
        "lower",
        "upper",
        "capitalize",
        "split",
        "splitlines",
        "partition",
        "rpartition",
        "removeprefix",
        "removesuffix",
        "index",
        "find",
        "rfind",
        "count",
        "startswith",
        "endswith",
        "isdigit",
        "get",
    ]
)


def _weight(value: Any) -> int:
    """The characters in a row's field, those in lists and tables too."""
    size, stack = 0, [value]
    while stack:
        one = stack.pop()
        if isinstance(one, str):
            size += len(one)
        elif isinstance(one, Mapping):
            stack += [*one.keys(), *one.values()]
            size += len(one)
        elif isinstance(one, list | tuple):
            stack += one
            size += len(one)
    return size


@pass_context
def _steps(context: Any, values: Any) -> Any:
    """What a loop goes over, where its steps times the characters of the row are few enough."""
    if not isinstance(values, str | list | tuple | Mapping):
        values = list(values)
    steps = len(values)
    row = context.get_all()
    work = row.get(_LOOP)
    if steps > _MOST_STEPS:
        raise TemplateError(f"a loop of {steps:,} steps, and {_MOST_STEPS:,} are the most")
    cost = steps * _weight({key: value for key, value in row.items() if key != _LOOP})
    if work is not None:
        work.row += cost
        work.all += cost
        if work.row > _MOST_WORK:
            raise TemplateError(
                f"its loops take {work.row:,} steps times characters of the row, and {_MOST_WORK:,} are the most"
            )
        if work.all > _MOST_WORK_IN_ALL:
            raise TemplateError(f"its loops take over {_MOST_WORK_IN_ALL:,} steps times characters over all rows")
    return values


class _Work:
    """What the loops of a template have cost: in the row at hand, and in all."""

    row = 0
    all = 0


class _Sandbox(ImmutableSandboxedEnvironment):
    """Jinja's sandbox with the filters above, none of which makes more than MOST_LETTERS characters."""

    def __init__(self) -> None:
        super().__init__(
            undefined=StrictUndefined, autoescape=False, keep_trailing_newline=True, cache_size=0, finalize=_text
        )
        self.globals.clear()
        self.filters = {name: one for name, one in self.filters.items() if name in _FILTERS}
        self.filters.update(replace=_replace, join=_join, string=_text)
        self.filters.update({name: _of_text(name) for name in ("strip", "lower", "upper", "capitalize")})
        self.filters["trim"] = self.filters["strip"]
        self.filters[_LOOP] = _steps
        self.tests = {name: one for name, one in self.tests.items() if name in _TESTS}

    def call(self, context: Any, called: Any, /, *arguments: Any, **named: Any) -> Any:
        """A method's result. Searches from the end are bounded: their time is the product of the two lengths."""
        text = getattr(called, "__self__", None)
        if isinstance(text, str) and getattr(called, "__name__", "") in ("rfind", "rpartition", "rsplit"):
            if len(text) * max((len(one) for one in arguments if isinstance(one, str)), default=0) > _MOST_SEARCH:
                raise TemplateError("a search of so long a text in so long a text from its end")
        return super().call(context, called, *arguments, **named)


def _text(value: Any) -> str:
    if isinstance(value, Undefined):
        return str(value)  # raises, with the field's name
    if value is None or not isinstance(value, str | int | float):
        raise TemplateError("a list, a table or nothing where a text is needed")
    return str(value)


def _of_text(method: str) -> Callable[[Any], str]:
    return lambda value: getattr(_text(value), method)()


def _replace(value: Any, old: str, new: str) -> str:
    text, old, new = _text(value), _text(old), _text(new)
    pieces = text.count(old) if old else len(text) + 1
    if len(text) + pieces * len(new) > MOST_LETTERS:
        raise TemplateError(f"a text of over {MOST_LETTERS:,} characters")
    return text.replace(old, new)


def _join(values: Any, between: str = "") -> str:
    texts, between = [_text(value) for value in values], _text(between)
    if sum(map(len, texts)) + len(texts) * len(between) > MOST_LETTERS:
        raise TemplateError(f"a text of over {MOST_LETTERS:,} characters")
    return between.join(texts)


_JINJA = _Sandbox()


class TemplateMistake(ValueError):
    """What is wrong with a template, in plain words."""


def _check(source: str, node: nodes.Node) -> None:
    if len(source) > _LONGEST_TEMPLATE:
        raise TemplateMistake(f"is longer than {_LONGEST_TEMPLATE:,} characters")
    loops = {id(inner) for loop in node.find_all(nodes.For) for inner in loop.find_all(nodes.For) if inner is not loop}
    if loops:
        raise TemplateMistake("has a loop in a loop")
    for kinds, most, name in (
        ((nodes.Filter, nodes.Call), _MOST_FILTERS, "filters and calls"),
        ((nodes.Add,), _MOST_SUMS, "plus signs"),
    ):
        if sum(1 for _ in node.find_all(kinds)) > most:
            raise TemplateMistake(f"has over {most} {name}")
    stack = [node]
    while stack:
        one = stack.pop()
        stack.extend(one.iter_child_nodes())
        if not isinstance(one, _ALLOWED):
            raise TemplateMistake(f"may not use {type(one).__name__.lower()} (line {one.lineno})")
        if isinstance(one, nodes.For) and one.recursive:
            raise TemplateMistake("may not use a recursive loop")
        if isinstance(one, nodes.Call) and not (isinstance(one.node, nodes.Getattr) and one.node.attr in _METHODS):
            called = one.node.attr if isinstance(one.node, nodes.Getattr) else getattr(one.node, "name", "this")
            raise TemplateMistake(f"may not call {called}(); allowed are {' '.join(sorted(_METHODS))}")
        if isinstance(one, nodes.Getattr) and one.attr.startswith("_"):
            raise TemplateMistake(f"may not reach .{one.attr}")


class Template:
    """A text with {{ fields }} in it."""

    def __init__(self, source: str) -> None:
        """Raises TemplateMistake where it is no template of this small language."""
        self.source = source
        try:
            tree = _JINJA.parse(source)
            _check(source, tree)
            for loop in tree.find_all(nodes.For):  # after the check, which knows no filter of this name
                loop.iter = nodes.Filter(loop.iter, _LOOP, [], [], None, None, lineno=loop.lineno)
            self._compiled = _JINJA.from_string(tree)
            self._work = _Work()
        except (TemplateError, RecursionError) as error:
            raise TemplateMistake(_told(error)) from error

    def render(self, row: Mapping[str, Any]) -> str:
        """The text for one row. Raises TemplateMistake for a field that the row lacks, and over MOST_LETTERS characters."""
        parts: list[str] = []
        size = 0
        self._work.row = 0
        for part in _guarded(lambda: iter(self._compiled.generate({**row, _LOOP: self._work}))):
            parts.append(part)
            size += len(part)
            if size > MOST_LETTERS:
                raise TemplateMistake(f"makes a text of over {MOST_LETTERS:,} characters")
        return "".join(parts)


class Expression:
    """What stands between the braces, alone: its value is a text, a number or a list."""

    def __init__(self, source: str) -> None:
        """Raises TemplateMistake where it is no expression of this small language."""
        self.source = source
        if "{{" in source or "{%" in source:
            raise TemplateMistake("is written without braces here: a field's name, or an expression")
        try:
            tree = _JINJA.parse("{{ (" + source + "\n) }}")
            if [type(node) for node in tree.body] != [nodes.Output] or len(list(tree.body[0].iter_child_nodes())) != 1:
                raise TemplateMistake("is not one expression")
            _check(source, tree)
            # Most expressions are a field's name, and an item has half a dozen: those are looked up, which is 50 times as fast.
            self._field = (
                source.strip() if source.strip().isidentifier() and isinstance(_only(tree), nodes.Name) else None
            )
            self._compiled = _JINJA.compile_expression(source, undefined_to_none=False)
        except (TemplateError, RecursionError) as error:
            raise TemplateMistake(_told(error)) from error

    def value(self, row: Mapping[str, Any]) -> Any:
        """Its value for one row. Raises TemplateMistake for a field that the row lacks."""
        if self._field is not None:
            if self._field not in row:
                raise TemplateMistake(f"{self._field!r} is undefined")
            return row[self._field]

        def work() -> Any:
            value = self._compiled(dict(row))
            return _text(value) if isinstance(value, Undefined) else value

        try:
            return work()
        except _WRONG as error:
            raise TemplateMistake(_told(error)) from error


def _only(tree: nodes.Template) -> nodes.Node:
    return next(tree.body[0].iter_child_nodes())


# What a stranger's template and row can make Jinja and the methods of texts and lists raise.
_WRONG = (TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError)


def _guarded(start: Callable[[], Any]) -> Any:
    try:
        yield from start()
    except TemplateMistake:
        raise
    except _WRONG as error:
        raise TemplateMistake(_told(error)) from error


def _told(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 160 else text[:157] + "..."


def plain(value: Any, key: str, where: str) -> str:
    """A field's value as the text of an id, a subtask or a cluster. Raises PunaError for a list, a table or nothing."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise PunaError(f"{key} is no text or number", where=where)
    return str(value)
