"""SentencePiece `.model` files: the vocabulary and the settings, read from the protobuf's own bytes.

Comes in: a file's bytes. Goes out: a `Tokenizer` whose ids are those of the `sentencepiece` library. Must never happen: a
length believed before it was held against what is left of the file, or a model taken whose ids would differ.

The wire format is protobuf's; the fields are those of sentencepiece/src/sentencepiece_model.proto (Apache-2.0). A reader of
these few fields is shorter than a dependency, and it is Python: a hostile file can make it refuse, nothing more.
"""

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from puna.errors import PunaError
from puna.reading import read_bytes, read_object
from puna.tokens.formats.backends import CONTROL, NORMAL, USER_DEFINED, sentencepiece_backend
from puna.tokens.tokenizer import Tokenizer, token_name

_MAX_MODEL_BYTES = 8 << 20  # LLaMA 2: half a megabyte; the largest known, of 262,144 pieces: 4.7
_MAX_PIECES = 1 << 20
_KINDS: Final = {1: "unigram", 2: "BPE", 3: "word", 4: "character"}


@dataclass
class _Model:
    pieces: list[str] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    kinds: list[int] = field(default_factory=list)
    trainer: dict[int, Any] = field(default_factory=dict)
    normalizer: dict[int, Any] = field(default_factory=dict)


def is_sentencepiece(data: bytes) -> bool:
    """Whether a file begins as a SentencePiece model does: with a piece."""
    return data[:1] == b"\x0a" and b"\n" in data[:64]


def read_sentencepiece(path: Path) -> Tokenizer:
    """The tokenizer in a `.model` file, with the settings that stand beside it (tokenizer_config.json, added_tokens.json).

    Raises `PunaError` where the file is no SentencePiece model, or one whose ids cannot be given exactly (unigram models, say).
    """
    try:
        model = _parse(read_bytes(path, _MAX_MODEL_BYTES))
        _add_configured(model, path.parent)
        kind = int(model.trainer.get(3, 1))
        if kind != 2:
            raise PunaError(f"is a {_KINDS.get(kind, str(kind))} model; only BPE models are read",
                            mend="transformers can save it as tokenizer.json, which is read")  # fmt: skip
        if model.normalizer.get(2):
            # `tokenizers` has a reading of such maps, but it composes less than the library does (half-width kana, Hangul).
            raise PunaError("changes characters before it cuts (NFKC, say), which no backend does as the library does",
                            mend="transformers can save it as tokenizer.json, which is read")  # fmt: skip
        if model.trainer.get(24) or not model.normalizer.get(5, 1):
            raise PunaError("writes spaces in another way than U+2581 before a word, which is not supported")
        prefix, collapse = bool(model.normalizer.get(3, 1)), bool(model.normalizer.get(4, 1))
        backend = sentencepiece_backend(
            model.pieces, model.scores, model.kinds, add_prefix_space=prefix,
            byte_fallback=bool(model.trainer.get(35, 0)), remove_extra_whitespaces=collapse,
        )  # fmt: skip
        ends = {name: model.trainer.get(number, default) for name, number, default in
                (("bos_token", 46, "<s>"), ("eos_token", 47, "</s>"))}  # fmt: skip
        return Tokenizer.with_settings(backend, path.parent, adds_bos=True, **ends)
    except PunaError as error:
        raise PunaError(error.what, where=error.where or str(path), mend=error.mend) from error


