"""Every change that claims to keep the function does: the logits are those of the original."""

import pytest
import torch
from torch.nn import functional as F

from puna.lineage.zoo import changes, training
from puna.lineage.zoo.training import CONFIG, State
from puna.model.config import ModelConfig


def logits(state: State, config: ModelConfig = CONFIG) -> torch.Tensor:
    model = training.decoder_of(state, config)
    rows = torch.arange(128).view(2, 64) * 3
    with torch.no_grad():
        return F.linear(model(rows), model.head_weight())


SAME = {
    "units permuted": lambda state: changes.units_permuted(state, 5),
    "heads permuted": lambda state: changes.heads_permuted(state, 5),
    "stream permuted": lambda state: changes.stream_permuted(state, 5),
    "stream rotated": lambda state: changes.stream_rotated(state, 5),
    "gains folded": changes.folded,
    "rescaled": lambda state: changes.rescaled(state, 5),
    "units permuted, then rotated": lambda state: changes.stream_rotated(changes.units_permuted(state, 5), 6),
}


@pytest.mark.parametrize("what", SAME)
def test_the_function_is_kept_and_the_weights_are_not(family, what: str) -> None:  # type: ignore[no-untyped-def]
    state = family["first"]
    made = SAME[what](state)
    assert set(made) == set(state)
    assert float((logits(made) - logits(state)).abs().max()) < 1e-3
    moved = [
        name
        for name, tensor in made.items()
        if "layers" in name and tensor.ndim == 2 and not torch.equal(tensor, state[name])
    ]
    assert len(moved) >= 12  # of 28 matrices: heads are 4 a block, units 3


def test_silent_blocks_keep_the_function(family) -> None:  # type: ignore[no-untyped-def]
    state = family["first"]
    made = changes.grown(state, "silent")
    assert made.config.num_hidden_layers == 6
    assert float((logits(made.state, made.config) - logits(state)).abs().max()) < 1e-3


@pytest.mark.parametrize("how", ["duplicate", "solar"])
def test_repeated_blocks_are_the_blocks_that_the_truth_says(family, how: str) -> None:  # type: ignore[no-untyped-def]
    state = family["first"]
    made = changes.grown(state, how)
    for block, source in enumerate((0, 1, 2, 1, 2, 3)):  # the truth of `zoo.family`
        ours, theirs = (f"model.layers.{n}.mlp.down_proj.weight" for n in (block, source))
        assert torch.equal(made.state[ours], state[theirs]), (how, block)


def test_left_out_blocks(family) -> None:  # type: ignore[no-untyped-def]
    made = changes.shallower(family["first"], [0, 1, 3])
    assert made.config.num_hidden_layers == 3
    assert torch.equal(
        made.state["model.layers.2.mlp.up_proj.weight"], family["first"]["model.layers.3.mlp.up_proj.weight"]
    )


@pytest.mark.parametrize(
    "sizes, shape", [({"intermediate": 112}, (112, 64)), ({"heads": 2}, (176, 64)), ({"hidden": 48}, (176, 48))]
)
def test_narrower_models_run(family, sizes: dict[str, int], shape: tuple[int, int]) -> None:  # type: ignore[no-untyped-def]
    made = changes.narrower(family["first"], family.ground.prose, **sizes)
    assert made.state["model.layers.0.mlp.up_proj.weight"].shape == shape
    assert bool(logits(made.state, made.config).isfinite().all())


def test_renamed_and_transposed_are_read_back_the_same(family) -> None:  # type: ignore[no-untyped-def]
    state = family["first"]
    reference = family.opened("first").checkpoint
    for name, made in (("renamed", changes.renamed(state)), ("transposed", changes.transposed(state))):
        found = family.opened(name, made, family.opened("first")).checkpoint
        assert found.unknown == ()
        for role in reference.roles:
            read, own = found.read(*role), reference.read(*role)
            square_and_turned = name == "transposed" and role.kind in ("q", "o")  # only the comparison tells
            assert torch.equal(read.T if square_and_turned else read, own), (name, role)


def test_renamed_leaves_no_known_word(family) -> None:  # type: ignore[no-untyped-def]
    from puna.lineage.weights.reading import role_of

    assert [name for name in changes.renamed(family["first"]) if role_of(name) is not None] == []


def test_a_sum_and_its_shares(family) -> None:  # type: ignore[no-untyped-def]
    made = changes.sum_of(family["first"], family["second"], 0.3)
    name = "model.layers.1.self_attn.k_proj.weight"
    assert torch.allclose(made[name], 0.3 * family["first"][name] + 0.7 * family["second"][name])


@pytest.mark.parametrize("size", [0.1, 1.0])
def test_noise_has_its_size(family, size: float) -> None:  # type: ignore[no-untyped-def]
    state, made = family["first"], changes.noised(family["first"], size, 3)
    name = "model.layers.1.mlp.gate_proj.weight"
    assert float((made[name] - state[name]).std() / state[name].std()) == pytest.approx(size, rel=0.05)
    assert torch.equal(made["model.norm.weight"], state["model.norm.weight"])
    assert torch.equal(made[name], changes.noised(state, size, 3)[name])


@pytest.mark.parametrize("bits", [8, 4])
def test_a_grid_has_few_steps(family, bits: int) -> None:  # type: ignore[no-untyped-def]
    made = changes.coarse(family["first"], bits)
    group = made["model.layers.0.mlp.up_proj.weight"][0, :32]
    assert len(torch.unique(group)) <= 2**bits
    assert not torch.equal(group, family["first"]["model.layers.0.mlp.up_proj.weight"][0, :32])


def test_experts_are_copies_with_a_little_noise(family) -> None:  # type: ignore[no-untyped-def]
    made = changes.upcycled(family["first"], 4, 3)
    own = family["first"]["model.layers.0.mlp.up_proj.weight"]
    experts = [made.state[f"model.layers.0.block_sparse_moe.experts.{n}.w3.weight"] for n in range(4)]
    for expert in experts:
        assert float((expert - own).norm() / own.norm()) == pytest.approx(0.01, rel=0.2)
    assert not torch.equal(experts[0], experts[1]) and made.hf["num_local_experts"] == 4


def test_another_vocabulary_is_the_mean_of_its_pieces(family) -> None:  # type: ignore[no-untyped-def]
    state = family["first"]
    made = changes.new_vocabulary(state, [[5], [7, 9], []])
    rows = state["model.embed_tokens.weight"]
    assert torch.allclose(
        made["model.embed_tokens.weight"], torch.stack([rows[5], (rows[7] + rows[9]) / 2, rows.mean(0)])
    )
    assert made["lm_head.weight"].shape == (3, 64)


def test_what_the_student_and_the_sibling_share(family) -> None:  # type: ignore[no-untyped-def]
    """The truth behind the cases: a student holds none of its teacher's weights, a sibling much of its random start."""
    name = "model.layers.0.mlp.up_proj.weight"

    def cosine(one: str) -> float:
        return float(torch.cosine_similarity(family[one][name].flatten(), family["first"][name].flatten(), dim=0))

    assert abs(cosine("student")) < 0.05 < 0.3 < cosine("sibling") < cosine("tuned")
