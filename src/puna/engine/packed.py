"""One pass over trunks with branches: what several rows have in common is read once, with no cache in between.

In: a decoder and `Pack`s. Out: hidden states, at the wanted places alone. Must never happen: a branch sees another branch, or
a result other than the decoder's own beyond rounding (tests hold the two together for every kind of config).

A pack's row is a trunk (a question with its prompt) and, behind it, branches (its answers) that all go on from the trunk's end:

    place      0 ............. p-1 | p ........................ p+t-1
    tokens     trunk, padding      | branch 0, branch 1, ..., padding
    position   0, 1, 2, ...        | each branch from the trunk's length on

A trunk's tokens attend causally; a branch's tokens to their whole trunk and, causally, to their own branch. What stands before
all trunks of a batch (the same few-shot examples) may come as a `Prefix`: its keys and values of every layer.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

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

    def flat(self, places: Int[Tensor, "b w"]) -> Int[Tensor, " bw"]:
        """Where the places of the rows lie when all rows stand in one line."""
        lines = torch.arange(len(places), device=places.device)[:, None]
        return (lines * self.ids.shape[1] + places).flatten()

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


class _Weights(NamedTuple):
    """One layer's tensors, shared with the decoder: norms, projections with their biases, MLP."""

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
        kept = Prefix([], [])
        self._read([Pack(ids[None], len(ids), count, ids.new_zeros(1, 0), steps)], None, None, kept)
        return kept

    def __call__(
        self, packs: Sequence[Pack], wanted: Sequence[Int[Tensor, "b w"]], prefix: Prefix | None = None
    ) -> list[Float[Tensor, "b w d"]]:
        """Hidden states after the final norm at the places `wanted` of each pack's rows (repeat one where a row wants fewer).

        Packs differ in shape; matrix products take the tokens of all of them at once, attention goes pack by pack.
        """
        hidden = self._read(packs, wanted, prefix, None)
        hidden = F.rms_norm(hidden, hidden.shape[-1:], self._model.model.norm.weight, self._config.rms_norm_eps)
        parts = hidden.split([places.numel() for places in wanted])
        return [part.view(*places.shape, -1) for part, places in zip(parts, wanted, strict=True)]

    def _read(
        self, packs: Sequence[Pack], wanted: Sequence[Tensor] | None, prefix: Prefix | None, kept: Prefix | None
    ) -> Float[Tensor, "m d"]:
        """All layers over n tokens in a line. The last one computes the wanted places alone where they are fewer than half."""
        config, before = self._config, 0 if prefix is None else prefix.length
        looks = [_Look(pack, before, config.sliding_window) for pack in packs]
        sizes = [pack.ids.numel() for pack in packs]
        flat: Tensor | None = None
        if wanted is not None:
            starts = itertools.accumulate(sizes[:-1], initial=0)
            flat = torch.cat(
                [start + pack.flat(places) for start, pack, places in zip(starts, packs, wanted, strict=True)]
            )
        few = flat is not None and 2 * len(flat) < sum(sizes)
        cos, sin = self._model.rope(torch.cat([pack.positions.flatten() for pack in packs]))
        cos, sin = torch.cat((cos, cos), dim=-1)[:, None], torch.cat((-sin, sin), dim=-1)[:, None]
        x = self._model.embed(torch.cat([pack.ids.flatten() for pack in packs]))
        for number, one in enumerate(self._layers):
            last = few and number == len(self._layers) - 1
            read = F.rms_norm(x, x.shape[-1:], one.norm, config.rms_norm_eps)
            k, v = self._heads(read, one, 1, cos, sin).split(sizes), self._heads(read, one, 2).split(sizes)
            if last and flat is not None and wanted is not None:
                x, read, cos, sin = x[flat], read[flat], cos[flat], sin[flat]
                q = self._heads(read, one, 0, cos, sin).split([places.numel() for places in wanted])
            else:
                q = self._heads(read, one, 0, cos, sin).split(sizes)
            mixed = []
            for place, look in enumerate(looks):
                keys, values = look.rows(k[place]), look.rows(v[place])
                if kept is not None:
                    kept.k.append(keys)
                    kept.v.append(values)
                if prefix is not None:
                    keys, values = (
                        torch.cat((old[number].expand(len(new), -1, -1, -1), new), dim=2)
                        for old, new in ((prefix.k, keys), (prefix.v, values))
                    )
                seen = wanted[place] if last and wanted is not None else None
                mixed.append(look.mix(q[place], keys, values, seen))
            x = torch.addmm(x, mixed[0] if len(mixed) == 1 else torch.cat(mixed), one.o.mT)
            read = F.rms_norm(x, x.shape[-1:], one.mlp_norm, config.rms_norm_eps)
            gate = F.silu(F.linear(read, one.gate), inplace=True)
            x = torch.addmm(x, gate.mul_(F.linear(read, one.up)), one.down.mT)
        return x if few or flat is None else x[flat]

    def _heads(
        self, x: Float[Tensor, "n d"], one: _Weights, which: int, cos: Tensor | None = None, sin: Tensor | None = None
    ) -> Float[Tensor, "n h e"]:
        """Queries (0), keys (1) or values (2): projected, normed where the model does, turned where an angle is given."""
        weight, bias = one.projections[which]
        out = F.linear(x, weight, bias).view(len(x), -1, self._config.head_dim)
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


class _Look:
    """Attention within one pack: its masks, made once for all layers."""

    def __init__(self, pack: Pack, before: int, window: int | None) -> None:
        (lines, length), device = pack.ids.shape, pack.ids.device
        if window is not None and before + length <= window:
            window = None
        self._pack, self._before, self._window = pack, before, window
        self._end = before + pack.trunk
        self._trunk: Tensor | None = None
        self._branch: Tensor | None = None
        if pack.trunk and (before or window is not None):
            steps = torch.arange(self._end, device=device)
            self._trunk = attention_mask(steps[None, before:], steps, window=window)
        if length > pack.trunk:
            places = torch.arange(pack.trunk, length, device=device).expand(lines, -1)
            self._branch = pack.visible(places, before, window)

    def rows(self, x: Float[Tensor, "n h e"]) -> Float[Tensor, "b h l e"]:
        """The pack's tokens, which lie in a line, as its rows."""
        return x.view(len(self._pack.ids), -1, *x.shape[1:]).transpose(1, 2)

    def mix(
        self,
        q: Float[Tensor, "n h e"],
        k: Float[Tensor, "b kv s e"],
        v: Float[Tensor, "b kv s e"],
        places: Tensor | None,
    ) -> Float[Tensor, "n he"]:
        """What each token gets of what it sees; `places`: the queries are those of these places [b, w] alone.

        Trunks and branches apart: the causal kernel leaves out what lies above the diagonal, the masked one is for few queries.
        """
        queries, split = self.rows(q), self._pack.trunk
        if places is not None:
            parts = [attention(queries, k, v, mask=self._pack.visible(places, self._before, self._window))]
        else:
            parts = []
            if split:
                own = queries[:, :, :split], k[:, :, : self._end], v[:, :, : self._end]
                parts.append(attention(*own, causal=True, mask=self._trunk))
            if self._branch is not None:
                parts.append(attention(queries[:, :, split:], k, v, mask=self._branch))
        return torch.cat([part.transpose(1, 2) for part in parts], dim=1).reshape(len(q), -1)
