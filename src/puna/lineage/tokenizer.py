"""Layer 3: two tokenizers, part by part, beside what strangers share.

Comes in: two opened models. Goes out: `verdict.TokenizerLayer`, and the pairs of ids that mean the same bytes. Must never happen: an overlap
called inherited that any two tokenizers of one language have.

Any two tokenizers of like text share most of the smaller one's entries, and even the rank correlation of their merges is high: common words are
learnt first by all. What strangers do not share is the order among neighbours. Entries that were learnt one after the other were about
equally frequent, and which of the two came first is near chance in another text, while whoever takes merges over keeps it. So: of the shared entries
in REFERENCE's order, how many neighbours stand in the same order in MODEL? Strangers about half (up to 73 % where only the 140 commonest
merges were learnt), a copy, a trimmed or an extended one all. Two tokenizers trained on the very same text show it too: the sentence says so.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Int
from scipy.stats import rankdata
from torch import Tensor

from puna.lineage.opened import Opened
from puna.lineage.verdict import FieldPair, TokenizerLayer, Verdict
from puna.progress import QUIET, Progress
from puna.tokens import HARD_STRINGS, Tokenizer
from puna.visible import clean


class Strangers(NamedTuple):
    """Shares that were measured on tokenizers trained apart."""

    least: float
    most: float
    other: float
    neighbours: float


# What two byte-level BPE tokenizers shared that were trained apart: of the smaller one's learnt entries, and of neighbours in order.
# `halves`: on the two halves of one text, least and most over English, Chinese, both mixed, and Python (1 to 12 MB); `other`: English
# books and Python, about; `neighbours`: the most in any of these. By learnt entries; tests/lineage/test_tokenizer_layer.py measures
# them again (`measure_strangers`; the larger with -m slow). 28 November 2026.
STRANGERS: Mapping[int, Strangers] = {
    140: Strangers(least=0.88, most=0.99, other=0.42, neighbours=0.73),
    740: Strangers(least=0.85, most=0.96, other=0.35, neighbours=0.55),
    3740: Strangers(least=0.67, most=0.90, other=0.27, neighbours=0.52),
    15740: Strangers(least=0.69, most=0.80, other=0.21, neighbours=0.52),
    31740: Strangers(least=0.64, most=0.72, other=0.21, neighbours=0.52),
}
# Real ones of other makers (LLaMA 2, LLaMA 3, GPT-2, DeepSeek, MiniMind and two tiny ones, 21 pairs): least and most of the smaller's
# entries, and neighbours in order. The larger the other, the more it has: 99 % on halves of one text where it is four times as large.
REAL = Strangers(least=0.38, most=0.99, other=0.38, neighbours=0.56)
FOUR_TIMES = 0.99
# From here on it is one order, not two. The very same text cut into words otherwise gives 85 to 99 %, the same text but for a
# hundredth 63 to 67 %, a text and one that holds half of it 51 to 76 %.
DERIVED_ABOVE = 0.95
LEAST_NEIGHBOURS = 50
FEW = 0.1  # of the smaller vocabulary: less than strangers of one language share
_SPECIAL, _FALLBACK = b"\0special:", b"\0byte:"
_BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_CUT = 80


def shared_tokens(ours: Tokenizer, theirs: Tokenizer) -> Int[Tensor, "n 2"]:
    """Pairs of ids (MODEL's, REFERENCE's) whose entries are the same bytes, by MODEL's ids; no id twice.

    Special entries are matched by their name, begin and end by their role. SentencePiece's pieces for bytes (<0x41>) are matched with each other,
    and with another tokenizer's entry of that byte where it has no such pieces.
    """
    mine, yours = _by_bytes(ours), _by_bytes(theirs)
    pairs = {own: yours[key] for key, own in mine.items() if key in yours}
    for left, right, turned in ((mine, yours, False), (yours, mine, True)):
        for key, token in left.items():
            plain = bytes.fromhex(key[len(_FALLBACK) :].decode()) if key.startswith(_FALLBACK) else b""
            if plain and key not in right and plain not in left and plain in right:
                pairs.setdefault(*((right[plain], token) if turned else (token, right[plain])))
    taken = set(pairs.values())
    for a, b in ((ours.bos_id, theirs.bos_id), (ours.eos_id, theirs.eos_id)):
        if a is not None and b is not None and a not in pairs and b not in taken:
            pairs[a] = b
            taken.add(b)
    return torch.tensor(sorted(pairs.items()), dtype=torch.long).reshape(-1, 2)


def _by_bytes(tokenizer: Tokenizer, backend: Mapping[str, Any] | None = None) -> dict[bytes, int]:
    """Bytes -> id; special entries and pieces for bytes under names that no text can have. Of equal entries the first."""
    backend = tokenizer.backend_json() if backend is None else backend
    added = {one["id"]: one for one in backend.get("added_tokens") or []}
    fallback = backend["model"].get("byte_fallback") is True
    found: dict[bytes, int] = {}
    for name, token in sorted(_vocabulary(backend).items(), key=lambda item: item[1]):
        if token in added and added[token].get("special"):
            key = _SPECIAL + str(added[token]["content"]).encode()
        elif fallback and (piece := _BYTE_PIECE.fullmatch(name)):
            key = _FALLBACK + piece[1].upper().encode()
        else:
            key = tokenizer.token_bytes(token)
        if key:
            found.setdefault(key, token)
    return found


def _vocabulary(backend: Mapping[str, Any]) -> dict[str, int]:
    """Entry -> id, of the model's own and the added ones."""
    vocab = backend["model"].get("vocab") or {}
    found = {name: number for number, (name, _) in enumerate(vocab)} if isinstance(vocab, list) else dict(vocab)
    return found | {str(one["content"]): one["id"] for one in backend.get("added_tokens") or []}


