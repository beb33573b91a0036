"""Model folders that a stranger made to fool, to break out or to run code: one line that says what is wrong, nothing else."""

import json
import os
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from puna.errors import PunaError
from puna.files import write_json
from puna.model.config import ModelConfig
from puna.model.decoder import Decoder
from puna.model.formats import is_pickle, load_config, load_model, model_file, open_model, save_model
from puna.model.formats.safetensors_header import listed, read_header, shown


@pytest.fixture
def folder(tiny: Decoder, tmp_path: Path) -> Path:
    save_model(tiny, tiny.config, tmp_path / "model")
    return tmp_path / "model"


def _edit(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values), encoding="utf-8")


@pytest.mark.parametrize(("names", "line"), [
    (["b", "a"], "a, b"),
    ([f"model.layers.{n}.mlp.up_proj.weight" for n in range(32)], "model.layers.0-31.mlp.up_proj.weight"),
    (["m.3.x", "m.7.x", "m.4.x", "m.9.x.1.y", "m.5"], "m.3-4,7.x, m.9.x.1.y, m.5"),
    (["坏\x1b[31m\n"], "坏?[31m?"),
])  # fmt: skip
def test_names_are_listed_on_one_line(names: list[str], line: str) -> None:
    assert listed(names) == line


def test_a_list_of_names_without_end_is_cut_and_counted() -> None:
    assert listed(f"name{index}" for index in range(5000)).endswith(" and 4,600 more kinds of names")
    assert len(shown("x" * 10**6)) == 120


def test_all_missing_and_all_extra_tensors_are_listed(folder: Path, tiny: Decoder) -> None:
    state = {name.replace("mlp.up_proj", "mlp.w3"): value for name, value in tiny.state_dict().items()}
    save_file(state, folder / "model.safetensors")
    with pytest.raises(PunaError) as caught:
        open_model(folder)
    assert "2 tensors missing: model.layers.0-1.mlp.up_proj.weight; 2 tensors do not belong" in caught.value.line()
    assert caught.value.line().endswith("model.layers.0-1.mlp.w3.weight")


def test_all_tensors_of_another_shape_are_listed(folder: Path) -> None:
    _edit(folder, intermediate_size=64)
    with pytest.raises(PunaError) as caught:
        open_model(folder)
    for text in ("mlp.gate_proj", "model.layers.0-1.mlp.up_proj.weight has shape [48, 32], the config says [64, 32]",
                 "model.layers.0-1.mlp.down_proj.weight has shape [32, 48]"):  # fmt: skip
        assert text in caught.value.line()


@pytest.mark.parametrize("name", [
    "MixtralForCausalLM", "Llama4ForConditionalGeneration", "Gemma2ForCausalLM", "SmolLM3ForCausalLM", "Qwen3MoeForCausalLM",
    "PhiForCausalLM", "DeepseekV3ForCausalLM", "LlamaForSequenceClassification",
])  # fmt: skip
def test_an_architecture_not_on_the_list_gets_the_list(name: str, folder: Path) -> None:
    _edit(folder, architectures=[name])
    with pytest.raises(PunaError) as caught:
        load_config(folder)
    for known in (
        name,
        "LlamaForCausalLM",
        "MistralForCausalLM",
        "Qwen2ForCausalLM",
        "Qwen3ForCausalLM",
        "YiForCausalLM",
    ):
        assert known in caught.value.line()


@pytest.mark.parametrize(("change", "message"), [
    ({"model_type": "mixtral"}, "do not belong together"), ({"auto_map": {"AutoModel": "evil.Model"}}, "never run"),
    ({"use_mrope": True}, "use_mrope"), ({"sliding_window": 8, "use_sliding_window": True}, "use_sliding_window"),
    ({"hidden_size": 2**17}, "hidden_size"), ({"vocab_size": 1}, "vocab_size"), ({"rms_norm_eps": 0}, "rms_norm_eps"),
    ({"num_hidden_layers": 1001}, "num_hidden_layers"), ({"max_position_embeddings": 2**30}, "max_position_embeddings"),
    ({"rope_theta": float("nan")}, "rope_theta"), ({"attention_bias": True}, "attention_bias"), ({"no_rope_layers": [1]}, "no_rope"),
    ({"quantization_config": {"quant_method": "gptq"}}, "quantization_config"),
])  # fmt: skip
def test_a_field_out_of_bounds_is_named(change: dict[str, Any], message: str, folder: Path) -> None:
    _edit(folder, **change)
    with pytest.raises(PunaError, match=message):
        load_config(folder)


def test_a_key_that_stands_twice_is_refused(folder: Path) -> None:
    path = folder / "config.json"
    path.write_text(path.read_text().replace("{", '{"hidden_size": 64,', 1))
    with pytest.raises(PunaError, match="twice"):
        load_config(folder)


def test_a_header_that_claims_a_terabyte_takes_no_memory(tmp_path: Path) -> None:
    for text in (struct.pack("<Q", 2**40) + b"{}", struct.pack("<Q", 2**26)):
        (tmp_path / "x.safetensors").write_bytes(text)
        with pytest.raises(PunaError, match="claims"):
            read_header(tmp_path / "x.safetensors")
    with open(tmp_path / "x.safetensors", "wb") as stream:  # a sparse file, as large as its header says
        stream.write(struct.pack("<Q", 2**26))
        stream.truncate(2**27)
    with pytest.raises(PunaError, match="claims a header of"):
        read_header(tmp_path / "x.safetensors")


