"""Tools: how a model is told of them, how a call is read out of its text, and how a call is made certain.

In: tools as OpenAI describes them, a reply's text piece by piece. Out: text for the prompt, calls, a `Shape`. Must never happen: a call that
is no call (its arguments no JSON object, its function not one that was offered), or half of a call shown as text while it may still
become one.

The format is the one that open models are most often taught (Hermes, Qwen 2.5): `<tools>` in the system text, `<tool_call>` around a
JSON object with `name` and `arguments` in a reply, `<tool_response>` around what came of it in a user's turn.
"""

import json
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

from puna.engine.request import Shape
from puna.engine.text import overlap
from puna.errors import PunaError

OPENING, CLOSING = "<tool_call>", "</tool_call>"
_SEPARATORS: dict[str, Any] = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
_TOLD = """\
# Tools

You may call these functions:
<tools>
{signatures}
</tools>

To call one, write:
<tool_call>
{{"name": <function-name>, "arguments": <args-json-object>}}
</tool_call>"""  # Hermes' own words are three times as long; small models have small contexts


@dataclass(frozen=True)
class Tool:
    """A function that a model may call. `strict`: its arguments must follow `parameters` whenever it is called."""

    name: str
    description: str | None = None
    parameters: Mapping[str, Any] | None = None
    strict: bool = False

    def __post_init__(self) -> None:
        if (self.parameters or {}).get("type", "object") != "object":
            raise PunaError(f"the parameters of {self.name} are no object: type must be 'object'", where="tools")

    def signature(self) -> str:
        """The function as the model is told of it."""
        told: dict[str, Any] = {"name": self.name}
        if self.description is not None:
            told["description"] = self.description
        told["parameters"] = dict(self.parameters or {"type": "object", "properties": {}})
        return json.dumps({"type": "function", "function": told}, ensure_ascii=False)

    def schema(self) -> dict[str, Any]:
        """What `arguments` must be. Without parameters: an empty object."""
        if self.parameters is None:
            return {"type": "object", "properties": {}, "additionalProperties": False}
        return {"type": "object", **self.parameters}


@dataclass(frozen=True)
class Offer:
    """What a request says of tools. `must`: the reply is a call (`tool_choice` "required", or a named function)."""

    tools: tuple[Tool, ...] = ()
    must: bool = False
    parallel: bool = True

    def __post_init__(self) -> None:
        names = [tool.name for tool in self.tools]
        if len(set(names)) < len(names):
            raise PunaError("two functions have the same name", where="tools")
        if self.must and not names:
            raise PunaError("asks for a call, and there are no tools to call", where="tool_choice")

    def only(self, names: Sequence[str], *, must: bool) -> "Offer":
        """The offer of these functions alone. Raises `PunaError` for one that is not there."""
        there = {tool.name: tool for tool in self.tools}
        for name in names:
            if name not in there:
                raise PunaError(f"names the function {name}, which is not among the tools", where="tool_choice")
        return Offer(tuple(there[name] for name in dict.fromkeys(names)), must, self.parallel)

    def shape(self, answer: Shape | None = None) -> Shape | None:
        """What the reply must look like; `answer`: what an answer that is no call must. None where anything goes.

        Where one tool is strict, a call once begun is certain to be one of all the tools'.
        """
        if not self.tools:
            return answer
        calls = 'call ("\\n" call)*' if self.parallel else "call"
        if self.must:
            rules = [f"start: {calls}"]
        elif answer is not None:
            rules = [f"start: {calls} | answer", f"answer: %json {_inline(answer.json_schema)}"]
        elif any(tool.strict for tool in self.tools):
            rules = [
                "start: (before inner)* TEXT" if self.parallel else "start: before inner | TEXT",
                f'before[suffix="{OPENING}"]: /(.|\\n)*/',
                f"TEXT: /(.|\\n)*/ & ~/(.|\\n)*{OPENING}(.|\\n)*/",
            ]
        else:
            return None
        return Shape(lark="\n".join([*rules, *self._call_rules()]))

    def _call_rules(self) -> list[str]:
        """llguidance's rules for a call: `call` with its opening mark, `inner` without."""
        rules = [f'call: "{OPENING}" inner', f'inner: "\\n" body "\\n{CLOSING}"']
        rules.append("body: " + " | ".join(f"body_{number}" for number in range(len(self.tools))))
        for number, tool in enumerate(self.tools):
            head = json.dumps(f'{{"name": {json.dumps(tool.name)}, "arguments": ')
            rules.append(f'body_{number}: {head} arguments_{number} "}}"')
            rules.append(f"arguments_{number}: %json {_inline(tool.schema())}")
        return rules


