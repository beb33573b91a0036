"""Our decoder against transformers' own classes, in both directions, over every architecture and every RoPE scaling."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from puna.model.config import ModelConfig
from puna.model.decoder import Decoder
from puna.model.formats import load_config, load_model, save_model

transformers = pytest.importorskip("transformers")
TOLERANCE = 1e-4
Fields = dict[str, Any]
SCALINGS = {
    "plain": None,
    "linear": {"rope_type": "linear", "factor": 4.0},
    "llama3": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
               "original_max_position_embeddings": 16},
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16},
    "yarn_all": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "beta_fast": 20.0,
                 "beta_slow": 2.0, "mscale": 1.0, "mscale_all_dim": 0.5, "truncate": False},
    "yarn_factor": {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 32, "attention_factor": 1.2},
}  # fmt: skip
FAMILIES = {
    "Llama": {"tie_word_embeddings": False}, "Llama-tied": {"tie_word_embeddings": True},
    "Mistral": {"sliding_window": 12}, "Qwen2": {"tie_word_embeddings": True}, "Qwen3": {"head_dim": 16},
}  # fmt: skip


def _theirs(family: str, fields: Fields, **others: object) -> torch.nn.Module:
    """A random model of transformers, with every gain and bias away from its neutral value."""
    name = family.split("-")[0]
    values = copy.deepcopy({**fields, "bos_token_id": 1, "eos_token_id": 2, **FAMILIES[family], **others})
    config = getattr(transformers, f"{name}Config")(**values, attn_implementation="eager")
    torch.manual_seed(0)
    model = getattr(transformers, f"{name}ForCausalLM")(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * (0.3 if parameter.ndim > 1 else 1.0))
    return model


def _difference(theirs: torch.nn.Module, ours: Decoder, ids: torch.Tensor) -> float:
    with torch.no_grad():
        return (theirs(ids).logits - ours.logits(ours(ids))).abs().max().item()


def _round_trip(theirs: torch.nn.Module, ids: torch.Tensor, folder: Path) -> None:
    theirs.save_pretrained(folder / "theirs")
    ours = load_model(folder / "theirs")
    assert _difference(theirs, ours, ids) < TOLERANCE
    save_model(ours, ours.config, folder / "ours")
    again, report = transformers.AutoModelForCausalLM.from_pretrained(folder / "ours", output_loading_info=True)
    assert type(again) is type(theirs)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert _difference(again.eval(), ours, ids) < TOLERANCE
    assert load_config(folder / "ours") == ours.config


@pytest.mark.parametrize("family", FAMILIES)
def test_every_architecture_agrees_both_ways(family: str, fields: Fields, ids: torch.Tensor, tmp_path: Path) -> None:
    _round_trip(_theirs(family, fields), ids, tmp_path)


@pytest.mark.parametrize("scaling", SCALINGS)
def test_every_rope_scaling_agrees_both_ways(scaling: str, fields: Fields, ids: torch.Tensor, tmp_path: Path) -> None:
    parameters = {"rope_theta": 500.0, **(SCALINGS[scaling] or {"rope_type": "default"})}
    _round_trip(_theirs("Llama", fields, rope_parameters=parameters), ids, tmp_path)


@pytest.mark.parametrize("scaling", SCALINGS)
def test_inverse_frequencies_are_bit_equal_at_real_widths(scaling: str, fields: Fields) -> None:
    wide = {"hidden_size": 256, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 128}
    parameters = {"rope_theta": 500_000.0, **(SCALINGS[scaling] or {"rope_type": "default"})}
    theirs = _theirs("Llama", fields, rope_parameters=parameters, **wide).model.rotary_emb
    ours = Decoder(ModelConfig(**{**fields, **wide}, rope_theta=500_000.0, rope_scaling=SCALINGS[scaling])).rope
    assert torch.equal(theirs.inv_freq, ours.inv_freq)
    assert theirs.attention_scaling == ours.factor


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_files_load_exactly(
    dtype: torch.dtype, fields: Fields, ids: torch.Tensor, tmp_path: Path
) -> None:
    theirs = _theirs("Llama", fields).to(dtype)
    theirs.save_pretrained(tmp_path)
    wide = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    assert _difference(wide.eval(), load_model(tmp_path), ids) < TOLERANCE


def test_sharded_files_load(fields: Fields, ids: torch.Tensor, tmp_path: Path) -> None:
    theirs = _theirs("Qwen3", fields)
    theirs.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    assert _difference(theirs, load_model(tmp_path), ids) < TOLERANCE


def test_config_without_the_modern_spelling_loads(fields: Fields) -> None:
    """The `config.json` that transformers 4 wrote: rope_theta and rope_scaling with its old `type`, torch_dtype."""
    values = {**fields, "architectures": ["LlamaForCausalLM"], "model_type": "llama", "rope_theta": 777.0, "hidden_act": "silu",
              "rope_scaling": {"type": "linear", "factor": 2.0}, "torch_dtype": "float16", "rms_norm_eps": 1e-5,
              "pad_token_id": -1}  # fmt: skip
    config = ModelConfig.from_hf(values)
    assert config.rope_theta == 777.0 and config.rope_scaling is not None and config.rope_scaling.factor == 2.0
    assert config.pad_token_id is None and config.eos_token_id == 2
