"""Batches are a pure function of (seed, step), the same for any number of processes."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from puna.errors import PunaError
from puna.tokens.loader import NO_TARGET, Batches
from puna.tokens.pack import pack_documents

QUICK = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 rows of 16 tokens; every token of the corpus is another id."""
    out = tmp_path_factory.mktemp("packed")
    edges = np.concatenate([[0], np.cumsum(np.random.default_rng(3).integers(1, 40, size=23))])
    pack_documents(((np.arange(a, b), None) for a, b in pairwise(edges)), 15, out, vocab_size=5000)
    return out


@QUICK
@given(seed=st.integers(0, 2**63 - 1), step=st.integers(0, 50), share=st.integers(1, 6))
def test_one_two_and_four_processes_see_one_batch(packed: Path, seed: int, step: int, share: int) -> None:
    batches = Batches(packed, 4 * share, seed)
    whole = batches.batch(step)
    for world in (2, 4):
        parts = [batches.batch(step, rank, world) for rank in range(world)]
        for field in ("inputs", "targets", "segments"):
            assert torch.equal(torch.cat([getattr(part, field) for part in parts]), getattr(whole, field))


@QUICK
@given(seed=st.integers(0, 2**63 - 1), rows=st.integers(1, 40))
def test_each_epoch_is_a_permutation(packed: Path, seed: int, rows: int) -> None:
    batches = Batches(packed, rows, seed)
    total = batches.total_rows
    steps = -(-3 * total // rows)
    seen = np.concatenate([batches.row_numbers(step * rows, rows) for step in range(steps)])
    for epoch in range(3):
        assert sorted(seen[epoch * total : (epoch + 1) * total].tolist()) == list(range(total))
    assert (batches.steps_per_epoch - 1) * rows < total <= batches.steps_per_epoch * rows


@QUICK
@given(steps=st.lists(st.integers(0, 300), min_size=1, max_size=12))
def test_a_batch_does_not_depend_on_those_before(packed: Path, steps: list[int]) -> None:
    """Resuming at any step gives what an uninterrupted run saw there."""
    used = Batches(packed, 8, 11)
    for step in steps:
        fresh = Batches(packed, 8, 11).batch(step)
        again = used.batch(step)
        assert fresh.identity == again.identity
        assert torch.equal(fresh.inputs, again.inputs)
        assert torch.equal(fresh.targets, again.targets)


def test_seeds_and_epochs_differ(packed: Path) -> None:
    batches = Batches(packed, 24, 1)
    orders = {tuple(batches.row_numbers(24 * epoch, 24)) for epoch in range(4)}
    orders |= {tuple(Batches(packed, 24, seed).row_numbers(0, 24)) for seed in range(2, 6)}
    assert len(orders) == 8


def test_the_order_is_golden(packed: Path) -> None:
    """The order of training is part of what a release promises: the same seed, the same rows, for ever."""
    assert Batches(packed, 10, 2024).row_numbers(0, 10).tolist() == [14, 6, 12, 5, 9, 7, 20, 1, 22, 2]


def test_targets_never_cross_pieces(packed: Path) -> None:
    batches = Batches(packed, 24, 0)
    batch = batches.batch(0)
    assert batches.total_rows == 24
    assert batch.inputs.shape == batch.targets.shape == batch.segments.shape == (24, 15)
    assert (batch.inputs.dtype, batch.targets.dtype, batch.segments.dtype) == (torch.int64, torch.int64, torch.int32)
    has_target = batch.targets != NO_TARGET
    # Every id of the corpus is another, so a target inside its document is the input plus one.
    assert torch.equal(batch.targets[has_target], batch.inputs[has_target] + 1)
    assert int(has_target.sum()) == batches.targets
    same_piece = batch.segments[:, 1:] == batch.segments[:, :-1]
    assert torch.equal(same_piece, has_target[:, :-1] | _padding_pairs(batch.segments, has_target))
    assert (batch.segments[:, 0] == 0).all()
    assert ((batch.segments[:, 1:] - batch.segments[:, :-1]) <= 1).all()


def _padding_pairs(segments: torch.Tensor, has_target: torch.Tensor) -> torch.Tensor:
    """Neighbours inside padding: one segment, and no target."""
    return (segments[:, 1:] == segments[:, :-1]) & ~has_target[:, :-1]


def test_loss_masks_and_padding_give_no_targets(tmp_path: Path) -> None:
    documents = [([1, 2, 3, 4], [False, False, True, True]), ([5, 6, 7], [True, True, False])]
    pack_documents(documents, 8, tmp_path, vocab_size=10, split_long=False, pad_id=9)
    batch = Batches(tmp_path, 1, 0).batch(0)
    assert batch.inputs.tolist() == [[1, 2, 3, 4, 5, 6, 7, 9]]
    assert batch.targets.tolist() == [[NO_TARGET, 3, 4, NO_TARGET, 6, NO_TARGET, NO_TARGET, NO_TARGET]]
    assert batch.segments.tolist() == [[0, 0, 0, 0, 1, 1, 1, 2]]
    assert batch.identity.startswith("step 0 rank 0/1 epoch 0 rows 0 of ")


def test_a_batch_larger_than_the_corpus_goes_round(tmp_path: Path) -> None:
    pack_documents([(list(range(9)), None)], 2, tmp_path, vocab_size=10)
    batch = Batches(tmp_path, 7, 5).batch(0)
    assert sorted(batch.inputs[:3, 0].tolist()) == sorted(batch.inputs[3:6, 0].tolist()) == [0, 3, 6]


def test_uneven_processes_are_refused(packed: Path) -> None:
    with pytest.raises(PunaError, match=r"^train\.batch_tokens: 6 rows"):
        Batches(packed, 6, 0).batch(0, 0, 4)
    for rank, world in ((2, 2), (-1, 2), (0, 0)):
        with pytest.raises(ValueError, match="out of bounds"):
            Batches(packed, 6, 0).batch(0, rank, world)


@pytest.mark.parametrize("name", ["tokens.bin", "starts.bin", "loss.bin"])
@pytest.mark.parametrize("change", [-1, 1, None])
def test_files_of_another_size_are_refused(name: str, change: int | None, tmp_path: Path) -> None:
    pack_documents([(list(range(9)), [True] * 9)], 2, tmp_path, vocab_size=10)
    content = (tmp_path / name).read_bytes()
    if change is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_bytes(content[:-1] if change < 0 else content + b"\0")
    with pytest.raises(PunaError, match=name.replace(".", r"\.")):
        Batches(tmp_path, 1, 0)


@pytest.mark.parametrize(("name", "value"), [("tokens.bin", b"\xff"), ("starts.bin", b"\x07"), ("starts.bin", b"\x00")])
def test_impossible_values_are_refused(name: str, value: bytes, tmp_path: Path) -> None:
    pack_documents([(list(range(9)), None)], 2, tmp_path, vocab_size=10)
    (tmp_path / name).write_bytes(value + (tmp_path / name).read_bytes()[1:])
    with pytest.raises(PunaError, match="damaged rows"):
        Batches(tmp_path, 3, 0).batch(0)


@pytest.mark.parametrize("change", [
    {"rows": -1}, {"rows": 2**63}, {"rows": "3"}, {"rows": True}, {"context": 0}, {"dtype": "float"}, {"has_loss": 1},
    {"format": 2}, {"vocab_size": None}, {"rows": 2**40},
])  # fmt: skip
def test_a_pack_json_that_lies_is_refused(change: dict[str, object], tmp_path: Path) -> None:
    report = pack_documents([(list(range(9)), None)], 2, tmp_path, vocab_size=10)
    (tmp_path / "pack.json").write_text(json.dumps(report | change))
    with pytest.raises(PunaError):
        Batches(tmp_path, 1, 0)


@pytest.mark.parametrize("content", ["", "[]", "[" * 100_000, "{"])
def test_a_pack_json_that_is_none_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "pack.json").write_text(content)
    with pytest.raises(PunaError, match=r"pack\.json"):
        Batches(tmp_path, 1, 0)
    (tmp_path / "pack.json").unlink()
    with pytest.raises(PunaError, match="no such file"):
        Batches(tmp_path, 1, 0)
