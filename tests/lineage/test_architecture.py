"""Architectures side by side: what is shared by many is said to be, whatever the names, and kinds that Puna does not run are told too."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from puna.lineage.architecture import NEVER, compare_architectures, design_of, known_models
from puna.lineage.opened import Opened, open_for_comparison
from puna.lineage.weights.files import Stored
from puna.lineage.weights.reading import assembled

SIZES = {"layers": 32, "hidden": 4096, "ffn": 11008, "heads": 32, "kv": 32, "vocab": 32000}


def stub(name: str, config: dict[str, Any], norms: tuple[str, str] = ("input_layernorm", "post_attention_layernorm"), *, bias: bool = False,
         qk_norm: bool = False, experts: int = 0, **sizes: int) -> Opened:  # fmt: skip
    """A model of published shapes without its numbers: what headers say."""
    s = {**SIZES, **sizes}
    h, kv = s["hidden"], s["kv"] * (s["hidden"] // s["heads"])
    shapes = {
        "model.embed_tokens.weight": (s["vocab"], h),
        "lm_head.weight": (s["vocab"], h),
        "model.norm.weight": (h,),
    }
    for layer in range(s["layers"]):
        at = f"model.layers.{layer}."
        shapes |= {at + norms[0] + ".weight": (h,), at + norms[1] + ".weight": (h,)}
        shapes |= {f"{at}self_attn.{n}_proj.weight": ((h, h) if n in "qo" else (kv, h)) for n in "qkvo"}
        if bias:
            shapes |= {f"{at}self_attn.{n}_proj.bias": (h if n == "q" else kv,) for n in "qkv"}
        if qk_norm:
            shapes |= {f"{at}self_attn.{n}_norm.weight": (h // s["heads"],) for n in "qk"}
        for e in range(experts):
            shapes |= {
                f"{at}block_sparse_moe.experts.{e}.{n}.weight": ((h, s["ffn"]) if n == "w2" else (s["ffn"], h))
                for n in ("w1", "w2", "w3")
            }
        if not experts:
            shapes |= {
                f"{at}mlp.{n}_proj.weight": ((h, s["ffn"]) if n == "down" else (s["ffn"], h))
                for n in ("gate", "up", "down")
            }
    stated = {
        "hidden_size": h,
        "num_hidden_layers": s["layers"],
        "num_attention_heads": s["heads"],
        "num_key_value_heads": s["kv"],
        **config,
    }
    stored = {name: Stored(shape, "BF16", lambda: torch.zeros(1)) for name, shape in shapes.items()}
    return Opened(name, assembled(name, stated, stored))


LLAMA = stub("LLaMA-7B", {"model_type": "llama", "rope_theta": 10000.0, "rms_norm_eps": 1e-6})


def test_the_yi_case() -> None:
    yi = stub(
        "Yi-6B", {"model_type": "Yi", "rope_theta": 5000000.0, "rms_norm_eps": 1e-5}, ("ln1", "ln2"), kv=4, vocab=64000
    )
    found = compare_architectures(yi, LLAMA)
    assert found.verdict == "same" and found.family == "LLaMA decoder"
    assert "in other sizes (key-value heads, rows of the embedding)" in found.sentence
    assert NEVER in found.sentence and "published models in our table are built of that block" in found.sentence
    assert "base of the rotary positions: 5,000,000 beside 10,000" in found.evidence
    assert (
        found.shared_with[0] == "Yi-6B (2023): the same sizes"
        and "OpenLLaMA-7B (2023): the same depth and widths" in found.shared_with
    )
    assert "Mistral-7B-v0.1 (2023)" in found.shared_with and "Gemma-2B (2024)" not in found.shared_with


def test_the_same_sizes_are_those_of_many() -> None:
    found = compare_architectures(
        stub("mine", {"model_type": "llama", "rope_theta": 10000, "rms_norm_eps": 1e-6}), LLAMA
    )
    assert found.verdict == "same" and "block for block and size for size" in found.sentence
    assert all(field.equal for field in found.fields)  # 10000 and 10000.0 are one base
    apart = next(line for line in found.evidence if "trained from scratch" in line)
    assert (
        "OpenLLaMA-7B (2023)" in apart.split("trained from scratch")[1]
        and "Vicuna" not in apart.split("trained from scratch")[1]
    )


@pytest.mark.parametrize(
    ("made", "design"),
    [
        (stub("mixtral", {"model_type": "mixtral"}, experts=2, layers=1), "mixtral"),
        (stub("qwen2", {"model_type": "qwen2"}, bias=True, layers=1), "qwen2"),
        (stub("renamed", {"model_type": "mystery", "rope_theta": 1e4}, bias=True, layers=1), "qwen2"),
        (stub("qwen3", {"model_type": "qwen3"}, qk_norm=True, layers=1), "qwen3"),
        (stub("moe", {"model_type": "qwen3_moe"}, qk_norm=True, experts=2, layers=1), "qwen3_moe"),
        (stub("gemma", {"model_type": "gemma", "hidden_act": "gelu"}, layers=1), "gemma"),
        (stub("old", {"model_type": "llama"}, layers=1), "llama"),  # the first configs had no rope_theta
        (stub("new", {"model_type": "llama", "rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}}, layers=1), "llama"),
        (stub("gelu", {"model_type": "llama", "hidden_act": "gelu"}, layers=1), None),
        (Opened("gpt2", assembled("gpt2", {"model_type": "gpt2"}, {})), "gpt2"),
        (Opened("header", assembled("header", {"model_type": "llama", "num_hidden_layers": 80}, {})), "llama"),
        (Opened("nothing", assembled("nothing", {}, {})), None),
    ],
)  # fmt: skip
def test_designs_of_all_kinds(made: Opened, design: str | None) -> None:
    assert design_of(made.checkpoint) == design
    found = compare_architectures(made, LLAMA)
    assert found.verdict == (
        "cannot tell" if design is None else "independent" if design in ("gemma", "gpt2") else "same"
    )
    assert NEVER in found.sentence
    if design in ("mixtral", "qwen2", "qwen3", "qwen3_moe"):
        assert "their blocks differ" in found.sentence


def test_a_config_that_says_anything() -> None:
    wild = {"model_type": "llama\x1b[31m", "rope_theta": math.inf, "hidden_act": ["silu"], "rms_norm_eps": "1e-5", "max_position_embeddings": True,
            "rope_scaling": {"type": "yarn\n", "factor": 4}, "text_config": 3}  # fmt: skip
    found = compare_architectures(stub("wild", wild, layers=1), LLAMA)
    text = found.model_dump_json()
    assert "\\u001b" not in text and "inf" in text and "type yarn" in text


def test_real_models(tmp_path: Path, tiny_model: Callable[..., Path]) -> None:
    one, two = (
        open_for_comparison(tiny_model(tmp_path / name, ["a b c d"] * 9, 300, seed=seed))
        for name, seed in (("one", 1), ("two", 2))
    )
    found = compare_architectures(one, two)
    assert found.verdict == "same" and "size for size" in found.sentence and all(field.equal for field in found.fields)
    wide = open_for_comparison(tiny_model(tmp_path / "wide", ["a b c d"] * 9, 300, hidden_size=64))
    assert "width of the stream" in compare_architectures(wide, two).sentence


def test_the_table_is_sound() -> None:
    table = known_models()
    names = [one.name for one in table.models]
    assert len(names) >= 25 and len(set(names)) == len(names)
    assert {one.design for one in table.models} <= set(table.words) == set(table.family)
    for one in table.models:
        assert one.heads % one.kv == 0 and one.source in ("litgpt", "config", "report", "known"), one.name
        assert one.year >= 2019 and min(one.layers, one.hidden, one.ffn, one.vocab) > 0, one.name
    by_name = {one.name: one for one in table.models}
    assert (by_name["Yi-34B"].hidden, by_name["Yi-34B"].ffn, by_name["Yi-34B"].kv) == (
        7168,
        20480,
        8,
    )  # the report's table 1
    assert by_name["Yi-9B"].layers == 48 and by_name["Yi-9B"].begun_with == "Yi-6B"
