"""How quickly Puna answers: what `import puna`, `puna --help` and the script add. Best of several, so a busy machine is
no reason to fail; the fastest run is the code's own cost."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
VENV = ROOT / ".venv"
TIMES = 9


def best_of(*commands: list[str]) -> list[float]:
    """The shortest wall-clock seconds of each command, run in turns so that all see the same machine."""
    best = [float("inf")] * len(commands)
    for _ in range(TIMES):
        for number, command in enumerate(commands):
            begin = time.perf_counter()
            subprocess.run(command, cwd=ROOT, capture_output=True, check=True, env={"PYTHONPATH": str(ROOT / "src")})
            best[number] = min(best[number], time.perf_counter() - begin)
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
                          env={"PYTHONPATH": str(ROOT / "src")})  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "make" in done.stdout
    assert done.stderr.strip() == "[]"


@pytest.mark.skipif(not (VENV / "puna-installed").exists(), reason="./puna has not made .venv here")
def test_script_adds_under_a_tenth_of_a_second() -> None:
    direct, script = best_of(
        [str(VENV / "bin" / "python"), "-P", "-m", "puna", "--version"], [str(ROOT / "puna"), "--version"]
    )
    assert script - direct < 0.1
