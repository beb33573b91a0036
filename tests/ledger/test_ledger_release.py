"""The last entry of a release, the salted order, entries that are written once, and strangers' folders."""

import json
import os
from pathlib import Path

import pytest

from puna.errors import PunaError
from puna.files import write_json
from puna.ledger import Ledger, order_commitment, verify
from puna.ledger.check import check_release
from puna.ledger.release import describe_files, log_release

SALT = "ab" * 32


def test_an_entry_of_one_body_is_written_once(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    first = ledger.append_once("step0", {"a": (1, 2)})
    assert ledger.append_once("step0", {"a": [1, 2]}) == first
    assert ledger.append_once("order", {"a": [1, 2]})["n"] == 1 and verify(ledger.path).entries == 2


def test_a_release_that_is_made_again_after_a_kill_gets_no_second_entry(tmp_path: Path) -> None:
    folder, ledger = tmp_path / "release", Ledger(tmp_path / "ledger.jsonl")
    folder.mkdir()
    (folder / "a.json").write_text("{}")
    ledger.append("seed", {"commitment": "x"})
    first = log_release(ledger, {"files": describe_files(folder)})
    assert log_release(ledger, {"files": describe_files(folder)}) == first and first["body"]["entries"] == 1
    (folder / "a.json").write_text("{ }")
    second = log_release(ledger, {"files": describe_files(folder)})
    assert (
        second["n"] == 2
        and second["body"]["files_root"] != first["body"]["files_root"]
        and second["body"]["entries"] == 2
    )


def test_an_order_is_committed_to_under_the_salt() -> None:
    assert (
        order_commitment(SALT, b"\x01") != order_commitment("cd" * 32, b"\x01") != order_commitment("cd" * 32, b"\x02")
    )
    with pytest.raises(PunaError, match="salt"):
        order_commitment("ab", b"")


def stranger(folder: Path, files: object, ledger: str | None = None) -> Path:
    (folder / "puna").mkdir(parents=True)
    write_json(folder / "puna" / "MANIFEST.json", {"files": files})
    if ledger is not None:
        (folder / "puna" / "ledger.jsonl").write_text(ledger)
    return folder


@pytest.mark.parametrize(
    "files",
    [
        {"../../etc/passwd": {"bytes": 1, "sha256": "0"}},
        {"/etc/passwd": {"bytes": 1, "sha256": "0"}},
        {"a": []},
        {"a": {"bytes": "many"}},
        [],
        None,
        {"a\u202e\x1b[31m": {"bytes": 1, "sha256": "0"}},
    ],
)
def test_a_strangers_folder_gives_findings_and_no_error(tmp_path: Path, files: object) -> None:
    checks = check_release(stranger(tmp_path / "r", files, "[" * 100_000 + "\n"))
    failed = {check.name: check.found for check in checks if check.state == "failed"}
    assert {"files", "chain", "root", "sequence", "seed", "weights", "results", "sources"} == set(failed)
    assert all(text.isprintable() and len(text) < 2000 for text in failed.values())


@pytest.mark.parametrize("body", [{}, [], 7, {"files": 3, "inputs": [], "models": "x", "records": 0}])
def test_a_ledger_of_another_form_gives_findings_and_no_error(tmp_path: Path, body: object) -> None:
    ledger = Ledger(tmp_path / "made.jsonl")
    for kind in (
        "seed",
        "seed-revealed",
        "order",
        "step0",
        "milestone",
        "stage",
        "results",
        "sources",
        "frozen",
        "release",
    ):
        ledger.append(kind, body)  # type: ignore[arg-type]
    checks = check_release(stranger(tmp_path / "r", {}, ledger.path.read_text()))
    states = {check.name: check.state for check in checks}
    assert states["chain"] == "passed" and states["files"] == "failed"  # the ledger itself is not in the manifest
    assert {states[name] for name in ("root", "sequence", "seed", "weights", "results", "sources")} == {"failed"}


def test_links_and_pipes_are_named(tmp_path: Path) -> None:
    folder = stranger(tmp_path / "r", {})
    os.symlink("/etc/passwd", folder / "weights.safetensors")
    os.symlink("/etc", folder / "more")
    os.mkfifo(folder / "pipe")
    found = check_release(folder)[0]
    assert found.state == "failed"
    for name in ("weights.safetensors", "more", "pipe"):
        assert name in found.found, found.found


def test_no_folder_is_the_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(PunaError, match="is no folder"):
        check_release(tmp_path / "nothing")


def test_what_each_check_leaves_open_is_said(tmp_path: Path) -> None:
    for check in check_release(stranger(tmp_path / "r", {})):
        assert check.proves and check.leaves_open and json.dumps(check.found)
