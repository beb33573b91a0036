"""The quality classifier: it learns quality, not language; its AUC is one of held-out documents."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
import zstandard

from puna.corpus.quality import Quality, _interval, auc
from puna.errors import PunaError

DATA = Path(__file__).parents[3] / "shared/data"


def rows(name: str) -> list[str]:
    if not (DATA / name).is_file():
        pytest.skip("needs shared/data")
    with zstandard.open(DATA / name, "rt", encoding="utf-8") as lines:
        return [json.loads(line)["text"] for line in lines]


def words(seed: int, kind: str, lang: str) -> str:
    draw = random.Random(seed)
    every = 60 if kind == "good" else 40  # both kinds share forty words; twenty are those of the good
    if lang == "zh":
        return "".join(chr(0x4E00 + draw.randrange(every)) for _ in range(200))
    return " ".join(
        f"word{'abcdefghij'[n // 10]}{'klmnopqrst'[n % 10]}" for n in (draw.randrange(every) for _ in range(120))
    )


def test_it_learns_quality_within_each_language_and_says_how_well(tmp_path: Path) -> None:
    # 9 of 10 good texts are English and 9 of 10 crawled ones Chinese: language alone would predict well.
    good = [words(n, "good", "en" if n % 10 else "zh") for n in range(400)]
    crawl = [words(1000 + n, "crawl", "zh" if n % 10 else "en") for n in range(400)]
    good_langs, crawl_langs = (
        ["en" if n % 10 else "zh" for n in range(400)],
        ["zh" if n % 10 else "en" for n in range(400)],
    )
    model, facts = Quality.train(good, good_langs, crawl, crawl_langs)
    assert facts["auc"] > 0.95
    assert facts["auc_low"] < facts["auc"] <= facts["auc_high"] <= 1
    assert facts["by_language"]["zh"]["good"] == 40
    assert facts["by_language"]["zh"]["held_out_good"] == 8
    assert [warning[:3] for warning in facts["warnings"]] == ["zh:"]
    for lang in ("en", "zh"):
        better = model.score([words(5000 + n, "good", lang) for n in range(50)], [lang] * 50)
        worse = model.score([words(6000 + n, "crawl", lang) for n in range(50)], [lang] * 50)
        assert auc(better, worse) > 0.95
        assert better.mean() > 0.6
        assert worse.mean() < 0.4
    scores = model.score(good, good_langs)
    assert np.concatenate(
        [model.score([text], [lang]) for text, lang in zip(good, good_langs, strict=True)]
    ).tolist() == (scores.tolist())
    assert np.isnan(model.score(["", "Wort"], ["en", "de"])).all()
    model.save(tmp_path / "a.npz")
    Quality.load(tmp_path / "a.npz").save(tmp_path / "b.npz")
    Quality.train(good, good_langs, crawl, crawl_langs)[0].save(tmp_path / "c.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes() == (tmp_path / "c.npz").read_bytes()
    assert Quality.load(tmp_path / "b.npz").score(good, good_langs).tolist() == scores.tolist()


def test_where_nothing_is_to_be_learned_the_auc_says_so() -> None:
    good, crawl = ([words(start + n, "good", "en") for n in range(300)] for start in (0, 1000))
    facts = Quality.train(good, ["en"] * 300, crawl, ["en"] * 300)[1]
    assert facts["auc_low"] < 0.5 < facts["auc_high"]


def test_too_few_examples_are_a_mistake_of_the_user() -> None:
    with pytest.raises(PunaError, match="good"):
        Quality.train(["a b"] * 10, ["en"] * 10, ["c d"] * 300, ["en"] * 300)


def test_an_interval_has_a_width_also_at_one() -> None:
    assert auc(np.array([2, 3]), np.array([0, 1])) == 1
    assert auc(np.array([1, 1]), np.array([1, 1])) == 0.5
    few, many = _interval([(1.0, 10, 10)]), _interval([(1.0, 100, 100)])
    assert few["auc_low"] < many["auc_low"] < 1
    # At 1/2 the variance is near (n + m + 1) / (12 n m), the Mann-Whitney one.
    half = _interval([(0.5, 50, 50)])
    assert half["auc_high"] - half["auc_low"] == pytest.approx(2 * 1.96 * (101 / 12 / 2500) ** 0.5, rel=0.05)


def test_real_text_encyclopedia_against_web_and_modern_against_classical(tmp_path: Path) -> None:
    web, reviews = rows("dirty/c4_demo.jsonl.zst"), rows("train/en_open.jsonl.zst")[:300]
    modern, classical = (
        [text[:1000] for text in rows(f"train/zh_{kind}.jsonl.zst")[:300]] for kind in ("modern", "classical")
    )
    facts = Quality.train(
        [*reviews, *modern],
        ["en"] * 300 + ["zh"] * 300,
        [*web, *classical],
        ["en"] * len(web) + ["zh"] * len(classical),
    )[1]
    assert min(facts["by_language"][lang]["auc"] for lang in ("en", "zh")) > 0.97
    assert not facts["warnings"]
