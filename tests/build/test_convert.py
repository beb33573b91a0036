"""Conversion between the forms, with the real small model: same greedy text everywhere, and nothing left where it fails."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from puna.build import convert as conversion
from puna.build.convert import convert
from puna.build.parity import ParityError
from puna.engine import Engine, Sampling
from puna.errors import PunaError
from puna.model.formats import load_model, open_model, save_model

pytest.importorskip("gguf")
SHARED = Path(__file__).resolve().parents[3] / "shared/data"
STORIES = SHARED / "weights/stories260K/stories260K.bin"
GREEDY = Sampling(max_tokens=200, temperature=0)


@pytest.fixture(scope="module")
def stories() -> Path:
    if not STORIES.is_file():
        pytest.skip(f"{STORIES} is not here")
    return STORIES


@pytest.fixture(autouse=True)
def no_other_reader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers takes 10 s of CPU to import: it and llama.cpp read in the slow test."""
    if request.node.get_closest_marker("slow") is None:
        monkeypatch.setattr("puna.build.other_readers.why_not_transformers", lambda quantised: "left out here")
        monkeypatch.setattr("puna.build.other_readers.why_not_llama_cpp", lambda: "left out here")


def says(path: Path) -> str:
    engine = Engine.load(path, "cpu")
    return engine.complete([engine.begin("Once upon a time")], GREEDY)[0].text


def test_there_and_back_again_says_the_same(stories: Path, tmp_path: Path) -> None:
    chain = [tmp_path / "hf", tmp_path / "故事.gguf", tmp_path / "again", tmp_path / "back.bin", tmp_path / "last"]
    source, before = stories, {path: path.read_bytes() for path in stories.parent.iterdir() if path.is_file()}
    known = says(stories)
    for target in chain:
        report = convert(source, target, to="f32" if target.suffix == ".gguf" else None)
        assert report["passed"] and report["parity"]["exact"] and report["parity"]["logits"]["largest_difference"] == 0
        assert report["weights"]["equal"] == report["weights"]["tensors"] == 47
        assert report["parity"]["greedy"]["identical"] == 8
        assert says(target) == known and ", there was a little girl named Lily." in known
        source = target
    for name, tensor in open_model(stories).items():
        assert torch.equal(tensor, open_model(chain[-1]).read(name))
    assert {path: path.read_bytes() for path in before} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*(path.name for path in chain), "tokenizer.bin"])
    assert json.loads((tmp_path / "hf/generation_config.json").read_text()) == {
        "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": None}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "kind", "least"),
    [("x.gguf", "q8_0", 3), ("x.gguf", "q4_0", 4), ("x.gguf", "bf16", 1.9), ("x.bin", "int8", 2), ("x", "fp16", 1.9),
     ("x", "int8", 2.5), ("x", "int4", 3.4)],
)  # fmt: skip
def test_rounded_kinds_tell_what_they_cost(name: str, kind: str, least: float, stories: Path, tmp_path: Path) -> None:
    report = convert(stories, tmp_path / name, to=kind)
    assert report["passed"] and not report["parity"]["exact"] and report["kind"] == kind
    assert 0 < report["weights"]["largest_difference"] < 0.3 and report["weights"]["tensor"].startswith("model.")
    for row in report["parity"]["bits_per_byte"].values():
        assert row["change"] == pytest.approx(row["after"] / row["before"] - 1) and abs(row["change"]) < 0.12
    plain = kind in ("bf16", "fp16")
    assert (report["weights"]["as_rounded"] == report["weights"]["tensors"]) == plain
    files = [
        file
        for file in tmp_path.rglob("*")
        if file.suffix in (".gguf", ".bin", ".safetensors") and file.stem != "tokenizer"
    ]
    assert sum(file.stat().st_size for file in files) < report["bytes"]["before"] / least


def test_calibration_lowers_the_loss_on_its_text(stories: Path, tmp_path: Path) -> None:
    text, engine = tmp_path / "text.txt", Engine.load(stories, "cpu")
    drawn = [Sampling(max_tokens=250, temperature=1.0, top_p=1.0, seed=seed) for seed in range(12)]
    text.write_text("\n".join(reply.text for reply in engine.complete([engine.begin("")] * 12, drawn)))
    lost = []
    for name, calibrate in (("plain", None), ("weighed", text)):
        report = convert(stories, tmp_path / name, to="int4", calibrate=calibrate, text=text)
        lost.append(report["parity"]["bits_per_byte"]["own"]["change"])
    assert 0 < lost[1] < lost[0]
    convert(stories, tmp_path / "a.gguf", to="q4_0")
    convert(stories, tmp_path / "b.gguf", to="q4_0", calibrate=text)
    names = [name for name in open_model(stories).names if name.endswith("gate_proj.weight")]
    one, other = open_model(tmp_path / "a.gguf"), open_model(tmp_path / "b.gguf")
    assert not any(torch.equal(one.read(name), other.read(name)) for name in names)


def test_small_shards_and_a_source_without_tokenizer(stories: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "model.bin").write_bytes(stories.read_bytes())
    with pytest.raises(PunaError, match="--tokenizer PATH"):
        convert(bare / "model.bin", tmp_path / "x")
    report = convert(bare / "model.bin", tmp_path / "x", tokenizer=stories.with_name("tok512.bin"), shard_size="300 kB")
    assert report["passed"] and len(list((tmp_path / "x").glob("model-*.safetensors"))) > 3


