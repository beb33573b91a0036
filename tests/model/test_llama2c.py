"""llama2.c's files against run.c's arithmetic restated, against transformers, and against hostile hands."""

import struct
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaForCausalLM

from puna.engine.engine import Engine
from puna.engine.sampling import Sampling
from puna.errors import PunaError
from puna.model.decoder import Decoder
from puna.model.formats.huggingface_write import save_model
from puna.model.formats.llama2c import open_llama2c
from puna.model.formats.llama2c_write import group_size, quantize_q8, write_llama2c
from puna.model.weights import Weights

sys.path.insert(0, str(Path(__file__).parent))  # tests are imported as files, not as a package
from tests_model_run_c import RunC

SHARED = Path(__file__).resolve().parents[3] / "shared/data/weights"
shared = pytest.mark.skipif(not SHARED.is_dir(), reason=f"the shared data are absent ({SHARED})")
MODELS = {name: SHARED / name / f"{name}.bin" for name in ("stories260K", "aidreams260K")}


def logits(model: Decoder, ids: list[int]) -> np.ndarray:  # type: ignore[type-arg]
    with torch.no_grad():
        return model.logits(model(torch.tensor([ids])))[0].numpy()


@shared
def test_two_hundred_tokens_of_a_story_are_the_same_everywhere(tmp_path: Path) -> None:
    engine = Engine.load(MODELS["stories260K"], "cpu")
    prompt = [1, *engine.tokenizer.encode("Once upon a time")]
    assert prompt == [1, 403, 407, 261, 378]
    expected = RunC(MODELS["stories260K"].read_bytes()).greedy(prompt, 200)
    assert not {1, 2}.intersection(expected)
    text = engine.tokenizer.decode([*prompt, *expected])
    assert text.startswith(
        "Once upon a time, there was a little girl named Lily. She loved to play outside in the park"
    )
    ours = engine.complete([prompt], Sampling(temperature=0, max_tokens=200))[0]
    assert ours.ids == expected
    assert "Once upon a time" + ours.text == text
    weights = open_llama2c(MODELS["stories260K"])
    write_llama2c(weights, tmp_path / "1.bin", version=1)
    assert RunC((tmp_path / "1.bin").read_bytes()).greedy(prompt, 50) == expected[:50]
    save_model(weights.decoder(), weights.config, tmp_path / "hf")
    theirs = LlamaForCausalLM.from_pretrained(tmp_path / "hf").generate(
        torch.tensor([prompt]), max_new_tokens=200, do_sample=False, eos_token_id=None
    )
    assert theirs[0, len(prompt) :].tolist() == expected


@shared
@pytest.mark.parametrize("name", MODELS)
def test_logits_are_those_of_run_c(name: str) -> None:
    ids = np.random.default_rng(0).integers(3, 512, 100).tolist()
    oracle = RunC(MODELS[name].read_bytes())
    theirs = np.stack([oracle.feed(token) for token in ids])
    assert np.abs(logits(open_llama2c(MODELS[name]).decoder(), ids) - theirs).max() < 2e-4


@shared
@pytest.mark.parametrize("name", MODELS)
def test_int8_is_near(name: str, tmp_path: Path) -> None:
    weights = open_llama2c(MODELS[name])
    write_llama2c(weights, tmp_path / "int8.bin", version=2)
    int8 = open_llama2c(tmp_path / "int8.bin")
    assert set(int8.types.values()) == {"fp32", "int8 in groups of 4"}
    model, engine = weights.decoder(), Engine.load(MODELS[name], "cpu")
    prompt = [1, *engine.tokenizer.encode("Once upon a time")]
    ids = [*prompt, *engine.complete([prompt], Sampling(temperature=0, max_tokens=40))[0].ids]
    oracle = RunC((tmp_path / "int8.bin").read_bytes())
    whole, ours = logits(model, ids), logits(int8.decoder(), ids)
    theirs = np.stack([oracle.feed(token) for token in ids])
    spread = whole.std()
    assert np.abs(ours - whole).max() < 0.05 * spread  # the weights are rounded
    assert np.abs(theirs - ours).max() < 0.1 * spread  # runq.c also rounds what the weights are multiplied by
    nats = [
        float(torch.nn.functional.cross_entropy(torch.tensor(one[:-1]), torch.tensor(ids[1:]))) for one in (whole, ours)
    ]
    assert abs(nats[0] - nats[1]) < 0.01 * nats[0]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("version", [0, 1])
def test_what_is_written_is_read_back(version: int, tied: bool, make: Callable[..., Decoder], tmp_path: Path) -> None:
    model = make(tie_word_embeddings=tied, rms_norm_eps=1e-5, rope_theta=10_000.0, bos_token_id=1, eos_token_id=2)
    for name in ("a.bin", "b.bin"):
        write_llama2c(Weights.of(model), tmp_path / name, version=version)
    data = (tmp_path / "a.bin").read_bytes()
    assert data == (tmp_path / "b.bin").read_bytes()
    weights = open_llama2c(tmp_path / "a.bin")
    assert weights.config == model.config
    for name, tensor in weights.items():
        assert torch.equal(tensor, model.state_dict()[name])
    ids = list(range(3, 40))
    oracle = RunC(data)
    assert np.abs(np.stack([oracle.feed(token) for token in ids]) - logits(model, ids)).max() < 1e-5


