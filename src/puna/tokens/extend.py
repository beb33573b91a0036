"""A tokenizer with more entries, learned from one's own text on top of a given one.

Comes in: a BPE tokenizer, texts. Goes out: a tokenizer folder and `extension.json`. Must never happen: an old id that means
something else, or a text without new entries that has other ids than before.

Old merges keep their order and come first; new ones follow. Byte-level vocabularies (GPT-2, Llama 3, Qwen, ours) get merges.
SentencePiece-like ones (LLaMA 2, Yi, llama2.c) get characters and pieces of letters, so that the same vocabulary reads alike in
GGUF and llama2.c, which know scores but no merges. How the text is cut before any merge stays as the base cuts it.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int64
from numpy import ndarray
from tokenizers import Tokenizer as Backend

from puna.errors import PunaError
from puna.files import atomic_file, write_json
from puna.progress import QUIET, Progress
from puna.tokens.continued import SPACE, ByteRules, Entry, PieceRules, is_word, learn
from puna.tokens.scripts import main_script
from puna.tokens.tokenizer import _ALPHABET as BYTE_ALPHABET
from puna.tokens.tokenizer import Tokenizer, utf8_bytes
from puna.tokens.train import MAX_TOKEN_BYTES, _EvenSample

# A row of the embedding that is met fewer times than this stays about what its pieces made of it.
LEAST_COUNT = 10
ASIDE = 20  # every so many documents (or passages, where documents are few) one is only measured on
# The text that is learned from: more changes few entries and costs memory (measured: 45 to 80 bytes a byte of Chinese).
_LEARN_BYTES = 32_000_000
_PASSAGE_CHARS = 4000
_BATCH_CHARS = 2_000_000


def extend_tokenizer(
    base: Tokenizer, texts: Iterable[str], entries: int, out: Path, progress: Progress = QUIET, specials: Sequence[str] = (),
) -> dict[str, Any]:  # fmt: skip
    """Learn up to `entries` new entries from `texts` (read once) and write the tokenizer's files into `out`.

    Ids below `base.vocab_size` keep their meaning. Then come those of `specials` that the base lacks, then the learned entries, in
    the order they were learned. An entry stands in the text at least LEAST_COUNT times; a small corpus gives fewer, never
    invented ones. Of more than 32 MB of text, an even sample is learned from.

    Returns what `extension.json` holds: base_vocab, vocab, specials (how many came in), entries (how many were learned), pieces
    (for each new id in order the old ids it stands for; none for a special token), languages: by script, over the text that was
    not learned from, {bytes, tokens_before, tokens_after, bytes_per_token_before, bytes_per_token_after, kept: the share of the
    old tokens that stay as they are}.
    Raises `PunaError` where the base is no BPE, or the texts are empty or not valid Unicode.
    """
    description = _checked(base.backend_json())
    sample = _EvenSample(_LEARN_BYTES)
    progress.start("reading text for new entries", unit="B")
    for number, text in enumerate(texts, 1):
        sample.add(text, len(utf8_bytes(text, where=f"document {number}")))
        progress.update(sample.bytes)
    progress.finish()
    learned_from, aside = _set_aside(sample.texts)
    if not learned_from:
        raise PunaError("there is no text to learn new entries from", where="tokenizer", mend="name a source with text")
    specials = [name for name in dict.fromkeys(specials) if name not in description["model"]["vocab"]]
    found, stream = _learn(base, description, learned_from, entries, progress)
    pieces = _describe(base, description, found, stream, specials)
    extended = _write(base, description, out)
    _prove(base, extended, [token["content"] for token in description["added_tokens"] if token["special"]])
    report = {
        "base_vocab": base.vocab_size, "vocab": extended.vocab_size, "specials": len(specials), "entries": len(found),
        "pieces": pieces, "languages": _measure(base, extended, aside, progress),
    }  # fmt: skip
    if len(found) < entries:
        progress.note(f"the text is enough for {len(found):,} new entries, not for {entries:,}")
    write_json(out / "extension.json", report)
    return report


def _write(base: Tokenizer, description: dict[str, Any], out: Path) -> Tokenizer:
    """The base's files with the extended tokenizer.json in them, read again as anybody will read them."""
    out.mkdir(parents=True, exist_ok=True)
    base.save(out)
    with atomic_file(out / "tokenizer.json") as stream:
        stream.write(json.dumps(description, ensure_ascii=False, indent=1).encode())
    return Tokenizer.load(out)


