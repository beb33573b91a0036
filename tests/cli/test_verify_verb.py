"""`puna verify` as a user meets it: keys, findings in a stranger's folder, and one clear line for each mistake."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

ENVIRONMENT = {**os.environ, "COLUMNS": "80", "NO_COLOR": "1"}


def puna(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "puna", "verify", *arguments], cwd=cwd, capture_output=True, text=True, env=ENVIRONMENT,
                          timeout=300)  # fmt: skip


@pytest.fixture
def stranger(tmp_path: Path) -> Path:
    """A folder that says it is a release, with a file whose name would turn the text round."""
    record = tmp_path / "theirs" / "puna"
    record.mkdir(parents=True)
    (record / "MANIFEST.json").write_text('{"files": {"../../etc/passwd": {"bytes": 1, "sha256": "00"}}}')
    (record / "ledger.jsonl").write_text("{}\n")
    (record.parent / "evil\u202e\x1b[31m.py").write_text("")
    return record.parent


def test_a_strangers_release_fails_check_by_check_and_nothing_steers_the_terminal(
    stranger: Path, tmp_path: Path
) -> None:
    done = puna("theirs", cwd=tmp_path)
    assert done.returncode == 1 and done.stderr == ""
    assert "leads out of the folder" in done.stdout and "checks failed: files, chain, root" in done.stdout
    assert "\x1b" not in done.stdout and "\u202e" not in done.stdout
    assert "Fingerprint none: the ledger is broken" in done.stdout
    done = puna("theirs", "--step0", "--replay", "2", "--json", cwd=tmp_path)
    told = json.loads(done.stdout)
    assert done.returncode == 1 and {"step0", "replay"} <= {
        check["name"] for check in told["checks"] if check["state"] == "failed"
    }
    assert all(check["proves"] and check["leaves_open"] for check in told["checks"])


def test_a_pair_of_keys_is_made_once_and_is_the_owners(tmp_path: Path) -> None:
    pytest.importorskip("model_signing", reason="the extra `sign` is not installed")
    done = puna("--new-key", "我的.pem", cwd=tmp_path)
    assert done.returncode == 0 and "keep it secret" in done.stdout
    assert stat.S_IMODE((tmp_path / "我的.pem").stat().st_mode) == 0o600
    assert "PUBLIC KEY" in (tmp_path / "我的.pem.pub").read_text()
    again = puna("--new-key", "我的.pem", cwd=tmp_path)
    assert again.returncode == 2 and "is there already" in again.stderr and len(again.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "names no release"),
        (("nothing",), "no such release and no such run"),
        (("empty",), "holds no record"),
        (("theirs", "--run", "empty"), "is no run"),
        (("theirs", "--replay", "-1"), "--replay"),
        (("theirs", "--sign", "absent.pem"), "no such file"),
        (("theirs", "--key", "theirs/puna/ledger.jsonl"), "is no public key"),
    ],
)
def test_a_mistake_is_one_line(stranger: Path, tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    if "--sign" in arguments or "--key" in arguments:
        pytest.importorskip("model_signing", reason="the extra `sign` is not installed")
    (tmp_path / "empty").mkdir()
    done = puna(*arguments, cwd=tmp_path)
    assert done.returncode == 2 and done.stdout == "" and len(done.stderr.splitlines()) == 1 and said in done.stderr, (
        done.stderr
    )
