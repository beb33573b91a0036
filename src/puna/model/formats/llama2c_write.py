"""llama2.c's model files, written: what its run.c (versions 0 and 1) and runq.c (version 2, int8) load.

Comes in: `Weights`. Goes out: one file, the same bytes for the same weights. Must never happen: a model written that run.c
would compute otherwise, because the form has no place for what it needs.
"""

import struct
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from jaxtyping import Float, Float32, Int8
from numpy import ndarray
from torch import Tensor

from puna.errors import PunaError
from puna.files import atomic_file
from puna.model.config import ModelConfig
from puna.model.formats.llama2c import (
    EPSILON,
    HEADER_BYTES,
    MAGIC,
    TABLE,
    THETA,
    K,
    Q,
    order,
    pairs_from_halves,
)  # fmt: skip
from puna.model.weights import Weights

_GROUP = 64  # export.py's group size, halved until it divides


def write_llama2c(weights: Weights, path: Path, *, version: int) -> None:
    """Write a model file, a tensor at a time. `version`: 0 (no magic, fp32), 1 (fp32) or 2 (int8 in groups).

    Raises `PunaError` naming each field that the form cannot hold.
    """
    config = weights.config
    if version not in (0, 1, 2):
        raise PunaError(f"version {version} of llama2.c's form is not known; 0, 1 and 2 are")
    if unfit := list(_unfit(config)):
        raise PunaError(f"llama2.c cannot hold this model: {'; '.join(unfit)}", where=weights.where)
    group = group_size(config) if version == 2 else 0
    with atomic_file(Path(path)) as stream:
        stream.write(_header(config, version, group))
        tables = iter(_tables(config))
        for name in order(config, version):
            if name == TABLE:
                stream.write(next(tables).astype("<f4").tobytes())
                continue
            values = weights.read(name).to(torch.float32)
            if name.endswith((Q, K)):
                values = pairs_from_halves(values.contiguous(), config.head_dim)
            _write(stream, values, group if values.ndim == 2 else 0)


def group_size(config: ModelConfig) -> int:
    """How many int8 values share a scale: 64, halved until it divides the width of every row.

    export.py halves it until it divides `dim` alone; where it does not divide `hidden_dim` too, runq.c leaves the end of each
    row of w2 out, so here it is halved further.
    """
    group = _GROUP
    while config.hidden_size % group or config.intermediate_size % group:
        group //= 2
    return group


def quantize_q8(
    values: Float[ndarray, "..."], group: int
) -> tuple[Int8[ndarray, "groups group"], Float32[ndarray, " groups"]]:
    """int8 values and the fp32 scale of each group: the largest magnitude is 127 (export.py, `quantize_q80`)."""
    rows = values.reshape(-1, group).astype(np.float32, copy=False)
    scales = np.abs(rows).max(axis=1) / np.float32(127.0)
    # A group of zeros has the scale 0; tiny ones may have a scale so small that the quotient runs over.
    divisors = np.where(scales == 0, np.float32(1), scales)[:, None]
    return np.clip(np.rint(rows / divisors), -127, 127).astype(np.int8), scales


def _unfit(config: ModelConfig) -> list[str]:
    wrong = []
    if config.rope_theta != THETA:
        wrong.append(f"rope_theta is {config.rope_theta:g}, run.c computes with {THETA:g}")
    if config.rms_norm_eps != EPSILON:
        wrong.append(f"rms_norm_eps is {config.rms_norm_eps:g}, run.c computes with {EPSILON:g}")
    if config.head_dim * config.num_attention_heads != config.hidden_size:
        wrong.append(f"head_dim is {config.head_dim}, run.c takes hidden_size / num_attention_heads")
    if config.rope_scaling is not None:
        wrong.append("rope_scaling is set")
    if config.attention_bias:
        wrong.append("attention_bias is set")
    if config.qk_norm:
        wrong.append("qk_norm is set")
    if config.sliding_window is not None:
        wrong.append("sliding_window is set")
    return wrong


def _header(config: ModelConfig, version: int, group: int) -> bytes:
    vocab = config.vocab_size if version or config.tie_word_embeddings else -config.vocab_size
    numbers = struct.pack("<7i", config.hidden_size, config.intermediate_size, config.num_hidden_layers,
                          config.num_attention_heads, config.num_key_value_heads, vocab,
                          config.max_position_embeddings)  # fmt: skip
    if version == 0:
        return numbers
    head = struct.pack("<Ii", MAGIC, version) + numbers + struct.pack("<B", config.tie_word_embeddings)
    return (head + (struct.pack("<i", group) if version == 2 else b"")).ljust(HEADER_BYTES, b"\0")


def _tables(config: ModelConfig) -> tuple[Float[ndarray, "positions half"], Float[ndarray, "positions half"]]:
    """Cosines and sines of every position's angles; older programs read them, run.c passes them over."""
    half = config.head_dim // 2
    frequencies = THETA ** (-np.arange(half, dtype=np.float64) / half)
    angles = np.outer(np.arange(config.max_position_embeddings, dtype=np.float64), frequencies)
    return np.cos(angles), np.sin(angles)


def _write(stream: BinaryIO, values: Float[Tensor, "..."], group: int) -> None:
    array = values.contiguous().numpy()
    if not group:
        stream.write(array.astype("<f4", copy=False).tobytes())
        return
    quants, scales = quantize_q8(array, group)
    stream.write(quants.tobytes())
    stream.write(scales.astype("<f4", copy=False).tobytes())
