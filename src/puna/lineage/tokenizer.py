"""Layer 3: two tokenizers, part by part, beside what strangers share.

Comes in: two opened models. Goes out: `verdict.TokenizerLayer`, and the pairs of ids that mean the same bytes. Must never happen: an overlap
called inherited that any two tokenizers of one language have.
"""

import math
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from puna.lineage.opened import Opened
from puna.lineage.verdict import FieldPair, TokenizerLayer
from puna.lineage.weights.statistics import spearman
from puna.progress import QUIET, Progress
from puna.tokens import Tokenizer
from puna.visible import clean


def shared_tokens(ours: Tokenizer, theirs: Tokenizer) -> Int[Tensor, "n 2"]:
    """Pairs of ids (MODEL's, REFERENCE's) whose entries are the same bytes; special entries by their name, begin and end by their role."""
    known = _by_bytes(theirs)
    pairs = [(own, known[key]) for key, own in _by_bytes(ours).items() if key in known]
    roles = {
        (a, b)
        for a, b in ((ours.bos_id, theirs.bos_id), (ours.eos_id, theirs.eos_id))
        if a is not None and b is not None
    }
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


# What two byte-level BPE tokenizers share that were trained apart, each on half of one text (300 files of the running Python's library),
# by size. Real ones of other makers share 4 to 86 % (docs/lineage.md).
_HALVES = {512: 0.91, 2048: 0.75, 8192: 0.63}
_DERIVED_ORDER, _SAME_SHARE = 0.999, 0.98


def compare_tokenizers(model: Opened, reference: Opened, progress: Progress = QUIET) -> TokenizerLayer:
    """The layer's verdict: same, derived (one is the other's with entries added, cut or renumbered), independent, cannot tell."""
    ours, theirs = model.tokenizer, reference.tokenizer
    if ours is None or theirs is None:
        lacking = model if ours is None else reference
        return TokenizerLayer(
            verdict="cannot tell", sentence=f"{clean(lacking.name)} has no tokenizer beside it that can be read.", evidence=(lacking.no_tokenizer,) if lacking.no_tokenizer else (),
        )  # fmt: skip
    progress.note("  tokenizers")
    pairs = shared_tokens(ours, theirs)
    own, other = len(_by_bytes(ours)), len(_by_bytes(theirs))
    share, back = len(pairs) / max(1, own), len(pairs) / max(1, other)
    learnt = torch.tensor([_learnt(ours, token) for token in pairs[:, 0].tolist()], dtype=torch.bool)
    long = pairs[learnt]  # bytes and special entries have their numbers by convention
    same_ids = float((long[:, 0] == long[:, 1]).float().mean()) if len(long) else 0.0
    order = _merge_order(ours, theirs)
    parts = _parts(ours, theirs)
    expected = _HALVES[min(_HALVES, key=lambda size: abs(math.log(size / max(own, 1))))]
    evidence = [
        f"{len(pairs):,} entries are in both: {share:.1%} of {own:,} in MODEL, {back:.1%} of {other:,} in REFERENCE",
        f"{same_ids:.1%} of the shared entries of more than one byte have the same number",
    ]
    if order is not None:
        evidence.append(f"shared merges stand in the same order to a rank correlation of {order:.4f}")
    evidence += [f"{part.name}: {'equal' if part.equal else 'different'}" for part in parts]
    smaller = max(share, back)
    if share == back == 1.0 and same_ids == 1.0 and (order is None or order > _DERIVED_ORDER):
        verdict, sentence = "same", "It is the same tokenizer: the same entries under the same numbers."
    elif smaller > _SAME_SHARE and same_ids > 0.95:
        verdict, sentence = (
            "derived",
            "One tokenizer is the other with entries added or taken out: what both have stands under the same numbers.",
        )
    elif order is not None and order > _DERIVED_ORDER and smaller > 0.5:
        verdict, sentence = (
            "derived",
            "The merges that both have stand in one order, which two tokenizers trained apart do not show: one was made from the other.",
        )
    elif same_ids < 0.5 and (order is None or order < 0.99):
        verdict = "independent"
        sentence = (
            f"They are different tokenizers. The {share:.0%} of entries that both have are what tokenizers of such text share anyway, such as letters"
            f" and common words (two trained apart on halves of one text share about {expected:.0%}); they stand in another order."
        )  # fmt: skip
    else:
        verdict, sentence = "cannot tell", "The overlap lies between what strangers and descendants show."
    return TokenizerLayer(
        verdict=verdict, sentence=sentence, evidence=tuple(evidence), shared_entries=share, expected=expected,
        expected_source="two byte-level BPE tokenizers of this size trained on halves of one text", same_ids=same_ids, merges_order=order, parts=parts,
    )  # fmt: skip


def _learnt(tokenizer: Tokenizer, token: int) -> bool:
    return token not in tokenizer.special_ids and len(tokenizer.token_bytes(token)) > 1


def _merge_order(ours: Tokenizer, theirs: Tokenizer) -> float | None:
    """Spearman's rank correlation between the places of the merges that both have; None where one of them has none."""
    first, second = _merges(ours), _merges(theirs)
    both = [pair for pair in first if pair in second]
    if len(both) < 16:
        return None
    return spearman([second[pair] for pair in both])[0]


def _merges(tokenizer: Tokenizer) -> dict[tuple[str, str], int]:
    found = tokenizer.backend_json().get("model", {}).get("merges") or []
    pairs = (tuple(one.split(" ", 1)) if isinstance(one, str) else tuple(one) for one in found)
    return {pair: place for place, pair in enumerate(pairs) if len(pair) == 2}


def _parts(ours: Tokenizer, theirs: Tokenizer) -> tuple[FieldPair, ...]:
    """Everything around the vocabulary. Templates and normalisers are compared, not shown: they can be long."""
    first, second = ours.backend_json(), theirs.backend_json()

    def kind(backend: dict[str, Any], key: str) -> str | None:
        part = backend.get(key)
        return str(part.get("type")) if isinstance(part, dict) else None

    made = [
        FieldPair(
            name=words, model=kind(first, key), reference=kind(second, key), equal=first.get(key) == second.get(key)
        )
        for key, words in (("normalizer", "normaliser"), ("pre_tokenizer", "pre-tokenizer"), ("decoder", "decoder"))
    ]
    specials = [sorted(str(one._name(token)) for token in one.special_ids) for one in (ours, theirs)]
    made.append(
        FieldPair(
            name="special entries", model=len(specials[0]), reference=len(specials[1]), equal=specials[0] == specials[1]
        )
    )
    made.append(
        FieldPair(
            name="begin token added",
            model=ours.adds_bos,
            reference=theirs.adds_bos,
            equal=ours.adds_bos == theirs.adds_bos,
        )
    )
    made.append(
        FieldPair(
            name="space before the first word",
            model=ours.prefix_space,
            reference=theirs.prefix_space,
            equal=ours.prefix_space == theirs.prefix_space,
        )
    )
    made.append(FieldPair(name="chat template", model=ours.chat_template is not None, reference=theirs.chat_template is not None,
                          equal=ours.chat_template == theirs.chat_template))  # fmt: skip
    return tuple(made)
