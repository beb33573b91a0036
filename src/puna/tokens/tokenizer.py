"""Text to ids and back, for our own tokenizers and for those of other models (`puna.tokens.formats` opens their files).

Comes in: a folder with tokenizer.json, or a backend. Goes out: ids, texts, the bytes of each token, a folder that
`transformers` loads. Must never happen: a user's text that becomes a special token, or an id added that the text does not hold.
"""

import json
import math
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from tokenizers import Tokenizer as Backend
from tokenizers import pre_tokenizers

from puna.errors import PunaError
from puna.files import atomic_file, write_json
from puna.reading import find_inside, read_object, read_text
from puna.tokens.special import END_OF_TEXT, IM_END, IM_START, PAD

_MAX_ID = 1 << 22
_MAX_STEPS, _MAX_GROWTH = 64, 1024
# What begins and ends a text where no settings say it: LLaMA 1 and 2, LLaMA 3, Yi, DeepSeek.
_BEGINS: Final = ("<s>", "<|begin_of_text|>", "<|startoftext|>", "<｜begin▁of▁sentence｜>")
_ENDS: Final = ("</s>", "<|end_of_text|>", "<｜end▁of▁sentence｜>")


class Tokenizer:
    """A trained tokenizer. Encoding adds no token, and special-token strings typed by a user stay text.

    `eos_id` is the token that ends a document: `<|endoftext|>` where there is one, else what tokenizer_config.json
    names. `im_start_id`, `im_end_id`, `pad_id` are None where a foreign tokenizer lacks them. `stop_ids` are all ids
    that end generation. `bos_id` begins a text, and `adds_bos` says whether the model expects it before every text;
    whoever feeds a model puts it there, `encode` never does. `prefix_space`: SentencePiece's way, by which a text is encoded as
    if a space stood before it; `decode` takes it off again, and `token_bytes(id, starts_text=True)` does for a first token.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        chat_template: str | None = None,
        eos_token: str | None = None,
        bos_token: str | None = None,
        adds_bos: bool | None = None,
    ) -> None:
        """`adds_bos`: None takes what the backend's own post-processor does."""
        backend.encode_special_tokens = True
        backend.no_padding()
        backend.no_truncation()
        self._backend = backend
        self.chat_template = chat_template
        self.vocab_size = 1 + max(backend.get_vocab(with_added_tokens=True).values(), default=-1)
        configured = backend.token_to_id(eos_token) if eos_token else None
        if configured is None:
            configured = self._special_named(_ENDS)
        document_end = backend.token_to_id(END_OF_TEXT)
        self.eos_id: int | None = configured if document_end is None else document_end
        self.im_start_id: int | None = backend.token_to_id(IM_START)
        self.im_end_id: int | None = backend.token_to_id(IM_END)
        self.pad_id: int | None = backend.token_to_id(PAD)
        self.stop_ids = frozenset(i for i in (self.eos_id, self.im_end_id, configured) if i is not None)
        # What tokenizer_config.json names as the end: of a text, or of a turn in a model tuned to chat.
        self.eos_setting = self.eos_id if configured is None else configured
        added_first = _first_added(_part(backend.post_processor))
        self.bos_id: int | None = backend.token_to_id(bos_token) if bos_token else None
        if self.bos_id is None and added_first is not None:
            self.bos_id = backend.token_to_id(added_first)
        if self.bos_id is None:
            self.bos_id = self._special_named(_BEGINS)
        self.adds_bos = self.bos_id is not None and (added_first is not None if adds_bos is None else adds_bos)
        self.prefix_space = _takes_space_off(_part(backend.decoder))

    @classmethod
    def load(cls, folder: Path) -> "Tokenizer":
        """Read tokenizer.json, and tokenizer_config.json and chat_template.jinja where they are.

        Raises `PunaError` where a file is missing, too large, a link that leaves the folder, or not what its name says.
        """
        folder = Path(folder)
        path = find_inside(folder, "tokenizer.json")
        if path is None:
            raise PunaError("no such file", where=str(folder / "tokenizer.json"),
                            mend="a model folder needs its tokenizer.json")  # fmt: skip
        return cls.with_settings(parse_backend(read_text(path), str(path)), folder)

    @classmethod
    def with_settings(cls, backend: Backend, folder: Path, *, adds_bos: bool | None = None,
                      eos_token: str | None = None, bos_token: str | None = None) -> "Tokenizer":  # fmt: skip
        """A tokenizer around `backend` with what tokenizer_config.json and chat_template.jinja in `folder` say of it.

        `adds_bos`, `eos_token`, `bos_token`: what holds where they do not say it. Raises `PunaError` where a file is not what
        its name says.
        """
        config = read_object(folder, "tokenizer_config.json")
        template: Any = config.get("chat_template")
        if (jinja := find_inside(folder, "chat_template.jinja")) is not None:
            template = read_text(jinja)
        # As transformers: either of the two keys replaces what tokenizer.json's post-processor adds.
        if "add_bos_token" in config or "add_eos_token" in config:
            adds_bos = config.get("add_bos_token") is True
        return cls(backend, chat_template=template if isinstance(template, str) else None, adds_bos=adds_bos,
                   eos_token=token_name(config.get("eos_token")) or eos_token,
                   bos_token=token_name(config.get("bos_token")) or bos_token)  # fmt: skip

    def save(self, folder: Path, *, context: int | None = None) -> None:
        """Write tokenizer.json, tokenizer_config.json and, where there is one, chat_template.jinja.

        `transformers` loads them (`PreTrainedTokenizerFast`, `AutoTokenizer`) with the same ids, and adds the begin token
        where `adds_bos` is true. `context`: the model's longest input in tokens.
        """
        folder.mkdir(parents=True, exist_ok=True)
        bos = self._name(self.bos_id)
        value = self.backend_json()
        value["post_processor"] = _begin_template(bos, self.bos_id) if self.adds_bos else None
        with atomic_file(folder / "tokenizer.json") as stream:
            stream.write(json.dumps(value, ensure_ascii=False, indent=1).encode())
        config: dict[str, Any] = {
            "tokenizer_class": "PreTrainedTokenizerFast",  # transformers 4 and 5: tokenizer.json as it stands
            "bos_token": bos,
            "eos_token": self._name(self.eos_setting),
            "pad_token": None if self.pad_id is None else PAD,
            "unk_token": (value["model"] or {}).get("unk_token"),
            "add_bos_token": self.adds_bos,
            "clean_up_tokenization_spaces": False,  # else decoding drops spaces before punctuation
            "padding_side": "left",  # generation goes on at the right end
        }
        if context is not None:
            config["model_max_length"] = context
        if self.chat_template is not None:
            config["chat_template"] = self.chat_template
            with atomic_file(folder / "chat_template.jinja") as stream:
                stream.write(self.chat_template.encode())
        else:
            (folder / "chat_template.jinja").unlink(missing_ok=True)
        write_json(folder / "tokenizer_config.json", config)

    def backend_json(self) -> dict[str, Any]:
        """The backend's tokenizer.json as a dict of its own: model, added_tokens, normalizer, pre_tokenizer, decoder."""
        value: dict[str, Any] = json.loads(self._backend.to_str())
        return value

    def encode(self, text: str) -> list[int]:
        """Ids of a text. Raises `PunaError` where it holds a lone surrogate, which no UTF-8 text can, or the backend refuses it."""
        utf8_bytes(text)
        try:
            return list(self._backend.encode(text, add_special_tokens=False).ids)
        except BaseException as error:  # a foreign tokenizer without an unknown token, say
            raise _mistake(error, "the tokenizer cannot encode this text") from error

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of many texts, on all cores."""
        for number, text in enumerate(texts):
            utf8_bytes(text, where=f"text {number + 1}")
        try:
            return [encoding.ids for encoding in self._backend.encode_batch_fast(list(texts), add_special_tokens=False)]
        except BaseException as error:
            raise _mistake(error, "the tokenizer cannot encode these texts") from error

    def decode(self, ids: Iterable[int], skip_special: bool = True) -> str:
        """The text of `ids`; bytes that are no whole character become U+FFFD. Raises `PunaError` on an unknown id."""
        ids = list(ids)
        for token in ids:
            if not 0 <= token < self.vocab_size:
                raise PunaError(f"id {token} is outside the vocabulary of {self.vocab_size}")
        return self._backend.decode(ids, skip_special_tokens=skip_special)

    def token_bytes(self, token: int, *, starts_text: bool = False) -> bytes:
        """The bytes that a token stands for; a special token's are its name's. Raises `PunaError` on an unknown id.

        `starts_text`: the token is a text's first, whose space the text may not hold (`prefix_space`).
        """
        if not 0 <= token < self.vocab_size:
            raise PunaError(f"id {token} is outside the vocabulary of {self.vocab_size}")
        data = self._bytes[token]
        return data[1:] if starts_text and self.prefix_space and data[:1] == b" " else data

    def text_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes of a text's ids: `token_bytes` of each, joined. Raises `PunaError` on an unknown id."""
        return b"".join(self.token_bytes(token, starts_text=number == 0) for number, token in enumerate(ids))

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """Ids of the special tokens."""
        return frozenset(i for i, token in self._backend.get_added_tokens_decoder().items() if token.special)

    def _name(self, token: int | None) -> str | None:
        added = self._backend.get_added_tokens_decoder()  # `id_to_token` gives these as the normalizer would have them
        return None if token is None else added[token].content if token in added else self._backend.id_to_token(token)

    def _special_named(self, names: Sequence[str]) -> int | None:
        special = self.special_ids
        ids = (self._backend.token_to_id(name) for name in names)
        return next((i for i in ids if i is not None and i in special), None)

    @cached_property
    def _bytes(self) -> list[bytes]:
        added = self._backend.get_added_tokens_decoder()
        byte_level = '"ByteLevel"' in json.dumps(_part(self._backend.decoder))
        table = [b""] * self.vocab_size  # holes in a foreign vocabulary stand for nothing
        for entry, token in self._backend.get_vocab(with_added_tokens=False).items():
            table[token] = _byte_level(entry) if byte_level else _byte_fallback(entry)
        for token, special in added.items():
            plain = byte_level or special.special
            table[token] = special.content.encode() if plain else _byte_fallback(special.content)
        return table


