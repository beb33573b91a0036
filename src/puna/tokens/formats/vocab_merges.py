"""GPT-2's two files: vocab.json and merges.txt, in its alphabet of bytes.

Comes in: a folder. Goes out: a `Tokenizer`. Must never happen: a cut into words guessed where nothing says which it is.
"""

import re
from pathlib import Path
from typing import Any, Final

from tokenizers import normalizers

from puna.errors import PunaError
from puna.reading import MAX_JSON, find_inside, read_object, read_text
from puna.tokens.formats.backends import byte_level_backend
from puna.tokens.formats.pretokenizers import IGNORE_MERGES
from puna.tokens.formats.sentencepiece_model import added_tokens
from puna.tokens.tokenizer import Tokenizer, byte_characters

_MAX_ID = 1 << 22
# What the classes of transformers cut by; Qwen's also composes characters (NFC).
_CLASSES: Final = {
    "GPT2Tokenizer": "gpt-2",
    "GPT2TokenizerFast": "gpt-2",
    "Qwen2Tokenizer": "qwen2",
    "Qwen2TokenizerFast": "qwen2",
}
_SPECIAL = re.compile(r"<[|｜].*[|｜]>|</?s>|<(unk|pad|mask)>|\[(PAD|UNK|CLS|SEP|MASK)\d*\]")


def read_vocab_merges(folder: Path, pre: str | None = None) -> Tokenizer:
    """The tokenizer in a folder's vocab.json and merges.txt, with its tokenizer_config.json where there is one.

    `pre`: llama.cpp's name of the cut into words; None takes it from info.json (`pre_tokenizer`) or the config's class.
    Entries that no merge makes are no part of a text: those that look like control tokens are special ones.
    Raises `PunaError`.
    """
    vocab = _vocabulary(folder)
    merges_path = find_inside(folder, "merges.txt")
    if merges_path is None:
        raise PunaError("no such file", where=str(folder / "merges.txt"), mend="vocab.json needs its merges.txt")
    merges = _merges(read_text(merges_path, MAX_JSON), str(merges_path))
    config = read_object(folder, "tokenizer_config.json")
    pre = pre or _cut(folder, config)
    letters = set(byte_characters().values())
    made = {left + right for left, right in merges}
    specials = {entry for entry in vocab if entry not in made and len(entry) > 1 and _SPECIAL.fullmatch(entry)}
    plain: set[str] = set()
    for token, (name, special) in added_tokens(folder).items():
        if vocab.setdefault(name, token) != token:
            raise PunaError(f"the entry {name[:40]!r} has the ids {vocab[name]} and {token}", where=str(folder))
        (specials if special else plain).add(name)
    specials -= plain
    if missing := letters - vocab.keys():
        raise PunaError(f"the byte character {min(missing)!r} is no entry", where=str(folder / "vocab.json"))
    if len(set(vocab.values())) != len(vocab):
        raise PunaError("two entries have one id", where=str(folder / "vocab.json"))
    try:
        backend = byte_level_backend(vocab, merges, pre, specials, plain, ignore_merges=pre in IGNORE_MERGES)
    except PunaError as error:
        raise PunaError(error.what, where=str(folder), mend=error.mend) from error
    if str(config.get("tokenizer_class", "")).startswith("Qwen2"):
        backend.normalizer = normalizers.NFC()
    begins = [name for name in ("<s>", "<|begin_of_text|>", "<｜begin▁of▁sentence｜>") if name in specials]
    return Tokenizer.with_settings(backend, folder, adds_bos=bool(begins) and not config)


def _vocabulary(folder: Path) -> dict[str, int]:
    value, where = read_object(folder, "vocab.json"), str(folder / "vocab.json")
    if not value:
        raise PunaError("is missing or has no entries", where=where)
    for entry, token in value.items():
        if type(token) is not int or not 0 <= token < _MAX_ID or not entry:
            raise PunaError(f"the id of {entry[:40]!r} is out of bounds", where=where)
    return value


def _merges(text: str, where: str) -> list[tuple[str, str]]:
    merges: list[tuple[str, str]] = []
    for number, line in enumerate(text.split("\n"), 1):
        line = line.removesuffix("\r")
        if not line or (number == 1 and line.startswith("#version")):
            continue
        left, space, right = line.partition(" ")
        if not left or not space or not right or " " in right:
            raise PunaError(f"line {number} is not two entries and a space", where=where)
        merges.append((left, right))
    return merges


def _cut(folder: Path, config: dict[str, Any]) -> str:
    named = read_object(folder, "info.json").get("pre_tokenizer") or _CLASSES.get(str(config.get("tokenizer_class")))
    if not isinstance(named, str):
        raise PunaError("nothing says how this vocabulary cuts text into words", where=str(folder),
                        mend='put info.json with {"pre_tokenizer": NAME} beside it, or give the model\'s tokenizer.json')  # fmt: skip
    return named
