"""`puna chat`: one shot through pipes, the conversation through a real terminal (pty), Ctrl-C included."""

import io
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests_cli_terminal import ENVIRONMENT, START, Terminal

from puna.cli.chat import Chat, Screen, run_chat
from puna.engine import Engine, Sampling
from puna.errors import PunaError

TEXTS = [
    "the llama walks over the high grass of the puna, and the wind sings. ",
    "羊驼走过高原的草地，你好，世界。",
] * 20


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[..., Path]) -> Path:
    """A folder of runs: `talker` has a chat format, `writer` has none."""
    runs = tmp_path_factory.mktemp("runs")
    # Random weights hardly ever end a reply: the context leaves room to stop one by hand.
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "max_position_embeddings": 20_000, "tie_word_embeddings": True}
    for name in ("talker", "writer"):
        tiny_model(runs / name / "release", TEXTS, 320, seed=1, **shape)
    folder = runs / "writer" / "release"
    (folder / "chat_template.jinja").unlink()
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings.pop("chat_template", None)
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return runs


@pytest.fixture
def terminal(runs: Path, request: pytest.FixtureRequest):
    def start(arguments: str) -> Terminal:
        opened = Terminal(arguments, runs.parent)
        request.addfinalizer(opened.close)
        return opened

    return start


def test_a_conversation_with_every_command(terminal, runs: Path):
    chat = terminal(f"'talker', temperature=0.0, max_tokens=4, runs={str(runs)!r}")
    chat.wait_for(r"talker: .* M parameters, context 20000 tokens")
    chat.prompt()
    chat.type("你好\n")
    chat.wait_for(r"\[cut after 4 tokens; --max-tokens sets this\]")
    chat.prompt()
    chat.type("/help\n")
    chat.wait_for("/save FILE")
    chat.type("/system be kind\n")
    chat.wait_for("system text set")
    chat.type("second\n")
    chat.wait_for(r"\[cut after 4")
    chat.type("/save talk.jsonl\n")
    chat.wait_for(r"\[saved to talk.jsonl\]")
    saved = json.loads((runs.parent / "talk.jsonl").read_text(encoding="utf-8"))["messages"]
    assert [turn["role"] for turn in saved] == ["system", "user", "assistant"]
    assert [turn["content"] for turn in saved[:2]] == ["be kind", "second"]
    chat.type("/save absent/talk.json\n")
    chat.wait_for("cannot write the conversation")
    chat.type("/reset\n")
    chat.wait_for("starts anew")
    chat.type("/nonsense\n")
    chat.wait_for("/nonsense is not known")
    chat.type("/save talk.jsonl\n")
    chat.wait_for("nothing to save yet")
    chat.type("long " * 800 + "\n")
    chat.wait_for(r"\[cut after 4")
    chat.press("\x04")
    assert chat.ended() == 0
    assert "Traceback" not in chat.seen


def test_ctrl_c_stops_a_reply_and_not_the_program(terminal, runs: Path):
    chat = terminal(f"'talker', temperature=0.0, max_tokens=100000, runs={str(runs)!r}")
    chat.prompt()
    chat.type("the llama\n")
    chat.wait_for(r"\?2004l")  # the editor has given the terminal back: the reply follows
    chat.wait_for(r"[^\x1b\r\n]{3}")
    chat.type("\x03")
    chat.wait_for(r"\[stopped\]")
    chat.prompt()
    chat.type("/save stopped.jsonl\n")
    chat.wait_for("saved to")
    saved = json.loads((runs.parent / "stopped.jsonl").read_text(encoding="utf-8"))["messages"]
    assert [turn["role"] for turn in saved] == ["user", "assistant"]
    assert saved[1]["content"]
    chat.press("\x03")
    chat.wait_for("to leave")
    chat.prompt()
    chat.type("half a line")
    chat.wait_for("half a line")
    chat.type("\x03")
    chat.press("\x03")
    chat.wait_for("Ctrl-C again, or /quit, to leave")
    chat.press("\x03")
    assert chat.ended() == 0
    assert "Traceback" not in chat.seen


