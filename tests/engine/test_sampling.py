"""Each filter against its definition and against transformers; rows of a batch never touch each other."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from puna.engine.sampling import Sampling, draw, keep_min_p, keep_top_k, keep_top_p
from puna.errors import PunaError

VOCABULARY = 50


def some_logits(rows: int = 4, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, VOCABULARY, generator=torch.Generator().manual_seed(seed)) * 3


def kept(logits: torch.Tensor) -> torch.Tensor:
    return logits > float("-inf")


def test_filters_equal_those_of_transformers():
    process = pytest.importorskip("transformers.generation.logits_process")
    logits = some_logits()
    assert torch.equal(keep_top_k(logits, 7), process.TopKLogitsWarper(7)(None, logits))
    assert torch.equal(keep_top_p(logits, 0.8), process.TopPLogitsWarper(0.8)(None, logits))
    assert torch.equal(keep_min_p(logits, 0.1), process.MinPLogitsWarper(0.1)(None, logits))


def test_off_settings_keep_everything_and_extremes_keep_the_likeliest():
    logits = some_logits()
    assert torch.equal(keep_top_k(logits, 0), logits)
    assert torch.equal(keep_top_k(logits, 10 * VOCABULARY), logits)
    assert torch.equal(keep_top_p(logits, 1.0), logits)
    assert torch.equal(keep_min_p(logits, 0.0), logits)
    for least in (keep_top_k(logits, 1), keep_top_p(logits, 1e-9), keep_min_p(logits, 1.0)):
        assert kept(least).sum(-1).tolist() == [1] * 4
        assert torch.equal(least.argmax(-1), logits.argmax(-1))


def test_a_filter_with_a_value_per_row_equals_each_row_alone():
    logits = some_logits(3)
    ks, ps = torch.tensor([[3], [0], [9]]), torch.tensor([[0.5], [1.0], [0.9]])
    for row in range(3):
        alone = logits[row : row + 1]
        assert torch.equal(keep_top_k(logits, ks)[row], keep_top_k(alone, int(ks[row]))[0])
        assert torch.equal(keep_top_p(logits, ps)[row], keep_top_p(alone, float(ps[row]))[0])
        assert torch.equal(keep_min_p(logits, ps)[row], keep_min_p(alone, float(ps[row]))[0])


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000), p=st.floats(0.01, 0.999))
def test_top_p_keeps_the_fewest_tokens_that_reach_p(seed: int, p: float):
    logits = some_logits(1, seed).double()
    probabilities = logits.softmax(-1)[0]
    chosen = probabilities[kept(keep_top_p(logits, p))[0]]
    assert chosen.sum() >= p - 1e-9
    assert chosen.sum() - chosen.min() < p + 1e-9


def test_draws_follow_the_probabilities():
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log().expand(4000, 4)
    uniform = torch.rand(4000, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    counts = torch.bincount(draw(logits, uniform), minlength=4)
    assert torch.allclose(counts / 4000, logits[0].exp(), atol=0.03)


def test_the_ends_of_the_unit_interval_draw_possible_tokens():
    never = float("-inf")
    logits = torch.tensor([[never, 0.0, never, 1.0, never]]).expand(3, 5)
    uniform = torch.tensor([0.0, 1.0 - 2**-53, 1.0], dtype=torch.float64)
    assert draw(logits, uniform).tolist() == [1, 3, 3]


def test_every_value_out_of_range_is_named():
    with pytest.raises(PunaError) as caught:
        Sampling(max_tokens=0, temperature=float("nan"), top_p=0.0, top_k=-1, min_p=2, repetition_penalty=0, stop=[""])
    for name in ("max_tokens", "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "stop text"):
        assert name in caught.value.line()


def test_openais_ranges_are_checked_and_named():
    Sampling(presence_penalty=-2, frequency_penalty=2.0, logit_bias=tuple((id_, -100.0) for id_ in range(300)))
    with pytest.raises(PunaError) as caught:
        Sampling(presence_penalty=2.1, frequency_penalty=math.nan, logit_bias=((1, 100.5), (1, 3.0), (-4, math.nan)))
    for name in ("presence_penalty", "frequency_penalty", "a token once", "0 or more", "between -100 and 100"):
        assert name in caught.value.line()
    with pytest.raises(PunaError, match="at most 300 tokens"):
        Sampling(logit_bias=tuple((id_, 0.0) for id_ in range(301)))
    assert len({Sampling(logit_bias=((1, 2.0),)), Sampling(logit_bias=((1, 2.0),))}) == 1


@pytest.mark.parametrize("beyond", [{"temperature": 1e308}, {"temperature": math.inf}, {"repetition_penalty": 1e308}])
def test_what_fp32_cannot_divide_by_is_refused(beyond):
    with pytest.raises(PunaError, match="must lie between"):
        Sampling(**beyond)
