"""GGUF files, read: llama.cpp's models as `Weights`.

Comes in: a `.gguf` file that a stranger may have made. Goes out: its tensors under Hugging Face's names, one at a time,
quantised ones spread to fp32. Must never happen: a key of the metadata that changes the arithmetic passed over in silence.

What GGUF does otherwise than Hugging Face: shapes are written row length first; a tied head is left out; for the architecture
"llama" (and only there) the rows of each query and key head stand in the order of interleaved rotary pairs; Llama 3's
rotary scaling is a tensor of divisors, one for each frequency.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from puna.errors import PunaError
from puna.gguf_header import GgufHeader, GgufTensor, read_gguf_header
from puna.model.config import ModelConfig
from puna.model.formats.llama2c import halves_from_pairs
from puna.model.formats.safetensors_header import listed, shown
from puna.model.rope import RopeScaling, inverse_frequencies
from puna.model.weights import Weights, require_finite

# GGUF's name of an architecture, and the class of transformers that computes it (a Mistral is a "llama" there).
ARCHITECTURES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}
ROPE_FACTORS, TOKENS = "rope_freqs.weight", "tokenizer.ggml.tokens"
# Read without a library; the others are spread to fp32 by the `gguf` library.
_PLAIN = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_QUANTISED = ("Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K")
_CHUNK = 1 << 22  # values that are spread at once

_TOP = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
_IN_LAYER = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
}  # fmt: skip

# Keys under the architecture's name that are understood here, and those that must have the value that leaves LLaMA as it is.
_KNOWN = frozenset({
    "block_count", "context_length", "embedding_length", "feed_forward_length", "attention.head_count", "attention.head_count_kv",
    "attention.layer_norm_rms_epsilon", "attention.key_length", "attention.value_length", "attention.sliding_window",
    "rope.dimension_count", "rope.freq_base", "rope.scaling.type", "rope.scaling.factor", "rope.scaling.original_context_length",
    "rope.scaling.attn_factor", "rope.scaling.yarn_beta_fast", "rope.scaling.yarn_beta_slow", "vocab_size",
    "rope.scaling.finetuned", "tensor_data_layout",
})  # fmt: skip
_FIXED: Mapping[str, tuple[Any, ...]] = {
    "expert_count": (0,), "expert_used_count": (0,), "attention.causal": (True,), "use_parallel_residual": (False,),
    "rope.scale_linear": (1.0,), "logit_scale": (0.0, 1.0), "attention.scale": (0.0,), "rope.scaling.yarn_ext_factor": (1.0,),
    "rope.scaling.yarn_attn_factor": (1.0,), "rope.scaling.yarn_log_multiplier": (0.0,),
}  # fmt: skip


def open_gguf(path: Path) -> Weights:
    """The model in a GGUF file, checked but for the tensors' values, which are looked at as they are read.

    F32, F16 and BF16 come in their own type, quantised tensors in fp32. Raises `PunaError` for whatever is truncated, missing,
    misshapen or not supported, and on reading where a value is not finite.
    """
    header = read_gguf_header(path)
    if header.get("split.count", int, 1) > 1:
        raise PunaError("is one piece of a divided model", where=str(path), mend="join it: llama-gguf-split --merge")
    architecture = header.get("general.architecture", str)
    if architecture not in ARCHITECTURES:
        raise PunaError(f"architecture {architecture[:80]!r} is not supported", where=str(path),
                        mend=f"supported are {', '.join(ARCHITECTURES)}")  # fmt: skip
    config = _config(header, architecture)
    names = {name: gguf_name(name) for name in config.shapes}
    _check_tensors(header, config, names)

    def read(name: str) -> Tensor:
        tensor = _read(header.path, names[name], header.tensors[names[name]])
        if in_pairs(architecture, name):
            tensor = halves_from_pairs(tensor, config.head_dim)
        require_finite(names[name], tensor, str(path))
        return tensor

    return Weights(config, read, {name: header.tensors[names[name]].kind for name in names}, str(path))


def gguf_name(name: str) -> str:
    """GGUF's name for a tensor of Hugging Face's."""
    stem, _, kind = name.rpartition(".")
    if stem in _TOP:
        return f"{_TOP[stem]}.{kind}"
    _, _, index, part = stem.split(".", 3)
    return f"blk.{index}.{_IN_LAYER[part]}.{kind}"


def in_pairs(architecture: str, name: str) -> bool:
    """Whether llama.cpp keeps this tensor's rows pair by pair (convert_hf_to_gguf.py, `permute`)."""
    return architecture == "llama" and name.endswith(("q_proj.weight", "k_proj.weight"))


