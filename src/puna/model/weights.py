"""Model folders: `config.json` and `model.safetensors` in, a `Decoder` out, and the way back.

Comes in: a folder that a stranger may have made. Goes out: a decoder whose every tensor was named, shaped and finite as
the config says. Must never happen: a length or an offset believed before it was held against the file's size.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from puna.errors import PunaError
from puna.files import atomic_file, canonical_json, write_json
from puna.model.config import ModelConfig
from puna.model.decoder import Decoder
from puna.model.manifest import Manifest
from puna.model.safetensors_header import DTYPES, Header, read_header

WEIGHTS, INDEX, CONFIG = "model.safetensors", "model.safetensors.index.json", "config.json"
# In the file's metadata: SHA-256 of all tensor bytes, so that a flipped bit shows without a manifest.
DIGEST_KEY = "puna.sha256"
_MAX_JSON = 64 << 20
_BLOCK = 1 << 22


def save_model(model: Decoder | Mapping[str, Tensor], config: ModelConfig, folder: Path) -> None:
    """Write `config.json` and `model.safetensors` (same weights, same bytes), each whole or not at all.

    Raises `PunaError` where names or shapes differ from the config's, or a weight is not finite.
    """
    state = model.state_dict() if isinstance(model, Decoder) else model
    folder = Path(folder)
    tensors = {name: tensor.detach() for name, tensor in state.items()}
    _same_names(set(tensors), config, str(folder))
    for name, shape in config.shapes.items():
        if tuple(tensors[name].shape) != shape:
            raise PunaError(
                f"{name} has shape {list(tensors[name].shape)}, the config says {list(shape)}", where=str(folder)
            )
        _finite(name, tensors[name], str(folder))
    kinds = {tensor.dtype for tensor in tensors.values()}
    if len(kinds) != 1 or not kinds <= set(DTYPES.values()):
        raise PunaError(
            f"weights are of types {sorted(map(str, kinds))}; one of fp32, fp16, bf16 is needed", where=str(folder)
        )
    folder.mkdir(parents=True, exist_ok=True)
    _write_safetensors(folder / WEIGHTS, tensors)
    write_json(folder / CONFIG, config.to_hf(dtype=str(kinds.pop()).removeprefix("torch.")))


def load_config(folder: Path) -> ModelConfig:
    """The config of a model folder, its digest checked where a manifest stands beside it; raises `PunaError`."""
    folder = Path(folder)
    return _read_config(folder, Manifest.find(folder))


def load_model(folder: Path, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> Decoder:
    """The decoder in a folder, in `dtype` on `device`. Single files and sharded ones with an index are read.

    Raises `PunaError` for whatever is missing, truncated, altered, misshapen, not finite or not supported.
    """
    folder = Path(folder)
    manifest = Manifest.find(folder)
    config = _read_config(folder, manifest)
    state: dict[str, Tensor] = {}
    shards = _shards(folder, manifest)
    headers = {path: _checked_header(path, names, config) for path, names in shards.items()}
    _same_names({name for header in headers.values() for name in header.tensors}, config, str(folder))
    for path, header in headers.items():
        if not manifest.verify(path):
            _check_digest(path, header)
        for name, tensor in _tensors(path, header):
            _finite(name, tensor, str(path))
            state[name] = tensor.to(device=device, dtype=dtype, copy=True)
    _drop_tied_head(state, config, str(folder))
    with torch.device("meta"):
        model = Decoder(config)
    model.load_state_dict({name: tensor for name, tensor in state.items() if name in config.shapes}, assign=True)
    model.rope.to(device)
    return model.requires_grad_(True)


def _read_config(folder: Path, manifest: Manifest) -> ModelConfig:
    path = folder / CONFIG
    if not path.is_file():
        raise PunaError("is no model folder: config.json is missing", where=str(folder))
    try:
        value = json.loads(_small_file(path, manifest).decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise PunaError(f"is not JSON ({str(error)[:80]})", where=str(path)) from error
    try:
        return ModelConfig.from_hf(value)
    except PunaError as error:
        raise PunaError(error.what, where=str(path), mend=error.mend) from error


def _small_file(path: Path, manifest: Manifest) -> bytes:
    """A JSON file's bytes, bounded, after its digest was checked."""
    size = path.stat().st_size
    if size > _MAX_JSON:
        raise PunaError(f"has {size:,} bytes; no file of its kind is that large", where=str(path))
    manifest.verify(path)
    return path.read_bytes()