def _parse(data: bytes) -> _Model:
    model = _Model()
    for number, value in _fields(data):
        if number == 1:
            if len(model.pieces) >= _MAX_PIECES:
                raise PunaError(f"has more than {_MAX_PIECES:,} pieces")
            piece = dict(_fields(_message(value)))
            raw, kind = piece.get(2, b"\0\0\0\0"), piece.get(3, NORMAL)
            score = struct.unpack("<f", raw)[0] if isinstance(raw, bytes) and len(raw) == 4 else math.nan
            if not math.isfinite(score):
                raise PunaError(f"piece {len(model.scores)} has a score that is not finite")
            if not isinstance(kind, int) or not NORMAL <= kind <= 6:
                raise PunaError(f"piece {len(model.kinds)} is of an unknown kind")
            model.pieces.append(_text(piece.get(1)))
            model.scores.append(score)
            model.kinds.append(kind)
        elif number == 2:
            model.trainer = {key: item for key, item in _fields(_message(value)) if key in (3, 24, 35, 46, 47)}
        elif number == 3:
            model.normalizer = {key: item for key, item in _fields(_message(value)) if key in (2, 3, 4, 5)}
    if not model.pieces:
        raise PunaError("holds no pieces")
    for table, key in ((model.trainer, 46), (model.trainer, 47)):
        if key in table:
            table[key] = _text(table[key])
    for table, keys in ((model.trainer, (3, 24, 35)), (model.normalizer, (3, 4, 5))):
        if any(not isinstance(table.get(key, 0), int) for key in keys):
            raise PunaError("has a setting that is not a number")
    if not isinstance(model.normalizer.get(2, b""), bytes):
        raise PunaError("has a character map that is no bytes")
    return model


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(number, value) of each field of a message: an int where it is a varint, else its bytes."""
    place, end = 0, len(data)
    while place < end:
        key, place = _varint(data, place)
        number, wire = key >> 3, key & 7
        value: int | bytes
        if wire == 0:
            value, place = _varint(data, place)
        else:
            if wire == 2:
                length, place = _varint(data, place)
            elif wire in (1, 5):
                length = 8 if wire == 1 else 4
            else:
                raise PunaError(f"is no SentencePiece model (wire type {wire} at byte {place})")
            if length > end - place:
                raise PunaError(
                    f"is no SentencePiece model: a field at byte {place} claims {length:,} bytes, {end - place:,} are left"
                )
            value, place = data[place : place + length], place + length
        yield number, value


def _varint(data: bytes, place: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if place >= len(data):
            raise PunaError("is no SentencePiece model: it ends within a number")
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
    raise PunaError("is no SentencePiece model: a number has more than ten bytes")


def _message(value: int | bytes) -> bytes:
    if not isinstance(value, bytes):
        raise PunaError("is no SentencePiece model: a number stands where a message should")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, bytes):
        raise PunaError("is no SentencePiece model: a piece has no text")
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        raise PunaError("is no SentencePiece model: a piece is not UTF-8") from None


def _add_configured(model: _Model, folder: Path) -> None:
    """Entries that Hugging Face's files add behind the pieces, or declare special (added_tokens.json, tokenizer_config.json)."""
    for token, (name, special) in sorted(added_tokens(folder).items()):
        if token < len(model.pieces):
            if model.pieces[token] != name:
                raise PunaError(
                    f"the settings call entry {token} {name[:40]!r}, the model {model.pieces[token][:40]!r}"
                )
            if special and model.kinds[token] in (NORMAL, USER_DEFINED):
                model.kinds[token] = CONTROL
            continue
        if token > len(model.pieces):
            raise PunaError(f"the settings add entry {token}, but the model ends at {len(model.pieces) - 1}")
        model.pieces.append(name)
        model.scores.append(0.0)
        model.kinds.append(CONTROL if special else USER_DEFINED)


def added_tokens(folder: Path) -> dict[int, tuple[str, bool]]:
    """id -> (name, whether it is special) from a folder's tokenizer_config.json and added_tokens.json. Raises `PunaError`."""
    found: dict[int, tuple[str, bool]] = {}
    config = read_object(folder, "tokenizer_config.json")
    ends = {token_name(config.get(key)) for key in ("bos_token", "eos_token", "pad_token", "unk_token")}
    for name, token in read_object(folder, "added_tokens.json").items():
        if not isinstance(token, int) or not 0 <= token < 1 << 22:
            raise PunaError(f"the id of {name[:40]!r} is out of bounds", where=str(folder / "added_tokens.json"))
        found[token] = (name, name in ends)
    listed = config.get("added_tokens_decoder")
    for key, entry in (listed if isinstance(listed, dict) else {}).items():
        content = token_name(entry)
        if not key.isdecimal() or len(key) > 7 or not content:
            raise PunaError(
                f"added_tokens_decoder has the odd entry {key[:40]!r}", where=str(folder / "tokenizer_config.json")
            )
        found[int(key)] = (content, isinstance(entry, dict) and entry.get("special") is True)
    return found
