"""Published shapes by name, so that a plan, a test or a comparison can use them without a download.

Comes in: nothing. Goes out: a `ModelConfig` each, whose parameter count equals the published one (tests count it on the
meta device). Must never happen: a shape from memory that nobody counted.

Each line follows the `config.json` of the repository named beside it.
"""

from typing import Any

from puna.errors import PunaError
from puna.model.config import ModelConfig
from puna.model.rope import RopeScaling


def _config(
    vocab: int, dim: int, ffn: int, layers: int, heads: int, kv_heads: int, head_dim: int, context: int, theta: float,
    **others: Any,
) -> ModelConfig:  # fmt: skip
    return ModelConfig(
        vocab_size=vocab, hidden_size=dim, intermediate_size=ffn, num_hidden_layers=layers, num_attention_heads=heads,
        num_key_value_heads=kv_heads, head_dim=head_dim, max_position_embeddings=context, rope_theta=theta, **others,
    )  # fmt: skip


def _llama3_scaling(factor: float) -> RopeScaling:
    return RopeScaling(
        rope_type="llama3",
        factor=factor,
        original_max_position_embeddings=8192,
        low_freq_factor=1.0,
        high_freq_factor=4.0,
    )


_LLAMA3 = {"bos_token_id": 128000, "eos_token_id": 128001}
_YI = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
_SMOL = {"bos_token_id": 0, "eos_token_id": 0, "tie_word_embeddings": True}
_QWEN = {"bos_token_id": 151643, "eos_token_id": 151645, "rms_norm_eps": 1e-6, "tie_word_embeddings": True}

presets: dict[str, ModelConfig] = {
    # huggyllama/llama-7b, 6,738,415,616
    "LLaMA-7B": _config(32000, 4096, 11008, 32, 32, 32, 128, 2048, 10_000.0, rms_norm_eps=1e-6, bos_token_id=1, eos_token_id=2),
    # meta-llama/Llama-3.2-1B, 1,235,814,400
    "Llama-3.2-1B": _config(128256, 2048, 8192, 16, 32, 8, 64, 131072, 500_000.0, rope_scaling=_llama3_scaling(32.0),
                            tie_word_embeddings=True, **_LLAMA3),
    # meta-llama/Llama-3.1-8B, 8,030,261,248
    "Llama-3.1-8B": _config(128256, 4096, 14336, 32, 32, 8, 128, 131072, 500_000.0, rope_scaling=_llama3_scaling(8.0), **_LLAMA3),
    # 01-ai/Yi-6B, 6,061,035,520
    "Yi-6B": _config(64000, 4096, 11008, 32, 32, 4, 128, 4096, 5_000_000.0, **_YI),
    # 01-ai/Yi-9B, 8,829,407,232: Yi-6B with 16 of its layers twice
    "Yi-9B": _config(64000, 4096, 11008, 48, 32, 4, 128, 4096, 10_000.0, rms_norm_eps=1e-6, **_YI),
    # 01-ai/Yi-34B, 34,388,917,248
    "Yi-34B": _config(64000, 7168, 20480, 60, 56, 8, 128, 4096, 5_000_000.0, **_YI),
    # TinyLlama/TinyLlama-1.1B-intermediate-step-1431k-3T, 1,100,048,384
    "TinyLlama-1.1B": _config(32000, 2048, 5632, 22, 32, 4, 64, 2048, 10_000.0, bos_token_id=1, eos_token_id=2),
    # HuggingFaceTB/SmolLM2-135M, 134,515,008
    "SmolLM2-135M": _config(49152, 576, 1536, 30, 9, 3, 64, 8192, 100_000.0, **_SMOL),
    # HuggingFaceTB/SmolLM2-360M, 361,821,120
    "SmolLM2-360M": _config(49152, 960, 2560, 32, 15, 5, 64, 8192, 100_000.0, **_SMOL),
    # HuggingFaceTB/SmolLM2-1.7B, 1,711,376,384
    "SmolLM2-1.7B": _config(49152, 2048, 8192, 24, 32, 32, 64, 8192, 130_000.0, **_SMOL),
    # Qwen/Qwen3-0.6B, 596,049,920
    "Qwen3-0.6B": _config(151936, 1024, 3072, 28, 16, 8, 128, 40960, 1_000_000.0, qk_norm=True, **_QWEN),
    # Qwen/Qwen2.5-0.5B, 494,032,768: the preset with biases
    "Qwen2.5-0.5B": _config(151936, 896, 4864, 24, 14, 2, 64, 32768, 1_000_000.0, attention_bias=True, rms_norm_eps=1e-6,
                            bos_token_id=151643, eos_token_id=151643, tie_word_embeddings=True),
    # mistralai/Mistral-7B-v0.1, 7,241,732,096: the preset with a sliding window
    "Mistral-7B": _config(32000, 4096, 14336, 32, 32, 8, 128, 32768, 10_000.0, sliding_window=4096, bos_token_id=1, eos_token_id=2),
}  # fmt: skip


def preset(name: str) -> ModelConfig:
    """A preset by its name; raises `PunaError` that lists the names there are."""
    if name not in presets:
        raise PunaError(f"no preset is called {name!r}", mend=f"there are {', '.join(presets)}")
    return presets[name]