def _read(path: Path, name: str, place: GgufTensor) -> Tensor:
    """One tensor; a view of the file (copied on writing) where it can be."""
    try:
        raw = np.memmap(path, np.uint8, mode="c", offset=place.offset, shape=(place.nbytes,))
    except (OSError, ValueError) as error:
        raise PunaError(f"{name} cannot be read ({str(error)[:120]})", where=str(path)) from error
    if place.kind in _PLAIN:
        return torch.from_numpy(raw).view(_PLAIN[place.kind]).view(place.shape)
    return _spread(raw, place)


def _spread(raw: np.ndarray, place: GgufTensor) -> Tensor:
    """fp32 values of a quantised tensor, some rows at a time: the library's own copies stay small."""
    from gguf.constants import GGMLQuantizationType
    from gguf.quants import dequantize

    kind = GGMLQuantizationType[place.kind]
    out = np.empty(place.shape, np.float32).reshape(-1, place.shape[-1])
    rows = raw.reshape(len(out), -1)
    step = max(1, _CHUNK // place.shape[-1])
    with np.errstate(invalid="ignore", over="ignore"):  # what is not finite is refused by name, not warned of
        for start in range(0, len(out), step):
            out[start : start + step] = dequantize(rows[start : start + step], kind)
    return torch.from_numpy(out).view(place.shape)


def _check_tensors(header: GgufHeader, config: ModelConfig, names: Mapping[str, str]) -> None:
    """Every tensor of the config, of its shape and of a type that is read, and no other."""
    where, found = str(header.path), set(header.tensors) - {ROPE_FACTORS}
    wanted = set(names.values())
    for some, word in ((wanted - found, "are missing"), (found - wanted, "do not belong to the architecture")):
        if some:
            raise PunaError(f"{len(some)} tensors {word}: {listed(some)}", where=where)
    for name, shape in config.shapes.items():
        tensor = header.tensors[names[name]]
        if tensor.shape != shape:
            raise PunaError(
                f"{names[name]} has shape {list(tensor.shape)}, the metadata say {list(shape)}", where=where
            )
        if tensor.kind not in _PLAIN and tensor.kind not in _QUANTISED:
            raise PunaError(f"{names[name]} is stored as {tensor.kind}, which is not read", where=where,
                            mend=f"read are {', '.join((*_PLAIN, *_QUANTISED))}")  # fmt: skip


def _config(header: GgufHeader, architecture: str) -> ModelConfig:
    """The config that the metadata state."""
    where, prefix = str(header.path), f"{architecture}."
    own = {key.removeprefix(prefix): value for key, value in header.metadata.items() if key.startswith(prefix)}
    unknown = sorted(set(own) - _KNOWN - set(_FIXED))
    if unknown:
        raise PunaError(f"has metadata of no known meaning: {prefix}{shown(', '.join(unknown[:8]))}", where=where)
    for key, allowed in _FIXED.items():
        if key in own and (isinstance(own[key], list | np.ndarray) or own[key] not in allowed):
            raise PunaError(f"{prefix}{key} = {str(own[key])[:80]} is not supported", where=where)

    def number(key: str, default: int | None = None) -> int:
        return header.get(prefix + key, int, default)

    embedding = header.tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise PunaError("holds no matrix token_embd.weight", where=where)
    heads, dim = number("attention.head_count"), number("embedding_length")
    head_dim = number("attention.key_length", dim // max(heads, 1))
    if number("attention.value_length", head_dim) != head_dim or number("rope.dimension_count", head_dim) != head_dim:
        raise PunaError(
            "has heads whose keys, values and rotary part differ in width, which is not supported", where=where
        )
    if number("vocab_size", embedding.shape[0]) != embedding.shape[0]:
        raise PunaError(
            f"{prefix}vocab_size and token_embd.weight with {embedding.shape[0]} rows disagree", where=where
        )
    entries = len(header.strings(TOKENS)) if TOKENS in header.metadata else embedding.shape[0]
    if entries != embedding.shape[0]:
        raise PunaError(f"has a tokenizer of {entries} entries and {embedding.shape[0]} embeddings", where=where)
    theta = header.get(f"{prefix}rope.freq_base", float, 10_000.0)
    values: dict[str, Any] = {
        "architectures": [ARCHITECTURES[architecture]], "vocab_size": embedding.shape[0], "hidden_size": dim,
        "intermediate_size": number("feed_forward_length"), "num_hidden_layers": number("block_count"),
        "num_attention_heads": heads, "num_key_value_heads": number("attention.head_count_kv", heads), "head_dim": head_dim,
        "max_position_embeddings": number("context_length"), "rope_theta": theta,
        "rms_norm_eps": header.get(f"{prefix}attention.layer_norm_rms_epsilon", float),
        "rope_scaling": _scaling(header, prefix, theta, head_dim), "tie_word_embeddings": "output.weight" not in header.tensors,
        **_ends(header),
    }  # fmt: skip
    if window := number("attention.sliding_window", 0):
        if architecture != "llama":
            raise PunaError(f"{prefix}attention.sliding_window is not supported", where=where)
        values |= {"sliding_window": window, "architectures": ["MistralForCausalLM"]}
    try:
        return ModelConfig.from_hf(values)
    except PunaError as error:
        raise PunaError(error.what, where=where, mend=error.mend) from error


def _ends(header: GgufHeader) -> dict[str, Any]:
    """Ids of the tokens that begin, end and fill; all that end generation where there are several."""
    found = {}
    for name in ("bos", "eos", "eot", "padding"):
        key = f"tokenizer.ggml.{name}_token_id"
        found[name] = header.get(key, int) if key in header.metadata else None
    ends = list(dict.fromkeys(found[name] for name in ("eos", "eot") if found[name] is not None))
    return {
        "bos_token_id": found["bos"],
        "pad_token_id": found["padding"],
        "eos_token_id": ends[0] if len(ends) == 1 else ends or None,
    }


def _scaling(header: GgufHeader, prefix: str, theta: float, head_dim: int) -> dict[str, Any] | None:
    """Rotary scaling under transformers' keys."""
    kind = header.get(f"{prefix}rope.scaling.type", str, "none")
    if ROPE_FACTORS in header.tensors:
        if kind != "none":
            raise PunaError(f"has both {ROPE_FACTORS} and {kind[:20]} scaling", where=str(header.path))
        return _llama3(header, prefix, theta, head_dim)
    if kind == "none":
        return None
    if kind not in ("linear", "yarn"):
        raise PunaError(f"rotary scaling {kind[:40]!r} is not supported", where=str(header.path))
    factor = header.get(f"{prefix}rope.scaling.factor", float)
    if not factor >= 1:
        raise PunaError(f"{prefix}rope.scaling.factor is {factor}, not 1 or more", where=str(header.path))
    if kind == "linear":
        return {"rope_type": "linear", "factor": factor}
    key = f"{prefix}rope.scaling."
    found: dict[str, Any] = {"rope_type": "yarn", "factor": factor}
    length = header.get(f"{key}original_context_length", int, header.get(f"{prefix}context_length", int))
    found["original_max_position_embeddings"] = length
    for name in ("beta_fast", "beta_slow"):
        if f"{key}yarn_{name}" in header.metadata:
            found[name] = header.get(f"{key}yarn_{name}", float)
    # llama.cpp multiplies YaRN's own temperature by this; transformers states the product.
    attention = header.get(f"{key}attn_factor", float, 1.0)
    if attention != 1.0:
        found["attention_factor"] = attention * yarn_temperature(factor)
    return found


def yarn_temperature(factor: float) -> float:
    """The factor of cosine and sine that llama.cpp takes for YaRN: 1 + 0.1 ln(factor) (Peng et al. 2023, 3.4)."""
    return 1.0 + 0.1 * math.log(factor)


def rope_divisors(theta: float, head_dim: int, scaling: RopeScaling) -> np.ndarray:
    """What llama.cpp divides each frequency by for Llama 3's scaling: fp32 [head_dim / 2]."""
    plain, scaled = inverse_frequencies(theta, head_dim, None)[0], inverse_frequencies(theta, head_dim, scaling)[0]
    return (plain / scaled).numpy()


def _llama3(header: GgufHeader, prefix: str, theta: float, head_dim: int) -> dict[str, Any] | None:
    """Llama 3's scaling (factor, low, high, first context) from its divisors: GGUF keeps only what the formula gave.

    Tried are the published bounds (low 1, high 4) and every power of two for the first context. Two that give the same divisors
    give the same model, so the first that fits is as good as the true one.
    """
    place, where = header.tensors[ROPE_FACTORS], str(header.path)
    if place.shape != (head_dim // 2,) or head_dim % 2 or place.kind != "F32":
        raise PunaError(f"{ROPE_FACTORS} is not {head_dim // 2} numbers of F32", where=where)
    tensor = _read(header.path, ROPE_FACTORS, place)
    require_finite(ROPE_FACTORS, tensor, where)
    divisors = tensor.numpy()
    factor = float(str(divisors.max()))
    if (divisors == 1).all():
        return None
    lengths = [8192, *(1 << power for power in range(4, 21))]
    if 1 < factor <= 1e6 and (divisors >= 1).all() and theta > 1:
        for length in lengths:
            found: dict[str, Any] = {"rope_type": "llama3", "factor": factor, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                                     "original_max_position_embeddings": length}  # fmt: skip
            if np.allclose(rope_divisors(theta, head_dim, RopeScaling(**found)), divisors, rtol=1e-4, atol=0):
                return found
    raise PunaError(f"{ROPE_FACTORS} follows no known rotary scaling", where=where,
                    mend="read are Llama 3's with the bounds 1 and 4")  # fmt: skip
