"""How long work tells of itself. Rooms report through `Progress`; only the command line decides how it looks."""

from typing import Protocol


class Progress(Protocol):
    """One task at a time: `start`, any number of `update`, then `finish`."""

    def start(self, title: str, total: float | None = None, unit: str = "") -> None:
        """Begin a task. `total` is in `unit`; None where the end is not known."""

    def update(self, done: float, **facts: str) -> None:
        """`done` units are finished in all (not since the last call). `facts` are short values to show."""

    def note(self, line: str) -> None:
        """Say one line that stays on the screen and in the log."""

    def finish(self) -> None:
        """End the task."""


class Quiet:
    """Says nothing: for tests and for calls from a program."""

    def start(self, title: str, total: float | None = None, unit: str = "") -> None: ...
    def update(self, done: float, **facts: str) -> None: ...
    def note(self, line: str) -> None: ...
    def finish(self) -> None: ...


QUIET = Quiet()


def clock(seconds: float) -> str:
    """Seconds for people: 0:07, 12:30, 3:04:05."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
