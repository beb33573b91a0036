"""`puna chat`: one prompt and its reply, or a conversation in the terminal.

In: the verb's arguments and what is typed. Out: replies on stdout as they are made; everything else is a notice.
Must never happen: a notice stands in the one-shot reply, Ctrl-C loses the conversation, or a model's control
characters reach the terminal.
"""

import json as json_
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, TextIO

from puna.errors import PunaError

if TYPE_CHECKING:  # the engine brings torch: it is loaded when the verb runs, not when the command line starts
    from puna.engine import Completion, Conversation, Engine, Sampling

PROMPT = "> "
HELP = """\
Type a message and press Enter. What else you can type:
  /reset        forget the conversation (the system text stays)
  /system TEXT  set the system text and start anew; without TEXT, take it away
  /save FILE    write the conversation as JSON
  /help         this list
  /quit         leave (so does Ctrl-D)
Ctrl-C stops a reply. At an empty prompt, Ctrl-C twice leaves."""


def run_chat(
    model: str,
    prompt: str | None = None,
    system: str | None = None,
    temperature: float = 0.7,
    max_tokens: int = 256,
    top_p: float = 0.95,
    top_k: int = 0,
    min_p: float = 0.0,
    repetition_penalty: float = 1.0,
    stop: list[str] | tuple[str, ...] = (),
    seed: int | None = None,
    json: bool = False,
    runs: Path = Path("runs"),
) -> None:
    """Answer `prompt` on stdout, or hold a conversation where there is none.

    Raises PunaError for every mistake of the user's: no such model, a value out of range, a prompt too long.
    """
    if json and prompt is None:
        raise PunaError("--json needs one prompt", where="chat", mend="give it with -p PROMPT")
    if prompt is not None and not prompt.strip():
        raise PunaError("the prompt is empty", where="chat", mend="give some text after -p")
    from puna.engine import Engine, Sampling, resolve_model

    sampling = Sampling(
        max_tokens=max_tokens,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        stop=[_whole(text) for text in stop],
        seed=seed,
    )
    folder = resolve_model(model, runs)
    chat = Chat(Engine.load(folder), sampling, Screen(sys.stdout, sys.stderr), _whole(system), name=model)
    if prompt is None:
        chat.converse()
    else:
        chat.once(_whole(prompt), as_json=json)


def _whole(text: Any) -> Any:
    """Typed text as Unicode that can be encoded: bytes that the terminal could not decode become U+FFFD."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace") if text is not None else None


class Screen:
    """Where replies and notices go. On a terminal notices are dim and control characters are made visible."""

    def __init__(self, out: TextIO, notes: TextIO) -> None:
        self._out, self._notes = out, notes
        self.terminal = out.isatty()
        plain = "NO_COLOR" in os.environ or os.environ.get("TERM", "dumb") == "dumb"
        self._dim, self._end = ("\x1b[2m", "\x1b[0m") if self.terminal and not plain else ("", "")

    def reply(self, text: str) -> None:
        """Show a piece of a reply at once."""
        if text:
            self._out.write(_visible(text) if self.terminal else text)
            self._out.flush()

    def line_end(self) -> None:
        """End the reply's line."""
        self.reply("\n")

    def say(self, text: str) -> None:
        """A notice within the conversation."""
        self._out.write(f"{self._dim}{text}{self._end}\n")
        self._out.flush()

    def warn(self, text: str) -> None:
        """A notice beside a reply that must stand alone on stdout."""
        self._notes.write(f"{text}\n")
        self._notes.flush()


def _visible(text: str) -> str:
    """Control characters as their pictures (U+2400...), so that a reply cannot steer the terminal."""
    return "".join(_picture(letter) for letter in text)


def _picture(letter: str) -> str:
    code = ord(letter)
    if letter in "\n\t":
        return letter
    if code < 0x20:
        return chr(0x2400 + code)
    return "\ufffd" if 0x7F <= code < 0xA0 else letter


class StopKey:
    """Ctrl-C while a reply is made: the first asks for its end, a second one breaks in at once."""

    def __init__(self) -> None:
        self.pressed = False

    def _press(self, _signal: int, _frame: FrameType | None) -> None:
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


