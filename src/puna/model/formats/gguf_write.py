"""GGUF files, written: what llama.cpp loads, whole or in 16, 8 or 4 bits.

Comes in: `Weights`, the fields of a tokenizer, for 4 bits the importance of each input where it was measured. Goes out: one
file, the same bytes each time, and a report of what was stored how. Must never happen: half a file under a whole one's name, or
a value that does not fit its type written as infinity.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from torch import Tensor

from puna.errors import PunaError
from puna.files import atomic_file
from puna.model.config import ModelConfig
from puna.model.formats.gguf import ARCHITECTURES, ROPE_FACTORS, gguf_name, in_pairs, rope_divisors, yarn_temperature
from puna.model.formats.llama2c import pairs_from_halves
from puna.model.rope import inverse_frequencies
from puna.model.weights import Weights
from puna.progress import QUIET, Progress

# Kinds that can be written, and llama.cpp's number for a file of mostly that kind (`general.file_type`).
KINDS: Mapping[str, int] = {"F32": 0, "F16": 1, "BF16": 32, "Q8_0": 7, "Q4_0": 2}
_BLOCK = 32  # values that share a scale in Q8_0 and Q4_0
_CHUNK = 1 << 22  # values that are quantised at once


def write_gguf(
    weights: Weights,
    path: Path,
    *,
    kind: str,
    tokenizer: Mapping[str, Any],
    importance: Mapping[str, np.ndarray] | None = None,
    progress: Progress = QUIET,
) -> dict[str, Any]:
    """Write one GGUF file and tell what is in it: {"types": {type: tensors}, "bytes", "fallbacks": [names], "notes": [lines]}.

    `kind`: F32, F16, BF16, Q8_0 or Q4_0. Vectors stay F32. Matrices whose rows are no multiple of 32 long are stored as F16 where
    a quantised kind was asked for (`fallbacks`). In a Q4_0 file the output head (the embedding, where it is tied) is Q8_0, since
    every logit passes through it; llama.cpp's own quantiser spares it likewise. `tokenizer`: the metadata `tokenizer.*`, from
    `tokens.formats.gguf.gguf_tokenizer_fields`; empty for a file without one. `importance`: for matrices of Q4_0, by name, the
    mean square of each input [in_features] (`model.importance`); matrices without one are rounded as llama.cpp's reference does.
    Memory: the largest tensor, twice. Raises `PunaError` for an unknown kind, a value that does not fit it, a model that
    llama.cpp cannot compute, a tokenizer larger than the embedding.
    """
    from gguf import GGUFWriter
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

    if kind not in KINDS:
        raise PunaError(f"GGUF files of kind {kind[:20]!r} are not written", mend=f"kinds are {', '.join(KINDS)}")
    config, path = weights.config, Path(path)
    architecture = _architecture(config)
    stored = {name: _stored_as(kind, name, shape, config) for name, shape in config.shapes.items()}
    notes: list[str] = []
    divisors = _divisors(config)
    progress.start(f"writing {path.name}", sum(int(np.prod(shape)) for shape in config.shapes.values()), "values")
    with atomic_file(path) as stream:
        # The library opens the temporary file by its name; our handle on the same file makes it durable and renames it.
        writer = GGUFWriter(stream.name, architecture)
        for key, value in {**_metadata(config, architecture, kind, notes), **_tokenizer(config, tokenizer)}.items():
            _add(writer, key, value)
        if divisors is not None:
            writer.add_tensor_info(
                ROPE_FACTORS, divisors.shape, divisors.dtype, divisors.nbytes, GGMLQuantizationType.F32
            )
        for name, shape in config.shapes.items():
            tensor_type = GGMLQuantizationType[stored[name]]
            block, block_bytes = GGML_QUANT_SIZES[tensor_type]
            # float32 stands for "the shape is in values": the type is given beside it.
            writer.add_tensor_info(
                gguf_name(name), shape, np.dtype(np.float32), int(np.prod(shape)) // block * block_bytes, tensor_type
            )
        try:
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
            if divisors is not None:
                writer.write_tensor_data(divisors)
            done = 0
            for name, tensor in weights.items():
                writer.write_tensor_data(_encoded(name, _rows(name, tensor, config, architecture), stored[name],
                                                  (importance or {}).get(name)))  # fmt: skip
                done += tensor.numel()
                progress.update(done)
        finally:
            writer.close()
    progress.finish()
    types = Counter(stored.values()) + Counter(["F32"] if divisors is not None else [])
    fallbacks = [
        name for name, shape in config.shapes.items() if len(shape) == 2 and stored[name] == "F16" and kind[0] == "Q"
    ]
    return {"types": dict(types), "bytes": path.stat().st_size, "fallbacks": fallbacks, "notes": notes}


def quantise_q4_0(
    rows: Float32[np.ndarray, "n width"], importance: Float32[np.ndarray, "width"]
) -> UInt8[np.ndarray, "n bytes"]:
    """Q4_0 blocks (32 values: x ≈ d·q, d in fp16, q whole in -8..7) with the least Σ w·(x - d·q)².

    w = importance·√(mean(x²) + x²): the importance alone would give the expected square of the output's error if inputs did
    not correlate; the root, which spares large weights, is llama.cpp's (quantize_row_q4_0_impl) and did better here too. For each
    block scales around that which puts the largest value at -8 are tried; each gives a q, each q its best scale
    Σ w·x·q / Σ w·q² (the idea of llama.cpp's make_qx_quants); kept is the one whose error, after the scale is rounded to
    fp16, is least. The first candidate is the reference's own scale: by this measure the result is never worse.
    """
    x = np.ascontiguousarray(rows, np.float32).reshape(-1, _BLOCK)
    weight = np.tile(importance.astype(np.float32).reshape(-1, _BLOCK), (len(rows), 1))
    weight *= np.sqrt(np.square(x).mean(1, keepdims=True) + np.square(x))
    weighted = weight * x
    largest = np.take_along_axis(x, np.abs(x).argmax(1, keepdims=True), 1)
    best, best_scale = np.full((len(x), 1), np.inf, np.float32), np.zeros((len(x), 1), np.float32)
    for step in (0, *(sign * tenth for tenth in range(1, 10) for sign in (1, -1))):
        scale = _fp16(largest / np.float32(-8 - 0.1 * step))
        q = _nearest(x, scale)
        product, power = np.einsum("nk,nk->n", weighted, q)[:, None], np.einsum("nk,nk,nk->n", weight, q, q)[:, None]
        if step:
            scale = _fp16(np.divide(product, power, out=scale, where=power > 0))
        error = scale * (scale * power - 2 * product)  # Σ w·(x - d·q)² less Σ w·x², which is the same for all
        better = error < best
        best, best_scale = np.where(better, error, best), np.where(better, scale, best_scale)
    codes = (_nearest(x, best_scale) + 8).astype(np.uint8)
    packed = (
        codes[:, : _BLOCK // 2] | codes[:, _BLOCK // 2 :] << 4
    )  # value j in the low half of byte j, j + 16 in the high
    return np.concatenate([best_scale.astype(np.float16).view(np.uint8), packed], 1).reshape(len(rows), -1)


def _fp16(scale: Float32[np.ndarray, "n 1"]) -> Float32[np.ndarray, "n 1"]:
    """Rounded to what fp16 holds."""
    return scale.astype(np.float16).astype(np.float32)


def _nearest(x: Float32[np.ndarray, "n 32"], scale: Float32[np.ndarray, "n 1"]) -> Float32[np.ndarray, "n 32"]:
    """The whole numbers in -8..7 whose multiples of the scale are nearest to x; 0 where the scale is 0."""
    inverse = np.divide(1, scale, out=np.zeros_like(scale), where=scale != 0)
    return np.clip(np.rint(x * inverse), -8, 7)


def _stored_as(kind: str, name: str, shape: tuple[int, ...], config: ModelConfig) -> str:
    if len(shape) == 1:
        return "F32"
    if kind[0] != "Q":
        return kind
    if shape[-1] % _BLOCK:
        return "F16"
    head = "model.embed_tokens.weight" if config.tie_word_embeddings else "lm_head.weight"
    return "Q8_0" if name == head else kind


def _rows(name: str, tensor: Tensor, config: ModelConfig, architecture: str) -> Tensor:
    """The tensor with its rows in llama.cpp's order."""
    if tuple(tensor.shape) != config.shapes[name]:
        raise PunaError(f"{name} has shape {list(tensor.shape)}, the config says {list(config.shapes[name])}")
    tensor = tensor.detach().cpu().contiguous()
    return pairs_from_halves(tensor, config.head_dim) if in_pairs(architecture, name) else tensor


def _encoded(name: str, tensor: Tensor, kind: str, importance: np.ndarray | None) -> np.ndarray:
    """The bytes of a tensor, some rows at a time."""
    if importance is not None and importance.shape != tensor.shape[-1:]:
        raise PunaError(f"the importance of {name} is of shape {list(importance.shape)}, not [{tensor.shape[-1]}]")
    rows = tensor if tensor.ndim == 2 else tensor.unsqueeze(0)
    step = max(1, (_CHUNK if importance is None else _CHUNK >> 7) // rows.shape[1])  # a search's rows stay in the cache
    return np.concatenate(list(_parts(name, rows, kind, importance, step)))


def _parts(name: str, rows: Tensor, kind: str, importance: np.ndarray | None, step: int) -> Iterator[np.ndarray]:
    from gguf.constants import GGMLQuantizationType
    from gguf.quants import quantize

    for start in range(0, len(rows), step):
        part = rows[start : start + step]
        if not torch.isfinite(part).all():
            raise PunaError(f"{name} holds values that are not finite")
        if kind in ("F32", "F16", "BF16"):
            dtype = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}[kind]
            part = part.to(dtype)
            if not torch.isfinite(part).all():
                raise PunaError(f"{name} holds values beyond the range of {kind}", mend="write BF16 or F32")
            yield part.view(torch.uint8).numpy()
            continue
        values = part.float().numpy()
        if float(np.abs(values).max()) > 65504 * 8:  # a block's scale must fit fp16
            raise PunaError(f"{name} holds values beyond the range of {kind}", mend="write BF16 or F32")
        if kind == "Q4_0" and importance is not None:
            yield quantise_q4_0(values, importance)
        else:
            yield quantize(values, GGMLQuantizationType[kind])


def _architecture(config: ModelConfig) -> str:
    """GGUF's name of the architecture. A Mistral is a "llama" there."""
    names = {name: key for key, name in ARCHITECTURES.items()} | {"MistralForCausalLM": "llama"}
    return names[config.architecture]


def _metadata(config: ModelConfig, architecture: str, kind: str, notes: list[str]) -> dict[str, Any]:
    """Everything about the model's shape and arithmetic, under llama.cpp's keys."""
    context = config.max_position_embeddings
    if config.sliding_window is not None and config.sliding_window < context:
        context = config.sliding_window
        notes.append(
            f"the context is cut to the sliding window of {context:,}: llama.cpp has none for this architecture"
        )
    own: dict[str, Any] = {
        "block_count": config.num_hidden_layers, "context_length": context, "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size, "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads, "attention.key_length": config.head_dim,
        "attention.value_length": config.head_dim, "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "rope.dimension_count": config.head_dim, "rope.freq_base": config.rope_theta, "vocab_size": config.vocab_size,
    }  # fmt: skip
    if config.sliding_window is not None:
        own["attention.sliding_window"] = config.sliding_window  # for readers that know it; llama.cpp does not here
    scaling = config.rope_scaling
    if scaling is not None and scaling.rope_type != "llama3":
        own |= {"rope.scaling.type": scaling.rope_type, "rope.scaling.factor": scaling.factor}
    if scaling is not None and scaling.rope_type == "yarn":
        if scaling.truncate is False:
            raise PunaError("YaRN without truncated bounds is not computed by llama.cpp")
        own["rope.scaling.original_context_length"] = scaling.original_max_position_embeddings
        fast, slow = scaling.beta_fast or 32.0, scaling.beta_slow or 1.0
        if (fast, slow) != (32.0, 1.0):
            own |= {"rope.scaling.yarn_beta_fast": fast, "rope.scaling.yarn_beta_slow": slow}
            notes.append(f"llama.cpp reads YaRN's bounds from the command line only: --yarn-beta-fast {fast:g} "
                         f"--yarn-beta-slow {slow:g}")  # fmt: skip
        temperature = inverse_frequencies(config.rope_theta, config.head_dim, scaling)[1]
        if abs(temperature - yarn_temperature(scaling.factor)) > 1e-6:
            own["rope.scaling.attn_factor"] = temperature / yarn_temperature(scaling.factor)
    general = {"general.type": "model", "general.file_type": KINDS[kind], "general.quantization_version": 2}
    return general | {f"{architecture}.{key}": value for key, value in own.items()}


def _divisors(config: ModelConfig) -> np.ndarray | None:
    scaling = config.rope_scaling
    if scaling is None or scaling.rope_type != "llama3":
        return None
    return rope_divisors(config.rope_theta, config.head_dim, scaling)


def _tokenizer(config: ModelConfig, fields: Mapping[str, Any]) -> dict[str, Any]:
    """The tokenizer's fields, with an entry for each row of the embedding, and the config's special ids where it has none."""
    found = dict(fields)
    if not found:
        return {"tokenizer.ggml.model": "none"}
    tokens = list(found["tokenizer.ggml.tokens"])
    spare = config.vocab_size - len(tokens)
    if spare < 0:
        raise PunaError(f"the tokenizer has {len(tokens)} entries, the embedding {config.vocab_size} rows")
    # llama.cpp takes the vocabulary's size from this list: rows past the tokenizer's end get names that no text has.
    found["tokenizer.ggml.tokens"] = tokens + [f"[PAD{len(tokens) + number}]" for number in range(spare)]
    found["tokenizer.ggml.token_type"] = [*found["tokenizer.ggml.token_type"], *[5] * spare]  # 5: unused
    if "tokenizer.ggml.scores" in found:
        found["tokenizer.ggml.scores"] = [*found["tokenizer.ggml.scores"], *[-1000.0] * spare]
    ends = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    for name, token in (("bos", config.bos_token_id), ("eos", ends[0]), ("padding", config.pad_token_id),
                        ("eot", ends[1] if len(ends) > 1 else None)):  # fmt: skip
        if token is not None:
            found.setdefault(f"tokenizer.ggml.{name}_token_id", token)
    return found


def _add(writer: Any, key: str, value: Any) -> None:
    """One pair, of the type that llama.cpp expects for Python's."""
    match value:
        case bool():
            writer.add_bool(key, value)
        case int():
            writer.add_uint32(key, value)
        case float():
            writer.add_float32(key, value)
        case str():
            writer.add_string(key, value)
        case _:
            writer.add_array(key, list(value))
