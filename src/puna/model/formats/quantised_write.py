"""Quantised Hugging Face folders, written: int8 and int4 matrices as `compressed-tensors` packs them.

Comes in: `Weights`. Goes out: `config.json` and safetensors that `transformers` (with compressed-tensors installed) loads. Must
never happen: more than the largest tensor in memory, or half a file under a whole one's name.

The layout (compressed-tensors, `pack-quantized`): the matrices inside the layers, W [o, i], become whole numbers q of b bits and a
scale for each run of g columns, W ≈ q · scale. `weight_packed` [o, i·b/32] int32: q + 2^(b-1), the first column in the lowest
bits; `weight_scale` [o, i/g]; `weight_shape` [2] int64. Embedding, head, norms and biases stay as they are.
"""

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int8, Int32
from torch import Tensor

from puna.errors import PunaError
from puna.files import atomic_file, canonical_json, write_json
from puna.model.config import ModelConfig
from puna.model.formats.huggingface import CHUNK, CONFIG, DIGEST_KEY, INDEX, WEIGHTS, digest_of_parts
from puna.model.formats.safetensors_header import DTYPES
from puna.model.weights import Weights, require_finite

GROUPS = (128, 64, 32)  # what vLLM's kernels know; the largest that divides every matrix's width is taken
_CODES = {**{dtype: code for code, dtype in DTYPES.items()}, torch.int32: "I32", torch.int64: "I64"}
_SHRINK = tuple(1 - step / 20 for step in range(9))  # 1, 0.95, ... 0.6 of the scale that clips nothing
_BLOCK = 1 << 22  # values quantised at once


