"""Tokenizing and packing, beside the peers, in one run on the text of the running Python.

    PYTHONPATH=src python bench/tokenize_speed.py [--vocab 4096] [--rounds 3]

Prints one table and writes bench/results/tokenize_speed.json. Peers: `transformers` on the same tokenizer files (its own
way to encode a batch of documents), and plain concatenation cut into rows (the cheapest packing there is). Each time is
the median of interleaved rounds.
"""

import argparse
import json
import os
import platform
import statistics
import sysconfig
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import transformers

from puna.tokens import Tokenizer, train_tokenizer
from puna.tokens.pack import pack_documents
from puna.tokens.stream import encode_documents

CONTEXT = 512
RESULTS = Path(__file__).parent / "results" / "tokenize_speed.json"


def library_texts() -> list[str]:
    """The standard library's modules, tests left out."""
    root = Path(sysconfig.get_paths()["stdlib"])
    paths = [
        p for p in sorted(root.rglob("*.py")) if not {"test", "tests", "idle_test", "site-packages"} & set(p.parts)
    ]
    return [path.read_text(encoding="utf-8", errors="ignore") for path in paths]


def timed(work: Callable[[], Any]) -> float:
    """Seconds that `work` takes."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def concatenate(documents: list[np.ndarray], out: Path) -> None:
    """The peer of packing: all ids in a line, cut into rows."""
    line = np.concatenate(documents).astype("<u2")
    line[: len(line) // (CONTEXT + 1) * (CONTEXT + 1)].tofile(out / "line.bin")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vocab", type=int, default=4096, help="entries (default: 4096)")
    parser.add_argument("--rounds", type=int, default=3, help="in turns (default: 3)")
    options = parser.parse_args()
    texts = library_texts()
    size = sum(len(text.encode()) for text in texts)
    with tempfile.TemporaryDirectory() as name:
        out = Path(name)
        train_seconds = timed(lambda: train_tokenizer(iter(texts), options.vocab, out))
        ours, theirs = Tokenizer.load(out), transformers.AutoTokenizer.from_pretrained(out)
        documents = [ids for ids, _ in encode_documents(ours, texts)]
        same = [ids[:-1].tolist() for ids in documents[:50]] == theirs(texts[:50])["input_ids"]
        tasks: dict[str, Callable[[], Any]] = {
            "encode, puna": lambda: list(encode_documents(ours, texts)),
            "encode, transformers": lambda: theirs(texts),
            "pack best-fit, puna": lambda: pack_documents(((ids, None) for ids in documents), CONTEXT, out / "rows",
                                                          vocab_size=ours.vocab_size),
            "pack by concatenation": lambda: concatenate(documents, out),
        }  # fmt: skip
        seconds: dict[str, list[float]] = {task: [] for task in tasks}
        for _ in range(options.rounds):
            for task, work in tasks.items():
                seconds[task].append(timed(work))
        pack = json.loads((out / "rows" / "pack.json").read_text())
    tokens = sum(map(len, documents))
    rows = {task: {"seconds": (median := statistics.median(times)), "MB_per_second": size / median / 1e6,
                   "Mtokens_per_second": tokens / median / 1e6} for task, times in seconds.items()}  # fmt: skip
    print(f"{size / 1e6:.1f} MB, {len(texts)} documents, {tokens:,} tokens, {size / tokens:.2f} bytes per token; "
          f"trained in {train_seconds:.1f} s; same ids as transformers: {same}")  # fmt: skip
    print(f"{'':24}{'seconds':>9}{'MB/s':>9}{'Mtok/s':>9}")
    for task, row in rows.items():
        print(f"{task:24}{row['seconds']:9.2f}{row['MB_per_second']:9.1f}{row['Mtokens_per_second']:9.1f}")
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    record = {"python": platform.python_version(), "cores": os.cpu_count(), "vocab": options.vocab, "bytes": size,
              "tokens": tokens, "same_ids": same, "train_seconds": train_seconds, "rows": rows, "pack": pack}  # fmt: skip
    RESULTS.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
