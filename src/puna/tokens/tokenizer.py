"""Text to ids and back, for our own tokenizers and for any `tokenizer.json`.

Comes in: a folder with tokenizer.json. Goes out: ids, texts, the bytes of each token. Must never happen: a user's
text that becomes a special token, or an id added that the text does not hold.
"""

import json
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Backend
from tokenizers import pre_tokenizers

from puna.errors import PunaError
from puna.tokens.special import END_OF_TEXT, IM_END, IM_START, PAD

_MAX_FILE_BYTES = 256 << 20  # the largest published tokenizer.json is about 35 MB
_MAX_ID = 1 << 22


class Tokenizer:
    """A trained tokenizer. Encoding adds no token, and special-token strings typed by a user stay text.

    `eos_id` is the token that ends a document: `<|endoftext|>` where there is one, else what tokenizer_config.json
    names. `im_start_id`, `im_end_id`, `pad_id` are None where a foreign tokenizer lacks them. `stop_ids` are all ids
    that end generation.
    """

    def __init__(self, backend: Backend, *, chat_template: str | None = None, eos_token: str | None = None) -> None:
        backend.encode_special_tokens = True
        backend.no_padding()
        backend.no_truncation()
        self._backend = backend
        self.chat_template = chat_template
        self.vocab_size = 1 + max(backend.get_vocab(with_added_tokens=True).values(), default=-1)
        configured = backend.token_to_id(eos_token) if eos_token else None
        document_end = backend.token_to_id(END_OF_TEXT)
        self.eos_id: int | None = configured if document_end is None else document_end
        self.im_start_id: int | None = backend.token_to_id(IM_START)
        self.im_end_id: int | None = backend.token_to_id(IM_END)
        self.pad_id: int | None = backend.token_to_id(PAD)
        self.stop_ids = frozenset(i for i in (self.eos_id, self.im_end_id, configured) if i is not None)

    @classmethod
    def load(cls, folder: Path) -> "Tokenizer":
        """Read tokenizer.json, and tokenizer_config.json and chat_template.jinja where they are.

        Raises `PunaError` where a file is missing, too large, or not what its name says.
        """
        folder = Path(folder)
        path = folder / "tokenizer.json"
        text = _read_text(path, mend="a model folder needs its tokenizer.json")
        try:
            backend = Backend.from_str(text)
            sane = 0 <= max(backend.get_vocab().values(), default=-1) < _MAX_ID
        except BaseException as error:
            # A panic inside the Rust parser is not an `Exception`; anything else that is not one (Ctrl-C) goes on.
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
                raise
            raise PunaError(f"not a tokenizer ({error})", where=str(path)) from error
        if not sane:
            raise PunaError("the vocabulary is empty or its ids are out of bounds", where=str(path))
        config = _read_config(folder / "tokenizer_config.json")
        template: Any = config.get("chat_template")
        if (folder / "chat_template.jinja").exists():
            template = _read_text(folder / "chat_template.jinja")
        eos = config.get("eos_token")
        eos = eos.get("content") if isinstance(eos, dict) else eos
        return cls(backend, chat_template=template if isinstance(template, str) else None,
                   eos_token=eos if isinstance(eos, str) else None)  # fmt: skip

    def encode(self, text: str) -> list[int]:
        """Ids of a text. Raises `PunaError` where it holds a lone surrogate, which no UTF-8 text can."""
        utf8_bytes(text)
        return list(self._backend.encode(text, add_special_tokens=False).ids)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of many texts, on all cores."""
        for number, text in enumerate(texts):
            utf8_bytes(text, where=f"text {number + 1}")
        return [encoding.ids for encoding in self._backend.encode_batch_fast(list(texts), add_special_tokens=False)]

    def decode(self, ids: Iterable[int], skip_special: bool = True) -> str:
        """The text of `ids`; bytes that are no whole character become U+FFFD. Raises `PunaError` on an unknown id."""
        ids = list(ids)
        for token in ids:
            if not 0 <= token < self.vocab_size:
                raise PunaError(f"id {token} is outside the vocabulary of {self.vocab_size}")
        return self._backend.decode(ids, skip_special_tokens=skip_special)

    def token_bytes(self, token: int) -> bytes:
        """The bytes that a token stands for; a special token's are its name's. Raises `PunaError` on an unknown id."""
        if not 0 <= token < self.vocab_size:
            raise PunaError(f"id {token} is outside the vocabulary of {self.vocab_size}")
        return self._bytes[token]

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """Ids of the special tokens."""
        return frozenset(i for i, token in self._backend.get_added_tokens_decoder().items() if token.special)

    @cached_property
    def _bytes(self) -> list[bytes]:
        added = self._backend.get_added_tokens_decoder()
        convert = _byte_level if _is_byte_level(self._backend) else _byte_fallback
        table = [b""] * self.vocab_size  # holes in a foreign vocabulary stand for nothing
        for entry, token in self._backend.get_vocab(with_added_tokens=True).items():
            table[token] = entry.encode() if token in added else convert(entry)
        return table


def utf8_bytes(text: str, where: str | None = None) -> bytes:
    """UTF-8 of a text. Raises `PunaError` on a lone surrogate (U+D800 to U+DFFF), which is half a character."""
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        code = f"U+{ord(text[error.start]):04X}"
        raise PunaError(f"character {error.start + 1} is a lone surrogate ({code}), which is half a character",
                        where=where, mend="decode the text as UTF-8 again or remove the character") from None  # fmt: skip


def _read_text(path: Path, mend: str | None = None) -> str:
    try:
        if path.stat().st_size > _MAX_FILE_BYTES:
            raise PunaError(f"larger than {_MAX_FILE_BYTES >> 20} MiB", where=str(path))
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise PunaError("no such file", where=str(path), mend=mend) from None
    except UnicodeDecodeError as error:
        raise PunaError(f"not UTF-8 (byte {error.start})", where=str(path)) from None


def _read_config(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        value = json.loads(_read_text(path))
    except (json.JSONDecodeError, RecursionError) as error:
        raise PunaError(f"not JSON ({error})", where=str(path)) from None
    if not isinstance(value, dict):
        raise PunaError("not a JSON object", where=str(path))
    return value


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's characters for bytes (openai/gpt-2, encoder.py): printable ones stand for themselves, the rest from U+0100 on."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in set(plain)]
    table = {chr(byte): byte for byte in plain} | {chr(256 + n): byte for n, byte in enumerate(rest)}
    if set(table) != set(pre_tokenizers.ByteLevel.alphabet()):
        raise AssertionError("the byte alphabet of `tokenizers` has changed")
    return table


_ALPHABET = _byte_alphabet()


def _is_byte_level(backend: Backend) -> bool:
    return '"ByteLevel"' in json.dumps(json.loads(backend.to_str()).get("decoder"))


def _byte_level(entry: str) -> bytes:
    return bytes(_ALPHABET[char] for char in entry) if all(char in _ALPHABET for char in entry) else entry.encode()


def _byte_fallback(entry: str) -> bytes:
    """SentencePiece's spelling: <0xE4> is a byte, U+2581 a space."""
    if len(entry) == 6 and entry.startswith("<0x") and entry.endswith(">"):
        try:
            return bytes([int(entry[3:5], 16)])
        except ValueError:
            pass  # the entry is text that only looks like a byte
    return entry.replace("\u2581", " ").encode()
