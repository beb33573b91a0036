"""Every architecture that is read: transformers writes and Puna reads, Puna writes and transformers reads, within 1e-5.

The checkpoints are tiny and random, and of transformers' own making: the oracle is not ours. Gains and biases are moved
away from 1 and 0, where no test would see them.
"""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from puna.errors import PunaError
from puna.model.cache import KVCache
from puna.model.config import ModelConfig
from puna.model.decoder import Decoder
from puna.model.formats import load_model, open_model, save_model, write_huggingface

transformers = pytest.importorskip("transformers")
TOLERANCE = 1e-5
Fields = dict[str, Any]
LLAMA3 = {"rope_type": "llama3", "rope_theta": 500_000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 16}  # fmt: skip
# name: the class of transformers, and what differs from the small config that all share
ARCHITECTURES: dict[str, tuple[str, Fields]] = {
    "LLaMA 1": ("Llama", {"num_key_value_heads": 4, "rms_norm_eps": 1e-6}),
    "LLaMA 2": ("Llama", {"rms_norm_eps": 1e-5}),
    "LLaMA 3.1": ("Llama", {"rope_parameters": LLAMA3}),
    "LLaMA 3.2": ("Llama", {"rope_parameters": LLAMA3, "tie_word_embeddings": True, "eos_token_id": [2, 3, 4]}),
    "TinyLlama": ("Llama", {"num_attention_heads": 8, "num_key_value_heads": 1, "head_dim": 4}),
    "SmolLM": ("Llama", {"tie_word_embeddings": True, "num_attention_heads": 3, "num_key_value_heads": 1, "hidden_size": 36,
                         "head_dim": 12}),
    "Yi": ("Llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 5e6}, "num_key_value_heads": 1}),
    "Mistral 0.1": ("Mistral", {"sliding_window": 12}),
    "Mistral 0.3": ("Mistral", {"sliding_window": None, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}),
    "Mistral Nemo": ("Mistral", {"sliding_window": None, "head_dim": 16}),
    "Qwen2": ("Qwen2", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}),
    "Qwen2.5": ("Qwen2", {"tie_word_embeddings": True, "use_sliding_window": False, "max_window_layers": 1}),
    "Qwen3": ("Qwen3", {"head_dim": 16}),
    "Qwen3, tied": ("Qwen3", {"head_dim": 8, "tie_word_embeddings": True}),
    "linear scaling": ("Llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}}),
    "YaRN": ("Qwen2", {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0,
                                           "original_max_position_embeddings": 16}}),
}  # fmt: skip


def _theirs(name: str, fields: Fields) -> torch.nn.Module:
    """A random model of transformers' class, every parameter of it in use."""
    family, others = ARCHITECTURES[name]
    values = copy.deepcopy({**fields, "bos_token_id": 1, "eos_token_id": 2, **others})
    config = getattr(transformers, f"{family}Config")(**values, attn_implementation="eager")
    torch.manual_seed(0)
    model = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            random = torch.randn_like(parameter)
            parameter.copy_(random * parameter.shape[1] ** -0.5 if parameter.ndim > 1 else 1 + 0.3 * random)
    return model


