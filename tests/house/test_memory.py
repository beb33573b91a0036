"""How much memory there is, in a container too."""

import os
from pathlib import Path

import pytest

from puna import memory


def test_the_machine_has_some() -> None:
    assert 64 << 20 < memory.free_memory() <= memory.total_memory()


def test_a_containers_limit_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit, used = tmp_path / "memory.max", tmp_path / "memory.current"
    limit.write_text(f"{256 << 20}\n")
    used.write_text(f"{100 << 20}\n")
    monkeypatch.setattr(memory, "_CGROUPS", ((str(tmp_path / "absent"), str(used)), (str(limit), str(used))))
    assert memory.total_memory() == 256 << 20
    assert memory.free_memory() == 156 << 20
    limit.write_text("max\n")
    assert memory.total_memory() == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
