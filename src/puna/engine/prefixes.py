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
from puna.engine.scoring import Row
from puna.engine.sharing import Run, best_runs, common, sort_key
from puna.errors import PunaError
from puna.model.decoder import Decoder

BATCH_TOKENS = 4096
_LOGIT_BYTES = 64 << 20  # logits exist for so many places at once
_PREFIX_BYTES = 128 << 20  # a batch's copy of one layer's keys and values, its prefix included
_MOST_BEHIND = 1024  # places behind one trunk: they are attended to with a mask, whose cost grows with their square
_SHORTEST_PREFIX = 16
_WASTE = 0.05  # of a batch's tokens, in padding, from which on it is closed where that costs more than one more pass
_RUN_COST = 4.0  # tokens: what a trunk with branches costs beside its tokens
_COPY = 0.05  # tokens: what it costs a row to have one token of a prefix before it


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


@dataclass
class _Leaf:
    """Rows with the same input (all tokens but the last)."""

    ids: Sequence[int]
    rows: list[int]
    first: int  # the first place that any of its rows scores


@dataclass
class _Group:
    """Leaves that share a trunk of `trunk` tokens. `head` tokens of it are a prefix read before."""

    leaves: list[_Leaf]
    trunk: int
    head: int = 0

    @property
    def behind(self) -> int:
        return sum(len(leaf.ids) - self.trunk for leaf in self.leaves)


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
    leaves = _leaves(rows, context)
    if not leaves:
        return
    shape = _Cost(model)
    reader = Reader(model)
    alone: list[_Leaf] = []
    for prefix, batch in _batches(reader, shape, leaves, batch_tokens):
        for number, one in _score(model, reader, rows, batch, prefix, tokens):
            if one.loglikelihood != one.loglikelihood and (len(batch) > 1 or len(batch[0].leaves) > 1):
                # A value that is no number spreads to what it is masked from (0 · NaN): each such row again by itself.
                alone.append(_Leaf(_input(rows[number]), [number], len(rows[number][0]) - 1))
            else:
                yield number, one
    for leaf in alone:
        yield from _score(model, reader, rows, [_Group([leaf], len(leaf.ids))], None, tokens)


def _input(row: Row) -> list[int]:
    return [*row[0], *row[1]][:-1]


def _leaves(rows: Sequence[Row], context: int) -> list[tuple[bytes, _Leaf]]:
    """Rows by their input, sorted by it."""
    leaves: dict[bytes, _Leaf] = {}
    for number, row in enumerate(rows):
        if not row[0] or not row[1]:
            what = (
                "prompt: its first token has no condition" if not row[0] else "continuation: there is nothing to score"
            )
            raise ValueError(f"row {number} has an empty {what}")
        ids = _input(row)
        if len(ids) > context:
            raise PunaError(
                f"row {number} has {len(ids) + 1} tokens and the model's context is {context}",
                mend="score a shorter text, or one window of it after another",
            )
        leaf = leaves.setdefault(sort_key(ids), _Leaf(ids, [], len(ids)))
        leaf.rows.append(number)
        leaf.first = min(leaf.first, len(row[0]) - 1)
    return sorted(leaves.items(), key=lambda pair: pair[0])


class _Cost:
    """What reading costs, in tokens that pass the layers: a pair of query and key costs `pair` of that.

    On a CPU a pair takes about 2.7 ns a head whatever its width, a parameter 0.018 ns a token, and a layer's calls 80 us a pass, and
    weights come from memory once a pass (measured): so small models are bound by attention and calls. A wrong figure costs time, never a result.
    """

    def __init__(self, model: Decoder) -> None:
        config = model.config
        per_layer = (config.parameters - model.head_weight().numel()) / config.num_hidden_layers
        self.pair = 150 * config.num_attention_heads / max(per_layer, 1.0)
        self.one_pass = 48 + 4.4e6 / max(per_layer, 1.0)
        self.kv_bytes = 2 * config.num_key_value_heads * config.head_dim * model.head_weight().element_size()

    def trunks(self, count: int, total: float, squares: float) -> float:
        """Reading `count` whole rows of `total` tokens, with the sum of their lengths' squares."""
        return total + self.pair * squares / 2

    def behind_prefix(self, depth: int, count: int, total: float, squares: float) -> float:
        """Reading `depth` tokens once, then the rest of such rows behind them: Σ r·(d + r) = Σ p² - d·Σ p with p = d + r."""
        rest = total - count * depth + self.pair * (squares - depth * total)
        return self.trunks(1, depth, depth**2) + rest + _COPY * count * depth + 2 * self.one_pass

    def behind(self, queries: float, before: float) -> float:
        """Reading `queries` tokens that see `before` tokens and each other under a mask."""
        return queries + self.pair * queries * (before + queries)


