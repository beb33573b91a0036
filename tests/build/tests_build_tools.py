"""Running a build as a process of its own, and comparing what it left."""

import os
import subprocess
import sys
from pathlib import Path

from puna.files import file_sha256


def command(*arguments: str) -> list[str]:
    """`puna make tiny.toml` as a process of its own."""
    return [sys.executable, "-m", "puna", "make", "tiny.toml", *arguments]


def make(place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the build to its end."""
    environment = {**os.environ, "COLUMNS": "80"}
    return subprocess.run(command(*arguments), cwd=place, capture_output=True, text=True, timeout=600, env=environment)


def hashes(run: Path) -> dict[str, str]:
    """The digests of a run's released weights."""
    folders = ("release", "release/base")
    return {folder: file_sha256(run / folder / "model.safetensors") for folder in folders}
