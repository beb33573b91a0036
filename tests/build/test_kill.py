"""Kill -9 at random moments: the build always finishes when run again, with the same weights."""

import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
from tests_build_tools import command, hashes, make  # type: ignore[import-not-found]


def killed_builds(place: Path, kills: int, seed: int) -> None:
    """Compare a build that was killed `kills` times with one that was not."""
    start = time.monotonic()
    done = make(place, "--runs", "whole")
    assert done.returncode == 0, done.stderr
    usual = time.monotonic() - start
    moments = random.Random(seed)
    for _ in range(kills):
        process = subprocess.Popen(command(), cwd=place, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        try:
            process.wait(timeout=moments.uniform(0.1, usual / 2))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            assert process.stderr is not None
        else:
            assert process.returncode == 0, process.stderr.read() if process.stderr else ""
    done = make(place)
    assert done.returncode == 0, done.stderr
    assert hashes(place / "runs" / "tiny") == hashes(place / "whole" / "tiny")
    assert not list((place / "runs").rglob("*.tmp"))


def test_a_build_killed_four_times_ends_with_the_same_bytes(workplace: Path) -> None:
    killed_builds(workplace, 4, seed=1)


@pytest.mark.slow
def test_a_build_killed_twenty_times_ends_with_the_same_bytes(workplace: Path) -> None:
    killed_builds(workplace, 20, seed=2)
