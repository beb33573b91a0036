"""A checkpoint is whole or absent, whatever happens to its files."""

import json
import re
import resource
import signal
from pathlib import Path

import pytest
import torch
from torch import Tensor

from puna.errors import PunaError
from puna.train.checkpoint import LATEST, load_latest, save


class Notes:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def start(self, title: str, total: float | None = None, unit: str = "") -> None: ...
    def update(self, done: float, **facts: str) -> None: ...
    def finish(self) -> None: ...
    def note(self, line: str) -> None:
        self.lines.append(line)


def _tensors(seed: int = 0) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return {"model.a": torch.randn(30, 4, generator=draw), "optimizer.step.a": torch.tensor(float(seed)),
            "rng": torch.arange(9, dtype=torch.uint8), "b": torch.randn(5, generator=draw).bfloat16()}  # fmt: skip


def test_round_trip_is_bitwise(tmp_path: Path) -> None:
    saved = save(tmp_path, 7, _tensors(1), {"guard": {"x": 0.1}})
    into = _tensors(2)
    found = load_latest(tmp_path, into)
    assert found is not None
    assert found.step == 7
    assert found.state["guard"] == {"x": 0.1}
    assert found.digest == saved.digest
    assert all(torch.equal(into[name], value) for name, value in _tensors(1).items())
    assert (tmp_path / LATEST).read_text().strip() == "step_00000007"
    suffixes = {path.suffix for path in saved.folder.iterdir()}
    assert suffixes == {".safetensors", ".json"}


def test_two_are_kept_and_nothing_is_written_twice(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        save(tmp_path, step, _tensors(step), {})
    assert sorted(path.name for path in tmp_path.iterdir()) == [LATEST, "step_00000002", "step_00000003"]
    before = (tmp_path / "step_00000003" / "MANIFEST.json").stat().st_mtime_ns
    save(tmp_path, 3, _tensors(3), {})
    assert (tmp_path / "step_00000003" / "MANIFEST.json").stat().st_mtime_ns == before


def _shard(folder: Path) -> Path:
    return next(folder.glob("*.safetensors"))


def _flip(folder: Path) -> None:
    data = bytearray(_shard(folder).read_bytes())
    data[-3] ^= 4
    _shard(folder).write_bytes(data)


def _truncate(folder: Path) -> None:
    data = _shard(folder).read_bytes()
    _shard(folder).write_bytes(data[:-10])


DAMAGE = {
    "flipped bit": (_flip, "SHA-256"),
    "truncated": (_truncate, "bytes, not"),
    "missing shard": (lambda folder: _shard(folder).unlink(), "differ"),
    "added file": (lambda folder: (folder / "extra.pkl").write_bytes(b"x"), "extra.pkl"),
    "no manifest": (lambda folder: (folder / "MANIFEST.json").unlink(), "MANIFEST"),
    "broken manifest": (lambda folder: (folder / "MANIFEST.json").write_text("[1"), "MANIFEST"),
    "odd manifest": (lambda folder: (folder / "MANIFEST.json").write_text('{"files": [1]}'), "MANIFEST"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_falls_back_to_the_one_before(tmp_path: Path, kind: str) -> None:
    save(tmp_path, 1, _tensors(1), {})
    newest = save(tmp_path, 2, _tensors(2), {}).folder
    harm, expected = DAMAGE[kind]
    harm(newest)
    notes, into = Notes(), _tensors(9)
    found = load_latest(tmp_path, into, notes)
    assert found is not None
    assert found.step == 1
    assert torch.equal(into["model.a"], _tensors(1)["model.a"])
    assert len(notes.lines) == 1
    assert re.search(expected, notes.lines[0])
    again = save(tmp_path, 2, _tensors(2), {})  # the damaged one is replaced
    assert load_latest(tmp_path, into) == again


def test_leftovers_of_a_kill_are_not_read(tmp_path: Path) -> None:
    assert load_latest(tmp_path / "none", {}) is None
    (tmp_path / "step_00000009.tmp").mkdir()
    (tmp_path / "step_00000009.tmp" / "half").write_bytes(b"x")
    (tmp_path / ".latest.4711.tmp").write_bytes(b"step_")  # killed before the pointer was renamed
    assert load_latest(tmp_path, _tensors()) is None
    save(tmp_path, 9, _tensors(), {})
    assert sorted(path.name for path in tmp_path.iterdir()) == [LATEST, "step_00000009"]


def test_another_model_s_checkpoint_is_refused(tmp_path: Path) -> None:
    save(tmp_path, 1, _tensors(), {})
    with pytest.raises(PunaError, match=r"other tensors.*model\.a"):
        load_latest(tmp_path, {**_tensors(), "model.a": torch.zeros(2, 2)})


def test_a_full_disk_is_one_line_and_leaves_the_last_one(tmp_path: Path) -> None:
    save(tmp_path, 1, _tensors(1), {})
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, limits[1]))
    try:
        with pytest.raises(PunaError, match="cannot write the checkpoint"):
            save(tmp_path, 2, _tensors(2), {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert sorted(path.name for path in tmp_path.iterdir()) == [LATEST, "step_00000001"]
    assert json.loads((tmp_path / "step_00000001" / "state.json").read_text())["step"] == 1
