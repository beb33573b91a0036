"""Docstrings and signatures out of Python source, and what a docstring says: summary, arguments, result.

Comes in: source text (parsed with `ast`, never imported) or the docstring of a built-in. Goes out: `Entry` records.
Must never happen: an argument's text that the docstring does not give.
"""

import ast
import inspect
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

_SUMMARY_CHARS = 240
_ARGUMENT_CHARS = 200
_SENTENCE = re.compile(r"(?<=[.!?])[\"')]?\s+(?=[A-Z\"'(`*<\[])")
_ABBREVIATION = re.compile(r"(?:\b(?:e\.g|i\.e|etc|vs|cf|resp|incl|approx|no|fig|sec|[A-Z])\.)$", re.IGNORECASE)
# "range(stop) -> range object": how C code wrote signatures before it could carry them.
_CALL_LINE = re.compile(r"^(?:[\w.]+\.)?(\w+)(\(.*?\))(?:\s*(?:-{1,2}>|=>|->|—|--?)\s*(.*))?$")
_RETURNS = re.compile(r"^(?:Returns?|:returns?:|@return:?)\s+(.+)$", re.IGNORECASE)
# ":param x: words", "x -- words", "- x: words" on a line of its own, or "x" alone above an indented block.
_ITEM = re.compile(
    r"^(?P<indent>[ \t]*)(?:[-*][ \t]+)?(?::param(?:[ \t]+\w+)?[ \t]+(?P<param>\w+)[ \t]*:"
    r"|[*`'\"]{0,2}(?P<name>[A-Za-z_]\w*)[*`'\"]{0,2}[ \t]*(?:\([^)\n]*\)[ \t]*)?(?:--?|:)[ \t])[ \t]*(?P<text>\S[^\n]*)"
    r"|^(?P<block_indent>[ \t]*)(?P<above>[A-Za-z_]\w*)[ \t]*\n(?P<block>(?P=block_indent)[ \t]+\S[^\n]*)",
    re.MULTILINE,
)
# "The sep argument is ...", "*sep* specifies ..." at the start of a sentence.
_SAID = re.compile(
    r"(?:\A|(?<=[.!?])\s+|\n\n)(?P<text>(?:The\s+)?(?:optional\s+)?[*`'\"]{0,2}(?P<name>[A-Za-z_]\w*)[*`'\"]{0,2}"
    r"(?:\s+(?:argument|parameter))?\s+"
    r"(?:is|are|can|may|must|should|specifies|gives|defaults|determines|controls|indicates)\b.{1,600}?\.)(?=\s|\Z)",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Entry:
    """One documented function, method or class. `signature` is the part in parentheses, without `self`; "" if unknown."""

    module: str
    qualname: str
    kind: str
    signature: str
    doc: str

    @property
    def public(self) -> bool:
        """Whether no part of its module or name is private."""
        return not any(part.startswith("_") for part in (*self.module.split("."), *self.qualname.split(".")))

    @property
    def shown(self) -> str:
        """The name as one would write it in code: "len", "str.split", "json.dumps"."""
        return self.qualname if self.module == "builtins" else f"{self.module}.{self.qualname}"


def entries_of_source(text: str, module: str) -> tuple[str, list[Entry]]:
    """A module's own docstring ("" if none) and its documented classes, functions and methods, in the file's order.

    Raises SyntaxError for source that this Python cannot parse.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # old escapes in string literals
        tree = ast.parse(text)
    found: dict[str, Entry] = {}
    for node, prefix in _definitions(tree.body, ""):
        qualname = f"{prefix}{node.name}"
        entry = _entry(node, qualname, module, in_class=bool(prefix))
        if entry is not None:
            found.setdefault(qualname, entry)
    return ast.get_docstring(tree) or "", list(found.values())


_Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def _definitions(body: list[ast.stmt], prefix: str) -> Iterator[tuple[_Definition, str]]:
    for node in body:
        if isinstance(node, ast.ClassDef):
            yield node, prefix
            yield from _definitions(node.body, f"{prefix}{node.name}.")
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node, prefix
        elif isinstance(node, ast.If):
            yield from _definitions([*node.body, *node.orelse], prefix)
        elif isinstance(node, ast.Try):
            handlers = [line for handler in node.handlers for line in handler.body]
            yield from _definitions([*node.body, *handlers, *node.orelse], prefix)


def _entry(node: _Definition, qualname: str, module: str, in_class: bool) -> Entry | None:
    doc = ast.get_docstring(node) or ""
    if isinstance(node, ast.ClassDef):
        start = next(
            (item for item in node.body if isinstance(item, ast.FunctionDef) and item.name == "__init__"), None
        )
        doc = doc or (ast.get_docstring(start) or "" if start is not None else "")
        signature = _signature(start.args, bound=True) if start is not None else ""
        return Entry(module, qualname, "class", signature, doc) if doc.strip() else None
    if node.name.startswith("__") or not doc.strip():
        return None
    decorators = {ast.unparse(item) for item in node.decorator_list}
    if any("property" in item or item.endswith((".setter", ".deleter", ".getter")) for item in decorators):
        return None  # an attribute is not called
    bound = in_class and "staticmethod" not in decorators
    return Entry(module, qualname, "method" if in_class else "function", _signature(node.args, bound), doc)


def _signature(arguments: ast.arguments, bound: bool) -> str:
    for item in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg):
        if item is not None:
            item.annotation = None
    if bound:
        names = arguments.posonlyargs or arguments.args
        if names:
            del names[0]
    return f"({ast.unparse(arguments)})"


def entry_of_builtin(raw: dict[str, str]) -> Entry:
    """An `Entry` from a line of `builtin_docs`: signature lines leave the docstring, `self` leaves the signature."""
    name = raw["name"].rpartition(".")[2]
    doc, first = _without_call_lines(raw["doc"], name)
    signature = re.sub(r"^\(\$?(?:self|type|cls)(?:, /)?(?:, )?", "(", raw["signature"] or first)
    return Entry(raw["module"], raw["name"], raw["kind"], signature, doc)


def _without_call_lines(doc: str, name: str) -> tuple[str, str]:
    signature = ""
    lines = doc.splitlines()
    rest: list[str] = []
    while lines:
        match = _CALL_LINE.match(lines[0])
        if match is None or match.group(1) != name:
            break
        signature = signature or match.group(2)
        said = (match.group(3) or "").strip()
        # "-> range object" repeats the call; a longer remark is documentation.
        if len(said.split()) > 3:
            rest.append(said[0].upper() + said[1:])
        lines.pop(0)
        if rest:
            break
    text = "\n".join([*rest, *lines]).strip("\n")
    return inspect.cleandoc(text) if text.strip() else doc, signature


def summary_of(doc: str) -> str:
    """The first sentence of a docstring on one line, at most 240 characters; "" if there is none."""
    paragraph = doc.strip().split("\n\n", 1)[0]
    text = " ".join(paragraph.split())
    start = 0
    for match in _SENTENCE.finditer(text):
        if not _ABBREVIATION.search(text[: match.start()]):
            text = text[: match.end()].rstrip()
            break
        start = match.end()
    if len(text) > _SUMMARY_CHARS:
        text = text[: _SUMMARY_CHARS - 3].rsplit(" ", 1)[0] + "..."
    return text if len(text) > start else ""


def arguments_of(signature: str, doc: str) -> list[dict[str, str | None]]:
    """[{"name", "doc"}] of a signature's parameters; "doc" is the docstring's words about each, or None."""
    names = parameter_names(signature)
    said = _described(doc) if names else {}
    return [{"name": name, "doc": said.get(name)} for name in names]


def parameter_names(signature: str) -> list[str]:
    """The parameters of "(a, *, b=1, **more)", without stars; old forms "(a[, b])" are understood too."""
    if not signature.startswith("("):
        return []
    try:
        parsed: Any = ast.parse(f"def f{signature}: pass").body[0]
    except SyntaxError:
        return list(dict.fromkeys(re.findall(r"(?<![\w.=])([a-z_]\w*)(?=\s*[,\[\])=])", signature)))
    arguments = parsed.args
    spread = [arguments.vararg, *arguments.kwonlyargs, arguments.kwarg]
    return [item.arg for item in (*arguments.posonlyargs, *arguments.args, *spread) if item is not None]


def _described(doc: str) -> dict[str, str]:
    """What a docstring says of each name it lists or explains: an item of a list goes before a sentence."""
    found: dict[str, str] = {}
    for item in _ITEM.finditer(doc):
        name = item["param"] or item["name"] or item["above"]
        indent = len(item["block_indent"] if item["above"] else item["indent"])
        found.setdefault(name, _first_words(item["text"] or item["block"], doc[item.end() : item.end() + 2000], indent))
    for said in _SAID.finditer(doc):
        found.setdefault(said["name"], _clip(said["text"]))
    return found


def _first_words(first: str, rest: str, indent: int) -> str:
    lines = [first]
    for line in rest.split("\n")[1:]:
        if not line.strip() or len(line) - len(line.lstrip()) <= indent:
            break
        lines.append(line)
    return _clip(" ".join(lines))


def _clip(text: str) -> str:
    text = " ".join(text.split())
    parts = _SENTENCE.split(text, maxsplit=1)
    text = parts[0]
    return text if len(text) <= _ARGUMENT_CHARS else text[: _ARGUMENT_CHARS - 3].rsplit(" ", 1)[0] + "..."


def returns_of(doc: str) -> str | None:
    """What a docstring says is returned: the words after "Return" of its first such sentence, or None."""
    for paragraph in doc.split("\n\n")[:8]:
        for sentence in _SENTENCE.split(" ".join(paragraph.split())):
            match = _RETURNS.match(sentence)
            if match is not None:
                return _clip(match.group(1)).rstrip(".")
    return None
