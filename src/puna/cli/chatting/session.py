"""A conversation that goes on where it was left: one file, written after each reply.

In: a file's name. Out: the conversation that it holds, and the file kept up with it. Must never happen: a file that is no
conversation of ours is written over, or a reply that was given is missing in the file after a kill.
"""

from pathlib import Path

from puna.engine.chat import Conversation
from puna.errors import PunaError


class Session:
    """The file of a session; None keeps nothing."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path

    def begin(self, talk: Conversation) -> int:
        """Load the file where there is one; returns how many turns it holds.

        Raises PunaError for a file that is damaged or another's, and for a folder that is not there.
        """
        if self.path is None:
            return 0
        if not self.path.exists():
            if not self.path.parent.is_dir():
                raise PunaError("there is no such folder", where=str(self.path.parent))
            return 0
        system = talk.system
        talk.load(self.path)
        if not talk.owns(self.path):
            raise PunaError(
                "holds more than a conversation, which would be lost",
                where=str(self.path),
                mend="start without it, and /load it",
            )
        talk.system = system or talk.system
        return len(talk.turns)

    def keep(self, talk: Conversation | None) -> None:
        """Write the conversation, after a turn. Raises PunaError where that fails."""
        if self.path is not None and talk is not None and talk.turns:
            talk.save(self.path)

    def end(self) -> str:
        """Write no more; returns what to say of it."""
        said = f"{self.path} is written no more" if self.path is not None else ""
        self.path = None
        return said

    @property
    def next_writes(self) -> str:
        """What to add to a notice that all is forgotten."""
        return f"; the next reply replaces what {self.path} holds" if self.path is not None else ""
