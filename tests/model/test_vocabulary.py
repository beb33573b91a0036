"""Rows for new entries: the mean of what they replace, and nothing else of the model moves by a bit."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from puna.errors import PunaError
from puna.model.cache import KVCache
from puna.model.decoder import Decoder
from puna.model.surgery.vocabulary import EMBEDDING, HEAD, extend_rows
from puna.model.weights import Weights

STORIES = Path(__file__).resolve().parents[3] / "shared/data/weights/stories260K"
PIECES = [[], [3, 5], [7], [1, 1, 2], *[[number % 96, 95] for number in range(1500)]]


def step_by_step(model: Decoder, ids: Tensor) -> Tensor:
    """Logits of each position, read one token at a time through a cache [t, v]."""
    cache, rows = KVCache(model.config, 1, ids.shape[1]), []
    for at in range(ids.shape[1]):
        rows.append(model.logits(model(ids[:, at : at + 1], cache=cache))[0, 0])
        cache.advance(1)
    return torch.stack(rows)


@torch.no_grad()
def assert_old_logits_are_the_same_bits(old: Weights, new: Weights, ids: Tensor) -> None:
    before, after = old.decoder(), new.decoder()
    rows = old.config.vocab_size
    assert torch.equal(before.logits(before(ids)), after.logits(after(ids))[..., :rows])
    for row in ids[:2, :10]:
        assert torch.equal(step_by_step(before, row[None]), step_by_step(after, row[None])[:, :rows])


@pytest.mark.parametrize("extra", [1, 7, 500])
@pytest.mark.parametrize(
    "fields", [{}, {"tie_word_embeddings": True}, {"qk_norm": True}, {"attention_bias": True}], ids=str
)
def test_old_logits_are_the_same_bits(
    make: Callable[..., Decoder], ids: Tensor, fields: dict[str, Any], extra: int
) -> None:
    old = Weights.of(make(**fields))
    new = extend_rows(old, PIECES[:extra], 96 + extra + 5)
    assert new.config.shapes[EMBEDDING] == (101 + extra, 32)
    assert_old_logits_are_the_same_bits(old, new, ids)
    for (name, before), (other, after) in zip(old.items(), new.items(), strict=True):
        assert name == other and after.dtype == before.dtype and torch.equal(before, after[: len(before)])


def test_old_logits_of_a_real_model_are_the_same_bits() -> None:
    """stories260K with 1,500 new rows, on its own English: prefill and decode, and the same greedy text."""
    from puna.model.formats import open_model
    from puna.tokens.formats import open_tokenizer

    if not STORIES.exists():
        pytest.skip(f"{STORIES} is not there")
    old = open_model(STORIES / "stories260K.bin")
    text = (
        "Once upon a time, there was a little girl named Lily. She loved to play outside in the park with her friends."
    )
    ids = torch.tensor([[1, *open_tokenizer(STORIES / "tok512.bin").encode(text)]])
    pieces = [[number % 512, (7 * number) % 512] for number in range(1500)]
    assert_old_logits_are_the_same_bits(old, extend_rows(old, pieces, 2048), ids)


@torch.no_grad()
def test_a_last_odd_row_may_move_by_a_last_bit_and_no_other(make: Callable[..., Decoder], ids: Tensor) -> None:
    """GPT-2 has 50,257 rows. A matrix product treats the last rows % 4 of them by other instructions; more rows change that."""
    old = Weights.of(make(vocab_size=99))
    before, after = old.decoder(), extend_rows(old, [[1]] * 61, 160).decoder()
    one, other = step_by_step(before, ids[:1, :16]), step_by_step(after, ids[:1, :16])[:, :99]
    assert torch.equal(one[:, :96], other[:, :96])
    torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_new_rows_are_the_means_of_their_pieces(make: Callable[..., Decoder], dtype: torch.dtype) -> None:
    old = Weights.of(make().to(dtype))
    new = extend_rows(old, PIECES[:4], 102)
    for name in (EMBEDDING, HEAD):
        before, after = old.read(name).double(), new.read(name)
        expected = [
            before.mean(0),
            before[[3, 5]].mean(0),
            before[7],
            (2 * before[1] + before[2]) / 3,
            before.mean(0),
            before.mean(0),
        ]
        assert torch.equal(after[96:], torch.stack(expected).to(dtype))


def test_new_ids_take_over_the_padding_of_an_embedding(make: Callable[..., Decoder]) -> None:
    """As Qwen's: 151,936 rows for 151,665 ids."""
    old = Weights.of(make())
    new = extend_rows(old, [[1, 2], [3]], 96, first=90)
    before, after = old.read(EMBEDDING), new.read(EMBEDDING)
    assert torch.equal(after[:90], before[:90]) and torch.equal(after[91], before[3])
    assert torch.equal(after[92], before[:90].double().mean(0).float())


@pytest.mark.parametrize(("pieces", "size", "first", "words"), [
    ([[1]], 96, None, "do not fit a vocabulary"), ([[96]], 97, None, "not all old ids"), ([[-1]], 97, None, "not all old ids"),
    ([[1]], 200, 97, "does not fit an embedding"), ([[95]], 99, 90, "not all old ids"), ([[1]], 99, 0, "does not fit an embedding"),
])  # fmt: skip
def test_what_does_not_fit_is_refused(
    make: Callable[..., Decoder], pieces: list[list[int]], size: int, first: int | None, words: str
) -> None:
    with pytest.raises(PunaError, match=words):
        extend_rows(Weights.of(make()), pieces, size, first=first)
