"""Quality: does a text read like the user's own good examples, or like the crawl?

Comes in: good examples and crawled texts with their languages. Goes out: a linear classifier, P(good) of each document, and
what held-out documents say of it. Must never happen: a classifier that has learned the language instead of the quality; an
AUC from documents that it was trained on.

The model is logistic regression over hashed n-grams (feature hashing, Weinberger et al. 2009; GPT-3's filter, Brown et al.
2020, appendix A, is one too): words and pairs of words; characters, pairs and triples in scripts without spaces. Within each
language both classes weigh the same, and each language has an offset of its own, so language predicts nothing.
scikit-learn fits it. Memory of the training: 8 bytes a distinct n-gram of a document, some 20 kB for one of TOKENS tokens.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from puna.corpus.features import F32, I64, bags, chunks, load_arrays, save_arrays, tokenise
from puna.errors import PunaError

BINS = 1 << 20
TOKENS = 2000  # of a document that are trained on: a book must not outweigh a thousand pages
HELD_OUT = 0.2
FEW = 200  # good examples of a language below which the user is warned
LEAST = 20  # documents of each class below which a language is not learned
_C = 10.0  # the inverse of the penalty
_Z = 1.959964  # of a 95 % interval

F64 = npt.NDArray[np.float64]


class Quality:
    """The weights of the n-grams (BINS,) and the offset of each language."""

    def __init__(self, weights: F32, offsets: dict[str, float]) -> None:
        self.weights, self.offsets = weights, offsets

    @property
    def languages(self) -> list[str]:
        """The languages that can be judged, sorted."""
        return sorted(self.offsets)

    @classmethod
    def train(
        cls,
        good: Sequence[str],
        good_langs: Sequence[str],
        crawl: Sequence[str],
        crawl_langs: Sequence[str],
        *,
        seed: int = 0,
    ) -> tuple["Quality", dict[str, Any]]:
        """From good examples and crawled texts, each with its language: the classifier and the facts about it.

        A fifth of each language and class is held out, by document. The facts: `auc`, `auc_low` and `auc_high` (95 %; the
        mean over languages, weighted by held-out documents), the same by language with the counts, and `warnings`.
        Raises PunaError where no language has LEAST documents of both classes.
        """
        texts = [*good, *crawl]
        langs = np.array([*good_langs, *crawl_langs], dtype=np.str_)
        target = np.repeat([1, 0], [len(good), len(crawl)])
        full = np.array([bool(text.strip()) for text in texts], bool)
        rng = np.random.default_rng(seed)
        held, weight = np.zeros(len(texts), bool), np.zeros(len(texts))
        by_language: dict[str, dict[str, Any]] = {}
        warnings: list[str] = []
        for lang in sorted(set(langs.tolist())):
            sides = [np.flatnonzero((langs == lang) & (target == side) & full) for side in (1, 0)]
            n_good, n_crawl = len(sides[0]), len(sides[1])
            if min(n_good, n_crawl) < LEAST:
                warnings.append(
                    f"{lang}: {n_good} good and {n_crawl} crawled texts are too few; its documents are not judged"
                )
                continue
            if n_good < FEW:
                warnings.append(f"{lang}: only {n_good} good examples; with under {FEW} the judgement is a rough one")
            by_language[lang] = {"good": n_good, "crawl": n_crawl}
            for own in sides:
                held[rng.permutation(own)[: round(HELD_OUT * len(own))]] = True
                fit = own[~held[own]]
                weight[fit] = (n_good + n_crawl) / (2 * len(fit))
        if not by_language:
            raise PunaError(
                f"the quality filter needs {LEAST} good and {LEAST} crawled texts of one language at least",
                mend="name more good examples, or switch the filter off",
            )
        model = cls._fit(
            [text if it else "" for text, it in zip(texts, weight > 0, strict=True)], langs, target, weight
        )
        at = np.flatnonzero(held)
        scores = model.score([texts[row] for row in at], langs[at].tolist())
        parts = []
        for lang, facts in by_language.items():
            own = langs[at] == lang
            better, worse = scores[own & (target[at] == 1)], scores[own & (target[at] == 0)]
            parts.append((auc(better, worse), len(better), len(worse)))
            facts |= {"held_out_good": len(better), "held_out_crawl": len(worse)} | _interval(parts[-1:])
        return model, {**_interval(parts), "by_language": by_language, "warnings": warnings}

    @classmethod
    def _fit(cls, texts: Sequence[str], langs: npt.NDArray[np.str_], target: I64, weight: F64) -> "Quality":
        from scipy import sparse
        from sklearn.linear_model import LogisticRegression

        used = weight > 0
        learned = sorted(set(langs[used].tolist()))
        own = np.stack([langs == lang for lang in learned], axis=1).astype(np.float32)
        grams = [bags(tokenise(texts[first:last]), BINS, TOKENS) for first, last in chunks(texts)]
        rows = sparse.hstack([sparse.vstack(grams), sparse.csr_matrix(own)]).tocsr()[used]
        columns = np.unique(rows.indices)  # L-BFGS keeps ten copies of the weights: only of those that occur
        # The offset is the languages' own; the intercept would be one more, penalised differently.
        fit = LogisticRegression(C=_C, fit_intercept=False, max_iter=200, tol=1e-4)
        fit.fit(rows[:, columns], target[used], sample_weight=weight[used])
        weights = np.zeros(BINS + len(learned))
        weights[columns] = fit.coef_[0]
        offsets = {lang: float(weights[BINS + place]) for place, lang in enumerate(learned)}
        return cls(weights[:BINS].astype(np.float32), offsets)

    def score(self, texts: Sequence[str], langs: Sequence[str]) -> F32:
        """P(good | text), both classes as likely beforehand: (n,); NaN for an empty text and a language not learned."""
        margins = np.array([self.offsets.get(lang, np.nan) for lang in langs])
        for first, last in chunks(texts):
            tokens = tokenise(texts[first:last])
            margins[first:last] += bags(tokens, BINS) @ self.weights.astype(np.float64)
            margins[first:last][tokens.lengths() == 0] = np.nan
        return (1 / (1 + np.exp(-margins))).astype(np.float32)

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """What a file has to hold."""
        offsets = np.array([self.offsets[lang] for lang in self.languages])
        return {"weights": self.weights, "langs": np.array(self.languages, np.str_), "offsets": offsets}

    @classmethod
    def of(cls, held: dict[str, npt.NDArray[Any]]) -> "Quality":
        """The model that `arrays` gave away."""
        return cls(held["weights"], dict(zip(held["langs"].tolist(), held["offsets"].tolist(), strict=True)))

    def save(self, path: Path) -> None:
        """Writes the model; equal models are equal bytes."""
        save_arrays(path, "quality", self.arrays())

    @classmethod
    def load(cls, path: Path) -> "Quality":
        """Reads what `save` wrote. Raises PunaError where it is something else."""
        return cls.of(load_arrays(path, "quality"))


def auc(better: npt.NDArray[Any], worse: npt.NDArray[Any]) -> float:
    """P(a score of `better` is above one of `worse`), ties half: the Mann-Whitney statistic over its greatest value."""
    if not len(better) or not len(worse):
        return float("nan")
    order = np.sort(worse)
    below = np.searchsorted(order, better, side="left") + np.searchsorted(order, better, side="right")
    return float(below.mean() / 2 / len(worse))


def _interval(parts: Sequence[tuple[float, int, int]]) -> dict[str, float]:
    """The AUC over strata (auc, n better, n worse), weighted by documents, and its 95 % interval.

    The score interval of Newcombe (2006, Statistics in Medicine 25, method 5): the AUCs A with |A - estimate| = z sd(A), with
    Hanley and McNeil's (1982) variance at A; unlike DeLong's it has a width also where the estimate is 1.
    """
    sizes = np.array([n + m for _, n, m in parts], float)
    share = sizes / sizes.sum()
    estimate = float(share @ np.array([value for value, _, _ in parts]))

    def off(value: float) -> float:
        spread = 0.0
        for part, (_, n, m) in zip(share, parts, strict=True):
            more = (n + m) / 2 - 1
            variance = value * (1 - value) * (1 + more * ((1 - value) / (2 - value) + value / (1 + value))) / (n * m)
            spread += part**2 * variance
        return abs(value - estimate) - _Z * float(np.sqrt(spread))

    ends = []
    for end in (0.0, 1.0):
        inner, outer = estimate, end
        for _ in range(50):
            middle = (inner + outer) / 2
            inner, outer = (middle, outer) if off(middle) < 0 else (inner, middle)
        ends.append((inner + outer) / 2)
    return {"auc": estimate, "auc_low": ends[0], "auc_high": ends[1]}
