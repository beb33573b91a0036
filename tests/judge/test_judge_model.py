"""The whole judgement on real parts: same bytes twice, nothing left out in silence, a table that fits."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from puna.engine import Engine
from puna.errors import PunaError
from puna.files import read_json
from puna.judge.judge import _inputs, judge_model
from puna.judge.table import format_scores
from puna.recipe.schema import Judge

CONFIG = Judge(quiz_items=40, samples=4, bootstrap=200)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("judged")


@pytest.fixture(scope="module")
def results(model_folder: Path, corpus: Path, out: Path) -> dict[str, Any]:
    found = judge_model(
        model_folder, model_folder, corpus, CONFIG, 5, out, reference=model_folder, extra={"command": "puna judge"}
    )
    assert read_json(out / "results.json") == json.loads(json.dumps(found))
    assert len((out / "quiz.jsonl").read_text().splitlines()) == found["scores"][1]["n"]
    return found


def test_scores_and_baselines_are_whole(results: dict[str, Any]) -> None:
    assert [score["task"] for score in results["scores"]] == ["heldout", "quiz", "parse"]
    assert [score["name"] for score in results["baselines"]] == [
        "uniform",
        "xz",
        "xz_primed",
        "ngram5",
        "reference",
        "shared_letters",
    ]
    for score in [*results["scores"], *results["baselines"]]:
        assert score["n"] > 0
        if score.get("name") != "uniform":
            assert score["interval"][0] <= score["value"] <= score["interval"][1]
    assert results["left_out"] == []
    assert {sample["kind"] for sample in results["samples"]} == {"base", "chat"}


def test_differences_are_of_the_same_text(results: dict[str, Any]) -> None:
    model = results["scores"][0]
    for baseline in results["baselines"][:5]:
        assert baseline["detail"]["bytes"] == model["detail"]["bytes"]
        assert baseline["detail"]["paired"]["value"] == pytest.approx(model["value"] - baseline["value"], abs=2e-6)
    same = results["baselines"][4]["detail"]["paired"]
    assert (same["value"], same["interval"]) == (0.0, [0.0, 0.0])
    holds = {said["name"]: said["holds"] for said in results["verdicts"]}
    assert holds["beats_xz"] is False  # the model is random
    assert holds["beats_reference"] is None


def test_same_inputs_same_bytes(
    results: dict[str, Any], model_folder: Path, corpus: Path, out: Path, tmp_path: Path
) -> None:
    judge_model(
        model_folder, model_folder, corpus, CONFIG, 5, tmp_path, reference=model_folder, extra={"command": "puna judge"}
    )
    for file in ("results.json", "quiz.jsonl"):
        assert (tmp_path / file).read_bytes() == (out / file).read_bytes()


def test_the_table_fits_80_columns(results: dict[str, Any]) -> None:
    table = format_scores(results)
    assert max(map(len, table.splitlines())) <= 80
    for word in ("bits per byte", "xz -9e, primed", "5-gram", "quiz, right", "Falls short of"):
        assert word in table
    assert table.isascii()


def test_what_cannot_be_judged_is_named(engine: Engine, corpus: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("train.parquet", "heldout.parquet"):
        shutil.copyfile(corpus / name, bare / name)
    found = judge_model(engine, None, bare, Judge(compressors=False, bootstrap=100), 1, tmp_path)
    assert [left["task"] for left in found["left_out"]] == ["xz", "quiz", "parse"]
    assert [score["task"] for score in found["scores"]] == ["heldout"]
    assert [score["name"] for score in found["baselines"]] == ["uniform", "ngram5"]
    assert found["inputs"]["models"] == {"base": None}
    assert not (tmp_path / "quiz.jsonl").exists()
    assert "Left out: quiz" in format_scores(found)


def test_digests_name_what_was_measured(model_folder: Path, corpus: Path) -> None:
    inputs = _inputs(model_folder, None, None, corpus)
    assert len(inputs["models"]["base"]) == 64
    assert {"heldout.parquet", "train.parquet", "functions.jsonl"} <= set(inputs)


def test_a_damaged_model_is_one_line(model_folder: Path, corpus: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(model_folder, broken)
    weights = (broken / "model.safetensors").read_bytes()
    (broken / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(PunaError):
        judge_model(broken, None, corpus, CONFIG, 1, tmp_path)
    assert not (tmp_path / "results.json").exists()
