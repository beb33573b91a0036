"""Hugging Face model folders, read: `config.json` and safetensors, single or sharded.

Comes in: a folder that a stranger may have made. Goes out: `Weights` whose every tensor was named, shaped and finite as
the config says. Must never happen: a length or an offset believed before it was held against the file's size.
"""

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from puna.errors import PunaError
from puna.model.config import ModelConfig
from puna.model.formats.safetensors_header import DTYPES, Entry, Header, listed, parse_json, read_header, shown
from puna.model.manifest import Manifest
from puna.model.weights import Weights, require_finite
from puna.reading import find_inside

WEIGHTS, INDEX, CONFIG = "model.safetensors", "model.safetensors.index.json", "config.json"
# In the file's metadata: a digest of each tensor's bytes, in the order of their offsets, so that a flipped bit shows without
# a manifest, and reading one tensor costs no more than that tensor.
DIGEST_KEY = "puna.digests"
CHUNK = 8 << 20  # what one thread reads or hashes at a time
THREADS = min(8, os.cpu_count() or 1)
PICKLES = ("*.bin", "*.bin.index.json", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.pickle")
PICKLE_MEND = (
    "convert it in a container without network and with nothing in it to lose: transformers' "
    "AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(NEW_FOLDER) writes safetensors"
)
_MAX_JSON = 8 << 20


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
    shards, total = _shards(folder, manifest)
    headers = {path: _checked_header(path, names) for path, names in shards.items()}
    places = _places(headers)
    require_same({name: place.entry.shape for name, place in places.items()}, config, str(folder))
    if total is not None:
        _check_total(total, headers, folder / INDEX)
    listed_files = [manifest.verify(path) for path in headers]
    trusted = all(listed_files)  # the manifest's digests have said it already

    def read(name: str) -> Tensor:
        tensor = read_tensor(places[name], trusted)
        require_finite(name, tensor, str(places[name].path))
        return tensor

    if config.tie_word_embeddings and "lm_head.weight" in places:
        _refuse_other_head(read, str(folder))
    codes = {dtype: code for code, dtype in DTYPES.items()}
    return Weights(
        config, read, {name: codes[places[name].entry.dtype] for name in config.shapes}, str(folder), fresh=True
    )


@dataclass(frozen=True)
class _Place:
    """Where a tensor stands: file, name there, the byte where the file's tensors begin, its line in the header, its digest."""

    path: Path
    name: str
    base: int
    entry: Entry
    digest: str | None


def place_of(path: Path, name: str, header: Header, entry: Entry) -> "_Place":
    """Where a tensor of a checked header stands, for a reader that takes each file as it is."""
    return _Place(path, name, header.data_start, entry, None)


def _read_config(folder: Path, manifest: Manifest) -> ModelConfig:
    path = find_inside(folder, CONFIG)
    if path is None:
        raise PunaError("is no model folder: config.json is missing", where=str(folder))
    value = _read_json(path, manifest, "is not JSON")
    try:
        return ModelConfig.from_hf(value)
    except PunaError as error:
        raise PunaError(error.what, where=str(path), mend=error.mend) from error


def _read_json(path: Path, manifest: Manifest, complaint: str) -> Any:
    """A JSON file's value, its size bounded, after its digest was checked."""
    size = path.stat().st_size
    if size > _MAX_JSON:
        raise PunaError(f"has {size:,} bytes; no file of its kind is that large", where=str(path))
    manifest.verify(path)
    try:
        return parse_json(path.read_bytes())
    except (ValueError, OSError) as error:
        raise PunaError(f"{complaint} ({str(error)[:80]})", where=str(path)) from error


def _shards(folder: Path, manifest: Manifest) -> tuple[dict[Path, set[str] | None], int | None]:
    """Weight files with the names each must hold (None: a single file holds all), and the index's `total_size`."""
    single = find_inside(folder, WEIGHTS)
    if single is not None:
        return {single: None}, None
    index = find_inside(folder, INDEX)
    if index is None:
        raise no_weights(folder)
    value = _read_json(index, manifest, "is not an index of safetensors files")
    mapping = value.get("weight_map") if isinstance(value, dict) else None
    if not isinstance(mapping, dict) or not mapping or not all(isinstance(file, str) for file in mapping.values()):
        raise PunaError("is not an index of safetensors files", where=str(index))
    metadata = value.get("metadata") or {}
    total = metadata.get("total_size") if isinstance(metadata, dict) else None
    shards: dict[Path, set[str] | None] = {}
    for file in sorted(set(mapping.values())):
        if Path(file).name != file or "\0" in file or "\\" in file or not file.endswith(".safetensors"):
            raise PunaError(f"names the file {shown(file)!r}, which is not a safetensors file of this folder",
                            where=str(index))  # fmt: skip
        path = find_inside(folder, file)
        if path is None:
            raise PunaError(f"is missing, though {INDEX} names it", where=str(folder / shown(file)))
        shards[path] = {name for name, of in mapping.items() if of == file}
    if total is not None and type(total) is not int and not (isinstance(total, float) and total.is_integer()):
        raise PunaError("states a total_size that is no number of bytes", where=str(index))
    return shards, None if total is None else int(total)


def no_weights(folder: Path) -> PunaError:
    """The error for a folder without safetensors; it says where pickle files stand in their stead."""
    pickles = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
    if pickles:
        return PunaError(f"holds its weights as pickle files ({', '.join(map(shown, pickles[:4]))}"
                         f"{', ...' if len(pickles) > 4 else ''}), which can run code and are never opened",
                         where=str(folder), mend=PICKLE_MEND)  # fmt: skip
    return PunaError(f"holds neither {WEIGHTS} nor {INDEX}", where=str(folder))


def _checked_header(path: Path, names: set[str] | None, dtypes: Mapping[str, torch.dtype] = DTYPES) -> Header:
    """The header of one file, held against its size and the index; `dtypes`: the types that may stand in it."""
    header = read_header(path, dtypes)
    if names is not None and (names ^ set(header.tensors)):
        missing, extra = names - set(header.tensors), set(header.tensors) - names
        words = [
            f"{word}: {listed(some)}" for word, some in (("not in it", missing), ("not in the index", extra)) if some
        ]
        raise PunaError(
            f"and the index disagree about {len(missing | extra)} tensors; {'; '.join(words)}", where=str(path)
        )
    return header


def _places(headers: Mapping[Path, Header]) -> dict[str, _Place]:
    """Every tensor under our name for it. Left out are the tables of angles that LLaMA 1 checkpoints carry: they are computed."""
    places: dict[str, _Place] = {}
    for path, header in headers.items():
        stated = header.metadata.get(DIGEST_KEY)
        digests: list[str | None] = [None] * len(header.tensors) if stated is None else [*stated.split(" ")]
        if len(digests) != len(header.tensors):
            raise PunaError(f"states {len(digests)} digests for {len(header.tensors)} tensors", where=str(path))
        in_order = sorted(header.tensors.items(), key=lambda item: (item[1].begin, item[1].end))
        for (name, entry), digest in zip(in_order, digests, strict=True):
            if name.endswith("rotary_emb.inv_freq"):
                continue
            ours = _our_name(name)
            if ours in places:
                raise PunaError(f"holds the tensor {shown(ours)} a second time", where=str(path))
            places[ours] = _Place(path, name, header.data_start, entry, digest)
    return places


def _our_name(name: str) -> str:
    """Yi's first release calls a layer's two norms ln1 and ln2; that is the whole difference to LLaMA's names."""
    found = re.fullmatch(r"(model\.layers\.[0-9]+\.)ln([12])\.weight", name)
    if not found:
        return name
    return found[1] + ("input_layernorm" if found[2] == "1" else "post_attention_layernorm") + ".weight"


def require_same(found: Mapping[str, tuple[int, ...]], config: ModelConfig, where: str) -> None:
    """Every tensor of the config must be there in its shape, and no other; a tied model may carry its head a second time.

    Raises `PunaError` that lists all that are missing, all that are too much, or all that have another shape.
    """
    wanted = dict(config.shapes)
    missing = wanted.keys() - found.keys()
    wanted.setdefault("lm_head.weight", (config.vocab_size, config.hidden_size))
    extra = found.keys() - wanted.keys()
    both = ((missing, "missing"), (extra, "do not belong to the config's architecture"))
    words = [f"{len(names)} tensors {word}: {listed(names)}" for names, word in both if names]
    if words:
        raise PunaError("; ".join(words), where=where)
    wrong: dict[tuple[Any, Any], list[str]] = {}
    for name, shape in found.items():
        if shape != wanted[name]:
            wrong.setdefault((shape, wanted[name]), []).append(name)
    if wrong:
        words = [f"{listed(names)} has shape {list(shape)}, the config says {list(right)}"
                 for (shape, right), names in wrong.items()]  # fmt: skip
        raise PunaError("; ".join(words), where=where)


def _check_total(total: int, headers: Mapping[Path, Header], index: Path) -> None:
    """`total_size` is the bytes of all tensors. Some writers leave out the old tables of angles or a tied head's copy."""
    tensors = {name: entry for header in headers.values() for name, entry in header.tensors.items()}
    sizes = {name: entry.end - entry.begin for name, entry in tensors.items()}
    angles = sum(size for name, size in sizes.items() if name.endswith("rotary_emb.inv_freq"))
    whole, head = sum(sizes.values()), sizes.get("lm_head.weight", 0)
    if total not in {whole, whole - angles, whole - head, whole - angles - head}:
        raise PunaError(f"states a total_size of {total:,} bytes, the files it names hold {whole:,}", where=str(index),
                        mend="fetch the files again, or mend the number if they are known to be whole")  # fmt: skip


def read_tensor(place: _Place, trusted: bool) -> Tensor:
    """A tensor's own copy of its bytes, held against its digest.

    Read and not mapped: a mapped file that shrinks while it is read kills the process, and its pages count as ours.
    """
    begin, size = place.base + place.entry.begin, place.entry.end - place.entry.begin
    flat = torch.empty(size, dtype=torch.uint8)
    memory = flat.numpy().data

    def fill(offset: int) -> bytes:
        part = memory[offset : offset + CHUNK]
        with open(place.path, "rb", buffering=0) as stream:
            stream.seek(begin + offset)
            filled = 0
            while filled < len(part):
                count = stream.readinto(part[filled:])
                if not count:
                    raise PunaError(f"is truncated: {shown(place.name)} ends early", where=str(place.path))
                filled += count
        return b"" if trusted or place.digest is None else hashlib.sha256(part).digest()

    try:
        offsets = range(0, size, CHUNK)
        if len(offsets) > 1:
            with ThreadPoolExecutor(THREADS) as pool:
                parts = list(pool.map(fill, offsets))
        else:
            parts = [fill(0)]
    except OSError as error:
        raise PunaError(f"cannot be read ({error.strerror})", where=str(place.path)) from error
    if not trusted and place.digest is not None and digest_of_parts(parts) != place.digest:
        raise PunaError(f"was altered or damaged: {shown(place.name)} does not have the digest that the file states",
                        where=str(place.path))  # fmt: skip
    return flat.view(place.entry.dtype).view(place.entry.shape)


def digest_of_parts(digests: Iterable[bytes]) -> str:
    """A tensor's digest (hex): SHA-256 of the SHA-256 of its chunks, one after the other, so that threads can share the work."""
    return hashlib.sha256(b"".join(digests)).hexdigest()


def _refuse_other_head(read: Callable[[str], Tensor], where: str) -> None:
    """Some writers store a tied head as well; it must then be the embedding, or the config is wrong."""
    if not torch.equal(read("lm_head.weight"), read("model.embed_tokens.weight")):
        raise PunaError("says that the head is tied, but lm_head.weight differs from the embedding", where=where,
                        mend='set "tie_word_embeddings" to false in config.json')  # fmt: skip
