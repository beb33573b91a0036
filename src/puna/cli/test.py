"""`puna test`: the project's tests, run by pytest in a process of its own.

In: pytest's arguments. Out: its output, and an exit code. Must never happen: a test that sees the network's hubs, a
dependency that sends telemetry, or another checkout's code under test.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

from puna.errors import EXIT_INTERNAL, EXIT_OK, EXIT_USER, PunaError

_USER_MISTAKES = (4, 5)  # pytest: wrong usage, no test selected
_QUIET = {
    "DO_NOT_TRACK": "1",
    "DAFT_ANALYTICS_ENABLED": "0",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


def run_tests(args: list[str]) -> int:
    """Run pytest on the checkout that this package is in; paths in `args` count from its root.

    Returns 0 where all passed, 2 where pytest was called wrongly or selected no test, 1 otherwise.
    Raises `PunaError` where there is no checkout (an installed package has no tests) or no pytest.
    """
    root = checkout()
    if importlib.util.find_spec("pytest") is None:
        raise PunaError("pytest is not installed", where="puna test", mend="use ./puna test, or pip install '.[test]'")
    command = [sys.executable, "-P", "-m", "pytest", *args]
    code = subprocess.run(command, cwd=root, env=os.environ | _QUIET, check=False).returncode
    return EXIT_OK if code == 0 else EXIT_USER if code in _USER_MISTAKES else EXIT_INTERNAL


def checkout() -> Path:
    """The root of the checkout that this package runs from. Raises `PunaError` outside one."""
    root = Path(__file__).resolve().parents[3]
    if not ((root / "tests").is_dir() and (root / "pyproject.toml").is_file() and (root / "src" / "puna").is_dir()):
        raise PunaError("the tests are not part of an installed package", where="puna test",
                        mend="clone the repository and run ./puna test there")  # fmt: skip
    return root