def _logits(model: torch.nn.Module, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model.logits(model(ids)) if isinstance(model, Decoder) else model(ids).logits


@torch.no_grad()
def _step_by_step(model: Decoder, ids: torch.Tensor, prompt: int) -> torch.Tensor:
    """Logits of a prompt read at once and the rest one token at a time, over the cache."""
    cache, parts = KVCache(model.config, rows=len(ids), max_len=ids.shape[1]), []
    for begin, end in [(0, prompt), *((place, place + 1) for place in range(prompt, ids.shape[1]))]:
        parts.append(model.logits(model(ids[:, begin:end], cache=cache)))
        cache.advance(end - begin)
    return torch.cat(parts, dim=1)


def _read_again(folder: Path, kind: type) -> torch.nn.Module:
    """What Puna wrote, by transformers, which must find nothing missing, nothing too much and nothing misshapen."""
    model, report = transformers.AutoModelForCausalLM.from_pretrained(
        folder, output_loading_info=True, dtype=torch.float32
    )
    assert isinstance(model, kind)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return model.eval()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_logits_agree_both_ways_and_step_by_step(name: str, fields: Fields, ids: torch.Tensor, tmp_path: Path) -> None:
    theirs = _theirs(name, fields)
    wanted = _logits(theirs, ids)
    assert wanted.std() > 0.5  # of a size at which 1e-5 says something
    theirs.save_pretrained(tmp_path / "theirs")
    ours = load_model(tmp_path / "theirs")
    torch.testing.assert_close(_logits(ours, ids), wanted, atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(_step_by_step(ours, ids, prompt=9), wanted, atol=TOLERANCE, rtol=0)
    write_huggingface(open_model(tmp_path / "theirs"), tmp_path / "ours")
    same_class = type(theirs)
    if name in ("Mistral 0.3", "Mistral Nemo"):  # no window: LLaMA's arithmetic, and written as such
        same_class = transformers.LlamaForCausalLM
    torch.testing.assert_close(_logits(_read_again(tmp_path / "ours", same_class), ids), wanted, atol=TOLERANCE, rtol=0)
    assert load_model(tmp_path / "ours").config == ours.config
    mine, other = load_file(tmp_path / "ours/model.safetensors"), load_file(tmp_path / "theirs/model.safetensors")
    other.pop("lm_head.weight", None) if ours.config.tie_word_embeddings else None
    assert mine.keys() == other.keys() and all(torch.equal(mine[key], other[key]) for key in mine)


def test_the_first_release_of_yi(fields: Fields, ids: torch.Tensor, tmp_path: Path) -> None:
    """Names and config of November 2023; `modeling_yi.py` computes what LLaMA does, which is transformers' class here."""
    theirs = _theirs("Yi", fields)
    names = {"input_layernorm": "ln1", "post_attention_layernorm": "ln2"}
    state = {}
    for name, tensor in theirs.state_dict().items():
        parts = name.split(".")
        state[".".join(names.get(part, part) for part in parts)] = tensor.contiguous()
    save_file(state, tmp_path / "model.safetensors", {"format": "pt"})
    (tmp_path / "config.json").write_text(json.dumps({
        "architectures": ["YiForCausalLM"], "model_type": "Yi", "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
        "auto_map": {"AutoConfig": "configuration_yi.YiConfig", "AutoModel": "modeling_yi.YiModel",
                     "AutoModelForCausalLM": "modeling_yi.YiForCausalLM"},
        "hidden_act": "silu", "initializer_range": 0.02, "rms_norm_eps": 1e-6, "tie_word_embeddings": False,
        "rope_theta": 5000000.0, "torch_dtype": "bfloat16", "transformers_version": "4.34.0", "use_cache": True,
        **{key: value for key, value in fields.items() if key != "head_dim"}, "num_key_value_heads": 1,
    }))  # fmt: skip
    (tmp_path / "modeling_yi.py").write_text("raise SystemExit('was run')")
    weights = open_model(tmp_path)
    torch.testing.assert_close(_logits(weights.decoder(), ids), _logits(theirs, ids), atol=TOLERANCE, rtol=0)
    write_huggingface(weights, tmp_path / "ours")
    again = _read_again(tmp_path / "ours", transformers.LlamaForCausalLM)
    torch.testing.assert_close(_logits(again, ids), _logits(theirs, ids), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_read_and_written_bit_for_bit(
    dtype: torch.dtype, fields: Fields, ids: torch.Tensor, tmp_path: Path
) -> None:
    theirs = _theirs("Qwen2.5", fields).to(dtype)
    theirs.save_pretrained(tmp_path / "theirs")
    weights = open_model(tmp_path / "theirs")
    assert set(weights.types.values()) == {"BF16" if dtype == torch.bfloat16 else "F16"}
    wide = _read_again(tmp_path / "theirs", type(theirs))  # theirs in fp32, its table of angles not rounded
    torch.testing.assert_close(_logits(weights.decoder(), ids), _logits(wide, ids), atol=TOLERANCE, rtol=0)
    write_huggingface(weights, tmp_path / "ours")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours", dtype="auto")
    assert again.dtype == dtype
    assert all(torch.equal(tensor, theirs.state_dict()[name]) for name, tensor in again.state_dict().items())


def test_shards_of_theirs_and_of_ours(fields: Fields, ids: torch.Tensor, tmp_path: Path) -> None:
    theirs = _theirs("Qwen3", fields)
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size="20KB")
    assert len(list((tmp_path / "theirs").glob("*.safetensors"))) > 2
    weights = open_model(tmp_path / "theirs")
    torch.testing.assert_close(_logits(weights.decoder(), ids), _logits(theirs, ids), atol=TOLERANCE, rtol=0)
    write_huggingface(weights, tmp_path / "ours", shard_bytes=20_000)
    assert len(list((tmp_path / "ours").glob("*.safetensors"))) > 2
    again = _read_again(tmp_path / "ours", type(theirs))
    torch.testing.assert_close(_logits(again, ids), _logits(theirs, ids), atol=TOLERANCE, rtol=0)


def test_a_float16_overflow_is_refused_on_the_way_out(fields: Fields, tmp_path: Path) -> None:
    model = Decoder(ModelConfig(**fields))
    model.init_weights(0)
    with torch.no_grad():
        model.model.norm.weight[3] = 70_000.0
    save_model(model, model.config, tmp_path / "wide")
    with pytest.raises(PunaError, match=r"model\.norm\.weight.*not finite"):
        write_huggingface(open_model(tmp_path / "wide"), tmp_path / "half", dtype=torch.float16)
    assert not list((tmp_path / "half").iterdir())


# `config.json` as it stands on the hub (transformers 4's spelling), and the published number of parameters
SMALL = {
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "use_cache": True,
    "torch_dtype": "bfloat16",
    "attention_dropout": 0.0,
}
LLAMA = {
    **SMALL,
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "pretraining_tp": 1,
    "rope_scaling": None,
}
QWEN = {**SMALL, "bos_token_id": 151643, "eos_token_id": 151645, "use_sliding_window": False, "vocab_size": 151936,
        "rope_theta": 1000000.0, "rms_norm_eps": 1e-6, "tie_word_embeddings": True}  # fmt: skip


def _sizes(dim: int, ffn: int, layers: int, heads: int, kv: int, **others: Any) -> Fields:
    return {"hidden_size": dim, "intermediate_size": ffn, "num_hidden_layers": layers, "num_attention_heads": heads,
            "num_key_value_heads": kv, **others}  # fmt: skip


PUBLISHED: dict[str, tuple[Fields, int]] = {
    "huggyllama/llama-7b": ({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
                             "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
                             "max_sequence_length": 2048, "pad_token_id": 0, "rms_norm_eps": 1e-6, "vocab_size": 32000,
                             "torch_dtype": "float16", "use_cache": True, "bos_token_id": 1, "eos_token_id": 2}, 6_738_415_616),
    "meta-llama/Llama-3.1-8B": ({**LLAMA, **_sizes(4096, 14336, 32, 32, 8), "vocab_size": 128256, "bos_token_id": 128000,
                                 "eos_token_id": [128001, 128008, 128009], "rope_theta": 500000.0, "mlp_bias": False,
                                 "max_position_embeddings": 131072, "attention_bias": False, "tie_word_embeddings": False,
                                 "rope_scaling": {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                                                  "original_max_position_embeddings": 8192, "rope_type": "llama3"}}, 8_030_261_248),
    "01-ai/Yi-6B": ({**LLAMA, **_sizes(4096, 11008, 32, 32, 4), "vocab_size": 64000, "rope_theta": 5000000.0,
                     "pad_token_id": 0, "rms_norm_eps": 1e-5, "max_position_embeddings": 4096}, 6_061_035_520),
    "mistralai/Mistral-7B-v0.1": ({**SMALL, "architectures": ["MistralForCausalLM"], "model_type": "mistral", "vocab_size": 32000,
                                   **_sizes(4096, 14336, 32, 32, 8), "sliding_window": 4096, "rope_theta": 10000.0,
                                   "max_position_embeddings": 32768}, 7_241_732_096),
    "mistralai/Mistral-7B-v0.3": ({**SMALL, "architectures": ["MistralForCausalLM"], "model_type": "mistral", "vocab_size": 32768,
                                   **_sizes(4096, 14336, 32, 32, 8), "sliding_window": None, "rope_theta": 1000000.0,
                                   "max_position_embeddings": 32768}, 7_248_023_552),
    "TinyLlama-1.1B": ({**LLAMA, **_sizes(2048, 5632, 22, 32, 4), "vocab_size": 32000, "max_position_embeddings": 2048}, 1_100_048_384),
    "HuggingFaceTB/SmolLM2-135M": ({**LLAMA, **_sizes(576, 1536, 30, 9, 3), "vocab_size": 49152, "is_llama_config": True,
                                    "rope_interleaved": False, "rope_theta": 100000, "tie_word_embeddings": True,
                                    "bos_token_id": 0, "eos_token_id": 0, "max_position_embeddings": 8192}, 134_515_008),
    "Qwen/Qwen2.5-0.5B": ({**QWEN, **_sizes(896, 4864, 24, 14, 2), "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2",
                           "max_window_layers": 24, "sliding_window": 32768, "use_mrope": False,
                           "max_position_embeddings": 32768}, 494_032_768),
    "Qwen/Qwen3-0.6B": ({**QWEN, **_sizes(1024, 3072, 28, 16, 8), "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3",
                         "head_dim": 128, "max_window_layers": 28, "sliding_window": None, "attention_bias": False,
                         "max_position_embeddings": 40960}, 596_049_920),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configs_are_understood_to_the_last_parameter(name: str) -> None:
    values, parameters = PUBLISHED[name]
    config = ModelConfig.from_hf(values)
    assert config.parameters == parameters
    assert ModelConfig.from_hf(config.to_hf()) == config
