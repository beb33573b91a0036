"""Perplexity: how unexpected a text is to a language model that was trained, in the pipeline, on text known to be good.

Comes in: reference texts of each language, then documents with their language. Goes out: one perplexity a document, and the
percentile of each language. Must never happen: a language judged by the model of another (it gets NaN); a score that depends
on the other documents of the batch.

The model is interpolated Kneser-Ney (Chen and Goodman 1999, section 2.7; D = n1 / (n1 + 2 n2) of Ney, Essen and Kneser 1994)
of ORDER tokens: words, and characters where a script has no spaces. A word that the reference has less than twice is the
unknown word, spelled out by the same model over LETTERS letters, so that a rare name costs something and line noise a lot
(an open vocabulary, where CCNet, arXiv 1911.00359, puts a subword tokenizer before KenLM).

Memory: at most `entries` n-grams of each order at 24 bytes, so 130 MB a language at the default and far less for a small
reference; the rarest n-grams go first. Training takes some 200 bytes a token of the reference.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from puna.corpus.features import (
    F32,
    I64,
    U64,
    WORD,
    Index,
    chunks,
    letters,
    load_arrays,
    longer,
    places_in_text,
    save_arrays,
    sums,
    tokenise,
    words_at,
)
from puna.errors import PunaError

ORDER, LETTERS = 4, 5
ENTRIES = 1 << 20  # n-grams of one order that are kept
MIN_COUNT = 50  # documents of a language below which its percentile says nothing
_UNKNOWN = np.uint64(0x6A09E667F3BCC909)
_CEILING = 60.0  # nats a token: its exponential is finite, and no text comes near

Places = npt.NDArray[np.int32]
F64 = npt.NDArray[np.float64]


@dataclass(slots=True)
class _Order:
    """n-grams of one length: where to find them, ln p(last | the others), ln of the weight they leave to shorter ones."""

    index: Index
    logp: F32
    backoff: F32


@dataclass(slots=True)
class _NGrams:
    """An interpolated Kneser-Ney model over symbols (64-bit codes): `floor` is ln p of an unknown one by itself."""

    orders: list[_Order]
    unknown: int  # the place of the unknown symbol among the unigrams

    @classmethod
    def train(cls, codes: U64, place: I64, order: int, least: int, entries: int) -> "_NGrams":
        """From symbols (t,) with how many stand before each in its text; those seen less than `least` times become one."""
        # A text of one unknown symbol: so there always is one, and what was never seen costs at least what is rarest.
        codes, place = np.append(codes, _UNKNOWN), np.append(place, 0)
        seen, counts = np.unique(codes, return_counts=True)
        often = _most(counts, counts >= least, entries)
        symbols = np.where(Index(seen[often]).find(codes) >= 0, codes, _UNKNOWN)
        model = cls([], -1)
        grams, context = symbols, np.zeros(len(symbols), np.int32)
        logp = np.full(len(symbols), -np.log(often.sum() + 1.0))  # the uniform distribution below the unigrams
        for length in range(1, order + 1):
            after = longer(grams, symbols) if length < order else None
            model._add(grams, after, place, context, logp, length, entries)
            found, logp = model._step(length, grams, context, logp)
            context = _shifted(found, place)
            grams = after if after is not None else grams
        return model

    def _add(
        self, grams: U64, after: U64 | None, place: I64, context: Places, lower: F64, length: int, entries: int
    ) -> None:
        """Adds the n-grams of one length, and to those one shorter the weight that they leave."""
        inside = np.flatnonzero(place >= length - 1)
        keys, first, counts = np.unique(grams[inside], return_index=True, return_counts=True)
        first = inside[first]
        if after is not None:
            # Kneser-Ney: how many different symbols stand before it, the beginning of a text being one.
            _, left = np.unique(after[place >= length], return_index=True)
            ends = np.concatenate([grams[place >= length][left], np.unique(grams[place == length - 1])])
            counts = np.bincount(np.searchsorted(keys, ends), minlength=len(keys))
        once, twice = int((counts == 1).sum()), int((counts == 2).sum())
        discount = min(max(once / (once + 2 * twice), 0.05), 0.95) if once else 0.05
        of = context[first]
        size = len(self.orders[-1].logp) if self.orders else 1
        total = np.bincount(of[of >= 0], counts[of >= 0], size)
        keep = _most(counts, of >= 0, entries)
        keys, counts, first, of = keys[keep], counts[keep], first[keep], of[keep]
        share = (counts - discount) / total[of]
        rest = 1.0 - np.bincount(of, share, size)  # what was discounted, and what was left out
        if self.orders:
            self.orders[-1].backoff = np.log(np.maximum(rest, 1e-12)).astype(np.float32)
        logp = np.log(share + rest[of] * np.exp(lower[first])).astype(np.float32)
        self.orders.append(_Order(Index(keys), logp, np.zeros(len(keys), np.float32)))
        if length == 1:
            self.unknown = int(Index(keys).find(np.array([_UNKNOWN]))[0])

    def _step(self, length: int, grams: U64, context: Places, lower: F64) -> tuple[Places, F64]:
        """Which n-gram of this length ends at each place (-1: none), and ln p of its last symbol: (t,) both."""
        order = self.orders[length - 1]
        known = np.flatnonzero(context >= 0)
        at = order.index.find(grams[known])
        if length > 1:
            lower = lower.copy()
            lower[known] += self.orders[length - 2].backoff[context[known]]
        hit = at >= 0
        lower[known[hit]] = order.logp[at[hit]]
        found = np.full(len(grams), -1, np.int32)
        found[known] = at
        return found, lower

    def score(self, codes: U64, place: I64) -> tuple[F64, npt.NDArray[np.bool_]]:
        """ln p of each symbol after those before it in its text, and whether it is an unknown one: (t,) both."""
        found = self.orders[0].index.find(codes)
        strange = found < 0
        symbols = np.where(strange, _UNKNOWN, codes)
        found[strange] = self.unknown
        logp = self.orders[0].logp[found].astype(np.float64)
        grams = symbols
        for length in range(2, len(self.orders) + 1):
            grams = longer(grams, symbols)
            found, logp = self._step(length, grams, _shifted(found, place), logp)
        return logp, strange

    def arrays(self, name: str) -> dict[str, npt.NDArray[Any]]:
        """What a file has to hold, under names that begin with `name`."""
        held: dict[str, npt.NDArray[Any]] = {f"{name}/unknown": np.array(self.unknown)}
        for length, order in enumerate(self.orders, 1):
            held |= {f"{name}/{length}/keys": order.index.keys, f"{name}/{length}/logp": order.logp}
            held |= {f"{name}/{length}/backoff": order.backoff}
        return held

    @classmethod
    def of(cls, held: dict[str, npt.NDArray[Any]], name: str) -> "_NGrams":
        """The model that `arrays` gave away."""
        count = sum(key.startswith(f"{name}/") and key.endswith("/keys") for key in held)
        parts = [
            [held[f"{name}/{length}/{part}"] for part in ("keys", "logp", "backoff")] for length in range(1, count + 1)
        ]
        return cls([_Order(Index(keys), logp, backoff) for keys, logp, backoff in parts], int(held[f"{name}/unknown"]))


def _most(counts: npt.NDArray[Any], allowed: npt.NDArray[np.bool_], entries: int) -> npt.NDArray[np.bool_]:
    """Which of `allowed` to keep so that they are `entries` at most: the most frequent, ties in the order of the hashes."""
    if int(allowed.sum()) <= entries:
        return allowed
    order = np.argsort(np.where(allowed, -counts, 1), kind="stable")[:entries]
    keep = np.zeros(len(counts), bool)
    keep[order] = True
    return keep


def _shifted(found: Places, place: I64) -> Places:
    """The n-gram that ends just before each place, -1 at the beginning of a text: (t,)."""
    before = np.full(len(found), -1, np.int32)
    before[1:] = found[:-1]
    before[place == 0] = -1
    return before


class Perplexity:
    """One model a language."""

    def __init__(self, models: dict[str, tuple[_NGrams, _NGrams]]) -> None:
        self._models = models

    @property
    def languages(self) -> list[str]:
        """The languages that can be judged, sorted."""
        return sorted(self._models)

    @classmethod
    def train(cls, texts: Sequence[str], langs: Sequence[str], *, entries: int = ENTRIES) -> "Perplexity":
        """From reference texts and their languages (ISO 639). Raises PunaError where there is no text."""
        models = {}
        for lang in sorted(set(langs)):
            own = [text for text, its in zip(texts, langs, strict=True) if its == lang and text.strip()]
            if own:
                models[lang] = _train(own, entries)
        if not models:
            raise PunaError(
                "the reference set of the perplexity filter has no text", mend="name clean texts as reference"
            )
        return cls(models)

    def score(self, texts: Sequence[str], langs: Sequence[str]) -> F32:
        """The perplexity exp(-mean ln p) per token of each text: (n,); NaN for an empty text and an unknown language."""
        out = np.full(len(texts), np.nan, np.float32)
        for lang in sorted(set(langs) & set(self._models)):
            rows = [row for row, its in enumerate(langs) if its == lang]
            own = [texts[row] for row in rows]
            for first, last in chunks(own):
                out[rows[first:last]] = self._score(own[first:last], lang)
        return out

    def _score(self, texts: Sequence[str], lang: str) -> F64:
        tokens = tokenise(texts)
        words, spelling = self._models[lang]
        logp, strange = words.score(tokens.codes, places_in_text(tokens))
        odd = np.flatnonzero(strange & (tokens.kinds == WORD))
        if len(odd):
            codes, place, bounds = letters(words_at(texts, tokens, odd))
            logp[odd] += sums(spelling.score(codes, place)[0], bounds)
        count = tokens.lengths()
        with np.errstate(invalid="ignore"):
            surprise = np.minimum(-sums(logp, tokens.offsets) / count, _CEILING)
        return np.where(count > 0, np.exp(surprise), np.nan)

    def save(self, path: Path) -> None:
        """Writes the models; equal models are equal bytes."""
        held: dict[str, npt.NDArray[Any]] = {}
        for lang, (words, spelling) in self._models.items():
            held |= words.arrays(f"{lang}/words") | spelling.arrays(f"{lang}/letters")
        save_arrays(path, "perplexity", held)

    @classmethod
    def load(cls, path: Path) -> "Perplexity":
        """Reads what `save` wrote. Raises PunaError where it is something else."""
        held = load_arrays(path, "perplexity")
        langs = sorted({name.split("/")[0] for name in held})
        return cls({lang: (_NGrams.of(held, f"{lang}/words"), _NGrams.of(held, f"{lang}/letters")) for lang in langs})


def _train(texts: Sequence[str], entries: int) -> tuple[_NGrams, _NGrams]:
    codes, place, spelling = [], [], dict[int, str]()
    for first, last in chunks(texts):
        part = texts[first:last]
        tokens = tokenise(part)
        codes.append(tokens.codes)
        place.append(places_in_text(tokens))
        distinct, where = np.unique(tokens.codes, return_index=True)
        new = [code not in spelling for code in distinct.tolist()]
        where = where[np.array(new) & (tokens.kinds[where] == WORD)]
        spelling |= zip(tokens.codes[where].tolist(), words_at(part, tokens, where), strict=True)
    words = _NGrams.train(np.concatenate(codes), np.concatenate(place), ORDER, 2, entries)
    # The letters are counted once a word, not once an occurrence: a new word is more like the rare ones.
    signs, at, _ = letters([spelling[code] for code in sorted(spelling)])
    return words, _NGrams.train(signs, at, LETTERS, 1, entries)


def threshold(
    scores: npt.NDArray[Any], langs: Sequence[str], percentile: float, least: int = MIN_COUNT
) -> dict[str, float]:
    """The `percentile` (0 to 100) of the scores of each language that has `least` of them; NaN is left out.

    A language with fewer gets no threshold: who filters then keeps its documents. CCNet cuts head, middle and tail at the
    percentiles 30 and 60 of each language; Yi drops what is "largely above average" (arXiv 2403.04652, 2.1).
    """
    names = np.array(langs)
    found = {}
    for lang in sorted(set(langs)):
        own = scores[(names == lang) & ~np.isnan(scores)]
        if len(own) >= least:
            found[lang] = float(np.percentile(own, percentile))
    return found
