"""Tensors that are the same numbers, whatever was done to them; and those that only seem to be."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from puna.lineage.weights.identity import Identity, find_identities, unsound_tensors
from puna.lineage.weights.reading import Checkpoint

Make = Callable[..., Checkpoint]
NAME, OTHER = "model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.gate_proj.weight"


def drawn(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def beside(checkpoint_of: Make, ours: Tensor, theirs: Tensor) -> Identity | None:
    return find_identities(checkpoint_of({NAME: ours}), checkpoint_of({NAME: theirs})).get(NAME)


ORDER = torch.randperm(48, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize(
    "change, kind, factor, detail",
    [
        (lambda w: w.clone(), "equal", 1.0, ""),
        (lambda w: w.bfloat16().float(), "rounded", 1.0, ""),
        (lambda w: w.half().float(), "rounded", 1.0, ""),
        (lambda w: 1.25 * w, "scaled", 1.25, ""),
        (lambda w: -w, "scaled", -1.0, ""),
        (lambda w: 0.37 * w, "scaled", 0.37, ""),
        (lambda w: w.T.contiguous(), "transposed", 1.0, ""),
        (lambda w: w.T.bfloat16().float(), "transposed", 1.0, "rounded"),
        (lambda w: 1.25 * w.T.contiguous(), "transposed", 1.25, "scaled"),
        (lambda w: w[ORDER], "permuted", 1.0, "rows in another order"),
        (lambda w: w.T[ORDER[ORDER < 32]].T.contiguous(), "permuted", 1.0, "columns in another order"),
        (lambda w: w[ORDER].T[ORDER[ORDER < 32]].T.contiguous(), "permuted", 1.0, "rows and columns in another order"),
        (lambda w: -w[ORDER], "permuted", -1.0, "rows in another order"),
        (lambda w: w.reshape(24, 64), "permuted", 1.0, "the same numbers in other places"),
    ],
)
def test_what_was_done_is_named(
    checkpoint_of: Make, change: Callable[[Tensor], Tensor], kind: str, factor: float, detail: str
) -> None:
    w = drawn(48, 32)
    found = beside(checkpoint_of, change(w), w)
    assert found is not None
    assert (found.kind, found.detail, found.reference) == (kind, detail, NAME)
    assert found.factor == pytest.approx(factor, rel=1e-4)


def test_a_square_matrix_turned_is_seen(checkpoint_of: Make) -> None:
    w = drawn(40, 40)
    found = beside(checkpoint_of, w.T.contiguous(), w)
    assert found is not None and found.kind == "transposed"


def test_both_sides_may_be_the_rounded_one(checkpoint_of: Make) -> None:
    w = drawn(48, 32)
    for theirs in (w.bfloat16().float(), w.half().float()):
        found = beside(checkpoint_of, w, theirs)
        assert found is not None and found.kind == "rounded"


def test_signed_zeros_are_one_number(checkpoint_of: Make) -> None:
    w = drawn(48, 32)
    w[0] = 0.0
    signed = w.clone()
    signed[0] = -0.0
    found = beside(checkpoint_of, signed, w)
    assert found is not None and found.kind == "equal"


@pytest.mark.parametrize(
    "tensor",
    [
        torch.ones(1000),
        torch.zeros(40, 40),
        torch.full((64, 64), 0.5),
        torch.arange(4.0).repeat(400),
        drawn(255),
        torch.ones(1000).bfloat16(),
    ],
)
def test_trivial_tensors_are_no_evidence(checkpoint_of: Make, tensor: Tensor) -> None:
    assert beside(checkpoint_of, tensor.clone(), tensor) is None


def test_what_is_equal_in_another_place_is_found(checkpoint_of: Make) -> None:
    w = drawn(48, 32)
    model = checkpoint_of({NAME: drawn(48, 32, seed=5), OTHER: w})
    found = find_identities(model, checkpoint_of({"odd.name": w, NAME: drawn(48, 32, seed=6)}))
    assert {name: (one.reference, one.kind) for name, one in found.items()} == {OTHER: ("odd.name", "equal")}


def test_the_partner_of_the_same_name_goes_first(checkpoint_of: Make) -> None:
    w = drawn(48, 32)
    found = find_identities(checkpoint_of({NAME: w, OTHER: w}), checkpoint_of({OTHER: w, NAME: w}))
    assert {name: one.reference for name, one in found.items()} == {NAME: NAME, OTHER: OTHER}


def test_strangers_share_nothing(checkpoint_of: Make) -> None:
    """Of one size and one distribution, 60 beside 60; and half a matrix replaced is another matrix."""
    ours = {f"a{i}": 0.02 * drawn(64, 64, seed=i) for i in range(60)}
    theirs = {f"b{i}": 0.02 * drawn(64, 64, seed=100 + i) for i in range(60)}
    assert find_identities(checkpoint_of(ours), checkpoint_of(theirs)) == {}
    half = drawn(48, 32)
    half[24:] = drawn(24, 32, seed=9)
    assert beside(checkpoint_of, half, drawn(48, 32)) is None


def test_a_small_change_is_no_identity(checkpoint_of: Make) -> None:
    w = drawn(48, 32)
    assert beside(checkpoint_of, w + 0.05 * drawn(48, 32, seed=3), w) is None
    one = w.clone()
    one[3, 3] += 4.0
    assert beside(checkpoint_of, one, w) is None


def test_what_is_wrong_with_a_tensor_is_told(checkpoint_of: Make) -> None:
    bad = drawn(48, 32)
    bad[5, 5] = float("nan")
    model = checkpoint_of({NAME: bad, OTHER: torch.zeros(48, 32), "fine": drawn(48, 32), "empty": torch.zeros(0, 3)})
    wrong: dict[str, Any] = unsound_tensors(model)
    assert wrong == {NAME: "holds NaN or infinity", OTHER: "is all zeros", "empty": "is empty"}
    assert list(find_identities(model, model)) == ["fine"]
