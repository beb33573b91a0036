"""The smallest map between two sets of names: Yi's two renames, and names that say nothing."""

import time
from collections.abc import Callable

import pytest
import torch

from puna.lineage.names import IN_ORDER, compare_names, numbered, roles_by
from puna.lineage.weights.reading import Checkpoint, role_of
from puna.lineage.zoo import changes
from puna.lineage.zoo.training import CONFIG, State
from puna.model.decoder import Decoder

Make = Callable[..., Checkpoint]
YI = {"input_layernorm": "ln1", "post_attention_layernorm": "ln2"}


def start(seed: int) -> State:
    model = Decoder(CONFIG)
    model.init_weights(seed)
    return {name: tensor.detach() for name, tensor in model.state_dict().items()}


@pytest.fixture(scope="module")
def state() -> State:
    return start(1)


def called(state: State, words: dict[str, str]) -> State:
    made = {}
    for name, tensor in state.items():
        for old, new in words.items():
            name = name.replace(old, new)
        made[name] = tensor
    return made


def test_a_pattern_and_its_numbers() -> None:
    assert numbered("model.layers.31.mlp.experts.7.w1.weight") == (
        "model.layers.{}.mlp.experts.{}.w1.weight",
        ["31", "7"],
    )
    assert numbered("h0.w1.weight") == ("h0.w1.weight", [])  # a number inside a word is a word


def test_yis_first_release_is_two_renames(state: State, checkpoint_of: Make) -> None:
    found = compare_names(checkpoint_of(called(state, YI), CONFIG.to_hf()), checkpoint_of(start(2), CONFIG.to_hf()))
    assert found.verdict == "same" and "2 renames" in found.sentence
    assert {(one.model, one.reference, one.tensors) for one in found.renames} == {
        ("model.layers.{}.ln1.weight", "model.layers.{}.input_layernorm.weight", 4),
        ("model.layers.{}.ln2.weight", "model.layers.{}.post_attention_layernorm.weight", 4),
    }
    assert found.only_model == found.only_reference == ()


def test_equal_names_need_no_map(state: State, checkpoint_of: Make) -> None:
    found = compare_names(checkpoint_of(state, CONFIG.to_hf()), checkpoint_of(start(2), CONFIG.to_hf()))
    assert found.verdict == "same" and found.renames == () and "called alike" in found.sentence


def test_one_rename_is_in_the_singular(state: State, checkpoint_of: Make) -> None:
    found = compare_names(checkpoint_of(called(state, {"lm_head": "output"})), checkpoint_of(state))
    assert "after 1 rename." in found.sentence and [one.reference for one in found.renames] == ["lm_head.weight"]


def test_names_that_say_nothing_are_mapped_by_shape_and_by_numbers(state: State, checkpoint_of: Make) -> None:
    found = compare_names(checkpoint_of(changes.renamed(state)), checkpoint_of(state))
    assert found.verdict == "same" and len(found.renames) == 12
    truth = dict(zip(changes.renamed(state), state, strict=True))
    for one in found.renames:
        assert truth[one.model.replace("{}", "2")] == one.reference.replace("{}", "2")


def test_names_that_say_nothing_of_a_disguised_copy(state: State, checkpoint_of: Make) -> None:
    """Renamed and with its hidden units in another order: the values still tell gate from up."""
    hidden = changes.renamed(changes.units_permuted(state, 1))
    renames = {one.model: one.reference for one in compare_names(checkpoint_of(hidden), checkpoint_of(state)).renames}
    assert renames["body.cell.{}.lens.door.weight"] == "model.layers.{}.mlp.gate_proj.weight"
    assert renames["body.cell.{}.lens.rise.weight"] == "model.layers.{}.mlp.up_proj.weight"
    assert renames["body.cell.{}.lens.fall.weight"] == "model.layers.{}.mlp.down_proj.weight"


def test_one_model_has_what_the_other_has_not(state: State, checkpoint_of: Make) -> None:
    more = state | {f"model.layers.{layer}.self_attn.q_norm.weight": torch.ones(16) for layer in range(4)}
    found = compare_names(checkpoint_of(more), checkpoint_of(state))
    assert found.verdict == "cannot tell" and found.only_model == ("model.layers.{}.self_attn.q_norm.weight",)
    back = compare_names(checkpoint_of(state), checkpoint_of(more))
    assert back.only_reference == found.only_model


