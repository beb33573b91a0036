"""What became of one tensor: its size and its kind, each on a matrix made to be of it."""

import pytest
import torch
from torch import Tensor

from puna.lineage.weights.difference import measure
from puna.model.formats.quantised_write import quantise


def drawn(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


W = drawn(128, 96)


def on_grid(w: Tensor, bits: int, group: int) -> Tensor:
    q, scale = quantise(w, bits, group, None, torch.float32)
    return (q.float().view(len(q), -1, group) * scale[..., None]).view(w.shape)


def test_size_and_direction() -> None:
    found = measure(1.5 * W, W)
    assert (found.relative, found.cosine, found.slope) == pytest.approx((0.5, 1.0, 1.5), rel=1e-5)
    assert found.changed == 1.0
    strangers = measure(drawn(128, 96, seed=2), W)
    assert strangers.relative == pytest.approx(2**0.5, rel=0.05) and abs(strangers.cosine) < 0.05


def test_nothing_changed() -> None:
    found = measure(W.clone(), W)
    assert (found.relative, found.changed, found.low_rank, found.grid_bits, found.zeros) == (0.0, 0.0, None, None, 0.0)


def test_zeros_divide_nothing() -> None:
    nothing = torch.zeros_like(W)
    for ours, theirs, relative in ((W, nothing, 1.0), (nothing, W, 1.0), (nothing, nothing, 0.0)):
        found = measure(ours, theirs)
        assert (found.relative, found.cosine) == (relative, 0.0)


STORED = [torch.float32, torch.float16, torch.bfloat16]


@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize("group", [16, 32])
@pytest.mark.parametrize("bits", [4, 8])
def test_a_grid_is_seen_and_explains_the_change(bits: int, group: int, stored: torch.dtype) -> None:
    """Also where storing has moved every number a little off it."""
    found = measure(on_grid(W, bits, group).to(stored).float(), W)
    assert (found.grid_bits, found.grid_width, found.grid_explains) == (bits, group, True)
    assert found.relative < 0.2 if bits == 4 else found.relative < 0.01


@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize("levels", [8, 16, 32])
def test_a_grid_that_does_not_hold_zero(levels: int, stored: torch.dtype) -> None:
    """The least number and a step a group, as in q4_1; five bits leave 32 levels for 32 numbers."""
    groups = W.reshape(-1, 32)
    low = groups.amin(dim=1, keepdim=True)
    step = (groups.amax(dim=1, keepdim=True) - low) / (levels - 1)
    found = measure((((groups - low) / step).round() * step + low).reshape(W.shape).to(stored).float(), W)
    assert (found.grid_bits, found.grid_width, found.grid_explains) == (levels.bit_length() - 1, 32, True)


def test_levels_that_are_no_steps() -> None:
    """NF4 (Dettmers et al. 2023): quantiles of a normal distribution, 16 for 64 numbers."""
    levels = torch.tensor(
        [
            -1.0,
            -0.6962,
            -0.5251,
            -0.3949,
            -0.2844,
            -0.1848,
            -0.0911,
            0.0,
            0.0796,
            0.1609,
            0.2461,
            0.3379,
            0.4407,
            0.5626,
            0.7230,
            1.0,
        ]
    )
    groups = drawn(64, 128, seed=20).reshape(-1, 64)
    scale = groups.abs().amax(dim=1, keepdim=True)
    nearest = ((groups / scale)[..., None] - levels).abs().argmin(dim=-1)
    found = measure((levels[nearest] * scale).bfloat16().float(), groups)
    assert (found.grid_bits, found.grid_width, found.grid_explains) == (4, 64, True)


def test_numbers_in_bf16_and_thinned_out_ones_lie_on_no_grid() -> None:
    w = drawn(256, 128, seed=21)
    thin = torch.where(torch.rand(256, 128, generator=torch.Generator().manual_seed(22)) < 0.8, 0.0, w)
    for ours in (
        w.bfloat16().float(),
        w.half().float(),
        thin,
        thin.bfloat16().float(),
        (w + 0.1 * drawn(256, 128, seed=23)).bfloat16().float(),
    ):
        assert measure(ours, w).grid_bits is None


@pytest.mark.parametrize("bits", [4, 8])
def test_a_grid_a_row_is_seen(bits: int) -> None:
    """The plainest of formats: one scale a row, the largest number at the last step."""
    w = drawn(64, 512, seed=4)
    step = w.abs().amax(dim=1, keepdim=True) / (2 ** (bits - 1) - 1)
    found = measure((w / step).round() * step, w)
    assert (found.grid_bits, found.grid_explains) == (bits, True)


def test_a_grid_of_another_matrix_explains_nothing() -> None:
    found = measure(on_grid(drawn(128, 96, seed=3), 4, 16), W)
    assert found.grid_bits == 4 and not found.grid_explains
    assert measure(W, on_grid(W, 4, 16)).grid_bits is None  # the reference is the coarse one


@pytest.mark.parametrize("rank", [1, 4, 16])
def test_a_low_rank_change_has_its_rank(rank: int) -> None:
    change = drawn(128, rank, seed=5) @ drawn(rank, 96, seed=6)
    found = measure(W + 0.05 * change, W)
    assert found.low_rank == rank and found.flatness is not None and found.flatness > 1.25


@pytest.mark.parametrize("rank", [1, 8, 32])
def test_a_low_rank_change_stored_in_bf16_has_its_rank(rank: int) -> None:
    """Storing adds noise of every rank; what is left beyond it is what was added."""
    w = drawn(256, 192, seed=24).bfloat16().float()
    change = drawn(256, rank, seed=25) @ drawn(rank, 192, seed=26)
    change = 0.01 * change * w.norm() / change.norm()
    assert measure((w + change).bfloat16().float(), w).low_rank == rank


@pytest.mark.parametrize("power", [0.3, 0.5, 1.0])
def test_a_change_of_every_rank_stored_in_bf16_has_none(power: float) -> None:
    """A training's spectrum falls without a step, and into the noise of storing."""
    w = drawn(256, 192, seed=27).bfloat16().float()
    u, values, v = torch.linalg.svd(drawn(256, 192, seed=28), full_matrices=False)
    change = (u * torch.arange(1, len(values) + 1) ** -power) @ v
    change = 0.01 * change * w.norm() / change.norm()
    assert measure((w + change).bfloat16().float(), w).low_rank is None


def test_what_rounding_alone_moves_is_not_changed() -> None:
    found = measure(W.bfloat16().float(), W)
    assert found.changed == 0.0 and found.rows_changed == 0.0 and 0.001 < found.relative < 0.003
    some = W.clone()
    some[:8] += 0.1 * drawn(8, 96, seed=29)
    found = measure(some, W)
    assert found.rows_changed == 8 / 128 and found.changed == pytest.approx(8 / 128, abs=1e-3)


def test_white_noise_is_flat_normal_and_of_no_low_rank() -> None:
    found = measure(W + 0.1 * drawn(128, 96, seed=7), W)
    assert found.low_rank is None and found.grid_bits is None and found.zeros == 0.0
    assert found.flatness == pytest.approx(1.0, abs=0.08)
    assert found.kurtosis == pytest.approx(3.0, abs=0.2)


def test_a_uniform_change_has_its_kurtosis() -> None:
    found = measure(W + torch.rand(128, 96, generator=torch.Generator().manual_seed(8)) - 0.5, W)
    assert found.kurtosis == pytest.approx(1.8, abs=0.1)  # (9 / 5, of the uniform distribution)


def test_a_trained_change_is_neither_flat_nor_low() -> None:
    """A few strong directions over a noise floor, as gradients leave them."""
    change = 0.5 * drawn(128, 3, seed=9) @ drawn(3, 96, seed=10) + 0.5 * drawn(128, 96, seed=11)
    found = measure(W + 0.1 * change, W)
    assert found.low_rank is None and found.flatness is not None and found.flatness > 1.25


def test_small_weights_set_to_zero() -> None:
    cut = torch.where(W.abs() < W.abs().median(), torch.zeros_like(W), W)
    found = measure(cut, W)
    assert found.zeros == pytest.approx(0.5, abs=0.01) and found.zeros_explain
    trained = cut + 0.1 * drawn(128, 96, seed=12) * (cut != 0)
    found = measure(trained, W)
    assert found.zeros == pytest.approx(0.5, abs=0.01) and not found.zeros_explain


def test_vectors_and_shapes() -> None:
    found = measure(torch.ones(5), torch.full((5,), 2.0))
    assert (found.relative, found.slope, found.low_rank, found.rows) == (0.5, 0.5, None, 0)
    with pytest.raises(ValueError, match="one shape"):
        measure(torch.ones(3, 4), torch.ones(4, 3))
    assert measure(W + 1, W, kind=False).flatness is None


def test_large_matrices_are_looked_at_in_drawn_rows() -> None:
    w = drawn(3000, 8, seed=13)
    found = measure(w + 0.1 * drawn(3000, 8, seed=14), w)
    assert found.rows == 2048 and found.relative == pytest.approx(0.1, rel=0.05)
