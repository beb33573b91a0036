"""The likeliest continuation, token by token, for many prompts at once: what the judge's written answers are made of.

In: prompts as ids, a bound on new tokens, what ends a reply. Out: the ids of each reply. Must never happen: a row's reply depends
on the rows beside it but for rounding, or a logit that is no number passes for a choice.

Unlike `Engine.generate`, nothing is forbidden here and nothing is drawn: the plain argmax, as other programs take it.
"""

from collections.abc import Callable, Iterator, Sequence

import torch

from puna.engine.decoding import OneToken
from puna.engine.threads import threads_for
from puna.errors import PunaError
from puna.model.cache import KVCache
from puna.model.decoder import Decoder

BATCH_ROWS = 32
_CACHE_BYTES = 512 << 20


def greedy(
    model: Decoder,
    prompts: Sequence[Sequence[int]],
    limits: Sequence[int],
    ends: Callable[[int, list[int]], bool],
) -> Iterator[tuple[int, list[int] | None]]:
    """(number of the prompt, its reply's ids) as replies end, longest prompts first; None where a logit of it is no finite number.

    `limits`: the most new tokens of each; prompt and reply must fit the model's context. `ends(number, ids)` is asked after each
    token whether the reply is whole, that token included. Raises ValueError for an empty prompt, `PunaError` for one too long.
    """
    context = model.config.max_position_embeddings
    for number, (prompt, limit) in enumerate(zip(prompts, limits, strict=True)):
        if not prompt or limit < 1:
            raise ValueError(f"prompt {number} is empty, or asks for no token")
        if len(prompt) + limit > context:
            raise PunaError(
                f"a prompt of {len(prompt)} tokens and a reply of {limit} do not fit a context of {context}"
            )
    order = sorted(range(len(prompts)), key=lambda number: -len(prompts[number]))
    config = model.config
    per_token = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * 4
    while order:
        longest = len(prompts[order[0]]) + max(limits[number] for number in order[:BATCH_ROWS])
        count = max(1, min(BATCH_ROWS, _CACHE_BYTES // (per_token * longest)))
        batch, order = order[:count], order[count:]
        yield from _together(model, batch, prompts, limits, ends)


def _together(
    model: Decoder, live: list[int], prompts: Sequence[Sequence[int]], limits: Sequence[int],
    ends: Callable[[int, list[int]], bool],
) -> Iterator[tuple[int, list[int] | None]]:  # fmt: skip
    """One batch: the prompts at once, padded on the right, then a token for each row and pass; a finished row leaves."""
    device = model.head_weight().device
    replies: dict[int, list[int]] = {number: [] for number in live}
    with torch.inference_mode():
        lengths = torch.tensor([len(prompts[number]) for number in live])
        ids = torch.zeros(len(live), int(lengths.max()), dtype=torch.long)
        for row, number in zip(ids, live, strict=True):
            row[: len(prompts[number])] = torch.tensor(prompts[number])
        capacity = max(len(prompts[number]) + limits[number] for number in live)
        cache = KVCache(model.config, len(live), capacity, dtype=model.head_weight().dtype, device=device)
        hidden = model(ids.to(device), cache=cache)
        lengths = lengths.to(device)
        cache.advance(lengths)
        hidden = hidden[torch.arange(len(live), device=device), lengths - 1]
        read_one = OneToken(model, cache)
        while live:
            logits = model.logits(hidden)
            chosen = torch.where(logits.isfinite().all(-1), logits.argmax(-1), -1)
            staying = []
            for row, (number, token) in enumerate(zip(live, chosen.tolist(), strict=True)):
                if token < 0:
                    del replies[number]
                    yield number, None
                    continue
                replies[number].append(token)
                if len(replies[number]) >= limits[number] or ends(number, replies[number]):
                    yield number, replies.pop(number)
                else:
                    staying.append(row)
            if len(staying) < len(live):
                live = [live[row] for row in staying]
                index = torch.tensor(staying, dtype=torch.long, device=device)
                chosen = chosen[index]
                cache.select(index)
            if live:
                with threads_for(model.config.parameters * len(live)):
                    hidden = read_one(chosen, cache)
