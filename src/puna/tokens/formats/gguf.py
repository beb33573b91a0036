"""Tokenizers inside GGUF files: read as a `Tokenizer`, and the fields that make one of a `Tokenizer`.

Comes in: a `.gguf` file that a stranger may have made; or a tokenizer. Goes out: a `Tokenizer`; or the metadata `tokenizer.*`.
Must never happen: a tokenizer written that llama.cpp cuts a text with into other ids than we do.

llama.cpp knows two kinds that LLaMA models use: "llama" is SentencePiece's BPE, which joins by the scores of the pieces; "gpt2" is
byte-level BPE, which joins by the rank of the merges after a cut that goes by a name (`tokenizer.ggml.pre`).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from puna.errors import PunaError
from puna.gguf_header import GgufHeader, read_gguf_header
from puna.tokens.formats.backends import (
    BYTE,
    CONTROL,
    NORMAL,
    SPACE,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    byte_level_backend,
    merges_by_score,
    sentencepiece_backend,
)  # fmt: skip
from puna.tokens.formats.pretokenizers import IGNORE_MERGES, name_of
from puna.tokens.tokenizer import Tokenizer

_FIELD = "tokenizer.ggml."
_MAX_ENTRY = 256  # characters; cutting longer pieces in every way would take hours
# Where a file does not say whether a text begins with the begin token, llama.cpp goes by the cut's name.
_BEGINS = frozenset({"llama3", "llama-v3", "llama-bpe", "falcon3", "tekken"})


def read_gguf_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer of a GGUF file: its ids, its begin and end tokens, its chat template.

    Around user-defined entries in a text spaces are SentencePiece's, not llama.cpp's (which puts one after each). Raises
    `PunaError` where the file is damaged, holds none, or one of a kind that is not read.
    """
    header, where = read_gguf_header(path), str(path)
    kind = header.get(f"{_FIELD}model", str)
    if kind not in ("llama", "gpt2"):
        raise PunaError(f"holds a tokenizer of the kind {kind[:40]!r}", where=where,
                        mend="read are llama (SentencePiece) and gpt2 (byte-level BPE)")  # fmt: skip
    entries, kinds = _entries(header)
    try:
        backend, begins = (_sentencepiece if kind == "llama" else _byte_level)(header, entries, kinds)
    except PunaError as error:
        raise PunaError(error.what, where=where, mend=error.mend) from error
    named = {}
    for name, default in (("bos", 1), ("eos", 2)):
        token = header.get(f"{_FIELD}{name}_token_id", int, default if kind == "llama" else -1)
        if token >= len(entries):
            raise PunaError(f"{_FIELD}{name}_token_id is {token}, beyond the {len(entries)} entries", where=where)
        named[name] = entries[token] if token >= 0 else None
    template = header.get("tokenizer.chat_template", str, "") or None
    return Tokenizer(backend, chat_template=template, bos_token=named["bos"], eos_token=named["eos"],
                     adds_bos=header.get(f"{_FIELD}add_bos_token", bool, begins) and named["bos"] is not None)  # fmt: skip


def gguf_tokenizer_fields(tokenizer: Tokenizer) -> dict[str, Any]:
    """The metadata `tokenizer.*` by which llama.cpp makes the same ids of a text.

    Raises `PunaError` where it cannot: a cut it has no name for, merges that no scores stand for, a normaliser it lacks.
    """
    value = tokenizer.backend_json()
    model = value["model"]
    if model.get("type") != "BPE" or model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        raise PunaError(f"a tokenizer of the kind {str(model.get('type'))[:40]!r} cannot be written to GGUF",
                        mend="BPE can, byte-level or with byte fallback")  # fmt: skip
    entries, kinds = _listed(value)
    merges = [tuple(pair) if isinstance(pair, list) else tuple(pair.split(" ")) for pair in model["merges"]]
    if model.get("byte_fallback"):
        fields = {"model": "llama", "pre": "default", "add_space_prefix": _adds_space(value),
                  "scores": _scores(entries, kinds, merges)}  # fmt: skip
        # llama.cpp looks for user-defined entries in the text as it was typed.
        entries = [entry.replace(SPACE, " ") if kind == USER_DEFINED else entry
                   for entry, kind in zip(entries, kinds, strict=True)]  # fmt: skip
    else:
        fields = {"model": "gpt2", "pre": _cut(value), "merges": [" ".join(pair) for pair in merges]}
    fields |= {"tokens": entries, "token_type": kinds, "add_bos_token": tokenizer.adds_bos, "add_eos_token": False}
    unknown = kinds.index(UNKNOWN) if UNKNOWN in kinds else None
    for name, token in (
        ("bos", tokenizer.bos_id),
        ("eos", tokenizer.eos_id),
        ("padding", tokenizer.pad_id),
        ("unknown", unknown),
    ):
        if token is not None:
            fields[f"{name}_token_id"] = token
    found = {f"{_FIELD}{key}": item for key, item in fields.items() if item != []}
    return found | ({"tokenizer.chat_template": tokenizer.chat_template} if tokenizer.chat_template else {})


