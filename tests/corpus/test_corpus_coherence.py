"""Coherence: joined and shuffled documents are told from real ones; a cut loses nothing."""

import json
import random
import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from puna.corpus.coherence import Coherence
from puna.corpus.quality import auc
from puna.corpus.topics import Topics
from puna.errors import PunaError

DATA = Path(__file__).parents[3] / "shared/data"
SOURCES = (("train/en_open", "en", 5000, 600), ("dirty/c4_demo", "en", 5000, 300), ("train/zh_modern", "zh", 2500, 600))


@cache
def documents() -> list[tuple[str, str]]:
    found = []
    for name, lang, size, count in SOURCES:
        path = DATA / f"{name}.jsonl.zst"
        if not path.is_file():
            pytest.skip("needs shared/data")
        with zstandard.open(path, "rt", encoding="utf-8") as lines:
            texts = [json.loads(line)["text"][:size] for line, _ in zip(lines, range(count), strict=False)]
        found += [(lang, text) for text in texts if len(text) > size // 3]
    return found


@cache
def model() -> Coherence:
    known = [own for place, own in enumerate(documents()) if place % 3 != 2]
    texts, langs = [text for _, text in known], [lang for lang, _ in known]
    return Coherence.train(texts, langs, Topics.train(texts, langs, 8))


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_joined_and_shuffled_documents_are_told_from_real_ones(lang: str) -> None:
    texts = [text for its, text in documents()[2::3] if its == lang]
    draw = random.Random(0)
    joined, shuffled = [], []
    for _ in range(100):
        one, two = draw.sample(texts, 2)
        joined.append(one[: len(one) // 2] + "\n\n" + two[len(two) // 2 :])
        parts = [part for text in draw.sample(texts, 5) for part in re.split(r"(?<=[.!?。！？\n])", text)[:12]]
        shuffled.append("".join(draw.sample(parts, len(parts))))
    real, seam, mixed = (model().score(it, [lang] * len(it)) for it in (texts, joined, shuffled))
    assert auc(real[~np.isnan(real[:, 1]), 1], seam[~np.isnan(seam[:, 1]), 1]) > 0.85
    assert auc(real[~np.isnan(real[:, 0]), 0], mixed[~np.isnan(mixed[:, 0]), 0]) > 0.93
    cut = [len(parts) > 1 for parts in model().split(texts, [lang] * len(texts))]
    found = [len(parts) > 1 for parts in model().split(joined, [lang] * 100)]
    assert np.mean(cut) < 0.08
    assert np.mean(found) > 4 * np.mean(cut)


def test_two_documents_of_different_kinds_are_cut_where_they_meet() -> None:
    texts = [text.strip() for lang, text in documents()[2::3] if lang == "en"]
    draw = random.Random(1)
    pairs = [(draw.choice(texts[:150]), draw.choice(texts[-60:])) for _ in range(60)]  # a review, a page of the web
    parts = model().split(["\n\n".join(pair) for pair in pairs], ["en"] * 60)
    cuts = [
        min(abs(len("".join(own[:at])) - len(one) - 2) for at in range(1, len(own)))
        for own, (one, _) in zip(parts, pairs, strict=True)
        if len(own) > 1
    ]
    assert len(cuts) > 30
    assert np.median(cuts) == 0  # exactly there


@given(st.lists(st.text(alphabet="ab. \n中文。", max_size=400), max_size=4))
@settings(max_examples=40, deadline=None)
def test_no_character_is_lost_and_a_batch_changes_nothing(texts: list[str]) -> None:
    langs = ["en"] * len(texts)
    assert ["".join(parts) for parts in model().split(texts, langs)] == texts
    together = model().score(texts, langs)
    assert together.shape == (len(texts), 2)
    for text, row in zip(texts, together, strict=True):
        np.testing.assert_array_equal(model().score([text], ["en"])[0], row)


def test_files_are_equal_and_short_texts_are_not_judged(tmp_path: Path) -> None:
    assert np.isnan(model().score(["too short", ""], ["en", "fr"])).all()
    model().save(tmp_path / "a.npz")
    again = Coherence.load(tmp_path / "a.npz", model()._topics)
    again.save(tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    texts = [text for _, text in documents()[:20]]
    np.testing.assert_array_equal(again.score(texts, ["en"] * 20), model().score(texts, ["en"] * 20))
    with pytest.raises(PunaError, match="coherence"):
        Coherence.train(["short"] * 100, ["en"] * 100, model()._topics)
