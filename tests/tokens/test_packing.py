"""Best-fit packing: nothing lost, nothing twice, rows full, starts right."""

import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from puna.errors import PunaError
from puna.tokens.fit import best_fit, lay_out
from puna.tokens.pack import BEGIN, PADDING, pack_documents

QUICK = settings(max_examples=150, deadline=None)
# Each example writes files through to the disk, so there are fewer of them.
ON_DISK = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=30)


def read(out: Path, report: dict[str, Any], name: str = "tokens.bin", dtype: str | None = None) -> np.ndarray:
    dtype = dtype or {"uint16": "<u2", "uint32": "<u4"}[report["dtype"]]
    return np.fromfile(out / name, dtype=dtype).reshape(report["rows"], report["context"] + 1)


def numbered(lengths: list[int]) -> list[np.ndarray]:
    """Documents in which every token of the whole corpus is another id."""
    edges = np.concatenate([[0], np.cumsum(lengths)])
    return [np.arange(a, b) for a, b in pairwise(edges)]


@QUICK
@given(lengths=LENGTHS, capacity=st.integers(1, 45))
def test_best_fit_is_best_fit_decreasing(lengths: list[int], capacity: int) -> None:
    """The grouped algorithm fills its rows as the textbook's one does, piece by piece."""
    pieces = np.array([min(length, capacity) for length in lengths])
    rows, free = best_fit(pieces, capacity)
    naive: list[int] = []
    for length in sorted(pieces.tolist(), reverse=True):
        fitting = [space for space in naive if space >= length]
        if fitting:
            naive[naive.index(min(fitting))] -= length
        else:
            naive.append(capacity - length)
    assert sorted(free.tolist()) == sorted(naive)
    assert [capacity - int(pieces[rows == row].sum()) for row in range(len(free))] == free.tolist()


@QUICK
@given(lengths=LENGTHS, capacity=st.integers(1, 45))
def test_every_token_is_laid_out_once_and_in_order(lengths: list[int], capacity: int) -> None:
    layout = lay_out(np.array(lengths), capacity, split=True)
    total = sum(lengths)
    assert layout.rows == -(-total // capacity)
    assert (layout.length > 0).all()
    filled = np.bincount(layout.row, weights=layout.length, minlength=layout.rows)
    assert (filled[:-1] == capacity).all()
    assert int(filled[-1]) == total - (layout.rows - 1) * capacity
    for document, length in enumerate(lengths):
        mine = layout.document == document
        edges = sorted(zip(layout.offset[mine].tolist(), layout.length[mine].tolist(), strict=True))
        assert [edge for edge, _ in edges] == [0, *np.cumsum([size for _, size in edges])[:-1].tolist()]
        assert sum(size for _, size in edges) == length


@ON_DISK
@given(lengths=LENGTHS, context=st.integers(1, 44))
def test_rows_on_disk_hold_every_document(tmp_path: Path, lengths: list[int], context: int) -> None:
    documents = numbered(lengths)
    report = pack_documents(((ids, None) for ids in documents), context, tmp_path, vocab_size=2000, pad_id=1999)
    tokens, starts = read(tmp_path, report), read(tmp_path, report, "starts.bin", "u1")
    real = starts != PADDING
    assert sorted(tokens[real].tolist()) == list(range(sum(lengths)))
    assert (tokens[~real] == 1999).all()
    assert real[:-1].all(), "only the last row may have a gap"
    assert report["padding"] == int((~real).sum()) <= context
    assert (starts[:, 0] == BEGIN).all()
    assert report["pieces"] == int((starts == BEGIN).sum())
    # Inside a piece each token is followed by the document's next one; each document's first token begins a piece.
    inside = starts[:, 1:] == 0
    assert (tokens[:, 1:][inside].astype(int) - tokens[:, :-1][inside] == 1).all()
    begins = set(tokens[starts == BEGIN].tolist())
    assert begins >= {int(ids[0]) for ids in documents}
    assert report["targets"] == int(inside.sum()) == sum(lengths) - report["pieces"]
    assert not (tmp_path / "loss.bin").exists()


@ON_DISK
@given(lengths=LENGTHS, context=st.integers(1, 44), data=st.data())
def test_conversations_are_truncated_and_padded_with_counts(
    tmp_path: Path, lengths: list[int], context: int, data: st.DataObject
) -> None:
    documents = numbered(lengths)
    masks = [np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n))) for n in lengths]
    kept = [i for i, mask in enumerate(masks) if mask[1 : context + 1].any()]
    pairs = zip(documents, masks, strict=True)
    if not kept:
        with pytest.raises(PunaError, match="no documents to pack"):
            pack_documents(pairs, context, tmp_path, vocab_size=2000, split_long=False)
        return
    report = pack_documents(pairs, context, tmp_path, vocab_size=2000, split_long=False, pad_id=1999)
    tokens, starts = read(tmp_path, report), read(tmp_path, report, "starts.bin", "u1")
    loss = read(tmp_path, report, "loss.bin", "u1")
    assert report["dropped"] == len(lengths) - len(kept)
    assert report["truncated"] == sum(lengths[i] > context + 1 for i in kept)
    assert report["truncated_tokens"] == sum(max(0, lengths[i] - context - 1) for i in kept)
    assert report["splits"] == 0
    assert report["padding"] == int((starts == PADDING).sum())
    assert not loss[starts == PADDING].any()
    wanted = np.concatenate([documents[i][: context + 1] for i in kept])
    assert sorted(tokens[starts != PADDING].tolist()) == wanted.tolist()
    assert set(tokens[starts == BEGIN].tolist()) == {int(documents[i][0]) for i in kept}
    everything = np.concatenate(masks)
    assert (loss[starts != PADDING] == everything[tokens[starts != PADDING]]).all()
    assert report["targets"] == int((loss[:, 1:].astype(bool) & (starts[:, 1:] == 0)).sum()) > 0


