"""Two real builds, one with planted items: the whole way from the recipe to the flag."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

HOME = Path(__file__).resolve().parents[3]
DATA = HOME.parent / "shared" / "data"


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not (DATA / "evals" / "llm_foundry").is_dir(), reason="the task's files are not here (shared/data)")
def test_planted_items_are_flagged_and_learnt_and_others_are_not(tmp_path: Path) -> None:
    pytest.importorskip("lm_eval")
    out = tmp_path / "out.json"
    small = [
        "--items",
        "40",
        "--copies",
        "40",
        "--tokens",
        "400000",
        "--size",
        "500K",
        "--chars",
        "600000",
        "--draws",
        "2000",
    ]
    command = [
        sys.executable,
        str(HOME / "bench" / "contamination_planted.py"),
        "--data",
        str(DATA),
        *small,
        "--out",
        str(out),
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=1700)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    found = json.loads(out.read_text(encoding="utf-8"))
    assert (found["flagged_of_planted"], found["flagged_of_others"], found["flagged_without"]) == (40, 0, 0)
    assert found["split"]["planted"]["difference"] > 0.2 and found["split"]["planted"]["p"] < 0.01
    assert found["difference_in_differences"]["interval"][0] > 0
    assert found["minkpp"]["planted"]["auc"] > 0.7 and found["minkpp_beside_control"]["interval"][0] > 0
    assert found["examples"][0]["places"][0]["source"].startswith("page-")
