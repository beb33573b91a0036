"""A user's own conversations.

Comes in: JSON lines or JSON files, plain or as .gz/.zst, in one of three forms: OpenAI's `messages` (role, content), ShareGPT's
`conversations` (from, value), Alpaca's `instruction`, `input`, `output`. Goes out: {"id", "messages", "source"} with the roles
system, user and assistant. Must never happen: a row that is passed over without a count, or a role that is guessed.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from puna.corpus import readers, streams
from puna.corpus.clean import repair
from puna.errors import PunaError
from puna.progress import QUIET, Progress

_ROLES = {
    "system": "system", "user": "user", "human": "user", "prompter": "user", "assistant": "assistant", "gpt": "assistant",
    "chatgpt": "assistant", "bot": "assistant", "model": "assistant",
}  # fmt: skip
# Known, and of no use to a model that has no tools: such conversations are left out and counted.
_TOOL_ROLES = frozenset(["tool", "function", "function_call", "function_response", "observation", "ipython"])


class _UnusableError(Exception):
    """A conversation that is well formed and cannot be trained on; the message is the reason that is counted."""


def read_conversations(path: Path, progress: Progress = QUIET) -> Iterator[dict[str, Any]]:
    """The conversations of a file or folder, in the order of the files' names.

    Raises PunaError with file and line for a row in none of the three forms, and where not one conversation comes out.
    Conversations with tool calls, or without an answer, are left out; `progress.note` says how many and why.
    """
    path = Path(path)
    files = [
        file
        for file in readers.list_files(path, readers.readable_name(path.resolve().name))
        if readers.kind_of(file.path) in readers.LINES | {".json"}
    ]
    if not files:
        raise PunaError("holds no JSON or JSON-lines file of conversations", where=str(path))
    left_out: Counter[str] = Counter()
    count = 0
    for file in files:
        for number, row in _rows(file.path):
            where = f"{file.path}:{number}"
            try:
                messages = _messages(row, where)
            except _UnusableError as error:
                left_out[str(error)] += 1
                continue
            count += 1
            yield {"id": f"{file.name}#{number}", "messages": messages, "source": file.name}
    if left_out:
        progress.note("conversations left out: " + ", ".join(f"{n} {why}" for why, n in sorted(left_out.items())))
    if count == 0:
        raise PunaError("holds no conversation that can be trained on", where=str(path))


def _rows(path: Path) -> Iterator[tuple[int, Any]]:
    lines = readers.kind_of(path) in readers.LINES
    encoding = streams.find_encoding(path, lines=lines)
    if encoding is None:
        raise PunaError("is a binary file", where=str(path))
    if lines:
        for number, line in enumerate(streams.read_lines(path, encoding), 1):
            if line.strip("\ufeff \t\r\n"):
                yield number, readers.parse_json(line, f"{path}:{number}")
        return
    value = readers.parse_json(streams.read_whole(path, encoding), str(path))
    yield from enumerate(value if isinstance(value, list) else [value], 1)


def _messages(row: Any, where: str) -> list[dict[str, str]]:
    if not isinstance(row, dict):
        raise PunaError("is no conversation: a row must be a JSON object", where=where)
    if isinstance(row.get("messages"), list):
        turns = [_turn(item, "role", "content", where) for item in row["messages"]]
    elif isinstance(row.get("conversations"), list):
        turns = [_turn(item, "from", "value", where) for item in row["conversations"]]
    elif "instruction" in row and "output" in row:
        asked = "\n".join(part for part in (_text(row["instruction"], where), _text(row.get("input"), where)) if part)
        turns = [("user", asked), ("assistant", _text(row["output"], where))]
    else:
        fields = ", ".join(str(key)[:40] for key in list(row)[:12]) or "none"
        raise PunaError(
            f"is no conversation: its fields are {fields}",
            where=where,
            mend="use messages, conversations, or instruction and output",
        )
    system = row.get("system")
    if isinstance(system, str) and system.strip() and (not turns or turns[0][0] != "system"):
        turns.insert(0, ("system", repair(system)[0]))
    turns = [(role, text) for role, text in turns if text.strip() or role != "system"]
    if not any(role == "user" and text.strip() for role, text in turns):
        raise _UnusableError("without a question")
    if not any(role == "assistant" and text.strip() for role, text in turns):
        raise _UnusableError("without an answer")
    return [{"role": role, "content": text} for role, text in turns]


def _turn(item: Any, role_key: str, text_key: str, where: str) -> tuple[str, str]:
    if not isinstance(item, dict) or not isinstance(item.get(role_key), str):
        raise PunaError(f"a message must be an object with {role_key!r} and {text_key!r}", where=where)
    role = item[role_key].strip().lower()
    if role in _TOOL_ROLES or item.get("tool_calls"):
        raise _UnusableError("with tool calls")
    if role not in _ROLES:
        raise PunaError(f"unknown role {item[role_key][:40]!r}", where=where, mend="use system, user, assistant")
    if text_key not in item:
        raise PunaError(f"a message has no {text_key!r}", where=where)
    return _ROLES[role], _text(item[text_key], where)


def _text(value: Any, where: str) -> str:
    if value is None:
        return ""
    if isinstance(value, list) and all(isinstance(part, dict) and isinstance(part.get("text"), str) for part in value):
        value = "\n".join(part["text"] for part in value)
    if not isinstance(value, str):
        raise PunaError("a message's text must be a string", where=where)
    return repair(value)[0]
