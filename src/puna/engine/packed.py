"""One pass over a batch of trunks with branches: what several rows have in common is read once, with no cache in between.

In: a decoder and a `Pack`. Out: hidden states, at the wanted places alone. Must never happen: a branch sees another branch, or
a result other than the decoder's own beyond rounding (tests hold the two together for every kind of config).

A pack's row is a trunk (a question with its prompt) and, behind it, branches (its answers) that all go on from the trunk's end:

    place      0 ............. p-1 | p ........................ p+t-1
    tokens     trunk, padding      | branch 0, branch 1, ..., padding
    position   0, 1, 2, ...        | each branch from the trunk's length on

A trunk's tokens attend causally; a branch's tokens to their whole trunk and, causally, to their own branch. What stands before
all trunks of a batch (the same few-shot examples) may come as a `Prefix`: its keys and values of every layer.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from puna.engine.decoding import _Weights, _weights
from puna.model.attention import attention, attention_mask
from puna.model.decoder import Decoder, Layer


@dataclass
class Prefix:
    """Keys and values of the tokens that stand before every trunk: a list per layer of [1, kv, length, d]."""

    k: list[Tensor]
    v: list[Tensor]

    @property
    def length(self) -> int:
        """Tokens read."""
        return self.k[0].shape[2]


@dataclass
class Pack:
    """A batch. `branch` numbers the branch that each place behind the trunk belongs to, -1 where it is padding."""

    ids: Int[Tensor, "b l"]  # l = p + t
    trunk: int  # p
    lengths: Int[Tensor, " b"]  # of the trunks, without padding
    branch: Int[Tensor, "b t"]
    positions: Int[Tensor, "b l"]  # counted from the beginning of the text, the prefix included

    def visible(self, places: Int[Tensor, "b n"], before: int, window: int | None = None) -> Bool[Tensor, "b 1 n s"]:
        """What the tokens at `places` may see of [prefix, trunk, branches] (s = before + l)."""
        device, split = self.ids.device, self.trunk
        steps = torch.arange(split, device=device)
        until = torch.where(places < split, places + 1, self.lengths[:, None])
        in_trunk = steps < until[..., None]
        behind = self.ids.shape[1] - split
        of_query = torch.where(
            places < split, -2, self.branch.gather(1, (places - split).clamp(min=0)) if behind else places
        )
        order = torch.arange(behind, device=device) <= (places - split)[..., None]
        in_branch = (self.branch[:, None, :] == of_query[..., None]) & order
        in_prefix = torch.ones(*places.shape, before, dtype=torch.bool, device=device)
        seen = torch.cat((in_prefix, in_trunk, in_branch), dim=-1)
        if window is not None:
            at = self.positions.gather(1, places)[..., None]
            keys = torch.cat((torch.arange(before, device=device).expand(len(places), -1), self.positions), dim=1)
            seen = seen & (at - keys[:, None, :] < window)
        return seen.unsqueeze(1)


class Reader:
    """Reads packs with one decoder. Weights are shared with it, never copied."""

    def __init__(self, model: Decoder) -> None:
        self._model, self._config = model, model.config
        self._layers = [_weights(layer) for layer in model.model.layers if isinstance(layer, Layer)]

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self._model.head_weight().device

    def prefix(self, ids: Int[Tensor, " n"]) -> Prefix:
        """The keys and values of `ids`, read from position 0."""
        count = torch.tensor([len(ids)], device=ids.device)
        steps = torch.arange(len(ids), device=ids.device)[None]
        pack = Pack(ids[None], len(ids), count, ids.new_zeros(1, 0), steps)
        kept = Prefix([], [])
        self._read(pack, None, None, kept)
        return kept

    def __call__(self, pack: Pack, wanted: Int[Tensor, "b w"], prefix: Prefix | None = None) -> Float[Tensor, "b w d"]:
        """Hidden states after the final norm at the places `wanted` of each row (repeat one where a row wants fewer)."""
        hidden = self._read(pack, wanted, prefix, None)
        return F.rms_norm(hidden, (hidden.shape[-1],), self._model.model.norm.weight, self._config.rms_norm_eps)

    def _read(
        self, pack: Pack, wanted: Int[Tensor, "b w"] | None, prefix: Prefix | None, kept: Prefix | None
    ) -> Float[Tensor, "b n d"]:
        """All layers. The last one computes the wanted places alone where they are fewer than half."""
        config, split, length = self._config, pack.trunk, pack.ids.shape[1]
        before = 0 if prefix is None else prefix.length
        window = config.sliding_window
        if window is not None and before + length <= window:
            window = None
        trunk_mask = None
        if split and (before or window is not None):
            trunk_mask = attention_mask(
                torch.arange(before, before + split, device=pack.ids.device)[None],
                torch.arange(before + split, device=pack.ids.device),
                window=window,
            )
        branch_mask = None
        if length > split:
            places = torch.arange(split, length, device=pack.ids.device)[None].expand(len(pack.ids), -1)
            branch_mask = pack.visible(places, before, window)
        few = wanted is not None and 2 * wanted.shape[1] < length
        cos, sin = self._model.rope(pack.positions)
        cos, sin = torch.cat((cos, cos), dim=-1)[:, :, None], torch.cat((-sin, sin), dim=-1)[:, :, None]
        x = self._model.embed(pack.ids)
        for number, one in enumerate(self._layers):
            read = F.rms_norm(x, x.shape[-1:], one.norm, config.rms_norm_eps)
            k = self._heads(read, one, 1, cos, sin).transpose(1, 2)
            v = self._heads(read, one, 2).transpose(1, 2)
            if kept is not None:
                kept.k.append(k)
                kept.v.append(v)
            if prefix is not None:
                k, v = (
                    torch.cat((old[number].expand(len(x), -1, -1, -1), new), dim=2)
                    for old, new in ((prefix.k, k), (prefix.v, v))
                )
            if few and wanted is not None and number == len(self._layers) - 1:
                q = self._heads(_at(read, wanted), one, 0, _at(cos, wanted), _at(sin, wanted)).transpose(1, 2)
                mixed = attention(q, k, v, mask=pack.visible(wanted, before, window))
                x = _at(x, wanted)
            else:
                q = self._heads(read, one, 0, cos, sin).transpose(1, 2)
                mixed = _mix(q, k, v, split, before + split, trunk_mask, branch_mask)
            x = _add(x, mixed.transpose(1, 2).reshape(*x.shape[:2], -1), one.o)
            read = F.rms_norm(x, x.shape[-1:], one.mlp_norm, config.rms_norm_eps)
            gate = F.silu(F.linear(read, one.gate), inplace=True)
            x = _add(x, gate.mul_(F.linear(read, one.up)), one.down)
        return x if few or wanted is None else _at(x, wanted)

    def _heads(
        self, x: Float[Tensor, "b n d"], one: _Weights, which: int, cos: Tensor | None = None, sin: Tensor | None = None
    ) -> Float[Tensor, "b n h e"]:
        """Queries (0), keys (1) or values (2): projected, normed where the model does, turned where an angle is given."""
        weight, bias = one.projections[which]
        out = F.linear(x, weight, bias).view(*x.shape[:2], -1, self._config.head_dim)
        norm = (one.q_norm, one.k_norm, None)[which]
        if norm is not None:
            out = F.rms_norm(out, out.shape[-1:], norm, self._config.rms_norm_eps)
        if cos is None or sin is None:
            return out
        half = out.shape[-1] // 2
        turned = torch.cat((out[..., half:], out[..., :half]), dim=-1)
        if out.dtype == cos.dtype:
            return turned.mul_(sin).addcmul_(out, cos)
        return (out * cos + turned * sin).to(out.dtype)


def _at(x: Tensor, places: Int[Tensor, "b w"]) -> Tensor:
    """x [b, l, ...] at the places [b, w] of each row (x may hold one row for all)."""
    rows = torch.arange(len(places), device=x.device)[:, None] if len(x) > 1 else torch.zeros_like(places)
    return x[rows, places]


def _add(x: Float[Tensor, "b n d"], y: Float[Tensor, "b n e"], weight: Float[Tensor, "d e"]) -> Float[Tensor, "b n d"]:
    """x + y·weightᵀ: one product that adds to what stands there."""
    return torch.addmm(x.flatten(0, 1), y.flatten(0, 1), weight.mT).view(x.shape)


def _mix(
    q: Float[Tensor, "b h l d"], k: Float[Tensor, "b kv s d"], v: Float[Tensor, "b kv s d"], split: int, end: int,
    trunk_mask: Tensor | None, branch_mask: Tensor | None,
) -> Float[Tensor, "b h l d"]:  # fmt: skip
    """Trunks and branches apart: the causal kernel leaves out what lies above the diagonal, the masked one is for few queries."""
    parts = []
    if split:
        parts.append(attention(q[:, :, :split], k[:, :, :end], v[:, :, :end], causal=True, mask=trunk_mask))
    if branch_mask is not None:
        parts.append(attention(q[:, :, split:], k, v, mask=branch_mask))
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)
