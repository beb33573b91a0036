"""The n-gram model: probabilities that add up, files that are equal, text that is told from noise, in both languages."""

import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import zstandard

from puna.corpus import features
from puna.corpus.perplexity import Perplexity, _NGrams, threshold
from puna.corpus.quality import auc
from puna.errors import PunaError

DATA = Path(__file__).parents[3] / "shared/data/train"


def passages(name: str, documents: int, size: int, each: int = 12) -> list[list[str]]:
    if not (DATA / name).is_file():
        pytest.skip("needs shared/data")
    with zstandard.open(DATA / name, "rt", encoding="utf-8") as lines:
        texts = [json.loads(line)["text"] for line, _ in zip(lines, range(documents), strict=False)]
    return [[text[at : at + size] for at in range(0, min(len(text), each * size), size)] for text in texts]


def test_tokens_are_words_characters_marks_and_breaks() -> None:
    text = "Hello  World, don't!!!\n\n \n你好，ABC1 ２０"
    tokens = features.tokenise([text, "", "HELLO\n"])
    assert [text[a:b] for a, b in zip(tokens.starts[:13], tokens.ends[:13], strict=True)] == [
        *("Hello", "World", ",", "don", "'", "t", "!!!", "\n\n", "你", "好", "，", "ABC1", "２０")
    ]
    assert tokens.kinds[:13].tolist() == [1, 1, 3, 1, 3, 1, 3, 4, 2, 2, 3, 1, 1]
    assert tokens.offsets.tolist() == [0, 13, 13, 15]
    assert tokens.codes[0] == tokens.codes[13]  # case folds
    same = features.tokenise(["a1 ９ \ud800 \U0010ffff"])
    assert same.codes[0] == features.tokenise(["A7"]).codes[0]  # digits fold
    assert len(same.codes) == 4


def test_hashes_are_the_same_in_every_process_and_batch() -> None:
    program = "from puna.corpus.features import tokenise; print(tokenise(['one two 天地, x']).codes.tolist())"
    other = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout.decode()
    assert other == f"{features.tokenise(['zero', 'one two 天地, x']).codes[1:].tolist()}\n"


def test_an_index_finds_what_it_holds_and_nothing_else() -> None:
    rng = np.random.default_rng(0)
    for size in (0, 1, 2, 1000, 50_000):
        keys = np.unique(rng.integers(0, 1 << 64, size, np.uint64, endpoint=False))
        keys = np.unique(np.append(keys, [np.uint64(0), np.uint64((1 << 64) - 1)])) if size > 2 else keys
        index = features.Index(keys)
        assert index.find(keys).tolist() == list(range(len(keys)))
        other = rng.integers(0, 1 << 64, 1000, np.uint64, endpoint=False)
        found = index.find(other)
        assert ((found >= 0) == np.isin(other, keys)).all()


@pytest.mark.parametrize("entries", [1 << 20, 40])
def test_after_any_context_the_probabilities_add_up_to_one(entries: int) -> None:
    rng = np.random.default_rng(1)
    symbols = features.mix(np.arange(1, 31, dtype=np.uint64))
    codes = symbols[(rng.random(4000) ** 2 * 30).astype(int)]
    place = np.arange(4000) % 500
    model = _NGrams.train(codes, place, 4, 2, entries)
    vocabulary = [
        *model.orders[0].index.keys[np.arange(len(model.orders[0].index.keys)) != model.unknown],
        np.uint64(5),
    ]
    for start in (3, 700, 1998):
        context = codes[start : start + 3]
        total = 0.0
        for symbol in vocabulary:  # the last one is unknown
            logp, strange = model.score(np.append(context, symbol), np.arange(4))
            assert strange[3] == (symbol == 5)
            total += float(np.exp(logp[3]))
        assert total == pytest.approx(1, abs=2e-5)


def test_a_language_without_model_or_text_is_not_judged(tmp_path: Path) -> None:
    texts = ["the cat sat on the mat and the dog sat on the rug"] * 5
    model = Perplexity.train(texts, ["en"] * 5)
    scores = model.score([texts[0], "un chat", "", "  "], ["en", "fr", "en", "en"])
    assert scores[0] < 5
    assert np.isnan(scores[1:]).all()
    assert np.isfinite(model.score(["q" * 3_000_000, "\ud800\x00 " * 10], ["en", "en"])).all()
    with pytest.raises(PunaError, match="reference"):
        Perplexity.train(["", " "], ["en", "en"])
    (tmp_path / "x.npz").write_bytes(b"no model")
    with pytest.raises(PunaError, match=r"x\.npz"):
        Perplexity.load(tmp_path / "x.npz")


def test_a_threshold_needs_documents() -> None:
    scores = np.array([*range(100), *range(10), np.nan], np.float32)
    langs = ["en"] * 100 + ["zh"] * 11
    assert threshold(scores, langs, 90) == {"en": pytest.approx(89.1)}
    assert threshold(scores, langs, 50, least=10)["zh"] == pytest.approx(4.5)


def test_english_and_chinese_are_told_from_shuffled_words_and_menus(tmp_path: Path) -> None:
    english, chinese = passages("en_classics.jsonl.zst", 16, 2000), passages("zh_modern.jsonl.zst", 300, 800)
    reference = [text for book in english[:12] for text in book], [text for page in chinese[:250] for text in page]
    langs = ["en"] * len(reference[0]) + ["zh"] * len(reference[1])
    model = Perplexity.train([*reference[0], *reference[1]], langs)
    draw = random.Random(0)
    menus = {
        "en": "Home|About us|Contact|Login|Register|Privacy Policy|Terms of Use|Products|Services|Blog|News|FAQ|Cart|Help",
        "zh": "首页|关于我们|联系我们|登录|注册|隐私政策|产品中心|新闻动态|公司简介|招聘信息|网站地图|购物车|上一篇|下一篇",
    }
    for lang, clean in (("en", english[12:]), ("zh", chinese[250:])):
        texts = [text for page in clean for text in page if len(text) > 300]
        units = [text.split() if lang == "en" else list(text) for text in texts]
        mixed = [(" " if lang == "en" else "").join(draw.sample(unit, len(unit))) for unit in units]
        lines = ["\n".join(draw.sample(menus[lang].split("|"), 12)) for _ in range(30)]
        good, shuffled, menu = (model.score(it, [lang] * len(it)) for it in (texts, mixed, lines))
        assert (shuffled > good).mean() > 0.99, lang  # each against itself
        assert auc(shuffled, good) > 0.85, lang
        assert auc(menu, good) > 0.97, lang
        one_by_one = np.concatenate([model.score([text], [lang]) for text in texts[:20]])
        assert one_by_one.tolist() == good[:20].tolist()
    model.save(tmp_path / "a.npz")
    Perplexity.load(tmp_path / "a.npz").save(tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
