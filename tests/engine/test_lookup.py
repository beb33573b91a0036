"""Guesses repeat what was said before, cost nothing where nothing repeats, and change no text."""

import random
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from puna.engine.choosing import Chooser, RowState
from puna.engine.lookup import Lookup
from puna.engine.sampling import Sampling

VOCABULARY = 30


def followed(ids: list[int], lookup: Lookup, k: int = 8) -> tuple[int, int]:
    """Passes and drafted ids that it takes to write `ids`, as a model that writes exactly them."""
    at = passes = drafted = 0
    while at < len(ids):
        draft = lookup.propose(k)
        right = 0
        while right < len(draft) and at + right < len(ids) and draft[right] == ids[at + right]:
            right += 1
        for id_ in ids[at : at + right + 1]:
            lookup.push(id_)
        at, passes, drafted = at + right + 1, passes + 1, drafted + len(draft)
    return passes, drafted


def test_a_repeat_is_proposed_and_goes_round_where_it_reaches_the_end():
    assert Lookup([1, 2, 3, 4, 5, 6, 9, 1, 2, 3, 4]).propose(8) == [5, 6]
    assert Lookup([7, 8] * 10).propose(5) == [7, 8, 7, 8, 7]
    assert Lookup([1, 2, 3, 4, 5]).propose(5) == []
    assert Lookup([]).propose(5) == [] == Lookup([4]).propose(5)


def test_the_latest_of_the_longest_n_grams_is_followed():
    assert Lookup([1, 2, 3, 4, 7, 7, 1, 2, 3, 4, 8, 1, 2, 3, 4]).propose(1) == [8]
    assert Lookup([1, 2, 3, 4, 7, 9, 3, 4, 8, 1, 2, 3, 4]).propose(1) == [7]


def test_no_draft_goes_past_an_end_or_beyond_what_is_asked():
    ids = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 1, 2, 3, 4, 5, 6]
    assert Lookup(ids).propose(2) == [7, 8]
    assert Lookup(ids, ends={8}).propose(9) == [7]
    assert Lookup(ids, ends={7}).propose(9) == []
    assert Lookup(ids).propose(0) == []


def test_a_copied_text_takes_a_fraction_of_the_passes():
    text = [random.Random(0).randrange(10_000) for _ in range(300)]
    passes, _ = followed(text, Lookup([*text, 1, 2, 3, text[0], text[1]][:303] + text[:2]), k=16)
    assert passes < 40


@pytest.mark.parametrize("vocabulary", [2, 5, 50, 5000])
def test_text_without_repeats_costs_next_to_nothing(vocabulary: int):
    numbers = random.Random(1)
    ids = [numbers.randrange(vocabulary) for _ in range(2000)]
    passes, drafted = followed(ids[1000:], Lookup(ids[:1000]))
    # Drafted ids that did not come are what guessing costs; of passes there are never more than without.
    wasted = drafted - (1000 - passes)
    assert passes <= 1000
    assert wasted < (0.06 if vocabulary > 5 else 0.7) * 1000


def test_it_learns_again_when_repeats_come():
    numbers = random.Random(2)
    noise = [numbers.randrange(4) for _ in range(1000)]
    lookup = Lookup(noise[:500])
    followed(noise[500:], lookup)
    copied = [numbers.randrange(10_000) for _ in range(200)]
    followed(copied, lookup)
    passes, _ = followed(copied, lookup, k=16)
    assert passes < 60


@settings(max_examples=100)
@given(
    prompt=st.lists(st.integers(1, 4), max_size=20),
    seed=st.integers(0, 1000),
    order=st.integers(1, 3),
    temperature=st.sampled_from([0.0, 0.3]),
)
def test_the_text_is_the_same_with_and_without(prompt: list[int], seed: int, order: int, temperature: float):
    """A stand-in for a model: the logits are a function of the last few ids, so that its text falls into repeats."""

    def logits_after(ids: list[int]) -> torch.Tensor:
        numbers = torch.Generator().manual_seed(hash((seed, *ids[-order:])) % 2**31)
        return torch.randn(VOCABULARY, generator=numbers) * 3

    sampling, chooser = Sampling(temperature=temperature, seed=seed), Chooser(VOCABULARY, [0])
    plain, row = list(prompt), RowState(sampling, prompt, VOCABULARY)
    for _ in range(60):
        plain.append(int(chooser.choose([row], logits_after(plain)[None])))
        row.push(plain[-1])
    ids, row, lookup, passes = list(prompt), RowState(sampling, prompt, VOCABULARY), Lookup(prompt), 0
    while len(ids) < len(plain):
        draft = lookup.propose(min(8, len(plain) - len(ids) - 1))
        logits = torch.stack([logits_after([*ids, *draft[:n]]) for n in range(len(draft) + 1)])
        for id_ in chooser.check(row, logits, draft):
            ids.append(id_)
            lookup.push(id_)
        passes += 1
    assert ids == plain
    assert passes <= 60


def test_a_proposal_costs_microseconds_however_long_the_text():
    numbers = random.Random(3)
    lookup = Lookup(numbers.randrange(300) for _ in range(50_000))
    ids = [numbers.randrange(300) for _ in range(2000)]
    best = float("inf")
    for start in range(0, 2000, 200):
        began = time.perf_counter()
        for id_ in ids[start : start + 200]:
            lookup.push(id_)
            lookup.propose(8)
        best = min(best, (time.perf_counter() - began) / 200)
    assert best < 50e-6
