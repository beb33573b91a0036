"""The same pass by OpenVINO on a CPU: one compiled graph with its paged attention (the extra `openvino`).

In: a decoder's weights. Out: what `paged.Reader` gives, in the same form, so that scheduler, drawing and everything behind stay the same.
Must never happen: a result other than the decoder's own beyond rounding (the same tests hold both readers), or a file of a stranger's
that is handed to OpenVINO: the graph is built here, from tensors that were read and checked.

Why: its kernels keep the weights in the order that the matrix units read and attend over all texts in one call. On 2 cores with matrix
units it makes 16 replies at once 1.5 to 2 times as fast as `paged` in bf16 (docs/engines.md). A GPU is served by `paged`.
"""

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from puna.engine.linears import Precision
from puna.engine.looks import Reading, lines
from puna.errors import PunaError
from puna.model.config import ModelConfig
from puna.model.decoder import Decoder, Layer
from puna.model.frozen_base import to_int8

# Importing OpenVINO reports to Google Analytics, unasked, where this package is found; without it a stub of its own takes its place.
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
import openvino as ov  # noqa: E402
from openvino import opset13 as ops  # noqa: E402
from openvino.op import _PagedAttentionExtension as PagedAttention  # noqa: E402

BLOCK = 32  # the one size that its CPU kernel has
Node = Any  # openvino.Node or openvino.Output


