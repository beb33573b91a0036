"""The parity check sees what it is there to see: another weight, another tokenizer, a loss, a number that is none."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from puna.build import parity
from puna.build.parity import ParityError, check_parity, compare, compare_reader, read
from puna.build.parity_text import PROMPTS, TEXTS
from puna.engine import Engine

CORPUS = [
    "the llama walks over the high grass of the puna, and the wind sings. ",
    "羊驼走过高原的草地，你好，世界。",
] * 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[..., Path]) -> Path:
    return tiny_model(tmp_path_factory.mktemp("parity"), CORPUS, 320, unused=3, max_position_embeddings=96)


def loaded(folder: Path) -> Engine:
    return Engine.load(folder, "cpu")


def test_a_model_is_itself(folder: Path) -> None:
    report = check_parity(loaded(folder), loaded(folder), text="own text 自己的文字")
    assert report["passed"] and report["failures"] == [] and report["tokens_identical"]
    assert report["logits"]["largest_difference"] == 0
    greedy = report["greedy"]
    assert greedy["texts"] == greedy["identical"] == len(PROMPTS) and greedy["tokens"] >= 32 * len(PROMPTS)
    assert greedy["languages"] == {"en": {"texts": 4, "identical": 4}, "zh": {"texts": 4, "identical": 4}}
    assert set(report["bits_per_byte"]) == {"en", "zh", "own"}
    for row in report["bits_per_byte"].values():
        assert row["before"] == row["after"] > 1 and row["change"] == 0


def test_bits_per_byte_are_the_judges(folder: Path) -> None:
    from puna.judge.bits_per_byte import document_bits

    engine = loaded(folder)
    bits, _ = document_bits(engine, list(TEXTS["zh"]))
    found = check_parity(engine, loaded(folder))["bits_per_byte"]["zh"]["before"]
    assert found == pytest.approx(bits.sum() / sum(len(text.encode()) for text in TEXTS["zh"]))


def test_one_changed_weight_is_seen_and_placed(folder: Path) -> None:
    changed = loaded(folder)
    with torch.no_grad():
        changed.model.model.layers[0].mlp.down_proj.weight[3, 5] += 0.05
    before, after = loaded(folder), changed
    report = check_parity(before, after)
    found = report["logits"]
    assert not report["passed"] and found["largest_difference"] > found["allowed"] == pytest.approx(1e-4, rel=9)
    # The place that is named is where an independent look finds it.
    number = next(n for n, (_, text) in enumerate(PROMPTS) if text == found["prompt"])
    one, other = read(before), read(after)
    ids = one.sequences[number][: found["position"] + 1]
    assert ids == other.sequences[number][: found["position"] + 1]
    pair = [
        engine.model.logits(engine.model(torch.tensor([ids])))[0, -1, found["token"]].item()
        for engine in (before, after)
    ]
    assert abs(pair[0] - pair[1]) == pytest.approx(found["largest_difference"], rel=1e-3)
    # Where rounding is expected, the same figures are told and nothing fails.
    assert compare(one, other, exact=False)["passed"]


def test_a_gross_loss_fails_even_where_rounding_is_expected(folder: Path) -> None:
    broken = loaded(folder)
    with torch.no_grad():
        broken.model.model.norm.weight.mul_(60)
    report = check_parity(loaded(folder), broken, exact=False)
    assert not report["passed"] and any("bits per byte" in line for line in report["failures"])


def test_numbers_that_are_none(folder: Path) -> None:
    broken = loaded(folder)
    with torch.no_grad():
        broken.model.model.norm.weight[0] = float("inf")
    with pytest.raises(ParityError, match="not finite"):
        check_parity(loaded(folder), broken, exact=False)


def test_another_tokenizer_is_seen(folder: Path, tmp_path: Path, tiny_model: Callable[..., Path]) -> None:
    other = tiny_model(tmp_path / "other", ["完全不同的文字 quite another text " * 9], 300)
    report = check_parity(loaded(folder), Engine(loaded(folder).model, loaded(other).tokenizer, loaded(folder).config))
    assert not report["tokens_identical"] and any("other ids" in line for line in report["failures"])


def test_another_reader_must_agree_or_say_so(folder: Path) -> None:
    after = read(loaded(folder))
    same = compare_reader(after, after.logits, after.whole, close=True)
    assert same["failures"] == [] and same["greedy"] == {"texts": 8, "identical": 8}
    shifted = [logits.flip(-1) for logits in after.logits]
    assert compare_reader(after, shifted, after.whole, close=True)["failures"]
    assert "other ids" in compare_reader(after, after.logits, [[1], *after.whole[1:]], close=True)["failures"][0]
    nothing = [torch.full_like(logits, float("nan")) for logits in after.logits]
    assert "not finite" in compare_reader(after, nothing, after.whole, close=False)["failures"][0]
    noise = [logits + 1e-3 * torch.sin(torch.arange(logits.shape[-1])) for logits in after.logits]
    assert compare_reader(after, noise, after.whole, close=False)["failures"] == []


def test_a_context_shorter_than_the_prompts(tmp_path: Path, tiny_model: Callable[..., Path]) -> None:
    tiny = tiny_model(tmp_path / "short", CORPUS, 320, max_position_embeddings=8)
    report = check_parity(loaded(tiny), loaded(tiny))
    assert report["passed"] and 0 < report["greedy"]["tokens"] <= 8 * 8


def test_the_texts_are_what_they_are_called() -> None:
    assert [language for language, _ in PROMPTS].count("zh") == 4 and parity.GREEDY_TOKENS >= 32
    for language, texts in TEXTS.items():
        han = sum("\u4e00" <= letter <= "\u9fff" for letter in "".join(texts)) / len("".join(texts))
        assert (han > 0.7) == (language == "zh") and len("".join(texts).encode()) > 1000
