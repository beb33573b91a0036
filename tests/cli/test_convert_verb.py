"""`puna convert` as a user meets it: the table, the JSON, and one clear line for each mistake."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("gguf")
SHARED = Path(__file__).resolve().parents[3] / "shared/data"
STORIES = SHARED / "weights/stories260K/stories260K.bin"
ENVIRONMENT = {**os.environ, "COLUMNS": "80", "NO_COLOR": "1"}


def puna(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "puna", *arguments], cwd=cwd, capture_output=True, text=True, env=ENVIRONMENT,
                          timeout=300)  # fmt: skip


@pytest.fixture
def stories() -> str:
    if not STORIES.is_file():
        pytest.skip(f"{STORIES} is not here")
    return str(STORIES)


def test_the_table_is_of_80_columns_without_colour(stories: str, tmp_path: Path) -> None:
    done = puna("convert", stories, "故事.gguf", "--to", "q8_0", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout and (tmp_path / "故事.gguf").is_file()
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    for word in ("Wrote 故事.gguf", "GGUF, q8_0: 0.3 M parameters", "largest logit difference", "identical greedy texts", "4 English",
                 "4 Chinese", "bits per byte, English", "bits per byte, Chinese", "Read again by", "llama.cpp"):  # fmt: skip
        assert word in done.stdout
    said = [puna("chat", model, "-p", "Once upon a time", "--temperature", "0", "--max-tokens", "40", cwd=tmp_path).stdout
            for model in (stories, "故事.gguf")]  # fmt: skip
    assert said[0] == said[1] and said[0].startswith(", there was a little girl named Lily.")


def test_json_has_all_figures(stories: str, tmp_path: Path) -> None:
    done = puna("convert", stories, "x.bin", "--json", cwd=tmp_path)
    report = json.loads(done.stdout)
    assert done.returncode == 0 and done.stdout.count("\n") == 1
    assert set(report) == {"source", "target", "form", "kind", "parameters", "bytes", "weights", "parity", "readers", "notes",
                           "passed", "seconds"}  # fmt: skip
    assert (report["form"], report["kind"], report["passed"]) == ("llama2c", "legacy", True)
    assert set(report["parity"]) == {
        "exact",
        "tokens_identical",
        "logits",
        "greedy",
        "bits_per_byte",
        "failures",
        "passed",
    }
    assert set(report["parity"]["bits_per_byte"]) == {"en", "zh"}
    assert report["parity"]["greedy"]["tokens"] >= 32 * 8
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tokenizer.bin", "x.bin"]


def test_mistakes_are_one_line_and_leave_nothing(stories: str, tmp_path: Path) -> None:
    given = tmp_path / "given"
    (given / "empty").mkdir(parents=True)
    (given / "taken.gguf").write_bytes(b"mine")
    (given / "notes.txt").write_text("Dear diary")
    (given / "torch.bin").write_bytes(b"PK\x03\x04 a zip of torch.save")
    (given / "cut.bin").write_bytes(STORIES.read_bytes()[:5000])
    (given / "alone.bin").write_bytes(STORIES.read_bytes())
    before = sorted(path.name for path in given.iterdir())
    large = str(SHARED / "tokenizers/llama2_spm32k/tokenizer.json")
    mistakes = [
        ((stories, "taken.gguf"), "exists already"),
        ((stories, "x.safetensors"), ".safetensors are not written"),
        ((stories, "x.pt"), ".pt are not written"),
        ((stories, "x.gguf", "--to", "q2_k"), "kinds for x.gguf: f16, f32, bf16, q8_0, q4_0"),
        ((stories, "x", "--to", "q8_0"), "kinds for x: fp32, bf16, fp16, int8, int4"),
        ((stories, "x", "--shard-size", "large"), "--shard-size"),
        ((stories, "x", "--to", "int8", "--calibrate", "notes.txt"), "4-bit"),
        ((stories, "x", "--to", "int4", "--calibrate", "nowhere.txt"), "nowhere.txt"),
        ((stories, "x", "--text", "torch.bin.gz"), "torch.bin.gz"),
        ((stories, "nowhere/x.gguf"), "no such folder"),
        ((stories, "x", "--tokenizer", large), "entries, the embedding 512 rows"),
        ((stories, "x", "--adapter", "empty"), "empty"),
        (("alone.bin", "x"), "--tokenizer PATH"),
        (("torch.bin", "x"), "pickle"),
        (("notes.txt", "x"), "is no model"),
        (("cut.bin", "x", "--tokenizer", str(STORIES.with_name("tok512.bin"))), "cut.bin"),
        (("empty", "x"), "holds no model"),
        (("nothing", "x"), "no such model"),
        (("hf:org/name", "x"), "not yet available"),
    ]
    # In one process: each start of the command line takes seconds on a busy machine.
    script = (
        "import contextlib, io, json, sys\nfrom puna.cli import app\n"
        "for words in json.load(sys.stdin):\n"
        "    out, err = io.StringIO(), io.StringIO()\n"
        "    sys.argv = ['puna', 'convert', *words]\n"
        "    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):\n"
        "        try:\n            app.main()\n"
        "        except SystemExit as end:\n            code = end.code\n"
        "    print(json.dumps([code, out.getvalue(), err.getvalue()]))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], input=json.dumps([list(words) for words, _ in mistakes]), cwd=given,
                          capture_output=True, text=True, env=ENVIRONMENT, timeout=300)  # fmt: skip
    assert done.returncode == 0, done.stderr
    for (words, word), line in zip(mistakes, done.stdout.splitlines(), strict=True):
        code, out, err = json.loads(line)
        assert (code, out) == (2, ""), (words, err)
        assert word in err and err.startswith("puna: ") and err.count("\n") == 1 and "Traceback" not in err, err
    assert sorted(path.name for path in given.iterdir()) == before
    assert (given / "taken.gguf").read_bytes() == b"mine"


def test_a_failed_check_ends_with_1_and_its_figures(stories: str, tmp_path: Path) -> None:
    script = (
        "import sys\nfrom puna.build import parity\nparity.TOLERANCE = -1.0\n"
        "sys.argv = ['puna', 'convert', sys.argv[1], 'x.gguf', '--to', 'f32', '--json']\n"
        "from puna.cli.app import main\nmain()\n"
    )
    done = subprocess.run([sys.executable, "-c", script, stories], cwd=tmp_path, capture_output=True, text=True, env=ENVIRONMENT,
                          timeout=300)  # fmt: skip
    assert done.returncode == 1 and "the parity check failed and nothing was kept: logits differ by 0" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    report = json.loads(done.stdout)
    assert report["passed"] is False and report["parity"]["logits"]["largest_difference"] == 0
    assert not list(tmp_path.iterdir())
