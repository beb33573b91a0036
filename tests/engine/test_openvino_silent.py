"""OpenVINO's package tells Google Analytics when it is imported, unless somebody opted out. With our reader it must not."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


def imported(module: str, home: Path) -> list[str]:
    """What a process that imports `module` leaves in its home: openvino_telemetry writes its client's number there before it sends."""
    home.mkdir()
    kept = {
        key: value for key, value in os.environ.items() if key not in ("CI", "TF_BUILD", "JENKINS_URL")
    }  # it is off in CI
    code = f"import {module}, sys; print('openvino' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], env={**kept, "HOME": str(home)}, capture_output=True, text=True)  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr
    return sorted(path.name for path in home.rglob("*") if path.is_file())


def test_our_reader_imports_openvino_and_nothing_is_sent(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    assert imported("puna.engine.openvino", tmp_path / "home") == []
