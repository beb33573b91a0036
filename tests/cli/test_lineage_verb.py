"""`puna lineage` as a user meets it: real models, one clear line for each mistake."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

ENVIRONMENT = {**os.environ, "COLUMNS": "80", "NO_COLOR": "1", "OMP_NUM_THREADS": "1"}
LAYERS = ["names", "architecture", "tokenizer", "weights", "data", "licence"]
TEXTS = ["the fox and the hound went over the hill to see what was there, and came back again "] * 8
SHAPE = {"hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 3}


def puna(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "puna", *arguments], cwd=cwd, capture_output=True, text=True, env=ENVIRONMENT,
                          timeout=280 if "zoo" not in arguments else 880)  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[..., Path]) -> Path:
    """models/: parent, child (the parent and a little noise) and stranger."""
    from puna.model.formats import open_model, save_model

    folder = tmp_path_factory.mktemp("lineage")
    for name, seed in (("parent", 1), ("child", 1), ("stranger", 2)):
        tiny_model(folder / "models" / name, TEXTS, 300, seed=seed, **SHAPE)
    weights = open_model(folder / "models/child")
    model = weights.decoder()
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += (
                0.1 * parameter.std() * torch.randn(parameter.shape, generator=draw) if parameter.ndim == 2 else 0
            )
    save_model(model, weights.config, folder / "models/child")
    return folder


@pytest.fixture(scope="module")
def compared(home: Path) -> subprocess.CompletedProcess[str]:
    done = puna(
        "lineage",
        "models/child",
        "models/parent",
        "models/stranger",
        "--html",
        "page.html",
        "--store",
        "kept",
        cwd=home,
    )
    assert done.returncode == 0, done.stderr
    return done


def test_six_findings_a_reference_in_80_columns(compared: subprocess.CompletedProcess[str]) -> None:
    said = compared.stdout
    assert max(map(len, said.splitlines())) <= 80
    for words in ("models/child beside models/parent", "models/child beside models/stranger", "derived: noised", "independent", "WEIGHTS", "LICENCE",
                  "Kept for the board in kept/lineage", "As a page: page.html", "never one score"):  # fmt: skip
        assert words in said, words


def test_the_page_is_one_file(compared: subprocess.CompletedProcess[str], home: Path) -> None:
    page = (home / "page.html").read_text(encoding="utf-8")
    assert "<svg" in page and "Which block comes from which" in page and 'src="http' not in page


def test_what_was_found_is_kept_for_the_board(compared: subprocess.CompletedProcess[str], home: Path) -> None:
    kept = [json.loads(path.read_text()) for path in (home / "kept/lineage").glob("*.json")]
    assert {one["reference"]: one["layers"]["weights"]["verdict"] for one in kept} == {
        "models/parent": "derived",
        "models/stranger": "independent",
    }
    assert all(one["model_facts"]["digest"] for one in kept)


Said = Callable[..., str]


@pytest.fixture
def says(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Said:
    """The verb's stdout, called in this process: an import of torch is longer than most cases."""
    from puna.cli.app import main

    def call(*arguments: str) -> str:
        monkeypatch.chdir(home)
        monkeypatch.setattr(sys, "argv", ["puna", "lineage", *arguments])
        with pytest.raises(SystemExit) as left:
            main()
        said = capsys.readouterr()
        assert left.value.code == 0, said.err
        return said.out

    return call


def test_json_of_one_and_of_several(says: Said) -> None:
    value = json.loads(says("models/child", "models/parent", "--json"))
    assert (value["model"], value["reference"], sorted(value["layers"])) == (
        "models/child",
        "models/parent",
        sorted(LAYERS),
    )
    assert value["layers"]["weights"]["verdict"] == "derived"
    two = json.loads(says("models/child", "models/parent", "models/stranger", "--json"))
    assert [found["reference"] for found in two] == ["models/parent", "models/stranger"]


def test_scan_finds_the_parent_in_a_folder(says: Said) -> None:
    value = json.loads(says("scan", "models/child", "--against", "models", "--json"))
    assert {row["name"] for row in value["rows"]} == {"parent", "stranger"}  # the model itself is left out
    assert (
        value["rows"][0]["name"] == "parent" and value["rows"][0]["exact"]["layers"]["weights"]["verdict"] == "derived"
    )
    said = says("scan", "models/child", "--against", "models")
    assert max(map(len, said.splitlines())) <= 80 and "derived: noised" in said


@pytest.fixture
def mistaken(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Said:
    """What the verb says to a mistake: called in this process, as an import of torch a case is long."""
    from puna.cli.app import main

    def call(*arguments: str) -> str:
        monkeypatch.chdir(home)
        monkeypatch.setattr(sys, "argv", ["puna", "lineage", *arguments])
        with pytest.raises(SystemExit) as left:
            main()
        said = capsys.readouterr()
        assert left.value.code == 2 and said.out == "", said
        *notes, last = said.err.splitlines()
        assert last.startswith("puna: ") and not any("puna: " in note for note in notes), said.err
        return last

    return call


@pytest.mark.parametrize(
    "arguments, says",
    [
        ([], "Missing argument"),
        (["models/child"], "a comparison needs two models"),
        (["models/child", "nobody"], "no such model"),
        (["nobody", "models/parent"], "no such model"),
        (["models/child", "models/parent", "--against", "models"], "--against: does not belong here"),
        (["models/child", "models/parent", "--ledger", "x"], "--ledger: does not belong here"),
        (["models/child", "models/parent", "--out", "x"], "--out: does not belong here"),
        (["scan", "models/child", "--html", "x.html"], "--html: does not belong here"),
        (["zoo", "--control", "models/child"], "--control: does not belong here"),
        (["scan", "models/child"], "a scan needs one model and a folder"),
        (["scan", "models/child", "--against", "nowhere"], "is no folder"),
        (["claim", "models/child"], "a claim needs a suspect"),
        (["claim", "models/child", "--ledger", "nowhere"], "nowhere"),
        (["zoo", "models/child"], "the zoo takes no model"),
        (["zoo", "--size", "vast"], "--size"),
        (["zoo", "--size", "tiny", "--out", "models"], "is not empty"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(mistaken: Said, arguments: list[str], says: str) -> None:
    assert says in mistaken(*arguments)


def test_a_truncated_model_is_one_line(mistaken: Said, home: Path, tmp_path: Path) -> None:
    for path in (home / "models/parent").iterdir():
        data = path.read_bytes()
        (tmp_path / path.name).write_bytes(data[: len(data) // 2] if path.suffix == ".safetensors" else data)
    for pair in (("models/child", str(tmp_path)), (str(tmp_path), "models/child")):
        assert "model.safetensors" in mistaken(*pair)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_tiny_zoo(tmp_path: Path) -> None:
    done = puna("lineage", "zoo", "--size", "tiny", "--seed", "11", "--out", "zoo", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "relations named rightly" in done.stdout and "The models are in zoo" in done.stdout
    assert (tmp_path / "zoo/scratch-0/model.safetensors").is_file()