def _entries(header: GgufHeader) -> tuple[list[str], list[int]]:
    """Entries and their kinds, without those that only fill the embedding up."""
    entries, where = header.strings(f"{_FIELD}tokens"), str(header.path)
    kinds = [NORMAL] * len(entries)
    if f"{_FIELD}token_type" in header.metadata:
        kinds = header.numbers(f"{_FIELD}token_type").tolist()
    if len(kinds) != len(entries) or not set(kinds) <= {NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE}:
        raise PunaError(f"{_FIELD}token_type does not give each entry a kind from 1 to 6", where=where)
    if long := [number for number, entry in enumerate(entries) if len(entry) > _MAX_ENTRY]:
        raise PunaError(f"entry {long[0]} has more than {_MAX_ENTRY} characters", where=where)
    count = len(entries)
    while count and kinds[count - 1] == UNUSED and entries[count - 1] == f"[PAD{count - 1}]":
        count -= 1
    if not count:
        raise PunaError("holds a tokenizer without entries", where=where)
    return entries[:count], kinds[:count]


def _sentencepiece(header: GgufHeader, entries: list[str], kinds: list[int]) -> tuple[Any, bool]:
    scores = header.numbers(f"{_FIELD}scores")[: len(entries)]
    if len(scores) != len(entries) or scores.dtype.kind != "f" or not np.isfinite(scores).all():
        raise PunaError(f"{_FIELD}scores does not give each entry a finite score")
    pieces = [entry.replace(" ", SPACE) if kind == USER_DEFINED else entry
              for entry, kind in zip(entries, kinds, strict=True)]  # fmt: skip
    backend = sentencepiece_backend(pieces, scores.tolist(), kinds, byte_fallback=BYTE in kinds,
                                    add_prefix_space=header.get(f"{_FIELD}add_space_prefix", bool, True))  # fmt: skip
    return backend, True


def _byte_level(header: GgufHeader, entries: list[str], kinds: list[int]) -> tuple[Any, bool]:
    pre = header.get(f"{_FIELD}pre", str, "default")
    merges = []
    for line in header.strings(f"{_FIELD}merges") if f"{_FIELD}merges" in header.metadata else []:
        left, gap, right = line.partition(" ")
        if not (left and gap and right):
            raise PunaError(f"{_FIELD}merges holds {line[:40]!r}, which is no pair")
        merges.append((left, right))
    vocab = {entry: number for number, entry in enumerate(entries)}
    if len(vocab) != len(entries):
        raise PunaError("holds an entry of the tokenizer twice")
    special = [entry for entry, kind in zip(entries, kinds, strict=True) if kind in (CONTROL, UNKNOWN)]
    added = [entry for entry, kind in zip(entries, kinds, strict=True) if kind == USER_DEFINED]
    return byte_level_backend(vocab, merges, pre, special, added, ignore_merges=pre in IGNORE_MERGES), pre in _BEGINS