def test_a_nan_is_refused_with_the_tensors_name(folder: Path, tiny: Decoder) -> None:
    state = {name: tensor.clone().to(torch.bfloat16) for name, tensor in tiny.state_dict().items()}
    state["model.layers.1.mlp.down_proj.weight"][5, 7] = float("nan")
    save_file(state, folder / "model.safetensors")
    weights = open_model(folder)
    weights.read("model.norm.weight")
    with pytest.raises(PunaError, match=r"model\.layers\.1\.mlp\.down_proj\.weight holds values that are not finite"):
        weights.decoder()


def test_a_file_that_shrinks_while_it_is_read_is_an_error_and_no_crash(folder: Path) -> None:
    weights = open_model(folder)
    os.truncate(folder / "model.safetensors", 4096)
    with pytest.raises(PunaError, match="ends early"):
        weights.decoder()


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "model.safetensors.index.json", "a.safetensors"])
def test_links_out_of_the_folder_devices_and_pipes_are_refused(name: str, folder: Path, tmp_path: Path) -> None:
    if name in ("model.safetensors.index.json", "a.safetensors"):
        (folder / "model.safetensors").rename(folder / "a.safetensors")
        names = list(load_file(folder / "a.safetensors"))
        write_json(folder / "model.safetensors.index.json", {"weight_map": dict.fromkeys(names, "a.safetensors")})
        load_model(folder)
    (folder / name).rename(folder / "kept")
    (folder / name).symlink_to("kept")  # a link inside is no harm
    load_model(folder)
    (folder / name).unlink()
    (folder / "kept").rename(tmp_path / "outside")
    for target in ("../outside", str(tmp_path / "outside")):
        (folder / name).symlink_to(target)
        with pytest.raises(PunaError, match="leaves its folder"):
            load_model(folder)
        (folder / name).unlink()
    for target, message in (("nowhere", "link to nothing"), (name, "cannot be read"), ("/dev/zero", "ordinary file")):
        (folder / name).symlink_to(target)
        with pytest.raises(PunaError, match=message):
            load_model(folder)
        (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(PunaError, match="ordinary file"):
        load_model(folder)


def test_the_hubs_cache_is_read_through_its_links(folder: Path, tmp_path: Path) -> None:
    cache = tmp_path / "models--org--name"
    snapshot = cache / "snapshots" / "0123abcd"
    snapshot.mkdir(parents=True)
    (cache / "blobs").mkdir()
    for name in ("config.json", "model.safetensors"):
        (folder / name).rename(cache / "blobs" / f"digest-{name}")
        (snapshot / name).symlink_to(f"../../blobs/digest-{name}")
    load_model(snapshot)
    (cache / "blobs/digest-config.json").rename(tmp_path / "config.json")
    (snapshot / "config.json").unlink()
    (snapshot / "config.json").symlink_to("../../../config.json")
    with pytest.raises(PunaError, match="leaves its folder"):
        load_model(snapshot)


@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "pytorch_model-00001-of-00002.bin", "consolidated.00.pth", "last.ckpt", "a.pt"]
)
def test_pickles_are_refused_with_the_way_out_and_never_opened(name: str, folder: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return os._exit, (3,)

    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(pickle.dumps(Evil(), protocol=4))
    (folder / "pytorch_model.bin.index.json").write_text("{}")
    for path in (folder, folder / name):
        with pytest.raises(PunaError, match=r"pickle.*save_pretrained"):
            open_model(path)


def test_a_bin_file_is_told_from_a_pickle_by_its_first_bytes(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data.pkl", b"")
    assert is_pickle(path)
    for protocol in (2, 3, 4, 5):
        path.write_bytes(pickle.dumps({"a": 1}, protocol=protocol))
        assert is_pickle(path)
    for width in (64, 128, 288, 640, 768, 896, 1152, 1408, 4096):  # how llama2.c's older files begin
        path.write_bytes(struct.pack("<7i", width, 1, 1, 1, 1, 1, 1))
        assert not is_pickle(path)
    path.write_bytes(b"ak42"[::-1])
    assert not is_pickle(path)


def test_a_path_is_told_by_what_it_holds(folder: Path, tmp_path: Path) -> None:
    assert model_file(folder) is None
    other = tmp_path / "other"
    other.mkdir()
    (other / "tok512.bin").write_bytes(bytes(8))
    assert model_file(other) is None
    (other / "stories.bin").write_bytes(bytes(8))
    assert model_file(other) == other / "stories.bin"
    (other / "model.gguf").write_bytes(b"GGUF")
    (other / "config.json").write_text("{}")
    assert model_file(other) == other / "model.gguf"
    (other / "second.gguf").write_bytes(b"GGUF")
    with pytest.raises(PunaError, match=r"2 \.gguf files: model\.gguf, second\.gguf"):
        open_model(other)
    for path, message in ((folder / "model.safetensors", "name the folder"), (folder / "config.json", "is no model"),
                          (tmp_path / "nowhere", "does not exist")):  # fmt: skip
        with pytest.raises(PunaError, match=message):
            open_model(path)


def test_where_a_config_leaves_fields_out_transformers_defaults_hold(fields: dict[str, Any]) -> None:
    transformers = pytest.importorskip("transformers")
    few = {
        key: value
        for key, value in fields.items()
        if key not in ("num_key_value_heads", "head_dim", "max_position_embeddings")
    }
    for family in ("Llama", "Mistral"):
        few |= {"num_attention_heads": 8}
        theirs = getattr(transformers, f"{family}Config")(**few)
        ours = ModelConfig.from_hf({"architectures": [f"{family}ForCausalLM"], **few})
        for key in (
            "num_key_value_heads",
            "head_dim",
            "max_position_embeddings",
            "rms_norm_eps",
            "bos_token_id",
            "eos_token_id",
        ):
            assert getattr(ours, key) == getattr(theirs, key), key
        assert ours.sliding_window == getattr(theirs, "sliding_window", None)