def _groups(leaves: list[tuple[bytes, _Leaf]], cost: _Cost) -> list[tuple[bytes, _Group]]:
    """Trunks with branches, where that is cheaper than whole rows; in the leaves' order."""
    lengths = np.array([len(leaf.ids) for _, leaf in leaves], dtype=np.float64)
    sums, squares = (np.concatenate(([0.0], part.cumsum())) for part in (lengths, lengths**2))

    def gain(run: Run) -> float:
        count, total = run.end - run.start, sums[run.end] - sums[run.start]
        behind = total - count * run.depth
        if run.depth == 0 or behind > _MOST_BEHIND:
            return -1.0
        square = squares[run.end] - squares[run.start]
        apart = cost.trunks(count, total, square)
        if run.depth >= _SHORTEST_PREFIX:  # the other way to share: better for many, or long, ends
            apart = min(apart, cost.behind_prefix(run.depth, count, total, square))
        return apart - cost.trunks(1, run.depth, run.depth**2) - cost.behind(behind, run.depth) - _RUN_COST

    runs = best_runs([common(leaves[i][0], leaves[i + 1][0]) for i in range(len(leaves) - 1)], gain)
    out: list[tuple[bytes, _Group]] = []
    place = 0
    for run in [*runs, Run(len(leaves), len(leaves), 0)]:
        out += [(key, _Group([leaf], len(leaf.ids))) for key, leaf in leaves[place : run.start]]
        if run.end > run.start:
            members = [leaf for _, leaf in leaves[run.start : run.end]]
            out.append((leaves[run.start][0][: 4 * run.depth], _Group(members, run.depth)))
        place = run.end
    return out


def _heads(groups: list[tuple[bytes, _Group]], cost: _Cost) -> list[tuple[int, list[_Group]]]:
    """Groups with the number of first tokens that they get from one prefix; 0 and all the others last."""
    lengths = np.array([group.trunk for _, group in groups], dtype=np.float64)
    sums, squares = (np.concatenate(([0.0], part.cumsum())) for part in (lengths, lengths**2))
    # No scored place may lie in a prefix, and a trunk keeps at least one token of its own.
    most = [min(group.trunk - 1, *(leaf.first for leaf in group.leaves)) for _, group in groups]
    shared = [min(common(groups[i][0], groups[i + 1][0]), most[i], most[i + 1]) for i in range(len(groups) - 1)]

    def gain(run: Run) -> float:
        count, total, square = (
            run.end - run.start,
            sums[run.end] - sums[run.start],
            squares[run.end] - squares[run.start],
        )
        if run.depth < _SHORTEST_PREFIX:
            return -1.0
        return cost.trunks(count, total, square) - cost.behind_prefix(run.depth, count, total, square)

    out: list[tuple[int, list[_Group]]] = []
    free: list[_Group] = []
    place = 0
    for run in [*best_runs(shared, gain), Run(len(groups), len(groups), 0)]:
        free += [group for _, group in groups[place : run.start]]
        if run.end > run.start:
            members = [group for _, group in groups[run.start : run.end]]
            for group in members:
                group.head = run.depth
            out.append((run.depth, members))
        place = run.end
    out.sort(key=lambda pair: -max(group.trunk + group.behind for group in pair[1]))
    return [*out, (0, free)] if free else out