@dataclass(frozen=True)
class _Side:
    """A tokenizer as it is compared."""

    tokenizer: Tokenizer
    backend: Mapping[str, Any] = field(repr=False)

    @cached_property
    def ids(self) -> dict[bytes, int]:
        return _by_bytes(self.tokenizer, self.backend)

    @cached_property
    def learnt(self) -> frozenset[bytes]:
        """Entries that text gave: of more than one byte, neither special nor a piece for a byte."""
        return frozenset(key for key in self.ids if len(key) > 1 and not key.startswith((_SPECIAL, _FALLBACK)))

    @cached_property
    def specials(self) -> dict[str, int]:
        return {
            key.removeprefix(_SPECIAL).decode(): token for key, token in self.ids.items() if key.startswith(_SPECIAL)
        }

    @cached_property
    def places(self) -> dict[bytes, float]:
        """Entry -> its place in the order of learning: of the first merge that makes it; for Unigram by falling score; else by id."""
        model = self.backend["model"]
        names = _vocabulary(self.backend)
        if model.get("type") == "Unigram":
            score = {number: float(entry[1]) for number, entry in enumerate(model.get("vocab") or [])}
            order = sorted(score, key=lambda token: (-score[token], token))
            return self._of({token: place for place, token in enumerate(order)})
        if model.get("type") == "BPE":
            made: dict[int, int] = {}
            for place, pair in enumerate(model.get("merges") or []):
                left, right = pair.split(" ", 1) if isinstance(pair, str) else pair
                token = names.get(left + right)
                if token is not None:
                    made.setdefault(token, place)
            return self._of(made)
        return self._of({token: token for token in names.values()})

    def _of(self, places: Mapping[int, int]) -> dict[bytes, float]:
        found: dict[bytes, float] = {}
        for token, place in places.items():
            key = self.tokenizer.token_bytes(token)
            if key in self.learnt and self.ids[key] == token:
                found[key] = place
        return found


