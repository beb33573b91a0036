"""What models say: agreement beside strangers', the sign test's level, students that speak alike and share no weight."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from puna.engine import Engine, Sampling
from puna.errors import PunaError
from puna.lineage.behaviour import LocalModel, compare_behaviour, default_contexts, sign_test
from puna.lineage.opened import open_for_comparison
from puna.lineage.weights.compare import compare_weights
from puna.lineage.zoo import training


class Said:
    """A model behind an API: it only says."""

    def __init__(self, name: str, answers: Sequence[str]) -> None:
        self.name, self.answers_ = name, list(answers)

    def next_tokens(self, contexts: Sequence[str]) -> list[str]:
        return self.answers_[: len(contexts)]


def speaker(share: float, seed: int, name: str = "a model", n: int = 400) -> Said:
    """Agrees with a reference that always says "yes" on a random `share` of contexts."""
    return Said(name, np.where(np.random.default_rng(seed).random(n) < share, "yes", "no").tolist())


CONTEXTS = [f"line {number} of" for number in range(400)]
YES = Said("reference", ["yes"] * 400)


def test_the_sign_test_keeps_its_level() -> None:
    """Strangers that agree half the time: p < 0.05 in 5 % of cases or fewer (the counts are whole)."""
    draw = np.random.default_rng(1)
    seen = [sign_test(draw.random(300) < 0.5, draw.random(300) < 0.5) < 0.05 for _ in range(1000)]
    assert sum(seen) <= 72  # once in 1,000
    assert sign_test(np.ones(50, bool), np.ones(50, bool)) == 1.0


def test_a_model_that_agrees_more_is_alike_and_the_nearest_control_decides() -> None:
    far, near = speaker(0.3, 2, "far"), speaker(0.75, 3, "near")
    found = compare_behaviour(speaker(0.8, 4), YES, [far], CONTEXTS)
    assert found.alike and found.p_value < 1e-10 and found.controls["far"] == pytest.approx(0.3, abs=0.07)
    found = compare_behaviour(speaker(0.8, 4), YES, [far, near], CONTEXTS)
    assert found.alike is False and found.p_value > 1e-3
    assert "does not show where its weights come from" in found.sentence


def test_without_controls_nothing_is_said() -> None:
    found = compare_behaviour(speaker(0.9, 5), YES, [], CONTEXTS)
    assert found.alike is None and found.p_value is None and "says nothing" in found.sentence
    assert found.divergence is None


def test_bad_input_is_named() -> None:
    with pytest.raises(PunaError, match="39 contexts"):
        compare_behaviour(YES, YES, [], [*CONTEXTS[:39], " ", "\t"])
    with pytest.raises(PunaError, match="gave 10 answers to 400 contexts"):
        compare_behaviour(Said("short", ["yes"] * 10), YES, [], CONTEXTS)
    found = compare_behaviour(Said("a\x1b[31m", ["yes"] * 400), YES, [], CONTEXTS)
    assert "\x1b" not in found.sentence


def test_the_default_contexts_are_english_and_chinese_and_enough() -> None:
    contexts = default_contexts()
    assert len(contexts) >= 300 and all(text.strip() for text in contexts)
    assert sum(any("\u4e00" <= letter <= "\u9fff" for letter in text) for text in contexts) >= 8


@pytest.fixture(scope="module")
def taught(family: Any) -> Path:
    """A fresh start that learnt first's probabilities, for longer than the family's student."""
    state = training.distilled(family["first"], family.ground.prose, init=91, order=92, steps=90)
    return family.folder("taught", state)


@pytest.fixture(scope="module")
def lines(family: Any) -> list[str]:
    """Of the text all learnt, cut anywhere: after whole words so little a model says a space and nothing else."""
    from pydoc_data import topics

    text = topics.topics["assignment"] + topics.topics["class"] + topics.topics["specialnames"]
    return [" ".join(text[at : at + 40].split()) for at in range(0, 61 * 400, 61)]


def local(family: Any, name: str) -> LocalModel:
    return LocalModel(family.folder(name), name)


def test_a_local_model_says_what_the_engine_says(family: Any) -> None:
    engine, contexts = Engine.load(family.folder("first")), default_contexts()[::8]
    wanted = engine.complete(
        [engine.begin(text)[-(engine.context - 1) :] for text in contexts], Sampling(temperature=0.0, max_tokens=1)
    )
    said = local(family, "first").next_tokens(contexts)
    whole = [(one, other.text) for one, other in zip(said, wanted, strict=True) if "\ufffd" not in other.text]
    assert len(whole) > 30 and all(one == other for one, other in whole)


def test_halves_of_different_characters_are_different_answers(family: Any) -> None:
    model = local(family, "first")
    halves = [id_ for id_, raw in enumerate(model.vocabulary) if len(raw) == 1 and raw[0] >= 0x80]
    assert len({model._text(id_) for id_ in halves}) == len(halves) > 100


def test_relatives_speak_alike_and_strangers_do_not(family: Any, lines: list[str]) -> None:
    first, second, longer = (local(family, name) for name in ("first", "second", "longer"))
    found = compare_behaviour(local(family, "tuned"), first, [second, longer], lines)
    assert found.alike and found.agreement > max(found.controls.values())
    assert found.divergence < min(found.control_divergences.values())
    assert compare_behaviour(second, first, [local(family, "tuned")], lines).alike is False


def test_a_student_speaks_alike_and_shares_no_weight(family: Any, taught: Path, lines: list[str]) -> None:
    """Show 4 of the issue: weights independent, behaviour alike, both said."""
    teacher = local(family, "first")
    found = compare_behaviour(LocalModel(taught, "taught"), teacher, [local(family, "second")], lines)
    assert found.alike and found.divergence < found.control_divergences["second"]
    weights = compare_weights(open_for_comparison(taught), [family.opened("first")])[0]
    assert weights.verdict == "independent"


def test_vocabularies_that_differ_have_no_divergence(family: Any) -> None:
    other = family.folder("other words", family["second"], other_tokenizer=True)
    found = compare_behaviour(
        LocalModel(other, "other"), local(family, "first"), [local(family, "second")], default_contexts()
    )
    assert found.divergence is None and set(found.control_divergences) == {"second"}


@pytest.mark.parametrize("value, word", [(float("nan"), "not finite"), (1e30, "NaN or infinity")])
def test_a_model_without_numbers_is_named(family: Any, value: float, word: str) -> None:
    broken = dict(family["first"])
    broken["lm_head.weight"] = torch.full((512, 64), value)
    broken["model.norm.weight"] = torch.full((64,), value)
    with pytest.raises(PunaError, match=word):
        LocalModel(family.folder(f"broken {value}", broken), "broken").next_tokens(["a", "b"])


def test_an_engine_is_loaded_for_the_answer_alone(family: Any) -> None:
    model = local(family, "first")
    model.next_tokens(["a"])
    assert not any(isinstance(value, Engine) for value in vars(model).values())
