"""Byte-level BPE trained on one's own text.

Comes in: texts. Goes out: a folder that `transformers` and `puna.tokens.Tokenizer` load. Must never happen: two runs
over the same texts that differ in a byte, or a byte that has no token (all 256 are in the vocabulary from the start).
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend

from puna.errors import PunaError
from puna.files import atomic_file
from puna.progress import QUIET, Progress
from puna.tokens.export import write_config
from puna.tokens.special import SPECIALS, SPLIT_PATTERN
from puna.tokens.tokenizer import Tokenizer, utf8_bytes

SMALLEST_VOCAB = len(SPECIALS) + 256
# Longer entries are boilerplate (ruled lines, licence heads) that fills a small vocabulary; the limit was measured to
# cost under 0.2 % of the bytes per token on code and on Chinese.
MAX_TOKEN_BYTES = 32
_SAMPLE_BYTES = 2_000_000


def train_tokenizer(texts: Iterable[str], vocab_size: int, out: Path, progress: Progress = QUIET) -> dict[str, Any]:
    """Train on `texts` (read once) and write the tokenizer's files into `out`.

    `vocab_size` counts the special tokens and the 256 bytes. A corpus too small for it gives fewer entries, never
    invented ones: the report's `entries` is what was made. The folder gets the chat template and the base model's
    end of sequence; `puna.tokens.export.write_tokenizer` writes the files of a base or of a chat model from it.

    Returns a report: entries, requested, merges, documents, bytes, sample_bytes, sample_tokens, bytes_per_token (over
    an even sample of the training texts, about 2 MB).
    Raises `PunaError` where the texts are empty or not valid Unicode, or `vocab_size` is below 260.
    """
    if vocab_size < SMALLEST_VOCAB:
        raise PunaError(f"{vocab_size} entries cannot hold 256 bytes and {len(SPECIALS)} special tokens",
                        where="tokenizer.vocab_size", mend=f"ask for {SMALLEST_VOCAB} or more")  # fmt: skip
    backend = untrained()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,  # a pair seen once teaches nothing
        special_tokens=[AddedToken(name, special=True, normalized=False) for name in SPECIALS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        max_token_length=MAX_TOKEN_BYTES,
        show_progress=False,
    )
    sample = _EvenSample(_SAMPLE_BYTES)
    progress.start("training the tokenizer", unit="B")
    backend.train_from_iterator(_counted(texts, sample, progress), trainer)
    progress.finish()
    if sample.bytes == 0:
        raise PunaError("there is no text to train a tokenizer on", where="tokenizer", mend="name a source with text")
    out.mkdir(parents=True, exist_ok=True)
    with atomic_file(out / "tokenizer.json") as stream:
        stream.write(backend.to_str(pretty=True).encode())
    write_config(out, chat=False, context=None, template=True)
    tokenizer = Tokenizer(backend)
    report = {"requested": vocab_size, "merges": tokenizer.vocab_size - SMALLEST_VOCAB, **sample.report(tokenizer)}
    if tokenizer.vocab_size < vocab_size:
        progress.note(f"the text is enough for a vocabulary of {tokenizer.vocab_size:,} entries, not of {vocab_size:,}")
    return report


def untrained() -> Backend:
    """The tokenizer before any merge: split by pattern, bytes as characters, no normaliser, no added space."""
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(SPLIT_PATTERN), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False),
    ])  # fmt: skip
    backend.decoder = decoders.ByteLevel()
    return backend


def sample_report(tokenizer: Tokenizer, texts: Iterable[str]) -> dict[str, Any]:
    """How a tokenizer that was not trained here does on these texts: the report of `train_tokenizer` but for the training."""
    sample = _EvenSample(_SAMPLE_BYTES)
    for text in texts:
        sample.add(text, len(utf8_bytes(text)))
    return sample.report(tokenizer)


class _EvenSample:
    """Keeps every k-th text; k doubles whenever the kept ones outgrow `limit` bytes, so early and late texts count alike."""

    def __init__(self, limit: int) -> None:
        self.limit, self.stride, self.kept = limit, 1, 0
        self.documents, self.bytes = 0, 0
        self.texts: list[str] = []

    def add(self, text: str, size: int) -> None:
        if self.documents % self.stride == 0 and size:
            self.texts.append(text)
            self.kept += size
        self.documents += 1
        self.bytes += size
        while self.kept > self.limit and len(self.texts) > 1:
            self.texts = self.texts[::2]
            self.stride *= 2
            self.kept = sum(len(text.encode()) for text in self.texts)

    def report(self, tokenizer: Tokenizer) -> dict[str, Any]:
        """The texts in bytes, the kept ones in tokens as well."""
        sample_bytes = sum(len(text.encode()) for text in self.texts)
        sample_tokens = sum(map(len, tokenizer.encode_batch(self.texts)))
        return {
            "entries": tokenizer.vocab_size, "documents": self.documents, "bytes": self.bytes, "sample_bytes": sample_bytes,
            "sample_tokens": sample_tokens, "bytes_per_token": sample_bytes / max(1, sample_tokens),
        }  # fmt: skip


def _counted(texts: Iterable[str], sample: _EvenSample, progress: Progress) -> Iterator[str]:
    for text in texts:
        sample.add(text, len(utf8_bytes(text, where=f"document {sample.documents + 1}")))
        progress.update(sample.bytes)
        yield text
