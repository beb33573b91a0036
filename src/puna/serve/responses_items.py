"""A conversation in items (Responses API) as the messages that the chat format has, shortened where that is allowed.

In: items. Out: turns to keep, and messages to render. Must never happen: a result without the call it belongs to, or a turn that is
dropped although nobody allowed it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from puna.serve.errors import ApiError
from puna.serve.models import Hosted
from puna.serve.prompts import check_chats, check_fits, turns
from puna.serve.responses_fields import CallItem, Content, MessageItem, RefusalPart, ResponseRequest, ResultItem
from puna.serve.tools import Tool
from puna.tokens.chat import render


@dataclass(frozen=True)
class Said:
    """A text. `role`: user, assistant or system."""

    role: str
    text: str


@dataclass(frozen=True)
class Called:
    """A call that the model made."""

    call_id: str
    name: str
    arguments: str


@dataclass(frozen=True)
class Result:
    """What came of a call."""

    call_id: str
    text: str


Turn = Said | Called | Result


def turns_of(body: ResponseRequest) -> tuple[Turn, ...]:
    """The input's turns; those that these models do not read (another model's reasoning) are left out."""
    if body.input is None or isinstance(body.input, str):
        return (Said("user", body.input),) if body.input is not None else ()
    found: list[Turn] = []
    for item in body.input:
        if isinstance(item, MessageItem):
            found.append(Said("system" if item.role == "developer" else item.role, _text(item.content)))
        elif isinstance(item, CallItem):
            found.append(Called(item.call_id, item.name, item.arguments))
        elif isinstance(item, ResultItem):
            found.append(Result(item.call_id, _text(item.output)))
    return tuple(found)


def turns_made(output: Iterable[dict[str, Any]]) -> tuple[Turn, ...]:
    """The turns of a response's output."""
    found: list[Turn] = []
    for item in output:
        if item["type"] == "function_call":
            found.append(Called(item["call_id"], item["name"], item["arguments"]))
        else:
            found.append(Said("assistant", "".join(part["text"] for part in item["content"])))
    return tuple(found)


def check_calls(conversation: Sequence[Turn]) -> None:
    """Raise `ApiError` 400 for a result of a call that nobody made."""
    made: set[str] = set()
    for turn in conversation:
        if isinstance(turn, Called):
            made.add(turn.call_id)
        elif isinstance(turn, Result) and turn.call_id not in made:
            raise ApiError(400, f"input: there is no function_call with call_id {turn.call_id!r} before its output",
                           param="input", code="call_not_found")  # fmt: skip


def fit(
    hosted: Hosted, conversation: Sequence[Turn], instructions: str | None, tools: Sequence[Tool], *, shorten: bool,
    wanted: int | None,
) -> tuple[tuple[int, ...], tuple[Turn, ...]]:  # fmt: skip
    """(the prompt's ids, the turns that are in it). `wanted`: how many tokens the reply may have.

    `shorten`: where the context would be too small, the oldest exchanges go, so that the reply has the room it wants, but a half of
    the context at most, and where nothing is said a quarter. System texts and the last exchange stay. Raises `ApiError` 400.
    """
    check_chats(hosted)
    kept = tuple(conversation)
    if shorten:
        context = hosted.engine.context
        room = max(1, min(wanted or context // 4, context // 2))
        kept = _newest(hosted, conversation, instructions, tools, context - room)
    ids = _ids_of(hosted, kept, instructions, tools)
    check_fits(hosted, len(ids), "input")
    return tuple(ids), kept


def _newest(
    hosted: Hosted, conversation: Sequence[Turn], instructions: str | None, tools: Sequence[Tool], most: int
) -> tuple[Turn, ...]:
    """System texts and the last exchanges, as many as `most` tokens hold, but one at least. Reads no more than that, and one more."""
    groups = _groups(conversation)
    system = [turn for turn in conversation if isinstance(turn, Said) and turn.role == "system"]
    begins = 1 if hosted.engine.tokenizer.adds_bos else 0
    length, kept = 0, 0
    for group in reversed(groups):
        turns_ = [conversation[position] for position in group]
        if not kept:
            length = len(_ids_of(hosted, [*system, *turns_], instructions, tools))
        else:  # turns are encoded one by one, so lengths add up
            length += len(render(hosted.engine.tokenizer, turns(messages_of(turns_, None))).ids) - begins
        if kept and length > most:
            break
        kept += 1
    dropped = {position for group in groups[: len(groups) - kept] for position in group}
    return tuple(turn for position, turn in enumerate(conversation) if position not in dropped)


def _ids_of(hosted: Hosted, kept: Iterable[Turn], instructions: str | None, tools: Sequence[Tool]) -> list[int]:
    return render(
        hosted.engine.tokenizer, turns(messages_of(kept, instructions), tools), add_generation_prompt=True
    ).ids


def messages_of(conversation: Iterable[Turn], instructions: str | None) -> list[dict[str, Any]]:
    """The turns as chat messages: calls belong to the assistant's message before them."""
    made: list[dict[str, Any]] = [] if instructions is None else [{"role": "system", "content": instructions}]
    for turn in conversation:
        if isinstance(turn, Said):
            made.append({"role": turn.role, "content": turn.text})
        elif isinstance(turn, Result):
            made.append({"role": "tool", "content": turn.text, "tool_call_id": turn.call_id})
        else:
            if not made or made[-1]["role"] != "assistant":
                made.append({"role": "assistant", "content": None})
            call = {
                "id": turn.call_id,
                "type": "function",
                "function": {"name": turn.name, "arguments": turn.arguments},
            }
            made[-1].setdefault("tool_calls", []).append(call)
    return made


def size_of(conversation: Iterable[Turn]) -> int:
    """Bytes that the turns take in memory, about."""
    texts = [
        turn.text
        if isinstance(turn, Said)
        else turn.call_id + (turn.text if isinstance(turn, Result) else turn.name + turn.arguments)
        for turn in conversation
    ]
    return sum(len(text.encode()) + 100 for text in texts)


def _groups(conversation: Sequence[Turn]) -> list[list[int]]:
    """The positions of what goes together, oldest first: a call goes with its results, a reply with what it answers. No system texts."""
    groups: list[list[int]] = []
    for position, turn in enumerate(conversation):
        if isinstance(turn, Said) and turn.role == "system":
            continue
        if not groups or (isinstance(turn, Said) and turn.role == "user"):
            groups.append([])
        groups[-1].append(position)
    return groups


def _text(content: Content) -> str:
    if isinstance(content, str):
        return content
    return "".join(part.refusal if isinstance(part, RefusalPart) else part.text for part in content)
