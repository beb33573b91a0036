"""A build small enough for a test: real text, every stage, seconds."""

import json
import os
import signal
import subprocess
import sys
import sysconfig
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # helpers of several test files: tests_*.py

from tests_verify_tampering import SHORT

from puna.files import file_sha256

RECIPE = """\
name = "tiny"
seed = 5
[corpus]
sources = ["text"]
[tokenizer]
vocab_size = 512
[model]
size = "500K"
dim = 64
layers = 2
context = 64
[train]
tokens = 60000
batch_tokens = 512
checkpoint_seconds = 0.3
[[tune]]
data = "chat.jsonl"
epochs = 4
batch_tokens = 256
[judge]
bootstrap = 100
compressors = false
"""
MODULES = (
    "argparse",
    "ast",
    "bisect",
    "calendar",
    "copy",
    "csv",
    "difflib",
    "enum",
    "heapq",
    "inspect",
    "pprint",
    "shlex",
)


@dataclass(frozen=True)
class Workplace:
    """A folder with `tiny.toml` and what it reads, and the ways in which tests run it."""

    path: Path

    def command(self, *arguments: str) -> list[str]:
        """`puna make tiny.toml` as a process of its own."""
        return [sys.executable, "-m", "puna", "make", "tiny.toml", *arguments]

    def make(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the build to its end."""
        environment = {**os.environ, "COLUMNS": "80"}
        return subprocess.run(
            self.command(*arguments), cwd=self.path, capture_output=True, text=True, timeout=600, env=environment
        )

    def hashes(self, runs: str = "runs") -> dict[str, str]:
        """The digests of the released weights under a folder of runs."""
        run = self.path / runs / "tiny"
        return {folder: file_sha256(run / folder / "model.safetensors") for folder in ("release", "release/base")}


@pytest.fixture
def workplace(tmp_path: Path) -> Workplace:
    """A folder with `tiny.toml`, the source of some library modules as text, and conversations in two languages."""
    return furnished(tmp_path)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    """A workplace whose build is done, shorter than `workplace`'s: to be copied and not changed.

    It was killed with -9 in the middle of pretraining and again of tuning, each just after a checkpoint that stays.
    """
    place = furnished(tmp_path_factory.mktemp("finished"))
    for stage, step in (("pretrain", 9), ("tune-0", 106)):
        process = subprocess.Popen(
            place.command(*SHORT), cwd=place.path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        while process.poll() is None:
            if list(place.path.glob(f"runs/tiny/.work/{stage}-*/milestones/step_{step:08d}")):
                process.kill()
                break
            time.sleep(0.002)
        assert process.wait() == -signal.SIGKILL, "the build ended before it was killed"
    done = place.make(*SHORT)
    assert done.returncode == 0, done.stderr
    return place


def furnished(tmp_path: Path) -> Workplace:
    """The files of a workplace in an empty folder."""
    library, text = Path(sysconfig.get_path("stdlib")), tmp_path / "text"
    text.mkdir()
    for module in MODULES:
        (text / f"{module}.txt").write_text((library / f"{module}.py").read_text(encoding="utf-8"), encoding="utf-8")
    rows = []
    for n in range(200):
        module = MODULES[n % len(MODULES)]
        asked, answer = (
            (f"What is {module}?", f"A module: {module}.") if n % 2 else (f"{module} 是什么？", f"一个模块：{module}。")
        )
        rows.append({"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]})
    (tmp_path / "chat.jsonl").write_text(
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8"
    )
    (tmp_path / "tiny.toml").write_text(RECIPE)
    return Workplace(tmp_path)
