"""How quickly Puna answers: what `import puna`, `puna --help` and the script add.

Measured in processor seconds of the process and its children, the best of several: a start is all computing, so on an
idle machine that is what the clock shows, and on a busy one it is still the code's own cost.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
VENV = ROOT / ".venv"
TIMES = 7
ENVIRONMENT = {"PYTHONPATH": str(ROOT / "src"), "PATH": os.environ["PATH"]}


def best_of(*commands: list[str]) -> list[float]:
    """The fewest processor seconds of each command, run in turns so that all see the same machine."""
    best = [float("inf")] * len(commands)
    for _ in range(TIMES):
        for number, command in enumerate(commands):
            process = subprocess.Popen(
                command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=ENVIRONMENT
            )
            _, status, used = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            assert process.stderr is not None
            with process.stderr as stream:
                assert process.returncode == 0, stream.read().decode()
            best[number] = min(best[number], used.ru_utime + used.ru_stime)
    return best


def test_import_is_light() -> None:
    nothing, puna = best_of([sys.executable, "-c", "pass"], [sys.executable, "-c", "import puna"])
    assert puna - nothing < 0.1


def test_help_is_quick() -> None:
    (seconds,) = best_of([sys.executable, "-P", "-m", "puna", "--help"])
    assert seconds < 0.3


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys\nsys.argv = ['puna', '--help']\n"
        "try:\n    import puna.__main__\nexcept SystemExit: pass\n"
        "print([name for name in ('torch', 'numpy', 'daft', 'pyarrow', 'transformers', 'tokenizers', 'jinja2', 'jaxtyping')"
        " if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True,
                          env=ENVIRONMENT)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "make" in done.stdout
    assert done.stderr.strip() == "[]"


@pytest.mark.skipif(not (VENV / "puna-installed").exists(), reason="./puna has not made .venv here")
def test_script_adds_under_a_tenth_of_a_second() -> None:
    direct, script = best_of(
        [str(VENV / "bin" / "python"), "-P", "-m", "puna", "--version"], [str(ROOT / "puna"), "--version"]
    )
    assert script - direct < 0.1
