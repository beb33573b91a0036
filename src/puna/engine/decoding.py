"""The decoder's pass for one new token per row: the same arithmetic as `Decoder.forward`, in as few calls as it takes.

In: a decoder, its filled cache, one id per row. Out: one hidden state per row; the cache is one token longer.
Must never happen: a result other than the decoder's own (a test holds the two together for every kind of config).

A small model's pass is bound by the number of calls, not by arithmetic: a matrix product takes 20 microseconds, and
modules, views and masks around it took five times as long. Weights are shared with the decoder, never copied.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from puna.model.cache import KVCache
from puna.model.decoder import Decoder, Layer


class _Weights(NamedTuple):
    """One layer's tensors: norms, projections with their biases, MLP."""

    norm: Tensor
    projections: tuple[tuple[Tensor, Tensor | None], ...]
    q_norm: Tensor | None
    k_norm: Tensor | None
    o: Tensor
    mlp_norm: Tensor
    gate: Tensor
    up: Tensor
    down: Tensor


def _weights(layer: Layer) -> _Weights:
    attention, mlp = layer.self_attn, layer.mlp
    projections = (attention.q_proj, attention.k_proj, attention.v_proj)
    return _Weights(
        norm=layer.input_layernorm.weight,
        projections=tuple((one.weight, one.bias) for one in projections),
        q_norm=None if attention.q_norm is None else attention.q_norm.weight,
        k_norm=None if attention.k_norm is None else attention.k_norm.weight,
        o=attention.o_proj.weight,
        mlp_norm=layer.post_attention_layernorm.weight,
        gate=mlp.gate_proj.weight,
        up=mlp.up_proj.weight,
        down=mlp.down_proj.weight,
    )


class OneToken:
    """Reads one token per row after what `cache` holds. Made once per batch, for `cache`'s longest row."""

    def __init__(self, model: Decoder, cache: KVCache) -> None:
        self._config = model.config
        self._layers = [_weights(layer) for layer in model.model.layers if isinstance(layer, Layer)]
        self._embedding, self._norm = model.model.embed_tokens.weight, model.model.norm.weight
        self._steps = torch.arange(cache.max_len, device=self._embedding.device)
        cos, sin = model.rope(self._steps)
        # rotate-half as two products: x·[cos, cos] + swap(x)·[-sin, sin]
        self._cos, self._sin = torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)

    def __call__(self, ids: Int[Tensor, " b"], cache: KVCache) -> Float[Tensor, "b d"]:
        """Hidden states after the final norm. Raises `ValueError` where a row is full."""
        if cache.longest >= cache.max_len:
            raise ValueError(f"a row of {cache.longest} tokens fills the cache")
        eps, dim = self._config.rms_norm_eps, self._config.hidden_size
        extent, mask = cache.longest + 1, self._mask(cache)
        cos, sin = self._cos[cache.lengths][:, None], self._sin[cache.lengths][:, None]
        rows = torch.arange(len(ids), device=ids.device)
        x = F.embedding(ids, self._embedding)
        for number, one in enumerate(self._layers):
            read = F.rms_norm(x, (dim,), one.norm, eps)
            q, k, v = self._project(read, one, cos, sin)
            keys, values = cache.k[number], cache.v[number]
            if len(ids) == 1:
                keys[:, :, extent - 1], values[:, :, extent - 1] = k, v
            else:
                keys[rows, :, cache.lengths], values[rows, :, cache.lengths] = k.to(keys.dtype), v.to(values.dtype)
            x = x + F.linear(self._attend(q, keys[:, :, :extent], values[:, :, :extent], mask), one.o)
            read = F.rms_norm(x, (dim,), one.mlp_norm, eps)
            x = x + F.linear(F.silu(F.linear(read, one.gate)) * F.linear(read, one.up), one.down)
        cache.advance(1)
        return F.rms_norm(x, (dim,), self._norm, eps)

    def _mask(self, cache: KVCache) -> Bool[Tensor, "b 1 1 s"] | None:
        """What each row's new token may see of its row; None where that is all that is written."""
        window = self._config.sliding_window
        if len(cache.lengths) == 1 and (window is None or cache.longest < window):
            return None
        steps, lengths = self._steps[: cache.longest + 1], cache.lengths[:, None]
        mask = steps <= lengths
        if window is not None:
            mask = mask & (lengths - steps < window)
        return mask[:, None, None]

    def _project(
        self, x: Float[Tensor, "b d"], one: _Weights, cos: Float[Tensor, "b 1 e"], sin: Float[Tensor, "b 1 e"]
    ) -> tuple[Float[Tensor, "b h e"], Float[Tensor, "b kv e"], Float[Tensor, "b kv e"]]:
        """Queries and keys, normed where the model does, turned by their positions; values."""
        width, eps = self._config.head_dim, self._config.rms_norm_eps
        q, k, v = (F.linear(x, weight, bias).view(len(x), -1, width) for weight, bias in one.projections)
        if one.q_norm is not None and one.k_norm is not None:
            q, k = F.rms_norm(q, (width,), one.q_norm, eps), F.rms_norm(k, (width,), one.k_norm, eps)
        return _turn(q, cos, sin), _turn(k, cos, sin), v

    def _attend(
        self,
        q: Float[Tensor, "b h e"],
        k: Float[Tensor, "b kv s e"],
        v: Float[Tensor, "b kv s e"],
        mask: Bool[Tensor, "b 1 1 s"] | None,
    ) -> Float[Tensor, "b he"]:
        """Attention of one query per head; the heads that share keys stand in the place of several queries."""
        grouped = q.view(len(q), k.shape[1], -1, q.shape[-1])
        return F.scaled_dot_product_attention(grouped, k.to(q.dtype), v.to(q.dtype), attn_mask=mask).reshape(len(q), -1)


def _turn(
    x: Float[Tensor, "b h e"], cos: Float[Tensor, "b 1 e"], sin: Float[Tensor, "b 1 e"]
) -> Float[Tensor, "b h e"]:
    half = x.shape[-1] // 2
    return (x * cos + torch.cat((x[..., half:], x[..., :half]), dim=-1) * sin).to(x.dtype)
