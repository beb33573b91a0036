"""Hugging Face model folders, written.

Comes in: a decoder, or its tensors by name. Goes out: `config.json` and `model.safetensors`, same weights, same bytes. Must
never happen: half a file under a whole one's name.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from puna.errors import PunaError
from puna.files import atomic_file, canonical_json, write_json
from puna.model.config import ModelConfig
from puna.model.decoder import Decoder
from puna.model.formats.huggingface import CONFIG, DIGEST_KEY, WEIGHTS, same_names
from puna.model.formats.safetensors_header import DTYPES
from puna.model.weights import require_finite


def save_model(model: Decoder | Mapping[str, Tensor], config: ModelConfig, folder: Path) -> None:
    """Write `config.json` and `model.safetensors` (same weights, same bytes), each whole or not at all.

    Raises `PunaError` where names or shapes differ from the config's, or a weight is not finite.
    """
    state = model.state_dict() if isinstance(model, Decoder) else model
    folder = Path(folder)
    tensors = {name: tensor.detach() for name, tensor in state.items()}
    same_names(set(tensors), config, str(folder))
    for name, shape in config.shapes.items():
        if tuple(tensors[name].shape) != shape:
            raise PunaError(
                f"{name} has shape {list(tensors[name].shape)}, the config says {list(shape)}", where=str(folder)
            )
        require_finite(name, tensors[name], str(folder))
    kinds = {tensor.dtype for tensor in tensors.values()}
    if len(kinds) != 1 or not kinds <= set(DTYPES.values()):
        raise PunaError(
            f"weights are of types {sorted(map(str, kinds))}; one of fp32, fp16, bf16 is needed", where=str(folder)
        )
    folder.mkdir(parents=True, exist_ok=True)
    _write_safetensors(folder / WEIGHTS, tensors)
    write_json(folder / CONFIG, config.to_hf(dtype=str(kinds.pop()).removeprefix("torch.")))


def _write_safetensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """The format of safetensors: length of the header (u64, little-endian), header (JSON), bytes one after the other.

    Written here and not by the library, which holds a second copy of all weights in memory and whose order of metadata
    keys changes from run to run.
    """
    codes = {dtype: code for code, dtype in DTYPES.items()}
    header: dict[str, Any] = {}
    digest, offset = hashlib.sha256(), 0
    for name in sorted(tensors):
        data = _bytes(tensors[name])
        digest.update(data)
        header[name] = {"dtype": codes[tensors[name].dtype], "shape": list(tensors[name].shape),
                        "data_offsets": [offset, offset + len(data)]}  # fmt: skip
        offset += len(data)
    header["__metadata__"] = {"format": "pt", DIGEST_KEY: digest.hexdigest()}
    text = canonical_json(header)
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of eight bytes
    with atomic_file(path) as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for name in sorted(tensors):
            stream.write(_bytes(tensors[name]))


def _bytes(tensor: Tensor) -> memoryview:
    flat = tensor.cpu().contiguous().view(-1)
    return flat.view(torch.uint8).numpy().data
