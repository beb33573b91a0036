"""The script ./puna, with a stand-in for pip only: what it says, redoes, waits for and leaves alone.

The stand-in is a Python whose `-m pip` writes a line to a log, takes as long as it is told to and fails when it is told
to; everything else is the real script, the real venv module and the real locks.
"""

import os
import pty
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BASE = Path(sys.base_prefix) / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}"

STAND_IN = """#!/bin/sh
# As the base it makes environments that hold this same script as their python; in one it runs the real Python there.
home=$(dirname "$0")
case "$*" in
*"-m venv "*)
    for place; do :; done
    "{base}" -I -m venv --without-pip "$place" || exit 1
    mv "$place/bin/python" "$place/bin/real"
    cp "$0" "$place/bin/python" ;;
*"-m pip "*)
    for lock; do :; done
    wait=$(cat "{slow}" 2>/dev/null) # before the line that a test waits for
    echo "pip ${{lock##*/}}" >>"{log}"
    echo "Collecting something"
    sleep "${{wait:-0}}"
    [ ! -e "{broken}" ] || {{ echo "ERROR: $(cat "{broken}")" >&2; exit 1; }}
    echo "end ${{lock##*/}}" >>"{log}" ;;
*"-m uv "*) echo "uv $*" >>"{log}" ;;
*"import torch, puna"*) exit 0 ;;
*"-m puna "*) echo "ran $*" ;;
*) if [ -e "$home/real" ]; then exec "$home/real" "$@"; else exec "{base}" "$@"; fi ;;
esac
"""


