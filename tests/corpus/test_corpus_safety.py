"""Safety: unsafe wording is found in both languages, also disguised; one word in a sober text is not enough."""

import random
from pathlib import Path

import numpy as np
import pytest

from puna.corpus.safety import Labelled, Safety, read_lists
from puna.errors import PunaError

SHIPPED = read_lists()
PLAIN = Safety(SHIPPED, {}, [])
SOBER = {
    "en": "The court heard that the patient was treated after the accident and the report was sent to the ministry of health. ",
    "zh": "法院认为原告提交的证据能够证明患者在医院接受治疗的事实，被告应当依照合同承担责任。",
}


def page(category: str, lang: str, seed: int) -> str:
    """An advertisement-like page with terms of the category between words that only such pages have."""
    draw = random.Random(seed)
    terms = [term for term in SHIPPED[category] if term.isascii() == (lang == "en")]
    filler = (
        "click register now bonus members gallery instant" if lang == "en" else "点击 注册 会员 免费 立即 观看 下载"
    )
    words = [draw.choice(terms) if draw.random() < 0.15 else draw.choice(filler.split()) for _ in range(150)]
    return (" " if lang == "en" else "").join(words)


def test_both_languages_have_every_category() -> None:
    assert PLAIN.categories == ["gambling", "hate", "politics", "sexual", "violence"]
    for terms in SHIPPED.values():
        assert sum(term.isascii() for term in terms) >= 20
        assert sum(not term.isascii() for term in terms) >= 20


@pytest.mark.parametrize("lang", ["en", "zh"])
@pytest.mark.parametrize("category", PLAIN.categories)
def test_its_own_category_scores_highest(category: str, lang: str) -> None:
    scores = {own: float(found[0]) for own, found in PLAIN.score([page(category, lang, 1)], [lang]).items()}
    assert max(scores, key=lambda own: scores[own]) == category
    assert scores[category] > 0.9


@pytest.mark.parametrize(("lang", "term"), [("en", "porn"), ("en", "stabbed to death"), ("zh", "卖淫"), ("zh", "赌场")])
def test_one_word_does_not_make_a_text_unsafe(lang: str, term: str) -> None:
    often = SOBER[lang] * 5 + f" {term} " * 30 + SOBER[lang]
    for text in (term, often, SOBER[lang] * 100 + term + " 色情 slut"):
        assert max(found[0] for found in PLAIN.score([text], [lang]).values()) < 0.5


def test_disguises_are_seen_through() -> None:
    for text in ("p0rn", "P.O.R.N", "ＰＯＲＮ", "po\u200brn", "p*o*r*n", "xx porn, yy"):
        assert PLAIN.hits(text) == {"sexual": {"porn": 1}}, text
    for text in ("色*情", "色情", "色·情"):
        assert PLAIN.hits(text) == {"sexual": {"色情": 1}}, text
    for text in ("popcorn", "a pornographer's corn", "essex", "特色情况"[:2] + "的情况", "Scunthorpe"):
        assert PLAIN.hits(text) == {}, text


def test_a_term_does_not_reach_over_two_texts() -> None:
    scores = PLAIN.score(["sex", "cam", "网上", "赌场"], ["en"] * 4)
    assert [scores["sexual"].max(), scores["gambling"][2]] == [0, 0]


def test_own_lists_are_added_and_mistakes_are_named(tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    own.write_text('[spoilers]\nen = ["the butler did it"]\n[hate]\nzh = ["坏东西"]\n', encoding="utf-8")
    model = Safety(read_lists([own]), {}, [])
    assert model.hits("So the butler did it! 坏东西") == {"spoilers": {"the butler did it": 1}, "hate": {"坏东西": 1}}
    for wrong in ("[a", "a = 1", "[a]\nen = 'x'", "[a]\nen = [1]", "[a]\nen = ['']"):
        own.write_text(wrong, encoding="utf-8")
        with pytest.raises(PunaError, match=r"own\.toml"):
            read_lists([own])
    with pytest.raises(PunaError, match=r"none\.toml"):
        read_lists([tmp_path / "none.toml"])


def test_politics_is_judged_only_where_the_user_names_it() -> None:
    assert Safety.train([], [])[0].categories == ["gambling", "hate", "sexual", "violence"]
    assert "politics" in Safety.train([], [], also=["politics", "hate"])[0].categories
    with pytest.raises(PunaError, match="'spam'"):
        Safety.train([], [], also=["spam"])


def test_context_counts_once_there_are_pages_to_learn_from(tmp_path: Path) -> None:
    draw = random.Random(3)
    sober = [" ".join(draw.sample((SOBER["en"] * 3).split(), 50)) for _ in range(120)]
    texts = [*(page("sexual", "en", n) for n in range(60)), *sober]
    model, facts = Safety.train(texts, ["en"] * 180)
    assert (facts["sexual"]["learned_from"], facts["sexual"]["examples"]) == ("lists", 60)
    assert facts["sexual"]["auc"] > 0.95
    assert (facts["hate"]["learned_from"], facts["hate"]["examples"]) == (None, 0)
    report = " ".join(draw.sample((SOBER["en"] * 3).split(), 50)) + " porn slut dildo."
    (by_list,), (learned,) = PLAIN.score([report], ["en"])["sexual"], model.score([report], ["en"])["sexual"]
    assert learned < by_list
    scores = model.score(texts, ["en"] * 180)["sexual"]
    assert scores[:60].min() > 0.5
    assert scores[60:].max() == 0
    model.save(tmp_path / "a.npz")
    again = Safety.load(tmp_path / "a.npz")
    again.save(tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    assert again.score(texts, ["en"] * 180)["sexual"].tolist() == scores.tolist()
    one = np.concatenate([again.score([text], ["en"])["sexual"] for text in texts])
    assert one.tolist() == scores.tolist()


def test_labelled_examples_are_the_judge() -> None:
    draw = random.Random(5)

    def make(words: str) -> list[str]:
        return [" ".join(draw.choice(words.split()) for _ in range(40)) for _ in range(60)]

    bad, fine = make("secret plot reveals ending twist dies"), make("weather sunny garden tea walk river")
    own = Labelled(bad, ["en"] * 60, fine, ["en"] * 60)
    model, facts = Safety.train(fine, ["en"] * 60, labelled={"spoilers": own})
    assert facts["spoilers"]["learned_from"] == "labels"
    scores = model.score(
        ["the ending twist: he dies, plot reveals", "a walk by the river, tea, garden", ""], ["en"] * 3
    )
    assert scores["spoilers"][0] > 0.5 > scores["spoilers"][1]
    assert scores["spoilers"][2] == 0
