"""Oracles for SentencePiece's kind of tokenizer: models that its own library trains, and llama2.c's encoder restated."""

import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from tests_tokens_texts import small_texts


def trained_sentencepiece(path: Path, **options: Any) -> Any:
    """A small model written to `path`, and the library's own processor for it."""
    sentencepiece = pytest.importorskip("sentencepiece")
    lines: Iterable[str] = (line for text in small_texts() for line in text.split("\n") if line)
    settings = {
        "vocab_size": 400, "model_type": "bpe", "byte_fallback": True, "normalization_rule_name": "identity",
        "character_coverage": 0.99, "hard_vocab_limit": False, "minloglevel": 2, "num_threads": 1,
    }  # fmt: skip
    with open(path, "wb") as stream:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines), model_writer=stream, **(settings | options)
        )
    return sentencepiece.SentencePieceProcessor(model_file=str(path))


def ids_of_run_c(data: bytes, text: str) -> list[int]:
    """What `encode` of llama2.c's run.c makes of a text, without BOS: look characters up, then join the best-scored pair."""
    place, entries = 4, []
    while place < len(data):
        score, length = struct.unpack_from("<fi", data, place)
        entries.append((data[place + 8 : place + 8 + length], score))
        place += 8 + length
    ids = {entry: number for number, (entry, _) in enumerate(entries)}
    tokens = [ids[b" "]] if text else []
    for character in text:
        encoded = character.encode()
        tokens += [ids[encoded]] if encoded in ids else [byte + 3 for byte in encoded]
    while True:
        best, where = -1e10, -1
        for index in range(len(tokens) - 1):
            joined = ids.get(entries[tokens[index]][0] + entries[tokens[index + 1]][0])
            if joined is not None and entries[joined][1] > best:
                best, where = entries[joined][1], index
        if where < 0:
            return tokens
        tokens[where : where + 2] = [ids[entries[tokens[where]][0] + entries[tokens[where + 1]][0]]]
