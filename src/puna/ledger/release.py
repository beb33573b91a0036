"""The last entry of a released ledger: every file of the release, and roots over the files and over all entries before.

Comes in: a folder that is complete but for its ledger. Goes out: the entry `release`. Must never happen: a file of the release
that no entry names, or a second entry for the same release because a build was killed after the first.

The entry's own hash stands for the whole release: it covers the files' root, and by the chain everything that was logged.
"""

from pathlib import Path
from typing import Any

from puna.files import canonical_json, file_sha256
from puna.ledger.chain import Entry, Ledger
from puna.ledger.merkle import entry_leaves, file_leaves, merkle_root

RELEASE = "release"  # the kind
RECORD = "puna"  # the folder of a release that holds its record
LEDGER, MANIFEST, SIGNATURE = f"{RECORD}/ledger.jsonl", f"{RECORD}/MANIFEST.json", f"{RECORD}/model.sig"
# Files that the entry cannot name: the ledger that it stands in, and what is written when that is complete.
UNNAMED = frozenset({LEDGER, MANIFEST, "MANIFEST.json", SIGNATURE})
TOLD_BY_A_RELEASE = frozenset({"gate", "seed-revealed", RELEASE})  # kinds


def describe_files(folder: Path) -> dict[str, dict[str, Any]]:
    """{path: {"bytes", "sha256"}} of every file under `folder` that a `release` entry names, by name."""
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    named = {path.relative_to(folder).as_posix(): path for path in found}
    return {
        name: {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
        for name, path in named.items()
        if name not in UNNAMED
    }


def roots(files: dict[str, dict[str, Any]], hashes: list[str]) -> dict[str, Any]:
    """The two Merkle roots: over the files, and over the hashes of the entries before this one."""
    return {
        "files_root": merkle_root(file_leaves(files)),
        "entries": len(hashes),
        "entries_root": merkle_root(entry_leaves(hashes)),
    }


def log_release(ledger: Ledger, about: dict[str, Any]) -> Entry:
    """Write the entry of a release; `about` holds `files` as `describe_files` gives them, and what else is said of it.

    Where the ledger ends with the same release already (a build that was killed after it), that entry is returned.
    """
    entries = ledger.entries()
    if entries and entries[-1]["kind"] == RELEASE:
        before = {**about, **roots(about["files"], [entry["hash"] for entry in entries[:-1]])}
        if canonical_json(before) == canonical_json(entries[-1]["body"]):
            return entries[-1]
    return ledger.append(RELEASE, {**about, **roots(about["files"], [entry["hash"] for entry in entries])})
