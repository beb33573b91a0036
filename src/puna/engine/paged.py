"""One pass of a decoder over parts of many texts, with their keys and values in blocks of one shared cache.

In: for each text the ids to read now, the position of the first, its blocks. Out: logits after the wanted ids; the cache holds the new
keys and values. Must never happen: a text that reads another's keys, or a result other than the decoder's own beyond rounding.

All ids of all texts stand in one line and share each matrix product; attention goes text by text or row by row (`looks`). On a GPU,
where launches are what costs, single ids go through `replay`.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from puna.engine.linears import Precision, Product, cache_type, product, product_of
from puna.engine.looks import PagedCache, Reading, lines, looks_of
from puna.model.config import ModelConfig
from puna.model.decoder import Decoder, Layer

Attend = Callable[[int, Tensor], Tensor]
"""(number of the layer, queries [n, h, e]) -> what they get of what they see [n, h·e]; the layer's new keys are in the cache by then."""


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
        """A cache of this model's shape. On a GPU it has one block more, which is nobody's: `replay` needs it."""
        more = 1 if self.device.type == "cuda" else 0
        return PagedCache(self.config, blocks + more, size, self.dtype, self.device)

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
        if self.device.type == "cuda" and all(len(one.ids) == one.wanted == 1 for one in readings):
            if cache.replay is None:
                from puna.engine.replay import Replay

                cache.replay = Replay(self, cache)
            return cache.replay(readings)
        looks = looks_of(readings, cache, self.config.sliding_window)
        counts = [look.count for look in looks]

        def attend(number: int, q: Float[Tensor, "n h e"]) -> Float[Tensor, "n he"]:
            keys, values = cache.k[number], cache.v[number]
            parts = [look.attend(part, keys, values) for look, part in zip(looks, q.split(counts), strict=True)]
            return parts[0] if len(parts) == 1 else torch.cat(parts)

        ids, positions, slots, wanted = lines(readings, cache.size)
        at = self.tensor(wanted) if len(wanted) < len(ids) else None
        return self.through(self.tensor(ids), self.tensor(positions), self.tensor(slots), cache, attend, at)

    def through(
        self, ids: Int[Tensor, " n"], positions: Int[Tensor, " n"], slots: Int[Tensor, " n"], cache: PagedCache, attend: Attend,
        at: Int[Tensor, " w"] | None = None,
    ) -> Float[Tensor, "n d"]:  # fmt: skip
        """All layers over n ids in a line, whose keys go to `slots` of the cache; of the last layer only the places `at`."""
        config = self.config
        eps, dim, width = config.rms_norm_eps, config.hidden_size, config.head_dim
        heads, kv = config.num_attention_heads, config.num_key_value_heads
        x = F.embedding(ids, self._embedding).float()
        cos, sin = self._angles[positions][:, :, None].unbind(1)
        for number, one in enumerate(self._layers):
            read = F.rms_norm(x, (dim,), one.norm, eps)
            qk, v = one.qkv(read).view(len(ids), -1, width).split((heads + kv, kv), 1)
            if one.q_norm is not None and one.k_norm is not None:
                q, k = qk.split((heads, kv), 1)
                qk = torch.cat((F.rms_norm(q, (width,), one.q_norm, eps), F.rms_norm(k, (width,), one.k_norm, eps)), 1)
            q, k = _turn(qk, cos, sin).to(self.dtype).split((heads, kv), 1)
            cache.k[number].index_copy_(0, slots, k)
            cache.v[number].index_copy_(0, slots, v.to(self.dtype))
            mixed = attend(number, q)
            if number == len(self._layers) - 1 and at is not None:  # behind these keys nobody reads what was not wanted
                x, mixed = x[at], mixed[at]
            x = x + one.o(mixed)
            read = F.rms_norm(x, (dim,), one.mlp_norm, eps)
            gate, up = one.gate_up(read).chunk(2, -1)
            x = x + one.down(F.silu(gate) * up)
        return F.rms_norm(x, (dim,), self._norm, eps)

    def tensor(self, values: list[int]) -> Int[Tensor, " n"]:
        """Numbers on the reader's device."""
        return torch.tensor(values, dtype=torch.long, device=self.device)


def _turn(
    x: Float[Tensor, "n h e"], cos: Float[Tensor, "n 1 e"], sin: Float[Tensor, "n 1 e"]
) -> Float[Tensor, "n h e"]:
    half = x.shape[-1] // 2
    return x * cos + torch.cat((x[..., half:], x[..., :half]), dim=-1) * sin
