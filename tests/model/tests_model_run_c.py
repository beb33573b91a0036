"""The oracle for llama2.c's files: the forward pass of its run.c and runq.c restated in numpy, from the bytes on.

It shares no code with Puna: it reads the file by itself, one token at a time, and rotates neighbouring pairs as run.c does.
"""

import struct
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


class Quantised:
    """A matrix of int8 groups: `values` (rows, groups, group), `scales` (rows, groups)."""

    def __init__(self, values: Array, scales: Array, shape: tuple[int, int], group: int) -> None:
        self.values = values.reshape(shape[0], -1, group).astype(np.int32)
        self.scales = scales.reshape(shape[0], -1)

    def rows(self) -> Array:
        """The values in fp32."""
        return (self.values * self.scales[:, :, None]).reshape(len(self.values), -1).astype(np.float32)


def times(matrix: Any, x: Array) -> Array:
    """Matrix times vector: in fp32 (run.c), or in integers within each group (runq.c, where x is quantised too)."""
    if not isinstance(matrix, Quantised):
        return matrix @ x
    groups = x.reshape(-1, matrix.values.shape[2])
    scales = np.abs(groups).max(axis=1) / np.float32(127)
    quants = np.rint(groups / scales[:, None]).astype(np.int32)
    sums = np.einsum("rgk,gk->rg", matrix.values, quants)
    return (sums.astype(np.float32) * matrix.scales * scales).sum(axis=1, dtype=np.float32)


class RunC:
    """A model in a llama2.c file, fed one token after another."""

    def __init__(self, data: bytes) -> None:
        version, at = 0, 28
        numbers = struct.unpack_from("<7i", data)
        tied = numbers[5] > 0
        if data[:4] == b"24ka":
            version, at = struct.unpack_from("<i", data, 4)[0], 256
            numbers, tied = struct.unpack_from("<7i", data, 8), data[36] == 1
        group = struct.unpack_from("<i", data, 37)[0] if version == 2 else 0
        self.dim, hidden, layers, self.heads, self.kv_heads, vocab, context = (abs(number) for number in numbers)
        self.layers, self.size = layers, self.dim // self.heads
        kv = self.kv_heads * self.size

        def floats(*shape: int) -> Array:
            nonlocal at
            count = int(np.prod(shape))
            at += 4 * count
            return np.frombuffer(data, "<f4", count, at - 4 * count).reshape(shape)

        def matrix(*shape: int) -> Any:
            nonlocal at
            if not group:
                return floats(*shape)
            count = int(np.prod(shape))
            values = np.frombuffer(data, "<i1", count, at)
            at += count
            return Quantised(values, floats(count // group), (shape[0], shape[1]), group)

        def each(*shape: int) -> list[Any]:
            return [matrix(*shape) for _ in range(layers)]

        dim = self.dim
        if version == 0:
            self.embed = floats(vocab, dim)
            self.norm1 = floats(layers, dim)
            self.q, self.k, self.v, self.o = each(dim, dim), each(kv, dim), each(kv, dim), each(dim, dim)
            self.norm2 = floats(layers, dim)
            self.w1, self.w2, self.w3 = each(hidden, dim), each(dim, hidden), each(hidden, dim)
            self.norm = floats(dim)
            at += 4 * context * self.size
        else:
            self.norm1, self.norm2, self.norm = floats(layers, dim), floats(layers, dim), floats(dim)
            self.embed = matrix(vocab, dim)
            self.q, self.k, self.v, self.o = each(dim, dim), each(kv, dim), each(kv, dim), each(dim, dim)
            self.w1, self.w2, self.w3 = each(hidden, dim), each(dim, hidden), each(hidden, dim)
        self.head = self.embed if tied else matrix(vocab, dim)
        assert at == len(data)
        self.table = self.embed.rows() if isinstance(self.embed, Quantised) else self.embed
        self.keys: list[list[Array]] = [[] for _ in range(layers)]
        self.values: list[list[Array]] = [[] for _ in range(layers)]

    def feed(self, token: int) -> Array:
        """The logits after one more token."""
        x = self.table[token].copy()
        place = len(self.keys[0])
        for layer in range(self.layers):
            h = _norm(x, self.norm1[layer])
            q, k = self._rotate(times(self.q[layer], h), place), self._rotate(times(self.k[layer], h), place)
            self.keys[layer].append(k)
            self.values[layer].append(times(self.v[layer], h).reshape(self.kv_heads, self.size))
            keys, values = np.stack(self.keys[layer]), np.stack(self.values[layer])
            mixed = []
            for head in range(self.heads):
                shared = head // (self.heads // self.kv_heads)
                scores = keys[:, shared] @ q[head] / np.float32(np.sqrt(self.size))
                weights = np.exp(scores - scores.max())
                mixed.append((weights / weights.sum()) @ values[:, shared])
            x = x + times(self.o[layer], np.concatenate(mixed))
            h = _norm(x, self.norm2[layer])
            gate = times(self.w1[layer], h)
            x = x + times(self.w2[layer], gate / (1 + np.exp(-gate)) * times(self.w3[layer], h))
        return times(self.head, _norm(x, self.norm))

    def greedy(self, prompt: list[int], count: int) -> list[int]:
        """`count` tokens after the prompt, each the likeliest."""
        for token in prompt:
            logits = self.feed(token)
        found: list[int] = []
        while len(found) < count:
            found.append(int(logits.argmax()))
            logits = self.feed(found[-1])
        return found

    def _rotate(self, rows: Array, place: int) -> Array:
        pairs = rows.reshape(-1, self.size // 2, 2)
        frequencies = np.float32(1) / np.float32(10_000) ** (
            np.arange(0, self.size, 2, dtype=np.float32) / np.float32(self.size)
        )
        cos, sin = np.cos(place * frequencies), np.sin(place * frequencies)
        a, b = pairs[..., 0], pairs[..., 1]
        return np.stack([a * cos - b * sin, a * sin + b * cos], -1).reshape(-1, self.size).astype(np.float32)


def _norm(x: Array, gain: Array) -> Array:
    return (gain * (x / np.sqrt((x * x).mean() + np.float32(1e-5)))).astype(np.float32)
