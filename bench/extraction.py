"""The main text of web pages, beside the peers, in one run on pages whose truth is known.

    PYTHONPATH=src python bench/extraction.py [--data ../shared/data/dirty] [--rounds 3]

Prints one table and writes bench/results/extraction.json. The truth: for each of 207 real pages in ten languages, strings
that must survive (`with`) and strings that must go (`without`). Precision is with / (with + without) among the strings found
in the text, recall the share of `with` that is found, rejection the share of `without` that is not; blanks count as
one. The interval is a bootstrap over pages. Peers: trafilatura and resiliparse, each as it comes and at its best here;
all get the same decoded markup. Speed is MB of UTF-8 markup per second of one process, the median of interleaved rounds.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import statistics
import tarfile
import time
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import trafilatura
import zstandard

from puna.corpus import extract, html

RESULTS = Path(__file__).parent / "results" / "extraction.json"
SHARED = Path(__file__).parents[2] / "shared" / "data" / "dirty"

EXTRACTORS: dict[str, Callable[[str], str]] = {
    "puna": extract.main_text,
    "puna, scanner for hostile pages": html.main_text,
    "trafilatura": lambda page: trafilatura.extract(page) or "",
    "trafilatura, recall, no comments": lambda page: (
        trafilatura.extract(page, include_comments=False, favor_recall=True) or ""
    ),
}
PEER = "resiliparse"
if importlib.util.find_spec(PEER):
    from resiliparse.extract.html2text import extract_plain_text

    EXTRACTORS["resiliparse, main content"] = lambda page: extract_plain_text(page, main_content=True)
    EXTRACTORS["resiliparse, bare"] = lambda page: extract_plain_text(
        page, main_content=True, comments=False, alt_texts=False
    )
else:
    print("resiliparse is not installed and left out: pip install resiliparse")


def gold_pages(data: Path) -> list[tuple[str, list[str], list[str]]]:
    """(markup, strings that must survive, strings that must go) of each page."""
    gold = json.loads((data / "web_html_gold.json").read_text())
    with zstandard.open(data / "web_html.tar.zst", "rb") as stream, tarfile.open(fileobj=stream, mode="r|") as tar:
        pages = {PurePosixPath(m.name).name: part.read() for m in tar if (part := tar.extractfile(m)) is not None}
    found = []
    for entry in gold.values():
        decoded = html.decode_page(pages[entry["file"]])
        if decoded is None:
            raise SystemExit(f"{entry['file']}: cannot be decoded")
        found.append((decoded[0], entry["with"], entry["without"]))
    return found


def blanks_as_one(text: str) -> str:
    """The text with every run of blanks as one."""
    return " ".join(text.split())


def hits(text: str, keep: list[str], drop: list[str]) -> tuple[int, int, int, int]:
    """(found and must survive, must survive, found and must go, must go) of one page."""
    text = blanks_as_one(text)
    return (
        sum(blanks_as_one(s) in text for s in keep),
        len(keep),
        sum(blanks_as_one(s) in text for s in drop),
        len(drop),
    )


def scores(counts: np.ndarray) -> dict[str, float]:
    """Scores of the summed counts of pages, shape (pages, 4)."""
    kept, keep, wrong, drop = counts.sum(0).tolist()
    precision, recall = kept / max(1, kept + wrong), kept / keep
    f1 = 2 * precision * recall / max(1e-9, precision + recall)
    return {"precision": precision, "recall": recall, "rejection": 1 - wrong / drop, "f1": f1}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=SHARED, help="the folder with web_html.tar.zst and its gold")
    parser.add_argument("--rounds", type=int, default=3, help="in turns (default: 3)")
    options = parser.parse_args()
    pages = gold_pages(options.data)
    size = sum(len(markup.encode("utf-8", "replace")) for markup, _, _ in pages)
    seconds: dict[str, list[float]] = {name: [] for name in EXTRACTORS}
    texts: dict[str, list[str]] = {}
    for work in EXTRACTORS.values():
        work(pages[0][0])  # imports and tables
    for _ in range(options.rounds):
        for name, work in EXTRACTORS.items():
            begin = time.process_time()
            texts[name] = [work(markup) for markup, _, _ in pages]
            seconds[name].append(time.process_time() - begin)
    draws = np.random.default_rng(0).integers(0, len(pages), (1000, len(pages)))
    counts = {
        name: np.array([hits(text, keep, drop) for text, (_, keep, drop) in zip(found, pages, strict=True)])
        for name, found in texts.items()
    }
    ours = np.array([scores(counts["puna"][draw])["f1"] for draw in draws])
    rows: dict[str, dict[str, Any]] = {}
    for name, found in counts.items():
        theirs = np.array([scores(found[draw])["f1"] for draw in draws])
        rows[name] = {
            **scores(found),
            "f1_interval": np.percentile(theirs, [2.5, 97.5]).tolist(),
            "puna_minus_this_interval": np.percentile(ours - theirs, [2.5, 97.5]).tolist(),
            "MB_per_second": size / statistics.median(seconds[name]) / 1e6,
        }
    print(f"{len(pages)} pages, {size / 1e6:.1f} MB of markup; {int(counts['puna'][:, 1].sum())} strings must survive, "
          f"{int(counts['puna'][:, 3].sum())} must go")  # fmt: skip
    print(f"{'':34}{'precision':>10}{'recall':>8}{'rejection':>10}{'F1':>8}  {'95 %':17}{'MB/s':>6}")
    for name, row in rows.items():
        low, high = row["f1_interval"]
        print(f"{name:34}{row['precision']:10.4f}{row['recall']:8.4f}{row['rejection']:10.4f}{row['f1']:8.4f}"
              f"  {low:.4f}..{high:.4f}   {row['MB_per_second']:6.1f}")  # fmt: skip
    record = {"python": platform.python_version(), "cores": os.cpu_count(), "pages": len(pages), "bytes": size,
              "versions": {name: importlib.metadata.version(name) for name in ("trafilatura", "lxml", *([PEER] if importlib.util.find_spec(PEER) else []))},
              "rows": rows}  # fmt: skip
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
