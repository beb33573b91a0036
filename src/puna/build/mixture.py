"""The mixture: how often each document is read in a pass, and how many passes the caps of the sources allow.

Comes in: the corpus with its `copies`, the tokens that packing counted. Goes out: texts in the order in which they are packed, a
table of tokens by source and language, the most tokens to train on. Must never happen: two copies of a document packed beside
each other, where the model would read the one with the other before it.
"""

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from puna.build.graph import Context
from puna.corpus import document_batches
from puna.files import read_json, write_json
from puna.progress import Progress

MIXTURE = "mixture.json"
_LEAST_TEXTS = 8  # old text is drawn from this many documents or more
_Row = TypeVar("_Row")


def texts_of(corpus: Path, limit: float = math.inf) -> Iterator[str]:
    """The training texts in order, each once; above `limit` bytes every n-th document, so that each source has its share."""
    stride = math.ceil(read_json(corpus / "corpus.json")["bytes"]["train"] / limit) or 1
    number = 0
    for batch in document_batches(corpus, "train", ["text"]):
        for text in batch.column("text"):
            if number % stride == 0:
                yield text.as_py()
            number += 1


class Mixed:
    """The training texts as often as the mixture has them: all once, then what is read twice again, and so on."""

    def __init__(self, corpus: Path) -> None:
        self._corpus = corpus
        self._groups: list[tuple[str, str]] = []
        self._of: list[int] = []  # the group of each text, in the order in which they are given
        self._tokens: list[int] = []
        self._bytes: list[int] = []
        self.turns: list[int] = []  # the number of the first text of each time round
        self._more, self._long = 1, 0

    def read_long_ones(self, times: int, size: int) -> None:
        """Texts of more than `size` bytes are read `times` as often: a model learns a long context from long texts."""
        self._more, self._long = times, size

    def texts(self) -> Iterator[str]:
        """The texts."""
        known: dict[tuple[str, str], int] = {}
        turn, most = 0, 1
        while turn < most:
            self.turns.append(len(self._of))
            for batch in document_batches(self._corpus, "train", ["text", "label", "lang", "copies"]):
                for row in batch.to_pylist():
                    copies = row["copies"]
                    if self._more > 1 and len(row["text"].encode()) > self._long:
                        copies *= self._more
                    most = max(most, copies)
                    if copies > turn:
                        key = (row["label"], row["lang"])
                        group = known.setdefault(key, len(known))
                        if group == len(self._groups):
                            self._groups.append(key)
                            self._tokens.append(0)
                            self._bytes.append(0)
                        self._of.append(group)
                        self._bytes[group] += len(row["text"].encode())
                        yield row["text"]
            turn += 1

    def counted(self, encoded: Iterable[tuple[Any, _Row]]) -> Iterator[tuple[Any, _Row]]:
        """The encoded texts, in the same order, their tokens counted by source and language."""
        for number, (ids, mask) in enumerate(encoded):
            self._tokens[self._of[number]] += len(ids)
            yield ids, mask

    def write(self, folder: Path, progress: Progress) -> None:
        """mixture.json, and the table for the user: what a pass over the mixture reads."""
        total = sum(self._tokens) or 1
        rows: list[dict[str, Any]] = [{"source": label, "lang": lang, "read_bytes": size, "tokens": tokens, "share": tokens / total}
                for (label, lang), size, tokens in zip(self._groups, self._bytes, self._tokens, strict=True)]  # fmt: skip
        rows.sort(key=lambda row: (-row["tokens"], row["source"], row["lang"]))
        write_json(folder / MIXTURE, rows)
        if len(rows) > 1:
            progress.note("  tokens in a pass, by source and language")
            for row in rows[:12]:
                progress.note(f"    {row['tokens']:>14,}  {row['share']:>6.1%}  {row['source'][:40]}  {row['lang']}")
            if len(rows) > 12:
                progress.note(f"    and {len(rows) - 12} more, in {MIXTURE}")


class Replay:
    """Some of the base's old text among the new, so that less of it is forgotten (Ibrahim et al. 2024, 4.2)."""

    def __init__(self, corpus: Path, share: float, bytes_per_token: float) -> None:
        self._corpus, self._share, self._bytes_per_token = corpus, share, bytes_per_token
        self._new = self._old = 0

    def after(self, rows: Iterable[tuple[Any, Any]], tokenizer: Any, context: int) -> Iterator[tuple[Any, Any]]:
        """The rows, then old texts until they are `share` of all tokens; no text is read twice."""
        from puna.tokens.stream import encode_documents

        for ids, mask in rows:
            self._new += len(ids)
            yield ids, mask
        wanted = int(self._new * self._share / (1 - self._share))
        most = max(context, wanted // _LEAST_TEXTS)
        rests: list[tuple[Any, Any]] = []  # of texts that were cut: they come last, in their order
        for ids, mask in encode_documents(
            tokenizer, texts_of(self._corpus, max(1.0, 2 * wanted * self._bytes_per_token))
        ):
            if self._old >= wanted:
                return
            yield self._taken(ids, most, wanted), mask
            rests.append((ids[most:], mask))
        for ids, mask in rests:
            if len(ids) and self._old < wanted:
                yield self._taken(ids, len(ids), wanted), mask

    def _taken(self, ids: Any, most: int, wanted: int) -> Any:
        part = ids[: min(most, wanted - self._old)]
        self._old += len(part)
        return part

    def report(self, progress: Progress) -> dict[str, Any]:
        """What share it came to."""
        share = self._old / max(1, self._old + self._new)
        progress.note(f"  {self._old:,} of {self._old + self._new:,} tokens are old text ({share:.1%})")
        return {"replay_tokens": self._old, "replay_share": share}


def mixture_of(context: Context) -> list[dict[str, Any]]:
    """The mixture's table: the corpus' rows, and, as far as the build has come, tokens and how often each is read in all."""
    rows: list[dict[str, Any]] = read_json(context.done["corpus"] / "corpus.json")["mixture"]
    if "pack" in context.done:
        packed = {(row["source"], row["lang"]): row for row in read_json(context.done["pack"] / MIXTURE)}
        for row in rows:
            found: dict[str, Any] = packed.get((row["source"], row["lang"]), {"tokens": 0, "share": 0.0})
            row |= {"tokens": found["tokens"], "share": found["share"]}
    if "pretrain" in context.done:
        passes = context.facts("pretrain")["tokens"] / context.facts("pack")["tokens"]
        for row in rows:
            row["epochs"] = row["weight"] * passes
    return rows


def most_tokens(context: Context) -> float:
    """The tokens at which the first source with a max_epochs has been read that often; infinity where none has one."""
    from puna.corpus.sources import all_sources

    mixture = read_json(context.done["corpus"] / "corpus.json")["mixture"]
    most = math.inf
    for source in all_sources(context.recipe.corpus):
        own = [row for row in mixture if row["source"] == source.label]
        size = sum(row["bytes"] for row in own)
        if source.max_epochs is None or not size:
            continue
        copies = sum(row["bytes"] * row["weight"] for row in own) / size
        most = min(most, source.max_epochs / copies * context.facts("pack")["tokens"])
    return most


def is_capped(sources: Iterable[Any]) -> bool:
    """Whether any source has a max_epochs."""
    return any(source.max_epochs is not None for source in sources)
