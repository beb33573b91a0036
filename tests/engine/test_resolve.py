"""What a user calls a model."""

from pathlib import Path

import pytest

from puna.engine.resolve import resolve_model
from puna.errors import PunaError


def a_model(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    return folder


def test_folder_run_folder_and_run_name(tmp_path: Path):
    runs = tmp_path / "runs"
    release = a_model(runs / "python" / "release")
    assert resolve_model(str(release), runs) == release
    assert resolve_model(str(runs / "python"), runs) == release
    assert resolve_model("python", runs) == release
    assert resolve_model("python/", runs) == release


def test_a_name_in_chinese(tmp_path: Path):
    release = a_model(tmp_path / "我的模型" / "release")
    assert resolve_model("我的模型", tmp_path) == release


def test_an_unknown_name_lists_the_runs(tmp_path: Path):
    a_model(tmp_path / "python" / "release")
    a_model(tmp_path / "mine" / "release")
    (tmp_path / "unfinished").mkdir()
    with pytest.raises(PunaError, match=r"nothing.*no such run.*mine, python$"):
        resolve_model("nothing", tmp_path)
    with pytest.raises(PunaError, match="puna make"):
        resolve_model("nothing", tmp_path / "absent")
    with pytest.raises(PunaError, match="no release yet"):
        resolve_model("unfinished", tmp_path)


def test_folders_and_files_without_a_model(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(PunaError, match="holds no model"):
        resolve_model(str(tmp_path / "empty"), tmp_path / "runs")
    assert resolve_model(str(tmp_path / "model.gguf"), tmp_path / "runs") == tmp_path / "model.gguf"
    assert resolve_model(str(tmp_path), tmp_path / "runs") == tmp_path  # a folder with one model file in it


def test_hub_names_and_names_that_climb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    a_model(tmp_path / "release")
    (tmp_path / "elsewhere" / "here").mkdir(parents=True)
    (tmp_path / "elsewhere" / "here" / "lone.gguf").write_bytes(b"GGUF")
    monkeypatch.chdir(tmp_path / "elsewhere" / "here")
    with pytest.raises(PunaError, match="not yet available"):
        resolve_model("hf:org/name", tmp_path)
    for name in ("..", "", "../x", "a/b"):
        with pytest.raises(PunaError):
            resolve_model(name, tmp_path / "runs")
