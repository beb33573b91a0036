"""Keys and values of what a model has read, preallocated once.

Comes in: new keys and values with their positions. Goes out: all of a layer's keys and values so far. Must never
happen: a query that attends to a slot written for nobody.

Rows may have different lengths. A batch of prompts is padded on the RIGHT and read from position 0; what the padding
wrote lies behind each row's end, is seen by no valid query (a query at position p sees positions <= p) and is
overwritten as the row grows. So the one thing a caller must do is to state how far each row has come: `advance`.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from puna.model.config import ModelConfig


class KVCache:
    """`k` and `v`: a list per layer of [rows, kv_heads, max_len, head_dim]; `lengths` [rows]: valid positions of each row."""

    def __init__(
        self, config: ModelConfig, rows: int, max_len: int, *, dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:  # fmt: skip
        shape = (rows, config.num_key_value_heads, max_len, config.head_dim)
        self.k = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(config.num_hidden_layers)]
        self.v = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(config.num_hidden_layers)]
        self.lengths = torch.zeros(rows, dtype=torch.int64, device=device)
        self.longest = 0  # the largest length, kept on the host so that no step has to ask the device
        self._rows = torch.arange(rows, device=device)[:, None]

    @property
    def max_len(self) -> int:
        """Positions that fit in a row."""
        return self.k[0].shape[2]

    @property
    def bytes(self) -> int:
        """Bytes of all keys and values, used or not."""
        return 2 * len(self.k) * self.k[0].numel() * self.k[0].element_size()

    def next_positions(self, tokens: int) -> Int[Tensor, "b t"]:
        """The positions of the next `tokens` tokens of each row."""
        return self.lengths[:, None] + torch.arange(tokens, device=self.lengths.device)

    def write(
        self, layer: int, positions: Int[Tensor, "b t"], k: Float[Tensor, "b kv t d"], v: Float[Tensor, "b kv t d"]
    ) -> None:
        """Put keys and values at `positions` of each row."""
        for store, new in ((self.k[layer], k), (self.v[layer], v)):
            store.transpose(1, 2)[self._rows, positions] = new.transpose(1, 2).to(store.dtype)

    def advance(self, tokens: int | Int[Tensor, "b"]) -> None:
        """State that each row holds `tokens` more valid positions (a number for all, or one per row).

        Raises `ValueError` where a row would grow beyond `max_len`.
        """
        grown = self.lengths + tokens
        longest = self.longest + tokens if isinstance(tokens, int) else int(grown.max())
        if longest > self.max_len:
            raise ValueError(f"a row of {longest} tokens does not fit into a cache of {self.max_len}")
        self.lengths, self.longest = grown, longest

    def select(self, rows: Int[Tensor, "n"]) -> None:
        """Keep only these rows, in this order: finished rows leave the batch, or a row is copied for several answers."""
        self.k, self.v = [x[rows] for x in self.k], [x[rows] for x in self.v]
        self.lengths = self.lengths[rows]
        self.longest = int(self.lengths.max()) if len(rows) else 0
        self._rows = torch.arange(len(rows), device=self.lengths.device)[:, None]
