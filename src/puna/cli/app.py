"""The command line: one verb a file; each is imported only when it is called, so that `--help` is quick."""

import errno
import os
import sys
from typing import Any

import typer

from puna import __version__
from puna.called import PUNA
from puna.errors import EXIT_INTERNAL, EXIT_USER, PunaError

STOPPED = 130
UsageError: Any = typer.BadParameter.__base__  # of Click; newer releases of Typer carry a Click of their own
GOES_ON = "stopped; run it again and it goes on"

app = typer.Typer(
    name="puna", no_args_is_help=True, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False,
    help="Build an open language model on the LLaMA architecture, from text to a released chat model.",
    epilog=f"Start with: {PUNA} make. Every verb has examples in its --help.",
)  # fmt: skip


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"puna {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    pass


def _register() -> None:
    from puna.cli import verbs

    verbs.add_to(app)


_register()


def main() -> None:
    """The console script: exit 0, 2 with one line for a mistake of the user's, 1 for anything else."""
    try:
        _open_closed_streams()
        # Typer's own handling would print usage errors on four lines and nothing at all for Ctrl-C.
        code = app(prog_name=PUNA, standalone_mode=False)
    except UsageError as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # `puna` alone: its message is the help
            typer.echo(error.format_message())
            sys.exit(EXIT_USER)
        where = error.ctx.command_path if error.ctx else PUNA
        _fail(f"{error.format_message().rstrip('.')}; see {where} --help", EXIT_USER)
    except PunaError as error:
        _fail(error.line(), EXIT_USER)
    except KeyboardInterrupt:
        _fail(GOES_ON, STOPPED)
    except BrokenPipeError:  # the reader of our output has gone: `puna chat ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more at its end
        sys.exit(EXIT_INTERNAL)
    except Exception as error:
        line = disk_trouble(error)
        if line is None:
            raise
        _fail(line, EXIT_USER)
    if code == STOPPED:  # Typer turns Ctrl-C into this code
        _fail(GOES_ON, STOPPED)
    sys.exit(code if isinstance(code, int) else 0)


def _open_closed_streams() -> None:
    """Where the caller closed a standard stream (`>&-`): else the next file that is opened would get its number."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w" if number else "r", encoding="utf-8"))  # noqa: SIM115


def disk_trouble(error: BaseException) -> str | None:
    """One line where an error of ours or of a library's native code says that a disk is full or closed to us."""
    number, text = getattr(error, "errno", None), str(error)
    name = getattr(error, "filename", None)
    if number in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in text or "os error 28" in text:
        return f"the disk is full{f': {name}' if name else ''}; free some space and run it again"
    if number in (errno.EACCES, errno.EPERM, errno.EROFS) and name:
        return f"{name}: {os.strerror(number).lower()}; choose another folder, or change its permissions"
    return None


def _fail(line: str, code: int) -> None:
    sys.stderr.write(f"puna: {line}\n")
    sys.exit(code)
