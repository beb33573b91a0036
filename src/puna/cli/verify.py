"""`puna verify`: a release checked, signed, or given a key to be signed with.

In: a release. Out: a line a check, with what it proves and what it does not. Must never happen: exit 0 where a check failed.
"""

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from puna.cli.terminal import terminal_progress
from puna.cli.verbs import print_json
from puna.errors import EXIT_INTERNAL, PunaError

if TYPE_CHECKING:
    from puna.build.verify import Verdict

_MARKS = {"passed": "ok", "failed": "FAILED", "absent": "-"}


def run_verify(
    release: str | None, *, run: Path | None, key: Path | None, head: str | None, step0: bool, replay: int, seed: int | None,
    sign: Path | None, new_key: Path | None, runs: Path, json: bool,
) -> None:  # fmt: skip
    """Check a release, sign it, or write a key pair. Raises `PunaError`; exits 1 where a check failed."""
    if new_key is not None:
        _new_key(new_key, json)
    if release is None:
        if new_key is None:
            raise PunaError(
                "names no release", where="puna verify", mend="puna verify RELEASE, a folder or a run's name"
            )
        return
    if sign is not None:
        _sign(release, sign, runs, json)
        return
    from puna.build.verify import verify_release

    with terminal_progress() as progress:
        found = verify_release(
            release, runs, run=run, key=key, head=head, step0=step0, replay=replay, seed=seed, progress=progress
        )
    if json:
        print_json(_object(found))
    else:
        typer.echo("\n".join(_lines(found)))
    if not found.passed:
        raise typer.Exit(EXIT_INTERNAL)


def _new_key(path: Path, json: bool) -> None:
    from puna.ledger.signing import new_key

    public = new_key(path)
    if json:
        print_json({"private": str(path), "public": str(public)})
        return
    typer.echo(f"Private key  {path}  (keep it secret, and keep a copy)\nPublic key   {public}  (publish it)")


def _sign(release: str, key: Path, runs: Path, json: bool) -> None:
    from puna.build.verify import release_folder
    from puna.ledger.signing import sign_release

    signature = sign_release(release_folder(release, runs), key)
    if json:
        print_json({"signature": str(signature)})
        return
    typer.echo(f"Signed: {signature}")


def _object(found: "Verdict") -> dict[str, object]:
    return {
        "release": str(found.folder), "run": str(found.run) if found.run else None, "passed": found.passed,
        "fingerprint": found.fingerprint, "seed": found.seed,
        "checks": [{"name": check.name, "state": check.state, "found": check.found, "proves": check.proves,
                    "leaves_open": check.leaves_open} for check in found.checks],
    }  # fmt: skip


def _lines(found: "Verdict") -> list[str]:
    lines = [f"Release     {found.folder}", f"Run         {found.run or 'not here: what needs it is left out'}", ""]
    told = ""
    for check in found.checks:
        lines.append(f"{_MARKS[check.state]:<7} {check.name}")
        lines += _told("", check.found)
        if check.state == "passed" and check.proves != told:  # of several replays it is said once
            lines += _told("proves: ", check.proves) + _told("not: ", check.leaves_open)
            told = check.proves
    failed = [check.name for check in found.checks if check.state == "failed"]
    absent = [check.name for check in found.checks if check.state == "absent"]
    lines += ["", f"Fingerprint {found.fingerprint or 'none: the ledger is broken'}"]
    if found.seed is not None:
        lines.append(f"Segments drawn by --seed {found.seed}")
    if absent:
        lines.append(f"Not checked: {', '.join(absent)}")
    lines.append(f"{len(failed)} of {len(found.checks)} checks failed: {', '.join(failed)}" if failed
                 else f"{len(found.checks) - len(absent)} checks passed.")  # fmt: skip
    return lines


def _told(label: str, text: str) -> list[str]:
    return textwrap.wrap(f"{label}{text}", 79, initial_indent=" " * 8, subsequent_indent=" " * (8 + len(label)))
