"""The ledger: every change is found, a torn last line is mended and told."""

import hashlib
import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from puna.errors import PunaError
from puna.files import canonical_json, digest_of
from puna.ledger import Ledger, check_seed, new_salt, seed_commitment, verify


def filled(path: Path, count: int = 4) -> Ledger:
    ledger = Ledger(path)
    for number in range(count):
        ledger.append("stage", {"name": f"阶段 {number}", "loss": 1.5 / (number + 1)})
    return ledger


def test_chain_links_and_verifies(tmp_path: Path) -> None:
    ledger = filled(tmp_path / "ledger.jsonl")
    entries = ledger.entries()
    assert [entry["n"] for entry in entries] == [0, 1, 2, 3]
    assert entries[0]["previous"] == "0" * 64
    assert all(after["previous"] == before["hash"] for before, after in pairwise(entries))
    assert entries[0]["time"].endswith("Z")
    found = verify(ledger.path)
    assert (found.entries, found.head, found.torn_bytes) == (4, entries[-1]["hash"], 0)


def test_a_second_process_goes_on_where_the_first_stopped(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    first = filled(path, 2)
    Ledger(path).append("stage", {"who": "second"})
    first.append("stage", {"who": "first"})  # its cached state is stale by now
    assert verify(path).entries == 4


@pytest.mark.parametrize("line", [0, 1, 3])
def test_a_changed_body_names_its_line(tmp_path: Path, line: int) -> None:
    path = filled(tmp_path / "ledger.jsonl").path
    lines = path.read_bytes().splitlines(keepends=True)
    lines[line] = lines[line].replace(b"stage", b"stagf")
    path.write_bytes(b"".join(lines))
    with pytest.raises(PunaError, match=rf"ledger\.jsonl:{line + 1}: .*changed"):
        verify(path)


def test_removed_moved_and_rehashed_lines_are_found(tmp_path: Path) -> None:
    path = filled(tmp_path / "ledger.jsonl").path
    lines = path.read_bytes().splitlines(keepends=True)
    for bad in ([0, 2, 3], [1, 0, 2, 3], [0, 1, 1, 2, 3], [1, 2, 3]):
        path.write_bytes(b"".join(lines[number] for number in bad))
        with pytest.raises(PunaError, match="chain is broken"):
            verify(path)
    entry = json.loads(lines[1])
    entry["body"]["loss"] = 0.0
    entry["hash"] = digest_of({key: value for key, value in entry.items() if key != "hash"})
    path.write_bytes(lines[0] + canonical_json(entry) + b"\n" + lines[2])
    with pytest.raises(PunaError, match=r":3: the chain is broken"):
        verify(path)


def test_other_spellings_of_an_entry_are_refused(tmp_path: Path) -> None:
    path = filled(tmp_path / "ledger.jsonl", 1).path
    line = path.read_bytes()
    for bad in (line.replace(b'"n":0', b'"n": 0'), line.replace(b'{"body"', b'{"body":{},"body"', 1), b"[]\n", b"1e999\n",
                b"[" * 100_000 + b"\n", b"\xff\n", b"\n"):  # fmt: skip
        path.write_bytes(bad)
        with pytest.raises(PunaError, match=":1: "):
            verify(path)


def test_torn_last_line_is_repaired_with_a_note(tmp_path: Path) -> None:
    whole = filled(tmp_path / "ledger.jsonl").path.read_bytes()
    last = len(whole.splitlines(keepends=True)[-1])
    for cut in (1, 2, last // 2, last - 1):
        path = tmp_path / f"torn{cut}.jsonl"
        path.write_bytes(whole[:-cut])
        torn = whole[:-cut][-(last - cut) :]
        assert verify(path).torn_bytes == last - cut
        assert verify(path).entries == 3
        Ledger(path).append("stage", {"after": True})
        entries = Ledger(path).entries()
        assert [entry["kind"] for entry in entries] == ["stage"] * 3 + ["repair", "stage"]
        assert entries[3]["body"]["bytes"] == last - cut
        assert entries[3]["body"]["sha256"] == hashlib.sha256(torn).hexdigest()


def test_append_refuses_a_broken_chain(tmp_path: Path) -> None:
    path = filled(tmp_path / "ledger.jsonl").path
    path.write_bytes(path.read_bytes().replace(b"stage", b"stagf", 1))
    before = path.read_bytes()
    with pytest.raises(PunaError, match=":1: "):
        Ledger(path).append("stage", {})
    assert path.read_bytes() == before


def test_no_ledger_is_a_plain_mistake(tmp_path: Path) -> None:
    with pytest.raises(PunaError, match="no ledger"):
        verify(tmp_path / "none.jsonl")
    assert Ledger(tmp_path / "none.jsonl").entries() == []


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3), max_leaves=8,
)  # fmt: skip


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(bodies=st.lists(st.dictionaries(st.text(max_size=8), json_values, max_size=3), min_size=1, max_size=3))
def test_any_json_body_survives(tmp_path: Path, bodies: list[dict]) -> None:
    path = tmp_path / "any.jsonl"
    path.unlink(missing_ok=True)
    ledger = Ledger(path)
    for body in bodies:
        ledger.append("any", body)
    assert [entry["body"] for entry in ledger.entries()] == bodies


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=300))
def test_hostile_bytes_never_crash(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "hostile.jsonl"
    path.write_bytes(data)
    line = ""
    try:
        entries = verify(path).entries
    except PunaError as problem:
        entries, line = 0, problem.line()
    assert entries == 0
    assert not line or ":1: " in line


def test_seed_commitment_binds_and_hides() -> None:
    salt = "ab" * 32
    assert seed_commitment(1234, salt) == hashlib.sha256(bytes.fromhex(salt) + b"1234").hexdigest()
    check_seed(seed_commitment(7, salt), 7, salt)
    with pytest.raises(PunaError, match="not the one"):
        check_seed(seed_commitment(7, salt), 8, salt)
    for bad in ("", "zz" * 32, "ab" * 31, " " + "ab" * 32):
        with pytest.raises(PunaError, match="salt"):
            seed_commitment(7, bad)
    with pytest.raises(PunaError, match="negative"):
        seed_commitment(-1, salt)
    assert len(new_salt()) == 64
    assert new_salt() != new_salt()


def test_ledger_imports_no_torch() -> None:
    code = "import sys, puna.ledger; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