def compare_tokenizers(model: Opened, reference: Opened, progress: Progress = QUIET) -> TokenizerLayer:
    """The layer's verdict, beside what strangers share.

    same: the same entries under the same ids, in the same order, and the same ids for texts. derived: not the same, and the shared entries
    stand in one order (extended, trimmed, renumbered). independent: the order is what strangers show. cannot tell: between, too
    few shared entries to say, or a tokenizer that cannot be read.
    """
    if model.tokenizer is None or reference.tokenizer is None:
        lacking = model if model.tokenizer is None else reference
        return TokenizerLayer(
            verdict="cannot tell", sentence=f"{clean(lacking.name)} has no tokenizer beside it that can be read.",
            evidence=(clean(lacking.no_tokenizer),) if lacking.no_tokenizer else (),
        )  # fmt: skip
    progress.start("comparing the tokenizers")
    ours, theirs = (
        _Side(one.tokenizer, one.tokenizer.backend_json()) for one in (model, reference) if one.tokenizer is not None
    )
    both = ours.learnt & theirs.learnt
    order, neighbours, count = _order(ours.places, theirs.places)
    same_ids = sum(ours.ids[key] == theirs.ids[key] for key in both) / len(both) if both else None
    texts = _other_ids(ours.tokenizer, theirs.tokenizer)
    parts = _parts(ours, theirs)
    share = len(both) / len(ours.learnt) if ours.learnt else None
    least, most, what = expected_share(len(ours.learnt), len(theirs.learnt))
    numbers = _Numbers(len(both), len(ours.learnt), len(theirs.learnt), same_ids, order, neighbours, count, least, most)
    verdict, sentence = _verdict(ours, theirs, numbers, texts)
    progress.finish()
    return TokenizerLayer(
        verdict=verdict, sentence=sentence, evidence=tuple(_evidence(numbers, texts, parts, ours, theirs)), shared_entries=share,
        expected=(least + most) / 2, expected_source=what, same_ids=same_ids, merges_order=order, neighbours_in_order=neighbours, parts=parts,
    )  # fmt: skip


@dataclass(frozen=True)
class _Numbers:
    both: int
    ours: int
    theirs: int
    same_ids: float | None
    order: float | None
    neighbours: float | None
    count: int  # entries with a place in both
    least: float  # of MODEL's entries that strangers share, on halves of one text
    most: float


def _order(ours: Mapping[bytes, float], theirs: Mapping[bytes, float]) -> tuple[float | None, float | None, int]:
    """(rank correlation, share of neighbours in order, shared entries with a place), REFERENCE's order being the one that is followed."""
    keys = [key for key in ours if key in theirs]
    if len(keys) < 3:
        return None, None, len(keys)
    mine, yours = np.array([ours[key] for key in keys]), np.array([theirs[key] for key in keys])
    followed = mine[np.argsort(yours, kind="stable")]
    a, b = rankdata(mine), rankdata(yours)
    return float(np.corrcoef(a, b)[0, 1]), float((np.diff(followed) > 0).mean()), len(keys)


def expected_share(ours: int, theirs: int) -> tuple[float, float, str]:
    """(least, most, of what): the share of MODEL's `ours` learnt entries that a stranger of `theirs` has, trained on the other half of one text.

    Measured for two of one size (`STRANGERS`); where one is larger, it has at most all of the smaller's.
    """
    smaller, larger = max(1, min(ours, theirs)), max(ours, theirs)
    least, most = _measured(smaller, "least"), _measured(smaller, "most")
    if larger > smaller:
        most += (max(most, FOUR_TIMES) - most) * min(1.0, math.log(larger / smaller) / math.log(4))
    scale = smaller / max(1, ours)
    return (
        least * scale,
        most * scale,
        "byte-level BPE tokenizers trained apart on the two halves of one text (English, Chinese, Python)",
    )


def _measured(entries: int, what: str) -> float:
    """A number of `STRANGERS` between the sizes that were measured, by the logarithm of the size."""
    sizes = sorted(STRANGERS)
    return float(
        np.interp(
            math.log(max(1, entries)),
            [math.log(size) for size in sizes],
            [getattr(STRANGERS[size], what) for size in sizes],
        )
    )


