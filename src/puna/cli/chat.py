"""`puna chat`: one prompt and its reply, or a conversation in the terminal.

In: the verb's arguments and what is typed. Out: replies on stdout as they are made; everything else is a notice.
Must never happen: a notice stands in the one-shot reply, Ctrl-C loses the conversation, or a model's control
characters reach the terminal.

The parts are in `cli/chatting/`: screen (with blocks, markdown, region), lines (with history), speaker, session, commands.
"""

import json as json_
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from puna.cli.chatting.commands import Leave, completions, obey
from puna.cli.chatting.history import History, state_file
from puna.cli.chatting.lines import EditedLines, Lines, PlainLines, StopKey, quiet_terminal
from puna.cli.chatting.screen import Screen
from puna.errors import PunaError

if TYPE_CHECKING:  # the engine brings torch: it is loaded when the verb runs, not when the command line starts
    from puna.cli.chatting.speaker import Made, Speaker
    from puna.engine import Engine, Sampling


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
    session: Path | None = None,
    plain: bool = False,
    history: bool = True,
) -> None:
    """Answer `prompt` on stdout, or hold a conversation where there is none.

    `session`: a file that keeps the conversation. `plain`: replies as they are, without Markdown. `history`: keep what is typed.
    Raises PunaError for every mistake of the user's: no such model, a value out of range, a prompt too long.
    """
    if json and prompt is None:
        raise PunaError("--json needs one prompt", where="chat", mend="give it with -p PROMPT")
    if prompt is not None and not prompt.strip():
        raise PunaError("the prompt is empty", where="chat", mend="give some text after -p")
    screen = Screen(sys.stdout, sys.stderr, plain)
    typed = prompt is None and sys.stdin.isatty() and screen.edits
    with quiet_terminal() if typed else nullcontext():  # from here on: what is typed while the model loads is not lost
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
        chat = Chat(Engine.load(folder), sampling, screen, _whole(system), name=model, path=folder, runs=runs)
        chat.keep_in(session)
        if prompt is None:
            chat.converse(history)
        else:
            chat.once(_whole(prompt), as_json=json)


