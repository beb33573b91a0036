"""How likely a model finds given continuations: what the judge asks.

In: rows of (prompt ids, continuation ids). Out: log P(continuation | prompt) of each, in nats.
Must never happen: a row's score depends on the rows beside it, or a row too long is cut in silence.
"""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from puna.errors import PunaError
from puna.model.decoder import Decoder

_LOGIT_BYTES = 64 << 20  # logits are made for so many positions at once that they fit the caches beside the head

Row = tuple[Sequence[int], Sequence[int]]


def logprobs(model: Decoder, rows: Sequence[Row], batch_tokens: int, context: int) -> list[float]:
    """Sum over i of log P(continuation_i | prompt, continuation_<i) for each row, natural logarithm.

    Rows are sorted by length and padded on the right, where causal attention keeps padding out of every score;
    a batch holds at most `batch_tokens` positions (and at least one row).
    Raises ValueError for an empty prompt, PunaError for a row longer than `context`.
    """
    for number, (prompt, continuation) in enumerate(rows):
        if not prompt:
            raise ValueError(f"row {number} has an empty prompt: its first token has no condition")
        if len(prompt) + len(continuation) - 1 > context:
            raise PunaError(
                f"row {number} has {len(prompt) + len(continuation)} tokens and the model's context is {context}",
                mend="score a shorter text, or one window of it after another",
            )
    scores = [0.0] * len(rows)
    order = sorted((n for n in range(len(rows)) if rows[n][1]), key=lambda n: -_length(rows[n]))
    with torch.inference_mode():
        for batch in _batches(order, rows, batch_tokens):
            for number, score in zip(batch, _score(model, [rows[n] for n in batch]), strict=True):
                scores[number] = score
    return scores


def _length(row: Row) -> int:
    return len(row[0]) + len(row[1]) - 1  # the last token is predicted, never read


def _batches(order: list[int], rows: Sequence[Row], batch_tokens: int) -> Iterator[list[int]]:
    """Runs of `order` (longest first) that hold at most `batch_tokens` once padded to their longest."""
    start = 0
    while start < len(order):
        count = max(1, batch_tokens // _length(rows[order[start]]))
        yield order[start : start + count]
        start += count


def _score(model: Decoder, rows: list[Row]) -> list[float]:
    device = model.head_weight().device
    width = max(map(_length, rows))
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    scored = torch.zeros(len(rows), width, dtype=torch.bool)
    targets: list[int] = []
    for number, (prompt, continuation) in enumerate(rows):
        whole = [*prompt, *continuation]
        ids[number, : len(whole) - 1] = torch.tensor(whole[:-1])
        scored[number, len(prompt) - 1 : len(whole) - 1] = True
        targets += continuation
    hidden = model(ids.to(device))[scored.to(device)]
    likely = token_logprobs(model, hidden, torch.tensor(targets, device=device)).double().cpu()
    return [float(part.sum()) for part in likely.split([len(continuation) for _, continuation in rows])]


def token_logprobs(model: Decoder, hidden: Float[Tensor, "n d"], targets: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
    """log softmax(logits(hidden))[target] for each position, in nats, without the logits of all positions at once."""
    step = max(1, _LOGIT_BYTES // (4 * model.head_weight().shape[0]))
    parts = []
    for states, wanted in zip(hidden.split(step), targets.split(step), strict=True):
        logits = model.logits(states).float()
        parts.append(logits.gather(-1, wanted[:, None])[:, 0] - logits.logsumexp(dim=-1))
    return torch.cat(parts)