def _batches(
    reader: Reader, cost: _Cost, leaves: list[tuple[bytes, _Leaf]], batch_tokens: int
) -> Iterator[tuple[Prefix | None, list[_Group]]]:
    """Batches of groups of like lengths, longest first, each with the prefix that it goes on from."""
    device = reader.device
    for head, members in _heads(_groups(leaves, cost), cost):
        prefix = None
        if head:
            with torch.inference_mode():
                prefix = reader.prefix(torch.tensor(members[0].leaves[0].ids[:head], device=device))
        members.sort(key=lambda group: (-_bucket(group.trunk - head), -group.behind, -group.trunk))
        batch: list[_Group] = []
        trunk = behind = real = 0
        for group in members:
            own = group.trunk - head
            wider, longer = max(trunk, own), max(behind, group.behind)
            padded = (len(batch) + 1) * (wider + longer)
            full = padded > batch_tokens or (len(batch) + 1) * (head + wider + longer) * cost.kv_bytes > _PREFIX_BYTES
            waste = padded - (real + own + group.behind)
            loose = waste > cost.one_pass and waste > _WASTE * padded
            if batch and (full or loose):
                yield prefix, batch
                batch, real, wider, longer = [], 0, own, group.behind
            batch.append(group)
            trunk, behind, real = wider, longer, real + own + group.behind
        if batch:
            yield prefix, batch


def _bucket(length: int) -> int:
    """Lengths within about a tenth of each other, or a few tokens, get the same number: within it, what is behind decides."""
    return int(8 * math.log2(length + 8))


@dataclass
class _Asked:
    """What is asked of a batch: tokens at places, one entry for each token of each row's continuation."""

    place: NDArray[np.int64]  # line · width + place in the line
    target: NDArray[np.int64]
    row: NDArray[np.int64]  # place in `rows`
    rows: list[int]


def _score(
    model: Decoder, reader: Reader, rows: Sequence[Row], batch: list[_Group], prefix: Prefix | None, tokens: bool
) -> Iterator[tuple[int, Score]]:
    """One batch: its pack, one pass, the head at the places that are asked for."""
    head = batch[0].head
    pack, asked = _pack(rows, batch, head, reader.device)
    width = pack.ids.shape[1]
    places, which = np.unique(asked.place, return_inverse=True)
    lines, columns = places // width, places % width
    counts = np.bincount(lines, minlength=len(batch))
    slots = np.arange(len(places)) - np.repeat(counts.cumsum() - counts, counts)
    wanted = np.zeros((len(batch), int(counts.max())), dtype=np.int64)
    wanted[lines, slots] = columns
    with torch.inference_mode():
        hidden = reader(pack, _tensor(wanted, reader.device), prefix)
        hidden = hidden[_tensor(lines, reader.device), _tensor(slots, reader.device)]
        figures = _figures(model, hidden, which, asked.target, tokens)
    totals = np.bincount(asked.row, weights=figures[0], minlength=len(asked.rows))
    missed = np.bincount(asked.row, weights=figures[1], minlength=len(asked.rows))
    ends = np.bincount(asked.row, minlength=len(asked.rows)).cumsum()
    for number, row in enumerate(asked.rows):
        detail = None
        if tokens:
            part = slice(int(ends[number - 1]) if number else 0, int(ends[number]))
            detail = Tokens(*(tuple(figures[i][part].tolist()) for i in (0, 2, 3)))
        total = float(totals[number])
        yield row, Score(total, total == total and missed[number] == 0, detail)


def _tensor(values: NDArray[np.int64], device: torch.device) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values)).to(device)


def _pack(rows: Sequence[Row], batch: list[_Group], head: int, device: torch.device) -> tuple[Pack, _Asked]:
    """The batch's tokens, and where each row's continuation is asked for. Padding repeats a token of the line itself."""
    split = max(group.trunk for group in batch) - head
    behind = max(group.behind for group in batch)
    width = split + behind
    ids, positions = np.zeros((len(batch), width), np.int64), np.zeros((len(batch), width), np.int64)
    branch = np.full((len(batch), behind), -1, np.int64)
    positions[:, :split] = np.arange(head, head + split)
    place: list[NDArray[np.int64]] = []
    row: list[NDArray[np.int64]] = []
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
                row.append(np.full(len(steps), len(order)))
                order.append(one)
            at += own
    lengths = np.array([group.trunk - head for group in batch], dtype=np.int64)
    pack = Pack(
        _tensor(ids, device), split, _tensor(lengths, device), _tensor(branch, device), _tensor(positions, device)
    )
    return pack, _Asked(np.concatenate(place), np.array(target, dtype=np.int64), np.concatenate(row), order)


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