def strangers_neighbours(entries: int) -> float:
    """The most neighbours in order that strangers may show over so many shared entries: the most measured, and three standard deviations."""
    most = _measured(entries, "neighbours")
    return min(0.9, most + 3 * math.sqrt(0.25 / max(1, entries)))


def _other_ids(ours: Tokenizer, theirs: Tokenizer) -> int:
    """Of the house's hard texts, how many have other ids."""
    return sum(ours.encode(text) != theirs.encode(text) for text in _texts())


def _texts() -> tuple[str, ...]:
    return tuple(text for text in HARD_STRINGS if len(text) <= 400)


def _verdict(ours: _Side, theirs: _Side, n: _Numbers, texts: int) -> tuple[Verdict, str]:
    one_order = n.neighbours is None or n.neighbours == 1.0
    if ours.ids == theirs.ids and one_order and not texts:
        return (
            "same",
            f"It is the same tokenizer: the same {len(ours.ids):,} entries under the same ids, and the same ids for {len(_texts())} hard texts.",
        )
    if n.both == 0:
        return "independent", "They are different tokenizers: no learnt entry is in both."
    smaller = max(1, min(n.ours, n.theirs))
    of = f"{n.both / smaller:.0%} of the {'smaller vocabulary' if n.ours != n.theirs else 'vocabulary'} is in the other too"
    if ours.ids == theirs.ids:
        return (
            "derived",
            "The entries and their ids are the same, and texts are cut otherwise: one was made from the other.",
        )
    if n.both < FEW * smaller and n.count < LEAST_NEIGHBOURS <= smaller:
        return (
            "independent",
            f"They are different tokenizers: only {n.both:,} learnt entries are in both, {n.both / smaller:.1%} of the smaller vocabulary.",
        )
    if n.neighbours is None or n.count < LEAST_NEIGHBOURS:
        return (
            "cannot tell",
            f"{of}; {n.count} shared entries that were learnt in an order are too few to tell strangers from descendants.",
        )
    seen = f"{n.neighbours:.0%} of neighbours stand in the same order"
    if n.neighbours >= DERIVED_ABOVE:
        return "derived", (
            f"One was made from the other, or both from the very same text: {_how(n)}. {of}, and {seen}, where strangers show about half and a copy all."
        )  # fmt: skip
    if n.neighbours <= strangers_neighbours(n.count):
        return "independent", (
            f"They are different tokenizers. {of}: common words, which any two of like text share (trained apart on halves of one text:"
            f" {n.least * n.ours / smaller:.0%} to {n.most * n.ours / smaller:.0%}). Of neighbours in the order of learning {n.neighbours:.0%} stand in the"
            " same order: strangers show about half, a copy all."
        )  # fmt: skip
    return "cannot tell", (
        f"{of}, and {seen}: more than strangers show, and less than a tokenizer that was taken over. Much the same text, or a part taken over, would do it."
    )  # fmt: skip


def _how(n: _Numbers) -> str:
    """What was done to a tokenizer to get the other."""
    renumbered = n.same_ids is not None and n.same_ids < 0.5
    end = ", under new ids" if renumbered else ""
    if n.both == n.theirs == n.ours:
        return f"the learnt entries are the same{end or ', and others were added or changed'}"
    if n.both == n.theirs:
        return f"MODEL has all of REFERENCE's learnt entries and {n.ours - n.both:,} more{end}"
    if n.both == n.ours:
        return f"MODEL has {n.both:,} of REFERENCE's {n.theirs:,} learnt entries and no other{end}"
    return f"MODEL has {n.both:,} of REFERENCE's {n.theirs:,} learnt entries, and {n.ours - n.both:,} of its own{end}"


