"""The needle test: needles lie where they should, a model that copies finds all, a blind one as many as chance gives."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from puna.engine import Engine, Sampling
from puna.errors import PunaError
from puna.judge.documents import load
from puna.judge.needle import NEEDLES, _ask, _Maker, clopper_pearson, needle_test

CHINESE = "羊驼走过高原的草地。你好，世界。山上的风唱着歌，草地上有许多羊驼。" * 24


class Copycat(torch.nn.Module):
    """Goes on as the text did after the longest earlier place that ends as it now ends. `blind` forgets all but one token."""

    def __init__(self, model: Any, blind: bool) -> None:
        super().__init__()
        self.config, self._weight, self._blind = model.config, model.head_weight(), blind

    def head_weight(self) -> Tensor:
        return self._weight

    def logits(self, hidden: Tensor) -> Tensor:
        return hidden

    def forward(self, ids: Tensor, cache: Any) -> Tensor:
        before = getattr(cache, "said", [])
        rows = [(before[0] if before else []) + row for row in ids.tolist()]
        cache.said = rows
        out = torch.zeros(*ids.shape, self.config.vocab_size)
        for number, row in enumerate(rows):
            for step in range(ids.shape[1]):
                seen = row[: len(row) - ids.shape[1] + step + 1]
                out[number, step] = self._next(seen[-1:] if self._blind else seen)
        return out

    def _next(self, seen: list[int]) -> Tensor:
        scores = torch.rand(self.config.vocab_size, generator=torch.Generator().manual_seed(seen[-1]))
        best = 0
        for end in range(1, len(seen)):
            same = 0
            while same < end and seen[end - 1 - same] == seen[-1 - same]:
                same += 1
            if same > best:
                best, token = same, seen[end]
        if best:
            scores[token] += 20
        return scores


@pytest.fixture(scope="module")
def english(corpus: Path) -> list[str]:
    found = load(corpus, "train", 1 << 40, 0)
    return [text for text, kind in zip(found.texts, found.kinds, strict=True) if kind == "source"]


@pytest.fixture(scope="module")
def bilingual(english: list[str], tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[..., Path]) -> Engine:
    texts = [*english, CHINESE, NEEDLES["zh"].words * 3]
    folder = tiny_model(tmp_path_factory.mktemp("bilingual"), texts, 900, max_position_embeddings=512)
    return Engine.load(folder, device="cpu")


@pytest.mark.parametrize("lang", ["en", "zh"])
@pytest.mark.parametrize("depth", [0.0, 0.4, 1.0])
def test_the_needle_lies_at_its_depth(bilingual: Engine, english: list[str], lang: str, depth: float) -> None:
    maker = _Maker(bilingual, english if lang == "en" else [CHINESE], 4)
    for seed in range(8):
        made = maker.trial(256, depth, np.random.default_rng(seed))
        assert made is not None
        prompt, choices, right, found = made
        assert found == lang
        assert len({len(word) for word in choices}) == 1
        assert 252 <= len(prompt) + len(choices[right]) <= 256
        text = bilingual.tokenizer.decode(prompt, skip_special=True)
        words = [bilingual.tokenizer.decode(word).strip() for word in choices]
        assert len(set(words)) == 4
        assert set(words) <= set(NEEDLES[lang].values)
        key = next(key for key in NEEDLES[lang].keys if NEEDLES[lang].head.format(key=key) in text)
        fact, question = NEEDLES[lang].fact(key, words[right]), NEEDLES[lang].head.format(key=key)
        assert text.endswith(question)
        assert text.count(fact) == 1
        assert [text.count(word) for word in words] == [int(place == right) for place in range(4)]
        where = text.index(fact) / (len(text) - len(fact) - len(question))
        assert abs(where - depth) < 0.2
        assert depth or text.startswith(fact)
        assert depth < 1 or text.endswith(fact + question)


def test_a_model_that_copies_finds_every_needle(bilingual: Engine, english: list[str]) -> None:
    engine = Engine(Copycat(bilingual.model, blind=False), bilingual.tokenizer, bilingual.config)  # type: ignore[arg-type]
    found = needle_test(engine, [*english[:2], CHINESE], lengths=[128, 1024], depths=[0, 0.5, 1], trials=4, seed=2)
    assert {(told["length"], told["depth"]) for told in found["cells"]} == {(128, depth) for depth in (0, 0.5, 1)}
    assert all(told["recall"] == told["share"] == 1 for told in found["cells"])
    (told,) = found["by_length"]
    assert told["n"] == 12
    assert told["p_value"] == pytest.approx(8.0**-12)
    assert told["lift_bits"] > 10
    assert found["left_out"] == [{"length": 1024, "reason": "the model's context is 512 tokens"}]
    assert set(found["by_language"]) == {"en", "zh"}


def test_a_blind_model_is_right_as_often_as_chance(bilingual: Engine, english: list[str]) -> None:
    engine = Engine(Copycat(bilingual.model, blind=True), bilingual.tokenizer, bilingual.config)  # type: ignore[arg-type]
    found = needle_test(engine, english, lengths=[64], depths=[0.5], trials=400, seed=1)
    (told,) = found["by_length"]
    assert told["n"] == 400
    assert told["interval"][0] < told["chance"] == 1 / 8 < told["interval"][1]
    assert told["p_value"] > 0.01
    assert abs(told["lift_bits"]) < 0.1
    assert told["recall"] <= told["share"]


def test_one_reading_gives_what_the_engine_gives(bilingual: Engine, english: list[str]) -> None:
    maker, kinds = _Maker(bilingual, [*english, CHINESE], 6), set()
    for seed in range(6):
        made = maker.trial(160, 0.5, np.random.default_rng(seed))
        assert made is not None
        prompt, choices, right, lang = made
        likely = bilingual.logprobs([(prompt, word) for word in choices])
        found = _ask(bilingual, *made)
        others = [value for place, value in enumerate(likely) if place != right]
        assert found.chosen == (likely[right] > max(others))
        assert found.lift == pytest.approx((likely[right] - np.mean(others)) / np.log(2), abs=1e-4)
        # The word that greedy decoding does write is recalled, and no other.
        (said,) = bilingual.complete([prompt], Sampling(max_tokens=len(choices[0]), temperature=0))
        if len(said.ids) == len(choices[0]):
            assert _ask(bilingual, prompt, [*choices[:-1], said.ids], len(choices) - 1, lang).recalled
        assert found.recalled == (said.ids == choices[right])
        kinds.add(len(choices[0]))
    assert max(kinds) > 1  # words of several tokens were among them


def test_same_seed_same_needles(bilingual: Engine, english: list[str]) -> None:
    ask = {"lengths": [96, 128], "depths": [0.25, 0.75], "trials": 3}
    assert needle_test(bilingual, english, seed=4, **ask) == needle_test(bilingual, english, seed=4, **ask)  # type: ignore[arg-type]


def test_what_does_not_fit_is_told(bilingual: Engine, english: list[str]) -> None:
    found = needle_test(bilingual, english, lengths=[24], trials=2, seed=1)
    assert found["cells"] == found["by_length"] == []
    assert "10 of 10 trials" in found["left_out"][0]["reason"]
    with pytest.raises(PunaError, match="no text"):
        needle_test(bilingual, ["  \n"], lengths=[128], trials=1, seed=1)
    with pytest.raises(ValueError, match="depths"):
        needle_test(bilingual, english, lengths=[128], depths=[2], trials=1, seed=1)


def test_a_text_without_sentences_is_a_haystack_too(bilingual: Engine) -> None:
    found = needle_test(bilingual, ["羊驼" * 4000, "word " * 4000], lengths=[200], depths=[0.5], trials=6, seed=3)
    assert found["cells"][0]["n"] == 6


def test_exact_intervals_are_clopper_and_pearsons() -> None:
    # Clopper & Pearson 1934 as tabulated: 0 of 10 and 5 of 10.
    assert clopper_pearson(0, 10) == pytest.approx((0, 0.3085), abs=1e-4)
    assert clopper_pearson(5, 10) == pytest.approx((0.1871, 0.8129), abs=1e-4)
    assert clopper_pearson(10, 10)[1] == 1