def few_sizes(count: int) -> int:
    """The next of few numbers of rows: all up to 16, then multiples of 8 up to 64 and of 32. What is compiled for each is kept for ever."""
    step = 1 if count <= 16 else 8 if count <= 64 else BLOCK
    return -(-count // step) * step


class OpenVINOCache:
    """Keys and values in the kernel's own layout: two tensors a layer, a row a block, as its inputs (`ports`) want them.

    One block more than is asked for is nobody's.
    """

    def __init__(self, blocks: int, ports: Sequence[Any]) -> None:
        self.size, self.blocks = BLOCK, blocks
        shapes = [(blocks + 1, *(port.get_partial_shape()[axis].get_length() for axis in (1, 2, 3))) for port in ports]
        self.tensors = [
            ov.Tensor(port.get_element_type(), ov.Shape(shape)) for port, shape in zip(ports, shapes, strict=True)
        ]
        for tensor in self.tensors:
            _bytes(tensor)[:] = 0

    def clear(self, blocks: Sequence[int]) -> None:
        """Put zeros into these blocks."""
        for tensor in self.tensors:
            _bytes(tensor).reshape(tensor.shape[0], -1)[list(blocks)] = 0


def _bytes(tensor: Any) -> Any:
    """A tensor's memory, whatever its type."""
    kind = {1: np.uint8, 2: np.uint16, 4: np.uint32}[tensor.element_type.size]
    return tensor.data.view(kind).reshape(-1)


class OpenVINOReader:
    """Reads with one decoder's weights, compiled anew in some tenths of a second to seconds. See `paged.Reader`."""

    block = BLOCK

    def __init__(self, model: Decoder, precision: Precision = "fp32", config: ModelConfig | None = None) -> None:
        self.config, self.precision = config or model.config, precision
        if self.config.sliding_window is not None and self.config.sliding_window < self.config.max_position_embeddings:
            raise PunaError("OpenVINO's kernel is not used for a sliding window", mend="choose the engine torch")
        self.device = torch.device("cpu")
        self.dtype = torch.float32 if precision == "fp32" else torch.bfloat16
        kind = "f32" if precision == "fp32" else "bf16"
        hints = {
            "INFERENCE_PRECISION_HINT": kind, "KV_CACHE_PRECISION": kind, "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(), "ENABLE_HYPER_THREADING": True,
        }  # fmt: skip
        self._compiled = ov.Core().compile_model(_Graph(model, self.config, precision).model(), "CPU", hints)
        self._request = self._compiled.create_infer_request()
        self._head = _compiled_head(model, precision, hints)
        self._bound: OpenVINOCache | None = None

    def cache(self, blocks: int) -> OpenVINOCache:
        """A cache of this model's shape."""
        layers = range(self.config.num_hidden_layers)
        names = [name for layer in layers for name in (f"key_cache.{layer}", f"value_cache.{layer}")]
        return OpenVINOCache(blocks, [self._compiled.input(name) for name in names])

    def __call__(self, readings: Sequence[Reading], cache: OpenVINOCache) -> Float[Tensor, "w v"]:
        """Logits in fp32 after the wanted ids of each reading, in order."""
        return self.logits(self.hidden(readings, cache))

    def logits(self, hidden: Float[Tensor, "w d"]) -> Float[Tensor, "w v"]:
        """The head over normed hidden states."""
        if not len(hidden):
            return torch.zeros(0, self.config.vocab_size)
        padded = torch.nn.functional.pad(hidden, (0, 0, 0, few_sizes(len(hidden)) - len(hidden)))
        (out,) = self._head([padded.numpy()]).values()
        return torch.from_numpy(out[: len(hidden)])

    def hidden(self, readings: Sequence[Reading], cache: OpenVINOCache) -> Float[Tensor, "w d"]:
        """Hidden states after the final norm at the wanted ids."""
        if cache is not self._bound:
            for number in range(self.config.num_hidden_layers):
                self._request.set_tensor(f"key_cache.{number}", cache.tensors[2 * number])
                self._request.set_tensor(f"value_cache.{number}", cache.tensors[2 * number + 1])
            self._bound = cache
        count = sum(len(one.ids) for one in readings)
        spare = few_sizes(count) - count
        # Ids of nobody's, in a block of nobody's: each new number of rows would be compiled anew, and kept.
        read = [*readings, Reading([0] * spare, 0, [cache.blocks], 0)] if spare else readings
        ids, positions, _, wanted = lines(read, cache.size)
        asked = len(wanted)
        wanted += [0] * (few_sizes(asked) - asked if asked else 1)
        counts = [len(one.ids) for one in read]
        tables = [one.blocks[: -(-(one.start + len(one.ids)) // cache.size)] for one in read]
        given = {
            "input_ids": np.array(ids, np.int64),
            "position_ids": np.array(positions, np.int64),
            "wanted": np.array(wanted, np.int64),
            "past_lens": np.array([one.start for one in read], np.int32),
            "subsequence_begins": np.cumsum([0, *counts], dtype=np.int32),
            "block_indices": np.array([block for table in tables for block in table], np.int32),
            "block_indices_begins": np.cumsum([0, *map(len, tables)], dtype=np.int32),
            "max_context_len": np.array(max(one.start + len(one.ids) for one in read), np.int32),
        }
        (out,) = self._request.infer(given).values()
        return torch.from_numpy(out[:asked].copy())


def _constant(value: Tensor | np.ndarray[Any, Any]) -> Node:
    return ops.constant(value.detach().float().cpu().numpy() if isinstance(value, Tensor) else value)


def _weights(weight: Float[Tensor, "o i"], precision: Precision) -> Node:
    """A matrix as the plugin recognises it: int8 with a scale a row is multiplied as int8."""
    if precision != "int8":
        return _constant(weight)
    codes, scales = to_int8(weight.detach().float())
    return ops.multiply(ops.convert(ops.constant(codes.numpy()), np.float32), _constant(scales))


def _compiled_head(model: Decoder, precision: Precision, hints: dict[str, Any]) -> Any:
    hidden = ops.parameter([-1, model.config.hidden_size], np.float32, name="hidden")
    logits = ops.matmul(hidden, _weights(model.head_weight(), precision), False, True)
    return ov.Core().compile_model(ov.Model([ops.result(logits)], [hidden], "head"), "CPU", hints)


class _Graph:
    """The decoder's layers as a graph over n tokens in one line."""

    def __init__(self, model: Decoder, config: ModelConfig, precision: Precision) -> None:
        self._model, self._config, self._precision = model, config, precision
        self._inputs: list[Node] = []

    def model(self) -> Any:
        """The graph with inputs by name; its one output: hidden states at the wanted places."""
        config, body = self._config, self._model.model
        ids, positions = self._input("input_ids", [-1], np.int64), self._input("position_ids", [-1], np.int64)
        wanted = self._input("wanted", [-1], np.int64)
        self._shared = [
            self._input(name, [-1], np.int32)
            for name in ("past_lens", "subsequence_begins", "block_indices", "block_indices_begins")
        ]
        self._longest = self._input("max_context_len", [], np.int32)
        zero = ops.constant(0)
        cos, sin = self._model.rope(
            torch.arange(max(config.max_position_embeddings, BLOCK), device=body.embed_tokens.weight.device)
        )
        tables = (torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1))
        self._cos, self._sin = (ops.gather(_constant(table[:, None]), positions, zero) for table in tables)
        x = ops.gather(_constant(body.embed_tokens.weight), ids, zero)
        layers = [layer for layer in body.layers if isinstance(layer, Layer)]
        for number, layer in enumerate(layers):
            x = self._layer(x, layer, number, wanted if number == len(layers) - 1 else None)
        return ov.Model([ops.result(self._norm(x, body.norm.weight))], self._inputs, "decoder")

    def _input(self, name: str, shape: list[int], kind: Any) -> Node:
        node = ops.parameter(shape, kind, name=name)
        node.output(0).set_names({name})
        self._inputs.append(node)
        return node

    def _norm(self, x: Node, gain: Tensor) -> Node:
        mean = ops.reduce_mean(ops.power(x, ops.constant(np.float32(2))), ops.constant([-1]), keep_dims=True)
        root = ops.sqrt(ops.add(mean, ops.constant(np.float32(self._config.rms_norm_eps))))
        return ops.multiply(ops.multiply(x, ops.divide(ops.constant(np.float32(1)), root)), _constant(gain))

    def _linear(self, x: Node, layer: torch.nn.Linear) -> Node:
        out = ops.matmul(x, _weights(layer.weight, self._precision), False, True)
        return out if layer.bias is None else ops.add(out, _constant(layer.bias))

    def _turned(self, x: Node, heads: int, norm: Any) -> Node:
        """[n, heads·d], normed where the model does, turned by its positions."""
        width = self._config.head_dim
        x = ops.reshape(x, ops.constant([-1, heads, width]), False)
        if norm is not None:
            x = self._norm(x, norm.weight)
        axis, half = ops.constant(2), ops.constant([width // 2, width - width // 2])
        first, second = ops.variadic_split(x, axis, half).outputs()
        swapped = ops.concat([second, first], 2)
        turned = ops.add(ops.multiply(x, self._cos), ops.multiply(swapped, self._sin))
        return ops.reshape(turned, ops.constant([-1, heads * width]), False)

    def _layer(self, x: Node, layer: Layer, number: int, wanted: Node | None) -> Node:
        config, heads = self._config, layer.self_attn
        read = self._norm(x, layer.input_layernorm.weight)
        q = self._turned(self._linear(read, heads.q_proj), config.num_attention_heads, heads.q_norm)
        k = self._turned(self._linear(read, heads.k_proj), config.num_key_value_heads, heads.k_norm)
        mixed = self._attention(q, k, self._linear(read, heads.v_proj), number)
        if wanted is not None:  # behind the last layer's keys nobody reads what was not wanted
            x, mixed = (ops.gather(one, wanted, ops.constant(0)) for one in (x, mixed))
        x = ops.add(x, self._linear(mixed, heads.o_proj))
        read = self._norm(x, layer.post_attention_layernorm.weight)
        gate = ops.swish(self._linear(read, layer.mlp.gate_proj))
        return ops.add(x, self._linear(ops.multiply(gate, self._linear(read, layer.mlp.up_proj)), layer.mlp.down_proj))

    def _attention(self, q: Node, k: Node, v: Node, number: int) -> Node:
        """The operation takes 28 inputs; those behind the first nine and the scale are features that are not used here."""
        caches = []
        for name in ("key_cache", "value_cache"):
            node = ops.parameter([-1, -1, -1, -1], ov.Type.dynamic, name=f"{name}.{number}")
            node.output(0).set_names({f"{name}.{number}"})
            self._inputs.append(node)
            caches.append(node)
        none_i, none_f = ops.constant(np.zeros(0, np.int32)), ops.constant(np.zeros(0, np.float32))
        zero = ops.constant(np.int32(0))
        inputs = [
            q, k, v, *caches, *self._shared, ops.constant(np.float32(self._config.head_dim**-0.5)), zero, none_f, self._longest,
            none_i, none_i, none_i, none_f, none_f, zero, zero, ops.constant(np.zeros((0, 0, 0, 0), np.float32)), zero,
            none_i, none_i, none_i, none_i, ops.constant(np.zeros(0, np.uint8)), none_i,
        ]  # fmt: skip
        node = PagedAttention([one.output(0) if hasattr(one, "output") else one for one in inputs])
        for name in ("k", "v"):
            node.get_rt_info()[f"num_{name}_heads"] = self._config.num_key_value_heads
            node.get_rt_info()[f"{name}_head_size"] = self._config.head_dim
        return node.output(0)
