"""How progress looks: a moving bar on a terminal, plain lines in a log. Always on stderr."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from puna.progress import Progress, clock

LOG_EVERY = 15.0  # seconds between a log's lines


@contextmanager
def terminal_progress() -> Iterator[Progress]:
    """A bar where stderr is a terminal, else lines."""
    if not sys.stderr.isatty():
        yield Lines()
        return
    bar = Bar()
    try:
        yield bar
    finally:
        bar.finish()


class _Clock:
    """Rate and time left of one task, from the work done since it began (or was resumed)."""

    def __init__(self) -> None:
        self.title, self.total, self.unit = "", None, ""
        self.begin = self.first = 0.0

    title: str
    total: float | None
    unit: str

    def start(self, title: str, total: float | None, unit: str) -> None:
        self.title, self.total, self.unit = title, total, unit
        self.begin, self.first = time.monotonic(), -1.0

    def facts(self, done: float, given: dict[str, str]) -> dict[str, str]:
        """The facts to show: those given, and rate and time left where the giver does not say them."""
        if self.first < 0:
            self.first = done
        elapsed = time.monotonic() - self.begin
        rate = (done - self.first) / elapsed if elapsed > 0.5 else 0.0
        shown = dict(given)
        if rate > 0 and "speed" not in shown:
            shown["rate"] = f"{_short(rate)} {self.unit}/s".replace(" /", "/")
        if rate > 0 and self.total and "left" not in shown:
            shown["left"] = clock((self.total - done) / rate)
        return shown


def _short(value: float) -> str:
    for bound, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= bound:
            return f"{value / bound:.1f}{suffix}"
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}"


class Lines(_Clock):
    """Plain lines for a log: one at a task's start, then one every `LOG_EVERY` seconds."""

    def start(self, title: str, total: float | None = None, unit: str = "") -> None:
        super().start(title, total, unit)
        self.last = time.monotonic()

    def update(self, done: float, **facts: str) -> None:
        shown = self.facts(done, facts)
        if time.monotonic() - self.last < LOG_EVERY:
            return
        self.last = time.monotonic()
        share = f"{done / self.total:4.0%} " if self.total else f"{_short(done)} {self.unit} "
        self.note(f"  {self.title}: {share}" + "  ".join(f"{key} {value}" for key, value in shown.items()))

    def note(self, line: str) -> None:
        sys.stderr.write(line + "\n")
        sys.stderr.flush()

    def finish(self) -> None:
        pass


class Bar(_Clock):
    """One line that moves, redrawn at most ten times a second; notes stay above it."""

    def __init__(self) -> None:
        super().__init__()
        self.drawn = 0.0
        self.open = False

    def start(self, title: str, total: float | None = None, unit: str = "") -> None:
        self.finish()
        super().start(title, total, unit)
        self.drawn, self.open = 0.0, True

    def update(self, done: float, **facts: str) -> None:
        shown = self.facts(done, facts)
        if time.monotonic() - self.drawn < 0.1 and done != self.total:
            return
        self.drawn = time.monotonic()
        text = "  ".join(f"{key} {value}" for key, value in shown.items())
        if self.total:
            filled = int(16 * min(1.0, done / self.total))
            head = f"  {self.title} [{'#' * filled}{'.' * (16 - filled)}] {done / self.total:4.0%} "
        else:
            head = f"  {self.title} {_short(done)} {self.unit} "
        self._draw((head + text)[: _width() - 1])

    def note(self, line: str) -> None:
        self._draw("")
        sys.stderr.write(line + "\n")
        sys.stderr.flush()

    def finish(self) -> None:
        if self.open:
            self._draw("")
            self.open = False

    def _draw(self, line: str) -> None:
        sys.stderr.write("\r\x1b[K" + line)
        sys.stderr.flush()


def _width() -> int:
    import shutil

    return shutil.get_terminal_size((80, 24)).columns
