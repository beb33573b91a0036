"""A build small enough for a test: real text, every stage, seconds."""

import json
import sys
import sysconfig
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # tests are imported as files, not as a package

RECIPE = """\
name = "tiny"
seed = 5
[corpus]
sources = ["text"]
[tokenizer]
vocab_size = 512
[model]
size = "500K"
dim = 64
layers = 2
context = 64
[train]
tokens = 60000
batch_tokens = 512
checkpoint_seconds = 0.3
[[tune]]
data = "chat.jsonl"
epochs = 4
batch_tokens = 256
[judge]
bootstrap = 100
compressors = false
"""
MODULES = ("argparse", "ast", "bisect", "calendar", "copy", "csv", "difflib", "enum", "heapq", "inspect", "pprint", "shlex")


@pytest.fixture
def workplace(tmp_path: Path) -> Path:
    """A folder with `tiny.toml`, the source of some library modules as text, and conversations in two languages."""
    library, text = Path(sysconfig.get_path("stdlib")), tmp_path / "text"
    text.mkdir()
    for module in MODULES:
        (text / f"{module}.txt").write_text((library / f"{module}.py").read_text(encoding="utf-8"), encoding="utf-8")
    rows = []
    for n in range(200):
        module = MODULES[n % len(MODULES)]
        asked, answer = (f"What is {module}?", f"A module: {module}.") if n % 2 else (f"{module} 是什么？", f"一个模块：{module}。")
        rows.append({"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]})
    (tmp_path / "chat.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    (tmp_path / "tiny.toml").write_text(RECIPE)
    return tmp_path
