"""What is done about evaluation items that stand in training text, and the record that travels with a model to the leaderboard.

Comes in: hits (see itemindex) and the texts they are in. Goes out: flags, texts without the passages, and contamination.json.
Must never happen: a record that depends on the order of the texts, or an item called clean that could not be looked for.

    {"format": "puna-contamination-1",
     "items_sha256": "...",        the items that were looked for: task, id, question and answer, in their order
     "action": "cut",              what was done: "flag" (nothing), "cut" or "drop"
     "method": {"words": 13, "characters": 13, "whole": [8, 10], "near": [4, 6], "near_from": [0.2, 0.3],
                "contaminated_from": 0.7, "acted_from": 0.2, "template_items": 10, "templates_ignored": 72},
     "documents": 1234,            texts that were scanned
     "tasks": {"mmlu/test": {"items": 14042, "clean": 13852, "touched": 30, "contaminated": 4, "undecidable": 156,
                             "suspected": 3, "found": 41}},
     "items": [{"task": "mmlu/test", "id": "5969", "verdict": "contaminated", "share": 0.85, "found_share": 0.85,
                "documents": 2, "first": [["id of a document", 0.85], ...], "near": 0.9, "near_documents": 1}],
     "undecidable": {"mmlu/test": ["17", ...]}}

`verdict` is of what stayed in the training text after `action`: "contaminated" if one document held CONTAMINATED or more of
the item's n-grams, or of its question's (PaLM's 70 %, Chowdhery et al. 2022, section 8), or all of a question too short for one;
"touched" if one held any; else "clean". `share` is that share, `found_share` the one before the action; `documents` held an
n-gram before it, and `first` names those that held most. `near` is the greatest share in the near tier in what stayed, and
"suspected" counts the items that only it speaks of. "found" counts the items of which the exact tier found anything. An item
in neither list is clean. What the n-grams do not show (a translation, a question put in quite other words) stays unseen.
"""

import heapq
import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from puna.corpus import itemindex
from puna.corpus.itemgrams import TEMPLATE_ITEMS
from puna.corpus.itemindex import Hits, ItemIndex

__all__ = ["CONTAMINATED", "DOCUMENT_SHARE", "Hits", "ItemIndex", "cut", "flagged", "report", "verdict", "write_hits"]

Mask = npt.NDArray[np.bool_]

FORMAT = "puna-contamination-1"
CONTAMINATED = 0.7
DOCUMENT_SHARE = 0.2  # share of an item in one text that flags it; quotations and names of institutions stay below
_CUT_AROUND = 200  # characters that go on either side of a passage, as with GPT-3
_CUT_TO = 200  # characters further within which the cut looks for the end of a sentence
_CUT_PIECES = 10  # a text that would fall into more goes as a whole, as with GPT-3
_SENTENCE = re.compile(r"[\n。！？]|[.!?](?=\s)")
_NAMED = 5  # documents that are named for an item


def flagged(hits: Hits, count: int, least: float = DOCUMENT_SHARE, near: bool = False) -> Mask:
    """Which of `count` texts hold the share `least` of an item in the exact tier (0: any n-gram); with `near`, also those under
    suspicion in the near one."""
    mask = np.zeros(count, bool)
    mask[hits.document[((hits.share > 0) & (hits.share >= least)) | (near & (hits.near > 0))]] = True
    return mask


def cut(texts: Sequence[str], hits: Hits, least: float = DOCUMENT_SHARE) -> list[str]:
    """The texts without the passages of the exact tier, of items that they hold `least` of; "" where too little would stay.

    As with GPT-3, 200 characters on either side go too (here on to the end of a sentence, if one comes), and a text that would
    fall into over 10 pieces goes as a whole; so does one that would lose over half of itself.
    """
    out = list(texts)
    wide = (hits.share > 0) & (hits.share >= least)
    pairs = set(zip(hits.document[wide].tolist(), hits.item[wide].tolist(), strict=True))
    spans: dict[int, list[tuple[int, int]]] = {}
    columns = (hits.span_document, hits.span_item, hits.start, hits.end)
    for document, item, start, end in zip(*(column.tolist() for column in columns), strict=True):
        if (document, item) in pairs:
            spans.setdefault(document, []).append((start, end))
    for document, found in spans.items():
        out[document] = _without(texts[document], found)
    return out


def _without(text: str, spans: list[tuple[int, int]]) -> str:
    pieces: list[str] = []
    kept_to = 0
    merged: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1] + 2 * _CUT_AROUND:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        else:
            merged.append((start, end))
    for start, end in merged:
        before, behind = max(0, start - _CUT_AROUND), min(len(text), end + _CUT_AROUND)
        window = max(0, before - _CUT_TO)
        marks = [match.end() + window for match in _SENTENCE.finditer(text[window:before])]
        mark = _SENTENCE.search(text[behind : behind + _CUT_TO])
        pieces.append(text[kept_to : max(kept_to, marks[-1] if marks else before)].strip())
        kept_to = behind + mark.end() if mark else behind
    pieces.append(text[kept_to:].strip())
    kept = "\n\n".join(piece for piece in pieces if len(piece) >= _CUT_AROUND)
    return kept if len(merged) <= _CUT_PIECES and 2 * len(kept) >= len(text) else ""


