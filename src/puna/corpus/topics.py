"""Topics: documents as vectors, clusters of them, and the words that name each cluster. Nothing is downloaded.

Comes in: a sample of texts with their languages, then all texts. Goes out: the cluster of each document, its distance from
the cluster's centre, the words of each cluster. Must never happen: clusters that differ between two runs, or with the number
of threads.

Vectors are latent semantic analysis (Deerwester et al. 1990): TF-IDF over a vocabulary found in the sample, reduced by a
truncated SVD (randomised, Halko, Martinsson and Tropp 2011), each of length 1; clusters are k-means on them, which by that is
spherical. A term is a word; in scripts without spaces a pair of characters that stand together over TOGETHER times as often
as chance has it (so 皇帝, but not 的人). A term in over COMMON of a language's documents says nothing and is left out.

One model serves two filters. Topic: the cluster, known by its words; weigh or drop clusters by number. Semantic: a document
farther from its centre than `limits(percentile)` of its cluster resembles nothing in the sample.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from puna.corpus.features import (
    CHARACTER,
    F32,
    I64,
    U64,
    WORD,
    Index,
    Tokens,
    chunks,
    load_arrays,
    longer,
    places_in_text,
    save_arrays,
    tokenise,
    unit_rows,
)
from puna.errors import PunaError

DIMENSIONS = 100
TERMS = 1 << 15
COMMON = 0.3
TOGETHER = 10.0
_RARE = 3  # documents that a term must stand in
_MANY = 20  # documents of a language that are enough to say what is common in it
_WORDS = 10  # that name a cluster
_LETTERS = (3, 40)  # of a word that is a term
_ROUND = 5  # decimals of a distance: what a sum in another order cannot reach

I32 = npt.NDArray[np.int32]


class Topics:
    """The terms and their vectors, the centres of the clusters, the words of each, and what lies how far from it."""

    def __init__(self, held: dict[str, npt.NDArray[Any]]) -> None:
        self._held = held
        self._index = Index(held["keys"])

    @classmethod
    def train(
        cls, texts: Sequence[str], langs: Sequence[str], clusters: int, *, dimensions: int = DIMENSIONS, seed: int = 0
    ) -> "Topics":
        """From a sample of texts and their languages. Raises PunaError where it has under 10 documents a cluster.

        Memory: 8 bytes a distinct term of a document, 8 x `dimensions` a document.
        """
        from sklearn.cluster import KMeans
        from sklearn.utils.extmath import randomized_svd
        from threadpoolctl import threadpool_limits

        keys, idf, names = _vocabulary(texts, langs)
        model = cls({"keys": keys, "idf": idf})
        rows = model._weighed(texts)
        filled = np.flatnonzero(np.diff(rows.indptr) > 0)
        size = min(dimensions, len(keys) - 1, len(filled) - 1)
        if len(filled) < 10 * clusters or size < 2:
            raise PunaError(
                f"{len(filled)} documents that share words are too few for {clusters} topics",
                mend="ask for fewer topics, or switch them off",
            )
        rows = rows[filled]
        with threadpool_limits(limits=1):  # sums in another order would be other clusters
            _, _, right = randomized_svd(rows, n_components=size, n_iter=4, random_state=seed)
            model._held["vectors"] = np.ascontiguousarray(right.T, np.float32)
            points = _unit(rows @ model._held["vectors"])
            near = KMeans(clusters, n_init=2, max_iter=60, random_state=seed).fit(points).labels_
        centres = np.stack([points[near == cluster].mean(axis=0) for cluster in range(clusters)])
        model._held["centres"] = _unit(centres).astype(np.float64)
        labels, distance = model._nearest(points)
        of = [np.flatnonzero(labels == cluster) for cluster in range(clusters)]
        everywhere = np.asarray(rows.mean(axis=0)).ravel()
        words = []
        for own in of:
            more = np.asarray(rows[own].mean(axis=0)).ravel() - everywhere if len(own) else -everywhere
            best = [term for term in np.argsort(-more, kind="stable")[: 3 * _WORDS].tolist() if more[term] > 0]
            words.append(_distinct([names[term] for term in best]))
        model._held["words"] = np.array(words, dtype=np.str_)
        model._held["sizes"] = np.array([len(own) for own in of])
        grid = np.arange(101)
        model._held["spread"] = np.stack([np.percentile(distance[own], grid) if len(own) else grid * 0.0 for own in of])
        return model

    @property
    def labels(self) -> list[list[str]]:
        """The words of each cluster, the most telling first: those whose mean TF-IDF is most above that of all texts."""
        return [[word for word in row if word] for row in self._held["words"].tolist()]

    @property
    def dimensions(self) -> int:
        """The length of a vector."""
        return int(self._held["vectors"].shape[1])

    @property
    def sizes(self) -> list[int]:
        """How many texts of the sample each cluster has."""
        return [int(size) for size in self._held["sizes"]]

    def limits(self, percentile: int) -> F32:
        """The distance that `percentile` (0 to 100) of each cluster's own sample keeps within: (clusters,)."""
        return np.asarray(self._held["spread"][:, percentile], np.float32)

    def assign(self, texts: Sequence[str]) -> tuple[I32, F32]:
        """The nearest cluster of each text and 1 - cosine to its centre: (n,) both; -1 and 1.0 where no term is known."""
        labels, distance = np.empty(len(texts), np.int32), np.empty(len(texts), np.float32)
        for first, last in chunks(texts):
            labels[first:last], distance[first:last] = self._nearest(self.embed(texts[first:last]))
        return labels, distance

    def embed(self, texts: Sequence[str]) -> F32:
        """The vector of each text: (n, dimensions), of length 1, or 0 where no term is known."""
        return _unit(self._weighed(texts) @ self._held["vectors"])

    def embed_tokens(self, tokens: Tokens) -> F32:
        """As `embed`, of texts (or parts of them) that are tokens already."""
        return _unit(self._rows(tokens) @ self._held["vectors"])

    def _nearest(self, points: F32) -> tuple[I32, F32]:
        # In 64 bits and rounded: BLAS may add in another order in another batch.
        cosine = np.round(points.astype(np.float64) @ self._held["centres"].T, _ROUND)
        labels = cosine.argmax(axis=1).astype(np.int32)
        known = points.any(axis=1)
        distance = 1 - cosine[np.arange(len(points)), labels]
        return np.where(known, labels, np.int32(-1)), np.where(known, distance, 1.0).astype(np.float32)

    def _weighed(self, texts: Sequence[str]) -> Any:
        from scipy import sparse

        parts = [self._rows(tokenise(texts[first:last])) for first, last in chunks(texts)] or [self._rows(tokenise([]))]
        return sparse.vstack(parts).tocsr()

    def _rows(self, tokens: Tokens) -> Any:
        """TF-IDF (n, terms): (1 + ln count) x IDF, each row of length 1."""
        from scipy import sparse

        columns, rows = [], []
        text = np.repeat(np.arange(len(tokens.offsets) - 1, dtype=np.int32), tokens.lengths())
        for codes, where in _terms(tokens):
            found = self._index.find(codes)
            columns.append(found[found >= 0])
            rows.append(text[where[found >= 0]])
        row, column = np.concatenate(rows), np.concatenate(columns)
        shape = (len(tokens.offsets) - 1, len(self._index.keys))
        ones = np.ones(len(row), np.float32)
        return unit_rows(sparse.coo_matrix((ones, (row, column)), shape=shape).tocsr(), self._held["idf"])

    def save(self, path: Path) -> None:
        """Writes the model; equal models are equal bytes."""
        save_arrays(path, "topics", self._held)

    @classmethod
    def load(cls, path: Path) -> "Topics":
        """Reads what `save` wrote. Raises PunaError where it is something else."""
        return cls(load_arrays(path, "topics"))


