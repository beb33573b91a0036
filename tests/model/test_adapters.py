"""Adapters held against peft: the same files, the same logits, the same merged weights, in both directions."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from puna.errors import PunaError
from puna.model.adapter_files import CONFIG, TENSORS, attach_adapter, merge_adapter, open_adapter, save_adapter
from puna.model.adapters import PROJECTIONS, Adapter, adapter_tensors, attach, merge_into, merged
from puna.model.config import ModelConfig
from puna.model.decoder import Decoder
from puna.model.formats import open_model
from puna.model.weights import Weights
from puna.recipe.base import Adapter as Section

Make = Callable[..., Decoder]
FIELDS: dict[str, Any] = {
    "vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64,
}  # fmt: skip
MODELS = ("Llama", "Qwen2", "Qwen3")  # plain, with biases, with QK-norm


def their_model(name: str, folder: Path) -> Any:
    """A small model that transformers itself makes and writes."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(1)
    extra = {"head_dim": 8} if name == "Qwen3" else {}
    config = getattr(transformers, f"{name}Config")(
        **FIELDS, **extra, eos_token_id=2, bos_token_id=1, tie_word_embeddings=False
    )
    model = getattr(transformers, f"{name}ForCausalLM")(config).float().eval()
    for parameter in model.parameters():  # the biases too
        torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder)
    return model


def stir(model: torch.nn.Module) -> None:
    """What training would do: no tensor of the adapter stays at its start."""
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            if "lora_" in name:
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)


@torch.no_grad()
def ours(model: Decoder, ids: torch.Tensor) -> torch.Tensor:
    return model.logits(model(ids))