class Door:
    """A folder that looks like a fresh clone, and a stand-in Python beside it."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "clone with a space"
        self.root.mkdir()
        shutil.copy(ROOT / "puna", self.root / "puna")
        shutil.copytree(ROOT / "requirements", self.root / "requirements")
        (self.root / "src").mkdir()
        self.log, self.slow, self.broken = folder / "log", folder / "slow", folder / "broken"
        self.python = folder / "python"
        self.python.write_text(STAND_IN.format(base=BASE, log=self.log, slow=self.slow, broken=self.broken))
        self.python.chmod(0o755)
        self.stamp = self.root / ".venv" / "puna-installed"

    def environment(self, **extra: str) -> dict[str, str]:
        return {"PATH": os.environ["PATH"], "PUNA_PYTHON": str(self.python), "PUNA_TORCH": "cpu"} | extra

    def start(self, *args: str, **extra: str) -> "subprocess.Popen[str]":
        return subprocess.Popen([str(self.root / "puna"), *args], env=self.environment(**extra), text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)  # fmt: skip

    def run(self, *args: str, **extra: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [str(self.root / "puna"), *args], env=self.environment(**extra), text=True, capture_output=True
        )

    def lines(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []

    def wait_for_line(self, line: str) -> None:
        end = time.monotonic() + 20
        while line not in self.lines():
            assert time.monotonic() < end, f"{line!r} never came: {self.lines()}"
            time.sleep(0.02)


WHOLE = ["pip torch-cpu.txt", "end torch-cpu.txt", "pip puna.txt", "end puna.txt"]


@pytest.fixture
def door(tmp_path: Path) -> Door:
    return Door(tmp_path)


def test_first_call_installs_and_the_second_does_not(door: Door) -> None:
    first = door.run("make", "--set", "a=b c", "")
    assert (first.returncode, first.stdout) == (0, "ran -P -m puna make --set a=b c \n"), first.stderr
    for number in range(1, 5):
        assert f"[{number}/4]" in first.stderr
    assert door.lines() == WHOLE
    second = door.run("make")
    assert (second.stdout, second.stderr) == ("ran -P -m puna make\n", "")
    assert door.lines() == WHOLE


def test_from_any_folder_and_through_links(door: Door, tmp_path: Path) -> None:
    door.run("--help")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "one").symlink_to(os.path.relpath(door.root / "puna", tmp_path / "bin"))
    (tmp_path / "two").symlink_to("bin/one")
    (tmp_path / "three").symlink_to(tmp_path / "two")
    for call in (["./two"], [str(tmp_path / "three")], ["sh", "bin/one"]):
        done = subprocess.run([*call, "plan"], cwd=tmp_path, env=door.environment(), capture_output=True, text=True)
        assert (done.stdout, done.stderr) == ("ran -P -m puna plan\n", ""), call
    assert door.lines() == WHOLE


@pytest.mark.parametrize("at", ["pip torch-cpu.txt", "pip puna.txt"])
def test_cut_off_installation_is_redone(door: Door, at: str) -> None:
    door.slow.write_text("1")
    process = door.start("--help")
    door.wait_for_line(at)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert not door.stamp.exists()
    door.slow.unlink()
    door.log.unlink()
    again = door.run("--help")
    assert (again.returncode, again.stdout) == (0, "ran -P -m puna --help\n"), again.stderr
    assert door.lines() == WHOLE
    assert not list(door.root.glob(".venv.puna-old"))


def test_torn_stamp_and_changed_lock_install_again(door: Door) -> None:
    door.run("--help")
    whole = door.stamp.read_bytes()
    for torn in (b"", whole[: len(whole) // 2], whole[:-3], b"\0" * len(whole)):
        door.stamp.write_bytes(torn)
        door.log.unlink()
        assert door.run("--help").returncode == 0
        assert door.lines() == WHOLE
        assert door.stamp.read_bytes() == whole
    with open(door.root / "requirements" / "puna.txt", "a") as lock:
        lock.write("# a newer lock\n")
    door.log.unlink()
    assert "[1/4]" in door.run("--help").stderr
    assert door.lines() == WHOLE


def test_two_first_calls_install_once(door: Door) -> None:
    door.slow.write_text("3")
    first = door.start("a")
    door.wait_for_line("pip torch-cpu.txt")
    second = door.start("b")
    (out_1, err_1), (out_2, err_2) = first.communicate(), second.communicate()
    assert (first.returncode, second.returncode) == (0, 0), err_1 + err_2
    assert (out_1, out_2) == ("ran -P -m puna a\n", "ran -P -m puna b\n")
    assert "another ./puna is installing here" in err_2
    assert door.lines() == WHOLE


def test_orphaned_pip_is_waited_for(door: Door) -> None:
    door.slow.write_text("6")  # long beside the second's start, also on a busy machine
    first = door.start("a")
    door.wait_for_line("pip puna.txt")
    os.kill(first.pid, signal.SIGKILL)  # the script alone: its pip goes on
    door.slow.unlink()
    second = door.run("b")
    first.communicate()
    assert second.stdout == "ran -P -m puna b\n", second.stderr
    assert "another ./puna is installing here" in second.stderr
    assert door.lines() == WHOLE + WHOLE  # the orphan ended before the second began


def test_pip_error_is_shown_and_leaves_no_stamp(door: Door) -> None:
    door.broken.write_text("THESE PACKAGES DO NOT MATCH THE HASHES")
    done = door.run("--help")
    assert done.returncode == 1
    assert "DO NOT MATCH THE HASHES" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("puna: torch could not be installed")
    assert door.lines() == ["pip torch-cpu.txt"]  # a wrong digest is never a reason to look elsewhere
    assert not door.stamp.exists()


def test_uv_is_asked_where_pip_knows_no_cpu_build(door: Door) -> None:
    door.broken.write_text("No matching distribution found for torch==2.13.0+cpu")
    done = door.run("--help")
    assert door.lines() == ["pip torch-cpu.txt", "pip uv.txt"]
    assert "asking uv" in done.stderr
    door.log.unlink()
    door.slow.write_text("0.5")
    process = door.start("--help")
    door.wait_for_line("pip uv.txt")
    door.broken.unlink()
    assert process.wait() == 0
    process.communicate()
    asked = next(line for line in door.lines() if line.startswith("uv "))
    assert "--torch-backend=cpu --require-hashes" in asked


def test_gpu_build_where_there_is_a_driver(door: Door, tmp_path: Path) -> None:
    (tmp_path / "driver").mkdir()
    (tmp_path / "driver" / "nvidia-smi").write_text("#!/bin/sh\n")
    (tmp_path / "driver" / "nvidia-smi").chmod(0o755)
    with_driver = {"PUNA_TORCH": "", "PATH": f"{tmp_path / 'driver'}:{os.environ['PATH']}"}
    without = {"PUNA_TORCH": ""}
    if Path("/proc/driver/nvidia").exists() or shutil.which("nvidia-smi"):
        without = {"PUNA_TORCH": "cpu"}
    door.run("a", **without)
    assert door.lines()[0] == "pip torch-cpu.txt"
    door.log.unlink()
    door.run("a", **with_driver)
    assert door.lines()[0] == "pip torch-gpu.txt"
    door.log.unlink()
    if not without["PUNA_TORCH"]:
        assert door.run("a", **without).stderr == ""  # the driver is gone for now: the GPU build stays
        assert door.lines() == []


def test_terminal_shows_what_pip_shows(door: Door) -> None:
    ours, theirs = pty.openpty()
    with open(ours, "rb", buffering=0) as screen:
        process = subprocess.Popen(
            [str(door.root / "puna"), "a"], env=door.environment(), stdout=subprocess.PIPE, stderr=theirs
        )
        out, _ = process.communicate()
        os.close(theirs)
        shown = screen.read(65536).decode()
    assert (process.returncode, out) == (0, b"ran -P -m puna a\n")
    assert shown.count("Collecting something") == 2
    assert door.lines() == WHOLE


@pytest.mark.parametrize(
    ("extra", "what"),
    [
        ({"PUNA_PYTHON": "/nonexistent/python"}, "PUNA_PYTHON is '/nonexistent/python'"),
        ({"PUNA_TORCH": "rocm"}, "PUNA_TORCH is 'rocm'"),
    ],
)
def test_wrong_settings_are_one_line_and_exit_2(door: Door, extra: dict[str, str], what: str) -> None:
    done = door.run("make", **extra)
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert what in done.stderr
    assert not (door.root / ".venv").exists()


def _path_with(folder: Path, **commands: str) -> str:
    """A PATH with the tools that the script needs and these commands, and no other Python."""
    folder.mkdir()
    for tool in ("sh", "uname", "cksum", "readlink", "date", "grep", "mkdir", "rmdir", "rm", "mv", "cat"):
        (folder / tool).symlink_to(shutil.which(tool) or f"/bin/{tool}")
    for name, body in commands.items():
        (folder / name).write_text(f"#!/bin/sh\n{body}\n")
        (folder / name).chmod(0o755)
    return str(folder)


@pytest.mark.parametrize(
    ("commands", "what"),
    [
        ({}, "no Python 3.11 to 3.13 found"),
        ({"python3": "exit 3", "python3.13": "exit 127"}, "no Python 3.11 to 3.13 found"),
        ({"python3.12": "exit 1", "python3": "exit 3"}, "python3.12 has no venv module"),
    ],
)
def test_no_fit_python_is_one_line_and_exit_2(door: Door, tmp_path: Path, commands: dict[str, str], what: str) -> None:
    done = door.run("make", PUNA_PYTHON="", PATH=_path_with(tmp_path / "tools", **commands))
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert what in done.stderr
    assert not (door.root / ".venv").exists()


def test_an_environment_of_somebody_else_is_left_alone(door: Door) -> None:
    (door.root / ".venv").mkdir()
    (door.root / ".venv" / "mine").write_text("precious")
    done = door.run("make")
    assert done.returncode == 2
    assert "was not made by ./puna" in done.stderr
    assert (door.root / ".venv" / "mine").read_text() == "precious"


def test_settings_of_the_user_do_not_send_packages_elsewhere(door: Door, tmp_path: Path) -> None:
    text = (ROOT / "puna").read_text()
    assert "PIP_TARGET" in text
    seen = tmp_path / "seen"
    door.python.write_text(door.python.read_text().replace('echo "Collecting something"', f'env >>"{seen}"'))
    done = door.run("make", PIP_TARGET="/elsewhere", PIP_PREFIX="/elsewhere", PIP_USER="1", PIP_INDEX_URL="kept")
    assert done.returncode == 0, done.stderr
    assert "/elsewhere" not in seen.read_text()
    assert "PIP_USER" not in seen.read_text()
    assert "PIP_INDEX_URL=kept" in seen.read_text()


def test_script_is_posix() -> None:
    text = (ROOT / "puna").read_text()
    assert text.startswith("#!/bin/sh\n")
    assert os.access(ROOT / "puna", os.X_OK)
    for shell in filter(shutil.which, ("dash", "bash", "busybox")):
        command = (
            ["busybox", "sh", "-n"] if shell == "busybox" else [shell, *(["--posix"] if shell == "bash" else []), "-n"]
        )
        assert subprocess.run([*command, str(ROOT / "puna")], capture_output=True).returncode == 0, shell
