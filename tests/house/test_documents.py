"""The documents' commands are true: each one in a ```sh or ```console block is parsed by the real command line, and those
that take no time are run. A command of another program is allowed only if it is named here with the reason why it is
not run."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer
import typer.exceptions

from puna.cli.app import app

ROOT = Path(__file__).resolve().parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^ {0,3}```([\w-]*)[^\n]*\n(.*?)^ {0,3}```", re.MULTILINE | re.DOTALL)
OPERATORS = {"|", "||", "&&", "&", ";", "(", ")"}
REDIRECTION = re.compile(r"""("[^"]*"|'[^']*')|\s[0-9]?(?:>>?|<)\s*(?:&[0-9]|\S+)""")

# Verbs that end at once and write only where they stand: the documents' commands with these are run as they are.
QUICK = {"new", "--help", "--version"}

# Shown in the documents, not run by this test.
OTHERS = {
    "git": "needs the address of a clone",
    "cd": "belongs to the line before it",
    "pip": "tests/house/test_packaging.py installs the package",
    "vllm": "needs a GPU; tests/build/test_handover.py holds a release to what it reads",
    "llama-server": "is compiled by who wants it",
    "ollama": "comes through no package registry",
    "cp": "belongs to the line after it",
    "sudo": "changes the machine; tests/build/test_handover.py has systemd read the unit",
    "requirements/lock.sh": "resolves with the package registry",
    ".ci/run": "runs this test",
    ".venv-lint/bin/ruff": ".ci/run runs it",
    ".venv-lint/bin/mypy": ".ci/run runs it",
}


@dataclass(frozen=True)
class Command:
    """One simple command of a document."""

    page: str
    line: int
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.page}:{self.line} {' '.join(self.words)}"


def commands(page: Path) -> Iterator[Command]:
    """The simple commands of a page's shell blocks; in a console block only the lines after a `$ `."""
    text = page.read_text(encoding="utf-8")
    for block in FENCE.finditer(text):
        kind, body = block.groups()
        if kind not in ("sh", "console", "bash", "shell"):
            continue
        first = text[: block.start(2)].count("\n") + 1
        joined = re.sub(r"\\\n", "\\\\\0", body)  # a continued line keeps its number
        for number, line in enumerate(joined.split("\n"), start=first):
            if kind == "console" and not line.startswith("$ "):
                continue
            source = line.removeprefix("$ ").replace("\\\0", " ")
            yield from (Command(str(page.relative_to(ROOT)), number, words) for words in simple_commands(source))


def simple_commands(line: str) -> list[tuple[str, ...]]:
    """A shell line's commands, without comments, redirections and leading assignments."""
    line = REDIRECTION.sub(lambda match: match[1] or " ", line)
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;()")
    lexer.whitespace_split = True
    found: list[list[str]] = [[]]
    for word in lexer:
        if word in OPERATORS:
            found.append([])
        else:
            found[-1].append(word)
    clean = []
    for words in found:
        while words and re.match(r"^[A-Z_]+=", words[0]):
            words.pop(0)
        if words:
            clean.append(tuple(words))
    return clean


ALL = [command for page in PAGES for command in commands(page)]
OURS = [command for command in ALL if command.words[0] in ("./puna", "puna")]


GROUP: Any = typer.main.get_command(app)


class UntrueError(Exception):
    """The command line would refuse this command."""


def check(words: tuple[str, ...]) -> None:
    """Parse a command's words with the real command line, without running it. Raises `UntrueError` where it refuses."""
    context = GROUP.context_class(GROUP)
    if not words or words[0].startswith("-"):
        known = {option for parameter in GROUP.params for option in parameter.opts} | {"--help"}
        if not set(words[:1]) <= known:
            raise UntrueError(f"no option {words[0]}")
        return
    if words[0] not in GROUP.commands:
        raise UntrueError(f"no verb {words[0]!r}")
    if "--help" not in words:
        try:
            GROUP.commands[words[0]].make_context(words[0], list(words[1:]), parent=context)
        except typer.exceptions.TyperException as error:
            raise UntrueError(f"{' '.join(words)}: {error}") from error


def test_documents_have_commands() -> None:
    assert len(OURS) >= 10, [str(command) for command in ALL]


@pytest.mark.parametrize("command", OURS, ids=str)
def test_command_is_what_the_command_line_takes(command: Command) -> None:
    check(command.words[1:])


def test_commands_of_other_programs_are_known() -> None:
    unknown = [str(command) for command in ALL if command not in OURS and command.words[0] not in OTHERS]
    assert unknown == []


@pytest.mark.parametrize(
    "command", [c for c in OURS if c.words[1:2] and (c.words[1] in QUICK or "--help" in c.words)], ids=str
)
def test_quick_command_runs(command: Command, tmp_path: Path) -> None:
    for before, value in zip(command.words, command.words[1:], strict=False):
        if before == "--text":  # the reader's own text, which the document cannot bring
            target = tmp_path / value
            (target if value.endswith("/") or not target.suffix else target.parent).mkdir(parents=True, exist_ok=True)
            (target if target.suffix else target / "a.md").write_text(
                "The puna is wide. 高原辽阔。\n", encoding="utf-8"
            )
        if before == "--base":  # somebody's model
            (tmp_path / value).mkdir(parents=True)
            (tmp_path / value / "config.json").write_text("{}", encoding="utf-8")
    environment = {"PYTHONPATH": str(ROOT / "src"), "PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-P", "-m", "puna", *command.words[1:]], cwd=tmp_path, env=environment,
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout + done.stderr


@pytest.mark.parametrize("verb", sorted(GROUP.commands))
def test_examples_in_help_are_true(verb: str) -> None:
    text = GROUP.commands[verb].epilog or ""
    examples = [
        words
        for line in text.splitlines()
        if line.strip().startswith(("puna ", "./puna "))
        for words in simple_commands(line)
    ]
    assert examples, f"puna {verb} --help has no example"
    for words in examples:
        check(words[1:])
        assert words[1] == verb


@pytest.mark.parametrize("verb", sorted(GROUP.commands))
def test_every_verb_has_a_page(verb: str) -> None:
    if verb == "test":
        assert "./puna test" in (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    else:
        assert (ROOT / "docs" / f"{verb}.md").is_file()


def test_links_between_documents_lead_somewhere() -> None:
    dead = []
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            if "://" not in target and not (page.parent / target).exists():
                dead.append(f"{page.relative_to(ROOT)}: {target}")
    assert dead == []


def test_the_check_can_fail() -> None:
    for wrong in (
        ("fly",),
        ("make", "--no-such-option"),
        ("chat",),
        ("--no-such-option",),
        ("new", "x", "--minutes", "soon"),
    ):
        with pytest.raises(UntrueError):
            check(wrong)
    assert simple_commands("A=1 ./puna make x > out 2>&1 && cd y  # note") == [("./puna", "make", "x"), ("cd", "y")]
    assert simple_commands('puna chat m -p "a | b > c"') == [("puna", "chat", "m", "-p", "a | b > c")]
