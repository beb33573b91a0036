"""Text in, clean documents out.

Comes in: the recipe's `[corpus]`: "python" (the running interpreter's documentation and source) and the user's own files.
Goes out: a folder with `train.parquet`, `heldout.parquet`, `corpus.json` and, where asked for, more (see pipeline.py).
Must never happen: text on both sides of the split, or a document that disappears without a count.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from puna.corpus.pipeline import build_documents, document_batches, read_documents
    from puna.corpus.sources import source_digest

__all__ = ["build_documents", "document_batches", "read_documents", "source_digest"]


def __getattr__(name: str) -> Any:
    # pyarrow is heavy; verbs that only look at a recipe must not wait for it.
    if name in ("build_documents", "document_batches", "read_documents"):
        from puna.corpus import pipeline

        return getattr(pipeline, name)
    if name == "source_digest":
        from puna.corpus.sources import source_digest

        return source_digest
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