def _evidence(n: _Numbers, texts: int, parts: tuple[FieldPair, ...], ours: _Side, theirs: _Side) -> list[str]:
    smaller = max(1, min(n.ours, n.theirs))
    lines = [
        f"learnt entries: {n.ours:,} in MODEL, {n.theirs:,} in REFERENCE, {n.both:,} in both ({n.both / smaller:.1%} of the smaller)",
        f"real tokenizers of other makers share {REAL.least:.0%} to {REAL.most:.0%} of the smaller's",
    ]
    if n.same_ids is not None:
        lines.append(f"{n.same_ids:.1%} of the shared entries have the same id")
    if n.neighbours is not None and n.order is not None:
        lines.append(f"of {n.count:,} shared entries with a place in the order of learning, {n.neighbours:.1%} of neighbours stand in the same order"
                     f" (strangers: at most {strangers_neighbours(n.count):.0%}); rank correlation {n.order:.4f}")  # fmt: skip
    lines.append(f"{texts} of {len(_texts())} hard texts get other ids" if texts else "the hard texts get the same ids")
    shared = sorted(set(ours.specials) & set(theirs.specials))
    lines.append(f"special entries: {len(ours.specials)} and {len(theirs.specials)}, {len(shared)} of one name")
    lines += [f"{part.name}: {_words(part.model)} beside {_words(part.reference)}" for part in parts if not part.equal]
    return lines


def _words(value: Any) -> str:
    return (
        "none"
        if value in (None, "")
        else "yes"
        if value is True
        else "no"
        if value is False
        else clean(str(value))[:_CUT]
    )


def _parts(ours: _Side, theirs: _Side) -> tuple[FieldPair, ...]:
    """Everything around the vocabulary. Templates and patterns are compared whole and shown by kind: they can be long."""

    def pair(name: str, mine: Any, yours: Any, equal: bool | None = None) -> FieldPair:
        return FieldPair(name=name, model=mine, reference=yours, equal=mine == yours if equal is None else equal)

    def part(name: str, key: str) -> FieldPair:
        mine, yours = ours.backend.get(key), theirs.backend.get(key)
        found = pair(
            name, _kinds(mine), _kinds(yours), json.dumps(mine, sort_keys=True) == json.dumps(yours, sort_keys=True)
        )
        note = "of the same kinds, with other settings" if found.model == found.reference and not found.equal else ""
        return found.model_copy(update={"note": note})

    a, b = ours.tokenizer, theirs.tokenizer
    return (
        pair("kind", ours.backend["model"].get("type"), theirs.backend["model"].get("type")), part("normaliser", "normalizer"),
        part("pre-tokenizer", "pre_tokenizer"), part("decoder", "decoder"),
        pair("bytes for unknown characters", ours.backend["model"].get("byte_fallback") is True, theirs.backend["model"].get("byte_fallback") is True),
        pair("space before the first word", a.prefix_space, b.prefix_space),
        pair("special entries", _listed(ours.specials), _listed(theirs.specials), ours.specials == theirs.specials),
        pair("begin token", _named(ours, a.bos_id), _named(theirs, b.bos_id)), pair("end token", _named(ours, a.eos_id), _named(theirs, b.eos_id)),
        pair("begin token added", a.adds_bos, b.adds_bos),
        pair("chat template", a.chat_template is not None, b.chat_template is not None, a.chat_template == b.chat_template),
    )  # fmt: skip


def _kinds(part: Any) -> str:
    """ "Prepend, Replace", of a part of a tokenizer.json and the steps within it."""
    if not isinstance(part, dict):
        return ""
    inner = [step for key in ("normalizers", "pretokenizers", "decoders") for step in part.get(key) or ()]
    return ", ".join(filter(None, map(_kinds, inner))) if inner else clean(str(part.get("type")))[:_CUT]


def _listed(specials: Mapping[str, int]) -> str:
    names = [clean(name)[:40] for name in list(specials)[:6]]
    return ", ".join(names) + (f" and {len(specials) - 6} more" if len(specials) > 6 else "")


def _named(side: _Side, token: int | None) -> str | None:
    return (
        None
        if token is None
        else next((clean(name)[:40] for name, number in side.specials.items() if number == token), str(token))
    )
