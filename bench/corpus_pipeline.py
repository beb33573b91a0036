"""The whole data pipeline on a large input: MB/s of each pass, and the memory that all its processes hold together.

    python bench/corpus_pipeline.py [--gigabytes 5] [--memory 2GB] [--folder DIR]

The input is made of real crawl, encyclopedia and Chinese text (../shared/data), repeated and perturbed: in each copy a share of
the words is exchanged for others of the text, sentences change places, some pages are exact or near copies, and a tenth
are damaged. It is written as JSON lines under `zstd`, some 64 MB of text a file. Every stage is on. Memory is the sum of the
proportional set sizes (PSS) of the process and all its children, looked at five times a second.
Prints one table and writes bench/results/corpus_pipeline.json.
"""

import argparse
import json
import multiprocessing
import os
import platform
import random
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import zstandard

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
RESULTS = Path(__file__).parent / "results" / "corpus_pipeline.json"
FILE = 64_000_000  # bytes of text
SENTENCES = re.compile(r"(?<=[.!?。！？])\s*")


def real_texts() -> list[tuple[str, bool]]:
    """(text, whether it is Chinese) of some thousand real pages."""
    found: list[tuple[str, bool]] = []
    for name, chinese in (
        ("dirty/c4_demo.jsonl.zst", False),
        ("train/en_open.jsonl.zst", False),
        ("train/zh_modern.jsonl.zst", True),
    ):
        with open(DATA / name, "rb") as raw, zstandard.ZstdDecompressor().stream_reader(raw) as stream:
            lines = stream.read().decode().splitlines()
        for line in lines:
            text = json.loads(line)["text"]
            found += [(text[at : at + 3000], chinese) for at in range(0, min(len(text), 60_000), 3000)]
    return found


def perturbed(text: str, chinese: bool, pool: list[str], rng: random.Random) -> str:
    """A text in other words: a third of its words (characters) are others of the pool, and its sentences change places."""
    sentences = SENTENCES.split(text)
    rng.shuffle(sentences)
    out = []
    for sentence in sentences:
        words = list(sentence) if chinese else sentence.split(" ")
        for place in range(len(words)):
            if rng.random() < 0.33:
                words[place] = pool[int(rng.random() * len(pool))]
        out.append(("" if chinese else " ").join(words))
    return ("" if chinese else " ").join(out)


def pages(size: int, seed: int) -> Iterator[str]:
    """Pages of `size` bytes in all; some are copies of pages before, some are damaged."""
    rng = random.Random(seed)
    texts = real_texts()
    pools = {
        True: [c for t, zh in texts if zh for c in t[:400]],
        False: [w for t, zh in texts if not zh for w in t.split(" ")[:80]],
    }
    before: list[str] = []
    made = 0
    while made < size:
        text, chinese = texts[rng.randrange(len(texts))]
        page = perturbed(text, chinese, pools[chinese], rng)
        luck = rng.random()
        if before and luck < 0.1:
            page = before[rng.randrange(len(before))]
        elif before and luck < 0.15:
            page = before[rng.randrange(len(before))] + " And one more line at the end."
        elif luck < 0.25:
            page = "\n".join(["Home | About | Contact"] * 30) + page[:200]
        if len(before) < 2000:
            before.append(page)
        made += len(page.encode())
        yield page


def write_file(folder: Path, number: int, size: int) -> None:
    """One file of the input."""
    raw_path = folder / f"{number:04}.jsonl.zst"
    with open(raw_path, "wb") as raw, zstandard.ZstdCompressor(level=1).stream_writer(raw) as stream:
        for page in pages(size, number):
            stream.write(json.dumps({"text": page, "url": f"http://a{number}.example/"}).encode() + b"\n")


def write_input(folder: Path, size: int) -> None:
    """Files of about 64 MB of text each."""
    sizes = [min(FILE, size - at) for at in range(0, size, FILE)]
    with multiprocessing.Pool() as pool:
        pool.starmap(write_file, [(folder, number, here) for number, here in enumerate(sizes)], chunksize=1)