def _unit(points: Any) -> F32:
    points = np.asarray(points)
    length = np.sqrt(np.einsum("nd,nd->n", points, points, dtype=np.float64))
    return (points / np.maximum(length, 1e-12)[:, None]).astype(np.float32)


def _terms(tokens: Tokens) -> Iterator[tuple[U64, I64]]:
    """The words that can be terms, then the pairs of characters: the hash and the place of the (last) token of each."""
    sizes = tokens.ends - tokens.starts
    words = np.flatnonzero((tokens.kinds == WORD) & (sizes >= _LETTERS[0]) & (sizes <= _LETTERS[1]))
    yield tokens.codes[words], words
    character = tokens.kinds == CHARACTER
    pair = character & (places_in_text(tokens) > 0)
    pair[1:] &= character[:-1] & (tokens.starts[1:] == tokens.ends[:-1])
    pairs = np.flatnonzero(pair)
    yield longer(tokens.codes, tokens.codes)[pairs], pairs


def _vocabulary(texts: Sequence[str], langs: Sequence[str]) -> tuple[U64, F32, list[str]]:
    """The terms' sorted hashes (t,), their IDF ln(n / df) (t,), and the terms as they are written."""
    frequency: dict[int, int] = {}
    common: set[int] = set()
    for lang in sorted(set(langs)):
        own = [text for text, its in zip(texts, langs, strict=True) if its == lang]
        keys, documents = _frequencies(own)
        if len(own) >= _MANY:
            common.update(keys[documents > COMMON * len(own)].tolist())
        for key, count in zip(keys.tolist(), documents.tolist(), strict=True):
            frequency[key] = frequency.get(key, 0) + count
    kept = [(count, key) for key, count in frequency.items() if count >= _RARE and key not in common]
    kept.sort(key=lambda it: (-it[0], it[1]))
    names = _named(texts, np.sort(np.array([key for _, key in kept[: 2 * TERMS]], np.uint64)))
    chosen = sorted([key for _, key in kept if key in names][:TERMS])
    idf = np.log(len(texts) / np.array([frequency[key] for key in chosen], np.float64))
    return np.array(chosen, np.uint64), idf.astype(np.float32), [names[key] for key in chosen]


