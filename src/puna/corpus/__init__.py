"""Text in, clean documents out.

Comes in: the recipe's `[corpus]`: "python" (the running interpreter's documentation and source) and the user's own files.
Goes out: a folder with `train.parquet`, `heldout.parquet`, `corpus.json` and, where asked for, more (see pipeline.py).
Must never happen: text on both sides of the split, or a document that disappears without a count.

Where to find what:
    pipeline           the way through: passes over parts, and barriers between them
    reading, cleaning, scoring, reducing, finishing, holdout
                       the passes, in this order; context, parts, frames: what they share, where parts lie, how work is spread
    sources, readers, streams, compressed, archives, rows, fields, warc, pdf, hub, html, extract, charset
                       from files of strangers to documents
    clean, correct, personal, symbols, language, segment, metrics, repetition, filters, thresholds
                       what is mended and measured in one document
    perplexity, quality, coherence, safety, topics; scorers, samples, features
                       what is learned from many; how it is trained
    paragraphs, signatures, neardup, components, spans, passages, tables, near, split
                       what stands in more than one place
    evalitems, folding, itemgrams, itemindex, decontaminate
                       evaluation items in the text
    steps, histograms, summary
                       what became of everything
    python, docstrings, builtin_docs, functions, chat, conversations, phrases
                       the default corpus and the default conversations
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from puna.corpus.pipeline import build_documents, document_batches, read_documents
    from puna.corpus.sources import other_digests, source_digest

__all__ = ["build_documents", "document_batches", "other_digests", "read_documents", "source_digest"]


def __getattr__(name: str) -> Any:
    # pyarrow is heavy; verbs that only look at a recipe must not wait for it.
    if name in ("build_documents", "document_batches", "read_documents"):
        from puna.corpus import pipeline

        return getattr(pipeline, name)
    if name in ("source_digest", "other_digests"):
        from puna.corpus import sources

        return getattr(sources, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