def _checked(description: dict[str, Any]) -> dict[str, Any]:
    """The tokenizer.json of a base that can be extended, with its added tokens in the vocabulary: else they would move on."""
    model = description["model"]
    if model.get("type") != "BPE":
        raise PunaError(f"only a BPE tokenizer can be extended, this one is {model.get('type')}", where="tokenizer")
    for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(key):
            raise PunaError(f"a BPE tokenizer with {key} cannot be extended", where="tokenizer")
    for token in description["added_tokens"]:
        model["vocab"].setdefault(token["content"], token["id"])
    return description


def _learn(
    base: Tokenizer, description: dict[str, Any], texts: list[str], entries: int, progress: Progress
) -> "tuple[list[Entry], _Stream]":
    """New entries in the order they were learned, and what their ids mean."""
    vocab: dict[str, int] = description["model"]["vocab"]
    spelled = [""] * base.vocab_size
    for text, token in vocab.items():
        spelled[token] = text
    added = {token["id"] for token in description["added_tokens"]}
    if _is_byte_level(description):
        stream = _Stream(spelled, {})
        joins = np.array([token not in added for token in range(len(spelled))])
        words, _ = _words(description, texts, joins, joins, progress)
        rules = ByteRules(vocab, BYTE_ALPHABET, MAX_TOKEN_BYTES)
        return learn(words, spelled, entries, rules, least=LEAST_COUNT, progress=progress), stream
    plain = Backend.from_str(json.dumps(description))
    normal = plain.normalizer.normalize_str if plain.normalizer else str
    unknown = Counter[str]()
    for text in texts:
        unknown.update(normal(text))
    spellings = {
        char: [token.id for token in plain.model.tokenize(char)]
        for char, count in sorted(unknown.items()) if char not in vocab and count >= LEAST_COUNT
    }  # fmt: skip
    # A character of one byte ("\n") is one token already, and stays it.
    characters = [char for char, ids in spellings.items() if len(char.encode()) > 1]
    stream = _Stream([*spelled, *characters],
                     {base.vocab_size + number: spellings[char] for number, char in enumerate(characters)})  # fmt: skip
    # With every character an entry for now, each is one id in the words; it is joined to others only once it is chosen.
    model = description["model"]
    known = {char: base.vocab_size + number for number, char in enumerate(characters)}
    working = {**description, "model": {**model, "vocab": {**vocab, **known}}}
    bodies = [text.removeprefix(SPACE) for text in stream.spelled]
    letters = np.array([token not in added and is_word(body) for token, body in enumerate(bodies)])
    starts = np.array([text.startswith(SPACE) for text in stream.spelled])
    words, counts = _words(working, texts, letters | (np.array(stream.spelled) == SPACE), letters & ~starts, progress)
    chosen = {token: (int(counts[token]), len(stream.old_ids[token])) for token in stream.old_ids}
    plain_pieces = {text: token for text, token in vocab.items() if token not in added}
    return learn(words, stream.spelled, entries, PieceRules(plain_pieces, MAX_TOKEN_BYTES), least=LEAST_COUNT,
                 characters=chosen, progress=progress), stream  # fmt: skip


@dataclass
class _Stream:
    """Ids of the words that are learned from: the base's, then characters that it lacks, then learned entries."""

    spelled: list[str]  # as the vocabulary spells them, before any entry was learned
    old_ids: dict[int, list[int]]  # ids beyond the base's -> the old ids that the base reads there


def _words(
    description: dict[str, Any], texts: list[str], joins_right: Bool[ndarray, " v"], joins_left: Bool[ndarray, " v"],
    progress: Progress,
) -> tuple[Counter[bytes], Int64[ndarray, " v"]]:  # fmt: skip
    """Each run of ids within which new entries may be learned (int32, two or more) -> its count; and the count of each id.

    A run ends where the base ends a word, and between two ids of which the first may not be joined to its right or the
    second not to its left.
    """
    backend = Backend.from_str(json.dumps(description))
    backend.encode_special_tokens = True
    backend.no_padding()
    backend.no_truncation()
    words: Counter[bytes] = Counter()
    counts = np.zeros(len(joins_left), np.int64)
    done = 0
    progress.start("reading words", len(texts), "texts")
    for batch in _batches(texts):
        for encoding in backend.encode_batch(batch, add_special_tokens=False):
            ids = np.array(encoding.ids, np.int32)
            word = np.array([-1 if number is None else number for number in encoding.word_ids], np.int64)
            counts += np.bincount(ids, minlength=len(counts))
            cut = (word[1:] != word[:-1]) | ~joins_right[ids[:-1]] | ~joins_left[ids[1:]]
            edges = np.concatenate([[0], np.flatnonzero(cut) + 1, [len(ids)]])
            long = np.flatnonzero(np.diff(edges) > 1)
            data = ids.tobytes()
            words.update(
                data[begin:end]
                for begin, end in zip((4 * edges[long]).tolist(), (4 * edges[long + 1]).tolist(), strict=True)
            )
        done += len(batch)
        progress.update(done)
    progress.finish()
    return words, counts


