"""A checkpoint as the tests look at it: norm gains folded into the matrices behind them, the residual stream in REFERENCE's basis.

Comes in: a `Checkpoint` and what was found about its stream (`Basis`). Goes out: effective matrices, one block at a time. Must never
happen: a raw norm gain that makes two strangers look alike (gains start at 1 everywhere), or a rescaling that hides a copy.

With x the normalised stream, a block reads gate·diag(g)·x: only the product of matrix and gain is a property of the model, and a
model whose gains were folded, or whose stream was rotated (which needs folded gains), is the same function.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from puna.lineage.weights.reading import Checkpoint


@dataclass(frozen=True)
class Basis:
    """How MODEL's residual stream becomes REFERENCE's: x_reference = x_model @ matrix, or x_model[..., order]; None: as it is.

    `order[j]` is the dimension of MODEL that stands for dimension j of REFERENCE, -1 where none does (then a zero).
    """

    matrix: Float[Tensor, "dm dr"] | None = None
    order: Int[Tensor, " dr"] | None = None
    name: str = "as it is"  # "permuted", "rotated", "a part of it"

    def apply(self, rows: Float[Tensor, "n dm"]) -> Float[Tensor, "n dr"]:
        """Row vectors that live in (or read from) MODEL's stream, in REFERENCE's."""
        if self.matrix is not None:
            return rows @ self.matrix
        if self.order is not None:
            padded = torch.cat([rows, rows.new_zeros(len(rows), 1)], dim=1)
            return padded[:, self.order]
        return rows


SAME = Basis()


class Mlp(NamedTuple):
    """One block's (or expert's) hidden units: row i of each is unit i. `down` is transposed: what the unit writes."""

    gate: Float[Tensor, "ffn d"]
    up: Float[Tensor, "ffn d"]
    down: Float[Tensor, "ffn d"]


class Attention(NamedTuple):
    """One block's heads. `o` is transposed: what each head's dimension writes."""

    q: Float[Tensor, "heads e d"]
    k: Float[Tensor, "kv e d"]
    v: Float[Tensor, "kv e d"]
    o: Float[Tensor, "heads e d"]


@dataclass(frozen=True)
class View:
    """Effective matrices in fp32. Keeps nothing: each call reads from the checkpoint."""

    checkpoint: Checkpoint
    basis: Basis = field(default=SAME)

    @property
    def layers(self) -> int:
        """Blocks."""
        return self.checkpoint.sizes.layers

    @property
    def experts(self) -> int:
        """Experts of a block; 0 for a plain MLP."""
        return self.checkpoint.sizes.experts

    def _gain(self, kind: str, layer: int | None) -> Float[Tensor, " d"]:
        c = self.checkpoint
        return c.read(kind, layer) if c.has(kind, layer) else torch.ones(c.sizes.hidden)

    def gate(self, layer: int, expert: int | None = None) -> Float[Tensor, "ffn d"]:
        """What each hidden unit's gate reads."""
        return self.basis.apply(self.checkpoint.read("gate", layer, expert) * self._gain("mlp_norm", layer))

    def up(self, layer: int, expert: int | None = None) -> Float[Tensor, "ffn d"]:
        """What each hidden unit reads."""
        return self.basis.apply(self.checkpoint.read("up", layer, expert) * self._gain("mlp_norm", layer))

    def down(self, layer: int, expert: int | None = None) -> Float[Tensor, "ffn d"]:
        """What each hidden unit writes."""
        return self.basis.apply(self.checkpoint.read("down", layer, expert).T)

    def mlp(self, layer: int, expert: int | None = None) -> Mlp:
        """All three of a block."""
        return Mlp(self.gate(layer, expert), self.up(layer, expert), self.down(layer, expert))

    def attention(self, layer: int) -> Attention:
        """Every head of a block."""
        c, s, gain = self.checkpoint, self.checkpoint.sizes, self._gain("attn_norm", layer)
        heads = [
            self.basis.apply(c.read(kind, layer) * gain).unflatten(0, (count, s.head_dim))
            for kind, count in (("q", s.heads), ("k", s.kv_heads), ("v", s.kv_heads))
        ]
        out = self.basis.apply(c.read("o", layer).T).unflatten(0, (s.heads, s.head_dim))
        return Attention(heads[0], heads[1], heads[2], out)

    def embed_rows(self, ids: Int[Tensor, " n"]) -> Float[Tensor, "n d"]:
        """The embeddings of some tokens."""
        return self.basis.apply(self.checkpoint.read("embed")[ids])

    def embed(self) -> Float[Tensor, "v d"]:
        """All embeddings."""
        return self.basis.apply(self.checkpoint.read("embed"))

    def head(self) -> Float[Tensor, "v d"]:
        """What each output reads."""
        return self.basis.apply(self.checkpoint.read("head") * self._gain("norm", None))
