"""The order in which packed rows are read: each epoch its own permutation of all rows, drawn from (seed, epoch).

Comes in: a seed, an epoch, a number of rows. Goes out: the rows' numbers. Must never happen: another order on another machine or
with another version of a library, as a ledger commits to it. Imports no torch.
"""

import numpy as np
from jaxtyping import Int64
from numpy import ndarray

ORDER = "stable argsort of PCG64(SeedSequence((seed, epoch))).random_raw(rows)"  # how `order_of_epoch` is called in a ledger


def order_of_epoch(seed: int, epoch: int, rows: int) -> Int64[ndarray, " rows"]:
    """The order in which epoch `epoch` (from 0) reads `rows` rows."""
    # Sorting raw 64-bit draws: numpy promises the raw stream for ever, `Generator.permutation` it does not (NEP 19).
    draws = np.random.PCG64(np.random.SeedSequence((seed, epoch))).random_raw(rows)
    return np.argsort(draws, kind="stable").astype(np.int64)
