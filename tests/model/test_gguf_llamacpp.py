"""llama.cpp as the judge: it loads what we write, we read what it quantises, and both give the same logits and text."""

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from puna.model.decoder import Decoder
from puna.model.formats import open_model
from puna.model.formats.gguf import open_gguf
from puna.model.formats.gguf_write import write_gguf
from puna.model.rope import RopeScaling
from puna.model.weights import Weights
from puna.tokens.formats import open_tokenizer
from puna.tokens.formats.gguf import gguf_tokenizer_fields, read_gguf_tokenizer

pytestmark = pytest.mark.slow
llama_cpp = pytest.importorskip("llama_cpp")
WEIGHTS = Path(__file__).resolve().parents[3] / "shared/data/weights"
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
CASES: dict[str, dict[str, Any]] = {
    "llama": {}, "tied": {"tie_word_embeddings": True}, "qwen2": {"attention_bias": True}, "qwen3": {"qk_norm": True, "head_dim": 32},
    "llama3": {"rope_theta": 5e5, "rope_scaling": RopeScaling(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                                                              original_max_position_embeddings=32)},
    "linear": {"rope_scaling": RopeScaling(rope_type="linear", factor=4.0)}, "yarn": {"rope_scaling": RopeScaling(**YARN)},
    "temperature": {"rope_scaling": RopeScaling(**YARN, attention_factor=1.3)}, "mistral": {"sliding_window": 60},
}  # fmt: skip
# Logits here are up to 25. llama.cpp rounds a product's inputs to 16 bits beside weights of 16, to 8 bits beside quantised ones.
TOLERANCE = {"F32": 2e-5, "F16": 2e-2, "BF16": 0.15, "Q8_0": 0.6, "Q4_0": 0.6}


def theirs(path: Path, length: int, **options: Any) -> Any:
    """llama.cpp with fp32 keys and values (its default of 16 bits would hide what is compared), YaRN as the file has it."""
    return llama_cpp.Llama(str(path), n_ctx=length, n_batch=length, n_threads=1, logits_all=True, verbose=False, type_k=0, type_v=0,
                           yarn_attn_factor=-1.0, yarn_beta_fast=-1.0, yarn_beta_slow=-1.0, **options)  # fmt: skip


def logits_of(path: Path, ids: list[int]) -> np.ndarray:
    model = theirs(path, len(ids))
    model.eval(ids)
    return np.array(model.scores[: len(ids)])


@torch.no_grad()
def ours(weights: Weights, ids: list[int]) -> np.ndarray:
    model = weights.decoder()
    return model.logits(model(torch.tensor([ids])))[0].numpy()


def vocabulary(size: int) -> dict[str, Any]:
    return {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "gpt-2", "tokenizer.ggml.merges": ["! \""],
            "tokenizer.ggml.tokens": [f"w{n}" for n in range(size)], "tokenizer.ggml.token_type": [1] * size}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_llama_cpp_gives_our_logits(make: Callable[..., Decoder], ids: torch.Tensor, tmp_path: Path, case: str) -> None:
    model = make(**{"hidden_size": 64, "intermediate_size": 96, "head_dim": 16, **CASES[case]})
    draws = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("bias", "norm.weight")):
                parameter.add_(torch.randn(parameter.shape, generator=draws) * 0.3)
            if "embed" in name or "lm_head" in name:
                parameter.mul_(20)
    row = ids[0].tolist()
    for kind, tolerance in TOLERANCE.items():
        path = tmp_path / f"{kind}.gguf"
        write_gguf(Weights.of(model), path, kind=kind, tokenizer=vocabulary(90))
        difference = np.abs(ours(open_gguf(path), row) - logits_of(path, row)).max()
        assert difference < tolerance, kind
        if kind == "F32":
            assert np.abs(ours(Weights.of(model), row) - logits_of(path, row)).max() < tolerance


