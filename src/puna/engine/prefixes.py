"""How likely a model finds given continuations, with shared work done once: what the judge asks thousands of times.

In: rows of (prompt ids, continuation ids). Out: for each row log P(continuation | prompt) in nats and whether greedy decoding
would write it; on request, each token's figures. Must never happen: a row's score depends on the rows beside it, a logit that is
no number hidden in a score, or a row too long cut in silence.

Three things are shared. Rows with the same tokens up to the last are read once: answers of one token cost nothing more. Rows that
begin alike (the answers of one question) become one trunk with branches (`packed`). Trunks that begin alike (the few-shot examples
of a subject) get the keys and values of their beginning from one pass. What is worth sharing is decided by counting (`sharing`).

Rounding depends on the batch: a row's sum moves by less than 1e-4 nats in fp32 (tested), so `greedy` can differ only where the two
likeliest tokens are equal to within that.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from puna.engine.packed import Pack, Prefix, Reader
from puna.engine.plan import Cost, Group, Leaf, batches_of, input_of, leaf_of, leaves_of
from puna.engine.scoring import Row
from puna.model.decoder import Decoder

BATCH_TOKENS = 4096
_LOGIT_BYTES = 64 << 20  # logits exist for so many places at once


@dataclass(frozen=True)
class Tokens:
    """A row's figures for Min-K%++ (Zhang et al. 2024, arXiv:2404.02936): of each token of its continuation, in nats.

    `logprobs`: log p of the token; `means`: Σ p log p over the vocabulary; `deviations`: √(Σ p (log p)² - mean²).
    """

    logprobs: tuple[float, ...]
    means: tuple[float, ...]
    deviations: tuple[float, ...]


@dataclass(frozen=True)
class Score:
    """log P(continuation | prompt) in nats, NaN where a logit was no finite number; whether each token was the likeliest."""

    loglikelihood: float
    greedy: bool
    tokens: Tokens | None = None


def score(model: Decoder, rows: Sequence[Row], context: int, batch_tokens: int = BATCH_TOKENS) -> list[Score]:
    """The score of each row. Raises as `scores` does."""
    out: list[Score | None] = [None] * len(rows)
    for number, one in scores(model, rows, context, batch_tokens):
        out[number] = one
    return [one for one in out if one is not None]


def scores(
    model: Decoder, rows: Sequence[Row], context: int, batch_tokens: int = BATCH_TOKENS, *, tokens: bool = False
) -> Iterator[tuple[int, Score]]:
    """(number of the row, its score) as batches are done, longest first; every row once.

    A batch holds at most `batch_tokens` places, and at least one trunk with its branches. `tokens`: with each token's figures.
    Raises ValueError for an empty prompt or continuation, PunaError for a row longer than `context` + 1.
    """
    leaves = leaves_of(rows, context)
    if not leaves:
        return
    reader = Reader(model)
    alone: list[Leaf] = []
    before: Sequence[int] = ()
    prefix: Prefix | None = None
    for ids, batch in batches_of(Cost(model), leaves, batch_tokens):
        if ids != before:
            before, prefix = ids, _prefix(reader, ids)
        company = sum(len(group.leaves) for pack in batch for group in pack) > 1
        for number, one in _score(model, reader, rows, batch, prefix, tokens):
            if company and math.isnan(one.loglikelihood):
                # A value that is no number spreads to what it is masked from (0 · NaN): each such row again by itself.
                leaf = leaf_of(input_of(rows[number]))
                leaf.rows, leaf.first = [number], len(rows[number][0]) - 1
                alone.append(leaf)
            else:
                yield number, one
    for leaf in alone:
        yield from _score(model, reader, rows, [[Group([leaf], len(leaf.ids))]], None, tokens)


def _prefix(reader: Reader, ids: Sequence[int]) -> Prefix | None:
    if not ids:
        return None
    with torch.inference_mode():
        return reader.prefix(torch.tensor(ids, device=reader.device))


@dataclass
class _Asked:
    """What is asked of a pack: tokens at places, one entry for each token of each row's continuation."""

    place: NDArray[np.int64]  # line · width + place in the line
    target: list[int]
    rows: list[int]  # which of the rows, in the order of the entries
    counts: list[int]  # entries of each


