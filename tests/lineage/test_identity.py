"""Tensors that are the same numbers, whatever was done to them; and those that only seem to be."""

import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from puna.lineage.weights.files import Stored
from puna.lineage.weights.identity import Identity, find_identities, unsound_tensors
from puna.lineage.weights.reading import Checkpoint, assembled

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


TYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


def stored_as(tensors: dict[str, Tensor], dtype: str) -> Checkpoint:
    """A checkpoint whose tensors are held in this type."""
    held = {name: tensor.to(TYPES[dtype]) for name, tensor in tensors.items()}
    return assembled("in memory", {}, {name: Stored(tuple(t.shape), dtype, lambda t=t: t) for name, t in held.items()})  # type: ignore[misc]


SMALL = {f"w{i}": 0.02 * drawn(64, 48, seed=40 + i) for i in range(12)}


@pytest.mark.parametrize("dtype", ["F32", "BF16", "F16"])
@pytest.mark.parametrize("other", ["F32", "BF16", "F16"])
def test_types_that_models_are_stored_in(dtype: str, other: str) -> None:
    """Also two roundings of one matrix, of which neither is the other rounded; fp16 loses the last digits of small numbers."""
    found = find_identities(stored_as(SMALL, dtype), stored_as(SMALL, other))
    kinds = {one.kind for one in found.values()}
    assert found.keys() == SMALL.keys() and all(
        name == one.reference and one.factor == 1.0 for name, one in found.items()
    )
    assert kinds == {"equal" if dtype == other else "rounded"}


@pytest.mark.parametrize("first", ["F32", "BF16", "F16"])
def test_fp16_of_a_published_type(first: str) -> None:
    held = {name: tensor.to(TYPES[first]).float() for name, tensor in SMALL.items()}
    found = find_identities(stored_as(held, "F16"), stored_as(held, first))
    assert found.keys() == SMALL.keys() and {one.kind for one in found.values()} <= {"equal", "rounded"}


@pytest.mark.parametrize("dtype", ["F32", "BF16", "F16"])
@pytest.mark.parametrize("factor", [1.25, -1.0, 3.0, 0.07])
def test_scaled_in_any_type(dtype: str, factor: float) -> None:
    reference = stored_as(SMALL, dtype)
    for turned in (False, True):
        changed = {name: factor * stored.read().float() for name, stored in reference.stored.items()}
        changed = {name: tensor.T.contiguous() if turned else tensor for name, tensor in changed.items()}
        found = find_identities(stored_as(changed, dtype), reference)
        assert {name: one.reference for name, one in found.items()} == {name: name for name in SMALL}
        assert {(one.kind, one.detail) for one in found.values()} == {
            ("transposed", "scaled") if turned else ("scaled", "")
        }
        assert all(one.factor == pytest.approx(factor, rel=2e-3 if dtype == "BF16" else 2e-4) for one in found.values())


def test_changes_as_small_as_a_digit_are_no_rounding() -> None:
    """Every number of a bf16 matrix moved by one unit of its last digit, as a few steps of a fine-tuning do."""
    reference = stored_as(SMALL, "BF16")
    moved = {}
    for name, stored in reference.stored.items():
        bits = stored.read().view(torch.int16)
        step = torch.randint(0, 2, bits.shape, generator=torch.Generator().manual_seed(3)) * 2 - 1
        moved[name] = (bits + step.to(torch.int16)).view(torch.bfloat16).float()
    assert find_identities(stored_as(moved, "BF16"), reference) == {}
    noisy = {name: tensor * (1 + 1e-3 * drawn(64, 48, seed=9)) for name, tensor in SMALL.items()}
    assert find_identities(stored_as(noisy, "F32"), stored_as(SMALL, "F32")) == {}


def test_a_grid_of_eight_bits_is_no_rounding_of_a_type() -> None:
    step = {name: tensor.abs().amax(dim=1, keepdim=True) / 127 for name, tensor in SMALL.items()}
    coarse = {name: (tensor / step[name]).round() * step[name] for name, tensor in SMALL.items()}
    assert find_identities(stored_as(coarse, "F32"), stored_as(SMALL, "F32")) == {}


def test_values_in_any_order_are_not_said_to_be_rows() -> None:
    w = drawn(48, 32)
    mixed = w.flatten()[torch.randperm(w.numel(), generator=torch.Generator().manual_seed(4))].reshape(w.shape)
    one = find_identities(stored_as({NAME: mixed}, "F32"), stored_as({NAME: w}, "F32"))[NAME]
    assert (one.kind, one.detail) == ("permuted", "the same numbers in other places")


@pytest.mark.parametrize(
    "name",
    [
        "model.rotary_emb.cos_cached",
        "model.layers.0.self_attn.rotary_emb.inv_freq",
        "rope.freqs_cis",
        "position_ids",
        "h.0.attn.bias",
    ],
)
def test_tables_that_every_program_computes_are_no_evidence(name: str) -> None:
    table = torch.cos(torch.arange(512.0)[:, None] * 10000 ** -torch.linspace(0, 1, 32))
    assert find_identities(stored_as({name: table}, "F32"), stored_as({name: table}, "F32")) == {}


def test_many_tensors_of_one_shape_take_no_quadratic_time() -> None:
    deep = {f"layers.{i}.w": drawn(16, 16, seed=i) for i in range(2000)}
    other = {f"layers.{i}.w": drawn(16, 16, seed=5000 + i) for i in range(2000)} | {"layers.7.w": deep["layers.9.w"]}
    began = time.process_time()
    found = find_identities(stored_as(deep, "BF16"), stored_as(other, "BF16"))
    assert {name: one.reference for name, one in found.items()} == {"layers.9.w": "layers.7.w"}
    assert time.process_time() - began < 10
