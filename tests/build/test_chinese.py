"""A folder of Chinese Markdown becomes a model that goes on in Chinese."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import zstandard

LAWS = Path(__file__).resolve().parents[3] / "shared" / "data" / "train" / "zh_laws.jsonl.zst"
SMALL = ("train.tokens=150000", "train.batch_tokens=1024", "model.size=1M", "tokenizer.vocab_size=2048", "model.context=128",
         "judge.compressors=false", "judge.bootstrap=100")  # fmt: skip


def puna(place: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "puna", *arguments], cwd=place, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def write_laws(folder: Path, most: int) -> None:
    """The first `most` characters of the statutes, a Markdown file each."""
    folder.mkdir()
    with open(LAWS, "rb") as stream, zstandard.ZstdDecompressor().stream_reader(stream) as reader:
        lines = reader.read(40_000_000).decode("utf-8").splitlines()
    taken = 0
    for number, line in enumerate(lines):
        text = json.loads(line)["text"]
        (folder / f"{number:04}.md").write_text(text, encoding="utf-8")
        taken += len(text)
        if taken > most:
            return


@pytest.mark.skipif(not LAWS.is_file(), reason="the shared Chinese statutes are not here")
@pytest.mark.timeout(1200)  # a minute or two on a quiet machine
def test_a_folder_of_chinese_markdown_becomes_a_model_that_goes_on_in_chinese(tmp_path: Path) -> None:
    write_laws(tmp_path / "法律", 600_000)
    puna(tmp_path, "new", "mine", "--text", "法律")
    puna(tmp_path, "make", "mine.toml", *(part for change in SMALL for part in ("--set", change)))
    reply = puna(tmp_path, "chat", "mine", "-p", "第一条 为了", "--temperature", "0", "--max-tokens", "40").strip()
    chinese = sum("\u4e00" <= character <= "\u9fff" for character in reply)
    assert len(reply) >= 10 and chinese / len(reply) > 0.6, reply
