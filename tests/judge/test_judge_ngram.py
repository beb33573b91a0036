"""The 5-gram model: a distribution, the textbook's numbers, and a rival worth beating."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from puna.judge import ngram

V, END = 7, 0
tokens = st.lists(st.integers(1, V - 1), max_size=12)


@given(train=st.lists(tokens, min_size=1, max_size=6), context=tokens)
def test_probabilities_sum_to_one_after_any_context(train: list[list[int]], context: list[int]) -> None:
    levels = ngram.count(train, V, END)
    discounts = ngram.discounts_of(levels)
    total = 0.0
    for token in range(V):
        p = ngram.probabilities(ngram.look_up(levels, [[*context, token]], V, END), discounts, V)
        assert p.min() > 0
        total += p[-1]
    assert total == pytest.approx(1.0, abs=1e-6)


def slow_probability(train: list[list[int]], history: list[int], token: int, discounts: np.ndarray) -> float:
    """The docstring's formula, word for word, with dictionaries."""
    rows = [[END, *document, END] for document in train]
    raw = [Counter(tuple(row[i : i + k]) for row in rows for i in range(k == 1, len(row) - k + 1)) for k in range(1, 6)]

    def a(gram: tuple[int, ...]) -> int:
        k = len(gram)
        if k == 5:
            return raw[4][gram]
        left = sum(1 for longer in raw[k] if longer[1:] == gram)
        opening = sum(tuple(row[:k]) == gram for row in rows) if k > 1 else 0
        return left + opening

    p = 1 / V
    for k in range(1, 6):
        if k - 1 > len(history):
            break
        context = tuple(history[len(history) - k + 1 :]) if k > 1 else ()
        counts = [a((*context, w)) for w in range(V)]
        if sum(counts) == 0:
            continue
        cut = [0.0, *discounts[k - 1]]
        rest = sum(cut[min(count, 3)] for count in counts)
        p = (max(counts[token] - cut[min(counts[token], 3)], 0) + rest * p) / sum(counts)
    return p


@given(
    train=st.lists(st.lists(st.integers(1, 3), min_size=4, max_size=12), min_size=2, max_size=4),
    text=st.lists(st.integers(1, 4), min_size=1, max_size=8),
)
def test_equals_the_formula(train: list[list[int]], text: list[int]) -> None:
    levels = ngram.count(train, V, END)
    discounts = ngram.discounts_of(levels)
    p = ngram.probabilities(ngram.look_up(levels, [text], V, END), discounts, V)
    slow = [slow_probability(train, [END, *text[:i]], token, discounts) for i, token in enumerate(text)]
    assert p == pytest.approx(slow, rel=1e-5)


def test_documents_are_scored_apart_and_add_up() -> None:
    rng = np.random.default_rng(0)
    train = [rng.integers(1, V, 50).tolist() for _ in range(20)]
    texts = [[1, 2, 3], [], [4], [1, 2, 3]]
    together, detail = ngram.ngram_bits(train, texts, vocab=V, end_id=END)
    alone = [ngram.ngram_bits(train, [text], vocab=V, end_id=END)[0][0] for text in texts]
    assert together == pytest.approx(alone)
    assert together[0] == together[3]
    assert together[1] == 0
    assert detail["tokens_counted"] == 1000


def test_learns_what_recurs() -> None:
    pattern = [1, 2, 3, 4, 5, 6]
    bits, _ = ngram.ngram_bits([pattern * 30] * 5, [pattern * 10], vocab=V, end_id=END)
    assert bits[0] / 60 < 0.1
    noise, _ = ngram.ngram_bits([pattern * 30] * 5, [[3, 3, 1, 6, 6, 2] * 10], vocab=V, end_id=END)
    assert noise[0] / 60 > 3


def test_documents_too_short_for_any_order() -> None:
    bits, detail = ngram.ngram_bits([[]], [[1], [2, 3]], vocab=V, end_id=END)
    assert np.isfinite(bits).all()
    assert detail["ngrams"] == [V, 1]
