"""Model folders of strangers: whatever is cut, flipped, claimed or missing gives one PunaError and nothing else."""

import json
import shutil
import struct
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from puna.errors import PunaError
from puna.files import file_sha256, write_json
from puna.model.config import ModelConfig
from puna.model.decoder import Decoder
from puna.model.formats import load_config, load_model, save_model
from puna.model.formats.safetensors_header import read_header


@pytest.fixture
def folder(tiny: Decoder, tmp_path: Path) -> Path:
    save_model(tiny, tiny.config, tmp_path)
    return tmp_path


def _edit_header(path: Path, change: Any) -> None:
    """Rewrite the header through `change(header)`, the tensors' bytes as they are."""
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    text = json.dumps(change(header) or header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])


def _edit_config(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values), encoding="utf-8")


def test_a_saved_model_is_the_same_bytes_and_the_same_model(folder: Path, tiny: Decoder, tmp_path: Path) -> None:
    again = load_model(folder)
    assert again.config == tiny.config
    assert all(torch.equal(tiny.state_dict()[name], value) for name, value in again.state_dict().items())
    assert all(parameter.requires_grad for parameter in again.parameters())
    save_model(again.state_dict(), again.config, tmp_path / "again")
    for name in ("config.json", "model.safetensors"):
        assert (folder / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_the_safetensors_library_reads_what_we_write(folder: Path, tiny: Decoder) -> None:
    state = load_file(folder / "model.safetensors")
    assert set(state) == set(tiny.state_dict())
    assert all(torch.equal(state[name], value) for name, value in tiny.state_dict().items())


def test_half_precision_is_kept_on_disk(folder: Path, tiny: Decoder, tmp_path: Path) -> None:
    half = {name: value.to(torch.bfloat16) for name, value in tiny.state_dict().items()}
    save_model(half, tiny.config, tmp_path / "half")
    assert load_model(tmp_path / "half", dtype=torch.bfloat16).head_weight().dtype == torch.bfloat16
    assert json.loads((tmp_path / "half/config.json").read_text())["dtype"] == "bfloat16"


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_truncated_file_is_refused(folder: Path, share: float) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    cut = folder / "cut.safetensors"
    cut.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(PunaError, match="truncated"):
        read_header(cut)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_flipped_bit_is_refused(folder: Path, data: st.DataObject) -> None:
    path = folder / "model.safetensors"
    good = path.read_bytes()
    header = 8 + struct.unpack("<Q", good[:8])[0]
    place = data.draw(st.one_of(st.integers(0, header - 1), st.integers(header, len(good) - 1)))
    bad = bytearray(good)
    bad[place] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(bytes(bad))
    try:
        model = load_model(folder)
        # A bit of the padding's or metadata's spelling may change without changing a weight: nothing else may.
        assert place < header
        state = load_file(path)
        path.write_bytes(good)
        assert all(torch.equal(state[name], value) for name, value in load_model(folder).state_dict().items())
        assert model.config == load_config(folder)
    except PunaError:
        pass
    finally:
        path.write_bytes(good)


HOSTILE: dict[str, bytes] = {
    "empty": b"",
    "seven bytes": b"1234567",
    "huge length": struct.pack("<Q", 2**63) + b"{}",
    "length beyond the file": struct.pack("<Q", 1000) + b"{}",
    "not JSON": struct.pack("<Q", 4) + b"{{{{",
    "not UTF-8": struct.pack("<Q", 4) + b'"\xff"}',
    "a list": struct.pack("<Q", 2) + b"[]",
    "deep nesting": struct.pack("<Q", 200_000) + b"[" * 200_000,
    "a huge number": struct.pack("<Q", 9_010) + b'{"a": ' + b"9" * 9_000 + b"   }",
    "NaN": struct.pack("<Q", 10) + b'{"a": NaN}',
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused(name: str, folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(HOSTILE[name])
    with pytest.raises(PunaError) as caught:
        load_model(folder)
    assert str(folder) in caught.value.line()


NORM = "model.norm.weight"


@pytest.mark.parametrize("fields", [
    {"shape": [-32], "data_offsets": [0, 128]}, {"shape": [2**40, 2**40], "data_offsets": [0, 128]},
    {"shape": [32.0], "data_offsets": [0, 128]}, {"shape": [True] * 4, "data_offsets": [0, 128]},
    {"shape": [32], "data_offsets": [128, 0]}, {"shape": [32], "data_offsets": [2**62, 2**62 + 128]},
    {"shape": [32], "data_offsets": [-128, 0]}, {"shape": [32], "data_offsets": [0]}, {"shape": "32", "data_offsets": [0, 128]},
    {"dtype": "F64", "shape": [16], "data_offsets": [0, 128]}, {"dtype": ["F32"], "shape": [32], "data_offsets": [0, 128]},
    {"shape": [1] * 99, "data_offsets": [0, 4]}, {"shape": [32], "data_offsets": [0, 128], "more": 1},
])  # fmt: skip
def test_hostile_entries_are_refused(fields: dict[str, Any], folder: Path) -> None:
    _edit_header(folder / "model.safetensors", lambda header: header.update({NORM: {"dtype": "F32", **fields}}))
    with pytest.raises(PunaError, match=r"tensor|truncated"):
        load_model(folder)


def test_overlaps_gaps_and_leftovers_are_refused(folder: Path) -> None:
    path = folder / "model.safetensors"
    good = path.read_bytes()
    names = ["model.layers.0.input_layernorm.weight", "model.layers.1.input_layernorm.weight"]

    def same_bytes(header: dict[str, Any]) -> None:
        header[names[1]]["data_offsets"] = header[names[0]]["data_offsets"]

    _edit_header(path, same_bytes)
    with pytest.raises(PunaError, match="overlaps"):
        load_model(folder)
    path.write_bytes(good)
    _edit_header(path, lambda header: header.pop(names[0]) and None)
    with pytest.raises(PunaError, match="gap"):
        load_model(folder)
    path.write_bytes(good + b"hidden")
    with pytest.raises(PunaError, match="belong to no tensor"):
        load_model(folder)


def test_a_name_that_stands_twice_is_refused(folder: Path) -> None:
    text = (
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    )
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(4))
    with pytest.raises(PunaError, match="twice"):
        load_model(folder)


@given(st.binary(max_size=200))
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_give_a_header_or_a_puna_error(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "any.safetensors"
    for content in (data, struct.pack("<Q", len(data)) + data):
        path.write_bytes(content)
        with suppress(PunaError):
            read_header(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused_both_ways(value: float, tiny: Decoder, folder: Path) -> None:
    state = {name: tensor.clone() for name, tensor in tiny.state_dict().items()}
    state[NORM][3] = value
    with pytest.raises(PunaError, match=rf"{NORM}.*not finite"):
        save_model(state, tiny.config, folder / "out")
    save_file(state, folder / "model.safetensors")
    with pytest.raises(PunaError, match=rf"{NORM}.*not finite"):
        load_model(folder)


def test_names_and_shapes_must_be_the_configs(folder: Path, tiny: Decoder) -> None:
    state = dict(tiny.state_dict())
    norm = state.pop(NORM)
    save_file(state, folder / "model.safetensors")
    with pytest.raises(PunaError, match=f"missing: {NORM}"):
        load_model(folder)
    save_file(state | {NORM: norm, "extra.weight": norm.clone()}, folder / "model.safetensors")
    with pytest.raises(PunaError, match="do not belong"):
        load_model(folder)
    save_file(state | {NORM: torch.ones(31)}, folder / "model.safetensors")
    with pytest.raises(PunaError, match=r"shape \[31\], the config says \[32\]"):
        load_model(folder)


def test_old_rope_buffers_and_a_second_copy_of_a_tied_head_are_passed_over(folder: Path, tiny: Decoder) -> None:
    state = dict(tiny.state_dict()) | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}
    save_file(state, folder / "model.safetensors")
    load_model(folder)
    _edit_config(folder, tie_word_embeddings=True)
    with pytest.raises(PunaError, match="head is tied"):
        load_model(folder)
    save_file(state | {"lm_head.weight": state["model.embed_tokens.weight"].clone()}, folder / "model.safetensors")
    assert load_model(folder).lm_head is None


def test_the_base_model_in_a_release_is_checked_by_the_releases_manifest(folder: Path, tmp_path: Path) -> None:
    release = tmp_path / "release"
    shutil.copytree(folder, release / "base")
    names = ("config.json", "model.safetensors")
    lines = {
        f"base/{name}": {"bytes": (folder / name).stat().st_size, "sha256": file_sha256(folder / name)}
        for name in names
    }
    (release / "puna").mkdir()
    write_json(release / "puna" / "MANIFEST.json", {"files": lines})
    load_model(release / "base")
    config = (release / "base" / "config.json").read_text()
    (release / "base" / "config.json").write_text(config.replace("1e-05", "1e-06"))
    with pytest.raises(PunaError, match="altered or damaged"):
        load_model(release / "base")


@pytest.mark.parametrize("place", ["MANIFEST.json", "puna/MANIFEST.json"])
def test_a_manifest_is_believed_over_everything(place: str, folder: Path, tiny: Decoder) -> None:
    names = ("config.json", "model.safetensors")
    lines = {name: {"bytes": (folder / name).stat().st_size, "sha256": file_sha256(folder / name)} for name in names}
    (folder / place).parent.mkdir(exist_ok=True)
    write_json(folder / place, {"files": lines})
    load_model(folder)
    weights = (folder / "model.safetensors").read_bytes()
    save_file(dict(tiny.state_dict()), folder / "model.safetensors")  # the same weights, other bytes
    with pytest.raises(PunaError, match=r"model.safetensors.*manifest"):
        load_model(folder)
    (folder / "model.safetensors").write_bytes(weights)
    config = (folder / "config.json").read_text()
    (folder / "config.json").write_text(config.replace("1e-05", "1e-06"))
    with pytest.raises(PunaError, match="altered or damaged"):
        load_model(folder)
    (folder / "config.json").write_text(config)
    write_json(folder / place, {"files": {"config.json": lines["config.json"]}})
    with pytest.raises(PunaError, match="not listed"):
        load_model(folder)
    (folder / place).write_text('{"files": []}')
    with pytest.raises(PunaError, match="not a manifest"):
        load_model(folder)


@pytest.mark.parametrize("file", ["../model.safetensors", "/etc/passwd", "pytorch_model.bin", "missing.safetensors"])
def test_an_index_names_only_files_of_its_folder(file: str, folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "other.safetensors")
    write_json(folder / "model.safetensors.index.json", {"weight_map": {NORM: file}})
    with pytest.raises(PunaError, match=r"not a safetensors file of this folder|missing"):
        load_model(folder)
    write_json(folder / "model.safetensors.index.json", {"weight_map": {NORM: "other.safetensors"}})
    with pytest.raises(PunaError, match="disagree"):
        load_model(folder)
    write_json(folder / "model.safetensors.index.json", {"weight_map": 3})
    with pytest.raises(PunaError, match="not an index"):
        load_model(folder)


def test_a_folder_without_a_model_says_so(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(PunaError, match=r"does not exist"):
        load_model(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(PunaError, match=r"config\.json is missing"):
        load_model(tmp_path / "empty")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(PunaError, match="pickle"):
        load_model(folder)


@pytest.mark.parametrize(("change", "message"), [
    ({"architectures": ["GPT2LMHeadModel"]}, "GPT2LMHeadModel"), ({"architectures": ["a", "b"]}, "not supported"),
    ({"architectures": 3}, "not supported"), ({"hidden_act": "gelu"}, "hidden_act"), ({"hidden_size": "32"}, "hidden_size"),
    ({"hidden_size": -32}, "hidden_size"), ({"num_hidden_layers": 10**9}, "num_hidden_layers"), ({"vocab_size": None}, "vocab_size"),
    ({"num_key_value_heads": 3}, "cannot share"), ({"auto_map": {"AutoModel": "evil.Model"}}, "auto_map"),
    ({"quantization_config": {"bits": 4}}, "quantization_config"), ({"logit_softcapping": 30}, "logit_softcapping"),
    ({"attention_bias": True}, "attention_bias"), ({"mlp_bias": True}, "mlp_bias"), ({"rope_scaling": 3}, "rope_scaling"),
    ({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "rope"), ({"rope_theta": 5.0}, "stated twice"),
    ({"rope_scaling": {"rope_type": "linear", "factor": 2.0}}, "stated twice"), ({"eos_token_id": 96}, "outside"),
    ({"rope_scaling": {"rope_type": "llama3", "factor": 2.0}, "rope_parameters": None}, "low_freq_factor"),
    ({"rope_scaling": {"type": "linear", "factor": 0}, "rope_parameters": None}, "factor"),
    ({"layer_types": [["full_attention"]]}, "layer_types"), ({"head_dim": 7}, "head_dim"),
])  # fmt: skip
def test_configs_that_are_not_understood_are_refused(change: dict[str, Any], message: str, folder: Path) -> None:
    _edit_config(folder, **change)
    with pytest.raises(PunaError, match=message) as caught:
        load_config(folder)
    assert caught.value.where == str(folder / "config.json")


@given(st.dictionaries(st.sampled_from([*ModelConfig.model_fields, "rope_parameters", "layer_types", "hidden_act"]),
                       st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=True) | st.text(max_size=5),
                                    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
                                    max_leaves=4)))  # fmt: skip
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_config_is_read_or_refused(fields: dict[str, Any], values: dict[str, Any]) -> None:
    try:
        config = ModelConfig.from_hf({"architectures": ["LlamaForCausalLM"], **fields, **values})
    except PunaError:
        return
    assert ModelConfig.from_hf(config.to_hf()) == config
