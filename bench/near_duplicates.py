"""Near-duplicates on text whose truth is known: precision and recall, beside datasketch and a plain cut, in one run.

    PYTHONPATH=src python bench/near_duplicates.py [--data ../shared/data]

Prints two tables and writes bench/results/near_duplicates.json. English: the openings of twelve novels in two editions each,
cut into passages that do not align; the truth is which book a passage is of, and whether its words stand in the other edition.
Chinese: real documents beside copies of them with other punctuation. Peers: datasketch's MinHashLSH with the same 14 bands of
8 rows on the same passages (left out where it is not installed), and the same clusters on texts cut every 2,400 characters.
"""

import argparse
import json
import os
import platform
import random
import re
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import zstandard

from puna.corpus import near, neardup
from puna.corpus.passages import passages
from puna.corpus.signatures import BUCKETS, ROWS, signatures

RESULTS = Path(__file__).parent / "results" / "near_duplicates.json"
PARTITION = 500  # documents
MEMORY = 1 << 26
THERE = 0.8  # of a passage's shingles in the other edition, or shared with one passage of it: it ought to be found
HALF = 0.5  # of the shingles of both: a pair with less is no pair of near-duplicates
Pairs = list[tuple[int, int]]


def rows_of(path: Path) -> list[dict[str, Any]]:
    """The rows of a compressed file of JSON lines."""
    with zstandard.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def clusters(texts: list[str]) -> Pairs:
    """(document, the document that stands for it), by the way that the corpus takes."""
    with tempfile.TemporaryDirectory() as name:
        work, keys, sketches = Path(name), [], []
        for first in range(0, len(texts), PARTITION):
            keys.append(work / f"keys-{first}")
            sketches.append(work / f"sketches-{first}")
            part = texts[first : first + PARTITION]
            neardup.write_bands(keys[-1], sketches[-1], signatures(part), np.arange(first, first + len(part)))
        found = neardup.find_clusters(keys, sketches, work / "work", MEMORY)
    return [(o, c) for o, c in zip(found.order.tolist(), found.cluster.tolist(), strict=True) if o != c]


def datasketch_pairs(texts: list[str]) -> Pairs:
    """(document, the first document that shares a band with it), by datasketch."""
    import datasketch  # type: ignore[import-untyped]

    index = datasketch.MinHashLSH(num_perm=BUCKETS * ROWS, params=(BUCKETS, ROWS))
    pairs = []
    for place, text in enumerate(texts):
        sketch = datasketch.MinHash(num_perm=BUCKETS * ROWS)
        sketch.update_batch([shingle.tobytes() for shingle in near.shingles(text)])
        if before := index.query(sketch):
            pairs.append((place, min(before)))
        index.insert(place, sketch)
    return pairs


def fixed(text: str) -> list[str]:
    """A text cut every 2,400 characters."""
    return [text[at : at + 2400] for at in range(0, len(text), 2400)]


def jaccard(one: near.Shingles, other: near.Shingles) -> float:
    """The share of two sorted sets of shingles that both have."""
    shared = int(near.known(other, one).sum())
    return shared / (len(one) + len(other) - shared)


class Editions:
    """The passages of the novels, and what is true of them."""

    def __init__(self, rows: list[dict[str, Any]], cut: Callable[[str], list[str]]) -> None:
        self.texts: list[str] = []
        self.book: list[str] = []
        self.edition: list[int] = []
        for row in rows:
            parts = cut(row["text"])
            number = 1 if row["dup_group"] == row["id"] else 2
            self.texts += parts
            self.book += [row["dup_group"]] * len(parts)
            self.edition += [number] * len(parts)
        self.shingles = [np.unique(near.shingles(text)) for text in self.texts]
        self.contained, self.alike = self._truth()

    def _truth(self) -> tuple[set[int], set[int]]:
        """The passages of second editions whose words stand in the first, and those that are like one passage of it."""
        contained, alike = set(), set()
        for book in sorted(set(self.book)):
            first = [s for s, b, e in zip(self.shingles, self.book, self.edition, strict=True) if (b, e) == (book, 1)]
            index = np.unique(np.concatenate(first))
            for place, own in enumerate(self.shingles):
                if (self.book[place], self.edition[place]) != (book, 2) or len(own) < near.MIN_SHINGLES:
                    continue
                if near.known(index, own).mean() >= THERE:
                    contained.add(place)
                if max(jaccard(own, other) for other in first) >= THERE:
                    alike.add(place)
        return contained, alike

    def judge(self, pairs: Pairs) -> dict[str, Any]:
        """Precision and recall of pairs of passages, and of pairs of books.

        A pair is right that joins the two editions of one book and has a Jaccard similarity of HALF or more.
        """
        same_book = [(a, b) for a, b in pairs if self.book[a] == self.book[b]]
        right = [(a, b) for a, b in same_book
                 if self.edition[a] != self.edition[b] and jaccard(self.shingles[a], self.shingles[b]) >= HALF]  # fmt: skip
        found = {a for a, _ in right}
        return {
            "passages": len(self.texts),
            "mean_chars": sum(map(len, self.texts)) / len(self.texts),
            "pairs": len(pairs),
            "between_books": len(pairs) - len(same_book),
            "precision": len(right) / max(1, len(pairs)),
            "recall_contained": len(found & self.contained) / max(1, len(self.contained)),
            "recall_alike": len(found & self.alike) / max(1, len(self.alike)),
            "contained": len(self.contained),
            "alike": len(self.alike),
            "books_found": len({self.book[a] for a in found}),
            "books": len(set(self.book)),
        }


