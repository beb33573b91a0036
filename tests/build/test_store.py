"""The artefact store and the stage graph, on stages that only write a file."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from puna.build.graph import Context, Stage, run_stages
from puna.build.store import Store, read_manifest, verify
from puna.errors import PunaError
from puna.ledger import Ledger
from puna.recipe.schema import Recipe, Train


def context_of(run: Path) -> Context:
    run.mkdir(parents=True, exist_ok=True)
    return Context(Recipe(train=Train(minutes=1)), 1, Store(run), Ledger(run / "ledger.jsonl"))


def test_the_lock_s_holder_removes_what_a_kill_left(tmp_path: Path) -> None:
    (tmp_path / ".recipe.toml.4711.tmp").write_text("half")
    (tmp_path / ".corpus-0123.tmp").mkdir()
    (tmp_path / ".corpus-0123.tmp" / "half").write_text("half")
    with Store(tmp_path).lock():
        assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def stage(name: str, text: str, calls: list[str], inputs: tuple[str, ...] = (), log: str = "") -> Stage:
    def run(context: Context, folder: Path, work: Path) -> dict[str, Any]:
        calls.append(name)
        (folder / "data.txt").write_text(text)
        (folder / "log").mkdir()
        (folder / "log" / "times.txt").write_text(log)
        return {}

    return Stage(name, name, ("recipe",), inputs, lambda context: {"text": text}, run)


def test_a_second_run_does_nothing_and_a_change_redoes_what_depends_on_it(tmp_path: Path) -> None:
    calls: list[str] = []
    first = [stage("a", "1", calls), stage("b", "2", calls, ("a",)), stage("c", "3", calls)]
    run_stages(context_of(tmp_path), first)
    run_stages(context_of(tmp_path), first)
    assert calls == ["a", "b", "c"]
    changed = [stage("a", "other", calls), *first[1:]]
    run_stages(context_of(tmp_path), changed)
    assert calls == ["a", "b", "c", "a", "b"]


def test_a_stage_that_gives_the_same_content_again_stops_the_change(tmp_path: Path) -> None:
    calls: list[str] = []
    after = stage("b", "2", calls, ("a",))
    run_stages(context_of(tmp_path), [stage("a", "same", calls, log="at noon"), after])

    def run(context: Context, folder: Path, work: Path) -> dict[str, Any]:
        calls.append("a, anew")
        (folder / "data.txt").write_text("same")
        (folder / "log").mkdir()
        (folder / "log" / "times.txt").write_text("at midnight")
        return {}

    run_stages(context_of(tmp_path), [Stage("a", "a", ("recipe",), (), lambda c: {"new": "setting"}, run), after])
    assert calls == ["a", "b", "a, anew"]


def test_a_failed_stage_leaves_nothing(tmp_path: Path) -> None:
    def run(context: Context, folder: Path, work: Path) -> dict[str, Any]:
        (folder / "half.txt").write_text("half")
        raise PunaError("no")

    with pytest.raises(PunaError):
        run_stages(context_of(tmp_path), [Stage("a", "a", ("recipe",), (), lambda c: {}, run)])
    assert not [p for p in tmp_path.rglob("*") if "a-" in p.name or p.name == "half.txt"]


def test_a_damaged_artefact_is_told_and_never_used(tmp_path: Path) -> None:
    calls: list[str] = []
    context = context_of(tmp_path)
    run_stages(context, [stage("a", "123", calls)])
    path = context.done["a"] / "data.txt"
    path.write_text("124")
    with pytest.raises(PunaError, match=r"data\.txt differs"):
        verify(context.done["a"])
    with pytest.raises(PunaError, match=r"data\.txt differs"):
        run_stages(context_of(tmp_path), [stage("a", "123", calls), stage("b", "2", calls, ("a",))])
    path.write_text("1")
    with pytest.raises(PunaError, match="changed or lost"):
        run_stages(context_of(tmp_path), [stage("a", "123", calls)])


def test_unknown_until_lists_the_stages(tmp_path: Path) -> None:
    with pytest.raises(PunaError, match="stages: a"):
        run_stages(context_of(tmp_path), [stage("a", "1", [])], "z")


def test_the_manifest_says_where_the_artefact_comes_from(tmp_path: Path) -> None:
    context = context_of(tmp_path)
    run_stages(context, [stage("a", "1", []), stage("b", "2", [], ("a",))])
    manifest = read_manifest(context.done["b"])
    assert manifest["stage"] == "b" and manifest["inputs"] == {"a": read_manifest(context.done["a"])["content"]}
    assert {"code", "environment", "files", "facts", "created"} <= set(manifest)
    entries = context.ledger.entries()
    assert [entry["kind"] for entry in entries] == ["environment", "stage", "stage"]
    assert [entry["body"]["stage"] for entry in entries[1:]] == ["a", "b"]
    assert all(entry["body"]["environment"] == entries[0]["body"]["digest"] for entry in entries[1:])


def test_two_builds_of_one_run_do_not_meet(tmp_path: Path) -> None:
    holder = "import sys,time\nfrom pathlib import Path\nfrom puna.build.store import Store\n"
    holder += "with Store(Path(sys.argv[1])).lock():\n    print('held', flush=True)\n    time.sleep(60)\n"
    process = subprocess.Popen([sys.executable, "-c", holder, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        with pytest.raises(PunaError, match=f"process {process.pid}"), Store(tmp_path).lock():
            pass
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            with Store(tmp_path).lock():
                return
        except PunaError:
            time.sleep(0.05)
    pytest.fail("a killed build still holds its run")


def test_a_manifest_that_is_not_one_is_told(tmp_path: Path) -> None:
    (tmp_path / "MANIFEST.json").write_text(json.dumps({"files": 3}))
    with pytest.raises(PunaError, match="no readable manifest"):
        read_manifest(tmp_path)
