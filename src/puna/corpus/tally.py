"""What the readers passed over, in numbers.

Comes in: a reason for each thing that is not read. Goes out: counts for the report. Must never happen: two tallies that
cannot be added, because readers run in several processes.
"""

from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Tally:
    """What the readers passed over, and how they decoded what they read."""

    encodings: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)

    def add(self, other: "Tally") -> None:
        """Add another reader's counts to these."""
        self.encodings += other.encodings
        self.skipped += other.skipped
