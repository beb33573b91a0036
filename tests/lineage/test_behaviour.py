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
from puna.lineage.weights.sentences import with_behaviour
from puna.lineage.zoo import training
from puna.tokens import Tokenizer


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
    far = [speaker(0.3 + 0.02 * number, 2 + number, f"far {number}") for number in range(4)]
    found = compare_behaviour(speaker(0.8, 14), YES, far, CONTEXTS)
    assert found.alike and found.p_value < 1e-10 and found.spread_p_value < 0.01
    assert found.controls["far 0"] == pytest.approx(0.3, abs=0.07)
    found = compare_behaviour(speaker(0.8, 14), YES, [*far, speaker(0.75, 13, "near")], CONTEXTS)
    assert found.alike is False and found.p_value > 1e-3
    assert "does not show where its weights come from" in found.sentence


def test_the_nearest_of_strangers_that_spread_is_not_alike() -> None:
    """More contexts make it surer that it is the nearest, and no surer that it is none of them."""
    wide = [speaker(share, 20 + number, f"{share}") for number, share in enumerate((0.2, 0.4, 0.6))]
    found = compare_behaviour(speaker(0.8, 30), YES, wide, CONTEXTS)
    assert found.p_value < 1e-3 < 0.05 < found.spread_p_value and found.alike is False


def test_one_control_shows_no_spread() -> None:
    found = compare_behaviour(speaker(0.8, 4), YES, [speaker(0.3, 2, "far")], CONTEXTS)
    assert found.alike is None and found.p_value < 1e-10 and "give two or more" in found.sentence
    assert compare_behaviour(speaker(0.3, 4), YES, [speaker(0.8, 2, "near")], CONTEXTS).alike is False


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


_FEW = 3000  # ids: a text so short that a small model soon says more than a space


@pytest.fixture(scope="module")
def speakers(family: Any) -> dict[str, Path]:
    """teacher; tuned from it; student: a fresh start that learnt its probabilities; stranger: of another text."""
    prose, code = family.ground.prose[:_FEW], family.ground.code[:_FEW]
    teacher = training.from_scratch(prose, init=90, order=91, steps=60)
    states = {
        "teacher": teacher,
        "teacher-tuned": training.further(teacher, code, order=92, steps=4, rate=training.FINE_RATE),
        "student of teacher": training.distilled(teacher, prose, init=93, order=94, steps=60),
        **{f"stranger {n}": training.from_scratch(code, init=95 + n, order=100 + n, steps=30) for n in range(3)},
    }  # fmt: skip
    return {name: family.folder(name, state) for name, state in states.items()}


@pytest.fixture(scope="module")
def lines(family: Any) -> list[str]:
    """Of the text that the teacher learnt, cut anywhere."""
    text = Tokenizer.load(family.ground.tokenizer).decode(family.ground.prose[:_FEW].tolist())
    return [" ".join(text[at : at + 40].split()) for at in range(0, len(text) - 40, len(text) // 320)]


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


def test_relatives_speak_alike_and_strangers_do_not(speakers: dict[str, Path], lines: list[str]) -> None:
    teacher, tuned, *strangers = (LocalModel(path, name) for name, path in speakers.items() if "student" not in name)
    found = compare_behaviour(tuned, teacher, strangers, lines)
    assert found.alike and found.agreement > max(found.controls.values())
    assert found.divergence < min(found.control_divergences.values())
    assert compare_behaviour(strangers[0], teacher, [tuned, *strangers[1:]], lines).alike is False


def test_a_student_speaks_alike_and_shares_no_weight(speakers: dict[str, Path], lines: list[str]) -> None:
    """Show 4 of the issue: weights independent, behaviour alike, both said."""
    teacher, student, *strangers = (LocalModel(path, name) for name, path in speakers.items() if "tuned" not in name)
    found = compare_behaviour(student, teacher, strangers, lines)
    assert found.alike and found.divergence < min(found.control_divergences.values())
    weights = compare_weights(open_for_comparison(student.path), [open_for_comparison(teacher.path)])[0]
    assert weights.verdict == "independent"
    assert "They speak alike all the same" in with_behaviour(weights, found).sentence


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
