"""Quantised Hugging Face folders, read: int8 and int4 matrices as `compressed-tensors` packs them.

Comes in: a folder that a stranger may have made, its config.json with a `quantization_config`. Goes out: `Weights` that give each
matrix spread to fp32 as it is asked for. Must never happen: a packing of another kind taken for this one.

The layout stands in `quantised_write.py`. Read are `pack-quantized` files of 8 or 4 bits, symmetric, a scale for each row or for
each run of columns: what Puna and llm-compressor's W8A16 and W4A16 schemes write.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int32
from torch import Tensor

from puna.errors import PunaError
from puna.model.config import ModelConfig
from puna.model.formats.huggingface import (
    CONFIG,
    _checked_header,
    _Place,
    _places,
    _read_json,
    _shards,
    read_tensor,
    require_same,
)
from puna.model.formats.safetensors_header import DTYPES, shown
from puna.model.manifest import Manifest
from puna.model.weights import Weights, require_finite
from puna.reading import find_inside

_TYPES = {**DTYPES, "I32": torch.int32, "I64": torch.int64}
# What a `quantization_config` may say beside the one group of weights; everything else would change the arithmetic.
_FIXED: dict[str, tuple[Any, ...]] = {
    "quant_method": ("compressed-tensors",), "format": ("pack-quantized",), "quantization_status": ("compressed", "frozen"),
    "kv_cache_scheme": (None,), "sparsity_config": (None, {}), "transform_config": (None, {}),
}  # fmt: skip
_NO_EFFECT = frozenset({"config_groups", "ignore", "global_compression_ratio", "version"})
_WEIGHTS: dict[str, tuple[Any, ...]] = {
    "num_bits": (4, 8), "type": ("int",), "symmetric": (True,), "strategy": ("group", "channel"), "dynamic": (False,),
    "actorder": (None, "weight", "static"), "block_structure": (None,),
}  # fmt: skip
_WEIGHTS_NO_EFFECT = frozenset({"group_size", "observer", "observer_kwargs", "scale_dtype", "zp_dtype"})
_MEND = "read are compressed-tensors' pack-quantized weights of 4 or 8 bits, symmetric, one scheme for all"


def is_quantised(folder: Path) -> bool:
    """True where the folder's config.json speaks of quantised weights. Raises `PunaError` where it is not JSON."""
    path = find_inside(folder, CONFIG)
    value = _read_json(path, Manifest(folder), "is not JSON") if path is not None else None
    return isinstance(value, dict) and value.get("quantization_config") is not None


def open_quantised(folder: Path) -> Weights:
    """The model in a folder of quantised safetensors; its matrices come in fp32, everything else in its own type.

    Raises `PunaError` for whatever is missing, truncated, altered, misshapen or of another packing.
    """
    folder = Path(folder)
    manifest = Manifest.find(folder)
    path = find_inside(folder, CONFIG)
    if path is None:
        raise PunaError("is no model folder: config.json is missing", where=str(folder))
    value = _read_json(path, manifest, "is not JSON")
    if not isinstance(value, dict):
        raise PunaError("is not a JSON object", where=str(path))
    try:
        bits, group = _scheme(value.pop("quantization_config", None))
        config = ModelConfig.from_hf(value)
    except PunaError as error:
        raise PunaError(error.what, where=str(path), mend=error.mend) from error
    shards, _ = _shards(folder, manifest)
    headers = {path: _checked_header(path, names, _TYPES) for path, names in shards.items()}
    places = _places(headers)
    listed_files = [manifest.verify(path) for path in headers]
    trusted = all(listed_files)  # the manifest's digests have said it already
    packed = [name for name in config.shapes if f"{name}_packed" in places]
    _check_shapes(places, packed, config, bits, group, str(folder))

    def stored(name: str) -> Tensor:
        tensor = read_tensor(places[name], trusted)
        require_finite(name, tensor, str(places[name].path))
        return tensor

    for name in packed:
        shape = stored(f"{name}_shape").tolist()
        if shape != list(config.shapes[name]):
            raise PunaError(f"{name}_shape says {shape}, the config {list(config.shapes[name])}", where=str(folder))

    def read(name: str) -> Tensor:
        if f"{name}_packed" not in places:
            return stored(name)
        tensor = spread(stored(f"{name}_packed"), stored(f"{name}_scale"), config.shapes[name][1], bits)
        require_finite(name, tensor, str(folder))
        return tensor

    codes = {dtype: code for code, dtype in _TYPES.items()}
    types = {name: f"INT{bits}" if name in packed else codes[places[name].entry.dtype] for name in config.shapes}
    return Weights(config, read, types, str(folder))


