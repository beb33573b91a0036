"""One pass of a decoder over parts of many texts, with their keys and values in blocks of one shared cache.

In: for each text the ids to read now, the position of the first, its blocks. Out: logits after the wanted ids; the cache holds the new
keys and values. Must never happen: a text that reads another's keys, or a result other than the decoder's own beyond rounding.

All ids of all texts stand in one line and share each matrix product. Attention copies no keys where it can: a text whose blocks are
neighbours (the scheduler sees to that) is read through a view of the cache, and texts that read one id each and begin at equal
distances through one view with a row for each (`_Rows`). A text in scattered blocks, one with a shared beginning say, is gathered first.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from puna.engine.linears import Precision, Product, cache_type, product, product_of
from puna.model.attention import attention, attention_mask
from puna.model.config import ModelConfig
from puna.model.decoder import Decoder, Layer


@dataclass(frozen=True)
class Reading:
    """What one text reads in a pass: `ids` from position `start` on. `wanted`: after how many of the last ids logits are wanted."""

    ids: Sequence[int]
    start: int
    blocks: Sequence[int]
    wanted: int


class AnyCache(Protocol):
    """Keys and values of blocks, in whatever layout the reader has that made it."""

    size: int

    def clear(self, blocks: Sequence[int]) -> None:
        """Put zeros into these blocks."""


class AnyReader(Protocol):
    """What reads: this file's `Reader`, or `openvino.OpenVINOReader`."""

    block: int
    dtype: torch.dtype
    device: torch.device

    def cache(self, blocks: int) -> Any:
        """An empty cache (`AnyCache`), which this reader alone understands."""

    def __call__(self, readings: Sequence[Reading], cache: Any) -> Float[Tensor, "w v"]:
        """Logits in fp32 after the wanted ids of each reading, in order."""

    def hidden(self, readings: Sequence[Reading], cache: Any) -> Float[Tensor, "w d"]:
        """Hidden states after the final norm at the wanted ids."""

    def logits(self, hidden: Float[Tensor, "w d"]) -> Float[Tensor, "w v"]:
        """The head over normed hidden states."""


class PagedCache:
    """Keys and values of `blocks` blocks of `size` tokens: for each layer [blocks·size, kv_heads, head_dim]."""

    def __init__(
        self, config: ModelConfig, blocks: int, size: int, dtype: torch.dtype, device: torch.device | str = "cpu"
    ) -> None:
        shape = (blocks * size, config.num_key_value_heads, config.head_dim)
        self.size, self.layers = size, config.num_hidden_layers
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


class _Weights(NamedTuple):
    norm: Tensor
    qkv: Product
    q_norm: Tensor | None
    k_norm: Tensor | None
    o: Product
    mlp_norm: Tensor
    gate_up: Product
    down: Product


def _weights(layer: Layer, precision: Precision) -> _Weights:
    heads, mlp = layer.self_attn, layer.mlp
    return _Weights(
        norm=layer.input_layernorm.weight,
        qkv=product([heads.q_proj, heads.k_proj, heads.v_proj], precision),
        q_norm=None if heads.q_norm is None else heads.q_norm.weight,
        k_norm=None if heads.k_norm is None else heads.k_norm.weight,
        o=product([heads.o_proj], precision),
        mlp_norm=layer.post_attention_layernorm.weight,
        gate_up=product([mlp.gate_proj, mlp.up_proj], precision),
        down=product([mlp.down_proj], precision),
    )


