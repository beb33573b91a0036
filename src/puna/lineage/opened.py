"""A model as a comparison takes it: its checkpoint, its tokenizer, its folder.

Comes in: a path, or weights in memory. Goes out: `Opened`. Must never happen: a comparison that fails because one part of a model is
not there: what needs that part says so.
"""

from dataclasses import dataclass
from pathlib import Path

from puna.errors import PunaError
from puna.lineage.weights.reading import Checkpoint, open_checkpoint
from puna.tokens import Tokenizer
from puna.tokens.formats import open_tokenizer


@dataclass(frozen=True)
class Opened:
    """`tokenizer`: None where there is none that can be read, `no_tokenizer` says why. `path`: None for a model in memory."""

    name: str
    checkpoint: Checkpoint
    tokenizer: Tokenizer | None = None
    path: Path | None = None
    no_tokenizer: str = ""
    digest: str | None = None  # of its weights, config and tokenizer, where the caller knows it: the board's key


def open_for_comparison(
    path: Path, name: str | None = None, like: Checkpoint | None = None, digest: str | None = None
) -> Opened:
    """The model at `path`, headers read, no tensor yet. Raises `PunaError` where it is no model."""
    path = Path(path)
    checkpoint = open_checkpoint(path, like)
    try:
        tokenizer, why = open_tokenizer(path), ""
    except PunaError as error:
        tokenizer, why = None, error.what[:160]
    return Opened(name or path.name, checkpoint, tokenizer, path, why, digest)
