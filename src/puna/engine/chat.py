"""A conversation that fits the model's context.

In: what the system, the user and the assistant said, or a file that holds it. Out: the token ids to go on from, how much was
let go, and a file to go on from another day.
Must never happen: the prompt leaves no room for a reply, the system text is let go, what was let go goes unsaid or is missing
in the file, or a file of another's is written over.
"""

import json
import re
from pathlib import Path
from typing import Any

from puna.errors import PunaError
from puna.files import atomic_file
from puna.reading import read_text
from puna.tokens import Tokenizer
from puna.tokens.chat import check_messages, render

MOST_SAVED = 16 << 20  # bytes of a file of one conversation: a book of a million words has six


class Conversation:
    """Messages with one model. `context` is the most tokens the model takes, prompt and reply together."""

    def __init__(self, tokenizer: Tokenizer, context: int, system: str | None = None) -> None:
        self._tokenizer = tokenizer
        self._context = context
        self.system = system
        self.turns: list[dict[str, str]] = []
        self.gone: list[dict[str, str]] = []  # turns that the context could not hold any more, for the file
        # Files of this conversation's own, which it may write again, and how they were left: size and time in ns.
        self._saved: dict[Path, tuple[int, int]] = {}

    @property
    def messages(self) -> list[dict[str, str]]:
        """System text (where there is one) and turns, as the chat format takes them."""
        return self._head + self.turns

    @property
    def _head(self) -> list[dict[str, str]]:
        return [{"role": "system", "content": self.system}] if self.system else []

    def say(self, role: str, content: str) -> None:
        """Add a turn of "user" or "assistant"."""
        if role not in ("user", "assistant"):
            raise ValueError(f"role must be 'user' or 'assistant'; got {role!r}")
        self.turns.append({"role": role, "content": content})

    def unsay(self) -> None:
        """Take the last turn back (a prompt that could not be answered)."""
        self.turns.pop()

    def take_back(self) -> str:
        """Take the last message of the user's back, and the reply to it; returns the message.

        Raises PunaError where the user has said nothing, and leaves all as it was.
        """
        for place in range(len(self.turns) - 1, -1, -1):
            if self.turns[place]["role"] == "user":
                text = self.turns[place]["content"]
                self.turns = self.turns[:place]
                return text
        raise PunaError("nothing was said yet")

    def reset(self) -> None:
        """Forget all turns; the system text stays."""
        self.turns, self.gone = [], []

    def prompt(self, reserve: int) -> tuple[list[int], int]:
        """The ids that ask for the next reply, and how many of the oldest turns were let go to make them fit.

        `reserve` tokens are kept free for the reply, but never more than half of the context. A turn that is let go
        moves from `turns` to `gone`; a reply goes with the question that it answers.
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
        self.gone = self.gone + self.turns[: before - len(kept)]
        self.turns = kept
        return ids, before - len(kept)

    def _render(self, turns: list[dict[str, str]]) -> list[int]:
        return render(self._tokenizer, self._head + turns, add_generation_prompt=True).ids

    def save(self, path: Path) -> None:
        """Write all messages as one line of JSON, the form that `[[tune]]` reads conversations in.

        Raises PunaError where nothing was said, where another's file stands there, where another program has changed the
        file since, or where it cannot be written.
        """
        if not self.turns:
            raise PunaError("there is nothing to save yet")
        path = Path(path)
        real = path.resolve()
        if path.exists():
            if real not in self._saved:
                raise PunaError("exists already", where=str(path), mend="save under another name")
            if _state(real) != self._saved[real]:
                raise PunaError("was changed by another program", where=str(path), mend="save under another name")
        line = json.dumps({"messages": self._head + self.gone + self.turns}, ensure_ascii=False)
        try:
            with atomic_file(real) as stream:
                stream.write(line.encode() + b"\n")
            self._saved[real] = _state(real)
        except OSError as error:
            raise PunaError(f"cannot write the conversation: {error.strerror}", where=str(path)) from error

    def load(self, path: Path) -> None:
        """Go on from a file that holds one conversation, as `save` writes it; what was said here before is forgotten.

        A file with nothing else in it may be saved to again. Raises PunaError where it is none, and changes nothing then.
        """
        path = Path(path)
        row = _one_row(path)
        messages = row.get("messages")
        try:
            check_messages(messages)  # type: ignore[arg-type]  # that it is a list is what is checked
        except PunaError as error:
            raise PunaError(f"holds no conversation ({error.line()})", where=str(path)) from None
        turns = [{"role": one["role"], "content": one["content"]} for one in messages or []]
        system = turns.pop(0)["content"] if turns[0]["role"] == "system" else None
        if any(turn["role"] == "system" for turn in turns):
            raise PunaError("a system text stands in the middle of the conversation", where=str(path))
        self.reset()
        self.system, self.turns = system, turns
        if row.keys() == {"messages"} and all(one.keys() == {"role", "content"} for one in messages or []):
            self._saved[path.resolve()] = _state(path)

    def owns(self, path: Path) -> bool:
        """Whether `save` would write to this file again."""
        return Path(path).resolve() in self._saved


def _one_row(path: Path) -> dict[str, Any]:
    """The one JSON object of a file of JSON lines."""
    text = read_text(path, MOST_SAVED)
    lines = [line for line in text.split("\n") if line.strip()]
    if len(lines) != 1:
        raise PunaError(f"holds {len(lines)} lines; a saved conversation is one", where=str(path))
    try:
        row = json.loads(lines[0])
        if re.search(r"\\u[dD][89a-fA-F]", text):
            json.dumps(row, ensure_ascii=False).encode()  # a lone surrogate, which no text can hold, is refused here
    except (ValueError, RecursionError):
        raise PunaError("holds no conversation (not JSON)", where=str(path)) from None
    if not isinstance(row, dict):
        raise PunaError("holds no conversation (not a JSON object)", where=str(path))
    return row


def _state(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns
