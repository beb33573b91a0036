"""llama2.c's model files, read: the first form without a magic, version 1 (fp32) and version 2 (int8 in groups).

Comes in: a `.bin` file that a stranger may have made. Goes out: `Weights` under Hugging Face's names. Must never happen: a
number of the header believed before the sizes that follow from it made up the file's size to the byte.

The forms are those of llama2.c's export.py (`legacy_export`, `version1_export`, `version2_export`) and of run.c and runq.c,
which read them. Both compute with rotary base 10,000 and epsilon 1e-5, and rotate neighbouring pairs of a head's dimensions;
Hugging Face rotates the first half against the second, so the rows of Q and K change places here.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from pydantic import ValidationError
from torch import Tensor

from puna.errors import PunaError
from puna.model.config import ModelConfig
from puna.model.weights import Weights, require_finite

MAGIC: Final = 0x616B3432  # "ak42"
HEADER_BYTES: Final = 256  # of versions 1 and 2
LEGACY_BYTES: Final = 28
FIELDS: Final = ("dim", "hidden_dim", "n_layers", "n_heads", "n_kv_heads", "vocab_size", "max_seq_len")
THETA, EPSILON = 10_000.0, 1e-5  # run.c and runq.c know no others
_MAX = {"dim": 1 << 20, "hidden_dim": 1 << 22, "n_layers": 1 << 12, "n_heads": 1 << 14, "n_kv_heads": 1 << 14,
        "vocab_size": 1 << 24, "max_seq_len": 1 << 24}  # fmt: skip
_PICKLES = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")

Q, K = "self_attn.q_proj.weight", "self_attn.k_proj.weight"
ATTENTION_NORM, FFN_NORM = "input_layernorm.weight", "post_attention_layernorm.weight"
_MATRICES = (Q, K, "self_attn.v_proj.weight", "self_attn.o_proj.weight")
_FFN = ("mlp.gate_proj.weight", "mlp.down_proj.weight", "mlp.up_proj.weight")  # w1, w2, w3
EMBEDDING, NORM, HEAD = "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"
TABLE = ""  # the place of a cosine or sine table in the first form's order


@dataclass(frozen=True)
class _Place:
    offset: int
    shape: tuple[int, ...]
    group: int  # 0: fp32

    @property
    def values(self) -> int:
        return int(np.prod(self.shape, dtype=object))

    @property
    def bytes(self) -> int:
        return self.values + 4 * (self.values // self.group) if self.group else 4 * self.values


def open_llama2c(path: Path) -> Weights:
    """The model in a llama2.c file, each tensor read (int8: made fp32) when it is asked for.

    Raises `PunaError` where the file is none, is shorter or longer than its header says, or holds values that are not finite.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        with open(path, "rb") as stream:
            head = stream.read(HEADER_BYTES)
        version, config, group, start = _header(head)
        places, end = _places(config, version, group, start)
        if end != size:
            raise PunaError(f"has {size:,} bytes, its header makes {end:,}")
    except PunaError as error:
        raise PunaError(error.what, where=str(path), mend=error.mend) from error
    except OSError as error:
        raise PunaError(f"cannot be read ({error.strerror})", where=str(path)) from error

    def read(name: str) -> Tensor:
        place = places[name]
        values = torch.from_numpy(_values(path, place))
        require_finite(name, values, str(path))
        if name.endswith((Q, K)):
            values = halves_from_pairs(values, config.head_dim)
        return values

    types = {name: f"int8 in groups of {place.group}" if place.group else "fp32" for name, place in places.items()}
    return Weights(config, read, types, str(path))


def order(config: ModelConfig, version: int) -> Iterator[str]:
    """The tensors' names in the order of the file; `TABLE` for the two tables of cosines and sines that the first form has."""

    def layers(name: str) -> Iterator[str]:
        for index in range(config.num_hidden_layers):
            yield f"model.layers.{index}.{name}"

    if version == 0:
        yield EMBEDDING
        for name in (ATTENTION_NORM, *_MATRICES, FFN_NORM, *_FFN):
            yield from layers(name)
        yield from (NORM, TABLE, TABLE)
    else:
        yield from layers(ATTENTION_NORM)
        yield from layers(FFN_NORM)
        yield from (NORM, EMBEDDING)
        for name in (*_MATRICES, *_FFN):
            yield from layers(name)
    if not config.tie_word_embeddings:
        yield HEAD