class Chat:
    """One model, one screen, one conversation."""

    def __init__(self, engine: "Engine", sampling: "Sampling", screen: Screen, system: str | None, name: str) -> None:
        self.engine, self.sampling, self.screen, self.name = engine, sampling, screen, name
        self._replies = 0
        self._interrupts = 0
        self._talk = engine.conversation(system) if engine.chats else None
        if self._talk is None and system is not None:
            raise PunaError("the model has no chat format, so it takes no system text", where=name)

    # One shot

    def once(self, prompt: str, as_json: bool) -> None:
        """Answer one prompt: the reply alone on stdout, or one JSON object."""
        ids = self._ids(prompt)
        began = time.perf_counter()
        show = (lambda text: None) if as_json else self.screen.reply
        made = self._make(ids, show)
        seconds = time.perf_counter() - began
        if as_json:
            print(json_.dumps(self._record(prompt, ids, made, seconds), ensure_ascii=False))
        elif not made.text.endswith("\n"):
            self.screen.line_end()

    def _record(self, prompt: str, ids: list[int], made: "Completion", seconds: float) -> dict[str, Any]:
        sampling = asdict(self.sampling)
        return {
            "model": self.name,
            "chat": self.engine.chats,
            "prompt": prompt,
            "reply": made.text,
            "finish_reason": made.finish_reason,
            "prompt_tokens": len(ids),
            "reply_tokens": len(made.ids),
            "seconds": round(seconds, 4),
            "sampling": sampling | {"stop": list(self.sampling.stop)},
        }

    # Conversation

    def converse(self) -> None:
        """Read, answer, print, until the user leaves."""
        if sys.stdin.isatty():
            self._greet()
        while (line := self._read()) is not None:
            text = _whole(line).strip()
            try:
                if text.startswith("/"):
                    if not self._command(text):
                        return
                elif text:
                    self._answer(text)
            except PunaError as error:
                self.screen.say(f"[{error.line()}]")
            except KeyboardInterrupt:
                self.screen.line_end()

    def _greet(self) -> None:
        try:
            import readline  # noqa: F401  line editing and recall in input(), where the system has it
        except ImportError:
            self.screen.say("[no readline here: lines cannot be recalled]")
        size = self.engine.config.parameters / 1e6
        self.screen.say(f"{self.name}: {size:,.1f} M parameters, context {self.engine.context} tokens.")
        if self._talk is None:
            self.screen.say("It was not taught to converse: it goes on with the text you type.")
        self.screen.say("/help lists what you can type; Ctrl-C stops a reply.")

    def _read(self) -> str | None:
        """The next line; None where the user leaves."""
        while True:
            try:
                return input(PROMPT if sys.stdin.isatty() else "")
            except EOFError:
                if sys.stdin.isatty():
                    self.screen.line_end()
                return None
            except KeyboardInterrupt:
                self.screen.line_end()
                self._interrupts = 0 if _typed() else self._interrupts + 1
                if self._interrupts > 1:
                    return None
                if self._interrupts:
                    self.screen.say("[Ctrl-C again, or /quit, to leave]")

    def _command(self, line: str) -> bool:
        """Obey a line that begins with a slash; False where the user leaves."""
        word, _, rest = line.partition(" ")
        rest = rest.strip()
        if word in ("/quit", "/exit"):
            return False
        if word == "/help":
            self.screen.say(HELP)
        elif word == "/reset":
            self._talk_or_raise().reset()
            self.screen.say("[the conversation starts anew]")
        elif word == "/system":
            talk = self._talk_or_raise()
            talk.system = rest or None
            talk.reset()
            self.screen.say("[system text set; the conversation starts anew]" if rest else "[no system text now]")
        elif word == "/save":
            if not rest:
                raise PunaError("/save needs a file name", mend="for example: /save talk.jsonl")
            self._talk_or_raise().save(Path(rest).expanduser())
            self.screen.say(f"[saved to {rest}]")
        else:
            self.screen.say(f"[{word} is not known; /help lists what you can type]")
        return True

    def _talk_or_raise(self) -> "Conversation":
        if self._talk is None:
            raise PunaError("this model goes on with text and keeps no conversation")
        return self._talk

    def _answer(self, text: str) -> None:
        self._interrupts = 0
        ids = self._ids(text)
        key = StopKey()
        with key.listening():
            made = self._make(ids, self.screen.reply, key)
        if not made.text.endswith("\n"):
            self.screen.line_end()
        if key.pressed:
            self.screen.say("[stopped]")
        elif made.finish_reason == "length":
            self.screen.say(f"[{self._why_cut(len(made.ids))}]")
        if self._talk is None:
            return
        if key.pressed and not made.text:
            self._talk.unsay()
        else:
            self._talk.say("assistant", made.text)

    def _why_cut(self, tokens: int) -> str:
        if tokens >= self.sampling.max_tokens:
            return f"cut after {tokens} tokens; --max-tokens sets this"
        return f"cut: the model's context of {self.engine.context} tokens is full"

    # Both

    def _ids(self, text: str) -> list[int]:
        """The prompt's ids; in a conversation the text becomes its next turn, or is taken back where it cannot."""
        if self._talk is None:
            return self.engine.begin(text)
        self._talk.say("user", text)
        try:
            ids, dropped = self._talk.prompt(self.sampling.max_tokens)
        except PunaError:
            self._talk.unsay()
            raise
        if dropped:
            self.screen.say(f"[context full: the {dropped} oldest messages are forgotten]")
        return ids

    def _make(self, ids: list[int], show: Any, key: StopKey | None = None) -> "Completion":
        """Make a reply, shown piece by piece. Ends early, with what there is, where `key` is pressed."""
        from puna.engine import Completion

        sampling = self.sampling
        if sampling.seed is not None:  # a new draw for each reply, and still a function of the seed
            sampling = replace(sampling, seed=(sampling.seed + self._replies) % 2**63)
        self._replies += 1
        made = Completion()
        for step in self.engine.generate([ids], sampling):
            show(step.text)
            made.add(step)
            if key is not None and key.pressed:
                break
        return made


def _typed() -> str:
    """What stood on the line when Ctrl-C came, as far as the system can tell."""
    readline = sys.modules.get("readline")
    return readline.get_line_buffer() if readline is not None else ""