def spread(
    packed: Int32[Tensor, "o words"], scale: Float[Tensor, "o groups"], columns: int, bits: int
) -> Float[Tensor, "o i"]:
    """q · scale in fp32: the values that transformers computes with when it loads the folder in fp32."""
    data = torch.from_numpy(packed.numpy().astype("<i4").view(np.uint8))
    if bits == 4:
        data = torch.stack((data & 15, data >> 4), dim=-1).flatten(1)
    # Cut into the scales' runs; the last word's filling is dropped first.
    q = (data[:, :columns].float() - 2 ** (bits - 1)).view(len(data), scale.shape[1], -1)
    return (q * scale.float()[..., None]).flatten(1)


def _scheme(value: Any) -> tuple[int, int | None]:
    """(bits, group size or None) of a `quantization_config`; raises `PunaError` where it is not the one kind that is read."""
    if not isinstance(value, dict):
        raise PunaError("quantization_config is not an object")
    _only(value, _FIXED, _NO_EFFECT, "quantization_config")
    groups, ignored = value.get("config_groups"), value.get("ignore") or []
    if not isinstance(ignored, list) or not all(isinstance(name, str) for name in ignored):
        raise PunaError("quantization_config.ignore is not a list of names")
    group = next(iter(groups.values())) if isinstance(groups, dict) and len(groups) == 1 else None
    if not isinstance(group, dict) or not isinstance(group.get("weights"), dict):
        raise PunaError("quantization_config has not one group of weights", mend=_MEND)
    _only(group, {"targets": (["Linear"],), "input_activations": (None,), "output_activations": (None,),
                  "format": (None, "pack-quantized")}, frozenset({"weights"}), "its group of weights")  # fmt: skip
    weights = group["weights"]
    _only(weights, _WEIGHTS, _WEIGHTS_NO_EFFECT, "its weights")
    if "num_bits" not in weights or "strategy" not in weights:
        raise PunaError("quantization_config does not say num_bits and strategy", mend=_MEND)
    size = weights.get("group_size")
    if weights["strategy"] == "channel":
        return weights["num_bits"], None
    if type(size) is not int or not 8 <= size <= 2**20:
        raise PunaError(f"quantization_config has the group size {str(size)[:20]}")
    return weights["num_bits"], size


def _only(value: dict[str, Any], fixed: Mapping[str, tuple[Any, ...]], free: frozenset[str], what: str) -> None:
    """Each key must be known, and have one of the values that are understood."""
    for key, found in value.items():
        if key not in free and not any(
            found == allowed and type(found) is type(allowed) for allowed in fixed.get(key, ())
        ):
            raise PunaError(f"{what}: {shown(str(key))} = {shown(str(found))!r} is not supported", mend=_MEND)


def _check_shapes(
    places: Mapping[str, _Place], packed: list[str], config: ModelConfig, bits: int, group: int | None, where: str
) -> None:
    """Every tensor of the config is there, whole or as its three parts of the right types and shapes, and nothing else is."""
    found = {name: place.entry.shape for name, place in places.items()}
    floats = tuple(DTYPES.values())
    for name in packed:
        shape = config.shapes[name]
        if len(shape) != 2 or (group and shape[1] % group):
            raise PunaError(f"{name} of shape {list(shape)} cannot be packed in groups of {group}", where=where)
        rows, columns = shape
        parts = {"_packed": ((rows, -(-columns * bits // 32)), (torch.int32,)),
                 "_scale": ((rows, columns // group if group else 1), floats),
                 "_shape": ((2,), (torch.int64, torch.int32))}  # fmt: skip
        for part, (wanted, types) in parts.items():
            if name + part not in places:
                raise PunaError(f"{name}{part} is missing", where=where)
            entry = places[name + part].entry
            if entry.shape != wanted or entry.dtype not in types:
                raise PunaError(f"{name}{part} is {_word(entry.dtype)} of shape {list(entry.shape)}, and must be "
                                f"{_word(types[0])} of {list(wanted)}", where=where)  # fmt: skip
            del found[name + part]
        if name in found:
            raise PunaError(f"{name} stands there packed and whole", where=where)
        found[name] = shape
    for name in found.keys() - set(packed):
        if places[name].entry.dtype not in floats:
            raise PunaError(f"{shown(name)} is of type {_word(places[name].entry.dtype)}", where=where)
    require_same(found, config, where)


def _word(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
