"""Muon's arithmetic, and which parameter goes where."""

from collections.abc import Callable

import pytest
import torch

from puna.model.config import ModelConfig
from puna.model.decoder import Decoder
from puna.recipe.scaling import Plan
from puna.train.muon import Muon, orthogonalise
from puna.train.optim import Optimizer


@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 8, 40), (2, 40, 8)])
@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e15])
def test_singular_values_end_near_1(shape: tuple[int, ...], scale: float) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(2))
    u, s, v = torch.linalg.svd(matrices, full_matrices=False)
    spread = torch.logspace(0, -2, s.shape[-1])  # down to 1 % of the largest
    values = torch.linalg.svdvals(orthogonalise(u @ torch.diag(spread) @ v * scale))
    assert values.max() < 1.1
    assert values.min() > 0.9


def test_bf16_orthogonalises_too_and_zero_stays_zero() -> None:
    matrices = torch.randn(2, 16, 24, generator=torch.Generator().manual_seed(2))
    values = torch.linalg.svdvals(orthogonalise(matrices, torch.bfloat16).float())
    assert values.min() > 0.8
    assert values.max() < 1.25
    assert not orthogonalise(torch.zeros(1, 4, 6)).any()


def test_direction_is_that_of_the_polar_factor() -> None:
    matrix = torch.randn(1, 12, 20, generator=torch.Generator().manual_seed(3))
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    cosine = torch.cosine_similarity(orthogonalise(matrix).flatten(), (u @ v).flatten(), dim=0)
    assert cosine > 0.995


def test_muon_step_by_hand() -> None:
    draw = torch.Generator().manual_seed(4)
    weights = [torch.randn(12, 6, generator=draw) for _ in range(2)]
    before = [w.clone() for w in weights]
    muon = Muon([(w, 1) for w in weights], lr=0.1, momentum=0.9, weight_decay=0.5, dtype=torch.float32)
    memory = [torch.zeros(12, 6) for _ in weights]
    for _ in range(3):
        for index, weight in enumerate(weights):
            weight.grad = torch.randn(12, 6, generator=draw)
            memory[index] = 0.9 * memory[index] + 0.1 * weight.grad
            update = orthogonalise((0.1 * weight.grad + 0.9 * memory[index])[None])[0]
            before[index] = before[index] * (1 - 0.1 * 0.5) - 0.1 * 2**0.5 * update
        muon.step()
    for weight, expected in zip(weights, before, strict=True):
        torch.testing.assert_close(weight, expected, rtol=1e-4, atol=1e-5)


def test_heads_are_orthogonalised_each_by_itself() -> None:
    weight = torch.zeros(12, 30)
    weight.grad = torch.randn(12, 30, generator=torch.Generator().manual_seed(5))
    Muon([(weight, 3)], lr=1.0, momentum=0.0, weight_decay=0.0, dtype=torch.float32).step()
    for head in weight.view(3, 4, 30):
        values = torch.linalg.svdvals(head)
        assert values.min() > 0.9
        assert values.max() < 1.1


def test_blocks_keep_the_whole_matrix_s_norm() -> None:
    gradient = torch.randn(24, 6, generator=torch.Generator().manual_seed(6))
    norms = []
    for blocks in (1, 4, 8):
        weight = torch.zeros(24, 6)
        weight.grad = gradient.clone()
        Muon([(weight, blocks)], lr=1.0, momentum=0.0, weight_decay=0.0, dtype=torch.float32).step()
        norms.append(weight.norm().item())
    assert norms == pytest.approx([24**0.5] * 3, rel=0.1)


def test_cautious_decay_spares_weights_that_the_update_grows() -> None:
    weight = torch.tensor([[1.0, 0.0], [0.0, -1.0]])
    weight.grad = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    Muon([(weight, 1)], lr=0.1, momentum=0.0, weight_decay=1.0, dtype=torch.float32, cautious=True).step()
    assert weight[0, 0] < 1 - 0.15  # shrunk by the update, decayed as well
    assert weight[1, 1] > -1 - 0.12  # grown by the update, not decayed


@pytest.mark.parametrize("method", ["puna", "reference"])
def test_every_parameter_is_updated_once(config: ModelConfig, make_plan: Callable[..., Plan], method: str) -> None:
    model = Decoder(config.model_copy(update={"tie_word_embeddings": False, "qk_norm": True}))
    model.init_weights(0)
    optimizer = Optimizer(model.named_parameters(), make_plan(method=method), width=32, head_dim=8, dtype=torch.float32)
    held = [p for part in optimizer.parts for group in part.param_groups for p in group["params"]]
    assert sorted(map(id, held)) == sorted(map(id, model.parameters()))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step(1.0)
    assert all(not torch.equal(p, before[name]) for name, p in model.named_parameters())
    muon = {name.split(".", 1)[1] for name in optimizer.tensors() if name.startswith("momentum_buffer.")}
    assert all(
        ("_proj.weight" in name) == (name in muon and method == "puna") or method == "reference" for name in before
    )
    assert not (method == "reference" and muon)


def test_state_is_live_and_whole(config: ModelConfig, make_plan: Callable[..., Plan]) -> None:
    model = Decoder(config)
    optimizer = Optimizer(model.named_parameters(), make_plan(), width=32, head_dim=8, dtype=torch.float32)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step(0.5)
    tensors = optimizer.tensors()
    assert all(value.any() for value in tensors.values())
    name = "momentum_buffer.model.layers.0.mlp.up_proj.weight"
    tensors[name].zero_()
    assert not optimizer.tensors()[name].any()