def chinese(texts: list[str]) -> dict[str, Any]:
    """How many copies with other punctuation are found, and what else was merged."""
    texts = [text for text in texts if len(near.shingles(text)) >= near.MIN_SHINGLES]
    draw = random.Random(1)
    changed = [re.sub(r"[，。；：、]", lambda _: draw.choice(["，", "。", "；", "", " "]), text) for text in texts]
    pairs = clusters(texts + changed)
    stands = dict(pairs)
    count = len(texts)
    merged = [(a, b) for a, b in pairs if a < count]
    found = sum(stands.get(i + count) == stands.get(i, i) for i in range(count))
    shares = []
    for a, b in merged:
        shares.append(jaccard(np.unique(near.shingles(texts[a])), np.unique(near.shingles(texts[b]))))
    return {
        "documents": count,
        "copies_found": found,
        "merged": len(merged),
        "alike_at_least": min(shares, default=None),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    data = parser.parse_args().data
    novels = rows_of(data / "dirty" / "dup_editions_novels.jsonl.zst")
    ours, plain = Editions(novels, passages), Editions(novels, fixed)
    ways: dict[str, tuple[Editions, Callable[[list[str]], Pairs]]] = {"puna": (ours, clusters),
        "puna, cut every 2,400": (plain, clusters), "datasketch": (ours, datasketch_pairs)}  # fmt: skip
    rows = {}
    print(f"{'12 novels in 2 editions':24}{'passages':>9}{'pairs':>7}{'precision':>10}{'contained':>10}{'alike':>7}"
          f"{'books':>7}{'others':>7}{'seconds':>9}")  # fmt: skip
    for way, (editions, find) in ways.items():
        begin = time.perf_counter()
        try:
            pairs = find(editions.texts)
        except ModuleNotFoundError as missing:
            print(f"{way:24} left out: {missing}")
            continue
        seconds = time.perf_counter() - begin
        row = rows[way] = editions.judge(pairs) | {"seconds": seconds}
        print(f"{way:24}{row['passages']:9,}{row['pairs']:7,}{row['precision']:10.4f}{row['recall_contained']:10.3f}"
              f"{row['recall_alike']:7.3f}{row['books_found']:4}/{row['books']}{row['between_books']:7}{seconds:9.2f}")  # fmt: skip
    print(f"contained, alike: recall among the {len(ours.contained)} passages with {THERE:.0%} of their "
          f"shingles in the other edition,\nand the {len(ours.alike)} with a Jaccard similarity of {THERE} to one passage of "
          f"it; others: pairs between books\n")  # fmt: skip
    print(f"{'copies, new punctuation':24}{'documents':>10}{'found':>7}{'merged':>8}{'least similarity':>18}")
    zh = {}
    for name in ("zh_modern", "zh_laws", "zh_classical"):
        row = zh[name] = chinese([row["text"] for row in rows_of(data / "train" / f"{name}.jsonl.zst")])
        least = "" if row["alike_at_least"] is None else f"{row['alike_at_least']:.2f}"
        print(f"{name:24}{row['documents']:10,}{row['copies_found']:7,}{row['merged']:8}{least:>18}")
    print("merged: documents joined with another than their own copy; least similarity: of these, exact")
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    record = {"python": platform.python_version(), "cores": os.cpu_count(), "threshold": neardup.THRESHOLD,
              "there": THERE, "editions": rows, "chinese": zh}  # fmt: skip
    RESULTS.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
