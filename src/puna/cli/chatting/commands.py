"""What can be typed besides messages: the lines that begin with a slash.

In: a line. Out: what it changes in the talk, and a notice. Must never happen: a command that is listed and does nothing, one
that works and is not listed, or a mistake that loses the conversation.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from puna.errors import PunaError

if TYPE_CHECKING:
    from puna.cli.chat import Chat

_WHOLE = ("max_tokens", "top_k", "seed")
_PARTS = ("temperature", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty")
KEYS = (*_WHOLE, *_PARTS, "stop")


class Leave(Exception):
    """The user leaves."""


@dataclass(frozen=True)
class Command:
    """`shown`: how it is listed. `paths`, `choices`: what Tab offers after it."""

    shown: str
    says: str
    run: Callable[["Chat", str], None]
    paths: bool = False
    choices: Callable[["Chat"], list[str]] | None = None


def _reset(chat: "Chat", rest: str) -> None:
    chat.first.talk_or_raise.reset()
    for speaker in chat.speakers[1:]:
        if speaker.talk is not None:
            speaker.talk.reset()
    chat.screen.say(f"[the conversation starts anew{chat.session.next_writes}]")


def _system(chat: "Chat", rest: str) -> None:
    talk = chat.first.talk_or_raise
    for one in (talk, *[speaker.talk for speaker in chat.speakers[1:] if speaker.talk is not None]):
        one.system = rest or None
        one.reset()
    what = "system text set; the conversation starts anew" if rest else "no system text now"
    chat.screen.say(f"[{what}{chat.session.next_writes}]")


def _retry(chat: "Chat", rest: str) -> None:
    chat.again()


def _edit(chat: "Chat", rest: str) -> None:
    if not chat.lines.edits:
        raise PunaError("/edit needs a terminal on which a line can be edited", mend="type the message again")
    chat.given = chat.take_back()


def _save(chat: "Chat", rest: str) -> None:
    chat.first.talk_or_raise.save(_file(rest, "/save talk.jsonl"))
    chat.screen.say(f"[saved to {rest}]")


def _load(chat: "Chat", rest: str) -> None:
    path = _file(rest, "/load talk.jsonl")
    talk = chat.first.talk_or_raise
    talk.load(path)
    for speaker in chat.speakers[1:]:
        if speaker.talk is not None:
            speaker.talk.load(path)
    questions = sum(turn["role"] == "user" for turn in talk.turns)
    chat.screen.say(f"[goes on from {rest}: {questions} {'message' if questions == 1 else 'messages'} of yours]")
    if notice := chat.session.end():
        chat.screen.say(f"[{notice}]")


def _compare(chat: "Chat", rest: str) -> None:
    if not rest:
        if len(chat.speakers) == 1:
            raise PunaError("/compare needs a second model", mend="for example: /compare runs/other/release")
        chat.screen.say(f"[{chat.speakers[1].name} answers no more]")
        del chat.speakers[1:]
        return
    other = chat.load(rest)
    chat.speakers[1:] = [other]
    anew = "; its conversation begins now" if other.talk is not None else "; it goes on with the text you type"
    chat.screen.say(f"[{other.name} answers too{anew}. /compare alone ends it]")


def _set(chat: "Chat", rest: str) -> None:
    key, _, value = rest.partition(" ")
    if key:
        key, value = key.replace("-", "_").lower(), value.strip()
        if key not in KEYS:
            raise PunaError(f"there is no setting {key[:40]!r}", mend="there are: " + ", ".join(KEYS))
        chat.sampling = replace(chat.sampling, **{key: _value(key, value)})
    known = {one.name: getattr(chat.sampling, one.name) for one in fields(chat.sampling) if one.name in KEYS}
    for name in [key] if key else KEYS:
        chat.screen.say(f"  {name} {_told(name, known[name])}")


def _value(key: str, text: str) -> Any:
    if key == "stop":
        return [text] if text else []
    if key == "seed" and text in ("", "drawn", "none"):
        return None
    try:
        return int(text) if key in _WHOLE else float(text)
    except ValueError:
        kind = "a whole number" if key in _WHOLE else "a number"
        raise PunaError(
            f"{key} must be {kind} (got {text[:40]!r})", mend=f"for example: /set {_example(key)}"
        ) from None


def _example(key: str) -> str:
    return {"max_tokens": "max_tokens 100", "top_k": "top_k 40", "seed": "seed 7", "top_p": "top_p 0.9"}.get(
        key, f"{key} 0.5"
    )


def _told(name: str, value: Any) -> str:
    if name == "stop":
        return " | ".join(value) or "none"
    return "drawn anew" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _info(chat: "Chat", rest: str) -> None:
    from puna.cli.chatting.info import facts

    for speaker in chat.speakers:
        for line in facts(speaker, Path("results")):
            chat.screen.say(line)


def _tokens(chat: "Chat", rest: str) -> None:
    chat.shows_speed = _switch(rest, chat.shows_speed)
    chat.screen.say(f"[tokens/s after each reply: {'on' if chat.shows_speed else 'off'}]")


def _plain(chat: "Chat", rest: str) -> None:
    if not chat.screen.can_draw:
        raise PunaError("replies are plain text here: this is no terminal that can draw")
    chat.screen.plain = _switch(rest, chat.screen.plain)
    chat.screen.say(f"[replies are shown {'as they are' if chat.screen.plain else 'with their Markdown drawn'}]")


def _switch(text: str, now: bool) -> bool:
    if text not in ("", "on", "off"):
        raise PunaError(f"on or off, not {text[:40]!r}")
    return text == "on" if text else not now


def _help(chat: "Chat", rest: str) -> None:
    chat.screen.say("Type a message and press Enter. What else you can type:")
    for command in COMMANDS.values():
        chat.screen.say(f"  {command.shown:<15} {command.says}")
    if chat.lines.edits:
        chat.screen.say("Alt+Enter, Ctrl+J or a backslash at a line's end begin a new line.")
        chat.screen.say("Arrow up recalls what was typed, Ctrl-R searches it, Tab completes commands.")
    chat.screen.say("Ctrl-C stops a reply. At an empty prompt, Ctrl-C twice leaves.")


def _leave(chat: "Chat", rest: str) -> None:
    raise Leave


def _file(rest: str, example: str) -> Path:
    if not rest:
        raise PunaError(f"{example.split()[0]} needs a file name", mend=f"for example: {example}")
    return Path(rest).expanduser()


def _on_off(chat: "Chat") -> list[str]:
    return ["on", "off"]


COMMANDS = {
    "/retry": Command("/retry", "answer the last message anew", _retry),
    "/edit": Command("/edit", "take the last message back into the line", _edit),
    "/reset": Command("/reset", "forget the conversation (the system text stays)", _reset),
    "/system": Command("/system TEXT", "set the system text, start anew; without TEXT, take it away", _system),
    "/save": Command("/save FILE", "write the conversation as JSON", _save, paths=True),
    "/load": Command("/load FILE", "go on with a saved conversation", _load, paths=True),
    "/compare": Command(
        "/compare MODEL", "let a second model answer too; without MODEL, end it", _compare, paths=True,
        choices=lambda chat: chat.names(),
    ),
    "/set": Command("/set KEY VALUE", "how replies are drawn; /set alone lists it", _set, choices=lambda chat: list(KEYS)),
    "/info": Command("/info", "what this model is, and its scores", _info),
    "/tokens": Command("/tokens", "tokens/s after each reply, on or off", _tokens, choices=_on_off),
    "/plain": Command("/plain", "replies as they are, without Markdown, on or off", _plain, choices=_on_off),
    "/help": Command("/help", "this list", _help),
    "/quit": Command("/quit", "leave (so does Ctrl-D)", _leave),
}  # fmt: skip
_ALSO = {"/exit": "/quit"}


def obey(chat: "Chat", line: str) -> None:
    """Do what a line that begins with a slash says. Raises `Leave` where the user leaves, PunaError for a mistake."""
    word, _, rest = line.partition(" ")
    command = COMMANDS.get(_ALSO.get(word, word))
    if command is None:
        chat.screen.say(f"[{word} is not known; /help lists what you can type]")
    else:
        command.run(chat, rest.strip())


def completions(chat: "Chat", before: str) -> Iterator[tuple[str, int]]:
    """What could follow the text before the cursor: (text, how many characters of it stand there)."""
    word, space, rest = before.partition(" ")
    if not before.startswith("/") or "\n" in before:
        return
    if not space:
        yield from ((f"{name} ", len(word)) for name in COMMANDS if name.startswith(word))
        return
    command = COMMANDS.get(word)
    if command is None:
        return
    if command.choices is not None:
        yield from ((choice, len(rest)) for choice in command.choices(chat) if choice.startswith(rest))
    if command.paths:
        yield from _paths(rest)


def _paths(typed: str) -> Iterator[tuple[str, int]]:
    """Files and folders that begin as what is typed; hidden ones where it begins with a dot."""
    folder, _, start = typed.rpartition("/")
    home = Path(f"{folder}/" if "/" in typed else ".").expanduser()
    try:
        entries = sorted(home.iterdir())
    except OSError:  # no such folder, or closed to us: there is nothing to offer
        return
    for entry in entries:
        if entry.name.startswith(start) and (start.startswith(".") or not entry.name.startswith(".")):
            yield entry.name + ("/" if entry.is_dir() else ""), len(start)
