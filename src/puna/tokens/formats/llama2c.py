"""llama2.c's `tokenizer.bin`: scored pieces as its `run.c` reads them, in and out.

Comes in: a file's bytes, or a `Tokenizer`. Goes out: a `Tokenizer`, or the file. Must never happen: a file written from which
run.c would make other ids.

The form (llama2.c, tokenizer.py): int32 the longest piece in bytes; then for each id float32 score, int32 length, the bytes.
Spaces are plain, <s> and </s> are spelt with line ends around them, ids 3 to 258 are the 256 bytes.
"""

import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from puna.errors import PunaError
from puna.files import atomic_file
from puna.reading import read_bytes
from puna.tokens.formats.backends import BYTE, CONTROL, NORMAL, SPACE, UNKNOWN, merges_by_score, sentencepiece_backend
from puna.tokens.tokenizer import Tokenizer

_MAX_TOKENIZER_BYTES = 8 << 20
_MAX_PIECE = 1 << 10
_BEGIN, _END = b"\n<s>\n", b"\n</s>\n"
_BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
_NEVER = -1e10  # run.c joins what scores above this


def is_llama2c_tokenizer(data: bytes) -> bool:
    """Whether the bytes are a whole tokenizer.bin (a model file is none: its numbers run past its end)."""
    try:
        _entries(data)
    except PunaError:
        return False
    return True


def read_llama2c_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer in a tokenizer.bin. Raises `PunaError` where it is none, or where its ids cannot be given exactly."""
    try:
        entries = _entries(read_bytes(path, _MAX_TOKENIZER_BYTES))
        pieces: list[str] = []
        for number, (_, data) in enumerate(entries):
            data = {_BEGIN: b"<s>", _END: b"</s>"}.get(data, data) if number in (1, 2) else data
            try:
                pieces.append(data.decode("utf-8").replace(" ", SPACE))
            except UnicodeDecodeError:
                raise PunaError(f"entry {number} is not UTF-8") from None
        if pieces[3:259] != _BYTES:
            raise PunaError("entries 3 to 258 are not the 256 bytes, on which run.c relies")
        kinds = [UNKNOWN, CONTROL, CONTROL, *[BYTE] * 256, *[NORMAL] * (len(pieces) - 259)]
        backend = sentencepiece_backend(
            pieces, [score for score, _ in entries], kinds, add_prefix_space=True, byte_fallback=True
        )
    except PunaError as error:
        raise PunaError(error.what, where=str(path), mend=error.mend) from error
    return Tokenizer(backend, bos_token=pieces[1], eos_token=pieces[2], adds_bos=True)


def write_llama2c_tokenizer(tokenizer: Tokenizer, path: Path) -> None:
    """Write a tokenizer.bin from which run.c makes this tokenizer's ids.

    A special or user-defined token keeps its id, but no text becomes it: run.c knows no such tokens.
    Raises `PunaError` where run.c could not make the same ids: byte-level vocabularies above all.
    """
    value = tokenizer.backend_json()
    model: Mapping[str, Any] = value["model"]
    vocab: dict[str, int] = {
        **model.get("vocab", {}),
        **{item["content"]: item["id"] for item in value["added_tokens"]},
    }
    pieces = [""] * tokenizer.vocab_size
    for piece, token in vocab.items():
        pieces[token] = piece
    if model.get("type") != "BPE" or not model.get("byte_fallback") or not tokenizer.prefix_space:
        raise PunaError("llama2.c's tokenizer.bin holds SentencePiece's kind of vocabulary only, and this one is of another kind",
                        mend="keep the tokenizer.json; the weights can be written alone")  # fmt: skip
    if pieces[3:259] != _BYTES or (tokenizer.bos_id, tokenizer.eos_id) != (1, 2) or "" in pieces:
        raise PunaError(
            "run.c wants <s> at id 1, </s> at 2, the bytes at 3 to 258 and no holes; this vocabulary differs"
        )
    scores = _scores(model["merges"], pieces)
    texts = [piece.replace(SPACE, " ").encode() for piece in pieces]
    texts[1:3] = [_BEGIN, _END]
    with atomic_file(path) as stream:
        stream.write(struct.pack("<i", max(map(len, texts))))
        for score, text in zip(scores, texts, strict=True):
            stream.write(struct.pack("<fi", score, len(text)) + text)


def _scores(merges: list[Any], pieces: list[str]) -> list[float]:
    """A score for each entry: minus the place of the first merge that makes it. Raises `PunaError` where scores cannot say it."""
    pairs = [tuple(pair.split(" ")) if isinstance(pair, str) else tuple(pair) for pair in merges]
    order: dict[str, int] = {}
    for left, right in pairs:
        order.setdefault(left + right, len(order))
    made_of = {part for pair in pairs for part in pair}
    kinds = [NORMAL if piece in order or (len(piece) == 1 and piece in made_of) else CONTROL for piece in pieces]
    scores = [-float(order[piece]) if piece in order else _NEVER for piece in pieces]
    # run.c joins any two entries that make a third; the merges must say the same, and in the same order but for ties of spaces.
    expected = merges_by_score(pieces, scores, kinds)
    same = expected == pairs or (set(expected) == set(pairs) and _order_but_ties(expected) == _order_but_ties(pairs))  # type: ignore[arg-type]
    if not same:
        raise PunaError("run.c joins any two entries that make a third, but this tokenizer's merges do not",
                        mend="keep the tokenizer.json; the weights can be written alone")  # fmt: skip
    return scores


def _order_but_ties(pairs: list[tuple[str, str]]) -> list[str]:
    """The made entries in order, without the runs of one character, whose order is free (`merges_by_score`)."""
    return [left + right for left, right in pairs if len(set(left + right)) > 1]


def _entries(data: bytes) -> list[tuple[float, bytes]]:
    """(score, bytes) of every id. Raises `PunaError`."""
    if len(data) < 4 or not 0 < (longest := struct.unpack_from("<i", data)[0]) <= _MAX_PIECE:
        raise PunaError("is no tokenizer of llama2.c: its first number is no length")
    place, end = 4, len(data)
    entries: list[tuple[float, bytes]] = []
    while place < end:
        if end - place < 8:
            raise PunaError(f"is no tokenizer of llama2.c: entry {len(entries)} is cut off")
        score, length = struct.unpack_from("<fi", data, place)
        place += 8
        if not 0 < length <= longest or length > end - place or not math.isfinite(score):
            raise PunaError(
                f"is no tokenizer of llama2.c: entry {len(entries)} is {length:,} bytes long, {end - place:,} are left"
            )
        entries.append((score, data[place : place + length]))
        place += length
    if len(entries) < 259:
        raise PunaError(f"is no tokenizer of llama2.c: {len(entries)} entries, the 256 bytes alone are more")
    return entries
