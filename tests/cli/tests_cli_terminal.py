"""A terminal for tests: a program behind a pseudo-terminal, and the picture that a terminal would show of what it wrote.

The picture knows the control sequences that Puna and prompt_toolkit send, and no others: an unknown one, from a model's reply
for example, fails the test.
"""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import sys
import tempfile
import termios
import time
from pathlib import Path

from wcwidth import wcwidth

SOURCE = str(Path(__file__).parents[2] / "src")
ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS", "LINES")},
    "PYTHONPATH": SOURCE, "OMP_NUM_THREADS": "1", "TERM": "xterm", "PYTHONUTF8": "1", "XDG_STATE_HOME": tempfile.mkdtemp(),
}  # fmt: skip
START = "import sys; from puna.cli.chat import run_chat; run_chat({arguments})"
_SEQUENCE = re.compile(r"\x1b(?:\[([?0-9;]*)([A-Za-z])|(.?))|.", re.DOTALL)


class Picture:
    """Rows of a terminal of `columns` x `lines`, with what has scrolled away above. `rows()` is all of it."""

    def __init__(self, columns: int = 80, lines: int = 24) -> None:
        self.columns, self.lines = columns, lines
        self._rows: list[list[str]] = [[]]
        self._row = self._column = 0
        self._wraps = True

    def feed(self, text: str) -> "Picture":
        for found in _SEQUENCE.finditer(text):
            if found[2]:
                self._control(found[1], found[2])
            elif found[0].startswith("\x1b"):
                raise AssertionError(
                    f"no such sequence: {found[0]!r} in {text[max(0, found.start() - 40) : found.end() + 20]!r}"
                )
            else:
                self._letter(found[0])
        return self

    def rows(self) -> list[str]:
        return ["".join(row).rstrip() for row in self._rows]

    def __str__(self) -> str:
        return "\n".join(self.rows()).rstrip()

    def _top(self) -> int:
        return max(0, len(self._rows) - self.lines)

    def _control(self, given: str, kind: str) -> None:
        if kind == "m" or (given.startswith("?") and kind in "hl"):
            self._wraps = (kind == "h") if given == "?7" else self._wraps
            return
        count = int(given or 1)
        self._column = min(self._column, self.columns - 1)
        if kind == "A":
            self._row = max(self._top(), self._row - count)
        elif kind == "B":
            self._row = min(len(self._rows) - 1, self._row + count)
        elif kind == "C":
            self._column = min(self.columns - 1, self._column + count)
        elif kind == "D":
            self._column = max(0, self._column - count)
        elif kind == "K" and not given:
            del self._rows[self._row][self._column :]
        elif kind == "J" and not given:
            del self._rows[self._row][self._column :]
            for row in self._rows[self._row + 1 :]:
                row.clear()
        else:
            raise AssertionError(f"no such sequence: {given}{kind}")

    def _letter(self, letter: str) -> None:
        if letter == "\r":
            self._column = 0
        elif letter == "\n":
            self._row += 1
            if self._row == len(self._rows):
                self._rows.append([])
        elif letter == "\b":
            self._column = max(0, self._column - 1)
        elif letter == "\x07":
            pass  # the editor's own bell
        else:
            self._put(letter, wcwidth(letter))

    def _put(self, letter: str, width: int) -> None:
        assert width >= 0, f"a control character: {letter!r}"
        if width == 0:
            return
        if self._column + width > self.columns:
            if not self._wraps:
                self._column = self.columns - width
            else:
                self._letter("\r")
                self._letter("\n")
        row = self._rows[self._row]
        row.extend(" " * (self._column + width - len(row)))
        row[self._column : self._column + width] = [letter, *[""] * (width - 1)]
        self._column += width


class Terminal:
    """A conversation in a child process behind a pseudo-terminal, where Ctrl-C is a key as any other."""

    def __init__(
        self, arguments: str, folder: Path, size: tuple[int, int] = (80, 24), program: str = START, **environment: str
    ) -> None:
        self.size = size
        pid, self._fd = pty.fork()
        if pid == 0:  # the child: its standard streams are the terminal
            os.chdir(folder)
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", size[1], size[0], 0, 0))
            code = program.format(arguments=arguments)
            os.execve(sys.executable, [sys.executable, "-c", code], {**ENVIRONMENT, **environment})
        self._pid, self.seen, self._read_to = pid, "", 0

    def type(self, keys: str) -> None:
        """Keys as a terminal sends them: Enter is a carriage return."""
        os.write(self._fd, keys.replace("\n", "\r").encode())

    def raw(self, sent: bytes) -> None:
        """Bytes as they are: Ctrl+J is one."""
        os.write(self._fd, sent)

    def paste(self, text: str) -> None:
        """What a terminal sends where text is pasted (bracketed paste)."""
        os.write(self._fd, b"\x1b[200~" + text.replace("\n", "\r").encode() + b"\x1b[201~")

    def press(self, key: str) -> None:
        """A control key at the prompt, after a person's pause: while a prompt is being set up, the line editor changes the
        terminal's mode, and a key or its signal that comes in that moment is lost."""
        self.prompt()
        time.sleep(0.5)
        self.type(key)

    def prompt(self) -> str:
        """Read until the next prompt stands there; returns what came before it. The editor asks for marked pastes first."""
        return self.wait_for(r"\x1b\[\?2004h[^>]*>")

    def wait_for(self, pattern: str, seconds: float = 60.0) -> str:
        """Read until `pattern` stands in what came after the last match; returns what stood before it."""
        deadline = time.monotonic() + seconds
        while True:
            fresh = self.seen[self._read_to :]
            if found := re.search(pattern, fresh):
                self._read_to += found.end()
                return fresh[: found.start()]
            assert time.monotonic() < deadline, f"{pattern!r} did not come; came: {fresh[-500:]!r}"
            if not select.select([self._fd], [], [], 0.2)[0]:
                continue
            try:
                self.seen += os.read(self._fd, 65536).decode(errors="replace")
            except OSError:  # Linux says so when the child has closed its end
                raise AssertionError(f"the program ended; {pattern!r} did not come; came: {fresh[-500:]!r}") from None

    def resize(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def picture(self) -> str:
        """What the terminal shows, with what has scrolled away."""
        return str(Picture(*self.size).feed(self.seen))

    @property
    def modes(self) -> tuple[bool, bool, bool]:
        """Whether the terminal echoes, waits for whole lines, and turns Enter into a line end."""
        mode = termios.tcgetattr(self._fd)
        return bool(mode[3] & termios.ECHO), bool(mode[3] & termios.ICANON), bool(mode[0] & termios.ICRNL)

    def signal(self, number: int) -> None:
        os.kill(self._pid, number)

    def ended(self, seconds: float = 30.0) -> int:
        """The exit status; fails where the program goes on."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            pid, status = os.waitpid(self._pid, os.WNOHANG)
            if pid:
                self._pid = 0
                return os.waitstatus_to_exitcode(status)
            if select.select([self._fd], [], [], 0.05)[0]:
                try:
                    self.seen += os.read(self._fd, 65536).decode(errors="replace")
                except OSError:
                    continue
        raise AssertionError("the program did not end")

    def close(self) -> None:
        if self._pid:
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
        os.close(self._fd)