def _listed(value: Mapping[str, Any]) -> tuple[list[str], list[int]]:
    """Every id's entry and kind, from a tokenizer.json."""
    vocab: Mapping[str, int] = value["model"]["vocab"]
    added = value["added_tokens"]
    size = 1 + max([*vocab.values(), *(token["id"] for token in added)], default=-1)
    # An id that nothing has is a hole; llama.cpp wants a name for it that no text becomes.
    entries, kinds = [f"[UNUSED{number}]" for number in range(size)], [UNUSED] * size
    for entry, number in vocab.items():
        entries[number], kinds[number] = entry, NORMAL
        if value["model"].get("byte_fallback") and len(entry) == 6 and entry.startswith("<0x") and entry.endswith(">"):
            kinds[number] = BYTE
    for token in added:
        if not token["special"] and (token["single_word"] or token["lstrip"] or token["rstrip"]):
            raise PunaError(
                f"the added token {token['content'][:40]!r} takes spaces or whole words, which llama.cpp cannot"
            )
        entries[token["id"]] = token["content"]
        kinds[token["id"]] = USER_DEFINED if not token["special"] else CONTROL
        if token["content"] == value["model"].get("unk_token"):
            kinds[token["id"]] = UNKNOWN
    return entries, kinds


def _cut(value: Mapping[str, Any]) -> str:
    """llama.cpp's name for how a byte-level tokenizer cuts texts."""
    # Qwen composes characters first (NFC); llama.cpp passes that over, and most text is composed already.
    if value.get("normalizer") is not None and value["normalizer"].get("type") != "NFC":
        raise PunaError(f"llama.cpp has no normaliser {str(value['normalizer'].get('type'))[:40]!r}")
    name = name_of(value)
    if name is None:
        raise PunaError("llama.cpp has no name for the way this tokenizer cuts texts into words",
                        mend="train one with Puna's pattern (qwen2's), or stay with safetensors")  # fmt: skip
    return name


def _adds_space(value: Mapping[str, Any]) -> bool:
    """Whether a text is encoded as if a space stood before it; any other change of a text is refused."""
    prepends, normalizer, cut = False, value.get("normalizer"), value.get("pre_tokenizer")
    for step in (normalizer or {}).get("normalizers", [normalizer] if normalizer else []):
        match step:
            case {"type": "Prepend", "prepend": str(text)} if text == SPACE:
                prepends = True
            case {"type": "Replace", "pattern": {"String": " "}, "content": str(text)} if text == SPACE:
                pass
            case _:
                raise PunaError(f"llama.cpp has no normaliser {str(step.get('type'))[:40]!r} like this tokenizer's")
    # Where a text begins with a space of its own, Metaspace puts no second one there; SentencePiece and llama.cpp do.
    steps = (cut or {}).get("pretokenizers", [cut] if cut else [])
    for step in steps:
        if step.get("type") != "Metaspace" or step.get("split"):
            raise PunaError(f"llama.cpp does not cut texts as this tokenizer does ({str(step.get('type'))[:40]})")
    adds = prepends or any(step.get("prepend_scheme") != "never" for step in steps)
    user = [token for token in value["added_tokens"] if not token["special"]]
    if adds and user and not (prepends and not any(token["normalized"] for token in user)):
        raise PunaError(f"llama.cpp puts a space after each user-defined entry in a text ({user[0]['content'][:40]!r}), this "
                        "tokenizer does not", mend='mark such entries "special": true in tokenizer.json')  # fmt: skip
    return adds


def _scores(entries: Sequence[str], kinds: Sequence[int], merges: Sequence[tuple[str, ...]]) -> list[float]:
    """Scores by which SentencePiece joins in the order of the merges: 0 for the first piece to be made, then -1, -2...

    Pieces whose merges stand among each other's (runs of one character) share a score, as they did in the model that the
    merges were made from. Raises `PunaError` where scores would allow other merges than there are.
    """
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    for rank, pair in enumerate(merges):
        piece = "".join(pair)
        first.setdefault(piece, rank)
        last[piece] = rank
    made: dict[str, float] = {}
    end, score = -1, 0.0
    for piece, rank in sorted(first.items(), key=lambda item: item[1]):
        if made and rank > end:
            score -= 1.0
        made[piece], end = score, max(end, last[piece])
    scores = [made.get(entry, score - 1.0) for entry in entries]
    if set(merges_by_score(entries, scores, kinds)) != set(merges):
        raise PunaError("this tokenizer's merges are not those of a SentencePiece model, the only ones with byte fallback that "
                        "llama.cpp computes")  # fmt: skip
    return scores
