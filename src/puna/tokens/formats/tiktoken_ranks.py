"""tiktoken's rank files, which LLaMA 3 comes with: base64 bytes and a rank a line.

Comes in: a file's bytes. Goes out: a `Tokenizer` whose ids are tiktoken's. Must never happen: LLaMA 3's special tokens given to
a file that is not LLaMA 3's.
"""

import base64
import binascii
from pathlib import Path
from typing import Final

from puna.errors import PunaError
from puna.reading import read_bytes
from puna.tokens.formats.backends import byte_level_backend
from puna.tokens.tokenizer import Tokenizer, byte_characters

_MAX_RANK_BYTES = 4 << 20  # LLaMA 3: 2.2
_MAX_ENTRY = 1 << 10  # bytes; LLaMA 3's longest are 128
_RANKS_OF_LLAMA3: Final = 128_000

# meta-llama/llama3, llama/tokenizer.py: 256 special tokens after the ranks. LLaMA 3.1 renamed four reserved ones; a folder
# that has tokenizer.json beside the ranks is read from that.
_NAMED: Final = {
    0: "<|begin_of_text|>", 1: "<|end_of_text|>", 6: "<|start_header_id|>", 7: "<|end_header_id|>", 9: "<|eot_id|>",
}  # fmt: skip


def is_tiktoken(data: bytes) -> bool:
    """Whether a file begins as a rank file does: base64, a space, a number."""
    first = data[: 2 * _MAX_ENTRY].split(b"\n", 1)[0].split(b" ")
    return len(first) == 2 and first[1].strip().isdigit()


def read_tiktoken(path: Path) -> Tokenizer:
    """LLaMA 3's tokenizer from its ranks. Raises `PunaError` where the file is another model's or none."""
    ranks = _ranks(read_bytes(path, _MAX_RANK_BYTES), str(path))
    if len(ranks) != _RANKS_OF_LLAMA3:
        raise PunaError(f"has {len(ranks):,} ranks; of tiktoken's files only LLaMA 3's is read, which has {_RANKS_OF_LLAMA3:,}",
                        where=str(path), mend="give the model's tokenizer.json instead")  # fmt: skip
    letters = byte_characters()
    vocab = {entry.decode("latin-1").translate(letters): rank for entry, rank in ranks.items()}
    merges = [(left.decode("latin-1").translate(letters), right.decode("latin-1").translate(letters))
              for left, right in merges_by_rank(ranks)]  # fmt: skip
    reserved = iter(range(256))
    specials = [_NAMED.get(place) or f"<|reserved_special_token_{next(reserved)}|>" for place in range(256)]
    for place, name in enumerate(specials):
        vocab[name] = len(ranks) + place
    backend = byte_level_backend(vocab, merges, "llama-bpe", specials, ignore_merges=True)
    return Tokenizer(backend, bos_token=specials[0], eos_token=specials[1], adds_bos=True)


def merges_by_rank(ranks: dict[bytes, int]) -> list[tuple[bytes, bytes]]:
    """Every pair of entries that tiktoken would join, in the order in which it prefers them.

    tiktoken (src/lib.rs, `_byte_pair_merge`) joins the neighbours whose joined bytes have the lowest rank, the leftmost first;
    so each way to cut an entry into two entries is a merge. This is also how LLaMA 3's tokenizer.json was made.
    """
    merges: list[tuple[bytes, bytes]] = []
    for entry in sorted(ranks, key=ranks.__getitem__):
        pairs = []
        for cut in range(1, len(entry)):
            left, right = ranks.get(entry[:cut]), ranks.get(entry[cut:])
            if left is not None and right is not None:
                pairs.append((left, right, cut))
        merges += [(entry[:cut], entry[cut:]) for _, _, cut in sorted(pairs)]
    return merges


def _ranks(data: bytes, where: str) -> dict[bytes, int]:
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(data.split(b"\n"), 1):
        if not line.strip():
            continue
        parts = line.split()
        try:
            if len(parts) != 2 or len(parts[0]) > 2 * _MAX_ENTRY or len(parts[1]) > 8:
                raise ValueError
            entry, rank = base64.b64decode(parts[0], validate=True), int(parts[1])
        except (ValueError, binascii.Error):
            raise PunaError(f"line {number} is not base64 and a rank", where=where) from None
        if not entry or rank != len(ranks) or ranks.setdefault(entry, rank) != rank:
            raise PunaError(f"line {number} repeats an entry or leaves a rank out", where=where)
    if missing := [byte for byte in range(256) if bytes([byte]) not in ranks]:
        raise PunaError(f"the byte 0x{missing[0]:02X} has no rank", where=where)
    return ranks