def _whole(text: Any) -> Any:
    """Typed text as Unicode that can be encoded: bytes that the terminal could not decode become U+FFFD."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace") if text is not None else None


class Chat:
    """One screen, one conversation, and the model or models that answer."""

    def __init__(
        self, engine: "Engine", sampling: "Sampling", screen: Screen, system: str | None, name: str,
        path: Path | None = None, runs: Path = Path("runs"),
    ) -> None:  # fmt: skip
        from puna.cli.chatting.session import Session
        from puna.cli.chatting.speaker import Speaker

        self.sampling, self.screen, self.runs = sampling, screen, runs
        self.speakers: list[Speaker] = [Speaker(engine, name, system, path)]
        self.session = Session()
        self.lines: Lines = PlainLines()
        self.given = ""  # what stands in the next line already
        self.shows_speed = False
        self._last = ""  # the last message: what a model without conversation is asked again
        self._interrupts = 0
        if self.first.talk is None and system is not None:
            raise PunaError("the model has no chat format, so it takes no system text", where=name)

    @property
    def first(self) -> "Speaker":
        """The model that the verb was called with."""
        return self.speakers[0]

    def keep_in(self, path: Path | None) -> None:
        """Go on with the conversation in `path`, where it is, and keep it there. Raises PunaError as `Session.begin`."""
        from puna.cli.chatting.session import Session

        if path is not None:
            session = Session(path)
            if session.begin(self.first.talk_or_raise) and sys.stdin.isatty():
                self.screen.warn(f"[goes on from {path}]")
            self.session = session

    def load(self, model: str) -> "Speaker":
        """A second model, with the first one's system text. Raises PunaError where it cannot be loaded."""
        from puna.cli.chatting.speaker import Speaker
        from puna.engine import Engine, resolve_model

        folder = resolve_model(model, self.runs)
        system = self.first.talk.system if self.first.talk is not None else None
        return Speaker(Engine.load(folder), model, system, folder)

    def names(self) -> list[str]:
        """The runs that have a release."""
        return sorted(path.parent.parent.name for path in self.runs.glob("*/release/config.json"))

    # One shot

    def once(self, prompt: str, as_json: bool) -> None:
        """Answer one prompt: the reply alone on stdout, or one JSON object."""
        ids = self._ids(self.first, prompt)
        if as_json:
            made = self.first.make(ids, self.sampling, lambda text: None)
            print(json_.dumps(self._record(prompt, made), ensure_ascii=False))
        else:
            made = self._shown(self.first, ids)
        self.first.keep(made.reply.text)
        self.session.keep(self.first.talk)

    def _record(self, prompt: str, made: "Made") -> dict[str, Any]:
        return {
            "model": self.first.name,
            "chat": self.first.engine.chats,
            "prompt": prompt,
            "reply": made.reply.text,
            "finish_reason": made.reply.finish_reason,
            "prompt_tokens": made.prompt_tokens,
            "reply_tokens": len(made.reply.ids),
            "seconds": round(made.seconds, 4),
            "sampling": asdict(self.sampling) | {"stop": list(self.sampling.stop)},
        }

    # Conversation

    def converse(self, history: bool = False) -> None:
        """Read, answer, print, until the user leaves. `history`: keep what is typed for the next time."""
        with self._typing(history):
            while (line := self._read()) is not None:
                text = _whole(line).strip()
                try:
                    if text.startswith("/"):
                        obey(self, text)
                    elif text:
                        self._answer(text)
                except Leave:
                    return
                except PunaError as error:
                    self.screen.say(f"[{error.line()}]")
                except KeyboardInterrupt:
                    self.screen.line_end()

    @contextmanager
    def _typing(self, history: bool) -> Iterator[None]:
        """Open the place where messages are typed: an editor where both ends are a terminal that can draw."""
        if not sys.stdin.isatty():
            yield
            return
        size = self.first.engine.config.parameters / 1e6
        self.screen.say(f"{self.first.name}: {size:,.1f} M parameters, context {self.first.engine.context} tokens.")
        if self.first.talk is None:
            self.screen.say("It was not taught to converse: it goes on with the text you type.")
        self.screen.say("/help lists what you can type; Ctrl-C stops a reply.")
        if not self.screen.edits:
            try:
                import readline  # noqa: F401  line editing and recall in input(), where the system has it
            except ImportError:
                self.screen.say("[no readline here: lines cannot be recalled]")
            yield
            return
        kept = self._history() if history else None
        self.lines = EditedLines(kept, lambda before: list(completions(self, before)), self._notice)
        yield

    def _history(self) -> History | None:
        try:
            kept = History(state_file())
        except PunaError as error:
            self._notice(error.line())
            return None
        if kept.notice:
            self._notice(kept.notice)
        return kept

    def _notice(self, text: str) -> None:
        self.screen.say(f"[{text}]")

    def _read(self) -> str | None:
        """The next line; None where the user leaves."""
        while True:
            given, self.given = self.given, ""
            try:
                return self.lines.read(given)
            except EOFError:
                if sys.stdin.isatty():
                    self.screen.line_end()
                return None
            except KeyboardInterrupt:
                if not self.lines.edits:  # the editor has ended its line itself
                    self.screen.line_end()
                self._interrupts = 0 if self.lines.typed() else self._interrupts + 1
                if self._interrupts > 1:
                    return None
                if self._interrupts:
                    self.screen.say("[Ctrl-C again, or /quit, to leave]")

    def _answer(self, text: str) -> None:
        """Every model's reply to a message; a model that cannot answer leaves its conversation as it was, and says why."""
        self._last, self._interrupts = text, 0
        for speaker in self.speakers:
            if len(self.speakers) > 1:
                self.screen.head(speaker.name)
            if not self._reply(speaker, text):
                break
        self.session.keep(self.first.talk)

    def _reply(self, speaker: "Speaker", text: str) -> bool:
        """One model's reply; False where it was stopped."""
        back = speaker.mark()
        try:
            ids = self._ids(speaker, text)
        except PunaError as error:
            self._notice(error.line())
            return True
        key = StopKey()
        try:
            with key.listening():
                made = self._shown(speaker, ids, key)
        except KeyboardInterrupt:
            back()
            raise
        if key.pressed:
            self.screen.say("[stopped]")
        elif made.reply.finish_reason == "length":
            self._notice(self._why_cut(speaker, len(made.reply.ids)))
        if self.shows_speed or len(self.speakers) > 1:
            self._notice(made.speed)
        if key.pressed and not made.reply.text:
            back()
        else:
            speaker.keep(made.reply.text)
        return not key.pressed

    def _why_cut(self, speaker: "Speaker", tokens: int) -> str:
        if tokens >= self.sampling.max_tokens:
            return f"cut after {tokens} tokens; --max-tokens sets this"
        return f"cut: the model's context of {speaker.engine.context} tokens is full"

    def take_back(self) -> str:
        """Take the last message and its replies back; returns it. Raises PunaError where nothing was said."""
        text = self.first.talk.take_back() if self.first.talk is not None else self._last
        if not text:
            raise PunaError("nothing was said yet")
        for speaker in self.speakers[1:]:
            if speaker.talk is not None and any(
                turn == {"role": "user", "content": text} for turn in speaker.talk.turns[-2:]
            ):
                speaker.talk.take_back()
        return text

    def again(self) -> None:
        """Answer the last message anew. Where that is stopped before it has begun, the old reply stays."""
        marks = [(speaker, speaker.mark()) for speaker in self.speakers]
        text = self.take_back()
        try:
            self._answer(text)
        finally:
            for speaker, back in marks:
                if speaker.talk is not None and not _answered(speaker.talk.turns, text):
                    back()

    # Both

    def _ids(self, speaker: "Speaker", text: str) -> list[int]:
        ids, dropped = speaker.ids(text, self.sampling.max_tokens)
        if dropped:
            self.screen.say(f"[context full: the {dropped} oldest messages are forgotten]")
        return ids

    def _shown(self, speaker: "Speaker", ids: list[int], key: StopKey | None = None) -> "Made":
        """Make a reply on the screen; one that never began leaves nothing there."""
        shown = self.screen.open()
        began = False

        def show(text: str) -> None:
            nonlocal began
            began = True
            shown.add(text)

        try:
            made = speaker.make(ids, self.sampling, show, key)
        except BaseException:
            if began:
                shown.close()
            raise
        shown.close()
        return made


def _answered(turns: list[dict[str, str]], text: str) -> bool:
    return [turn["role"] for turn in turns[-2:]] == ["user", "assistant"] and turns[-2]["content"] == text