def _describe(
    base: Tokenizer, description: dict[str, Any], found: list[Entry], stream: _Stream, specials: Sequence[str]
) -> list[list[int]]:
    """Write what was learned into the tokenizer.json; returns the old ids that each new id stands for."""
    model = description["model"]
    for number, name in enumerate(specials, base.vocab_size):
        model["vocab"][name] = number
        description["added_tokens"].append({
            "id": number, "content": name, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
            "special": True,
        })  # fmt: skip
    old = {**{token: [token] for token in range(base.vocab_size)}, **stream.old_ids}
    text = dict(enumerate(stream.spelled)) | {entry.token: entry.text for entry in found}
    as_lists = not model["merges"] or not isinstance(model["merges"][0], str)
    pieces: list[list[int]] = [[] for _ in specials]
    for number, entry in enumerate(found, base.vocab_size + len(specials)):
        if entry.pairs:
            old[entry.token] = [token for half in entry.pairs[0] for token in old[half]]
        pieces.append(old[entry.token])
        model["vocab"][entry.text] = number
        for left, right in entry.pairs:
            merge = [text[left], text[right]]
            model["merges"].append(merge if as_lists else " ".join(merge))
    return pieces


def _prove(base: Tokenizer, extended: Tokenizer, specials: Iterable[str]) -> None:
    """Raise `PunaError` where a special token's name, typed as text, becomes the token and did not in the base."""
    for name in specials:
        if (set(extended.encode(name)) - set(base.encode(name))) & extended.special_ids:
            raise PunaError(
                f"the text {name!r} would become a special token", where="tokenizer", mend="rename that token"
            )


def _measure(base: Tokenizer, extended: Tokenizer, texts: list[str], progress: Progress) -> dict[str, dict[str, Any]]:
    """What the new entries gain, by script. Raises where a text without new entries has other ids than before."""
    totals: dict[str, Counter[str]] = {}
    progress.start("measuring the vocabulary", len(texts), "texts")
    done = 0
    for batch in _batches(texts):
        for text, before, after in zip(batch, base.encode_batch(batch), extended.encode_batch(batch), strict=True):
            kept = sum(token < base.vocab_size for token in after)
            if kept == len(after) and after != before:
                raise PunaError(
                    "the extended tokenizer reads a text without new entries otherwise than the base", where="tokenizer"
                )
            row = totals.setdefault(main_script(text), Counter())
            row.update(bytes=len(text.encode()), tokens_before=len(before), tokens_after=len(after), kept=kept)
        done += len(batch)
        progress.update(done)
    progress.finish()
    return {
        name: {
            "bytes": row["bytes"], "tokens_before": row["tokens_before"], "tokens_after": row["tokens_after"],
            "bytes_per_token_before": row["bytes"] / max(1, row["tokens_before"]),
            "bytes_per_token_after": row["bytes"] / max(1, row["tokens_after"]),
            "kept": row["kept"] / max(1, row["tokens_before"]),
        }
        for name, row in sorted(totals.items())
    }  # fmt: skip


def _set_aside(texts: list[str]) -> tuple[list[str], list[str]]:
    """(to learn from, to measure on): whole documents where they are many, else passages of them."""
    if len(texts) < 2 * ASIDE:
        texts = [part for text in texts for part in _passages(text)]
    if len(texts) < 2:
        return texts, texts  # a few sentences: there is nothing to keep aside
    first = min(ASIDE // 2, len(texts) - 1)
    return [text for number, text in enumerate(texts) if number % ASIDE != first], texts[first::ASIDE]


def _passages(text: str) -> list[str]:
    """A text in passages of whole lines, about _PASSAGE_CHARS each."""
    parts, begin = [], 0
    while len(text) - begin > _PASSAGE_CHARS:
        end = text.rfind("\n", begin, begin + _PASSAGE_CHARS) + 1 or begin + _PASSAGE_CHARS
        parts.append(text[begin:end])
        begin = end
    return [part for part in (*parts, text[begin:]) if part]


def _batches(texts: list[str]) -> Iterator[list[str]]:
    batch, chars = [], 0
    for text in texts:
        batch.append(text)
        chars += len(text)
        if chars >= _BATCH_CHARS:
            yield batch
            batch, chars = [], 0
    if batch:
        yield batch


def _is_byte_level(description: dict[str, Any]) -> bool:
    return '"ByteLevel"' in json.dumps(description.get("decoder"))
