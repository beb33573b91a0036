"""Documents that are read several times in a pass: no row holds two of their copies."""

import numpy as np

from puna.tokens.fit import lay_out, lay_out_turns


def test_no_row_holds_documents_of_two_turns() -> None:
    lengths = np.array(
        [100, 100, 30, 700, 100, 100, 30, 700, 30], np.int64
    )  # the first four, twice, and one of them again
    layout = lay_out_turns(lengths, [0, 4, 8], 257, True)
    turn = np.searchsorted([0, 4, 8], layout.document, side="right")
    for row in range(layout.rows):
        assert len(set(turn[layout.row == row].tolist())) == 1
    assert np.bincount(layout.document, weights=layout.length).tolist() == lengths.tolist()


def test_one_turn_is_as_without() -> None:
    lengths = np.random.default_rng(0).integers(1, 900, 200)
    one, other = lay_out_turns(lengths, [0], 257, True), lay_out(lengths, 257, True)
    for name in ("document", "offset", "length", "row"):
        assert getattr(one, name).tolist() == getattr(other, name).tolist()
    assert one.rows == -(-int(lengths.sum()) // 257)