def _inline(schema: dict[str, Any] | bool | None) -> str:
    """A schema within a grammar, with Puna's white space and none of the library's switches that a client may have put in."""
    if not isinstance(schema, dict):
        raise ValueError("a schema within a grammar is an object")
    return json.dumps({**schema, "x-guidance": _SEPARATORS}, ensure_ascii=False)


def told(tools: Iterable[Tool]) -> str:
    """What the system text says of the tools; "" without any."""
    signatures = "\n".join(tool.signature() for tool in tools)
    return _TOLD.format(signatures=signatures) if signatures else ""


@dataclass(frozen=True)
class Call:
    """A function that the model calls; `arguments` is JSON text, as OpenAI has it."""

    name: str
    arguments: str
    id: str = field(default_factory=lambda: f"call_{secrets.token_hex(12)}")

    def text(self) -> str:
        """The call as it stands in a reply."""
        return f'{OPENING}\n{{"name": {json.dumps(self.name, ensure_ascii=False)}, "arguments": {self.arguments}}}\n{CLOSING}'


def response_text(content: str) -> str:
    """What came of a call, as it stands in a user's turn."""
    return f"<tool_response>\n{content}\n</tool_response>"


class CallReader:
    """Reads calls out of a reply while it is made. `names`: the functions that may be called; without any, all is text.

    The pieces joined are the same however the text was cut. White space around calls is none of the text's.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._names = frozenset(names)
        self._held = ""  # text that may become a call, or the body of one
        self._space = ""  # white space before the call that is being read
        self._inside = self._after = False
        self.calls = 0

    def push(self, text: str) -> list[str | Call]:
        """What `text` made certain, in order. What stands in `<tool_call>` and is no call stays text."""
        if not self._names:
            return [text] if text else []
        self._held += text
        found: list[str | Call] = []
        while (one := self._closed() if self._inside else self._open()) is not None:
            found.append(one)
        return [one for one in found if one != ""]

    def finish(self) -> list[str | Call]:
        """The rest, at the reply's end. A call whose object is complete needs no closing mark."""
        held, self._held = self._space + self._held, ""
        if self._inside and (call := self._call(held.lstrip().removeprefix(OPENING))) is not None:
            self.calls += 1
            return [call]
        return [held] if held.strip() or (held and not self.calls) else []

    def _open(self) -> str | None:
        """Text that stands before any call; "" where a call begins at once, None where more must be read first."""
        if self._after:
            self._held = self._held.lstrip()
            self._after = not self._held
        at = self._held.find(OPENING)
        self._inside = at >= 0
        end = at if at >= 0 else len(self._held) - overlap(self._held, OPENING)
        ready = self._held[:end].rstrip()
        if self._inside:
            self._space, self._held = self._held[len(ready) : at], self._held[at:]
            return ready
        self._held = self._held[len(ready) :]
        return ready or None

    def _closed(self) -> str | Call | None:
        """The call whose closing mark has been read, or its text where it is none; None where there is no mark yet."""
        end = self._held.find(CLOSING)
        while end >= 0:
            body, after = self._held[len(OPENING) : end], end + len(CLOSING)
            call = self._call(body)
            if call is not None or not _within_a_string(body):
                text = self._space + self._held[:after]
                self._space, self._held, self._inside = "", self._held[after:], False
                if call is None:
                    return text
                self.calls, self._after = self.calls + 1, True
                return call
            end = self._held.find(CLOSING, after)  # that mark is a part of an argument
        return None

    def _call(self, body: str) -> Call | None:
        try:
            value = json.loads(body, parse_constant=_refuse)
            if not isinstance(value, dict) or value.get("name") not in self._names:
                return None
            arguments = value.get("arguments", {})
            if isinstance(arguments, str):  # some models write the object as a text
                arguments = json.loads(arguments, parse_constant=_refuse)
            if not isinstance(arguments, dict):
                return None
            made = json.dumps(arguments, ensure_ascii=False, allow_nan=False)
            made.encode()  # half of a surrogate pair, written as an escape, is no text
        except (ValueError, TypeError, RecursionError):  # TypeError: a name that is a list, say
            return None
        return Call(value["name"], made)


def _within_a_string(body: str) -> bool:
    """Whether JSON ends in the middle of a string."""
    try:
        json.loads(body, parse_constant=_refuse)
    except json.JSONDecodeError as error:
        return error.msg.startswith("Unterminated string")
    except (ValueError, RecursionError):
        return False
    return False


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON value")
