"""Hugging Face model folders, written: `config.json` and safetensors, single or sharded by size.

Comes in: weights, one tensor at a time. Goes out: a folder that transformers, vLLM and llama.cpp load; same weights, same
bytes. Must never happen: half a model under a whole one's name, or a shard of an older model beside a newer index.
"""

import hashlib
import math
import os
import re
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from puna.errors import PunaError
from puna.files import canonical_json, fsync_directory, write_json
from puna.model.config import ModelConfig
from puna.model.decoder import Decoder
from puna.model.formats.huggingface import (
    CHUNK,
    CONFIG,
    DIGEST_KEY,
    INDEX,
    THREADS,
    WEIGHTS,
    digest_of_parts,
    require_same,
)  # fmt: skip
from puna.model.formats.safetensors_header import DTYPES
from puna.model.weights import Weights, require_finite

_CODES = {dtype: code for code, dtype in DTYPES.items()}
_OUR_FILES = re.compile(r"model-[0-9]{5}-of-[0-9]{5}\.safetensors")


def save_model(model: Decoder | Mapping[str, Tensor], config: ModelConfig, folder: Path) -> None:
    """Write a decoder, or its tensors by name, as `write_huggingface` does: each in its own type, all in one file.

    Raises `PunaError` where names or shapes differ from the config's, or a weight is not finite.
    """
    state = model.state_dict() if isinstance(model, Decoder) else model
    require_same({name: tuple(tensor.shape) for name, tensor in state.items()}, config, str(folder))
    write_huggingface(Weights(config, lambda name: state[name].detach()), folder)


def write_huggingface(
    weights: Weights, folder: Path, *, dtype: torch.dtype | None = None, shard_bytes: int | None = None
) -> None:
    """Write `config.json` and the tensors: `model.safetensors`, or shards and an index where they exceed `shard_bytes`.

    `dtype`: fp32, bf16 or fp16 for all tensors; None keeps what each is stored as, and the config states the widest of
    them. Each tensor is read once and one is held at a time; one whose type `weights.types` does not tell is read once
    more, for that. The folder's earlier model, if there is one, stays as it is until the new one is on disk, and is gone
    before the first file of the new one appears under its name.

    Raises `PunaError` where a value is not finite (also: too large for `dtype`) or a shape is not the config's.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise PunaError("is a file; a model is written into a folder", where=str(folder))
    types = {name: dtype or _stored_type(weights, name) for name in weights.names}
    for name, kind in types.items():
        if kind not in _CODES:
            raise PunaError(f"{name} is of type {str(kind).removeprefix('torch.')}; fp32, fp16 and bf16 are written",
                            where=weights.where)  # fmt: skip
    sizes = {name: math.prod(shape) * types[name].itemsize for name, shape in weights.config.shapes.items()}
    files = _shards(sizes, shard_bytes)
    work = folder / f".weights.{os.getpid()}.tmp"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        for file, names in files.items():
            _write_file(work / file, weights, {name: types[name] for name in names})
        if len(files) > 1:
            place = {name: file for file, names in files.items() for name in names}
            write_json(work / INDEX, {"metadata": {"total_size": sum(sizes.values())}, "weight_map": place})
        widest = reduce(torch.promote_types, types.values())
        write_json(work / CONFIG, weights.config.to_hf(dtype=str(widest).removeprefix("torch.")))
        _put_in_place(work, folder, list(files))
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _stored_type(weights: Weights, name: str) -> torch.dtype:
    """What a tensor is stored as; fp32 for kinds that are no types of torch (quantised ones), as `Weights` gives them."""
    code = weights.types.get(name)
    return weights.read(name).dtype if code is None else DTYPES.get(code, torch.float32)


def _shards(sizes: Mapping[str, int], limit: int | None) -> dict[str, list[str]]:
    """File names and the tensors in each: in the decoder's order, a new file where the next tensor would exceed `limit`."""
    groups: list[list[str]] = [[]]
    filled = 0
    for name, size in sizes.items():
        if limit is not None and groups[-1] and filled + size > limit:
            groups.append([])
            filled = 0
        groups[-1].append(name)
        filled += size
    if len(groups) == 1:
        return {WEIGHTS: groups[0]}
    return {f"model-{number:05}-of-{len(groups):05}.safetensors": names for number, names in enumerate(groups, 1)}


def _write_file(path: Path, weights: Weights, types: Mapping[str, torch.dtype]) -> None:
    """The format of safetensors: length of the header (u64, little-endian), header (JSON), bytes one after the other.

    Written here and not by the library, which wants all tensors in memory at once and whose order of metadata keys changes
    from run to run. Wider types come first, so that every tensor begins at a multiple of its type's width.
    """
    names = sorted(types, key=lambda name: -types[name].itemsize)  # stable: otherwise the decoder's order
    digests = ["0" * 64] * len(names)
    shapes = weights.config.shapes
    with open(path, "wb") as stream, ThreadPoolExecutor(THREADS) as pool:
        stream.write(_header(names, types, shapes, digests))
        for index, name in enumerate(names):
            tensor = weights.read(name)
            if tuple(tensor.shape) != shapes[name]:
                raise PunaError(f"{name} has shape {list(tensor.shape)}, the config says {list(shapes[name])}",
                                where=weights.where)  # fmt: skip
            tensor = tensor.detach().cpu().to(types[name]).contiguous()
            require_finite(name, tensor, weights.where)
            data = tensor.view(-1).view(torch.uint8).numpy().data
            parts = [data[offset : offset + CHUNK] for offset in range(0, len(data), CHUNK)]
            hashes = pool.map(hashlib.sha256, parts)  # beside the writing: both leave the interpreter's lock
            stream.write(data)
            digests[index] = digest_of_parts(part.digest() for part in hashes)
        stream.seek(0)
        stream.write(_header(names, types, shapes, digests))
        stream.flush()
        os.fsync(stream.fileno())


def _header(
    names: list[str], types: Mapping[str, torch.dtype], shapes: Mapping[str, tuple[int, ...]], digests: list[str]
) -> bytes:
    """Length and header; as long with one list of digests as with another."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt", DIGEST_KEY: " ".join(digests)}}
    offset = 0
    for name in names:
        end = offset + math.prod(shapes[name]) * types[name].itemsize
        header[name] = {"dtype": _CODES[types[name]], "shape": list(shapes[name]), "data_offsets": [offset, end]}
        offset = end
    text = canonical_json(header)
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of eight bytes
    return len(text).to_bytes(8, "little") + text


def _put_in_place(work: Path, folder: Path, files: list[str]) -> None:
    """The new model in the old one's place. What a reader looks for first goes first and comes last: no moment shows a mixture."""
    entry = INDEX if len(files) > 1 else WEIGHTS
    for name in (WEIGHTS, INDEX):
        (folder / name).unlink(missing_ok=True)
    for path in folder.iterdir():
        if _OUR_FILES.fullmatch(path.name):
            path.unlink()
    fsync_directory(folder)
    for name in (*(file for file in files if file != entry), CONFIG, entry):
        os.replace(work / name, folder / name)
    fsync_directory(folder)
