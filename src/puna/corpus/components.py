"""Connected components of a graph that comes in pieces.

Comes in: edges between documents (pairs of orders), batch by batch. Goes out: of every document with an edge, the smallest
order in its component. Must never happen: an answer that depends on the order or the batches in which the edges came.

Memory grows with the number of documents that have an edge (the near-duplicates), not with the corpus or with its edges:
each batch is joined with the forest so far and only that is kept.
"""

import numpy as np
import numpy.typing as npt

from puna.errors import PunaError

Orders = npt.NDArray[np.int64]
_BYTES_PER_NODE = 200  # node, root, and the temporaries of one merge
_WAITING = 1 << 17  # edges


def components(a: Orders, b: Orders) -> tuple[Orders, Orders]:
    """The documents in the edges a[i] - b[i] (each (m,)), sorted, and the smallest of each one's component: (n,), (n,).

    Roots hook onto smaller roots, then every path is cut short, until no edge joins two roots (Shiloach and Vishkin 1982;
    in numpy each round is a few passes over the edges that are left, and rounds grow with the logarithm of the nodes).
    """
    nodes, ends = np.unique(np.concatenate([a, b]), return_inverse=True)
    u, v = ends[: len(a)], ends[len(a) :]
    parent = np.arange(len(nodes))
    while len(u):
        u, v = parent[u], parent[v]
        apart = u != v
        u, v = u[apart], v[apart]
        np.minimum.at(parent, np.maximum(u, v), np.minimum(u, v))
        while True:
            grand = parent[parent]
            if np.array_equal(grand, parent):
                break
            parent = grand
    return nodes, nodes[parent]


class Forest:
    """Components of all the edges that were added; refuses (PunaError) to grow beyond `memory_bytes`."""

    def __init__(self, memory_bytes: int) -> None:
        self.memory_bytes = memory_bytes
        self._nodes: Orders = np.empty(0, np.int64)
        self._roots: Orders = np.empty(0, np.int64)
        self._new: list[tuple[Orders, Orders]] = []
        self._waiting = 0

    def add(self, a: Orders, b: Orders) -> None:
        """Join a[i] with b[i]: (m,) each."""
        self._new.append((a, b))
        self._waiting += len(a)
        if self._waiting > max(_WAITING, len(self._nodes)):  # so that the forest is joined again only as it doubles
            self._merge()

    def result(self) -> tuple[Orders, Orders, npt.NDArray[np.int64]]:
        """The documents with an edge, sorted; the smallest order in each one's component; that component's size: (n,) each."""
        self._merge()
        _, inverse, count = np.unique(self._roots, return_inverse=True, return_counts=True)
        return self._nodes, self._roots, count[inverse]

    def _merge(self) -> None:
        a = np.concatenate([self._nodes, *(a for a, _ in self._new)])
        b = np.concatenate([self._roots, *(b for _, b in self._new)])
        self._nodes, self._roots = components(a, b)
        self._new, self._waiting = [], 0
        if len(self._nodes) * _BYTES_PER_NODE > self.memory_bytes:
            raise PunaError(
                f"{len(self._nodes):,} documents are near-duplicates of others, more than the memory allows",
                where="corpus", mend="give it more memory, or take exact duplicates out first",
            )  # fmt: skip