def parse_backend(text: str, where: str) -> Backend:
    """The backend that a tokenizer.json describes. Raises `PunaError` where it describes none."""
    try:
        backend = Backend.from_str(text)
        sane = 0 <= max(backend.get_vocab().values(), default=-1) < _MAX_ID
    except BaseException as error:
        raise _mistake(error, "not a tokenizer", where) from error
    if not sane:
        raise PunaError("the vocabulary is empty or its ids are out of bounds", where=where)
    before = [*_steps(_part(backend.normalizer)), *_steps(_part(backend.pre_tokenizer))]
    for steps in (before, _steps(_part(backend.decoder))):
        if len(steps) > _MAX_STEPS or math.prod(map(_growth, steps)) > _MAX_GROWTH:
            raise PunaError("its steps can make a text more than a thousand times as long", where=where)
    return backend


def _steps(part: dict[str, Any]) -> list[dict[str, Any]]:
    """The steps of a part of a backend, those of sequences within sequences too."""
    inner = [step for key in ("normalizers", "pretokenizers", "decoders") for step in part.get(key, ())]
    return [found for step in inner for found in _steps(step)] if inner else [part]


def _growth(step: dict[str, Any]) -> int:
    """The most characters that a step makes of one: a few dozen "a" to "aa" in a row would fill any memory."""
    match step:
        case {"type": "Replace", "pattern": {"String": str(text)}, "content": str(content)} if text:
            return max(1, -(-len(content) // len(text)))
        case {"type": "Replace", "content": str(content)}:  # a pattern may match nothing, before each character
            return 1 + len(content)
        case {"type": "Prepend", "prepend": str(content)}:
            return 1 + len(content)
        case {"type": "WordPiece" | "Metaspace"}:
            return 2
        case {"type": "ByteLevel"}:
            return 4
        case {"type": "Lowercase" | "BertNormalizer"}:
            return 3
        case {"type": "NFC" | "NFD" | "NFKC" | "NFKD" | "Precompiled"}:
            return 18  # U+FDFA, the longest decomposition that Unicode has
    return 1


def _mistake(error: BaseException, what: str, where: str | None = None) -> PunaError:
    """What the backend raised, as a mistake in the tokenizer's file.

    A panic inside its Rust code is not an `Exception`; anything else that is not one (Ctrl-C) goes on, and so does a lack of memory.
    """
    if isinstance(error, MemoryError) or not (isinstance(error, Exception) or type(error).__name__ == "PanicException"):
        raise error
    return PunaError(f"{what} ({str(error)[:200]})", where=where)


def token_name(setting: Any) -> str | None:
    """A token's name as tokenizer_config.json states it: the name, or an object with its `content`."""
    name = setting.get("content") if isinstance(setting, dict) else setting
    return name if isinstance(name, str) else None


def utf8_bytes(text: str, where: str | None = None) -> bytes:
    """UTF-8 of a text. Raises `PunaError` on a lone surrogate (U+D800 to U+DFFF), which is half a character."""
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        code = f"U+{ord(text[error.start]):04X}"
        raise PunaError(f"character {error.start + 1} is a lone surrogate ({code}), which is half a character",
                        where=where, mend="decode the text as UTF-8 again or remove the character") from None  # fmt: skip


def _part(component: Any) -> dict[str, Any]:
    """The JSON of a part of a backend (its decoder, say), empty where there is none; the whole backend's would be slow."""
    if component is None:
        return {}
    value: dict[str, Any] = json.loads(component.__getstate__())
    return value


def _first_added(processor: dict[str, Any]) -> str | None:
    """The name of the token that a post-processor puts before a text."""
    for step in processor.get("processors", [processor]):
        if step.get("type") == "TemplateProcessing" and step["single"] and "SpecialToken" in step["single"][0]:
            return str(step["single"][0]["SpecialToken"]["id"])
    return None


def _begin_template(name: str | None, token: int | None) -> dict[str, Any]:
    """The post-processor that puts the begin token before a text, and before each of a pair."""
    first = [{"SpecialToken": {"id": name, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    second = [{"SpecialToken": {"id": name, "type_id": 1}}, {"Sequence": {"id": "B", "type_id": 1}}]
    return {"type": "TemplateProcessing", "single": first, "pair": first + second,
            "special_tokens": {name: {"id": name, "ids": [token], "tokens": [name]}}}  # fmt: skip


def _takes_space_off(decoder: dict[str, Any]) -> bool:
    """Whether a decoder drops the space that a text's first token begins with."""
    for step in decoder.get("decoders", [decoder]):
        if step.get("type") == "Strip" and step.get("content") == " " and step.get("start", 0) > 0:
            return True
        if step.get("type") == "Metaspace" and step.get("prepend_scheme", "always") != "never":
            return True
    return False


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's characters for bytes (openai/gpt-2, encoder.py): printable ones stand for themselves, the rest from U+0100 on."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in set(plain)]
    table = {chr(byte): byte for byte in plain} | {chr(256 + n): byte for n, byte in enumerate(rest)}
    if set(table) != set(pre_tokenizers.ByteLevel.alphabet()):
        raise AssertionError("the byte alphabet of `tokenizers` has changed")
    return table


_ALPHABET = _byte_alphabet()


def byte_characters() -> dict[int, str]:
    """Byte -> the character that stands for it in GPT-2's alphabet; a table for `str.translate` of Latin-1 text."""
    return {byte: char for char, byte in _ALPHABET.items()}


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
