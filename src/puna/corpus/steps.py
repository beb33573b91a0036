"""What each step took away, counted as it happens.

Comes in: documents before and after a step. Goes out: the "steps" of corpus.json. Must never happen: a document that
disappears without a reason and a count.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

_SAMPLES = 3  # per reason
_SAMPLE_CHARS = 200


@dataclass
class Step:
    """One step: what went in, what came out, what was removed for which reason, with a few samples."""

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
            self.samples.append({"reason": reason, "source": source, "text": text[:_SAMPLE_CHARS]})

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