def test_what_the_source_says_of_drawing_is_kept(stories: Path, tmp_path: Path) -> None:
    convert(stories, tmp_path / "a")
    own = {"temperature": 0.6, "top_p": 0.9, "do_sample": True, "eos_token_id": [2, 1], "auto_map": {"x": "evil.py"}}
    (tmp_path / "a/generation_config.json").write_text(json.dumps(own))
    convert(tmp_path / "a", tmp_path / "b", to="bf16")
    kept = json.loads((tmp_path / "b/generation_config.json").read_text())
    own.pop("auto_map")
    assert kept == {"bos_token_id": 1, "pad_token_id": None, **own}


def _broken_writer(break_: Callable[[Any], None]) -> Callable[..., None]:
    def write(weights: Any, folder: Path, **_: Any) -> None:
        model = weights.decoder()
        with torch.no_grad():
            break_(model)
        save_model(model, model.config, folder)

    return write


@pytest.mark.parametrize(
    ("break_", "word"),
    [
        (lambda m: m.model.layers[1].mlp.up_proj.weight[0, 0].add_(0.5), "1 tensors are not what was to be written"),
        (lambda m: m.model.layers[0].self_attn.q_proj.weight.copy_(m.model.layers[0].self_attn.q_proj.weight.flip(0)), "q_proj"),
        (lambda m: m.model.norm.weight.mul_(50), "bits per byte"),
    ],
)  # fmt: skip
def test_a_failed_check_keeps_nothing(
    break_: Any, word: str, stories: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversion, "write_huggingface", _broken_writer(break_))
    with pytest.raises(ParityError, match=word) as failed:
        convert(stories, tmp_path / "x")
    assert failed.value.report is not None and failed.value.report["passed"] is False
    assert failed.value.report["parity"]["logits"]["largest_difference"] > 0
    assert not list(tmp_path.iterdir())


def test_an_error_midway_keeps_nothing(stories: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(conversion, "compare_weights", stop)
    for name in ("x", "x.bin", "x.gguf"):
        with pytest.raises(KeyboardInterrupt):
            convert(stories, tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_too_little_disk_or_memory_is_told_first(
    stories: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversion, "free_memory", lambda: 1 << 20)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(PunaError, match="memory"):
        convert(stories, tmp_path / "x")
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1000})())
    with pytest.raises(PunaError, match="GB"):
        convert(stories, tmp_path / "x")
    assert not list(tmp_path.iterdir())


def test_another_models_tokenizer_bin_is_left_alone(stories: Path, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.bin").write_bytes(b"another's")
    with pytest.raises(PunaError, match="another model's"):
        convert(stories, tmp_path / "x.bin")
    assert [path.name for path in tmp_path.iterdir()] == ["tokenizer.bin"]
    (tmp_path / "tokenizer.bin").unlink()
    convert(stories, tmp_path / "x.bin")
    kept = (tmp_path / "tokenizer.bin").read_bytes()
    convert(tmp_path / "x.bin", tmp_path / "y.bin", to="int8")
    assert (tmp_path / "tokenizer.bin").read_bytes() == kept


def test_a_byte_level_model_is_no_llama2c_model(tmp_path: Path, tiny_model: Callable[..., Path]) -> None:
    tiny = tiny_model(tmp_path / "tiny", ["the llama 羊驼走过高原 " * 9], 300, max_position_embeddings=96)
    with pytest.raises(PunaError, match="SentencePiece"):
        convert(tiny, tmp_path / "x.bin")
    report = convert(tiny, tmp_path / "x.gguf", to="f32")
    assert report["passed"] and report["parity"]["tokens_identical"]


def test_an_adapter_is_merged(stories: Path, tmp_path: Path) -> None:
    files = pytest.importorskip("puna.model.adapter_files")
    adapters = pytest.importorskip("puna.model.adapters")
    model = load_model(stories)
    adapter = adapters.Adapter(kind="lora", rank=4, alpha=8.0, targets=("q_proj", "v_proj"))
    adapters.attach(model, adapter, seed=1)
    with torch.no_grad():
        for tensor in adapters.adapter_tensors(model).values():
            tensor.add_(0.05)
    files.save_adapter(model, adapter, tmp_path / "adapter", "stories260K")
    report = convert(stories, tmp_path / "merged", adapter=tmp_path / "adapter")
    ids = torch.arange(3, 40)[None]
    with torch.no_grad():
        merged = load_model(tmp_path / "merged")
        wanted, found, plain = (one.logits(one(ids)) for one in (model, merged, load_model(stories)))
    assert (found - wanted).abs().max() < 1e-3 < (found - plain).abs().max()
    assert report["passed"]


@pytest.mark.slow
def test_transformers_and_llama_cpp_read_what_was_written(stories: Path, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    for name, kind in (("hf", None), ("int8", "int8"), ("int4", "int4"), ("x.gguf", "f32"), ("y.gguf", "q8_0")):
        report = convert(stories, tmp_path / name, to=kind)
        assert report["passed"], report
        for reader in report["readers"]:
            if reader["took_part"]:
                assert reader["tokens_identical"] and reader["failures"] == []
                assert kind == "q8_0" or reader["greedy"]["identical"] == 8
