"""One model that answers, with its own side of the conversation.

In: a message. Out: the reply, shown piece by piece. Must never happen: a message that could not be answered stays in the
conversation, or takes the reply before it away.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from puna.cli.chatting.lines import StopKey
from puna.errors import PunaError

if TYPE_CHECKING:
    from puna.engine import Completion, Conversation, Engine, Sampling


@dataclass(frozen=True)
class Made:
    """A reply, its prompt's tokens, and the seconds from the question to its end."""

    reply: "Completion"
    prompt_tokens: int
    seconds: float

    @property
    def speed(self) -> str:
        """The reply's tokens, and how many a second."""
        tokens = len(self.reply.ids)
        return f"{tokens:,} tokens in {self.seconds:.1f} s, {tokens / max(self.seconds, 1e-9):,.1f} tokens/s"


class Speaker:
    """One model. `talk` is None where it has no chat format and goes on with text."""

    def __init__(self, engine: "Engine", name: str, system: str | None, path: Path | None = None) -> None:
        self.engine, self.name, self.path = engine, name, path
        self.talk: Conversation | None = engine.conversation(system) if engine.chats else None
        self._replies = 0

    @property
    def talk_or_raise(self) -> "Conversation":
        """The conversation; raises PunaError where the model keeps none."""
        if self.talk is None:
            raise PunaError("this model goes on with text and keeps no conversation")
        return self.talk

    def ids(self, text: str, reserve: int) -> tuple[list[int], int]:
        """The prompt's ids, and how many of the oldest turns were let go for it.

        In a conversation the text becomes its next turn, or is taken back where it cannot.
        """
        if self.talk is None:
            return self.engine.begin(text), 0
        self.talk.say("user", text)
        try:
            return self.talk.prompt(reserve)
        except PunaError:
            self.talk.unsay()
            raise

    def make(
        self, ids: list[int], sampling: "Sampling", show: Callable[[str], None], key: StopKey | None = None
    ) -> Made:
        """Make a reply, shown piece by piece. Ends early, with what there is, where `key` is pressed."""
        from puna.engine import Completion

        if sampling.seed is not None:  # a new draw for each reply, and still a function of the seed
            sampling = replace(sampling, seed=(sampling.seed + self._replies) % 2**63)
        self._replies += 1
        began = time.perf_counter()
        made = Completion()
        for step in self.engine.generate([ids], sampling):
            show(step.text)
            made.add(step)
            if key is not None and key.pressed:
                break
        return Made(made, len(ids), time.perf_counter() - began)

    def keep(self, reply: str) -> None:
        """The reply becomes the conversation's next turn."""
        if self.talk is not None:
            self.talk.say("assistant", reply)

    def mark(self) -> Callable[[], None]:
        """What takes the conversation back to where it is now."""
        talk = self.talk
        turns, gone = (list(talk.turns), list(talk.gone)) if talk is not None else ([], [])

        def back() -> None:
            if talk is not None:
                talk.turns, talk.gone = turns, gone

        return back
