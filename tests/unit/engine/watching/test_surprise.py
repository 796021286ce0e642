from __future__ import annotations

import numpy as np
import pytest

from charloom.engine.watching.surprise import STRETCH, surprise


def test_the_most_surprising_stretch_counts_wherever_it_is() -> None:
    quiet = np.full(40, 0.25)
    for place in (0, 17, 40 - STRETCH):
        nats = quiet.copy()
        nats[place : place + STRETCH] = 8.0
        assert surprise(nats) == pytest.approx(8.0)
    assert surprise(quiet) == pytest.approx(0.25)


def test_a_long_line_is_not_more_surprising_for_its_length() -> None:
    assert surprise(np.full(5000, 0.5)) == pytest.approx(surprise(np.full(50, 0.5)))


def test_what_a_short_line_lacks_is_certain() -> None:
    assert surprise(np.array([2.0])) == pytest.approx(2.0 / STRETCH)
    assert surprise(np.zeros(0)) == 0.0