class Reader:
    """Reads with one decoder's weights."""

    block = 16  # tokens: what is shared is shared in these steps, and at most so many stay unused behind a text

    def __init__(self, model: Decoder, precision: Precision = "fp32", config: ModelConfig | None = None) -> None:
        self.config, self.precision = config or model.config, precision
        self.dtype = cache_type(precision)
        self._layers = [_weights(layer, precision) for layer in model.model.layers if isinstance(layer, Layer)]
        self._norm = model.model.norm.weight
        embedding = model.model.embed_tokens.weight.detach()
        self._embedding = embedding if precision == "fp32" else embedding.bfloat16()
        tied = model.lm_head is None and precision != "int8"
        self._head = product_of(self._embedding if tied else model.head_weight(), None, precision)
        self.device = embedding.device
        steps = torch.arange(self.config.max_position_embeddings, device=self.device)
        cos, sin = model.rope(steps)
        # rotate-half as two products: x·[cos, cos] + swap(x)·[-sin, sin]
        self._angles = torch.stack((torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1)), 1)

    def cache(self, blocks: int, size: int = block) -> PagedCache:
        """A cache of this model's shape."""
        return PagedCache(self.config, blocks, size, self.dtype, self.device)

    @torch.inference_mode()
    def __call__(self, readings: Sequence[Reading], cache: PagedCache) -> Float[Tensor, "w v"]:
        """Logits in fp32 after the wanted ids of each reading, in order."""
        return self.logits(self.hidden(readings, cache))

    def logits(self, hidden: Float[Tensor, "w d"]) -> Float[Tensor, "w v"]:
        """The head over normed hidden states."""
        return self._head(hidden).float()

    @torch.inference_mode()
    def hidden(self, readings: Sequence[Reading], cache: PagedCache) -> Float[Tensor, "w d"]:
        """Hidden states after the final norm at the wanted ids."""
        config, looks = self.config, _looks(readings, cache, self.config.sliding_window)
        eps, dim, width = config.rms_norm_eps, config.hidden_size, config.head_dim
        heads, kv = config.num_attention_heads, config.num_key_value_heads
        ids, positions, slots, wanted = lines(readings, cache.size)
        x = F.embedding(self._tensor(ids), self._embedding).float()
        cos, sin = self._angles[self._tensor(positions)][:, :, None].unbind(1)
        places = self._tensor(slots)
        counts = [look.count for look in looks]
        at = self._tensor(wanted) if len(wanted) < len(ids) else None
        for number, one in enumerate(self._layers):
            last = number == len(self._layers) - 1
            read = F.rms_norm(x, (dim,), one.norm, eps)
            qk, v = one.qkv(read).view(len(ids), -1, width).split((heads + kv, kv), 1)
            if one.q_norm is not None and one.k_norm is not None:
                q, k = qk.split((heads, kv), 1)
                qk = torch.cat((F.rms_norm(q, (width,), one.q_norm, eps), F.rms_norm(k, (width,), one.k_norm, eps)), 1)
            q, k = _turn(qk, cos, sin).to(self.dtype).split((heads, kv), 1)
            keys, values = cache.k[number], cache.v[number]
            keys.index_copy_(0, places, k.to(keys.dtype))
            values.index_copy_(0, places, v.to(values.dtype))
            parts = [look.attend(part, keys, values) for look, part in zip(looks, q.split(counts), strict=True)]
            mixed = parts[0] if len(parts) == 1 else torch.cat(parts)
            if last and at is not None:  # behind the last layer's keys nobody reads what was not wanted
                x, mixed = x[at], mixed[at]
            x = x + one.o(mixed)
            read = F.rms_norm(x, (dim,), one.mlp_norm, eps)
            gate, up = one.gate_up(read).chunk(2, -1)
            x = x + one.down(F.silu(gate) * up)
        return F.rms_norm(x, (dim,), self._norm, eps)

    def _tensor(self, values: list[int]) -> Int[Tensor, " n"]:
        return torch.tensor(values, dtype=torch.long, device=self.device)


def _turn(
    x: Float[Tensor, "n h e"], cos: Float[Tensor, "n 1 e"], sin: Float[Tensor, "n 1 e"]
) -> Float[Tensor, "n h e"]:
    half = x.shape[-1] // 2
    return x * cos + torch.cat((x[..., half:], x[..., :half]), dim=-1) * sin


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


def _looks(readings: Sequence[Reading], cache: PagedCache, window: int | None) -> "list[_Look | _Rows]":
    """How each part of the line attends, in its order: runs of single ids together where one view shows all their keys."""
    looks: list[_Look | _Rows] = []
    start = 0
    while start < len(readings):
        end = start
        while window is None and end < len(readings) and len(readings[end].ids) == 1:
            end += 1
        rows = _Rows.of(readings[start:end], cache) if end - start > 1 else None
        if rows is not None:
            looks.append(rows)
        else:
            end = max(end, start + 1)
            looks.extend(_Look(one, cache, window) for one in readings[start:end])
        start = end
    return looks


def _run(blocks: Sequence[int]) -> bool:
    """Whether the blocks are neighbours in order."""
    return blocks[-1] - blocks[0] == len(blocks) - 1 and all(
        later - earlier == 1 for earlier, later in zip(blocks, blocks[1:], strict=False)
    )


class _Rows:
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
    def of(cls, readings: Sequence[Reading], cache: PagedCache) -> "_Rows | None":
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


class _Look:
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
