"""Broken numbers stop the run, spikes are passed over, and the window survives a checkpoint."""

import json
import math

import pytest

from puna.errors import PunaError
from puna.train.guard import WINDOW, Guard


def _filled(guard: Guard, count: int = WINDOW) -> Guard:
    for step in range(count):
        assert guard.admit(3.0 + 0.01 * math.sin(step), 1.0 + 0.02 * math.cos(step), step=step, batch="")
    return guard


@pytest.mark.parametrize(("loss", "norm"), [(math.nan, 1.0), (math.inf, 1.0), (2.0, math.nan), (2.0, math.inf)])
def test_not_finite_names_step_and_batch(loss: float, norm: float) -> None:
    with pytest.raises(PunaError, match=r"step 7.*rows 1,2"):
        Guard().admit(loss, norm, step=7, batch="rows 1,2")


def test_a_spike_is_skipped_only_once_the_window_is_full() -> None:
    assert _filled(Guard(), WINDOW - 1).admit(99.0, 1.0, step=0, batch="")
    guard = _filled(Guard())
    assert not guard.admit(99.0, 1.0, step=0, batch="")
    assert guard.skipped == 1
    assert guard.admit(3.0, 1.0, step=1, batch="")
    assert not _filled(Guard()).admit(3.0, 50.0, step=0, batch="")
    assert _filled(Guard()).admit(0.5, 0.1, step=0, batch=""), "a drop is no spike"


def test_six_sigmas_is_the_border() -> None:
    guard = Guard(window=4)
    for loss in (1.0, 3.0, 1.0, 3.0):  # mean 2, deviation 1
        guard.admit(loss, 1.0, step=0, batch="")
    again = Guard(window=4)
    again.restore(guard.state())
    assert guard.admit(7.9, 1.0, step=0, batch="")
    assert not again.admit(8.1, 1.0, step=0, batch="")


def test_a_new_level_is_accepted_in_the_end() -> None:
    guard = _filled(Guard())
    accepted = [guard.admit(6.0, 1.0, step=step, batch="") for step in range(20)]
    assert not accepted[0]
    assert accepted[-1]


def test_state_survives_json_exactly() -> None:
    guard = _filled(Guard(), 200)
    guard.admit(1e9, 1.0, step=0, batch="")
    again = Guard()
    again.restore(json.loads(json.dumps(guard.state())))
    assert again.state() == guard.state()
    assert again.skipped == 1


def test_a_constant_loss_is_no_spike() -> None:
    guard = Guard()
    assert all(guard.admit(1.0 + 1e-9 * (step % 2), 1.0, step=step, batch="") for step in range(300))