def test_nothing_in_common_and_nothing_at_all(state: State, checkpoint_of: Make) -> None:
    conv = {f"features.{i}.conv.weight": torch.ones(3, 3, 3, 3) for i in range(20)}
    assert compare_names(checkpoint_of(conv), checkpoint_of(state)).verdict == "independent"
    found = compare_names(checkpoint_of({}), checkpoint_of(state))
    assert found.verdict != "same"


def test_thousands_of_odd_patterns_are_few_lines(checkpoint_of: Make) -> None:
    many = {f"part_{i}.weight": torch.ones(2) for i in range(300)}
    other = {f"piece_{i}.bias": torch.ones(2, 2) for i in range(300)}
    found = compare_names(checkpoint_of(many), checkpoint_of(other))
    assert found.verdict == "independent" and len(found.only_model) <= 200
    assert max(map(len, found.evidence)) < 1000


@pytest.mark.parametrize("form", ["t_{:03}", "{}", "tensor{}.weight"])
def test_names_that_only_count_are_one_entry(state: State, checkpoint_of: Make, form: str) -> None:
    """Whatever order they count in: blocks one after the other, an alphabet's, the file's."""
    for order in (list(state), sorted(state)):
        counted = {form.format(number): state[name] for number, name in enumerate(order)}
        found = compare_names(checkpoint_of(counted), checkpoint_of(start(2)))
        assert found.verdict == "same" and "after 1 rename." in found.sentence
        assert [(one.reference, one.tensors) for one in found.renames] == [(IN_ORDER, len(state))]
        roles = roles_by(checkpoint_of(counted), checkpoint_of(state, CONFIG.to_hf()))
        assert len(roles) == len(state)
        assert {role for role in roles.values() if role.layer == 2} == {
            role_of(name) for name in state if "layers.2." in name
        }


def test_names_that_count_something_else_are_not_mapped(state: State, checkpoint_of: Make) -> None:
    shuffled = sorted(state, key=lambda name: hash((len(name), name[::-1])))
    mixed = {f"t_{number}": state[name] for number, name in enumerate(reversed(shuffled))}
    mixed["t_0"], mixed["t_1"] = torch.ones(3, 5), torch.ones(7)
    assert compare_names(checkpoint_of(mixed), checkpoint_of(state)).verdict == "independent"


def test_a_thousand_patterns_on_either_side_take_no_time(checkpoint_of: Make) -> None:
    many = {f"part_{i}.weight": torch.ones(2) for i in range(3000)}
    other = {f"piece_{i}.weight": torch.ones(2) for i in range(2999)}
    began = time.process_time()
    assert compare_names(checkpoint_of(many), checkpoint_of(other)).verdict == "independent"
    assert time.process_time() - began < 5


def test_five_thousand_layers_are_a_few_patterns(checkpoint_of: Make) -> None:
    deep = {
        f"model.layers.{i}.{part}.weight": torch.ones(2, 2)
        for i in range(5000)
        for part in ("ln1", "mlp.up_proj", "mlp.gate_proj")
    }
    words = {name.replace("ln1", "input_layernorm"): tensor for name, tensor in deep.items()}
    began = time.process_time()
    found = compare_names(checkpoint_of(deep), checkpoint_of(words))
    assert [(one.model, one.tensors) for one in found.renames] == [("model.layers.{}.ln1.weight", 5000)]
    assert len(found.evidence) < 5 and time.process_time() - began < 10


def test_names_with_braces_are_no_format(state: State, checkpoint_of: Make) -> None:
    """`{x.__class__}` is a name like any other."""
    odd = {name.replace("model.", "{x.__class__}."): tensor for name, tensor in state.items()}
    found = checkpoint_of(changes.renamed(state), like=checkpoint_of(odd, CONFIG.to_hf()))
    assert found.has("gate", 3)


def test_metas_and_ggufs_names_are_mapped_by_what_they_stand_for(state: State, checkpoint_of: Make) -> None:
    words = {"model.layers": "blk", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
             "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
             "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "model.embed_tokens": "token_embd",
             "model.norm": "output_norm", "lm_head": "output"}  # fmt: skip
    found = compare_names(checkpoint_of(called(state, words), CONFIG.to_hf()), checkpoint_of(start(2), CONFIG.to_hf()))
    assert found.verdict == "same" and len(found.renames) == 12
    renames = {one.model: one.reference for one in found.renames}
    assert (
        renames["blk.{}.ffn_up.weight"] == "model.layers.{}.mlp.up_proj.weight"
        and renames["output.weight"] == "lm_head.weight"
    )
