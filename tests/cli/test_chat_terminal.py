"""The grown conversation, through a real terminal with models whose replies are known: what a person sees and what is kept."""

import json
import re
import signal
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests_cli_terminal import ENVIRONMENT, Terminal
from tests_serve_taught import taught

MARKDOWN = "# Split\nIt **cuts** at `sep`:\n\n```python\nreturn 'a b'.split()\n```\n\n- one\n- 羊驼"
HOSTILE = "a\x1b[2J\x1b]0;owned\x07b &#27;[2J <script>x</script>"
LONG = " ".join(f"{number} llamas walk." for number in range(1, 31))
TALKS = {"What does split do?": MARKDOWN, "羊驼吃什么？": "羊驼吃**高原**上的草。", "Be hostile": HOSTILE, "Count": LONG,
         "one\ntwo": "Two lines.", "Hello": "Good day from the first."}  # fmt: skip
SECOND = {"Hello": "Good day from the other.", "羊驼吃什么？": "它吃草。"}


@pytest.fixture(scope="session")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two runs, `first` and `other`, that know their replies by heart."""
    home = tmp_path_factory.mktemp("talks")
    taught(home / "runs" / "first" / "release", TALKS)
    taught(home / "runs" / "other" / "release", SECOND, seed=6)
    facts = {"task": "quiz", "metric": "accuracy", "value": 0.475, "interval": [0.42, 0.57], "chance": 0.25}
    (home / "runs" / "first" / "release" / "puna").mkdir()
    (home / "runs" / "first" / "release" / "puna" / "results.json").write_text(json.dumps({"scores": [facts]}))
    (home / "runs" / "first" / "release" / "puna" / "ledger.jsonl").touch()
    return home


@pytest.fixture
def open_chat(house: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Callable[..., Terminal]:
    def start(
        more: str = "", model: str = "first", size: tuple[int, int] = (80, 24), ready: bool = True, **environment: str
    ) -> Terminal:
        environment = {"XDG_STATE_HOME": str(tmp_path / "state"), **environment}
        opened = Terminal(f"{model!r}, temperature=0.0, {more}", house, size, **environment)
        request.addfinalizer(opened.close)
        if ready:
            opened.prompt()
        return opened

    return start


def ask(chat: Terminal, text: str) -> None:
    """A question in a conversation of its own: the models know the first turn by heart and no second one."""
    chat.type("/reset\n")
    chat.prompt()
    chat.type(text + "\n")


def messages(path: Path) -> list[tuple[str, str]]:
    (line,) = path.read_text(encoding="utf-8").splitlines()
    return [(turn["role"], turn["content"]) for turn in json.loads(line)["messages"]]


def test_a_reply_is_drawn_and_a_hostile_one_is_not_obeyed(open_chat: Callable[..., Terminal]):
    chat = open_chat()
    chat.type("What does split do?\n")
    chat.prompt()
    shown = "Split\n\nIt cuts at `sep`:\n\npython\n    return 'a b'.split()\n\n • one\n • 羊驼\n"
    assert shown in chat.picture()
    assert "\x1b[1;4mSplit" in chat.seen
    assert "\x1b[1mreturn\x1b[0m" in chat.seen
    ask(chat, "羊驼吃什么？")
    chat.prompt()
    assert "羊驼吃高原上的草。\n" in chat.picture()
    chat.type("/plain on\n")
    chat.wait_for("as they are")
    chat.prompt()
    ask(chat, "What does split do?")
    chat.prompt()
    assert "It **cuts** at `sep`:\n" in chat.picture()
    chat.type("/plain off\n")
    chat.prompt()
    ask(chat, "Be hostile")
    chat.prompt()
    assert "a␛[2J␛]0;owned␇b &#27;[2J <script>x</script>\n" in chat.picture()
    assert "/plain on" in chat.picture()  # nothing above was cleared
    chat.type("\x04")
    assert chat.ended() == 0
    assert chat.modes == (True, True, True)


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_plain_text_where_no_colour_or_no_cursor_is_wanted(
    open_chat: Callable[..., Terminal], tmp_path: Path, environment: dict[str, str]
):
    chat = open_chat("history=False", ready=False, **environment)
    chat.wait_for(">( |\x08)")
    chat.type("What does split do?\n")
    chat.wait_for("- 羊驼")
    assert "It **cuts** at `sep`:" in chat.seen
    assert "\x1b[1" not in chat.seen
    if "TERM" in environment:
        assert "\x1b" not in chat.seen.replace("\x1b[?2004h", "").replace("\x1b[?2004l", "")  # readline's own
    assert not (tmp_path / "state").exists()


def test_lines_are_typed_pasted_recalled_and_edited(open_chat: Callable[..., Terminal], tmp_path: Path):
    chat = open_chat()
    assert "what you type is kept for recall in" in " ".join(chat.picture().split())
    for new_line in (b"\\\r", b"\x1b\r", b"\n"):  # a backslash and Enter, Alt+Enter, Ctrl+J
        ask(chat, "/reset")
        chat.prompt()
        chat.raw(b"one" + new_line + b"two")
        time.sleep(0.3)
        chat.type("\n")
        chat.wait_for("Two lines.")
        chat.prompt()
    ask(chat, "/reset")
    chat.prompt()
    chat.paste("one\ntwo")
    time.sleep(0.5)
    chat.paste("\n\x1b[31mx")
    chat.wait_for(r"\^\[[^m]*m\[31mx")  # an escape that is pasted is shown, and nothing was sent
    chat.type("\x7f" * 7)
    chat.type("\n")
    chat.wait_for("Two lines.")
    chat.prompt()
    chat.type("/edit\n")
    chat.wait_for("two")
    time.sleep(0.3)
    chat.type("\x15" + "\x7f" * 9 + "Hello\n")
    chat.wait_for("Good day from the first.")
    chat.prompt()
    chat.type("/sa\t")
    chat.wait_for("/save")
    chat.type(f"{tmp_path}/talk.jsonl\n")
    chat.wait_for("saved to")
    assert messages(tmp_path / "talk.jsonl") == [("user", "Hello"), ("assistant", "Good day from the first.")]
    chat.press("\x04")
    assert chat.ended() == 0

    kept = tmp_path / "state" / "puna" / "chat_history"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert "one\ntwo" in [json.loads(line) for line in kept.read_text().splitlines()]
    again = open_chat()
    assert "what you type is kept" not in again.picture()
    again.type("\x12hell")  # Ctrl-R
    again.wait_for("hell")
    time.sleep(0.3)
    again.type("\n")
    again.wait_for("Hello")
    again.type("\n")
    again.wait_for("Good day from the first.")
    again.press("\x04")
    assert again.ended() == 0


def test_a_session_goes_on_where_it_was_left(open_chat: Callable[..., Terminal], tmp_path: Path):
    file = tmp_path / "talk.jsonl"
    chat = open_chat(f"session=__import__('pathlib').Path({str(file)!r}), system='be kind'")
    chat.type("Hello\n")
    chat.prompt()
    before = messages(file)
    assert [role for role, _ in before] == ["system", "user", "assistant"]
    assert before[:2] == [("system", "be kind"), ("user", "Hello")]
    chat.signal(signal.SIGKILL)  # whatever happens now: the file has all that was said
    again = open_chat(f"session=__import__('pathlib').Path({str(file)!r})")
    assert f"[goesonfrom{file}]" in "".join(again.picture().split())
    again.type("/retry\n")
    again.prompt()
    assert messages(file) == before
    again.type("羊驼吃什么？\n")
    again.prompt()
    assert messages(file)[:3] == before
    assert len(messages(file)) == 5
    foreign = tmp_path / "foreign.jsonl"
    foreign.write_text('{"messages": [{"role": "user", "content": "a"}], "id": 3}\n')
    again.type(f"/load {foreign}\n")
    again.wait_for("goes on")
    again.wait_for("written no")
    again.prompt()
    saved = file.read_bytes()
    again.type("Hello\n")
    again.prompt()
    assert (file.read_bytes(), json.loads(foreign.read_text())["id"]) == (saved, 3)


def test_two_models_answer_one_under_the_other_and_settings_are_told(
    open_chat: Callable[..., Terminal], tmp_path: Path
):
    chat = open_chat()
    chat.type("/compare nobody\n")
    chat.wait_for("no such model")
    chat.prompt()
    chat.type("/compare oth\t\n")
    chat.wait_for("other answers too")
    chat.prompt()
    chat.type("Hello\n")
    chat.prompt()
    answers = chat.picture()[chat.picture().rindex("> Hello") :]
    assert re.fullmatch(
        r"> Hello\n── first ──\nGood day from the first\.\n\[\d+ tokens in .* tokens/s\]\n"
        r"── other ──\nGood day from the other\.\n\[\d+ tokens in .* tokens/s\]\n>",
        answers,
    ), answers
    chat.type("/retry\n")
    chat.prompt()
    assert chat.picture().count("Good day from the other.") == 2
    chat.type(f"/save {tmp_path}/first.jsonl\n")
    chat.prompt()
    assert messages(tmp_path / "first.jsonl") == [("user", "Hello"), ("assistant", "Good day from the first.")]
    chat.type("/compare\n")
    chat.wait_for("other answers no more")
    chat.prompt()
    chat.type("/compare\n")
    chat.wait_for("needs a second model")
    chat.prompt()
    chat.type("/reset\n")
    chat.prompt()
    chat.type("/set\n")
    chat.wait_for("repetition_penalty 1")
    for typed, answer in {
        "/set max-tokens 3": "max_tokens 3", "/set temperature hot": "temperature must be a number",
        "/set top_p 7": "top_p must be above 0", "/set colour red": "there is no setting 'colour'", "/set seed 5": "seed 5",
        "/set stop 羊驼": "stop 羊驼", "/tokens maybe": "on or off", "/tokens": "tokens/s after each reply: on", "/load": "needs a file",
        "/load /dev/null": "not an ordinary file", "/retry": "nothing was said yet", "/edit": "nothing was said yet",
    }.items():  # fmt: skip
        chat.type(typed + "\n")
        chat.wait_for(re.escape(answer))
        chat.prompt()
    chat.type("Hello\n")
    chat.wait_for(r"\[cut after 3 tokens; ")
    chat.wait_for(r"\[3 tokens in \d+\.\d s, [\d.]+ tokens/s\]")
    chat.prompt()
    chat.type("/info\n")
    chat.prompt()
    assert "1,024 tokens, prompt and reply together" in chat.picture()
    assert "four-choice quiz about functions: 0.475 (0.420 to 0.570), chance 0.25" in chat.picture()


def test_keys_pressed_meanwhile_wait_and_a_smaller_terminal_is_borne(open_chat: Callable[..., Terminal]):
    chat = open_chat("max_tokens=300", size=(80, 12))
    chat.type("Count\n")
    chat.wait_for("3 llamas")
    chat.type("/tokens on\n")  # while the reply is made
    chat.resize(50, 8)
    chat.wait_for(r"30 llamas.* walk\.")
    chat.wait_for(r"tokens/s after each reply: on")
    assert "3 llamas walk./tokens" not in chat.picture()
    chat.prompt()
    ask(chat, "Hello")
    chat.wait_for("Good day")
    assert chat.modes == (False, False, False)
    chat.prompt()
    chat.signal(signal.SIGTERM)
    assert chat.ended() in (143, -15)
    assert chat.modes == (True, True, True)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("", "holds 0 lines"),
        ("{\n", "not JSON"),
        ('{"messages": []}\n', "at least one message"),
        ('{"messages": [{"role": "user", "content": "a"}], "source": "x"}\n', "holds more than a conversation"),
        ('{"messages": [{"role": "user", "content": "a"}]}\n' * 2, "holds 2 lines"),
        ('{"instruction": "a", "output": "b"}\n', "holds no conversation"),
        ("[" * 100_000, "not JSON"),
        ('{"messages": [{"role": "user", "content": "\\ud800"}]}\n', "not JSON"),
    ],
)
def test_a_foreign_or_damaged_session_file_is_refused_and_left(house: Path, tmp_path: Path, content: str, why: str):
    from puna.cli.chat import run_chat
    from puna.errors import PunaError

    file = tmp_path / "talk.jsonl"
    file.write_text(content)
    with pytest.raises(PunaError, match=why) as caught:
        run_chat("first", "Hello", runs=house / "runs", session=file)
    assert "\n" not in caught.value.line()
    assert str(file) in caught.value.line()
    assert file.read_text() == content


def test_one_shot_continues_a_session(house: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    from puna.cli.chat import run_chat

    for prompt in ("Hello", "羊驼吃什么？"):
        run_chat("first", prompt, runs=house / "runs", session=tmp_path / "talk.jsonl", temperature=0.0)
    assert capsys.readouterr().out.startswith("Good day from the first.\n")
    assert [role for role, _ in messages(tmp_path / "talk.jsonl")] == ["user", "assistant"] * 2


def test_history_is_bounded_mended_and_never_another_kind_of_file(tmp_path: Path):
    from puna.cli.chatting.history import LONGEST, MOST, History
    from puna.errors import PunaError

    path = tmp_path / "state" / "chat_history"
    kept = History(path)
    assert "kept for recall" in kept.notice
    kept.add("你好\nhello")
    kept.add("x" * (LONGEST + 1))
    path.chmod(0o644)
    with open(path, "ab") as stream:
        stream.write(b'"torn by a power c')
    History(path).add("after")
    mended = History(path)
    assert mended.entries == ["你好\nhello", "after"]
    assert mended.notice.startswith("1 lines of")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.write_bytes(b"".join(json.dumps(f"line {n}").encode() + b"\n" for n in range(2 * MOST + 1)))
    assert History(path).entries == [f"line {n}" for n in range(MOST + 1, 2 * MOST + 1)]
    assert len(path.read_bytes().splitlines()) == MOST
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    link = tmp_path / "link"
    link.symlink_to(path)
    (tmp_path / "folder").mkdir()
    for other in (link, tmp_path / "folder", Path("/dev/null")):
        with pytest.raises(PunaError, match="cannot be kept"):
            History(other)


def test_the_history_lies_in_the_state_folder(monkeypatch: pytest.MonkeyPatch):
    from puna.cli.chatting.history import state_file

    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    monkeypatch.setenv("HOME", "/home/x")
    assert state_file() == Path("/home/x/.local/state/puna/chat_history")
    monkeypatch.setenv("XDG_STATE_HOME", "/s")
    assert state_file() == Path("/s/puna/chat_history")
    assert Path(ENVIRONMENT["XDG_STATE_HOME"]).is_dir()
