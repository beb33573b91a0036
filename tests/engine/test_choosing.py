"""Rows that come and go choose as they would alone, as the filters' definitions say, and none harms another."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from puna.engine.choosing import NOTHING, Chooser, RowState
from puna.engine.sampling import Sampling, draw, keep_min_p, keep_top_k, keep_top_p
from puna.errors import PunaError

VOCABULARY = 700  # more than the head of 512 that the torch filters look at first
SETTINGS = [
    Sampling(seed=1, temperature=0.8, top_p=0.9),
    Sampling(seed=2, temperature=1.5, top_k=5, repetition_penalty=1.2),
    Sampling(temperature=0.0),
    Sampling(seed=4, temperature=1.0, top_p=1.0, min_p=0.05),
    Sampling(seed=5, temperature=0.9, presence_penalty=1.5, frequency_penalty=-0.5),
    Sampling(temperature=0.0, frequency_penalty=2.0, logit_bias=((3, 4.5), (9, -100.0))),
    Sampling(seed=6, temperature=2.0, top_p=1.0),
    Sampling(seed=7, temperature=5.0, top_p=0.999, top_k=600),
    Sampling(seed=8, temperature=1.0, top_k=3, top_p=0.7, min_p=0.2, logit_bias=((1, 2.0),)),
    Sampling(temperature=0.0, repetition_penalty=0.8),
]
PROMPTS = [[number, number + 1, number + 1] for number in range(len(SETTINGS))]
BANNED = (0, 11, 12, 699)


def some_logits(rows: int, seed: int, scale: float = 3.0, vocabulary: int = VOCABULARY) -> torch.Tensor:
    return torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(seed)) * scale


def states(of: Sequence[int] = range(len(SETTINGS))) -> list[RowState]:
    return [RowState(SETTINGS[number], PROMPTS[number], VOCABULARY) for number in of]


def step(chooser: Chooser, rows: Sequence[RowState], logits: torch.Tensor) -> list[int]:
    chosen = chooser.choose(rows, logits).tolist()
    for row, id_ in zip(rows, chosen, strict=True):
        row.push(id_)
    return chosen


def reference(number: int, ids: Sequence[int], logits: torch.Tensor, uniform: float) -> int:
    """The definitions, one after the other, over the whole vocabulary in fp64."""
    setting, logits = SETTINGS[number], logits.double().clone()
    for id_, by in setting.logit_bias:
        logits[id_] += by
    for id_ in {*PROMPTS[number], *ids}:
        logits[id_] *= 1 / setting.repetition_penalty if logits[id_] > 0 else setting.repetition_penalty
    for id_ in set(ids):
        logits[id_] -= ids.count(id_) * setting.frequency_penalty + setting.presence_penalty
    logits[list(BANNED)] = float("-inf")
    if setting.greedy:
        return int(logits.argmax())
    logits = keep_min_p(
        keep_top_p(keep_top_k(logits[None] / setting.temperature, setting.top_k), setting.top_p), setting.min_p
    )
    return int(draw(logits, torch.tensor([uniform], dtype=torch.float64)))


def test_the_choices_are_those_of_the_definitions():
    rows, chooser = states(), Chooser(VOCABULARY, BANNED)
    ids: list[list[int]] = [[] for _ in rows]
    uniforms = [torch.Generator().manual_seed(one.seed or 0) for one in SETTINGS]
    for seed in range(60):
        logits = some_logits(len(rows), seed)
        expected = [
            reference(number, ids[number], logits[number], float(torch.rand(1, dtype=torch.float64, generator=one)))
            for number, one in enumerate(uniforms)
        ]
        chosen = step(chooser, rows, logits)
        assert chosen == expected
        for mine, id_ in zip(ids, chosen, strict=True):
            mine.append(id_)


def test_the_repetition_penalty_is_that_of_transformers():
    process = pytest.importorskip("transformers.generation.logits_process")
    logits, ids = some_logits(1, 2), [1, 2, 3, 3]
    row = RowState(Sampling(repetition_penalty=1.3), ids, VOCABULARY)
    changed = logits.clone()
    row.change(changed[0].numpy())
    expected = process.RepetitionPenaltyLogitsProcessor(1.3)(torch.tensor([ids]), logits.clone())
    assert torch.equal(changed, expected)


def test_together_in_torch_is_row_by_row_in_numpy():
    alone, together, chooser = states(), states(), Chooser(VOCABULARY, BANNED)
    for seed in range(60):
        logits = some_logits(len(SETTINGS), seed)
        chosen = chooser._together(together, logits).tolist()
        for row, id_ in zip(together, chosen, strict=True):
            row.push(id_)
        assert chosen == step(chooser, alone, logits)


@pytest.mark.parametrize("way", ["choose", "_together"])
def test_rows_that_come_and_go_choose_as_they_do_alone(way: str):
    stays = {
        0: (0, 9),
        1: (2, 9),
        2: (0, 5),
        3: (4, 12),
        4: (0, 12),
        5: (1, 8),
        6: (6, 12),
        7: (3, 4),
        8: (0, 12),
        9: (5, 11),
    }
    chooser = Chooser(VOCABULARY, BANNED)
    rows, crowd = dict(enumerate(states())), {number: [] for number in stays}
    for at in range(12):
        here = [number for number, (first, last) in stays.items() if first <= at < last]
        here = here if at % 2 else here[::-1]
        logits = torch.stack([some_logits(1, 100 * number + at)[0] for number in here])
        for number, id_ in zip(here, getattr(chooser, way)([rows[n] for n in here], logits).tolist(), strict=True):
            rows[number].push(id_)
            crowd[number].append(id_)
    for number, (first, last) in stays.items():
        (row,) = states([number])
        alone = Chooser(VOCABULARY, BANNED)
        expected = [step(alone, [row], some_logits(1, 100 * number + at))[0] for at in range(first, last)]
        assert crowd[number] == expected


@settings(max_examples=150)
@given(
    seed=st.integers(0, 10_000),
    scale=st.sampled_from([0.01, 1.0, 4.0, 40.0]),
    temperature=st.floats(0.05, 50.0),
    top_k=st.sampled_from([0, 0, 1, 2, 40, 699, 700, 10**20]),
    top_p=st.sampled_from([1.0, 1.0, 0.001, 0.5, 0.95, 0.9999]),
    min_p=st.sampled_from([0.0, 0.0, 1e-6, 0.01, 0.3, 1.0]),
)
def test_what_is_kept_is_what_the_definitions_keep(seed, scale, temperature, top_k, top_p, min_p):
    from puna.engine.choosing import _kept

    logits = some_logits(1, seed, scale)
    logits[:, BANNED] = float("-inf")
    setting = Sampling(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    values = logits[0].numpy()
    ids, weights = _kept(values, values.max(), setting, np.array(BANNED))
    kept = np.zeros(VOCABULARY)
    kept[np.arange(VOCABULARY) if ids is None else ids] = weights
    exact = logits.double() / temperature
    exact = keep_min_p(keep_top_p(keep_top_k(exact, min(top_k, 2**62)), top_p), min_p)
    expected = exact.softmax(-1)[0].numpy()
    # fp32 may set a token on a threshold on its other side; more than the least likely one kept it cannot.
    differs = (kept > 0) != (expected > 1e-45)
    assert differs.sum() <= 1 or np.abs(kept / kept.sum() - expected).max() < 1e-6
    if not differs.any():
        assert np.allclose(kept / kept.sum(), expected, atol=2e-5)


def test_draws_follow_the_probabilities():
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    row, chooser = RowState(Sampling(seed=1, temperature=1.0, top_p=1.0), [0], 4), Chooser(4)
    counts = np.bincount([int(chooser.choose([row], logits)) for _ in range(4000)], minlength=4)
    assert np.allclose(counts / 4000, logits.exp()[0], atol=0.03)


def test_penalties_are_openais_and_count_the_reply_alone():
    logits = torch.tensor([[2.0, 1.9, 1.8, -1.0]])
    row = RowState(Sampling(temperature=0.0, presence_penalty=0.15, frequency_penalty=0.1), [0, 0, 0], 4)
    # 0 stays first while it is in the prompt alone; then it loses 0.25, then 0.1 more each time.
    expected, counts = [], [0, 0, 0, 0]
    for _ in range(9):
        scores = [float(logits[0, j]) - counts[j] * 0.1 - (counts[j] > 0) * 0.15 for j in range(4)]
        expected.append(scores.index(max(scores)))
        counts[expected[-1]] += 1
    chooser = Chooser(4)
    assert [step(chooser, [row], logits)[0] for _ in range(9)] == expected
    assert expected[:3] == [0, 1, 2]


def test_the_repetition_penalty_counts_prompt_and_reply():
    logits = torch.tensor([[2.0, 1.9, 1.8, -1.0]])
    row, chooser = RowState(Sampling(temperature=0.0, repetition_penalty=1.5), [0], 4), Chooser(4)
    assert [step(chooser, [row], logits)[0] for _ in range(3)] == [1, 2, 0]


def test_counts_grow_past_their_first_room():
    row = RowState(Sampling(temperature=0.0, frequency_penalty=1.0), [1], VOCABULARY)
    for id_ in [*range(300), 7, 7]:
        row.push(id_)
    logits = np.zeros(VOCABULARY, np.float32)
    row.change(logits)
    assert logits[7] == -3 and (np.delete(logits[:300], 7) == -1).all() and (logits[300:] == 0).all()


def test_a_bias_forces_and_forbids_but_never_frees_a_banned_id():
    logits, chooser = some_logits(3, 0), Chooser(VOCABULARY, BANNED)
    best = int(logits[1].argmax())
    biases = [((42, 100.0),), ((best, -100.0),), ((11, 100.0),)]
    rows = [RowState(Sampling(seed=0, logit_bias=bias), [1], VOCABULARY) for bias in biases]
    chosen = chooser.choose(rows, logits).tolist()
    assert chosen[0] == 42 and chosen[1] != best and chosen[2] != 11
    with pytest.raises(PunaError, match="logit_bias: names token 700, and the model has 700"):
        RowState(Sampling(logit_bias=((VOCABULARY, 1.0),)), [1], VOCABULARY)


@pytest.mark.parametrize("way", ["choose", "_together"])
@pytest.mark.parametrize("broken", [math.nan, -math.inf, math.inf])
def test_a_row_without_numbers_chooses_nothing_and_its_neighbours_choose(way: str, broken: float):
    logits, chooser = some_logits(len(SETTINGS), 3), Chooser(VOCABULARY, BANNED)
    expected = getattr(chooser, way)(states(), logits).tolist()
    for bad in range(len(SETTINGS)):
        harmed = logits.clone()
        harmed[bad] = broken
        chosen = getattr(chooser, way)(states(), harmed).tolist()
        assert chosen[bad] == NOTHING
        assert [id_ for at, id_ in enumerate(chosen) if at != bad] == [
            id_ for at, id_ in enumerate(expected) if at != bad
        ]
    assert "no finite number" in states()[0].why_nothing()


class OnlyThese:
    """A shape that allows a few ids; the real one is `constrain.Constraint`."""

    error: str | None = None

    def __init__(self, ids: Sequence[int]) -> None:
        self._mask = np.zeros(VOCABULARY, bool)
        self._mask[list(ids)] = True
        self.taken: list[int] = []

    def mask(self) -> np.ndarray:
        return self._mask

    def take(self, id_: int) -> None:
        self.taken.append(id_)


@pytest.mark.parametrize("way", ["choose", "_together"])
def test_a_shape_holds_for_its_row_alone(way: str):
    logits, chooser = some_logits(4, 5), Chooser(VOCABULARY, BANNED)
    logits[1, [5, 600]] = 0.0
    shapes = [None, OnlyThese([5, 11, 600]), OnlyThese([11]), OnlyThese([])]
    shapes[3].error = "nothing fits"
    rows = [RowState(Sampling(seed=1, temperature=3.0, top_p=1.0), [1], VOCABULARY, shape) for shape in shapes]
    seen = set()
    for _ in range(20):
        free, held, none, empty = getattr(chooser, way)(rows, logits).tolist()
        seen.add(held)
        assert free not in BANNED and none == empty == NOTHING
    assert seen == {5, 600}
    rows[1].push(5)
    assert shapes[1].taken == [5] and rows[3].why_nothing() == "nothing fits"


def test_the_logits_stay_as_they_are():
    logits = some_logits(len(SETTINGS), 1)
    before = logits.clone()
    Chooser(VOCABULARY, BANNED).choose(states(), logits)
    Chooser(VOCABULARY, BANNED)._together(states(), logits)
    assert torch.equal(logits, before)
    with pytest.raises(ValueError, match="10 rows over 700"):
        Chooser(VOCABULARY).choose(states(), logits[:3])


def test_half_precision_logits_choose_as_the_same_numbers_in_fp32():
    logits = some_logits(len(SETTINGS), 1).bfloat16()
    chooser = Chooser(VOCABULARY, BANNED)
    assert chooser.choose(states(), logits).tolist() == chooser.choose(states(), logits.float()).tolist()


@settings(max_examples=60)
@given(number=st.integers(0, len(SETTINGS) - 1), seed=st.integers(0, 500), data=st.data())
def test_checking_a_draft_takes_what_one_at_a_time_takes(number: int, seed: int, data: st.DataObject):
    """Logits depend on the ids before, as a model's do: what is read behind a wrong guess must not count."""

    def logits_after(ids: Sequence[int]) -> torch.Tensor:
        return some_logits(1, hash((seed, *ids)) % 2**31, 2.0)[0]

    chooser = Chooser(VOCABULARY, BANNED)
    (slow,), (fast,) = states([number]), states([number])
    expected: list[int] = []
    while len(expected) < 12:
        expected += step(chooser, [slow], logits_after(expected)[None])
    taken: list[int] = []
    while len(taken) < 12:
        right = data.draw(st.integers(0, 4))
        draft = [*expected[len(taken) : len(taken) + right], *data.draw(st.lists(st.integers(1, 9), max_size=2))]
        logits = torch.stack([logits_after([*taken, *draft[:n]]) for n in range(len(draft) + 1)])
        new = chooser.check(fast, logits, draft)
        assert 1 <= len(new) <= len(draft) + 1
        taken += new
    assert taken[:12] == expected


def test_same_seed_same_draws_and_no_global_state():
    torch.manual_seed(0)
    before = torch.get_rng_state()

    def draws(seed: int | None) -> list[int]:
        row = RowState(Sampling(seed=seed, temperature=2.0), [1], VOCABULARY)
        return [step(Chooser(VOCABULARY), [row], some_logits(1, at))[0] for at in range(50)]

    assert draws(9) == draws(9) != draws(10)
    assert draws(None) != draws(None)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    "extreme",
    [
        {"temperature": 1e-40},
        {"temperature": 100.0},
        {"temperature": 1.0, "repetition_penalty": 100.0},
        {"top_k": 10**20},
    ],
)
def test_the_ends_of_the_ranges_draw_real_tokens(extreme):
    row = RowState(Sampling(seed=0, **extreme), [1], VOCABULARY)
    logits = 40 * torch.randn(1, VOCABULARY, generator=torch.Generator().manual_seed(0))
    for _ in range(20):
        assert 0 <= step(Chooser(VOCABULARY), [row], logits)[0] < VOCABULARY
