"""A conversation that fits the model's context.

In: what the system, the user and the assistant said. Out: the token ids to go on from, and how much was let go.
Must never happen: the prompt leaves no room for a reply, the system text is let go, or what was let go goes unsaid.
"""

import json
from pathlib import Path

from puna.errors import PunaError
from puna.files import atomic_file
from puna.tokens import Tokenizer
from puna.tokens.chat import render


class Conversation:
    """Messages with one model. `context` is the most tokens the model takes, prompt and reply together."""

    def __init__(self, tokenizer: Tokenizer, context: int, system: str | None = None) -> None:
        self._tokenizer = tokenizer
        self._context = context
        self.system = system
        self.turns: list[dict[str, str]] = []
        self._saved: set[Path] = set()  # files of this conversation's own, which it may write again

    @property
    def messages(self) -> list[dict[str, str]]:
        """System text (where there is one) and turns, as the chat format takes them."""
        head = [{"role": "system", "content": self.system}] if self.system else []
        return head + self.turns

    def say(self, role: str, content: str) -> None:
        """Add a turn of "user" or "assistant"."""
        if role not in ("user", "assistant"):
            raise ValueError(f"role must be 'user' or 'assistant'; got {role!r}")
        self.turns.append({"role": role, "content": content})

    def unsay(self) -> None:
        """Take the last turn back (a prompt that could not be answered)."""
        self.turns.pop()

    def reset(self) -> None:
        """Forget all turns; the system text stays."""
        self.turns.clear()

    def prompt(self, reserve: int) -> tuple[list[int], int]:
        """The ids that ask for the next reply, and how many of the oldest turns were let go to make them fit.

        `reserve` tokens are kept free for the reply, but never more than half of the context. A turn that is let go
        is gone from `turns` too; a reply goes with the question that it answers.
        Raises PunaError where the system text and the last turn alone do not fit.
        """
        room = self._context - min(max(reserve, 1), self._context // 2)
        before = len(self.turns)
        kept = list(self.turns)
        ids = self._render(kept)
        while len(ids) > room and len(kept) > 1:
            kept = kept[1:]
            while len(kept) > 1 and kept[0]["role"] == "assistant":
                kept = kept[1:]
            ids = self._render(kept)
        if len(ids) > room:
            raise PunaError(
                f"the message takes {len(ids)} tokens with what frames it, and the model has room for {room} "
                f"(context {self._context})",
                mend="say it in fewer words, or shorten the system text",
            )
        self.turns = kept
        return ids, before - len(kept)

    def _render(self, turns: list[dict[str, str]]) -> list[int]:
        head = self.messages[: len(self.messages) - len(self.turns)]
        return render(self._tokenizer, head + turns, add_generation_prompt=True).ids

    def save(self, path: Path) -> None:
        """Write the messages as one line of JSON, the form that `[[tune]]` reads conversations in.

        Raises PunaError where nothing was said, where another file stands there, or where it cannot be written.
        """
        if not self.turns:
            raise PunaError("there is nothing to save yet")
        path = Path(path)
        if path.exists() and path.resolve() not in self._saved:
            raise PunaError("exists already", where=str(path), mend="save under another name")
        line = json.dumps({"messages": self.messages}, ensure_ascii=False)
        try:
            with atomic_file(path) as stream:
                stream.write(line.encode() + b"\n")
        except OSError as error:
            raise PunaError(f"cannot write the conversation: {error.strerror}", where=str(path)) from error
        self._saved.add(path.resolve())
