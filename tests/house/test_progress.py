"""Times as a progress line shows them."""

import pytest

from puna.progress import clock


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0.2, "0:00"), (59.9, "0:59"), (239.7, "3:59"), (240.0, "4:00"), (11_045, "3:04:05")]
)
def test_a_clock_never_shows_sixty_seconds(seconds: float, shown: str) -> None:
    assert clock(seconds) == shown
