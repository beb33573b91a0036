"""Layer 3: two tokenizers, part by part, beside what strangers share.

Comes in: two opened models. Goes out: `verdict.TokenizerLayer`, and the pairs of ids that mean the same bytes. Must never happen: an overlap
called inherited that any two tokenizers of one language have.
"""

import torch
from jaxtyping import Int
from torch import Tensor

from puna.tokens import Tokenizer


def shared_tokens(ours: Tokenizer, theirs: Tokenizer) -> Int[Tensor, "n 2"]:
    """Pairs of ids (MODEL's, REFERENCE's) whose entries are the same bytes; special entries by their name, begin and end by their role."""
    known = _by_bytes(theirs)
    pairs = [(own, known[key]) for key, own in _by_bytes(ours).items() if key in known]
    roles = {(a, b) for a, b in ((ours.bos_id, theirs.bos_id), (ours.eos_id, theirs.eos_id)) if a is not None and b is not None}
    taken = {own for own, _ in pairs}
    pairs += [(a, b) for a, b in sorted(roles) if a not in taken]
    return torch.tensor(sorted(pairs), dtype=torch.long).reshape(-1, 2)


def _by_bytes(tokenizer: Tokenizer) -> dict[bytes, int]:
    """Bytes -> id; a special entry by its name, marked so that no text is taken for it. Of equal entries the first."""
    found: dict[bytes, int] = {}
    special = tokenizer.special_ids
    for token in range(tokenizer.vocab_size):
        key = b"\0special:" + str(tokenizer._name(token)).encode() if token in special else tokenizer.token_bytes(token)
        found.setdefault(key, token)
    return found
