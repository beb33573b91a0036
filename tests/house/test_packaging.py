"""`pip install .` in an environment of the user's own: everything that is no Python file comes along too."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from puna.cli.test import checkout, run_tests

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that `pip install --target` filled from a copy of the tree (the build writes beside its sources)."""
    folder = tmp_path_factory.mktemp("packaging")
    copy, target = folder / "copy", folder / "target"
    skipped = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(ROOT / "src", copy / "src", ignore=skipped, symlinks=True)
    shutil.copytree(ROOT / "recipes", copy / "recipes")
    for name in ("pyproject.toml", "LICENSE", "README.md"):
        shutil.copy(ROOT / name, copy / name)
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--target",
        str(target),
        str(copy),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return target


@pytest.mark.slow
def test_every_file_of_the_package_is_installed(installed: Path) -> None:
    def files(folder: Path) -> set[str]:
        paths = (
            path for pattern in ("*", "*/*", "*/*/*", "*/*/*/*") for path in folder.glob(pattern) if path.is_file()
        )
        return {str(path.relative_to(folder)) for path in paths if "__pycache__" not in path.parts}

    assert files(installed / "puna") == files(ROOT / "src" / "puna")
    assert (installed / "puna" / "recipes" / "python.toml").is_file()
    assert list((installed / "puna" / "report").rglob("*.j2"))


@pytest.mark.slow
def test_installed_command_answers(installed: Path, tmp_path: Path) -> None:
    def puna(*args: str) -> "subprocess.CompletedProcess[str]":
        environment = {"PYTHONPATH": str(installed), "PATH": os.environ["PATH"], "HOME": str(tmp_path)}
        return subprocess.run(
            [sys.executable, "-P", "-m", "puna", *args], cwd=tmp_path, capture_output=True, text=True, env=environment
        )

    version = puna("--version")
    assert version.stdout.startswith("puna "), version.stderr
    refused = puna("test")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "not part of an installed package" in refused.stderr


def test_tests_run_in_the_checkout(capfd: pytest.CaptureFixture[str]) -> None:
    assert checkout() == ROOT
    assert run_tests(["--collect-only", "-q", "tests/house/test_packaging.py", "-m", ""]) == 0
    assert "test_installed_command_answers" in capfd.readouterr().out
    assert run_tests(["--collect-only", "-q", "tests/house/no_such_file.py"]) == 2