@pytest.mark.parametrize("kind", ["lora", "dora"])
@pytest.mark.parametrize("name", MODELS)
def test_ours_loads_in_peft(tmp_path: Path, ids: torch.Tensor, name: str, kind: str) -> None:
    peft = pytest.importorskip("peft")
    theirs = their_model(name, tmp_path / "base")
    base = open_model(tmp_path / "base")
    model, adapter = base.decoder(), Adapter(kind=kind, rank=4, alpha=6)
    before = ours(model, ids)
    attach(model, adapter, seed=2)
    torch.testing.assert_close(ours(model, ids), before, atol=1e-5, rtol=0)
    stir(model)
    save_adapter(model, adapter, tmp_path / "adapter", str(tmp_path / "base"))
    wrapped = peft.PeftModel.from_pretrained(theirs, tmp_path / "adapter").eval()
    with torch.no_grad():
        logits = wrapped(ids).logits
    assert (logits - before).abs().max() > 0.1
    torch.testing.assert_close(ours(model, ids), logits, atol=1e-5, rtol=1e-5)
    # Merged: by peft, by us lazily from the files, by us in place.
    state = wrapped.merge_and_unload().state_dict()
    lazily = merge_adapter(base, tmp_path / "adapter")
    for tensor_name, tensor in lazily.items():
        torch.testing.assert_close(tensor, state[tensor_name], atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(ours(lazily.decoder(), ids), logits, atol=2e-5, rtol=1e-5)
    plain = merge_into(model)
    assert sorted(plain.state_dict()) == sorted(base.names)
    assert all(torch.equal(tensor, plain.state_dict()[tensor_name]) for tensor_name, tensor in lazily.items())
    assert all(parameter.requires_grad for parameter in plain.parameters())


@pytest.mark.parametrize(
    "options",
    [{}, {"use_dora": True}, {"use_rslora": True, "lora_alpha": 3}, {"target_modules": "all-linear"},
     {"target_modules": r".*\.(q_proj|down_proj)", "use_dora": True}],
)  # fmt: skip
def test_peft_s_loads_here(tmp_path: Path, ids: torch.Tensor, options: dict[str, Any]) -> None:
    peft = pytest.importorskip("peft")
    theirs = their_model("Llama", tmp_path / "base")
    given = {
        "r": 4,
        "lora_alpha": 8,
        "target_modules": ["q_proj", "v_proj"],
        "lora_dropout": 0.1,
        "task_type": "CAUSAL_LM",
    }
    wrapped = peft.get_peft_model(theirs, peft.LoraConfig(**(given | options))).eval()
    stir(wrapped)
    wrapped.save_pretrained(tmp_path / "adapter")
    with torch.no_grad():
        logits = wrapped(ids).logits
    model = open_model(tmp_path / "base").decoder()
    adapter = attach_adapter(model, tmp_path / "adapter")
    torch.testing.assert_close(ours(model, ids), logits, atol=1e-5, rtol=1e-5)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == adapter.parameters(model.config)
    # Written again it is the same adapter.
    save_adapter(model, adapter, tmp_path / "again", "base")
    first, second = (load_file(tmp_path / folder / TENSORS) for folder in ("adapter", "again"))
    assert first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def test_only_the_adapter_learns_and_its_start_is_the_seed_s(make: Make, ids: torch.Tensor) -> None:
    starts = []
    for seed in (1, 1, 2):
        model = make()
        torch.manual_seed(len(starts))
        attach(model, Adapter(kind="dora", rank=3), seed)
        starts.append({name: tensor.clone() for name, tensor in adapter_tensors(model).items()})
    same = [all(torch.equal(starts[0][name], other[name]) for name in starts[0]) for other in starts[1:]]
    assert same == [True, False]
    ours_a = starts[0]["model.layers.0.mlp.down_proj.lora_A.weight"]
    assert ours_a.abs().max() <= 48**-0.5 and ours_a.std() == pytest.approx((3 * 48) ** -0.5, rel=0.2)
    model(ids).square().sum().backward()
    learning = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert learning == set(starts[0]) == set(Adapter(kind="dora", rank=3).shapes(model.config))
    with pytest.raises(PunaError, match="an adapter already"):
        attach(model, Adapter(), 1)


def test_the_length_is_no_path_of_the_gradient(make: Make, ids: torch.Tensor) -> None:
    """DoRA, section 4.3: the gradient of B is LoRA's times m / length, which is 1 at the start."""
    models = []
    for kind in ("lora", "dora"):
        model = make()
        attach(model, Adapter(kind=kind, rank=3), 1)
        model(ids).square().sum().backward()
        models.append({name: p.grad for name, p in model.named_parameters() if "lora_B" in name})
    for name, grad in models[0].items():
        torch.testing.assert_close(models[1][name], grad, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", ["lora", "dora"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_merging_rounds_once_to_the_stored_type(make: Make, ids: torch.Tensor, dtype: torch.dtype, kind: str) -> None:
    base = Weights.of(make().to(dtype))
    model, adapter = base.decoder(), Adapter(kind=kind, rank=3, targets=("q_proj", "up_proj"))
    attach(model, adapter, 1)
    stir(model)
    whole, stored = (merged(base, adapter_tensors(model), adapter, kept) for kept in (torch.float32, None))
    for name in base.names:
        assert (whole.read(name).dtype, stored.read(name).dtype) == (torch.float32, dtype)
        assert torch.equal(whole.read(name).to(dtype), stored.read(name))
        changed = name.endswith(("q_proj.weight", "up_proj.weight"))
        assert torch.equal(stored.read(name), base.read(name)) != changed
    torch.testing.assert_close(ours(whole.decoder(), ids), ours(model, ids), atol=1e-5, rtol=1e-5)


def test_a_silent_projection_is_no_home_for_dora(make: Make, ids: torch.Tensor) -> None:
    model = make()
    with torch.no_grad():
        model.get_parameter("model.layers.1.self_attn.o_proj.weight").zero_()
        model.get_parameter("model.layers.0.self_attn.q_proj.weight")[3].zero_()  # one row: stays zero, no NaN
    attach(model, Adapter(kind="lora"), 1)
    model = merge_into(model)
    attach(model, Adapter(kind="dora", targets=("q_proj",)), 1)
    stir(model)
    assert ours(model, ids).isfinite().all()
    with pytest.raises(PunaError, match=r"layers\.1\.self_attn\.o_proj is all zeros"):
        attach(merge_into(model), Adapter(kind="dora"), 1)


def test_from_the_recipe() -> None:
    adapter = Adapter.from_recipe(Section(kind="dora", rank=8, bits=4), "train.adapter")
    assert adapter == Adapter(kind="dora", rank=8, alpha=32, targets=PROJECTIONS, bits=4)
    assert Adapter.from_recipe(Section(targets=["up_proj", "q_proj"]), "x").targets == ("q_proj", "up_proj")
    with pytest.raises(PunaError, match=r"train.adapter: targets.*lm_head"):
        Adapter.from_recipe(Section(targets=["lm_head"]), "train.adapter")
    assert Adapter(rank=4, alpha=8, rslora=True).scale == 4


def test_a_saved_adapter_is_the_same_bytes_and_only_what_is_attached(tmp_path: Path, make: Make) -> None:
    model, adapter = make(), Adapter(rank=2)
    attach(model, adapter, 1)
    for folder in ("a", "b"):
        save_adapter(model, adapter, tmp_path / folder, "base")
    assert all(
        (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in (CONFIG, TENSORS)
    )
    with pytest.raises(PunaError, match="missing"):
        save_adapter(make(), adapter, tmp_path / "c", "base")
    with torch.no_grad():
        model.get_parameter("model.layers.0.self_attn.q_proj.lora_B.weight")[0, 0] = float("nan")
    with pytest.raises(PunaError, match=r"layers\.0\.self_attn\.q_proj\.lora_B.*not finite"):
        save_adapter(model, adapter, tmp_path / "c", "base")
    assert not (tmp_path / "c").exists()


@pytest.fixture
def saved(tmp_path: Path, make: Make) -> tuple[Path, ModelConfig]:
    model, adapter = make(), Adapter(rank=2, targets=("q_proj", "v_proj"))
    attach(model, adapter, 1)
    save_adapter(model, adapter, tmp_path / "adapter", "base")
    return tmp_path / "adapter", model.config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"), ({"layers_to_transform": [0]}, "layers_to_transform"),
        ({"rank_pattern": {"q_proj": 4}}, "rank_pattern"), ({"alpha_pattern": {"q_proj": 4}}, "alpha_pattern"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out"), ({"bias": "all"}, "bias = 'all'"), ({"lora_bias": True}, "lora_bias"),
        ({"target_parameters": ["x"]}, "target_parameters"), ({"trainable_token_indices": [1]}, "trainable_token_indices"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights = 'pissa'"), ({"use_dora": 1}, "use_dora = '1'"),
        ({"never_heard": {"a": 1}}, "never_heard"), ({"peft_type": "IA3"}, "IA3"), ({"r": 3}, r"has shape \[2, 32\]"),
        ({"r": "2"}, "not both numbers"), ({"r": 0}, "rank"), ({"lora_alpha": -1}, "alpha"), ({"use_dora": True}, "missing"),
        ({"target_modules": ["q_proj", "lm_head"]}, "lm_head"), ({"target_modules": ["q_proj", "k_proj", "v_proj"]}, "k_proj"),
    ],
)  # fmt: skip
def test_what_changes_the_arithmetic_is_refused(
    saved: tuple[Path, ModelConfig], change: dict[str, Any], message: str
) -> None:
    folder, config = saved
    values = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(values | change))
    with pytest.raises(PunaError, match=message):
        open_adapter(folder, config)


def test_broken_and_hostile_files_are_refused(saved: tuple[Path, ModelConfig], tmp_path: Path) -> None:
    folder, config = saved
    tensors, good, options = (
        load_file(folder / TENSORS),
        (folder / TENSORS).read_bytes(),
        (folder / CONFIG).read_bytes(),
    )

    def refused(message: str) -> None:
        with pytest.raises(PunaError, match=message):
            open_adapter(folder, config)

    (folder / TENSORS).write_bytes(good[:-8])
    refused("truncated")
    (folder / TENSORS).write_bytes((1 << 60).to_bytes(8, "little") + good[8:])
    refused("claims")
    first = next(iter(tensors))
    for changed, message in (
        ({**tensors, "base_model.model.lm_head.lora_A.weight": torch.zeros(2, 32)}, r"belong to no adapter.*lm_head"),
        ({**tensors, "model.embed_tokens.weight": torch.zeros(96, 32)}, "not named as peft"),
        ({**tensors, first: torch.full_like(tensors[first], float("inf"))}, "not finite"),
        ({name: tensor for name, tensor in tensors.items() if name != first}, "1 tensors missing"),
        ({**tensors, first: torch.zeros(4, 4)}, "has shape"),
    ):
        save_file(changed, folder / TENSORS)
        refused(message)
    (folder / TENSORS).write_bytes(good)
    for text in (b"[]", b"{", b"\xff", b'{"r": 1, "r": 2}', b" " * (2 << 20)):
        (folder / CONFIG).write_bytes(text)
        refused("JSON|large")
    (folder / CONFIG).write_bytes(options)
    (folder / TENSORS).rename(tmp_path / "elsewhere")
    refused("is missing")
    os.symlink(tmp_path / "elsewhere", folder / TENSORS)
    refused("link that leaves")
    (folder / TENSORS).unlink()
    (folder / "adapter_model.bin").write_bytes(b"\x80\x04.")
    refused("pickle")
    (folder / CONFIG).unlink()
    refused("is no adapter")