@dataclass(frozen=True)
class _Entry:
    """One tensor of the files: its name there, type, shape, and the tensor of the model that it is made from."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    source: str

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def is_matrix(name: str) -> bool:
    """True for the matrices inside the layers: those that are quantised."""
    return name.endswith("_proj.weight")


def group_size(config: ModelConfig) -> int | None:
    """Columns that share a scale: one size for the whole model; None (a scale a row) where no usual one divides all widths."""
    widths = {shape[1] for name, shape in config.shapes.items() if is_matrix(name)}
    return next((size for size in GROUPS if all(width % size == 0 for width in widths)), None)


def write_quantised(
    weights: Weights, folder: Path, *, bits: int, importance: Mapping[str, npt.NDArray[np.float32]] | None = None,
    shard_bytes: int | None = None,
) -> None:  # fmt: skip
    """Write the model with its layers' matrices in `bits` (4 or 8) bits; everything else in the matrices' own type.

    `importance` [columns]: what each column's error weighs (mean square of what it is multiplied with), by the matrix's name.
    `shard_bytes`: the most bytes of a file, None: one file. Raises `PunaError` where a weight is not finite.
    """
    folder, config = Path(folder), weights.config
    group = group_size(config)
    # One type for all that is not packed: the matrices', as that is what the model is stored in.
    dtype = weights.read(next(name for name in config.shapes if is_matrix(name))).dtype
    shards = _shards(_entries(config, bits, group, dtype), shard_bytes)
    folder.mkdir(parents=True, exist_ok=True)
    index: dict[str, str] = {}
    for number, entries in enumerate(shards, start=1):
        file = WEIGHTS if len(shards) == 1 else f"model-{number:05}-of-{len(shards):05}.safetensors"
        entries.sort(key=lambda entry: -entry.dtype.itemsize)  # so that each begins at a multiple of its type's width
        _write_file(folder / file, entries, _tensors(weights, entries, bits, importance or {}))
        index |= {entry.name: file for entry in entries}
    if len(shards) > 1:
        total = sum(entry.bytes for entries in shards for entry in entries)
        write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": index})
    values = config.to_hf(dtype=str(dtype).removeprefix("torch."))
    write_json(folder / CONFIG, values | {"quantization_config": quantization_config(bits, group)})


def quantization_config(bits: int, group: int | None) -> dict[str, Any]:
    """The part of `config.json` that names this form to transformers and vLLM."""
    scheme = {"num_bits": bits, "type": "int", "symmetric": True, "dynamic": False,
              "strategy": "channel" if group is None else "group", "group_size": group}  # fmt: skip
    return {
        "quant_method": "compressed-tensors", "format": "pack-quantized", "quantization_status": "compressed",
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": scheme, "input_activations": None,
                                      "output_activations": None}},
        "ignore": ["lm_head"], "kv_cache_scheme": None,
    }  # fmt: skip


def quantise(
    matrix: Float[Tensor, "o i"], bits: int, group: int, importance: Float[Tensor, " i"] | None,
    scale_dtype: torch.dtype,
) -> tuple[Int8[Tensor, "o i"], Float[Tensor, "o groups"]]:  # fmt: skip
    """(q, scale) with q · scale near the matrix: symmetric, q in [-2^(b-1), 2^(b-1) - 1].

    8 bits: the scale is max|w| / 127 of its group. 4 bits: of the scales max|w| / 7 · (1, 0.95, ... 0.6) a group takes the one with
    the least Σ importance · (w - q·scale)²: a few clipped values can cost less than coarser steps for all. (Moving each scale to the
    least-squares one for its q, as llama.cpp does, gained nothing in bits per byte on the model it was tried on.)
    """
    top = 2 ** (bits - 1) - 1
    rows = matrix.float().view(matrix.shape[0], -1, group)
    weigh = torch.ones(()) if importance is None else importance.view(1, *rows.shape[1:])
    widest = rows.abs().amax(-1, keepdim=True) / top
    best, scale, chosen = torch.full_like(widest, math.inf), torch.ones_like(widest), torch.zeros_like(rows)
    for share in _SHRINK if bits < 8 else _SHRINK[:1]:
        tried = (widest * share).to(scale_dtype).float()
        # A group of zeros, or one that the scale's type cannot tell from it, has no scale of its own.
        tried = torch.where(tried == 0, 1.0, tried)
        q = (rows / tried).round_().clamp_(-top - 1, top)
        error = (weigh * (rows - q * tried).square_()).sum(-1, keepdim=True)
        better = error < best
        best, scale = torch.where(better, error, best), torch.where(better, tried, scale)
        chosen = torch.where(better, q, chosen)
    return chosen.view(matrix.shape).to(torch.int8), scale[..., 0].to(scale_dtype)


def pack(q: Int8[Tensor, "o i"], bits: int) -> Int32[Tensor, "o words"]:
    """q + 2^(b-1) without a sign, side by side in little-endian words of 32 bits; the last word is filled with zeros."""
    values = (q.to(torch.int16) + 2 ** (bits - 1)).to(torch.uint8)
    values = F.pad(values, (0, -values.shape[1] % (32 // bits)))
    if bits == 4:
        values = values[:, 0::2] | values[:, 1::2] << 4
    return torch.from_numpy(np.ascontiguousarray(values.numpy()).view("<i4").astype(np.int32))


def _entries(config: ModelConfig, bits: int, group: int | None, dtype: torch.dtype) -> Iterator[_Entry]:
    """What the files hold, in the model's order."""
    for name, shape in config.shapes.items():
        if not is_matrix(name):
            yield _Entry(name, dtype, shape, name)
            continue
        rows, columns = shape
        yield _Entry(f"{name}_packed", torch.int32, (rows, math.ceil(columns * bits / 32)), name)
        yield _Entry(f"{name}_scale", dtype, (rows, columns // group if group else 1), name)
        yield _Entry(f"{name}_shape", torch.int64, (2,), name)


def _shards(entries: Iterator[_Entry], most: int | None) -> list[list[_Entry]]:
    """Entries by file, in order; what is made from one tensor stays together."""
    shards: list[list[_Entry]] = [[]]
    held = 0
    for entry in entries:
        last = shards[-1]
        if most is not None and last and held + entry.bytes > most and last[-1].source != entry.source:
            shards.append([])
            held = 0
        shards[-1].append(entry)
        held += entry.bytes
    return shards


def _tensors(
    weights: Weights, entries: list[_Entry], bits: int, importance: Mapping[str, npt.NDArray[np.float32]]
) -> Iterator[Tensor]:
    """The entries' tensors, one after the other; each tensor of the model is read once. Scales (3 % of a file) wait their turn."""
    shapes = weights.config.shapes
    scales: dict[str, Tensor] = {}
    scale_shapes = {entry.source: (entry.dtype, entry.shape[1]) for entry in entries if entry.name.endswith("_scale")}
    for entry in entries:
        name = entry.source
        if entry.name.endswith("_shape"):
            yield torch.tensor(shapes[name], dtype=torch.int64)
        elif entry.name.endswith("_scale"):
            yield scales.pop(name)
        else:
            tensor = weights.read(name)
            if tuple(tensor.shape) != shapes[name]:
                raise PunaError(f"{name} has shape {list(tensor.shape)}, the config says {list(shapes[name])}",
                                where=weights.where)  # fmt: skip
            require_finite(name, tensor, weights.where)
            if entry.name == name:
                yield tensor.to(entry.dtype)
                continue
            dtype, groups = scale_shapes[name]
            known = torch.from_numpy(importance[name]) if name in importance else None
            parts = [quantise(part, bits, tensor.shape[1] // groups, known, dtype)
                     for part in tensor.split(max(1, _BLOCK // tensor.shape[1]))]  # fmt: skip
            scales[name] = torch.cat([scale for _, scale in parts])
            yield torch.cat([pack(q, bits) for q, _ in parts])


def _write_file(path: Path, entries: list[_Entry], tensors: Iterator[Tensor]) -> None:
    """One safetensors file, its tensors written as they come; the digests in its header are filled in at the end."""
    digests = ["0" * 64] * len(entries)
    with atomic_file(path) as stream:
        stream.write(_header(entries, digests))
        for number, tensor in enumerate(tensors):
            data = tensor.contiguous().view(-1).view(torch.uint8).numpy().data
            parts = (data[offset : offset + CHUNK] for offset in range(0, len(data), CHUNK))
            digests[number] = digest_of_parts(hashlib.sha256(part).digest() for part in parts)
            stream.write(data)
        stream.seek(0)
        stream.write(_header(entries, digests))


def _header(entries: list[_Entry], digests: list[str]) -> bytes:
    """Length and header; as long with one list of digests as with another."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt", DIGEST_KEY: " ".join(digests)}}
    offset = 0
    for entry in entries:
        header[entry.name] = {"dtype": _CODES[entry.dtype], "shape": list(entry.shape),
                              "data_offsets": [offset, offset + entry.bytes]}  # fmt: skip
        offset += entry.bytes
    text = canonical_json(header)
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of eight bytes
    return len(text).to_bytes(8, "little") + text