def write_hits(path: Path, batches: Iterable[tuple[Sequence[str], Hits]]) -> None:
    """Write the hits of some batches, each with the ids of its documents, as one .npz file: the narrow table of a partition."""
    names: list[str] = []
    rows: list[tuple[int, int, float, float]] = []
    count = 0
    for ids, hits in batches:
        count += len(ids)
        last = -1
        for document, item, share, near in zip(
            *(column.tolist() for column in (hits.document, hits.item, hits.share, hits.near)), strict=True
        ):
            if document != last:
                names.append(ids[document])
                last = document
            rows.append((len(names) - 1, item, share, near))
    table = np.array(rows, np.float64).reshape(-1, 4)
    with open(path, "wb") as file:
        np.savez(
            file,
            names=np.frombuffer(json.dumps(names).encode(), np.uint8),
            documents=np.array([count]),
            document=table[:, 0].astype(np.int64),
            item=table[:, 1].astype(np.int64),
            share=table[:, 2],
            near=table[:, 3],
        )


def verdict(share: float) -> str:
    """What the greatest share of an item's n-grams in one document says: "contaminated", "touched" or "clean"."""
    return "contaminated" if share >= CONTAMINATED else "touched" if share > 0 else "clean"


class _Seen:
    """What the documents hold of one item."""

    __slots__ = ("best", "documents", "found", "near", "near_documents", "share")

    def __init__(self) -> None:
        self.found = self.share = self.near = 0.0
        self.documents = self.near_documents = 0
        self.best: list[tuple[float, str]] = []

    def add(self, document: str, share: float, near: float, stays: bool) -> None:
        self.found = max(self.found, share)
        if stays:
            self.share, self.near = max(self.share, share), max(self.near, near)
        self.documents += share > 0
        self.near_documents += near > 0
        self.best.append((-(share or near), document))
        if len(self.best) > 8 * _NAMED:
            self.best = heapq.nsmallest(_NAMED, self.best)


def report(index: ItemIndex, files: Iterable[Path], action: Literal["flag", "cut", "drop"] = "flag") -> dict[str, Any]:
    """The record (see above) of the texts whose hits `write_hits` wrote to `files`, and that were then flagged, cut or dropped."""
    seen: dict[int, _Seen] = {}
    documents = 0
    for path in files:
        with np.load(path, allow_pickle=False) as file:
            rows = {name: file[name] for name in file.files}
        documents += int(rows["documents"][0])
        names = json.loads(rows["names"].tobytes())
        for document, item, share, near, stays in zip(
            *(rows[name].tolist() for name in ("document", "item", "share", "near")),
            _stay(rows, action).tolist(),
            strict=True,
        ):
            seen.setdefault(item, _Seen()).add(names[document], share, near, stays)
    tasks: dict[str, Counter[str]] = {}
    undecidable: dict[str, list[str]] = {}
    found: list[dict[str, Any]] = []
    for number, ((task, name), lost) in enumerate(zip(index.keys, index.undecidable.tolist(), strict=True)):
        counts = tasks.setdefault(task, Counter(dict.fromkeys(_COUNTS, 0)))
        one = seen.get(number, _Seen())
        said = "undecidable" if lost else verdict(one.share)
        counts["items"] += 1
        counts[said] += 1
        counts["suspected"] += one.share == 0 and one.near > 0
        counts["found"] += one.found > 0
        if lost:
            undecidable.setdefault(task, []).append(name)
        if number in seen:
            first = [[document, round(-share, 4)] for share, document in heapq.nsmallest(_NAMED, one.best)]
            found.append({"task": task, "id": name, "verdict": said, "share": round(one.share, 4),
                          "found_share": round(one.found, 4), "documents": one.documents, "first": first,
                          "near": round(one.near, 4), "near_documents": one.near_documents})  # fmt: skip
    return {"format": FORMAT, "items_sha256": index.digest, "action": action, "method": _method(index), "documents": documents,
            "tasks": {task: dict(counts) for task, counts in tasks.items()}, "items": found,
            "undecidable": undecidable}  # fmt: skip


_COUNTS = ("items", "clean", "touched", "contaminated", "undecidable", "suspected", "found")


def _stay(rows: dict[str, npt.NDArray[Any]], action: str) -> Mask:
    """Which rows of one file tell of text that stayed in."""
    acted = rows["share"] >= DOCUMENT_SHARE
    if action == "flag":
        return np.ones(len(acted), bool)
    if action == "cut":
        return np.asarray(~acted)
    return np.asarray(~np.isin(rows["document"], rows["document"][acted]))


def _method(index: ItemIndex) -> dict[str, Any]:
    return {
        "words": index.words,
        "characters": index.characters,
        "whole": [min(index.words, itemindex.WHOLE_WORDS), min(index.characters, itemindex.WHOLE_CHARACTERS)],
        "near": [itemindex.NEAR_WORDS, itemindex.NEAR_CHARACTERS],
        "near_from": [itemindex.NEAR_LEAST_WORDS, itemindex.NEAR_LEAST_CHARACTERS],
        "contaminated_from": CONTAMINATED,
        "acted_from": DOCUMENT_SHARE,
        "template_items": TEMPLATE_ITEMS,
        "templates_ignored": int(index.exact.templates[0]),
    }
