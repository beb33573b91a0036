"""Quantised safetensors: what Puna writes, transformers computes with; what is wrong in a stranger's folder is named."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from puna.errors import PunaError
from puna.model.config import ModelConfig
from puna.model.decoder import Decoder
from puna.model.formats import load_config, load_model, open_model
from puna.model.formats.quantised import spread
from puna.model.formats.quantised_write import group_size, pack, quantise, write_quantised
from puna.model.weights import Weights

SHAPE: dict[str, Any] = {
    "vocab_size": 90, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 64,
}  # fmt: skip


def a_model(dtype: torch.dtype = torch.float32, **changes: Any) -> Decoder:
    model = Decoder(ModelConfig(**{**SHAPE, **changes}))
    model.init_weights(seed=5)
    return model.to(dtype)


def written(folder: Path, model: Decoder, bits: int, **options: Any) -> Path:
    write_quantised(Weights.of(model), folder, bits=bits, **options)
    return folder


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(("columns", "group"), [(128, 32), (128, 128), (172, 172), (5, 5)])
def test_packing_is_compressed_tensors_own(bits: int, columns: int, group: int) -> None:
    helpers = pytest.importorskip("compressed_tensors.compressors.pack_quantized.helpers")
    torch.manual_seed(0)
    matrix = torch.randn(6, columns)
    q, scale = quantise(matrix, bits, group, None, torch.float32)
    packed = pack(q, bits)
    assert torch.equal(packed, helpers.pack_to_int32(q, bits))
    assert torch.equal(helpers.unpack_from_int32(packed, bits, matrix.shape), q)
    assert torch.equal(spread(packed, scale, columns, bits), q.float() * scale.repeat_interleave(group, 1))


def test_rounding_is_near_and_importance_moves_it() -> None:
    torch.manual_seed(1)
    matrix = torch.randn(32, 64)
    for bits in (4, 8):
        q, scale = quantise(matrix, bits, 32, None, torch.float32)
        step = matrix.view(32, 2, 32).abs().amax(-1) / (2 ** (bits - 1) - 1)
        error = (matrix - q.float() * scale.repeat_interleave(32, 1)).abs()
        plain = (matrix / step.repeat_interleave(32, 1)).round() * step.repeat_interleave(32, 1)
        assert error.square().sum() <= (matrix - plain).square().sum() * (1 + 1e-6)
        if bits == 8:
            assert (error <= step.repeat_interleave(32, 1) / 2 * (1 + 1e-5)).all()
    importance = torch.zeros(64)
    importance[:32] = torch.linspace(0, 100, 32)
    q, scale = quantise(matrix, 4, 32, None, torch.float32)
    weighed, other = quantise(matrix, 4, 32, importance, torch.float32)

    def loss(q: torch.Tensor, scale: torch.Tensor) -> float:
        return float((importance * (matrix - q.float() * scale.repeat_interleave(32, 1)).square()).sum())

    assert loss(weighed, other) < loss(q, scale)
    zeros, ones = quantise(torch.zeros(2, 32), 4, 32, None, torch.float16)
    assert not zeros.any() and torch.isfinite(ones).all()


def test_group_sizes() -> None:
    def of(**changes: Any) -> int | None:
        return group_size(ModelConfig(**{**SHAPE, **changes}))

    assert of(hidden_size=128, head_dim=32, intermediate_size=256) == 128
    assert of() == 64 and of(intermediate_size=160) == 32 and of(intermediate_size=172) is None


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(
    ("dtype", "changes"),
    [
        (torch.float32, {"tie_word_embeddings": True}),
        (torch.bfloat16, {"qk_norm": True, "tie_word_embeddings": False}),
        (torch.float16, {"attention_bias": True, "intermediate_size": 172}),
    ],
)
def test_transformers_computes_the_same(bits: int, dtype: torch.dtype, changes: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("compressed_tensors")
    transformers = pytest.importorskip("transformers")
    model = a_model(dtype, **changes)
    folder = written(tmp_path / "q", model, bits, shard_bytes=60_000 if bits == 8 else None)
    ours = load_model(folder).eval()
    theirs = getattr(transformers, model.config.architecture).from_pretrained(folder, dtype=torch.float32)
    ids = torch.arange(40)[None] * 7 % 90
    with torch.no_grad():
        found, wanted = ours.logits(ours(ids)), theirs.eval()(ids).logits
        plain = model.float().logits(model.float()(ids))
    assert (found - wanted).abs().max() < 1e-5
    assert 0 < (found - plain).abs().max() < (0.1 if bits == 8 else 2.0)
    assert load_config(folder) == model.config
    kinds = set(open_model(folder).types.values())
    assert kinds == {f"INT{bits}", {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}[dtype]}


def test_same_weights_same_bytes_and_importance_by_name(tmp_path: Path) -> None:
    model = a_model()
    first, again = written(tmp_path / "a", model, 4), written(tmp_path / "b", model, 4)
    name = "model.layers.1.mlp.up_proj.weight"
    weighed = written(tmp_path / "c", model, 4, importance={name: np.linspace(0, 9, 64, dtype=np.float32) ** 3})
    for file in ("config.json", "model.safetensors"):
        assert (first / file).read_bytes() == (again / file).read_bytes()
    one, other = open_model(first), open_model(weighed)
    assert [n for n in one.names if not torch.equal(one.read(n), other.read(n))] == [name]
    assert sum(file.stat().st_size for file in first.iterdir()) < 0.5 * 4 * model.config.parameters


def _config(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        value = json.loads((folder / "config.json").read_text())
        change(value)
        (folder / "config.json").write_text(json.dumps(value))

    return edit


def _tensors(change: Callable[[dict[str, torch.Tensor]], None]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        from safetensors.torch import load_file, save_file

        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors")

    return edit


_UP = "model.layers.0.mlp.up_proj.weight"
_GROUP = ("quantization_config", "config_groups", "group_0")


def _set(*path: str, to: Any) -> Callable[[Path], None]:
    def change(value: dict[str, Any]) -> None:
        for key in path[:-1]:
            value = value[key]
        value[path[-1]] = to

    return _config(change)


@pytest.mark.parametrize(
    ("edit", "word"),
    [
        (_set("quantization_config", "quant_method", to="gptq"), "quant_method"),
        (_set("quantization_config", "format", to="marlin-24"), "format"),
        (_set("quantization_config", to=[1]), "not an object"),
        (_set("quantization_config", "kv_cache_scheme", to={"num_bits": 8}), "kv_cache_scheme"),
        (_set("quantization_config", "surprise", to=1), "surprise"),
        (_set(*_GROUP, "input_activations", to={"num_bits": 8}), "input_activations"),
        (_set(*_GROUP, "targets", to=["re:.*up_proj"]), "targets"),
        (_set(*_GROUP, "weights", "num_bits", to=3), "num_bits"),
        (_set(*_GROUP, "weights", "num_bits", to=True), "num_bits"),
        (_set(*_GROUP, "weights", "num_bits", to=8), "weight_packed is int32 of shape"),
        (_set(*_GROUP, "weights", "symmetric", to=False), "symmetric"),
        (_set(*_GROUP, "weights", "actorder", to="group"), "actorder"),
        (_set(*_GROUP, "weights", "group_size", to=32), "weight_scale is float32 of shape"),
        (_set(*_GROUP, "weights", "group_size", to=0), "group size"),
        (_set("quantization_config", "config_groups", to={}), "one group"),
        (_tensors(lambda t: t.pop(_UP + "_scale")), "up_proj.weight_scale is missing"),
        (_tensors(lambda t: t.pop(_UP + "_packed")), "up_proj.weight"),
        (_tensors(lambda t: t.update({_UP + "_shape": torch.tensor([128, 65])})), "weight_shape says"),
        (_tensors(lambda t: t.update({_UP + "_packed": t[_UP + "_packed"].float()})), "must be int32"),
        (_tensors(lambda t: t.update({_UP: torch.zeros(128, 64)})), "packed and whole"),
        (_tensors(lambda t: t.update({"model.norm.weight": torch.ones(64, dtype=torch.int32)})), "norm.weight is of type"),
        (_tensors(lambda t: t.update({"extra": torch.ones(2)})), "extra"),
    ],
)  # fmt: skip
def test_another_packing_or_a_damaged_folder_is_refused(
    edit: Callable[[Path], None], word: str, tmp_path: Path
) -> None:
    folder = written(tmp_path / "q", a_model(), 4)
    edit(folder)
    with pytest.raises(PunaError, match=word):
        open_model(folder)


def test_a_scale_that_is_no_number_and_a_flipped_bit(tmp_path: Path) -> None:
    folder = written(tmp_path / "q", a_model(), 4)
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-40] ^= 1
    (folder / "model.safetensors").write_bytes(data)
    weights = open_model(folder)
    with pytest.raises(PunaError, match="altered or damaged"):
        weights.decoder()
    folder = written(tmp_path / "nan", a_model(), 4)
    _tensors(lambda t: t[_UP + "_scale"].fill_(float("nan")))(folder)
    with pytest.raises(PunaError, match=r"up_proj\.weight_scale.*not finite"):
        open_model(folder).read(_UP)
    model = a_model()
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[0, 0] = float("inf")
    with pytest.raises(PunaError, match="not finite"):
        written(tmp_path / "inf", model, 4)
    assert not list((tmp_path / "inf").glob("*.safetensors"))