@shared
def test_the_first_form_is_written_as_llama2c_wrote_it(tmp_path: Path) -> None:
    for name, path in MODELS.items():
        write_llama2c(open_llama2c(path), tmp_path / name, version=0)
        ours, given_ = np.frombuffer((tmp_path / name).read_bytes(), "<f4"), np.frombuffer(path.read_bytes(), "<f4")
        tables = slice(-(open_llama2c(path).config.max_position_embeddings * open_llama2c(path).config.head_dim), None)
        assert ours[: tables.start].tobytes() == given_[: tables.start].tobytes()
        assert np.abs(ours[tables] - given_[tables]).max() < 3e-6  # tables of cosines that run.c passes over


def test_int8_groups() -> None:
    values = np.array([[0, 0, 0, 0], [1e-45, 0, 0, 0], [1, -2, 127, 0.5], [-3, 1, 2, 3]], np.float32)
    quants, scales = quantize_q8(values, 4)
    assert quants[2].tolist() == [1, -2, 127, 0]
    assert np.abs(quants * scales[:, None] - values).max() <= 0.5
    assert np.isfinite(scales).all()


@pytest.mark.parametrize(("change", "named"), [
    ({"rope_theta": 5e5}, "rope_theta is 500000"), ({"rms_norm_eps": 1e-6}, "rms_norm_eps is 1e-06"), ({"head_dim": 16}, "head_dim is 16"),
    ({"attention_bias": True}, "attention_bias"), ({"qk_norm": True}, "qk_norm"), ({"sliding_window": 8}, "sliding_window"),
    ({"rope_scaling": {"rope_type": "linear", "factor": 2.0}}, "rope_scaling"),
])  # fmt: skip
def test_what_the_form_cannot_hold_is_named(
    change: dict[str, object], named: str, make: Callable[..., Decoder], tmp_path: Path
) -> None:
    model = make(**{"rms_norm_eps": 1e-5, "rope_theta": 10_000.0} | change)
    with pytest.raises(PunaError, match=named):
        write_llama2c(Weights.of(model), tmp_path / "m.bin", version=1)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def forms(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    from puna.model.config import ModelConfig

    folder = tmp_path_factory.mktemp("forms")
    model = Decoder(ModelConfig(vocab_size=12, hidden_size=8, intermediate_size=12, num_hidden_layers=1, num_attention_heads=2,
                                num_key_value_heads=1, head_dim=4, max_position_embeddings=8, rms_norm_eps=1e-5,
                                rope_theta=10_000.0))  # fmt: skip
    model.init_weights(0)
    for version in (0, 1, 2):
        write_llama2c(Weights.of(model), folder / f"{version}.bin", version=version)
    assert group_size(model.config) == 4
    return [(folder / f"{version}.bin").read_bytes() for version in (0, 1, 2)]


def test_damaged_files(forms: list[bytes], tmp_path: Path) -> None:
    path = tmp_path / "m.bin"
    for data in forms:
        for damaged in (data[:-1], data + b"\0", data[:20], b"", data[:256], data[: len(data) // 2]):
            path.write_bytes(damaged)
            with pytest.raises(PunaError, match=r"m\.bin"):
                open_llama2c(path)
    huge = struct.pack("<7i", 1 << 16, 1 << 18, 1 << 9, 1 << 8, 1 << 8, 1 << 20, 1 << 20)
    for data, said in ((huge + forms[0][28:], "its header makes"), (b"PK\x03\x04" + forms[0], "pickle"), (b"\x80\x02" + forms[0], "pickle"),
                       (forms[1][:4] + struct.pack("<i", 3) + forms[1][8:], "version 3"), (forms[2][:37] + b"\0\0\0\0" + forms[2][41:], "groups of 0"),
                       (forms[1][:36] + b"\2" + forms[1][37:], "says 2"), (struct.pack("<i", -1) + forms[0][4:], "dim is -1")):  # fmt: skip
        path.write_bytes(data)
        with pytest.raises(PunaError, match=said):
            open_llama2c(path)


def test_values_that_are_not_finite_are_named(forms: list[bytes], tmp_path: Path) -> None:
    path = tmp_path / "m.bin"
    for data in forms:
        path.write_bytes(
            data[:-4] + struct.pack("<f", float("nan"))
            if data is forms[2]
            else data[:600] + struct.pack("<f", float("inf")) + data[604:]
        )
        with pytest.raises(PunaError, match=r"\.weight holds values that are not finite"):
            open_llama2c(path).decoder()


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_bytes_are_read_or_refused(
    forms: list[bytes], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    whole = bytearray(data.draw(st.sampled_from(forms)))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.one_of(st.integers(0, 44), st.integers(0, len(whole) - 1)))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "mutated.bin"
    path.write_bytes(whole)
    try:
        weights = open_llama2c(path)
        for name, tensor in weights.items():
            assert tuple(tensor.shape) == weights.config.shapes[name]
    except PunaError:
        pass