def _shards(folder: Path, manifest: Manifest) -> dict[Path, set[str] | None]:
    """Weight files, and the names each must hold (None: a single file holds all)."""
    if (folder / WEIGHTS).is_file():
        return {folder / WEIGHTS: None}
    index = folder / INDEX
    if not index.is_file():
        raise PunaError(f"holds neither {WEIGHTS} nor {INDEX}", where=str(folder),
                        mend="weights in other forms (pickle above all) are not read")  # fmt: skip
    try:
        mapping = json.loads(_small_file(index, manifest).decode("utf-8"))["weight_map"]
        pairs = [(str(name), str(file)) for name, file in mapping.items()]
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise PunaError("is not an index of safetensors files", where=str(index)) from error
    shards: dict[Path, set[str] | None] = {}
    for name, file in pairs:
        if Path(file).name != file or not file.endswith(".safetensors"):
            raise PunaError(
                f"names the file {file[:80]!r}, which is not a safetensors file of this folder", where=str(index)
            )
        if not (folder / file).is_file():
            raise PunaError(f"is missing, though {INDEX} names it", where=str(folder / file))
        names = shards.setdefault(folder / file, set())
        assert names is not None
        names.add(name)
    return shards


def _checked_header(path: Path, names: set[str] | None, config: ModelConfig) -> Header:
    """The header of one file, held against its size, the index and the config."""
    header = read_header(path)
    header.tensors = {name: entry for name, entry in header.tensors.items() if not name.endswith("rotary_emb.inv_freq")}
    names = {name for name in names if not name.endswith("rotary_emb.inv_freq")} if names is not None else None
    if names is not None and names != set(header.tensors):
        name = min(names ^ set(header.tensors))
        raise PunaError(f"and the index disagree about the tensor {name[:120]}", where=str(path))
    shapes = dict(config.shapes)
    shapes.setdefault("lm_head.weight", (config.vocab_size, config.hidden_size))
    for name, entry in header.tensors.items():
        if name in shapes and entry.shape != shapes[name]:
            raise PunaError(
                f"{name} has shape {list(entry.shape)}, the config says {list(shapes[name])}", where=str(path)
            )
    return header


def _same_names(found: set[str], config: ModelConfig, where: str) -> None:
    """Every tensor of the config must be there and no other; a tied model may carry its head a second time."""
    wanted = set(config.shapes)
    missing, extra = sorted(wanted - found), sorted(found - wanted - {"lm_head.weight"})
    for names, word in ((missing, "are missing"), (extra, "do not belong to the config's architecture")):
        if names:
            shown = ", ".join(name[:120] for name in names[:3])
            raise PunaError(f"{len(names)} tensors {word}: {shown}{', ...' if len(names) > 3 else ''}", where=where)


def _drop_tied_head(state: dict[str, Tensor], config: ModelConfig, where: str) -> None:
    """Some writers store a tied head as well; it must then be the embedding, or the config is wrong."""
    if not config.tie_word_embeddings or "lm_head.weight" not in state:
        return
    if not torch.equal(state.pop("lm_head.weight"), state["model.embed_tokens.weight"]):
        raise PunaError("says that the head is tied, but lm_head.weight differs from the embedding", where=where,
                        mend='set "tie_word_embeddings" to false in config.json')  # fmt: skip


def _tensors(path: Path, header: Header) -> Iterator[tuple[str, Tensor]]:
    """The file's tensors one by one, through the safetensors library."""
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            for name in header.tensors:
                yield name, file.get_tensor(name)
    except (SafetensorError, OSError) as error:
        raise PunaError(f"cannot be read ({str(error)[:120]})", where=str(path)) from error


def _finite(name: str, tensor: Tensor, where: str) -> None:
    # A sum is one pass and NaN or infinity survive it; only a sum that overflowed needs the look at each value.
    if not torch.isfinite(tensor.sum(dtype=torch.float64)) and not torch.isfinite(tensor).all():
        raise PunaError(f"{name} holds values that are not finite", where=where)


def _check_digest(path: Path, header: Header) -> None:
    """A file that we wrote states the digest of its tensors' bytes."""
    stated = header.metadata.get(DIGEST_KEY)
    if stated is None:
        return
    state = hashlib.sha256()
    with open(path, "rb") as stream:
        stream.seek(header.data_start)
        while block := stream.read(_BLOCK):
            state.update(block)
    if state.hexdigest() != stated:
        raise PunaError("was altered or damaged: its tensors do not have the digest that it states", where=str(path))


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