def _score(
    model: Decoder, reader: Reader, rows: Sequence[Row], batch: list[list[Group]], prefix: Prefix | None, tokens: bool
) -> Iterator[tuple[int, Score]]:
    """One batch: its packs, one pass, the head at the places that are asked for."""
    device = reader.device
    packs, all_asked, wanted, found, which = [], [], [], [], []
    distinct = 0
    for groups in batch:
        pack, asked = _pack(rows, groups, device)
        places, inverse = np.unique(asked.place, return_inverse=True)
        lines, columns = places // pack.ids.shape[1], places % pack.ids.shape[1]
        counts = np.bincount(lines, minlength=len(groups))
        slots = np.arange(len(places)) - np.repeat(counts.cumsum() - counts, counts)
        table = np.zeros((len(groups), int(counts.max())), dtype=np.int64)
        table[lines, slots] = columns
        packs.append(pack)
        all_asked.append(asked)
        wanted.append(_tensor(table, device))
        found.append((_tensor(lines, device), _tensor(slots, device)))
        which.append(inverse + distinct)
        distinct += len(places)
    with torch.inference_mode():
        parts = reader(packs, wanted, prefix)
        hidden = torch.cat([part[at] for part, at in zip(parts, found, strict=True)])
        targets = np.array([token for asked in all_asked for token in asked.target], dtype=np.int64)
        figures = _figures(model, hidden, np.concatenate(which), targets, tokens)
    order = [row for asked in all_asked for row in asked.rows]
    sizes = np.array([count for asked in all_asked for count in asked.counts])
    ends = sizes.cumsum()
    totals, missed = (np.add.reduceat(figures[place], ends - sizes) for place in (0, 1))
    for number, row in enumerate(order):
        detail = None
        if tokens:
            part = slice(int(ends[number] - sizes[number]), int(ends[number]))
            detail = Tokens(*(tuple(figures[place][part].tolist()) for place in (0, 2, 3)))
        total = float(totals[number])
        yield row, Score(total, not math.isnan(total) and missed[number] == 0, detail)


def _tensor(values: NDArray[np.int64], device: torch.device) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values)).to(device)


def _pack(rows: Sequence[Row], batch: list[Group], device: torch.device) -> tuple[Pack, _Asked]:
    """The pack's tokens, and where each row's continuation is asked for. Padding repeats a token of the line itself."""
    head = batch[0].head
    split = max(group.trunk for group in batch) - head
    behind = max(group.behind for group in batch)
    width = split + behind
    ids, positions = np.zeros((len(batch), width), np.int64), np.zeros((len(batch), width), np.int64)
    branch = np.full((len(batch), behind), -1, np.int64)
    positions[:, :split] = np.arange(head, head + split)
    place: list[NDArray[np.int64]] = []
    counts: list[int] = []
    target: list[int] = []
    order: list[int] = []
    for line, group in enumerate(batch):
        first = group.leaves[0].ids
        ids[line] = first[group.trunk - 1]
        ids[line, : group.trunk - head] = first[head : group.trunk]
        positions[line, split:] = group.trunk
        at = split
        for number, leaf in enumerate(group.leaves):
            own = len(leaf.ids) - group.trunk
            ids[line, at : at + own] = leaf.ids[group.trunk :]
            positions[line, at : at + own] = np.arange(group.trunk, group.trunk + own)
            branch[line, at - split : at - split + own] = number
            for one in leaf.rows:
                prompt, continuation = rows[one]
                steps = np.arange(len(prompt) - 1, len(leaf.ids))
                steps = np.where(steps < group.trunk, steps - head, steps - group.trunk + at)
                place.append(steps + line * width)
                target += continuation
                counts.append(len(steps))
                order.append(one)
            at += own
    lengths = np.array([group.trunk - head for group in batch], dtype=np.int64)
    pack = Pack(
        _tensor(ids, device), split, _tensor(lengths, device), _tensor(branch, device), _tensor(positions, device)
    )
    return pack, _Asked(np.concatenate(place), target, order, counts)


def _figures(
    model: Decoder, hidden: Tensor, which: NDArray[np.int64], targets: NDArray[np.int64], tokens: bool
) -> list[NDArray[np.float64]]:
    """For each asked token: log p (NaN where a logit is not finite), 1 where another was likelier, and with `tokens` mean and deviation.

    hidden [n, d] of the distinct places; asked token i stands at place `which[i]`.
    """
    device = hidden.device
    order = np.argsort(which, kind="stable")
    step = max(1, _LOGIT_BYTES // (4 * model.head_weight().shape[0]))
    parts: list[list[Tensor]] = [[], [], [], []]
    for start in range(0, len(hidden), step):
        low, high = np.searchsorted(which[order], (start, start + step))
        at = _tensor(which[order[low:high]] - start, device)
        wanted = _tensor(targets[order[low:high]], device)
        logits = model.logits(hidden[start : start + step]).float()
        finite = logits.sum(-1).isfinite()  # one pass; a sum of finite logits overflows only beyond 1e33
        likely = logits.argmax(-1)
        total = logits.logsumexp(-1)
        chosen = logits[at, wanted] - total[at]
        parts[0].append(torch.where(finite[at], chosen.double(), torch.nan))
        parts[1].append((likely[at] != wanted).double())
        if tokens:
            logs = logits.sub_(total[:, None])
            p = logs.exp()
            mean = (p * logs).sum(-1)
            # Σ p (log p - mean)²: the same as the difference of squares, without its cancellation.
            spread = (p * (logs - mean[:, None]).square_()).sum(-1).sqrt()
            for place, values in ((2, mean), (3, spread)):
                parts[place].append(torch.where(finite, values, torch.nan)[at].double())
    back = np.empty_like(order)
    back[order] = np.arange(len(order))
    return [torch.cat(part).cpu().numpy()[back] for part in parts if part]
