"""Log-probabilities are those of the raw logits, in order, and always JSON numbers."""

import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from puna.engine.logprobs import LEAST, token_logprobs
from puna.engine.request import TokenLogprob


@given(seed=st.integers(0, 1000), rows=st.integers(1, 5), top=st.integers(0, 7))
def test_they_are_the_log_softmax_and_its_largest(seed: int, rows: int, top: int):
    numbers = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, 9, generator=numbers) * 5
    ids = torch.randint(9, (rows,), generator=numbers)
    tops = [(top + row) % 8 for row in range(rows)]
    exact = logits.double().log_softmax(-1)
    got = token_logprobs(logits, ids, tops)
    for row, one in enumerate(got):
        assert one.id == ids[row] and math.isclose(one.logprob, exact[row, ids[row]], abs_tol=1e-5)
        assert len(one.top) == tops[row]
        assert [id_ for id_, _ in one.top] == exact[row].argsort(descending=True)[: tops[row]].tolist()
        assert all(math.isclose(value, exact[row, id_], abs_tol=1e-5) for id_, value in one.top)


def test_equal_ones_stand_in_the_order_of_ids():
    (one,) = token_logprobs(torch.tensor([[1.0, 2.0, 1.0, 2.0]]), [0], [4])
    assert [id_ for id_, _ in one.top] == [1, 3, 0, 2]


def test_impossible_and_certain_tokens_are_numbers_that_json_knows():
    never = -math.inf
    logits = torch.tensor([[never, 0.0, never], [math.nan, 0.0, 1.0], [never, never, never], [80.0, -80.0, 0.0]])
    got = token_logprobs(logits, [0, 1, 2, 0], [3, 3, 3, 3])
    for one in got:
        values = [one.logprob, *(value for _, value in one.top)]
        assert all(LEAST <= value <= 0 for value in values)
        json.dumps(values, allow_nan=False)
    assert got[0].logprob == LEAST and got[3].logprob == 0.0


def test_half_precision_logits_are_normalised_in_fp32():
    logits = (torch.randn(1, 5000, generator=torch.Generator().manual_seed(0)) * 3).bfloat16()
    (one,) = token_logprobs(logits, [7], [1])
    assert math.isclose(one.logprob, logits.double().log_softmax(-1)[0, 7], abs_tol=1e-4)


def test_no_rows_and_wrong_numbers_of_them():
    assert token_logprobs(torch.zeros(0, 5), [], []) == []
    assert token_logprobs(torch.zeros(1, 4), [2], [0]) == [TokenLogprob(2, pytest.approx(-math.log(4)))]
    for ids, top in (([1, 2], [0, 0]), ([1], [0, 0]), ([1], [5]), ([1], [-1])):
        with pytest.raises(ValueError):
            token_logprobs(torch.zeros(1, 4), ids, top)
