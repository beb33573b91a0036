"""Documents and conversations to ids, in batches: what `pack_documents` reads.

Comes in: texts or conversations, one at a time. Goes out: ids (with their end token) and loss masks, in the same order.
Must never happen: the whole corpus in memory.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Int32
from numpy import ndarray

from puna.errors import PunaError
from puna.tokens.chat import render_batch
from puna.tokens.tokenizer import Tokenizer

_BATCH_CHARS = 2_000_000  # enough for all cores, little beside a model
_BATCH_CONVERSATIONS = 2_000


def encode_documents(tokenizer: Tokenizer, texts: Iterable[str]) -> Iterator[tuple[Int32[ndarray, " tokens"], None]]:
    """Ids of each text, begun by the start token where the model has one, ended by the document end.

    Raises `PunaError` where the tokenizer has no document end.
    """
    if tokenizer.eos_id is None:
        raise PunaError("the tokenizer has no end-of-document token")
    batch: list[str] = []
    chars = 0
    for text in texts:
        batch.append(text)
        chars += len(text)
        if chars >= _BATCH_CHARS:
            yield from _ended(tokenizer, batch)
            batch, chars = [], 0
    yield from _ended(tokenizer, batch)


def encode_conversations(
    tokenizer: Tokenizer, conversations: Iterable[Sequence[Mapping[str, Any]]]
) -> Iterator[tuple[Int32[ndarray, " tokens"], Bool[ndarray, " tokens"]]]:
    """Ids and loss mask of each conversation (a list of messages), in ChatML."""
    batch: list[Sequence[Mapping[str, Any]]] = []
    for conversation in conversations:
        batch.append(conversation)
        if len(batch) >= _BATCH_CONVERSATIONS:
            yield from _rendered(tokenizer, batch)
            batch = []
    yield from _rendered(tokenizer, batch)


def padding_id(tokenizer: Tokenizer) -> int:
    """The id that fills rows: never read, never a target; the document end where a foreign tokenizer has no padding."""
    return next(id_ for id_ in (tokenizer.pad_id, tokenizer.eos_id, 0) if id_ is not None)


def _ended(tokenizer: Tokenizer, batch: list[str]) -> Iterator[tuple[Int32[ndarray, " tokens"], None]]:
    start = [tokenizer.bos_id] if tokenizer.adds_bos else []
    for ids in tokenizer.encode_batch(batch):
        yield np.array([*start, *ids, tokenizer.eos_id], dtype=np.int32), None


def _rendered(
    tokenizer: Tokenizer, batch: list[Sequence[Mapping[str, Any]]]
) -> Iterator[tuple[Int32[ndarray, " tokens"], Bool[ndarray, " tokens"]]]:
    for chat in render_batch(tokenizer, batch):
        yield np.array(chat.ids, dtype=np.int32), np.array(chat.loss, dtype=bool)
