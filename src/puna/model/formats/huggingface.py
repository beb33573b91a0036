"""Hugging Face model folders, read: `config.json` and safetensors, single or sharded.

Comes in: a folder that a stranger may have made. Goes out: `Weights` whose every tensor was named, shaped and finite as
the config says. Must never happen: a length or an offset believed before it was held against the file's size.
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from puna.errors import PunaError
from puna.model.config import ModelConfig
from puna.model.formats.safetensors_header import DTYPES, Header, read_header
from puna.model.manifest import Manifest
from puna.model.weights import Weights, require_finite

WEIGHTS, INDEX, CONFIG = "model.safetensors", "model.safetensors.index.json", "config.json"
# In the file's metadata: SHA-256 of all tensor bytes, so that a flipped bit shows without a manifest.
DIGEST_KEY = "puna.sha256"
_MAX_JSON = 64 << 20
_BLOCK = 1 << 22


def load_config(folder: Path) -> ModelConfig:
    """The config of a model folder, its digest checked where a manifest stands beside it; raises `PunaError`."""
    folder = Path(folder)
    return _read_config(folder, Manifest.find(folder))


def open_huggingface(folder: Path) -> Weights:
    """The model in a folder, checked but for the tensors' values, which are looked at as they are read.

    Raises `PunaError` for whatever is missing, truncated, altered, misshapen or not supported.
    """
    folder = Path(folder)
    manifest = Manifest.find(folder)
    config = _read_config(folder, manifest)
    shards = _shards(folder, manifest)
    headers = {path: _checked_header(path, names, config) for path, names in shards.items()}
    same_names({name for header in headers.values() for name in header.tensors}, config, str(folder))
    for path, header in headers.items():
        if not manifest.verify(path):
            _check_digest(path, header)
    places = {name: path for path, header in headers.items() for name in header.tensors}

    def read(name: str) -> Tensor:
        tensor = _tensor(places[name], name)
        require_finite(name, tensor, str(places[name]))
        return tensor

    if config.tie_word_embeddings and "lm_head.weight" in places:
        _refuse_other_head(read, str(folder))
    codes = {dtype: code for code, dtype in DTYPES.items()}
    types = {name: codes[headers[path].tensors[name].dtype] for name, path in places.items() if name in config.shapes}
    return Weights(config, read, types, str(folder))


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


def same_names(found: set[str], config: ModelConfig, where: str) -> None:
    """Every tensor of the config must be there and no other; a tied model may carry its head a second time."""
    wanted = set(config.shapes)
    missing, extra = sorted(wanted - found), sorted(found - wanted - {"lm_head.weight"})
    for names, word in ((missing, "are missing"), (extra, "do not belong to the config's architecture")):
        if names:
            shown = ", ".join(name[:120] for name in names[:3])
            raise PunaError(f"{len(names)} tensors {word}: {shown}{', ...' if len(names) > 3 else ''}", where=where)


def _refuse_other_head(read: Callable[[str], Tensor], where: str) -> None:
    """Some writers store a tied head as well; it must then be the embedding, or the config is wrong."""
    if not torch.equal(read("lm_head.weight"), read("model.embed_tokens.weight")):
        raise PunaError("says that the head is tied, but lm_head.weight differs from the embedding", where=where,
                        mend='set "tie_word_embeddings" to false in config.json')  # fmt: skip


def _tensor(path: Path, name: str) -> Tensor:
    """One tensor of a file, through the safetensors library."""
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return file.get_tensor(name)
    except (SafetensorError, OSError) as error:
        raise PunaError(f"cannot be read ({str(error)[:120]})", where=str(path)) from error


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
