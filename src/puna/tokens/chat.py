"""Conversations to ids: ChatML, `<|im_start|>role\\ncontent<|im_end|>\\n` for each turn.

Comes in: messages. Goes out: ids, and which of them the model learns to write. Must never happen: a user's text that
closes its own turn (`<|im_end|>` typed by a user stays text here), or ids other than those of the released template.

An assistant's reply loses its leading white space, in code and in the template: a line end at its start would melt
into the header's, and the prompt of generation would no longer be a prefix of what was trained on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from puna.errors import PunaError
from puna.tokens.special import IM_END, IM_START
from puna.tokens.tokenizer import Tokenizer

ROLES = ("system", "user", "assistant")

CHAT_TEMPLATE = """\
{%- for message in messages -%}
{%- if message['role'] not in ['system', 'user', 'assistant'] -%}
{{- raise_exception('a role is system, user or assistant') -}}
{%- endif -%}
{{- '<|im_start|>' + message['role'] + '\\n' -}}
{%- if message['role'] == 'assistant' -%}
{{- message['content'].lstrip() -}}
{%- else -%}
{{- message['content'] -}}
{%- endif -%}
{{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
"""


@dataclass(frozen=True)
class ChatIds:
    """A rendered conversation. `loss[i]` is true where `ids[i]` is the assistant's to write: its content and `<|im_end|>`."""

    ids: list[int]
    loss: list[bool]


def render(tokenizer: Tokenizer, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool = False) -> ChatIds:
    """The ids of one conversation; `add_generation_prompt` opens the assistant's next turn at its end.

    Raises `PunaError` on a message without role and content, on an unknown role, or where the tokenizer has no turn markers.
    """
    return render_batch(tokenizer, [messages], add_generation_prompt)[0]


def render_batch(
    tokenizer: Tokenizer, conversations: Sequence[Sequence[Mapping[str, Any]]], add_generation_prompt: bool = False
) -> list[ChatIds]:
    """`render` for many conversations, encoded on all cores."""
    opening, closing = tokenizer.im_start_id, tokenizer.im_end_id
    if opening is None or closing is None:
        raise PunaError(f"the tokenizer has no {IM_START} and {IM_END}", mend="tune a model whose tokenizer has them")
    turns: list[str] = []
    for messages in conversations:
        check_messages(messages)
        turns += [_turn(message["role"], message["content"]) for message in messages]
    encoded = iter(tokenizer.encode_batch(turns))
    newline, header = tokenizer.encode("\n"), tokenizer.encode("assistant\n")
    rendered = []
    for messages in conversations:
        ids: list[int] = [tokenizer.bos_id] if tokenizer.adds_bos and tokenizer.bos_id is not None else []
        loss = [False] * len(ids)
        for message in messages:
            turn = next(encoded)
            learned = message["role"] == "assistant"
            if learned and turn[: len(header)] != header:
                raise PunaError("this tokenizer melts the assistant's header into the reply; the loss has no edge")
            free = len(header) if learned else len(turn)
            ids += [opening, *turn, closing, *newline]
            loss += [False] * (1 + free) + [True] * (len(turn) - free) + [learned] + [False] * len(newline)
        if add_generation_prompt:
            ids += [opening, *header]
            loss += [False] * (1 + len(header))
        rendered.append(ChatIds(ids, loss))
    return rendered


def check_messages(messages: Sequence[Mapping[str, Any]]) -> None:
    """Raise `PunaError`, naming the message, unless each is a role of `ROLES` and a text."""
    if isinstance(messages, str) or not isinstance(messages, Sequence) or not messages:
        raise PunaError("a conversation is a list with at least one message")
    for number, message in enumerate(messages, 1):
        if not isinstance(message, Mapping) or message.get("role") not in ROLES:
            raise PunaError("its role is not one of " + ", ".join(ROLES), where=f"message {number}")
        if not isinstance(message.get("content"), str):
            raise PunaError("its content is not a text", where=f"message {number}")


def _turn(role: str, content: str) -> str:
    return f"{role}\n{content.lstrip() if role == 'assistant' else content}"
