"""GGUF in and out: names, shapes, row order, rotary scaling and types, beside the `gguf` library; no llama.cpp needed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from puna.errors import PunaError
from puna.gguf_header import TENSOR_TYPES, read_gguf_header
from puna.model.config import ModelConfig
from puna.model.decoder import Decoder
from puna.model.formats import open_model
from puna.model.formats.gguf import open_gguf
from puna.model.formats.gguf_write import quantise_q4_0, write_gguf
from puna.model.importance import input_importance
from puna.model.rope import RopeScaling
from puna.model.weights import Weights

gguf = pytest.importorskip("gguf")
from gguf import quants  # noqa: E402
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType  # noqa: E402

LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
CASES: dict[str, dict[str, Any]] = {
    "llama": {}, "tied": {"tie_word_embeddings": True}, "qwen2": {"attention_bias": True}, "qwen3": {"qk_norm": True, "head_dim": 16},
    "llama3": {"rope_theta": 5e5, "rope_scaling": RopeScaling(**LLAMA3, original_max_position_embeddings=32)},
    "linear": {"rope_scaling": RopeScaling(rope_type="linear", factor=4.0)},
    "yarn": {"rope_scaling": RopeScaling(rope_type="yarn", factor=4.0, original_max_position_embeddings=32)},
    "mistral": {"sliding_window": 64}, "ends": {"bos_token_id": 1, "eos_token_id": [2, 5], "pad_token_id": 3},
}  # fmt: skip


def _vocabulary(size: int) -> dict[str, Any]:
    return {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "gpt-2", "tokenizer.ggml.merges": ["a b"],
            "tokenizer.ggml.tokens": [f"w{n}" for n in range(size)], "tokenizer.ggml.token_type": [1] * size}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_every_architecture_comes_back_bit_for_bit(make: Callable[..., Decoder], tmp_path: Path, case: str) -> None:
    model = make(**CASES[case])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) / 8)
    path = tmp_path / "m.gguf"
    report = write_gguf(Weights.of(model), path, kind="F32", tokenizer=_vocabulary(90))
    weights = open_gguf(path)
    assert weights.config == model.config
    for name, tensor in model.state_dict().items():
        assert torch.equal(weights.read(name), tensor), name
    assert (
        report["types"] == {"F32": len(weights.names) + (case == "llama3")} and report["bytes"] == path.stat().st_size
    )
    assert open_model(path).config == model.config and open_model(tmp_path).names == weights.names  # a folder with one
    before = path.read_bytes()
    write_gguf(Weights.of(model), path, kind="F32", tokenizer=_vocabulary(90))
    assert path.read_bytes() == before and [file.name for file in tmp_path.iterdir()] == ["m.gguf"]


def test_the_rows_of_llama_s_heads_are_permuted_as_llama_cpp_s_converter_does(
    make: Callable[..., Decoder], tmp_path: Path
) -> None:
    model = make(num_key_value_heads=2)
    write_gguf(Weights.of(model), tmp_path / "m.gguf", kind="F32", tokenizer={})
    reader = gguf.GGUFReader(tmp_path / "m.gguf")
    found = {tensor.name: tensor.data for tensor in reader.tensors}
    for name, heads in (("q", 4), ("k", 2)):
        weight = model.state_dict()[f"model.layers.1.self_attn.{name}_proj.weight"].numpy()
        # convert_hf_to_gguf.py, LlamaModel.permute
        theirs = (
            weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
            .swapaxes(1, 2)
            .reshape(weight.shape)
        )
        assert np.array_equal(found[f"blk.1.attn_{name}.weight"], theirs)
    assert np.array_equal(
        found["blk.1.attn_v.weight"], model.state_dict()["model.layers.1.self_attn.v_proj.weight"].numpy()
    )


def test_the_library_s_reader_reads_what_we_write_and_we_read_the_same(
    make: Callable[..., Decoder], tmp_path: Path
) -> None:
    path = tmp_path / "m.gguf"
    write_gguf(Weights.of(make(**CASES["ends"])), path, kind="Q8_0", tokenizer=_vocabulary(90))
    theirs, ours = gguf.GGUFReader(path), read_gguf_header(path)
    fields = {key: field.contents() for key, field in theirs.fields.items() if not key.startswith("GGUF.")}
    assert list(ours.metadata) == list(fields)
    for key, value in ours.metadata.items():
        value = value.tolist() if isinstance(value, np.ndarray) else value
        assert value == (pytest.approx(fields[key], rel=1e-7) if isinstance(value, float) else fields[key]), key
    assert ours.metadata["llama.attention.layer_norm_rms_epsilon"] == 1e-5  # not 0.00000999999974
    for tensor in theirs.tensors:
        place = ours.tensors[tensor.name]
        assert (place.kind, place.offset, place.nbytes) == (tensor.tensor_type.name, tensor.data_offset, tensor.n_bytes)
        assert place.shape == tuple(int(extent) for extent in tensor.shape[::-1])
    assert fields["tokenizer.ggml.eos_token_id"] == 2 and fields["tokenizer.ggml.eot_token_id"] == 5
    assert fields["tokenizer.ggml.tokens"][90:] == [f"[PAD{n}]" for n in range(90, 96)]


def test_our_table_of_types_is_the_library_s() -> None:
    assert {int(kind): (kind.name, *sizes) for kind, sizes in GGML_QUANT_SIZES.items()} == TENSOR_TYPES


@pytest.mark.parametrize(("kind", "error"), [("F16", 2e-3), ("BF16", 2e-2), ("Q8_0", 3e-2), ("Q4_0", 0.5)])
def test_narrow_kinds_are_near_and_vectors_stay_whole(
    make: Callable[..., Decoder], tmp_path: Path, ids: torch.Tensor, kind: str, error: float
) -> None:
    model = make(intermediate_size=64)
    report = write_gguf(Weights.of(model), tmp_path / "m.gguf", kind=kind, tokenizer={})
    weights = open_gguf(tmp_path / "m.gguf")
    assert weights.types["model.norm.weight"] == "F32" and weights.types["model.layers.0.mlp.up_proj.weight"] == kind
    assert weights.types["lm_head.weight"] == ("Q8_0" if kind == "Q4_0" else kind) and report["fallbacks"] == []
    with torch.no_grad():
        narrow = weights.decoder()
        difference = (narrow.logits(narrow(ids)) - model.logits(model(ids))).abs().max()
    assert 0 < difference < error


def test_rows_that_no_block_fits_are_stored_as_f16_and_told(make: Callable[..., Decoder], tmp_path: Path) -> None:
    report = write_gguf(Weights.of(make()), tmp_path / "m.gguf", kind="Q8_0", tokenizer={})
    assert report["fallbacks"] == [f"model.layers.{layer}.mlp.down_proj.weight" for layer in (0, 1)]  # rows of 48
    assert report["types"] == {"Q8_0": 14, "F16": 2, "F32": 5}


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K"])
def test_quantised_types_are_spread_as_the_library_does(
    make: Callable[..., Decoder], tmp_path: Path, kind: str
) -> None:
    """A file by the library's own writer, its blocks random bytes with small scales."""
    model = make(hidden_size=256, intermediate_size=256, head_dim=64)
    block, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType[kind]]
    write_gguf(Weights.of(model), tmp_path / "plain.gguf", kind="F32", tokenizer={})
    header, draws = read_gguf_header(tmp_path / "plain.gguf"), np.random.default_rng(0)
    writer, spread = gguf.GGUFWriter(tmp_path / "m.gguf", "llama"), {}
    for key, value in header.metadata.items():
        if key.startswith("llama."):
            (writer.add_float32 if isinstance(value, float) else writer.add_uint32)(key, value)
    for name, place in header.tensors.items():
        if len(place.shape) == 1:
            writer.add_tensor(name, np.ones(place.shape, np.float32))
            continue
        raw = draws.integers(0, 256, (place.shape[0], place.shape[1] // block, block_bytes), dtype=np.uint8)
        # Where a block's fp16 scales stand; small ones, so that all values are finite.
        scales = raw[..., 208:] if kind == "Q6_K" else raw[..., : 2 if kind[-1] == "0" else 4]
        scales[...] = (draws.random((*scales.shape[:-1], scales.shape[-1] // 2)) / 64).astype(np.float16).view(np.uint8)
        raw = raw.reshape(place.shape[0], -1)
        writer.add_tensor(name, raw, raw_dtype=GGMLQuantizationType[kind])
        spread[name] = quants.dequantize(raw, GGMLQuantizationType[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    weights = open_gguf(tmp_path / "m.gguf")
    assert set(weights.types.values()) == {"F32", kind}
    assert np.array_equal(weights.read("model.layers.0.mlp.up_proj.weight").numpy(), spread["blk.0.ffn_up.weight"])
    assert np.array_equal(weights.read("lm_head.weight").numpy(), spread["output.weight"])


def test_importance_is_the_inputs_mean_square_and_lessens_the_weighted_error(
    make: Callable[..., Decoder], tmp_path: Path
) -> None:
    model = make()
    seen: list[torch.Tensor] = []
    hook = model.model.layers[1].mlp.down_proj.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0][0]))
    rows = [torch.randint(0, 96, (length,), generator=torch.Generator().manual_seed(length)) for length in (7, 30)]
    importance = input_importance(model, rows)
    hook.remove()
    assert set(importance) == {name for name in model.config.shapes if "_proj" in name}
    torch.testing.assert_close(
        torch.from_numpy(importance["model.layers.1.mlp.down_proj.weight"]), torch.cat(seen).square().mean(0)
    )
    assert not model.model.layers[1].mlp.down_proj._forward_pre_hooks
    with pytest.raises(PunaError, match="no text"):
        input_importance(model, [])
    draws = np.random.default_rng(1)
    weight, squares = draws.standard_normal((40, 64), np.float32), (draws.standard_normal(64) ** 4).astype(np.float32)
    weight[3], squares[40:] = 0, 0
    ours, plain = (quants.dequantize(block, GGMLQuantizationType.Q4_0) for block in
                   (quantise_q4_0(weight, squares), quants.quantize(weight, GGMLQuantizationType.Q4_0)))  # fmt: skip
    blocks = weight.reshape(80, 32)
    measure = np.tile(squares.reshape(2, 32), (40, 1)) * np.sqrt((blocks**2).mean(1, keepdims=True) + blocks**2)
    errors = [(measure * (blocks - spread.reshape(80, 32)) ** 2).sum(1) for spread in (ours, plain)]
    assert (errors[0] <= errors[1] * (1 + 1e-5)).all() and errors[0].sum() < 0.75 * errors[1].sum()
    outputs = [(squares * (weight - spread) ** 2).sum() for spread in (ours, plain)]  # the expected error of the output
    assert outputs[0] < 0.75 * outputs[1]
    assert not ours[3].any()
    for name, given in (("with", importance), ("without", None)):
        write_gguf(Weights.of(model), tmp_path / f"{name}.gguf", kind="Q4_0", tokenizer={}, importance=given)
    assert (tmp_path / "with.gguf").read_bytes() != (tmp_path / "without.gguf").read_bytes()
    wrong = {"model.layers.0.self_attn.q_proj.weight": np.ones(8, np.float32)}
    with pytest.raises(PunaError, match="importance of model.layers.0.self_attn.q_proj.weight"):
        write_gguf(Weights.of(model), tmp_path / "with.gguf", kind="Q4_0", tokenizer={}, importance=wrong)


def test_what_llama_cpp_cannot_compute_is_told_or_refused(make: Callable[..., Decoder], tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    report = write_gguf(Weights.of(make(sliding_window=24)), path, kind="F32", tokenizer={})
    assert "sliding window of 24" in report["notes"][0] and open_gguf(path).config.max_position_embeddings == 24
    bounds = RopeScaling(rope_type="yarn", factor=2.0, original_max_position_embeddings=32, beta_fast=16.0)
    report = write_gguf(Weights.of(make(rope_scaling=bounds)), path, kind="F32", tokenizer={})
    assert "--yarn-beta-fast 16 --yarn-beta-slow 1" in report["notes"][0]
    untruncated = bounds.model_copy(update={"truncate": False})
    huge = make()
    with torch.no_grad():
        huge.model.layers[1].mlp.up_proj.weight[3, 3] = 1e5
    broken = make()
    with torch.no_grad():
        broken.model.norm.weight[0] = float("nan")
    path.unlink()
    for model, kind, size, message in (
        (make(rope_scaling=untruncated), "F32", 0, "YaRN"), (huge, "F16", 0, "layers.1.mlp.up_proj.weight holds values beyond"),
        (broken, "F32", 0, "model.norm.weight holds values that are not finite"), (make(), "Q4_K", 0, "kinds are F32, F16"),
        (make(), "F32", 97, "97 entries, the embedding 96 rows"),
    ):  # fmt: skip
        with pytest.raises(PunaError, match=message):
            write_gguf(Weights.of(model), path, kind=kind, tokenizer=_vocabulary(size) if size else {})
        assert not list(tmp_path.iterdir())  # no half file


def test_weights_that_are_not_finite_are_refused_by_their_tensor(tiny: Decoder, tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    write_gguf(Weights.of(tiny), path, kind="F16", tokenizer={})
    place = read_gguf_header(path).tensors["blk.1.ffn_up.weight"]
    with open(path, "r+b") as stream:
        stream.seek(place.offset + 6)
        stream.write(np.float16("nan").tobytes())
    weights = open_gguf(path)
    weights.read("model.layers.0.mlp.up_proj.weight")
    with pytest.raises(PunaError, match=r"blk\.1\.ffn_up\.weight holds values that are not finite"):
        weights.read("model.layers.1.mlp.up_proj.weight")


def test_reading_keeps_one_tensor_at_a_time(tmp_path: Path) -> None:
    """8-bit weights of 40 MB in fp32: what Python holds at the peak of reading them all is near the largest."""
    import tracemalloc

    config = ModelConfig(vocab_size=64, hidden_size=512, intermediate_size=1024, num_hidden_layers=4, num_attention_heads=8,
                         num_key_value_heads=8, head_dim=64)  # fmt: skip
    model = Decoder(config)
    model.init_weights(0)
    write_gguf(Weights.of(model), tmp_path / "m.gguf", kind="Q8_0", tokenizer={})
    del model
    weights = open_gguf(tmp_path / "m.gguf")
    tracemalloc.start()
    for _ in weights.items():
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6 * 512 * 1024 * 4  # the largest tensor, its blocks and what the library makes of them
