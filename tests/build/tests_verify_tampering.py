"""What a forger can do to a release and to its run, from the clumsy to the thorough."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from puna.files import canonical_json, digest_of, file_sha256, read_json, write_json
from puna.ledger.chain import GENESIS
from puna.ledger.release import describe_files, roots

# A build of seconds: nothing is measured before the long part, which has 29 steps, and no peer loads the release.
SHORT = ("--set", "train.tokens=15000", "--set", "train.milestones=3", "--set", "train.precision=fp32", "--set", "train.compile=off",
         "--set", "train.threads=1", "--set", "train.checkpoint_seconds=0.1", "--set", "release.gate=false")  # fmt: skip

Entry = dict[str, Any]


def flip(path: Path, place: int = -1) -> None:
    """Change one byte."""
    raw = bytearray(path.read_bytes())
    raw[place] ^= 1
    path.write_bytes(raw)


def entries_of(release: Path) -> list[Entry]:
    return [json.loads(line) for line in (release / "puna" / "ledger.jsonl").read_text().splitlines()]


def write_chain(release: Path, entries: list[Entry]) -> None:
    """Entries with numbers, links and hashes that fit: a chain that nobody can tell from an honest one."""
    previous, lines = GENESIS, []
    for number, entry in enumerate(entries):
        body = {**entry, "n": number, "previous": previous}
        body.pop("hash", None)
        previous = digest_of(body)
        lines.append(canonical_json({**body, "hash": previous}))
    (release / "puna" / "ledger.jsonl").write_bytes(b"\n".join(lines) + b"\n")


def rebuild(release: Path, change: Callable[[list[Entry]], None], *, roots_too: bool = True) -> None:
    """Change the ledger and make chain, roots and manifest fit again."""
    entries = entries_of(release)
    change(entries)
    write_chain(release, entries)
    if roots_too:
        entries = entries_of(release)
        files = describe_files(release)
        entries[-1]["body"] |= {"files": files, **roots(files, [entry["hash"] for entry in entries[:-1]])}
        write_chain(release, entries)
    remanifest(release)


def remanifest(release: Path) -> None:
    """Make the manifest fit the files."""
    path = release / "puna" / "MANIFEST.json"
    manifest = read_json(path)
    manifest["files"] = {name: {"bytes": (release / name).stat().st_size, "sha256": file_sha256(release / name)}
                         for name in manifest["files"] if (release / name).is_file()}  # fmt: skip
    write_json(path, manifest)


def change_text(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text, old
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def the(entries: list[Entry], kind: str) -> Entry:
    return next(entry for entry in entries if entry["kind"] == kind)