def halves_from_pairs(rows: Float[Tensor, "rows dim"], head_dim: int) -> Float[Tensor, "rows dim"]:
    """Rows of a head from the order (0, 1), (2, 3), ... that llama2.c rotates to Hugging Face's (0, h/2), (1, h/2 + 1), ..."""
    return rows.view(-1, head_dim // 2, 2, rows.shape[1]).transpose(1, 2).reshape(rows.shape)


def pairs_from_halves(rows: Float[Tensor, "rows dim"], head_dim: int) -> Float[Tensor, "rows dim"]:
    """The way back of `halves_from_pairs`."""
    return rows.view(-1, 2, head_dim // 2, rows.shape[1]).transpose(1, 2).reshape(rows.shape)


def _header(head: bytes) -> tuple[int, ModelConfig, int, int]:
    """(version, config, group size or 0, where the tensors start)."""
    if head.startswith(_PICKLES):
        raise PunaError("is a pickle, which can run code; it is not read",
                        mend="convert it to safetensors where it came from, or in a container without network")  # fmt: skip
    if len(head) < LEGACY_BYTES:
        raise PunaError("is too short for a model of llama2.c")
    version, group, start = 0, 0, LEGACY_BYTES
    numbers = struct.unpack_from("<7i", head)
    tied = numbers[5] > 0
    if struct.unpack_from("<I", head)[0] == MAGIC:
        if len(head) < HEADER_BYTES:
            raise PunaError("is too short for its header")
        version, start = struct.unpack_from("<i", head, 4)[0], HEADER_BYTES
        if version not in (1, 2):
            raise PunaError(f"is of llama2.c's version {version}; 1 and 2 are known")
        numbers = struct.unpack_from("<7i", head, 8)
        shared = head[36]
        if shared not in (0, 1):
            raise PunaError(f"says {shared} where the classifier is shared (1) or not (0)")
        tied = bool(shared)
        if version == 2:
            group = struct.unpack_from("<i", head, 37)[0]
    values = dict(zip(FIELDS, numbers, strict=True))
    if version == 0:  # a negative vocabulary says that the classifier is its own
        values["vocab_size"] = abs(values["vocab_size"])
    return version, _config(values, tied), _group(group, values) if version == 2 else 0, start


def _config(values: dict[str, int], tied: bool) -> ModelConfig:
    for name, value in values.items():
        if not 1 <= value <= _MAX[name]:
            raise PunaError(f"is no model of llama2.c: {name} is {value:,}")
    dim, heads, kv_heads = values["dim"], values["n_heads"], values["n_kv_heads"]
    if dim % heads or heads % kv_heads or dim // heads % 2:
        raise PunaError(
            f"is no model of llama2.c: dim {dim:,}, {heads:,} heads and {kv_heads:,} for keys do not fit together"
        )
    try:
        return ModelConfig(
            vocab_size=values["vocab_size"], hidden_size=dim, intermediate_size=values["hidden_dim"],
            num_hidden_layers=values["n_layers"], num_attention_heads=heads, num_key_value_heads=kv_heads,
            head_dim=dim // heads, max_position_embeddings=values["max_seq_len"], tie_word_embeddings=tied,
            rope_theta=THETA, rms_norm_eps=EPSILON, bos_token_id=1, eos_token_id=2,
        )  # fmt: skip
    except ValidationError as error:
        first = error.errors()[0]
        raise PunaError(f"is no model that can be read: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error


def _group(group: int, values: dict[str, int]) -> int:
    """The group size, held against every matrix; the number of values of each is a multiple of dim or of hidden_dim times dim."""
    head_dim = values["dim"] // values["n_heads"]
    sizes = (values["vocab_size"] * values["dim"], values["dim"] ** 2, values["n_kv_heads"] * head_dim * values["dim"],
             values["hidden_dim"] * values["dim"])  # fmt: skip
    if group < 1 or any(size % group for size in sizes):
        raise PunaError(f"is no model of llama2.c: groups of {group:,} do not divide its matrices")
    return group


def _places(config: ModelConfig, version: int, group: int, start: int) -> tuple[dict[str, _Place], int]:
    """Where each tensor stands, and where the file ends."""
    shapes = config.shapes
    places: dict[str, _Place] = {}
    offset = start
    for name in order(config, version):
        if name == TABLE:
            offset += 4 * config.max_position_embeddings * (config.head_dim // 2)
            continue
        shape = shapes[name]
        places[name] = _Place(offset, shape, group if len(shape) == 2 else 0)
        offset += places[name].bytes
    return places, offset


def _values(path: Path, place: _Place) -> Float[ndarray, "..."]:
    """A tensor's values in fp32. Raises `PunaError` where the file has become shorter since it was opened."""
    try:
        if not place.group:
            values = np.fromfile(path, "<f4", place.values, offset=place.offset)
            scales = None
        else:
            values = np.fromfile(path, "<i1", place.values, offset=place.offset)
            scales = np.fromfile(path, "<f4", place.values // place.group, offset=place.offset + place.values)
    except OSError as error:
        raise PunaError(f"cannot be read ({error.strerror})", where=str(path)) from error
    if values.size != place.values or (scales is not None and scales.size != place.values // place.group):
        raise PunaError("has changed since it was opened", where=str(path))
    if scales is not None:
        with np.errstate(invalid="ignore", over="ignore"):  # what is not finite is refused by name
            values = values.reshape(-1, place.group).astype(np.float32) * scales[:, None]
    return values.astype(np.float32, copy=False).reshape(place.shape)