def _frequencies(texts: Sequence[str]) -> tuple[U64, I64]:
    """The terms of texts of one language and in how many they stand; of pairs only those that stand together."""
    heard, pairs, singles = [], [], []
    for first, last in chunks(texts):
        tokens = tokenise(texts[first:last])
        text = np.repeat(np.arange(last - first), tokens.lengths())
        for codes, where in _terms(tokens):
            distinct, column = np.unique(codes, return_inverse=True)
            once = np.unique(column * np.int64(last - first) + text[where]) // (last - first)
            heard.append((distinct, np.bincount(once, minlength=len(distinct))))
        # `codes` and `where` are those of the pairs now.
        distinct, at, count = np.unique(codes, return_index=True, return_counts=True)
        pairs.append((distinct, count, tokens.codes[where[at] - 1], tokens.codes[where[at]]))
        singles.append(np.unique(tokens.codes[tokens.kinds == CHARACTER], return_counts=True))
    keys, documents, _ = _summed([part[0] for part in heard], [part[1] for part in heard])
    both, count, at = _summed([part[0] for part in pairs], [part[1] for part in pairs])
    single, often, _ = _summed([part[0] for part in singles], [part[1] for part in singles])
    one, two = (np.concatenate([part[side] for part in pairs])[at] for side in (2, 3))
    chance = often[np.searchsorted(single, one)] * often[np.searchsorted(single, two)] / max(int(often.sum()), 1)
    loose = Index(both[count < TOGETHER * chance])
    keep = loose.find(keys) < 0
    return keys[keep], documents[keep]


def _summed(keys: list[U64], counts: list[I64]) -> tuple[U64, npt.NDArray[Any], I64]:
    """The distinct keys of several lists, the sum of the counts of each, and where each stands first."""
    distinct, at, back = np.unique(np.concatenate(keys), return_index=True, return_inverse=True)
    return distinct, np.bincount(back, np.concatenate(counts), len(distinct)), at


def _named(texts: Sequence[str], keys: U64) -> dict[int, str]:
    """How the terms with these hashes are written, where they consist of letters; the first occurrence counts."""
    index, names = Index(keys), dict[int, str]()
    for first, last in chunks(texts):
        tokens = tokenise(texts[first:last])
        rows = np.repeat(np.arange(first, last), tokens.lengths())
        for back, (codes, where) in enumerate(_terms(tokens)):
            distinct, at = np.unique(codes, return_index=True)
            known = index.find(distinct) >= 0
            for key, place in zip(distinct[known].tolist(), where[at[known]].tolist(), strict=True):
                if key not in names:
                    names[key] = texts[rows[place]][tokens.starts[place - back] : tokens.ends[place]].lower()
    return {key: name for key, name in names.items() if not any(letter.isdecimal() for letter in name)}


def _distinct(words: list[str]) -> list[str]:
    """The first _WORDS of `words` without pairs of characters that only shift another by one; filled up with ""."""
    kept: list[str] = []
    for word in words:
        if len(word) != 2 or not any(len(it) == 2 and (it[0] == word[1] or it[1] == word[0]) for it in kept):
            kept.append(word)
    return (kept + [""] * _WORDS)[:_WORDS]
