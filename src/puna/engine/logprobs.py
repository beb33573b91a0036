"""What the model itself thought of the tokens that were taken: their log-probabilities and the likeliest others.

In: raw logits (before bias, penalties, shape, temperature and filters), the ids taken, how many others each row wants. Out: one
`TokenLogprob` per row. Must never happen: a value that is no JSON number (a token that cannot occur has the least fp32 number).
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from puna.engine.request import TokenLogprob

LEAST = torch.finfo(torch.float32).min  # stands for ln 0 and for what is no number: JSON knows neither -inf nor NaN


def token_logprobs(
    logits: Float[Tensor, "b v"], ids: Int[Tensor, " b"] | Sequence[int], top: Sequence[int]
) -> list[TokenLogprob]:
    """ln p of each row's id, in nats, and the `top[row]` likeliest ids with theirs, likeliest first (equal ones in the order of ids).

    Normalised in fp32 over the whole vocabulary. Only rows that want it should be given: the work is one pass over each.
    Raises ValueError where the numbers of rows differ, or a row wants more than there are ids, or fewer than none.
    """
    chosen = torch.as_tensor(ids, dtype=torch.long, device=logits.device)
    if len(logits) != len(chosen) or len(logits) != len(top):
        raise ValueError(f"{len(logits)} rows of logits, {len(chosen)} ids and {len(top)} numbers of alternatives")
    most, vocabulary = max(top, default=0), logits.shape[-1]
    if most > vocabulary or min(top, default=0) < 0:
        raise ValueError(f"from 0 to {vocabulary} alternatives can be given, not {list(top)}")
    if not len(logits):
        return []
    values = logits.float()
    total = values.logsumexp(dim=-1, keepdim=True)
    taken = _numbers(values.gather(-1, chosen[:, None]) - total)
    if not most:
        return [TokenLogprob(id_, row[0]) for id_, row in zip(chosen.tolist(), taken, strict=True)]
    likeliest, where = values.topk(most, dim=-1)
    each = zip(chosen.tolist(), taken, where.tolist(), _numbers(likeliest - total), top, strict=True)
    return [TokenLogprob(id_, mine[0], _ordered(others, theirs)[:count]) for id_, mine, others, theirs, count in each]


def _ordered(ids: list[int], values: list[float]) -> tuple[tuple[int, float], ...]:
    return tuple(sorted(zip(ids, values, strict=True), key=lambda one: (-one[1], one[0])))


def _numbers(values: Float[Tensor, "b n"]) -> list[list[float]]:
    """Finite numbers at most 0 (rounding may bring a certain token above it), and never -0."""
    rows: list[list[float]] = values.nan_to_num(nan=LEAST, neginf=LEAST, posinf=0.0).clamp(LEAST, 0.0).tolist()
    return rows