def test_a_known_packing(tmp_path: Path) -> None:
    """Rows of 6: the document of 13 fills two rows, and its rest is taken apart to fill the gap of 5 + 1 and 4 + 2."""
    report = pack_documents(((ids, None) for ids in numbered([13, 5, 4, 2])), 5, tmp_path, vocab_size=100)
    assert read(tmp_path, report).tolist() == [
        [0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11], [12, 13, 14, 15, 16, 17], [18, 19, 20, 21, 22, 23],
    ]  # fmt: skip
    assert read(tmp_path, report, "starts.bin", "u1").tolist() == [
        [1, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0], [1, 0, 0, 0, 1, 0],
    ]  # fmt: skip
    assert (report["padding"], report["splits"], report["targets"]) == (0, 2, 24 - 6)


def test_ids_above_16_bits_and_empty_documents(tmp_path: Path) -> None:
    report = pack_documents([([70_000, 1], None), ([], None), ([2], None)], 2, tmp_path, vocab_size=70_001)
    assert (report["dtype"], report["empty"], report["documents"]) == ("uint32", 1, 2)
    assert read(tmp_path, report).tolist() == [[70_000, 1, 2]]
    assert (tmp_path / "tokens.bin").read_bytes() == np.array([70_000, 1, 2], dtype="<u4").tobytes()


@pytest.mark.parametrize(("documents", "message"), [
    ([], "no documents to pack"),
    ([([1, 500], None)], "document 1: ids 1 to 500 do not fit a vocabulary of 500"),
    ([([-1], None)], "do not fit"),
    ([([1, 2], None), ([1], [True])], "document 2: either every document"),
    ([([1, 2], [True])], "loss mask has 1 entries for 2 ids"),
    ([([0.5, 2.0], None)], "whole numbers"),
])  # fmt: skip
def test_mistakes_leave_nothing_behind(documents: list[Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(PunaError, match=message):
        pack_documents(documents, 8, tmp_path, vocab_size=500)
    assert list(tmp_path.iterdir()) == []


def test_same_documents_same_bytes(tmp_path: Path) -> None:
    random = np.random.default_rng(7)
    documents = [random.integers(0, 4096, size=int(n)) for n in random.geometric(1 / 90, size=3000)]
    for name in ("a", "b"):
        pack_documents(((ids, None) for ids in documents), 255, tmp_path / name, vocab_size=4096)
    for name in ("tokens.bin", "starts.bin", "pack.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_packing_is_fast_and_splits_little(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    lengths = np.maximum(1, random.lognormal(5, 1.3, size=20_000).astype(int))
    stock = random.integers(0, 4096, size=int(lengths.max()))
    begin = time.process_time()
    report = pack_documents(((stock[:n], None) for n in lengths), 512, tmp_path, vocab_size=4096)
    assert report["tokens"] == int(lengths.sum()) > 6_000_000
    assert time.process_time() - begin < 15, "millions of tokens are a matter of seconds"
    needed = int(((lengths - 1) // 513).sum())  # cuts that longer documents need in any packing
    assert report["splits"] - needed < 0.02 * len(lengths)
