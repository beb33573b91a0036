"""The likeliest continuation, token by token, for many prompts at once: what the judge's written answers are made of.

In: prompts as ids, a bound on new tokens, what ends a reply. Out: the ids of each reply. Must never happen: a row's reply depends
on the rows beside it but for rounding, or a logit that is no number passes for a choice.

Unlike `Engine.generate`, nothing is forbidden here and nothing is drawn: the plain argmax, as other programs take it.
"""

from collections.abc import Callable, Iterator, Sequence

import torch

from puna.engine.batch import clear_written, spacious
from puna.engine.blocks import BlockPool
from puna.engine.looks import PagedCache, Reading
from puna.engine.paged import Reader
from puna.engine.schedule import Scheduler, Text
from puna.engine.threads import threads_for
from puna.errors import PunaError
from puna.model.decoder import Decoder

BATCH_ROWS = 32
_CACHE_BYTES = 512 << 20
_STEP_TOKENS = 8192


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
    if not prompts:
        return
    order = sorted(range(len(prompts)), key=lambda number: -len(prompts[number]))
    texts = {Text(list(prompts[number]), len(prompts[number]) + limits[number]): number for number in order}
    reader = Reader(model)
    row = spacious(max(text.limit for text in texts), reader.block)
    most = _CACHE_BYTES // (reader.block * PagedCache.bytes_per_token(model.config, reader.dtype))
    pool = BlockPool(max(row, min(most, BATCH_ROWS * row)), reader.block)
    scheduler, cache = Scheduler(pool, running=BATCH_ROWS, step_tokens=_STEP_TOKENS), reader.cache(pool.blocks)
    for text in texts:
        scheduler.add(text)
    while texts:
        parts = scheduler.plan()
        readings = [Reading(part.ids, part.start, part.text.blocks, int(part.last)) for part in parts]
        with threads_for(sum(len(part.ids) for part in parts) * model.config.parameters):
            logits = reader(readings, cache)
        for part in parts:
            scheduler.advance(part.text, part.start + len(part.ids))
        chosen = torch.where(logits.isfinite().all(-1), logits.argmax(-1), -1).tolist()
        for part, token in zip([part for part in parts if part.last], chosen, strict=True):
            text, number = part.text, texts[part.text]
            reply = [*text.ids[len(prompts[number]) :], token]
            if token >= 0 and len(reply) < limits[number] and not ends(number, reply):
                text.ids.append(token)
                continue
            written = text.blocks[text.shared :]
            scheduler.remove(text)
            del texts[text]
            if token < 0:
                clear_written(pool, cache, written)
            yield number, (reply if token >= 0 else None)
