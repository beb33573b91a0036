"""What every pass over the corpus is told: the recipe's section, where the parts lie, and which stages apply to which row.

Comes in: `[corpus]`. Goes out: a value that is sent to every worker. Must never happen: a stage that asks the recipe in its own way.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from puna.corpus.frames import RAY_ADDRESS
from puna.corpus.parts import Shelf
from puna.recipe.corpus import Apply, Corpus, bytes_of

_LEAST_PART, _MOST_PART = 2 << 20, 24 << 20
# Cautious guesses, and enough so: with a bound of 2 GB, 5 GB of text held 1.24 GB at the peak (bench/corpus_pipeline.py).
_OVER_TEXT = 12  # bytes that a worker holds for each byte of text in its part: rows, arrays of a batch, the table
_BASE = 250 << 20  # bytes of a worker before it holds any text: Python, numpy, Arrow, Daft
_SMALL = 4 << 20  # bytes of text that one process works through before others have started
BATCH = 1 << 20  # characters that the stages look at together


@dataclass(frozen=True)
class Setting:
    """The section of the recipe and the folder of the passes' shelves."""

    config: Corpus
    work: Path
    has_web: bool = True  # whether any document is a page of the web; known after the second pass
    size: int = 1 << 62  # bytes of text that were read; known after the first pass

    @property
    def ray(self) -> str | None:
        """The address of the Ray cluster, or None for this machine."""
        return self.config.scale.ray or os.environ.get(RAY_ADDRESS)

    @property
    def apart(self) -> bool:
        """Whether there is enough work for processes of its own."""
        return self.size > _SMALL

    def bounds(self, shelf: Shelf) -> list[tuple[int, int]]:
        """The orders [first, end) that the documents of each part may have, in reading order."""
        return [(place << 32, (place + 1) << 32) for place in range(len(shelf.names()))]

    def shelf(self, name: str) -> Shelf:
        """The output of the pass of that name."""
        return Shelf(self.work / name)

    @property
    def workers(self) -> int:
        """Processes at a time: as the recipe says, or one a core, and no more than the memory allows."""
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        wished = self.config.scale.workers or cores
        # On a cluster each machine has memory of its own, and the recipe says how many workers there are.
        return wished if self.ray else max(1, min(wished, self.memory // (2 * _BASE)))

    @property
    def memory(self) -> int:
        """Bytes that all of the pipeline may hold at a time."""
        return bytes_of(self.config.scale.memory)

    @property
    def part_bytes(self) -> int:
        """Bytes of text in a part. No result depends on it."""
        share = (self.memory - _BASE) // self.workers - _BASE
        return max(_LEAST_PART, min(_MOST_PART, share // _OVER_TEXT))


def applies(apply: Apply, row: Mapping[str, Any]) -> bool:
    """Whether a stage with this `apply` looks at a row. Source code is exempt: it is no prose, whatever the recipe says."""
    return apply != "off" and row["kind"] not in ("source", "docstring") and (apply == "all" or row["web"])
