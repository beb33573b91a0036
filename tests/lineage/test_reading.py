"""Checkpoints read for what they are: other names, fused and missing parts, hostile files."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from puna.errors import PunaError
from puna.lineage.weights.identity import find_identities
from puna.lineage.weights.reading import Checkpoint, Role, open_checkpoint, role_of, unsound
from puna.lineage.zoo import changes
from puna.lineage.zoo.changes import Changed
from puna.lineage.zoo.training import CONFIG, State
from puna.model.decoder import Decoder

Make = Callable[..., Checkpoint]


@pytest.fixture(scope="module")
def state() -> State:
    model = Decoder(CONFIG)
    model.init_weights(1)
    return {name: tensor.detach() for name, tensor in model.state_dict().items()}


def write(folder: Path, state: State, config: dict[str, object] | None = None) -> Path:
    folder.mkdir(parents=True)
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(CONFIG.to_hf() if config is None else config))
    return folder


def alike(found: Checkpoint, state: State, **renamed: str) -> None:
    """Every matrix of every block reads as in `state`."""
    for layer in range(CONFIG.num_hidden_layers):
        for kind in ("q", "k", "v", "o"):
            assert torch.equal(found.read(kind, layer), state[f"model.layers.{layer}.self_attn.{kind}_proj.weight"]), (
                kind,
                layer,
            )
        for kind in ("gate", "up", "down"):
            assert torch.equal(found.read(kind, layer), state[f"model.layers.{layer}.mlp.{kind}_proj.weight"]), (
                kind,
                layer,
            )
    assert torch.equal(found.read("embed"), state["model.embed_tokens.weight"])
    assert torch.equal(found.read("head"), state["lm_head.weight"])


@pytest.mark.parametrize(
    "name, role",
    [
        ("model.layers.3.self_attn.q_proj.weight", Role("q", 3)),
        ("model.layers.3.ln1.weight", Role("attn_norm", 3)),
        ("layers.10.attention.wo.weight", Role("o", 10)),
        ("layers.10.feed_forward.w2.weight", Role("down", 10)),
        ("tok_embeddings.weight", Role("embed")),
        ("output.weight", Role("head")),
        ("blk.0.ffn_gate.weight", Role("gate", 0)),
        ("blk.0.attn_output.weight", Role("o", 0)),
        ("output_norm.weight", Role("norm")),
        ("model.layers.1.block_sparse_moe.experts.7.w3.weight", Role("up", 1, 7)),
        ("model.layers.1.block_sparse_moe.gate.weight", Role("router", 1)),
        ("model.layers.2.self_attn.k_proj.bias", Role("k_bias", 2)),
        ("model.layers.2.embed_tokens.weight", None),  # an embedding has no layer
        ("q_proj.weight", None),
        ("body.cell.0.lens.door.weight", None),
        ("model.layers.99999999.self_attn.q_proj.weight", None),
    ],
)
def test_roles_by_name(name: str, role: Role | None) -> None:
    assert role_of(name) == role


def test_mixtrals_names(state: State, tmp_path: Path) -> None:
    made = changes.upcycled(state, 4, 1)
    found = open_checkpoint(write(tmp_path / "moe", made.state, CONFIG.to_hf() | made.hf))
    assert (found.sizes.experts, found.sizes.ffn, found.sizes.layers, found.unknown) == (
        4,
        CONFIG.intermediate_size,
        4,
        (),
    )
    assert found.has("router", 3) and found.has("down", 3, 3) and not found.has("down", 3)
    assert torch.equal(found.read("up", 2, 1), made.state["model.layers.2.block_sparse_moe.experts.1.w3.weight"])


def test_metas_names_without_a_word_in_the_config(state: State, tmp_path: Path) -> None:
    words = {"self_attn.q_proj": "attention.wq", "self_attn.k_proj": "attention.wk", "self_attn.v_proj": "attention.wv",
             "self_attn.o_proj": "attention.wo", "mlp.gate_proj": "feed_forward.w1", "mlp.up_proj": "feed_forward.w3",
             "mlp.down_proj": "feed_forward.w2", "input_layernorm": "attention_norm", "post_attention_layernorm": "ffn_norm",
             "model.embed_tokens": "tok_embeddings", "lm_head": "output", "model.": ""}  # fmt: skip
    meta = {}
    for name, tensor in state.items():
        for old, new in words.items():
            name = name.replace(old, new)
        meta[name] = tensor
    assert "layers.0.attention.wq.weight" in meta and "norm.weight" in meta
    found = open_checkpoint(write(tmp_path / "meta", meta, {"num_attention_heads": 4, "num_key_value_heads": 2}))
    alike(found, state)
    sizes = found.sizes
    assert (sizes.layers, sizes.hidden, sizes.ffn, sizes.head_dim, sizes.vocab, sizes.tied) == (
        4,
        64,
        176,
        16,
        512,
        False,
    )
    assert found.unknown == ()


@pytest.mark.parametrize("word", ["qkv_proj", "W_pack", "query_key_value"])
def test_fused_projections_are_taken_apart(state: State, checkpoint_of: Make, word: str) -> None:
    fused = dict(state)
    for layer in range(4):
        attn, mlp = f"model.layers.{layer}.self_attn.", f"model.layers.{layer}.mlp."
        fused[f"{attn}{word}.weight"] = torch.cat([fused.pop(f"{attn}{kind}_proj.weight") for kind in "qkv"])
        fused[f"{mlp}gate_up_proj.weight"] = torch.cat(
            [fused.pop(f"{mlp}{kind}_proj.weight") for kind in ("gate", "up")]
        )
    found = checkpoint_of(fused, CONFIG.to_hf())
    alike(found, state)
    assert found.unknown == () and not found.missing
    short = fused | {f"model.layers.0.self_attn.{word}.weight": torch.zeros(100, 64)}  # rows that do not add up
    assert not checkpoint_of(short, CONFIG.to_hf()).has("q", 0)


def test_unknown_names_are_read_by_the_reference(state: State, tmp_path: Path) -> None:
    like = open_checkpoint(write(tmp_path / "plain", state))
    hidden = write(tmp_path / "hidden", changes.renamed(state))
    blind = open_checkpoint(hidden)
    assert len(blind.unknown) == len(state) and not blind.has("gate", 0)
    found = open_checkpoint(hidden, like)
    assert found.unknown == ()
    alike(found, state)
    assert found.sizes == like.sizes


def test_unknown_names_of_a_stranger_are_read_by_the_reference(state: State, tmp_path: Path) -> None:
    """Nothing but shapes, counts, words and places tells here: what it gives must have the right shapes."""
    other = Decoder(CONFIG)
    other.init_weights(2)
    strange = changes.renamed({name: tensor.detach() for name, tensor in other.state_dict().items()})
    like = open_checkpoint(write(tmp_path / "plain", state))
    found = open_checkpoint(write(tmp_path / "strange", strange), like)
    assert found.sizes == like.sizes
    for role in like.roles:
        assert found.read(*role).shape == like.read(*role).shape, role


def test_transposed_matrices_are_turned_where_the_shape_tells(state: State, checkpoint_of: Make) -> None:
    found = checkpoint_of(changes.transposed(state), CONFIG.to_hf())
    for layer in range(4):
        for kind, place in (("gate", "mlp"), ("up", "mlp"), ("down", "mlp"), ("k", "self_attn"), ("v", "self_attn")):
            assert torch.equal(found.read(kind, layer), state[f"model.layers.{layer}.{place}.{kind}_proj.weight"])
    assert found.sizes.ffn == CONFIG.intermediate_size


def test_a_tied_head_is_the_embedding(state: State, tmp_path: Path) -> None:
    loose = open_checkpoint(write(tmp_path / "loose", state))
    tied = {name: tensor for name, tensor in state.items() if name != "lm_head.weight"}
    bound = open_checkpoint(write(tmp_path / "tied", tied, CONFIG.to_hf() | {"tie_word_embeddings": True}))
    unsaid = open_checkpoint(write(tmp_path / "unsaid", tied))
    assert (loose.sizes.tied, bound.sizes.tied, unsaid.sizes.tied) == (False, True, True)
    assert torch.equal(bound.read("head"), state["model.embed_tokens.weight"]) and not bound.has("head")
    assert not torch.equal(loose.read("head"), loose.read("embed"))


def shards(folder: Path, state: State, kept: int, of: int = 3) -> Path:
    """A model of `of` shards, the first `kept` of which are there."""
    folder.mkdir()
    names = list(state)
    parts = [names[number::of] for number in range(of)]
    files = [f"model-{number + 1:05}-of-{of:05}.safetensors" for number in range(of)]
    index = {name: file for part, file in zip(parts, files, strict=True) for name in part}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    (folder / "config.json").write_text(json.dumps(CONFIG.to_hf()))
    for part, file in list(zip(parts, files, strict=True))[:kept]:
        save_file({name: state[name].contiguous() for name in part}, folder / file)
    return folder


@pytest.mark.parametrize("kept", [0, 1, 2, 3])
def test_missing_shards_are_told(state: State, tmp_path: Path, kept: int) -> None:
    found = open_checkpoint(shards(tmp_path / "m", state, kept))
    assert len(found.missing) == 3 - kept
    assert all("is not there" in line and "tensors" in line for line in found.missing)
    assert len(found.stored) == len(list(state)) - sum(len(list(state)[number::3]) for number in range(kept, 3))
    if kept == 0:  # the header of a 70B without its shards: the config alone speaks
        assert (found.sizes.layers, found.sizes.hidden, found.sizes.vocab) == (4, 64, 512)
        with pytest.raises(PunaError, match="has no embed tensor"):
            found.read("embed")
    if kept == 3:
        alike(found, state)


def test_many_missing_shards_are_few_lines(state: State, tmp_path: Path) -> None:
    found = open_checkpoint(shards(tmp_path / "m", state, 0, of=30))
    assert len(found.missing) == 9 and found.missing[-1] == "and 22 more files"


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.99])
def test_a_truncated_file_is_one_line(state: State, tmp_path: Path, share: float) -> None:
    folder = write(tmp_path / "cut", state)
    file = folder / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(PunaError) as caught:
        open_checkpoint(folder)
    assert "\n" not in caught.value.line() and "model.safetensors" in caught.value.line()


@pytest.mark.parametrize(
    "index",
    ["", "[]", '{"weight_map": []}', '{"weight_map": {}}', '{"weight_map": {"a": "../x.safetensors"}}', '{"weight_map": {"a": 1}}',
     '{"weight_map": {"a": "/etc/passwd"}}', '{"weight_map": {"a": "x.bin"}}', '{"weight_map": {"a": "x\\u0000.safetensors"}}', "{" * 5000],
)  # fmt: skip
def test_a_hostile_index_is_one_line(tmp_path: Path, index: str) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(PunaError) as caught:
        open_checkpoint(tmp_path)
    assert "\n" not in caught.value.line()


@pytest.mark.parametrize(
    "config",
    [{}, {"num_attention_heads": 0}, {"num_attention_heads": -4}, {"num_attention_heads": "4"}, {"num_attention_heads": True},
     {"head_dim": 2**80}, {"hidden_size": [64]}, {"num_hidden_layers": 10**9}, {"tie_word_embeddings": "yes"}],
)  # fmt: skip
def test_a_config_that_says_little_or_nonsense_is_read(
    state: State, checkpoint_of: Make, config: dict[str, object]
) -> None:
    found = checkpoint_of(state, config)
    assert (found.sizes.layers, found.sizes.ffn, found.sizes.vocab, found.sizes.hidden) == (4, 176, 512, 64)
    assert checkpoint_of({}, config).sizes.layers <= 10_000


def test_five_thousand_layers_are_opened_quickly(tmp_path: Path) -> None:
    one = torch.ones(2, 2)
    state: State = {"model.embed_tokens.weight": one}
    for layer in range(5000):
        for kind in ("q", "k", "v", "o"):
            state[f"model.layers.{layer}.self_attn.{kind}_proj.weight"] = one.clone()
        for kind in ("gate", "up", "down"):
            state[f"model.layers.{layer}.mlp.{kind}_proj.weight"] = one.clone()
    folder = write(tmp_path / "deep", state, {"num_attention_heads": 1, "hidden_size": 2})
    began = time.process_time()
    found = open_checkpoint(folder)
    assert found.sizes.layers == 5000 and found.has("down", 4999)
    assert time.process_time() - began < 10


@pytest.mark.parametrize(
    "tensor, why",
    [
        (torch.tensor([1.0, float("nan")]), "NaN"), (torch.tensor([1.0, float("-inf")]), "infinity"), (torch.zeros(4, 4), "all zeros"),
        (torch.zeros(0, 4), "empty"), (torch.tensor([0.0, 1e-30]), ""), (torch.full((3,), 2.0), ""), (torch.ones(3, dtype=torch.bfloat16), ""),
    ],
)  # fmt: skip
def test_what_is_no_evidence(tensor: torch.Tensor, why: str) -> None:
    assert (why in unsound(tensor)) if why else unsound(tensor) == ""


def test_a_missing_role_names_the_model_and_the_layer(state: State, tmp_path: Path) -> None:
    less = {name: tensor for name, tensor in state.items() if "layers.2.mlp.up" not in name}
    found = open_checkpoint(write(tmp_path / "less", less))
    with pytest.raises(PunaError, match="has no up tensor in layer 2") as caught:
        found.read("up", 2)
    assert str(tmp_path / "less") in caught.value.line()


def test_bf16_and_a_quantised_folder_are_read_in_fp32(state: State, tmp_path: Path) -> None:
    found = open_checkpoint(write(tmp_path / "bf16", changes.rounded(state)))
    assert found.read("up", 0).dtype == torch.float32
    assert found.stored["lm_head.weight"].dtype == "BF16"


def test_changed_is_read_back_under_its_own_config(state: State, tmp_path: Path) -> None:
    grown: Changed = changes.grown(state, "duplicate")
    found = open_checkpoint(write(tmp_path / "grown", grown.state, grown.config.to_hf()))
    assert found.sizes.layers == 6 and torch.equal(found.read("up", 3), state["model.layers.1.mlp.up_proj.weight"])


def test_rows_are_read_without_the_rest(state: State, tmp_path: Path) -> None:
    folder = write(tmp_path / "m", state)
    found = open_checkpoint(folder)
    for name, stored in found.stored.items():
        rows = len(state[name])
        for begin, end in ((0, rows), (3, 7), (rows - 1, rows), (5, 5)):
            assert torch.equal(stored.read_rows(begin, end), state[name][begin:end]), name
    with pytest.raises(ValueError, match="rows 0 to 513"):
        found.stored["model.embed_tokens.weight"].read_rows(0, 513)
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-64])  # cut after it was opened
    last = list(found.stored.values())[-1]  # in the order of their bytes
    with pytest.raises(PunaError, match="ends early"):
        last.read()
    with pytest.raises(PunaError, match="ends early"):
        last.read_rows(last.shape[0] - 1, last.shape[0])


def test_tensors_that_the_index_names_in_vain_are_told(state: State, tmp_path: Path) -> None:
    folder = shards(tmp_path / "m", state, 3)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    index["weight_map"]["model.layers.9.mlp.up_proj.weight"] = "model-00002-of-00003.safetensors"
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    found = open_checkpoint(folder)
    assert len(found.missing) == 1 and "model.layers.9.mlp.up_proj.weight" in found.missing[0]
    alike(found, state)


def test_numbers_of_the_config_that_the_tensors_contradict_are_told(state: State, tmp_path: Path) -> None:
    wrong = CONFIG.to_hf() | {"num_hidden_layers": 80, "hidden_size": 8192, "vocab_size": 512}
    found = open_checkpoint(write(tmp_path / "m", state, wrong))
    assert found.missing == (
        "config.json says num_hidden_layers 80, the tensors show 4", "config.json says hidden_size 8192, the tensors show 64",
    )  # fmt: skip
    assert (found.sizes.layers, found.sizes.hidden) == (4, 64)
    assert open_checkpoint(write(tmp_path / "right", state)).missing == ()


def test_an_embedding_that_lies_on_its_side(state: State, checkpoint_of: Make) -> None:
    turned = state | {"model.embed_tokens.weight": state["model.embed_tokens.weight"].T.contiguous()}
    found = checkpoint_of(turned, CONFIG.to_hf())
    assert (found.sizes.vocab, found.sizes.hidden) == (512, 64)
    assert torch.equal(found.read("embed"), state["model.embed_tokens.weight"])


@pytest.mark.parametrize("layer", [10_000, 999_999])
def test_one_name_of_a_millionth_layer_makes_no_million_layers(state: State, checkpoint_of: Make, layer: int) -> None:
    far = f"model.layers.{layer}.mlp.up_proj.weight"
    found = checkpoint_of(state | {far: torch.ones(2, 2)})
    assert found.sizes.layers == 4 and found.unknown == (far,)


@pytest.mark.parametrize("blocks", [(), (1,), (176, 1), (2, 1), (1, 64)])
def test_eight_bit_floats_are_multiplied_with_their_scales(
    state: State, tmp_path: Path, blocks: tuple[int, ...]
) -> None:
    name, like = "model.layers.1.mlp.up_proj.weight", torch.float8_e4m3fn
    scale = 0.5 + torch.rand(blocks, generator=torch.Generator().manual_seed(1))
    packed = (100 * state[name]).to(like)
    stored = state | {name: packed, f"{name}_scale_inv": scale}
    config = CONFIG.to_hf() | {"quantization_config": {"quant_method": "fp8"}}
    found = open_checkpoint(write(tmp_path / "m", stored, config))
    each = {2: 128, 1: 176}.get(scale.shape[0], 1) if scale.ndim == 2 else 1
    wide = scale.repeat_interleave(each, 0)[:176] if scale.ndim == 2 else scale
    assert torch.allclose(found.read("up", 1), packed.float() * wide)
    assert found.stored[name].dtype == "F8_E4M3" and any("quantised (fp8)" in line for line in found.missing)
    assert torch.equal(found.stored[name].read_rows(2, 5), found.read("up", 1)[2:5])


def test_tables_of_whole_numbers_are_no_hindrance(state: State, tmp_path: Path) -> None:
    extra = {
        "position_ids": torch.arange(64),
        "model.layers.0.mlp.qweight": torch.zeros(4, 4, dtype=torch.int32),
        "seen": torch.tensor(True),
    }
    found = open_checkpoint(write(tmp_path / "m", state | extra))
    alike(found, state)
    assert set(found.unknown) == set(extra)
    assert find_identities(found, found).keys() <= set(state)
