"""A whole build: what it leaves, what a second one does, and that others can load it."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from puna.build.store import verify
from puna.ledger import check_seed
from puna.ledger import verify as verify_ledger

THEIRS = """
import json, sys
from transformers import AutoModelForCausalLM, AutoTokenizer
import torch
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32)
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
ids = tokenizer.apply_chat_template([{"role": "user", "content": "What is csv?"}], add_generation_prompt=True, return_tensors="pt", return_dict=False)
logits = model(ids).logits
assert "puna" not in sys.modules
print(json.dumps({"class": type(model).__name__, "ids": ids[0].tolist(), "last": logits[0, -1].tolist()}))
"""


@pytest.mark.timeout(1200)  # a minute or two on a quiet machine
def test_a_build_from_text_to_release(workplace: Any) -> None:
    done = workplace.make("--json")
    assert done.returncode == 0, done.stderr
    run = workplace.path / "runs" / "tiny"
    told = json.loads(done.stdout)
    assert told["release"] == "runs/tiny/release" and told["report"] == "runs/tiny/report.html"
    _the_release_is_whole(run)
    _the_ledger_holds(run)
    _others_load_it(run / "release")
    _a_second_make_does_nothing(workplace)
    _a_build_of_its_first_stages_leaves_the_frozen_recipe(workplace)
    _a_changed_tune_redoes_only_what_depends_on_it(workplace)
    _the_frozen_recipe_gives_the_same_bytes(workplace, run)


def _the_release_is_whole(run: Path) -> None:
    release = run / "release"
    names = {p.relative_to(release).as_posix() for p in release.rglob("*") if p.is_file()}
    for model in ("", "base/"):
        assert {
            f"{model}config.json",
            f"{model}model.safetensors",
            f"{model}tokenizer.json",
            f"{model}generation_config.json",
        } <= names
    assert {"README.md", "chat_template.jinja", "puna/ledger.jsonl", "puna/recipe.toml", "puna/results.json"} <= names
    assert json.loads((release / "config.json").read_text())["architectures"] == ["LlamaForCausalLM"]
    for record in ("puna/recipe.toml", "puna/ledger.jsonl", "README.md"):  # the maker's folders are nobody's business
        assert str(run.parents[1]) not in (release / record).read_text(encoding="utf-8")
    assert all(check["passed"] for check in json.loads((release / "puna" / "gate.json").read_text()))
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "bits per byte" in page and "<script" not in page
    for folder in run.iterdir():
        if (folder / "MANIFEST.json").is_file():
            verify(folder)


def _the_ledger_holds(run: Path) -> None:
    verify_ledger(run / "ledger.jsonl")
    entries = [json.loads(line) for line in (run / "ledger.jsonl").read_text().splitlines()]
    kinds = [entry["kind"] for entry in entries]
    stages = [entry["body"]["stage"] for entry in entries if entry["kind"] == "stage"]
    assert kinds.index("seed") < kinds.index("stage") and kinds.index("seed-revealed") > kinds.index("gate")
    assert stages.index("pretrain") < stages.index("tune-0") < stages.index("judge") < stages.index("release")
    commitment, revealed = (entries[kinds.index(kind)]["body"] for kind in ("seed", "seed-revealed"))
    check_seed(commitment["commitment"], revealed["seed"], revealed["salt"])
    published = (run / "release" / "puna" / "ledger.jsonl").read_text()  # whoever holds the release can open it too
    assert verify_ledger(run / "release" / "puna" / "ledger.jsonl").torn_bytes == 0 and revealed["salt"] in published


def _others_load_it(release: Path) -> None:
    import torch

    from puna.model.formats import load_model

    done = subprocess.run(
        [sys.executable, "-I", "-c", THEIRS, str(release)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    theirs = json.loads(done.stdout.splitlines()[-1])
    assert theirs["class"] == "LlamaForCausalLM"
    model = load_model(release).eval()
    with torch.inference_mode():
        ours = model.logits(model(torch.tensor([theirs["ids"]])))[0, -1]
    assert (ours - torch.tensor(theirs["last"])).abs().max().item() < 1e-4


def test_a_refused_build_leaves_the_run_of_another_alone(workplace: Any) -> None:
    from puna.build.store import Store

    run = workplace.path / "runs" / "tiny"
    with Store(run).lock():
        (run / "begun").write_text("by the other")
        done = workplace.make()
        assert done.returncode == 2 and "another build" in done.stderr and len(done.stderr.splitlines()) == 1
        assert (run / "begun").is_file()


def test_a_tuning_too_short_is_refused_before_the_long_part(workplace: Any) -> None:
    done = workplace.make("--set", "tune.0.tokens=500")
    assert done.returncode == 2 and "tuning budget" in done.stderr.splitlines()[-1]
    assert not list((workplace.path / "runs" / "tiny").glob("pretrain-*"))


def _a_second_make_does_nothing(place: Any) -> None:
    before = {p: p.stat().st_mtime_ns for p in (place.path / "runs").rglob("*") if p.is_file() and p.name != ".lock"}
    start = time.monotonic()
    done = place.make()
    assert done.returncode == 0 and "Nothing to do" in done.stdout and time.monotonic() - start < 5
    assert before == {
        p: p.stat().st_mtime_ns for p in (place.path / "runs").rglob("*") if p.is_file() and p.name != ".lock"
    }


def _a_build_of_its_first_stages_leaves_the_frozen_recipe(place: Any) -> None:
    frozen = place.path / "runs" / "tiny" / "recipe.toml"
    before = frozen.read_text()
    assert place.make("--until", "pack").returncode == 0 and frozen.read_text() == before


def _a_changed_tune_redoes_only_what_depends_on_it(place: Any) -> None:
    after = ["tune-0", "judge", "release", "report"]
    assert _redone(place, "tune.0.epochs=3") == after
    assert _redone(place, "tune.0.minutes=0.02") == ["calibrate-tuning", *after]  # another kind of budget, same base
    assert _redone(place, "tune.0.minutes=0.03") == after


def _redone(place: Any, change: str) -> list[str]:
    done = place.make("--set", change, "--json")
    assert done.returncode == 0, done.stderr
    return [row["name"] for row in json.loads(done.stdout)["stages"] if not row["reused"]]


def _the_frozen_recipe_gives_the_same_bytes(place: Any, run: Path) -> None:
    again = [sys.executable, "-m", "puna", "make", str(run / "recipe.toml"), "--runs", "other"]
    done = subprocess.run(again, cwd=place.path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert place.hashes("other") == place.hashes()
