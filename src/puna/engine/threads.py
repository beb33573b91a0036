"""How many threads a pass of decoding gets.

In: the size of its work. Out: a context in which torch uses one thread, or as many as before.
Must never happen: the number of threads that the caller set is another after a pass.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

# Parameters times rows under which a pass runs on one thread. A matrix product of a small model takes 20 microseconds:
# less than it takes to wake a second thread, and far less than to wait for one that another program has displaced
# (measured on two busy cores, 5 M parameters, one row: 105 tokens/s on one thread, 14 on two). At 15 M parameters two threads on
# a quiet machine are two to three times as fast.
ONE_THREAD = 1 << 23


@contextmanager
def threads_for(work: int) -> Iterator[None]:
    """One thread within the block where `work` (parameters times rows) is small; the number before it is set again."""
    before = torch.get_num_threads()
    if work > ONE_THREAD or before == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
