"""From a conversation in OpenAI's shape to the ids that ask for the next reply.

In: messages and tools. Out: ids. Must never happen: a client's text that becomes a marker of the chat format, a prompt that is cut in
silence, or a model without a chat format that is made to converse.

ChatML here knows system, user and assistant. All system (and developer) texts become one, at the beginning: it is where models are
taught to look for it. What came of a call is a user's turn; several in a row are one turn.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from puna.serve.errors import ApiError
from puna.serve.fields import text_of
from puna.serve.models import Hosted
from puna.serve.tools import Call, Tool, response_text, told
from puna.tokens.chat import render

T = TypeVar("T")
_LARGE = 4096  # characters; encoding more takes milliseconds, which the event loop has not


def chat_ids(
    hosted: Hosted, messages: Sequence[Mapping[str, Any]], tools: Sequence[Tool] = (), param: str = "messages"
) -> tuple[int, ...]:
    """The prompt of a conversation: `messages` as OpenAI has them, content as text or text parts.

    Raises `ApiError` 400 where the model has no chat format, or where the prompt leaves no room for a reply in the context.
    """
    check_chats(hosted)
    ids = render(hosted.engine.tokenizer, turns(messages, tools), add_generation_prompt=True).ids
    check_fits(hosted, len(ids), param)
    return tuple(ids)


def turns(messages: Sequence[Mapping[str, Any]], tools: Sequence[Tool] = ()) -> list[dict[str, str]]:
    """The conversation in the roles that the chat format has."""
    system = [text_of(one.get("content")) for one in messages if one["role"] in ("system", "developer")]
    system += [told(tools)] if tools else []
    made = [{"role": "system", "content": "\n\n".join(system)}] if system else []
    before = None
    for one in messages:
        role, text = one["role"], text_of(one.get("content"))
        if role == "tool" and before == "tool":
            made[-1]["content"] += "\n" + response_text(text)
        elif role == "tool":
            made.append({"role": "user", "content": response_text(text)})
        elif role == "assistant":
            calls = [
                Call(call["function"]["name"], call["function"]["arguments"]) for call in one.get("tool_calls") or ()
            ]
            made.append(
                {"role": role, "content": "\n".join([*([text] if text else []), *(call.text() for call in calls)])}
            )
        elif role == "user":
            made.append({"role": role, "content": text})
        before = role
    return made


def check_chats(hosted: Hosted) -> None:
    """Raise `ApiError` 400 where the model has no chat format."""
    if not hosted.engine.chats:
        raise ApiError(
            400, f"{hosted.name} has no chat format; use /v1/completions", param="model", code="no_chat_format"
        )


def check_fits(hosted: Hosted, length: int, param: str) -> None:
    """Raise `ApiError` 400 `context_length_exceeded` where a prompt of so many tokens leaves no room for a reply."""
    context = hosted.engine.context
    if length >= context:
        raise ApiError(
            400, f"{param}: the prompt has {length} tokens, and the model's context is {context} with the reply; shorten it",
            param=param, code="context_length_exceeded",
        )  # fmt: skip


def length_of(messages: Sequence[Mapping[str, Any]]) -> int:
    """Characters of a conversation's texts."""
    return sum(len(text_of(one.get("content"))) for one in messages)


async def off_loop(size: int, work: Callable[[], T]) -> T:
    """What `work` returns; where it has more than a few thousand characters to encode, it is done in another thread."""
    return work() if size <= _LARGE else await asyncio.to_thread(work)
