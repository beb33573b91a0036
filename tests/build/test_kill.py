"""Kill -9 at random moments: the build always finishes when run again, with the same weights."""

import random
import signal
import subprocess
import time
from typing import Any

import pytest


def killed_builds(place: Any, kills: int, seed: int) -> None:
    """Compare a build that was killed `kills` times with one that was not."""
    start = time.monotonic()
    done = place.make("--runs", "whole")
    assert done.returncode == 0, done.stderr
    usual = time.monotonic() - start
    moments = random.Random(seed)
    for _ in range(kills):
        process = subprocess.Popen(
            place.command(), cwd=place.path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        try:
            process.wait(timeout=moments.uniform(0.1, usual / 2))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            assert process.stderr is not None
        else:
            assert process.returncode == 0, process.stderr.read() if process.stderr else ""
    done = place.make()
    assert done.returncode == 0, done.stderr
    assert place.hashes("runs") == place.hashes("whole")
    assert not list((place.path / "runs").rglob("*.tmp"))


@pytest.mark.timeout(1200)  # a minute or two on a quiet machine
def test_a_build_killed_four_times_ends_with_the_same_bytes(workplace: Any) -> None:
    killed_builds(workplace, 4, seed=1)


@pytest.mark.slow
@pytest.mark.timeout(1200)  # a minute or two on a quiet machine
def test_a_build_killed_twenty_times_ends_with_the_same_bytes(workplace: Any) -> None:
    killed_builds(workplace, 20, seed=2)
