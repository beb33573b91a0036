"""Coherence: is a document about one thing, or are unrelated texts run together in it?

Comes in: a sample of texts, the topic model, then documents. Goes out: two scores a document, and the document cut where it
turns into another. Must never happen: a character lost in cutting; a document that is cut because it is short.

A document is cut into blocks of about BLOCK tokens, at line breaks and sentence ends where it has them. Across each gap
between blocks two likenesses are measured, as in TextTiling (Hearst 1997): the cosine of the topic vectors and that of the
hashed TF-IDF vectors, of the block before and the one after (WIDTHS[0]), and of the six before and after (WIDTHS[1]).
Logistic regression turns them into P(one document), trained on gaps within real documents against seams made by joining the
first half of one to the second half of another of its language.

The mean over narrow gaps falls where unrelated passages alternate; the weakest wide gap shows two documents that were joined.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from puna.corpus.features import BREAK, F32, I64, Tokens, bags, chunks, load_arrays, save_arrays, sums, tokenise
from puna.corpus.topics import Topics
from puna.errors import PunaError

BLOCK = 64
MEASURES = 3
WIDTHS = (1, 6)
PAIRS = 2000  # joined documents of a language that are made to learn from
LEAST = 50  # documents of a language below which it is judged as all languages together are
RARE = 0.01  # of the real documents that are wrongly cut
_BINS = 1 << 16
_ENDS = ".!?。！？…"

F64 = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class _Blocks:
    """The blocks of n texts: `bounds` (b + 1,) in tokens, `owner` (b,) which text, `topic` (b, d), `words` CSR (b, bins)."""

    tokens: Tokens
    bounds: I64
    owner: I64
    topic: F32
    words: Any


class Coherence:
    """By language ("" for all together) and width: weights; by language the P(one document) that is cut below."""

    def __init__(self, topics: Topics, idf: F32, weights: dict[str, F64], cuts: dict[str, float]) -> None:
        self._topics, self._idf, self._weights, self._cuts = topics, idf, weights, cuts

    @classmethod
    def train(cls, texts: Sequence[str], langs: Sequence[str], topics: Topics, *, seed: int = 0) -> "Coherence":
        """From a sample of texts and their languages, which may be the one `topics` was trained on.

        The vectors of texts that a topic model was trained on are too much alike, so the weights are learned across: with
        vectors from one half of the sample, gaps from the other. Raises PunaError where under 2 LEAST texts can be halved.
        """
        halves = [_halves(text) for text in texts]
        rng = np.random.default_rng(seed)
        rows = [int(row) for row in rng.permutation(len(texts)) if halves[row]]
        if len(rows) < 2 * LEAST:
            raise PunaError(
                f"only {len(rows)} texts are long enough to learn coherence from, {2 * LEAST} are needed",
                mend="add longer texts, or switch the coherence filter off",
            )
        seen, fresh = rows[: len(rows) // 2], rows[len(rows) // 2 :]
        other = Topics.train(
            [texts[row] for row in seen], [langs[row] for row in seen], 2, dimensions=topics.dimensions
        )
        learner = cls(other, _rarity([texts[row] for row in seen]), {}, {})
        for lang in ("", *sorted(set(langs))):
            own = [row for row in fresh if lang in ("", langs[row])][:PAIRS]
            if len(own) < LEAST:
                continue
            own.sort(key=lambda row: langs[row])  # stable: each is joined to a neighbour of its language
            joined = [(halves[a][0], halves[b][1]) for a, b in zip(own, own[1:] + own[:1], strict=True)]
            within, seams = learner._gaps([(texts[row],) for row in own], False), learner._gaps(joined, True)
            learner._weights[lang] = np.stack([_logistic(*pair) for pair in zip(within, seams, strict=True)])
            weakest = learner.score([texts[row] for row in own], [lang] * len(own))[:, 1]
            learner._cuts[lang] = float(np.nanpercentile(weakest, 100 * RARE))
        return cls(topics, _rarity([texts[row] for row in rows]), learner._weights, learner._cuts)

    def score(self, texts: Sequence[str], langs: Sequence[str]) -> F32:
        """P(one document) of each text, the mean over narrow gaps and the least over wide ones: (n, 2); NaN where it is too
        short to have a gap."""
        out = np.full((len(texts), 2), np.nan, np.float32)
        for first, last in chunks(texts):
            blocks = self._blocks(texts[first:last])
            inside = np.flatnonzero(blocks.owner[1:] == blocks.owner[:-1])
            owner = blocks.owner[inside]
            bounds = np.searchsorted(owner, np.arange(last - first + 1))
            has = np.flatnonzero(np.diff(bounds))
            if not len(has):
                continue
            narrow, wide = (self._same(blocks, width, langs[first:last])[inside] for width in (0, 1))
            out[first + has, 0] = (sums(narrow, bounds) / np.maximum(np.diff(bounds), 1))[has]
            out[first + has, 1] = np.minimum.reduceat(wide, bounds[has])
        return out

    def split(self, texts: Sequence[str], langs: Sequence[str]) -> list[list[str]]:
        """Each text cut where it turns into another document; most are one part. Joined, the parts are the text."""
        weakest = self.score(texts, langs)[:, 1]
        parts = []
        for text, lang, least in zip(texts, langs, weakest.tolist(), strict=True):
            at = self._seams(text, lang) if least < self._cut(lang) else []
            parts.append([text[a:b] for a, b in zip([0, *at], [*at, len(text)], strict=True)])
        return parts

    def suspects(self, weakest: Sequence[float], langs: Sequence[str]) -> list[bool]:
        """Which texts `split` would look at more closely, by the second of their scores: the others it leaves whole."""
        return [least < self._cut(lang) for least, lang in zip(weakest, langs, strict=True)]

    def _cut(self, lang: str) -> float:
        return self._cuts.get(lang, self._cuts[""])

    def _seams(self, text: str, lang: str) -> list[int]:
        """Where a text turns into another, in code points: the weakest gap, then those of the pieces, until none is weak."""
        blocks = self._blocks([text])
        pieces, found = [(0, len(blocks.owner))], []
        while pieces:
            first, last = pieces.pop()
            if last - first < 2:
                continue
            part = replace(
                blocks, owner=blocks.owner[first:last], topic=blocks.topic[first:last], words=blocks.words[first:last]
            )
            same = self._same(part, 1, [lang])
            at = int(same.argmin())
            if same[at] < self._cut(lang):
                gap = first + at + 1
                found.append(self._exactly(blocks, gap, (first, last)))
                pieces += [(first, gap), (gap, last)]
        starts = blocks.tokens.starts[np.array(sorted(found), np.int64)]
        return starts.tolist()

    def _exactly(self, blocks: _Blocks, gap: int, piece: tuple[int, int]) -> int:
        """The token that begins the second document: of the line breaks (or else sentence ends) in the two blocks around a
        gap, the one whose two sides are least alike."""
        tokens, bounds = blocks.tokens, blocks.bounds
        low, high = int(bounds[piece[0]]), int(bounds[piece[1]])
        near = np.arange(max(int(bounds[gap - 1]), low) + 1, min(int(bounds[gap + 1]), high))
        for ends in (tokens.kinds[near - 1] == BREAK, np.isin(tokens.codes[near - 1], _end_codes())):
            if ends.any():
                near = near[ends]
                break
        else:
            return int(bounds[gap])
        sides = [side for at in near for side in ((max(low, at - 2 * BLOCK), at), (at, min(high, at + 2 * BLOCK)))]
        take = np.concatenate([np.arange(*side) for side in sides])
        edges = np.cumsum([0, *(b - a for a, b in sides)])
        spans = Tokens(tokens.codes[take], tokens.kinds[take], tokens.starts[take], tokens.ends[take], edges)
        topic, words = self._topics.embed_tokens(spans), self._words(spans)
        lexical = np.asarray(words[::2].multiply(words[1::2]).sum(axis=1)).ravel()
        weights = self._weights[""][0]
        alike = weights[0] * lexical + weights[1] * (topic[::2] * topic[1::2]).sum(axis=1)
        return int(near[alike.argmin()])

    def _blocks(self, texts: Sequence[str]) -> _Blocks:
        tokens = tokenise(texts)
        bounds = _bounds(tokens)
        parts = replace(tokens, offsets=bounds)
        owner = np.searchsorted(tokens.offsets, bounds[:-1], side="right") - 1
        return _Blocks(tokens, bounds, owner, self._topics.embed_tokens(parts), self._words(parts))

    def _words(self, tokens: Tokens) -> Any:
        """Hashed TF-IDF vectors (n, _BINS) of length 1."""
        rows = bags(tokens, _BINS, terms=True)
        rows.data *= self._idf[rows.indices]
        length = np.sqrt(sums(np.square(rows.data, dtype=np.float64), rows.indptr.astype(np.int64)))
        rows.data /= np.repeat(np.maximum(length, 1e-12), np.diff(rows.indptr)).astype(np.float32)
        return rows

    def _same(self, blocks: _Blocks, width: int, langs: Sequence[str]) -> F64:
        """P(one document) across the gap after each block but the last: (b - 1,); between two texts it means nothing."""
        every = np.stack([self._weights.get(lang, self._weights[""])[width] for lang in langs])
        weights = every[blocks.owner[:-1] % len(langs)]
        return 1 / (
            1 + np.exp(-((_likeness(blocks, WIDTHS[width]) * weights[:, :MEASURES]).sum(axis=1) + weights[:, MEASURES]))
        )

    def _gaps(self, groups: Sequence[Sequence[str]], seams: bool) -> list[F64]:
        """By width, what is measured at the gaps within groups of texts; of joined ones at the seam alone: (g, MEASURES)."""
        found: list[list[F64]] = [[] for _ in WIDTHS]
        for first, last in chunks(["".join(group) for group in groups]):
            blocks = self._blocks([text for group in groups[first:last] for text in group])
            size = len(groups[first])
            merged = replace(blocks, owner=blocks.owner // size)
            here = merged.owner[1:] == merged.owner[:-1]
            here &= (blocks.owner[1:] != blocks.owner[:-1]) == seams
            for width, rows in zip(WIDTHS, found, strict=True):
                rows.append(_likeness(merged, width)[here])
        return [np.concatenate(rows) for rows in found]

    def save(self, path: Path) -> None:
        """Writes the model without its topic model; equal models are equal bytes."""
        held: dict[str, npt.NDArray[Any]] = {"idf": self._idf}
        for lang, weights in self._weights.items():
            held |= {f"{lang}/weights": weights, f"{lang}/cut": np.array(self._cuts[lang])}
        save_arrays(path, "coherence", held)

    @classmethod
    def load(cls, path: Path, topics: Topics) -> "Coherence":
        """Reads what `save` wrote; `topics` is the model it was trained with. Raises PunaError where it is something else."""
        held = load_arrays(path, "coherence")
        langs = [name.removesuffix("/weights") for name in held if name.endswith("/weights")]
        weights = {lang: held[f"{lang}/weights"] for lang in langs}
        return cls(topics, held["idf"], weights, {lang: float(held[f"{lang}/cut"]) for lang in langs})


def _end_codes() -> npt.NDArray[np.uint64]:
    return tokenise(list(_ENDS)).codes


def _bounds(tokens: Tokens) -> I64:
    """Where blocks begin, and the end: (b + 1,). Each BLOCK tokens a cut is due; it is made at the first line break within
    most of a block, else at the first sentence end, else at once."""
    count = tokens.lengths()
    cuts = np.maximum(count // BLOCK - 1, 0)  # the last block has one to two times BLOCK
    text = np.repeat(np.arange(len(count)), cuts)
    due = tokens.offsets[text] + BLOCK * (np.arange(len(text)) - np.repeat(np.cumsum(cuts) - cuts, cuts) + 1)
    chosen = due.copy()
    for ends in (np.isin(tokens.codes, _end_codes()), tokens.kinds == BREAK):
        places = np.append(np.flatnonzero(ends) + 1, np.iinfo(np.int64).max)
        following = places[np.searchsorted(places, due)]
        chosen = np.where(following < due + 3 * BLOCK // 4, following, chosen)
    return np.unique(np.concatenate([tokens.offsets, chosen]))


def _rarity(texts: Sequence[str]) -> F32:
    """ln of the inverse share of blocks that have each hashed n-gram: (_BINS,)."""
    seen, count = np.zeros(_BINS), 0
    for first, last in chunks(texts):
        tokens = tokenise(texts[first:last])
        rows = bags(replace(tokens, offsets=_bounds(tokens)), _BINS, terms=True)
        seen += np.bincount(rows.indices, minlength=_BINS)
        count += rows.shape[0]
    return np.log((count + 1) / (seen + 1)).astype(np.float32)


def _likeness(blocks: _Blocks, width: int) -> F64:
    """At the gap after each block but the last, of the `width` blocks of its text on either side: the mean cosine of their
    words, the cosine of their topics, ln of the number of pairs: (b - 1, MEASURES)."""
    owner, topic = blocks.owner, blocks.topic.astype(np.float64)
    gaps = len(owner) - 1
    alike, pairs = np.zeros(gaps), np.zeros(gaps)
    before, after = np.zeros((gaps, topic.shape[1])), np.zeros((gaps, topic.shape[1]))
    for apart in range(1, min(2 * width, gaps + 1)):
        there = owner[:-apart] == owner[apart:]
        cosine = np.asarray(blocks.words[:-apart].multiply(blocks.words[apart:]).sum(axis=1)).ravel()
        cosine[~there] = 0
        for back in range(max(0, apart - width), min(apart, width)):
            # Blocks g - back and g - back + apart stand on the two sides of gap g.
            last = max(back, len(cosine) + back)
            alike[back:last] += cosine
            pairs[back:last] += there
    for step in range(min(width, gaps)):
        own = (owner[: gaps - step] == owner[step:gaps])[:, None]
        before[step:] += np.where(own, topic[: gaps - step], 0)
        own = (owner[1 + step :] == owner[1 : gaps + 1 - step])[:, None]
        after[: gaps - step] += np.where(own, topic[1 + step :], 0)
    length = np.sqrt((before**2).sum(axis=1) * (after**2).sum(axis=1))
    cosine = (before * after).sum(axis=1) / np.maximum(length, 1e-12)
    return np.stack([alike / np.maximum(pairs, 1), cosine, np.log(np.maximum(pairs, 1))], axis=1)


def _halves(text: str) -> tuple[str, ...]:
    """The two halves of a text, if it is long enough for a block in each."""
    middle = min(len(text), 1 << 16) // 2
    first, second = text[:middle], text[middle : 2 * middle]
    return (first, second) if len(first.split()) > BLOCK or sum(letter > "\u2e7f" for letter in first) > BLOCK else ()


def _logistic(same: F64, other: F64) -> F64:
    """Weights of the measures and the offset (MEASURES + 1,) of logistic regression, both classes weighing the same."""
    from sklearn.linear_model import LogisticRegression

    target = np.repeat([1, 0], [len(same), len(other)])
    fit = LogisticRegression(C=100.0, class_weight="balanced", max_iter=200).fit(np.concatenate([same, other]), target)
    return np.append(fit.coef_[0], fit.intercept_)