def held(root: int) -> int:
    """Bytes that a process and all its descendants hold: the sum of their PSS."""
    parents: dict[int, int] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat") as stream:
                    parents[int(entry)] = int(stream.read().rpartition(")")[2].split()[1])
            except OSError:
                continue
    family, grown = {root}, True
    while grown:
        more = {child for child, parent in parents.items() if parent in family} - family
        family |= more
        grown = bool(more)
    total = 0
    for process in family:
        try:
            with open(f"/proc/{process}/smaps_rollup") as stream:
                total += sum(int(line.split()[1]) * 1024 for line in stream if line.startswith("Pss:"))
        except OSError:
            continue
    return total


CHILD = """
import sys, time, json
from pathlib import Path
from puna.corpus.pipeline import build_documents
from puna.recipe.corpus import Corpus
class Told:
    def start(self, title, total=None, unit=""): self.title, self.at = title, time.perf_counter()
    def update(self, done, **facts): pass
    def note(self, line): pass
    def finish(self): print(json.dumps([self.title, time.perf_counter() - self.at]), flush=True)
sources = [{"path": sys.argv[1], "profile": "web"}, sys.argv[4]]
report = build_documents(Corpus(sources=sources, scale={"memory": sys.argv[3]}), Path(sys.argv[2]), Told())
print(json.dumps(["report", {key: report[key] for key in ("documents", "bytes", "accounts")}]))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=5.0, help="of text (default: 5)")
    parser.add_argument("--memory", default="2GB", help="the bound that the recipe sets (default: 2GB)")
    parser.add_argument("--folder", type=Path, help="where the input is made and kept (default: a temporary folder)")
    options = parser.parse_args()
    size = int(options.gigabytes * 1e9)
    with tempfile.TemporaryDirectory() as name:
        folder = options.folder or Path(name) / "input"
        if not folder.is_dir():
            folder.mkdir(parents=True)
            write_input(folder, size)
        out = Path(name) / "out"
        began = time.perf_counter()
        child = subprocess.Popen([sys.executable, "-c", CHILD, str(folder), str(out), options.memory, str(DATA / "train/en_open.jsonl.zst")],
                                 stdout=subprocess.PIPE, text=True)  # fmt: skip
        peak, by_pass, over, title = 0, {}, threading.Event(), ["reading"]

        def watch() -> None:
            nonlocal peak
            while not over.wait(0.2):
                now = held(child.pid)
                peak = max(peak, now)
                by_pass[len(seconds)] = max(by_pass.get(len(seconds), 0), now)

        seconds: list[tuple[str, float, int]] = []
        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        report: dict[str, object] = {}
        assert child.stdout is not None
        for line in child.stdout:
            title, value = json.loads(line)
            if title == "report":
                report = value
            else:
                seconds.append((title, value, by_pass.get(len(seconds), 0)))
                print(
                    f"{title:46} {value:8.1f} s {size / value / 1e6:8.1f} MB/s {seconds[-1][2] / 1e9:6.2f} GB",
                    flush=True,
                )
        code = child.wait()
        over.set()
        watcher.join()
        total = time.perf_counter() - began
        if code:
            raise SystemExit(f"the pipeline failed with {code}")
        shutil.rmtree(out)
    print(f"{'the whole pipeline':46} {total:8.1f} s {size / total / 1e6:8.1f} MB/s {peak / 1e9:6.2f} GB")
    result = {"bytes": size, "memory": options.memory, "seconds": total, "mb_per_second": size / total / 1e6, "peak_bytes": peak,
              "passes": [{"pass": t, "seconds": s, "peak_bytes": p} for t, s, p in seconds], "report": report,
              "machine": {"cores": os.cpu_count(), "system": platform.platform()}}  # fmt: skip
    RESULTS.write_text(json.dumps(result, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
