"""The log loses nothing and counts nothing twice."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from puna.errors import PunaError
from puna.train.metrics import MetricsLog, read_metrics


def test_the_last_row_of_a_step_counts(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    for steps in (range(5), range(3, 7)):
        with MetricsLog(path) as log:
            for step in steps:
                log.write({"step": step, "loss": 10.0 * len(steps) + step})
    rows = read_metrics(path)
    assert [row["step"] for row in rows] == list(range(7))
    assert [row["loss"] for row in rows] == [50.0, 51.0, 52.0, 43.0, 44.0, 45.0, 46.0]
    assert len(path.read_bytes().splitlines()) == 9  # nothing was taken away


@given(cut=st.integers(0, 90))
def test_a_kill_in_the_middle_of_a_line(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    path = tmp_path_factory.mktemp("log") / "m.jsonl"
    with MetricsLog(path) as log:
        for step in range(5):
            log.write({"step": step, "loss": 1.5})
    data = path.read_bytes()[:cut]
    path.write_bytes(data)
    kept = data.count(b"\n")
    assert len(read_metrics(path)) == kept
    with MetricsLog(path) as log:
        log.write({"step": kept, "loss": 2.0})
    assert [row["step"] for row in read_metrics(path)] == list(range(kept + 1))


def test_a_broken_line_inside_is_named(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text('{"step": 0}\nnonsense\n{"step": 2}\n')
    with pytest.raises(PunaError, match=r"m\.jsonl:2"):
        read_metrics(path)
