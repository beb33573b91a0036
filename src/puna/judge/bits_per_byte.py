"""How well a model predicts held-out text, in bits per byte of UTF-8: comparable across tokenizers and with compressors.

Comes in: a model in the engine, documents. Goes out: bits of each document. Must never happen: a byte that is not paid
for, a token of one document predicted from another.

    bits per byte = sum over documents of -log2 P(document's tokens | document start) / bytes of the documents

A document longer than the model's context C is read in windows of C tokens: the first predicts C tokens, each further
one the next C/2, from at least C/2 + 1 tokens of the same document (stride C/2). The first token of a document is
predicted from the document end `<|endoftext|>` before it (a foreign model's own start token, where it has one); that the
document then ends is not predicted.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from puna.engine import Engine
from puna.errors import PunaError
from puna.progress import QUIET, Progress

LONGEST_WINDOW = 4096  # of models with a very long context: beyond this the gain is small and the cost is not
_REPORT_TOKENS = 32_768  # between two reports of progress


def start_id(engine: Engine) -> int:
    """The token that stands before a document's first one: the start that the tokenizer adds (LLaMA's `<s>`), else the document end.

    Raises `PunaError` where the model has neither.
    """
    tokens = engine.tokenizer
    for id_ in (tokens.bos_id if tokens.adds_bos else None, tokens.eos_id, engine.config.bos_token_id):
        if id_ is not None and id_ != engine.tokenizer.im_start_id:
            return int(id_)
    raise PunaError("the model has no token for a document's start", where="tokenizer_config.json")


def batch_tokens(engine: Engine) -> int:
    """Tokens scored at once: on a CPU as many as its caches like (30 % faster than 8,192), on a GPU as fill it."""
    return 2048 if engine.model.head_weight().device.type == "cpu" else 65_536


def windows(ids: Sequence[int], start: int, context: int) -> Iterator[tuple[list[int], list[int]]]:
    """(tokens read, tokens predicted) of one document; every token is predicted once.

    The two together hold at most `context` + 1 tokens, as the last one is never read.
    """
    stream = [start, *ids]
    begin, stride = 1, max(1, context // 2)
    end = min(len(stream), context + 1)
    while begin < len(stream):
        yield stream[max(0, end - context - 1) : begin], stream[begin:end]
        begin, end = end, min(len(stream), end + stride)


def document_bits(
    engine: Engine, texts: Sequence[str], progress: Progress = QUIET, title: str = "reading held-out text",
) -> tuple[npt.NDArray[np.float64], dict[str, Any]]:  # fmt: skip
    """Bits of each document [documents], and how they were measured.

    Raises `PunaError` where the model gives a number that is not finite.
    """
    context, start = min(engine.context, LONGEST_WINDOW), start_id(engine)
    encoded = engine.tokenizer.encode_batch(list(texts))
    rows, owners = [], []
    for owner, ids in enumerate(encoded):
        for row in windows(ids, start, context):
            rows.append(row)
            owners.append(owner)
    # Longest first, as the engine batches them: the first report of progress is then the slowest, and memory shows at once.
    order = sorted(range(len(rows)), key=lambda number: -len(rows[number][0]) - len(rows[number][1]))
    nats = np.zeros(len(rows))
    chunk = max(1, _REPORT_TOKENS // context)
    progress.start(title, sum(map(len, encoded)), "tokens")
    done = 0
    for first in range(0, len(order), chunk):
        part = order[first : first + chunk]
        nats[part] = engine.logprobs([rows[number] for number in part], batch_tokens(engine))
        done += sum(len(rows[number][1]) for number in part)
        progress.update(done)
    progress.finish()
    bits = np.bincount(np.array(owners, np.int64), -nats / math.log(2), len(texts)).astype(np.float64, copy=False)
    if not np.isfinite(bits).all():
        raise PunaError("the model gives log-probabilities that are not finite", where="bits per byte")
    detail = {"tokens": sum(map(len, encoded)), "context": context, "stride": max(1, context // 2),
              "documents_not_lossless": _not_lossless(engine, encoded, texts)}  # fmt: skip
    return bits, detail


def _not_lossless(engine: Engine, encoded: Sequence[Sequence[int]], texts: Sequence[str]) -> int:
    """Documents whose tokens do not spell all their bytes: a foreign tokenizer may drop or change some for free.

    A space put before the text, as SentencePiece does, is paid for and drops nothing.
    """
    known: dict[int, bytes] = {}
    count = 0
    for ids, text in zip(encoded, texts, strict=True):
        for id_ in ids:
            if id_ not in known:
                known[id_] = engine.tokenizer.token_bytes(id_)
        spelled, written = b"".join(known[id_] for id_ in ids), text.encode()
        count += spelled not in (written, b" " + written)
    return count
