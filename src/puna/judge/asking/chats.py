"""Conversations as the harness hands them on, which is as text, and back to the tokens of the chat format.

Comes in: messages; later the text that was made of them, with more behind it. Goes out: text; then its pieces, marks of the turns
apart. Must never happen: a mark that stands in a message's own text becomes a token, or a rendering other than the released template's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from puna.errors import PunaError
from puna.tokens import Tokenizer
from puna.tokens.chat import check_messages
from puna.tokens.special import IM_END, IM_START

Mark = tuple[int, int, int]  # from, to (characters), id
Piece = str | int


@dataclass
class Chats:
    """The conversations that one tokenizer rendered. Where their marks stand is remembered by the text without the space at its end."""

    tokenizer: Tokenizer
    marks: dict[str, tuple[Mark, ...]] = field(default_factory=dict)

    def render(self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool = True) -> str:
        """The text of a conversation: ChatML, with the begin token's name before it where the model expects that token.

        `add_generation_prompt` opens the assistant's turn; without it the last message stays open to be gone on with. Raises
        `PunaError` on a message that is none, or where the tokenizer has no turn markers.
        """
        tokens = self.tokenizer
        if tokens.im_start_id is None or tokens.im_end_id is None:
            raise PunaError(
                f"the tokenizer has no {IM_START} and {IM_END}", mend="judge the model without the chat format"
            )
        check_messages(messages)
        text, marks = "", []

        def mark(name: str, token: int) -> None:
            nonlocal text
            marks.append((len(text), len(text) + len(name), token))
            text += name

        if tokens.adds_bos and tokens.bos_id is not None:
            mark(tokens.decode([tokens.bos_id], skip_special=False), tokens.bos_id)
        for number, message in enumerate(messages, 1):
            mark(IM_START, tokens.im_start_id)
            content = message["content"].lstrip() if message["role"] == "assistant" else message["content"]
            text += f"{message['role']}\n{content}"
            if number < len(messages) or add_generation_prompt:
                mark(IM_END, tokens.im_end_id)
                text += "\n"
        if add_generation_prompt:
            mark(IM_START, tokens.im_start_id)
            text += "assistant\n"
        self.marks[text.rstrip()] = tuple(marks)
        return text

    def of(self, context: str) -> tuple[Mark, ...]:
        """The marks of a rendered conversation, none for any other text."""
        return self.marks.get(context.rstrip(), ()) if self.marks else ()

    def pieces(self, context: str, text: str) -> list[Piece]:
        """`text`, which begins with the conversation `context`: its marks as ids, what stands between them as text."""
        out: list[Piece] = []
        place = 0
        for start, end, token in self.of(context):
            out += [text[place:start], token]
            place = end
        return [piece for piece in (*out, text[place:]) if piece != ""]
