"""MinHash: the estimate against the exact similarity, bands, and near-duplicates on real editions and changed Chinese."""

import json
import random
import re
from pathlib import Path

import numpy as np
import pytest
import zstandard

from puna.corpus import near
from puna.corpus.segment import segment
from puna.corpus.signatures import BUCKETS, EMPTY, HASHES, bands, signatures, similarity

DATA = Path(__file__).parents[3] / "shared/data"


def exact(one: str, other: str) -> float:
    a, b = set(near.shingles(one).tolist()), set(near.shingles(other).tolist())
    return len(a & b) / len(a | b)


def rows(path: str, count: int) -> list[dict[str, str]]:
    file = DATA / path
    if not file.exists():
        pytest.skip(f"no {file}")
    with zstandard.open(file, "rt", encoding="utf-8") as opened:
        return [json.loads(line) for line, _ in zip(opened, range(count), strict=False)]


def changed(text: str, share: float, seed: int) -> str:
    draw = random.Random(seed)
    return re.sub(r"\w+", lambda found: f"w{draw.randrange(10**6)}" if draw.random() < share else found[0], text)


def test_the_estimate_is_without_bias_and_as_exact_as_it_should_be() -> None:
    text = " ".join(f"word{i * 7919 % 100_003}" for i in range(900))
    pairs = [(text, changed(text, share / 100, seed)) for share in (1, 3, 6, 12) for seed in range(25)]
    found = signatures([one for pair in pairs for one in pair])
    estimates = similarity(found[::2], found[1::2])
    truths = np.array([exact(*pair) for pair in pairs])
    standard = (estimates - truths) / np.sqrt(truths * (1 - truths) / HASHES)
    assert abs(standard.mean()) < 0.35
    assert 0.8 < standard.std() < 1.25


def test_real_editions_meet_and_books_do_not() -> None:
    books = rows("dirty/dup_editions_novels.jsonl.zst", 24)
    found = signatures([book["text"] for book in books])
    keys, has = bands(found)
    assert has.all()
    for i, one in enumerate(books):
        for j, other in enumerate(books[:i]):
            same = one["dup_group"] == other["dup_group"]
            assert bool((keys[i] == keys[j]).any()) == same
            if same:
                truth = exact(one["text"], other["text"])
                assert similarity(found[[i]], found[[j]])[0] == pytest.approx(
                    truth, abs=4 * (truth * (1 - truth) / HASHES) ** 0.5
                )


def test_chinese_with_changed_punctuation_is_the_same_and_other_chinese_is_not() -> None:
    texts = [row["text"][:3000] for row in rows("train/zh_modern.jsonl.zst", 120) if len(row["text"]) > 400]
    swapped = [
        re.sub(r"[，。；：！？、“”‘’]", lambda found: {"，": ",", "。": "．"}.get(found[0], " "), text)
        for text in texts
    ]
    found, others = signatures(texts), signatures(swapped)
    assert np.array_equal(found, others)
    keys, has = bands(found)
    assert has.all()
    for band in range(BUCKETS):
        assert len(np.unique(keys[:, band])) == len(texts)


def test_short_texts_have_no_band_and_the_batch_changes_nothing() -> None:
    long = " ".join(f"w{i}" for i in range(50))
    texts = [long, "too short", "", long, "一二三四五六七八九十" * 3, "七个字太短了吧", long.upper(), "w " * 40_000]
    found = signatures(texts)
    assert found.shape == (8, HASHES)
    assert found.dtype == np.uint32
    keys, has = bands(found)
    assert has.tolist() == [True, False, False, True, True, False, True, True]
    assert np.all(found[~has] == EMPTY)
    assert np.array_equal(found[0], found[3])
    assert np.array_equal(found[0], found[6])
    assert np.array_equal(found, np.concatenate([signatures([text]) for text in texts]))
    assert np.array_equal(found, signatures(segment(texts)))
    assert keys.shape == (8, BUCKETS)
    assert len(set(keys[0].tolist())) == BUCKETS
    assert signatures([]).shape == (0, HASHES)
    assert bands(found, 7, 16)[0].shape == (8, 7)
    with pytest.raises(ValueError, match="112"):
        bands(found, 20, 6)


def test_large_batches_are_cut_into_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [" ".join(f"w{i * n}" for i in range(n)) for n in range(1, 60)]
    whole = signatures(texts)
    monkeypatch.setattr("puna.corpus.signatures._AT_ONCE", 50)
    assert np.array_equal(whole, signatures(texts))


def test_signatures_are_those_of_the_first_release() -> None:
    found = signatures(["one two three four five six seven eight nine ten eleven twelve thirteen"])
    assert found[0, :4].tolist() == [56778627, 1129989117, 1243012059, 99326060]
    assert bands(found)[0][0, 0] == 15185715373327126447
