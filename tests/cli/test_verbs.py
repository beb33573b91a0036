"""The command line as a user meets it: exit codes, one-line errors, JSON."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ENVIRONMENT = {**os.environ, "COLUMNS": "80", "NO_COLOR": "1"}


def puna(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "puna", *arguments], cwd=cwd, capture_output=True, text=True, env=ENVIRONMENT,
                          timeout=300)  # fmt: skip


def refused(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr and done.stdout == ""
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    return lines[0]


def test_new_writes_a_recipe_that_loads_and_never_overwrites(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    done = puna("new", "mine", "--text", "notes", "--size", "2M", cwd=tmp_path)
    assert done.returncode == 0 and "mine.toml" in done.stdout
    assert 'sources = ["notes"]' in (tmp_path / "mine.toml").read_text()
    assert "exists already" in refused(puna("new", "mine", cwd=tmp_path))
    assert json.loads(puna("new", "other", "--json", cwd=tmp_path).stdout) == {"recipe": "other.toml"}


def test_what_to_type_next_is_told_as_it_was_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ENVIRONMENT, "PUNA_STARTED_AS", "../my clone/puna")
    assert "Next: '../my clone/puna' plan mine.toml" in puna("new", "mine", cwd=tmp_path).stdout


def test_a_folder_called_python_is_the_users_own(tmp_path: Path) -> None:
    (tmp_path / "python").mkdir()
    assert puna("new", "mine", "--text", "python/", cwd=tmp_path).returncode == 0
    assert 'sources = ["./python"]' in (tmp_path / "mine.toml").read_text()


@pytest.mark.parametrize("words", [["it's"], ['a"b'], ["mine", "--size", '4"M'], ["a\nb"]])
def test_quotes_in_a_name_or_size_are_one_line(words: list[str], tmp_path: Path) -> None:
    refused(puna("new", *words, cwd=tmp_path))
    assert not list(tmp_path.iterdir())


def test_new_refuses_what_cannot_be(tmp_path: Path) -> None:
    assert "does not exist" in refused(puna("new", "mine", "--text", "nowhere", cwd=tmp_path))
    assert "model.size" in refused(puna("new", "mine", "--size", "large", cwd=tmp_path))
    assert not list(tmp_path.iterdir())


def test_plan_says_time_memory_and_disk(tmp_path: Path) -> None:
    small = ["plan", "--set", "model.size=500K", "--set", "train.minutes=1"]
    done = puna(*small, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 80
    for word in (r"0\.6 M parameters", "tokens/s", "GiB free", r"pretraining +1\.0 min", "together"):
        assert re.search(word, done.stdout)
    told = json.loads(puna(*small, "--json", cwd=tmp_path).stdout)
    assert told["parameters"] == pytest.approx(5e5, rel=0.25) and told["seconds"]["pretraining"] == pytest.approx(
        60, rel=0.05
    )
    assert not list(tmp_path.iterdir())


def test_make_names_three_mistakes_and_writes_nothing(tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text('nam = "x"\n[model]\nsize = "big"\n[train]\nminutes = 1\ntokens = 5\n')
    line = refused(puna("make", "bad.toml", cwd=tmp_path))
    assert "3 mistakes" in line and "nam" in line and "model.size" in line and "train" in line
    assert [p.name for p in tmp_path.iterdir()] == ["bad.toml"]


def test_make_names_a_missing_source_among_the_mistakes(tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text('[corpus]\nsources = ["nope"]\n[model]\nsize = "big"\n')
    line = refused(puna("make", "bad.toml", cwd=tmp_path))
    for word in ("3 mistakes", "nope does not exist", "like 4M", "write minutes, tokens or flops"):
        assert word in line


def test_a_build_refused_by_its_text_leaves_no_run(tmp_path: Path) -> None:
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text("too short")
    done = puna("make", "--set", 'corpus.sources=["text"]', "--set", "tune=[]", "--set", "name=short", cwd=tmp_path)
    assert done.returncode == 2 and "nothing is left to go on with" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "runs" / "short").exists()
    (tmp_path / "file").write_text("")
    assert "cannot be made" in refused(puna("make", "--runs", "file", cwd=tmp_path))


def test_usage_errors_are_one_line(tmp_path: Path) -> None:
    assert "bake" in refused(puna("bake", cwd=tmp_path))
    assert "--bake" in refused(puna("make", "--bake", cwd=tmp_path))
    assert "puna new --help" in refused(puna("new", cwd=tmp_path))


def test_ctrl_c_ends_with_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "puna", "make", "--set", "name=stop"]
    process = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
    )
    assert process.stderr is not None and "[corpus]" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert err.strip().splitlines()[-1] == "puna: stopped; run it again and it goes on"
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        (["train.tokens=1000"], "at least 10"),
        (["train.flops=1"], "at least 10"),
        (["train.tokens=100000", "train.batch_tokens=50000"], "at least 10"),
        (["model.size=900B", "train.tokens=10000000000"], "memory"),
        (['corpus.sources=["nowhere"]'], "does not exist"),
        (["tune.0.data=nowhere.jsonl"], "does not exist"),
        (['corpus.sources=["."]'], "docstrings"),
        (["train.minutes=-1"], "train.minutes"),
        (["train.minutes=inf"], "train.minutes"),
        (["model.size=0M"], "like 4M"),
        (["model.size=900000B"], "no shape comes near"),
        (["model.dims=3"], "no such key"),
    ],
)
def test_make_refuses_before_it_starts(tmp_path: Path, changes: list[str], word: str) -> None:
    arguments = [part for change in changes for part in ("--set", change)]
    assert word in refused(puna("make", *arguments, cwd=tmp_path))
    assert not (tmp_path / "runs").exists()


def test_a_missing_recipe_is_told(tmp_path: Path) -> None:
    assert "cannot read the recipe" in refused(puna("make", "nothing.toml", cwd=tmp_path))


def test_an_unknown_bench_lists_those_there_are(tmp_path: Path) -> None:
    assert "train_speed" in refused(puna("bench", "nothing", cwd=tmp_path))


def test_a_benchs_own_options_are_shown(tmp_path: Path) -> None:
    assert "--seeds" in puna("bench", "recipe_gain", "--help", cwd=tmp_path).stdout


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    mount = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
    script = f"mount -t tmpfs -o ro none '{tmp_path}' && cd '{tmp_path}' && exec {sys.executable} -m puna new mine"
    if (
        not shutil.which("unshare")
        or subprocess.run([*mount, f"mount -t tmpfs none '{tmp_path}'"], capture_output=True).returncode
    ):
        pytest.skip("this system lets nobody mount a folder of his own")
    done = subprocess.run([*mount, script], capture_output=True, text=True, env=ENVIRONMENT, timeout=300)
    assert "read-only" in refused(done)


@pytest.mark.parametrize("stream", ["1", "2"])
def test_a_closed_stream_is_no_fault(tmp_path: Path, stream: str) -> None:
    command = f"exec {sys.executable} -m puna new mine {stream}>&-"
    done = subprocess.run(
        ["sh", "-c", command], cwd=tmp_path, capture_output=True, text=True, env=ENVIRONMENT, timeout=300
    )
    assert (done.returncode, done.stderr) == (0, "") and (tmp_path / "mine.toml").is_file()


@pytest.mark.parametrize("verb", ["make", "new", "plan", "chat", "bench", "test"])
def test_every_verb_has_examples(tmp_path: Path, verb: str) -> None:
    done = puna(verb, "--help", cwd=tmp_path)
    assert done.returncode == 0 and f"puna {verb}" in done.stdout.split("Examples:")[1]
    assert max(map(len, done.stdout.splitlines())) <= 80
