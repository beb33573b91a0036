"""The likeliest continuation: the argmax of whole passes, whatever stands beside it."""

import math

import pytest
import torch

from puna.engine import Engine
from puna.engine.greedy import greedy
from puna.errors import PunaError


def by_hand(engine: Engine, prompt: list[int], limit: int) -> list[int]:
    ids = list(prompt)
    for _ in range(limit):
        with torch.inference_mode():
            ids.append(int(engine.model.logits(engine.model(torch.tensor([ids])))[0, -1].argmax()))
    return ids[len(prompt) :]


def test_it_is_the_argmax_of_whole_passes(engine: Engine) -> None:
    texts = ["the llama", "羊驼走过高原的草地", "wind sings over the high grass", "a"]
    prompts = [engine.tokenizer.encode(text) for text in texts]
    limits = [12, 5, 9, 1]
    found = dict(greedy(engine.model, prompts, limits, lambda number, ids: False))
    assert [found[number] for number in range(4)] == [
        by_hand(engine, prompt, limit) for prompt, limit in zip(prompts, limits, strict=True)
    ]


def test_a_reply_ends_where_it_is_whole(engine: Engine) -> None:
    prompts = [engine.tokenizer.encode(text) for text in ("the llama", "wind", "grass of the puna")]
    found = dict(greedy(engine.model, prompts, [10] * 3, lambda number, ids: len(ids) == number + 2))
    assert [len(found[number]) for number in range(3)] == [2, 3, 4]
    assert found[2] == by_hand(engine, prompts[2], 4)


def test_logits_that_are_no_numbers_are_no_choice(engine: Engine) -> None:
    weight = engine.model.head_weight()
    before = weight[5].clone()
    try:
        with torch.no_grad():
            weight[5] = math.nan
        asked = [[1, 2], [3, 4, 6]]
        assert dict(greedy(engine.model, asked, [3, 2], lambda number, ids: False)) == {0: None, 1: None}
    finally:
        with torch.no_grad():
            weight[5] = before


def test_what_cannot_be_asked_is_refused(engine: Engine) -> None:
    with pytest.raises(ValueError, match="empty"):
        list(greedy(engine.model, [[]], [3], lambda number, ids: False))
    with pytest.raises(PunaError, match="do not fit"):
        list(greedy(engine.model, [[1] * 90], [10], lambda number, ids: False))
