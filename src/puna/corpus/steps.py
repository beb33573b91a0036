"""What each step took away, counted as it happens, part by part, and put together again.

Comes in: documents before and after a step. Goes out: the "steps" of corpus.json. Must never happen: a document that
disappears without a reason and a count.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

_SAMPLES = 3  # per reason
_SAMPLE_CHARS = 200


@dataclass
class Step:
    """One step: what went in, what came out, what was removed for which reason, with a few samples.

    `removed` counts documents, or the passages and paragraphs that were cut out of documents that stayed.
    """

    name: str
    documents_in: int = 0
    documents_out: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    removed: Counter[str] = field(default_factory=Counter)
    changed: Counter[str] = field(default_factory=Counter)
    samples: list[dict[str, str]] = field(default_factory=list)

    def enter(self, size: int) -> None:
        """A document of `size` bytes comes in."""
        self.documents_in += 1
        self.bytes_in += size

    def leave(self, size: int) -> None:
        """A document of `size` bytes goes on to the next step."""
        self.documents_out += 1
        self.bytes_out += size

    def remove(self, reason: str, source: str, text: str, count: int = 1) -> None:
        """Something is taken out for `reason`; its first characters are kept for the first few."""
        self.removed[reason] += count
        if sum(sample["reason"] == reason for sample in self.samples) < _SAMPLES:
            # A lone surrogate is no text that a report could hold.
            shown = text[:_SAMPLE_CHARS].encode("utf-8", "replace").decode()
            self.samples.append({"reason": reason, "source": source, "text": shown})

    def through(
        self, rows: Iterable[dict[str, Any]], reason: Callable[[dict[str, Any]], str]
    ) -> Iterator[dict[str, Any]]:
        """The rows for which `reason` is empty; the others leave here."""
        for row in rows:
            size = len(row["text"].encode())
            self.enter(size)
            if why := reason(row):
                self.remove(why, row["source"], row["text"])
                continue
            self.leave(size)
            yield row

    def report(self) -> dict[str, Any]:
        """The step as corpus.json has it."""
        return {
            "step": self.name,
            "documents_in": self.documents_in,
            "documents_out": self.documents_out,
            "bytes_in": self.bytes_in,
            "bytes_out": self.bytes_out,
            "removed": dict(sorted(self.removed.items())),
            "changed": dict(sorted(self.changed.items())),
            "samples": self.samples,
        }


def joined(reports: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """The reports of one step over several parts, in reading order, as one report."""
    total: Step | None = None
    for report in reports:
        total = total or Step(report["step"])
        total.documents_in += report["documents_in"]
        total.documents_out += report["documents_out"]
        total.bytes_in += report["bytes_in"]
        total.bytes_out += report["bytes_out"]
        total.removed.update(report["removed"])
        total.changed.update(report["changed"])
        for sample in report["samples"]:
            if sum(kept["reason"] == sample["reason"] for kept in total.samples) < _SAMPLES:
                total.samples.append(sample)
    if total is None:
        raise ValueError("there is no part to put together")
    return total.report()


def accounts(steps: list[dict[str, Any]], changed: int) -> dict[str, Any]:
    """What became of every document that was read: {"documents_in", "kept", "changed", "removed": {step: n}, "split_off"}.

    documents_in + split_off = kept + changed + the sum of removed: `kept` are as they were read, `changed` stay and are not.
    Raises RuntimeError where a step does not take up what the one before it left: a document was lost or made.
    """
    removed: dict[str, int] = {}
    split_off = 0
    for before, after in zip(steps, steps[1:], strict=False):
        for what in ("documents", "bytes"):
            if before[f"{what}_out"] != after[f"{what}_in"]:
                raise RuntimeError(
                    f"{before['step']} left {before[f'{what}_out']} {what}, {after['step']} took {after[f'{what}_in']}"
                )
    for step in steps:
        lost = step["documents_in"] - step["documents_out"]
        if lost > 0:
            removed[step["step"]] = lost
        else:
            split_off -= lost
    kept = steps[-1]["documents_out"] - changed
    if steps[0]["documents_in"] + split_off != kept + changed + sum(removed.values()):
        raise RuntimeError("the counts of the corpus' steps do not add up")
    return {
        "documents_in": steps[0]["documents_in"],
        "kept": kept,
        "changed": changed,
        "removed": removed,
        "split_off": split_off,
    }
