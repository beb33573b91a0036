"""One id for each of many texts, in shapes that repeat: what a GPU replays as a CUDA graph.

In: single ids with their places. Out: hidden states. Must never happen: a padded row that writes where a text's keys are, or a graph
that reads another cache than the one it was captured over.

A small model's step on a GPU is bound by launches: some thirty a layer. A graph launches all of them at once, but its shapes and addresses
are fixed. So rows and blocks are padded to powers of two, inputs are copied to where the graph expects them, and each pair of sizes is
captured once. Attention gathers each row's blocks and masks what is behind its end. Without capture (`graphs=False`, as the
tests on a CPU run it) the same function is simply called.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from puna.engine.looks import PagedCache, Reading

if TYPE_CHECKING:
    from puna.engine.paged import Reader

_WARM = 3  # calls before a capture: libraries choose their kernels and get their memory


class Replay:
    """For one reader and one cache, whose last block must be nobody's: padded rows write there."""

    def __init__(self, reader: "Reader", cache: PagedCache, *, graphs: bool = True, compiled: bool = False) -> None:
        self._reader, self._cache, self._graphs = reader, cache, graphs
        self._nobodys = len(cache.k[0]) // cache.size - 1
        self._step = torch.compile(self._padded, dynamic=False) if compiled else self._padded
        self._known: dict[tuple[int, int], Callable[[list[Tensor]], Tensor]] = {}

    @torch.inference_mode()
    def __call__(self, readings: Sequence[Reading]) -> Float[Tensor, "n d"]:
        """Hidden states after the final norm, a row for each reading."""
        size, tensor = self._cache.size, self._reader.tensor
        tables = [one.blocks[: one.start // size + 1] for one in readings]
        rows, blocks = _padded_to(len(readings)), _padded_to(max(map(len, tables)))
        spare = rows - len(readings)
        nobody = [self._nobodys] * blocks
        inputs = [
            tensor([one.ids[0] for one in readings] + [0] * spare),
            tensor([one.start for one in readings] + [0] * spare),
            self._table(tables, nobody, spare),
        ]
        call = self._known.get((rows, blocks))
        if call is None:
            call = self._known[rows, blocks] = (
                self._captured(inputs) if self._graphs else lambda given: self._step(*given)
            )
        return call(inputs)[: len(readings)]

    def _table(self, tables: Sequence[Sequence[int]], nobody: list[int], spare: int) -> Int[Tensor, "b s"]:
        padded = [[*table, *nobody][: len(nobody)] for table in tables] + [nobody] * spare
        return torch.tensor(padded, dtype=torch.long, device=self._reader.device)

    def _padded(
        self, ids: Int[Tensor, " b"], positions: Int[Tensor, " b"], tables: Int[Tensor, "b s"]
    ) -> Float[Tensor, "b d"]:
        """The step itself: a pure function of tensors of fixed shapes, and of the cache."""
        reader, cache, size = self._reader, self._cache, self._cache.size
        slots = tables.gather(1, (positions // size)[:, None])[:, 0] * size + positions % size
        steps = torch.arange(tables.shape[1] * size, device=ids.device)
        mask = steps <= positions[:, None]
        window = reader.config.sliding_window
        if window is not None:
            mask = mask & (positions[:, None] - steps < window)
        mask = mask[:, None, None]

        def attend(number: int, q: Float[Tensor, "b h e"]) -> Float[Tensor, "b he"]:
            k, v = (self._rows(store[number], tables) for store in (cache.k, cache.v))
            grouped = q.view(len(q), k.shape[1], -1, q.shape[-1])
            return F.scaled_dot_product_attention(grouped, k, v, attn_mask=mask).reshape(len(q), -1)

        return reader.through(ids, positions, slots, cache, attend)

    def _rows(self, store: Float[Tensor, "slots kv e"], tables: Int[Tensor, "b s"]) -> Float[Tensor, "b kv t e"]:
        blocks = store.view(-1, self._cache.size, *store.shape[1:])
        return blocks[tables].flatten(1, 2).transpose(1, 2)

    def _captured(self, inputs: list[Tensor]) -> Callable[[list[Tensor]], Tensor]:
        """The step as a graph over copies of these inputs."""
        places = [one.clone() for one in inputs]
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(_WARM):
                self._step(*places)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = self._step(*places)

        def replay(given: list[Tensor]) -> Tensor:
            for place, value in zip(places, given, strict=True):
                place.copy_(value)
            graph.replay()
            return out.clone()  # the next replay writes over it

        return replay


def _padded_to(count: int) -> int:
    return 1 << (count - 1).bit_length()