def quantised(source: Path, target: Path, kind: str) -> Path:
    """llama.cpp's own quantiser; to ALL_F32 it spreads what is quantised."""
    options = llama_cpp.llama_model_quantize_default_params()
    options.ftype, options.nthread, options.allow_requantize = getattr(llama_cpp, f"LLAMA_FTYPE_{kind}"), 1, True
    assert llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(options)) == 0
    return target


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K_S", "Q4_K_M", "Q5_K_M", "Q6_K"])
def test_we_read_what_llama_cpp_quantises(
    make: Callable[..., Decoder], ids: torch.Tensor, tmp_path: Path, kind: str
) -> None:
    model = make(hidden_size=256, intermediate_size=512, head_dim=64, num_hidden_layers=1)
    with torch.no_grad():
        model.lm_head.weight.mul_(20)
    write_gguf(Weights.of(model), tmp_path / "plain.gguf", kind="F32", tokenizer=vocabulary(96))
    path = quantised(tmp_path / "plain.gguf", tmp_path / "m.gguf", f"MOSTLY_{kind}")
    weights = open_gguf(path)
    assert weights.types["model.layers.0.self_attn.k_proj.weight"] == kind.removesuffix("_S").removesuffix("_M")
    spread = open_gguf(quantised(path, tmp_path / "spread.gguf", "ALL_F32"))
    assert set(spread.types.values()) == {"F32"}
    for name in weights.names:
        torch.testing.assert_close(weights.read(name), spread.read(name), rtol=1e-6, atol=0)
    row = ids[0].tolist()
    exact, mine, reference = ours(Weights.of(model), row), ours(weights, row), logits_of(path, row)
    # What is left is llama.cpp's rounding of a product's inputs to 8 bits.
    assert np.abs(mine - reference).max() < 0.04 * np.abs(exact).max()


def greedy(weights: Weights, ids: list[int], steps: int) -> list[int]:
    model, row = weights.decoder(), list(ids)
    with torch.no_grad():
        for _ in range(steps):
            row.append(int(model.logits(model(torch.tensor([row]))[:, -1])[0].argmax()))
    return row


@pytest.mark.parametrize(
    ("name", "prompt", "steps"), [("stories260K", "Once upon a time", 200), ("aidreams260K", "I was walking", 90)]
)
def test_a_real_model_tells_the_same_story_here_and_in_llama_cpp(
    tmp_path: Path, name: str, prompt: str, steps: int
) -> None:
    if not WEIGHTS.is_dir():
        pytest.skip(f"{WEIGHTS} is not there")
    weights, tokenizer = open_model(WEIGHTS / name / f"{name}.bin"), open_tokenizer(WEIGHTS / name / "tok512.bin")
    path = tmp_path / "m.gguf"
    report = write_gguf(weights, path, kind="F32", tokenizer=gguf_tokenizer_fields(tokenizer))
    assert report["types"] == {"F32": len(weights.names)} and read_gguf_tokenizer(path).adds_bos
    for tensor in weights.names:
        assert torch.equal(open_gguf(path).read(tensor), weights.read(tensor))
    ids = [tokenizer.bos_id, *tokenizer.encode(prompt)]
    story = greedy(open_gguf(path), ids, steps)
    assert tokenizer.decode(story).startswith(prompt)
    model = theirs(path, weights.config.max_position_embeddings)
    assert model.tokenize(prompt.encode()) == ids
    told = list(ids)
    for token in model.generate(ids, top_k=1, temp=0.0, repeat_penalty=1.0):
        told.append(token)
        if len(told) == len(story):
            break
    assert told == story and greedy(weights, ids, steps) == story
    if name == "stories260K":
        assert "there was a little girl named Lily. She loved to play outside in the park" in tokenizer.decode(story)
    for kind in ("F16", "Q8_0"):
        write_gguf(weights, path, kind=kind, tokenizer=gguf_tokenizer_fields(tokenizer))
        row = story[: len(ids) + 60]
        agree = (ours(open_gguf(path), row).argmax(1) == logits_of(path, row).argmax(1)).mean()
        assert agree > (0.97 if kind == "F16" else 0.9), kind