def run(arguments: str, typed: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", START.format(arguments=arguments)]
    return subprocess.run(
        command, input=typed, capture_output=True, text=True, env=ENVIRONMENT, timeout=120, encoding="utf-8"
    )


def test_typed_through_a_pipe_a_model_without_chat_format_goes_on_with_text(runs: Path):
    done = run(f"'writer', temperature=0.0, max_tokens=2, runs={str(runs)!r}", typed="你好\nhello\n/system be kind\n")
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
    assert "> " not in done.stdout
    assert done.stdout.count("[cut after 2 tokens") == 2
    assert "keeps no conversation" in done.stdout


def test_one_shot_prints_the_reply_alone(runs: Path, capsys: pytest.CaptureFixture[str]):
    for name in ("talker", "writer"):
        run_chat(name, "the llama 你好", temperature=0.0, max_tokens=40, runs=runs)
        plain = capsys.readouterr()
        run_chat(name, "the llama 你好", temperature=0.0, max_tokens=40, runs=runs, json=True)
        told = json.loads(capsys.readouterr().out)
        assert (plain.out, plain.err) == (told["reply"] + "\n", "")
        assert told["chat"] is (name == "talker")
        assert (told["finish_reason"], told["reply_tokens"]) == ("length", 40)
        assert told["sampling"]["temperature"] == 0.0


def test_a_seed_gives_the_same_reply_again(runs: Path, capsys: pytest.CaptureFixture[str]):
    said = []
    for seed in (1, 1, 2):
        run_chat("talker", "你好", temperature=1.0, top_p=1.0, max_tokens=30, seed=seed, runs=runs)
        said.append(capsys.readouterr().out)
    assert said[0] == said[1] != said[2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": "nobody", "prompt": "a"}, "runs here: talker, writer"),
        ({"model": "hf:org/name", "prompt": "a"}, "not yet available"),
        ({"model": "talker", "prompt": " "}, "prompt is empty"),
        ({"model": "talker", "json": True}, "--json needs"),
        ({"model": "talker", "prompt": "a", "top_p": 0.0, "top_k": -1}, "top_p.*top_k"),
        ({"model": "writer", "prompt": "a", "system": "kind"}, "no chat format"),
        ({"model": "talker", "prompt": "羊驼 x " * 9000}, "room for"),
        ({"model": "writer", "prompt": "羊驼 x " * 9000}, "context"),
    ],
)
def test_mistakes_are_one_line(runs: Path, arguments: dict, message: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(PunaError, match=message) as caught:
        run_chat(**arguments, runs=runs)
    assert "\n" not in caught.value.line()
    assert capsys.readouterr().out == ""


def test_control_characters_cannot_steer_a_terminal(capsys: pytest.CaptureFixture[str]):
    class FakeTerminal:
        text = ""

        def isatty(self) -> bool:
            return True

        def write(self, text: str) -> None:
            self.text += text

        def flush(self) -> None: ...

    out = FakeTerminal()
    Screen(out, sys.stderr).reply("a\x1b[2J\x07\x9b你好\t\n")
    assert out.text == "a␛[2J␇\ufffd你好\t\n"


def test_what_the_context_cannot_hold_is_let_go_with_a_notice(
    runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    loaded = Engine.load(runs / "talker" / "release", device="cpu")
    small = Engine(loaded.model, loaded.tokenizer, loaded.config.model_copy(update={"max_position_embeddings": 64}))
    chat = Chat(small, Sampling(max_tokens=100, temperature=0.0), Screen(sys.stdout, sys.stderr), None, name="talker")
    monkeypatch.setattr(sys, "stdin", io.StringIO("你好\nthe llama\n" + "the wind " * 99 + "\n"))
    chat.converse()
    out = capsys.readouterr().out
    assert "[cut: the model's context of 64 tokens is full]" in out
    assert "[context full: the 2 oldest messages are forgotten]" in out
    assert re.search(r"\[the message takes \d+ tokens .*fewer words", out)
