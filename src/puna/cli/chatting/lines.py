"""How a message is typed: in an editor for several lines on a terminal, line by line elsewhere.

In: keys or lines. Out: one message or command at a time.
Must never happen: pasted text sends itself, a key that was pressed while a reply was made is lost, or the terminal is left
in another mode than it was found in.
"""

import os
import signal
import sys
import termios
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from puna.cli.chatting.history import History
from puna.errors import PunaError

PROMPT, MORE = "> ", "  "
Complete = Callable[[str], list[tuple[str, int]]]
"""From the text before the cursor to what could follow: (text, how many characters of it stand there already)."""


class Lines(Protocol):
    """Where messages come from."""

    edits: bool  # whether a text can be given to go on from

    def read(self, given: str = "") -> str:
        """The next message; `given` stands in the line already. Raises EOFError at the end, KeyboardInterrupt at Ctrl-C."""

    def typed(self) -> str:
        """What stood on the line when Ctrl-C came, as far as the system can tell."""


class PlainLines:
    """One line a message, as Python's input() reads it."""

    edits = False

    def read(self, given: str = "") -> str:
        """The next line."""
        return input(PROMPT if sys.stdin.isatty() else "")

    def typed(self) -> str:
        """What readline holds, where the system has it."""
        readline = sys.modules.get("readline")
        return readline.get_line_buffer() if readline is not None else ""


class EditedLines:
    """Several lines a message: Enter sends; Alt+Enter, Ctrl+J or a backslash at the line's end begin a new one."""

    edits = True

    def __init__(self, history: History | None, complete: Complete, warn: Callable[[str], None]) -> None:
        from prompt_toolkit import PromptSession
        from prompt_toolkit.output.vt100 import Vt100_Output
        from prompt_toolkit.shortcuts import CompleteStyle

        output = Vt100_Output.from_pty(sys.stdout, term=os.environ.get("TERM"))
        # Never ask the terminal where the cursor is: the answer comes as keys, and may come while a reply is made.
        output.enable_cpr = False
        self._session: PromptSession[str] = PromptSession(
            PROMPT, multiline=True, prompt_continuation=MORE, key_bindings=_keys(), history=_recall(history, warn),
            completer=_completer(complete), complete_while_typing=False, complete_style=CompleteStyle.READLINE_LIKE,
            search_ignore_case=True, include_default_pygments_style=False, output=output,
        )  # fmt: skip

    def read(self, given: str = "") -> str:
        """The next message."""
        return self._session.prompt(default=given)

    def typed(self) -> str:
        """What was typed before Ctrl-C."""
        return self._session.default_buffer.text


def _keys() -> Any:
    from prompt_toolkit.enums import DEFAULT_BUFFER
    from prompt_toolkit.filters import has_focus
    from prompt_toolkit.key_binding import KeyBindings

    keys = KeyBindings()
    typing = has_focus(DEFAULT_BUFFER)  # not while searching, where Enter takes what was found

    @keys.add("enter", filter=typing)
    def _send(event: Any) -> None:
        buffer = event.current_buffer
        if buffer.document.current_line_before_cursor.endswith("\\") and buffer.document.is_cursor_at_the_end_of_line:
            buffer.delete_before_cursor()
            buffer.insert_text("\n")
        else:
            buffer.validate_and_handle()

    @keys.add("escape", "enter", filter=typing)
    @keys.add("c-j", filter=typing)
    def _line(event: Any) -> None:
        event.current_buffer.insert_text("\n")

    return keys


def _recall(history: History | None, warn: Callable[[str], None]) -> Any:
    from prompt_toolkit.history import InMemoryHistory

    class Kept(InMemoryHistory):
        """The session's, kept in the file as well."""

        def store_string(self, string: str) -> None:
            super().store_string(string)
            if history is not None:
                try:
                    history.add(string)
                except PunaError as error:
                    warn(error.line())

    return Kept(history.entries if history is not None else [])


def _completer(complete: Complete) -> Any:
    from prompt_toolkit.completion import Completer, Completion

    class Commands(Completer):
        def get_completions(self, document: Any, complete_event: Any) -> Iterator[Any]:
            for text, there in complete(document.text_before_cursor):
                yield Completion(text, start_position=-there)

    return Commands()


@contextmanager
def quiet_terminal() -> Iterator[None]:
    """Within the block, keys that are pressed while a reply is made are not shown in it: they wait for the next prompt.

    Ctrl-C goes on to interrupt. A SIGTERM ends the program by way of the block's end, so the terminal is set back.
    """
    before = termios.tcgetattr(sys.stdin)
    mode = termios.tcgetattr(sys.stdin)
    mode[0] &= ~termios.ICRNL  # Enter stays what the editor knows as Enter
    mode[3] &= ~(termios.ECHO | termios.ICANON)
    mode[6][termios.VMIN], mode[6][termios.VTIME] = 1, 0
    ended = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, mode)
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
        signal.signal(signal.SIGTERM, ended)


class StopKey:
    """Ctrl-C while a reply is made: the first asks for its end, a second one breaks in at once."""

    def __init__(self) -> None:
        self.pressed = False

    def _press(self, _signal: int, _frame: Any) -> None:
        if self.pressed:
            raise KeyboardInterrupt
        self.pressed = True

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take SIGINT over within the block."""
        self.pressed = False
        before = signal.signal(signal.SIGINT, self._press)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)
