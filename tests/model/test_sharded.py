"""Folders of several files: what Puna writes, what it leaves behind, and an index that lies."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from puna.errors import PunaError
from puna.files import write_json
from puna.model.config import ModelConfig
from puna.model.decoder import Decoder
from puna.model.formats import huggingface_write, load_model, open_model, save_model, write_huggingface
from puna.model.weights import Weights

INDEX = "model.safetensors.index.json"
LIMIT = 12_000


def _counted(model: Decoder, types: dict[str, str]) -> tuple[Weights, list[str]]:
    """Weights that write down every name they are asked for."""
    reads: list[str] = []
    state = model.state_dict()

    def read(name: str) -> Tensor:
        reads.append(name)
        return state[name].detach()

    return Weights(model.config, read, types), reads


def _bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def _same(folder: Path, model: Decoder) -> bool:
    again = load_model(folder)
    return all(torch.equal(again.state_dict()[name], value) for name, value in model.state_dict().items())


def test_each_tensor_is_read_once_in_the_decoders_order(tiny: Decoder, tmp_path: Path) -> None:
    weights, reads = _counted(tiny, dict.fromkeys(tiny.config.shapes, "F32"))
    write_huggingface(weights, tmp_path, shard_bytes=LIMIT)
    assert reads == weights.names
    assert _same(tmp_path, tiny)


def test_shards_are_filled_in_order_up_to_the_limit(tiny: Decoder, tmp_path: Path) -> None:
    write_huggingface(Weights.of(tiny), tmp_path, shard_bytes=LIMIT)
    index = json.loads((tmp_path / INDEX).read_text())
    files = sorted(set(index["weight_map"].values()))
    assert files == [f"model-{number:05}-of-{len(files):05}.safetensors" for number in range(1, len(files) + 1)]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*files, INDEX, "config.json"])
    assert list(dict.fromkeys(index["weight_map"][name] for name in tiny.config.shapes)) == files
    sizes = {file: sum(tensor.nbytes for tensor in load_file(tmp_path / file).values()) for file in files}
    assert sum(sizes.values()) == index["metadata"]["total_size"] == 4 * tiny.config.parameters
    largest = max(tensor.nbytes for tensor in tiny.state_dict().values())
    assert max(sizes.values()) <= max(LIMIT, largest) and len(files) > 3
    for file in files:
        with safe_open(tmp_path / file, framework="pt") as opened:
            assert opened.metadata()["format"] == "pt"
            assert all(index["weight_map"][name] == file for name in opened.keys())  # noqa: SIM118


def test_a_model_that_fits_one_file_is_one_file_and_all_is_the_same_again(tiny: Decoder, tmp_path: Path) -> None:
    for limit in (None, 10**9, LIMIT, 1):
        folders = [tmp_path / f"{limit}-{turn}" for turn in range(2)]
        for folder in folders:
            write_huggingface(Weights.of(tiny), folder, shard_bytes=limit)
        assert _bytes(folders[0]) == _bytes(folders[1])
        assert ((folders[0] / "model.safetensors").exists()) == (limit in (None, 10**9))
        write_huggingface(open_model(folders[0]), tmp_path / f"{limit}-again", shard_bytes=limit)
        assert _bytes(folders[0]) == _bytes(tmp_path / f"{limit}-again")


def test_nothing_of_an_older_model_stays(tiny: Decoder, make: Callable[..., Decoder], tmp_path: Path) -> None:
    other = make(num_hidden_layers=1)
    steps: list[tuple[Decoder, int | None]] = [
        (tiny, 6_000),
        (tiny, LIMIT),
        (other, None),
        (tiny, 3_000),
        (other, LIMIT),
    ]
    (tmp_path / "tokenizer.json").write_text("{}")
    for model, limit in steps:
        write_huggingface(Weights.of(model), tmp_path, shard_bytes=limit)
        fresh = tmp_path.parent / f"{tmp_path.name}-fresh-{limit}"
        write_huggingface(Weights.of(model), fresh, shard_bytes=limit)
        assert _bytes(tmp_path).keys() - {"tokenizer.json"} == _bytes(fresh).keys()
        assert _same(tmp_path, model)


def test_a_folder_can_be_written_over_itself(tiny: Decoder, tmp_path: Path) -> None:
    save_model(tiny, tiny.config, tmp_path)
    write_huggingface(open_model(tmp_path), tmp_path, shard_bytes=LIMIT)
    assert _same(tmp_path, tiny)


def test_a_writer_that_fails_leaves_the_old_model(tiny: Decoder, tmp_path: Path) -> None:
    save_model(tiny, tiny.config, tmp_path)
    before = _bytes(tmp_path)
    state = {name: tensor.clone() for name, tensor in tiny.state_dict().items()}
    state["model.norm.weight"][0] = float("nan")
    with pytest.raises(PunaError, match=r"model\.norm\.weight"):
        write_huggingface(Weights(tiny.config, state.__getitem__), tmp_path, shard_bytes=LIMIT)
    assert _bytes(tmp_path) == before


@pytest.mark.parametrize("stop", range(8))
def test_killed_at_any_rename_the_folder_is_one_model_or_none(
    stop: int, tiny: Decoder, make: Callable[..., Decoder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = make()  # the same config, other weights: a mixture would load
    write_huggingface(Weights.of(old), tmp_path, shard_bytes=LIMIT)
    real, count = os.replace, 0

    def replace(source: Path, target: Path) -> None:
        nonlocal count
        if Path(source).parent.parent == tmp_path and Path(target).parent == tmp_path:
            count += 1
            if count > stop:
                raise KeyboardInterrupt
        real(source, target)

    monkeypatch.setattr(huggingface_write.os, "replace", replace)
    try:
        write_huggingface(Weights.of(tiny), tmp_path, shard_bytes=LIMIT)
    except KeyboardInterrupt:
        with pytest.raises(PunaError):
            load_model(tmp_path)
    else:
        assert _same(tmp_path, tiny)


def test_mixed_types_stay_as_they_are_and_the_config_states_the_widest(tiny: Decoder, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    state = {
        name: value.to(torch.bfloat16) if value.ndim > 1 else value + 1e-4 for name, value in tiny.state_dict().items()
    }
    save_model(state, tiny.config, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "float32"
    weights = open_model(tmp_path)
    assert set(weights.types.values()) == {"F32", "BF16"}
    assert all(
        torch.equal(tensor, state[name]) and tensor.dtype == state[name].dtype for name, tensor in weights.items()
    )
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype="auto")
    assert all(torch.equal(tensor, state[name].float()) for name, tensor in theirs.state_dict().items())
    write_huggingface(weights, tmp_path / "half", dtype=torch.float16)
    assert set(open_model(tmp_path / "half").types.values()) == {"F16"}


def test_kinds_that_torch_has_no_type_for_are_written_as_what_they_read_as(tiny: Decoder, tmp_path: Path) -> None:
    write_huggingface(Weights(tiny.config, Weights.of(tiny).read, dict.fromkeys(tiny.config.shapes, "Q4_K")), tmp_path)
    assert set(open_model(tmp_path).types.values()) == {"F32"}
    wide = {name: tensor.double() for name, tensor in tiny.state_dict().items()}
    with pytest.raises(PunaError, match="float64"):
        save_model(wide, tiny.config, tmp_path / "wide")


def test_the_whole_model_is_never_in_memory(tmp_path: Path) -> None:
    """Sixteen layers are opened, read and written; no more than two tensors are alive at any time."""
    config = ModelConfig(vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=16, num_attention_heads=2,
                         num_key_value_heads=2, head_dim=16)  # fmt: skip
    alive, most = 0, 0

    class Watched:
        def __init__(self) -> None:
            nonlocal alive, most
            alive += 1
            most = max(most, alive)

        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    def read(name: str) -> Tensor:
        tensor = torch.ones(config.shapes[name])
        tensor.watched = Watched()  # type: ignore[attr-defined]
        return tensor

    write_huggingface(Weights(config, read, dict.fromkeys(config.shapes, "F32")), tmp_path, shard_bytes=LIMIT)
    assert most <= 2


@pytest.fixture
def sharded(tiny: Decoder, tmp_path: Path) -> Path:
    write_huggingface(Weights.of(tiny), tmp_path, shard_bytes=LIMIT)
    return tmp_path


def _edit_index(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    value = json.loads((folder / INDEX).read_text())
    change(value)
    write_json(folder / INDEX, value)


@pytest.mark.parametrize(("change", "message"), [
    (lambda index: index["metadata"].update(total_size=10**15), "total_size of 1,000,000,000,000,000"),
    (lambda index: index["metadata"].update(total_size="many"), "total_size"),
    (lambda index: index["metadata"].update(total_size=float("1e300")), "total_size"),
    (lambda index: index["weight_map"].update({"model.norm.weight": "./model-00001-of-00004.safetensors"}), "of this folder"),
    (lambda index: index["weight_map"].update({"model.norm.weight": "..\\evil.safetensors"}), "of this folder"),
    (lambda index: index["weight_map"].update({"model.norm.weight": "x" * 300 + ".safetensors"}), "cannot be read"),
    (lambda index: index["weight_map"].update({"model.norm.weight": "model-00001-of-00009.safetensors"}), "missing"),
    (lambda index: index["weight_map"].update({"ghost.weight": index["weight_map"]["model.norm.weight"]}), "not in it: ghost.weight"),
    (lambda index: index["weight_map"].pop("model.norm.weight"), r"not in the index: model\.norm\.weight"),
    (lambda index: index["weight_map"].update({"model.norm.weight": None}), "not an index"),
    (lambda index: index.update(weight_map={}), "not an index"),
])  # fmt: skip
def test_an_index_that_lies_is_refused(change: Callable[[dict[str, Any]], Any], message: str, sharded: Path) -> None:
    load_model(sharded)
    _edit_index(sharded, change)
    with pytest.raises(PunaError, match=message):
        load_model(sharded)


def test_an_index_may_say_nothing_of_the_size_or_count_less_than_there_is(sharded: Path, tiny: Decoder) -> None:
    _edit_index(sharded, lambda index: index.pop("metadata"))
    load_model(sharded)
    file = sharded / "model-00001-of-00001.safetensors"  # a LLaMA 1 checkpoint carries its tables of angles
    state = {**tiny.state_dict(), "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}
    save_file(state, file)
    for size in (4 * tiny.config.parameters, 4 * tiny.config.parameters + 16):
        write_json(sharded / INDEX, {"metadata": {"total_size": size}, "weight_map": dict.fromkeys(state, file.name)})
        load_model(sharded)


def test_a_name_that_stands_twice_in_the_index_or_in_two_files_is_refused(sharded: Path, tiny: Decoder) -> None:
    good = (sharded / INDEX).read_text()
    name = "model.norm.weight"
    file = json.loads(good)["weight_map"][name]
    (sharded / INDEX).write_text(good.replace(f'"{name}"', f'"{name}": "{file}",\n"{name}"'))
    with pytest.raises(PunaError, match="twice"):
        load_model(sharded)
    (sharded / INDEX).write_text(good)
    first = sharded / "model-00001-of-00004.safetensors"
    first = first if first.exists() else next(iter(sorted(sharded.glob("model-*.safetensors"))))
    save_file({**load_file(first), name: torch.ones(32)}, first)
    with pytest.raises(PunaError, match="not in the index"):
        load_model(sharded)


def test_both_of_a_layers_names_for_one_norm_are_refused(tmp_path: Path, tiny: Decoder) -> None:
    save_model(tiny, tiny.config, tmp_path)
    state = {**tiny.state_dict(), "model.layers.0.ln1.weight": torch.ones(32)}
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(PunaError, match=r"model\.layers\.0\.input_layernorm\.weight a second time"):
        load_model(tmp_path)


def test_damage_in_one_shard_names_the_tensor(sharded: Path, tiny: Decoder) -> None:
    path = sorted(sharded.glob("model-*.safetensors"))[-1]
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(PunaError, match=r"altered or damaged: lm_head\.weight"):
        load_model(sharded)
    assert torch.equal(open_model(sharded).read("model.norm.weight"), tiny.model.norm.weight)
