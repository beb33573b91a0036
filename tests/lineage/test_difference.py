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


@pytest.mark.parametrize("group", [16, 32])
def test_a_grid_is_seen_and_explains_the_change(group: int) -> None:
    found = measure(on_grid(W, 4, group), W)
    assert (found.grid_bits, found.grid_explains) == (4, True)
    assert 0.05 < found.relative < 0.2


@pytest.mark.parametrize("group", [16, 32])
def test_so_fine_a_grid_that_no_group_shows_it_leaves_an_even_spread(group: int) -> None:
    """255 steps for 32 numbers: anything lies on some such grid. The change tells: white, spread evenly over a step."""
    found = measure(on_grid(W, 8, group), W)
    assert found.grid_bits is None and found.relative < 0.01
    assert found.flatness == pytest.approx(1.0, abs=0.1) and found.kurtosis is not None and found.kurtosis < 2.6


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
