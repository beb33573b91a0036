"""Where texts' keys and values lie, and how attention reads them there.

In: what texts read now, and the blocks they have. Out: for each run of new tokens, their attention over the cache. Must never happen: a
text that sees another's keys, or what is no number in one text's keys that reaches another through a mask.

Attention copies no keys where it can: a text whose blocks are neighbours (the scheduler sees to that) is read through a view of the
cache, and texts that read one id each and begin at equal distances through one view with a row for each (`Rows`). A text in scattered
blocks, one with a shared beginning say, is gathered first.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from puna.model.attention import attention, attention_mask
from puna.model.config import ModelConfig


@dataclass(frozen=True)
class Reading:
    """What one text reads in a pass: `ids` from position `start` on. `wanted`: after how many of the last ids logits are wanted."""

    ids: Sequence[int]
    start: int
    blocks: Sequence[int]
    wanted: int


class PagedCache:
    """Keys and values of `blocks` blocks of `size` tokens: for each layer [blocks·size, kv_heads, head_dim]."""

    def __init__(
        self, config: ModelConfig, blocks: int, size: int, dtype: torch.dtype, device: torch.device | str = "cpu"
    ) -> None:
        shape = (blocks * size, config.num_key_value_heads, config.head_dim)
        self.size, self.layers = size, config.num_hidden_layers
        self.replay: Any = None  # on a GPU, this cache's `replay.Replay`
        self.k = [_zeros(shape, dtype, device) for _ in range(self.layers)]
        self.v = [_zeros(shape, dtype, device) for _ in range(self.layers)]

    def clear(self, blocks: Sequence[int]) -> None:
        """Put zeros into these blocks: what is no number must not stay, for a masked place takes part as zero times what it holds."""
        for block in blocks:
            for store in (*self.k, *self.v):
                store[block * self.size : (block + 1) * self.size] = 0

    @staticmethod
    def bytes_per_token(config: ModelConfig, dtype: torch.dtype) -> int:
        """Bytes of the keys and values of one token."""
        return 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * dtype.itemsize


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device | str) -> Tensor:
    """Zeros; on a CPU in pages that take no memory before something is written there (torch writes the zeros at once)."""
    if torch.device(device).type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    store = np.zeros(math.prod(shape) * dtype.itemsize, dtype=np.uint8)
    return torch.from_numpy(store).view(dtype).view(shape)


def lines(readings: Sequence[Reading], size: int) -> tuple[list[int], list[int], list[int], list[int]]:
    """All readings in one line: ids, positions, places in the cache, and where in the line logits are wanted."""
    ids: list[int] = []
    positions: list[int] = []
    slots: list[int] = []
    wanted: list[int] = []
    for one in readings:
        ids.extend(one.ids)
        steps = range(one.start, one.start + len(one.ids))
        positions.extend(steps)
        slots.extend([one.blocks[step // size] * size + step % size for step in steps])
        wanted.extend(range(len(ids) - one.wanted, len(ids)))
    return ids, positions, slots, wanted


def looks_of(readings: Sequence[Reading], cache: PagedCache, window: int | None) -> "list[Look | Rows]":
    """How each part of the line attends, in its order: runs of single ids together where one view shows all their keys."""
    looks: list[Look | Rows] = []
    start = 0
    while start < len(readings):
        end = start
        while window is None and end < len(readings) and len(readings[end].ids) == 1:
            end += 1
        rows = Rows.of(readings[start:end], cache) if end - start > 1 else None
        if rows is not None:
            looks.append(rows)
        else:
            end = max(end, start + 1)
            looks.extend(Look(one, cache, window) for one in readings[start:end])
        start = end
    return looks


def _run(blocks: Sequence[int]) -> bool:
    """Whether the blocks are neighbours in order."""
    return blocks[-1] - blocks[0] == len(blocks) - 1 and all(
        later - earlier == 1 for earlier, later in zip(blocks, blocks[1:], strict=False)
    )


class Rows:
    """Texts that read one id each, whose keys begin at multiples of one distance: one product over a strided view of the cache.

    A place between them where no such text lies is computed and thrown away. Rows do not overlap: what is no number in one
    text's keys would reach its neighbour through the mask.
    """

    def __init__(self, begins: Sequence[int], lengths: Sequence[int], distance: int, cache: PagedCache) -> None:
        device, self.count, self._distance = cache.k[0].device, len(begins), distance
        self._first, self._longest = min(begins), max(lengths)
        places = [(begin - self._first) // distance for begin in begins]
        self._places = max(places) + 1
        order = None if places == list(range(self._places)) else torch.tensor(places, device=device)
        self._order = order
        own = torch.ones(self._places, dtype=torch.long, device=device)
        own[order if order is not None else slice(None)] = torch.tensor(lengths, device=device)
        self._mask = (torch.arange(self._longest, device=device) < own[:, None])[:, None, None]

    @classmethod
    def of(cls, readings: Sequence[Reading], cache: PagedCache) -> "Rows | None":
        """None where a text lies in scattered blocks, or where most of what the view shows would be nobody's."""
        begins, lengths = [], []
        for one in readings:
            blocks = one.blocks[: one.start // cache.size + 1]
            if not _run(blocks):
                return None
            begins.append(blocks[0] * cache.size)
            lengths.append(one.start + 1)
        first, longest = min(begins), max(lengths)
        distance = math.gcd(*(begin - first for begin in begins))
        places = (max(begins) - first) // max(distance, 1) + 1
        fits = longest <= distance and max(begins) + longest <= len(cache.k[0])
        return cls(begins, lengths, distance, cache) if fits and places * longest <= 2 * sum(lengths) else None

    def attend(
        self, q: Float[Tensor, "n h e"], keys: Float[Tensor, "slots kv e"], values: Float[Tensor, "slots kv e"]
    ) -> Float[Tensor, "n he"]:
        """What each new token gets of what it sees."""
        if self._order is not None:
            q = q.new_zeros(self._places, *q.shape[1:]).index_copy_(0, self._order, q)
        _, kv, width = keys.shape
        shape, strides = (self._places, kv, self._longest, width), (self._distance * kv * width, width, kv * width, 1)
        k, v = (x.as_strided(shape, strides, self._first * kv * width) for x in (keys, values))
        grouped = q.view(self._places, kv, -1, width)
        out = F.scaled_dot_product_attention(grouped, k, v, attn_mask=self._mask).reshape(self._places, -1)
        return out if self._order is None else out[self._order]


class Look:
    """Where one text's keys lie, and what its new tokens may see of them: made once for all layers."""

    def __init__(self, reading: Reading, cache: PagedCache, window: int | None) -> None:
        size, device = cache.size, cache.k[0].device
        count, end = len(reading.ids), reading.start + len(reading.ids)
        self.count = count
        # With a window, blocks that lie before it for every new token are not looked at.
        first = 0 if window is None else max(0, reading.start - window + 1) // size
        blocks = reading.blocks[first : -(-end // size)]
        self._index: Tensor | None = None
        if _run(blocks):
            self._begin = blocks[0] * size
        else:
            begins = torch.tensor(blocks, dtype=torch.long, device=device)[:, None] * size
            self._index = (begins + torch.arange(size, device=device)).flatten()[: end - first * size]
        self._extent = end - first * size
        self._mask: Tensor | None = None
        self._causal = count > 1 and reading.start == 0 and window is None
        if not self._causal and (count > 1 or (window is not None and self._extent > window)):
            steps = torch.arange(first * size, end, device=device)
            self._mask = attention_mask(steps[-count:], steps, window=window)

    def attend(
        self, q: Float[Tensor, "n h e"], keys: Float[Tensor, "slots kv e"], values: Float[Tensor, "slots kv e"]
    ) -> Float[Tensor, "n he"]:
        """What each new token gets of what it sees."""
        if self._index is None:
            k, v = (x.narrow(0, self._begin, self._extent) for x in (keys, values))
        else:
            k, v = keys.index_select(0, self._index), values.index_select(0, self._index)
        k, v = k.transpose(0, 1)[None], v.transpose(0, 1)[None]
        count = len(q)
        if count == 1:  # heads that share keys stand in the place of several queries
            grouped = q.view(1, k.shape[1], -1, q.shape[-1])
            return F.scaled_dot_product_attention(grouped, k, v, attn_mask=self._mask).reshape(1, -1)
        out = attention(q.transpose(0, 1)[None], k, v, causal=self._causal, mask=self._mask)
        return out[0].transpose(0, 1).reshape(count, -1)
