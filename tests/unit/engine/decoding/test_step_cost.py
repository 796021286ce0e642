from __future__ import annotations

import itertools

import pytest

from charloom.engine.decoding.decoder import Decoder
from charloom.engine.decoding.step_cost import StepCost


def test_the_cost_follows_a_line_between_and_beyond_what_was_measured() -> None:
    cost = StepCost([1, 10], [1.0, 4.0])
    assert [cost.expected(rows) for rows in (1, 4, 10, 20)] == pytest.approx([1.0, 2.0, 4.0, 8.0])


def test_the_cost_is_measured_per_step(decoder: Decoder) -> None:
    """With a clock that moves by 8 at each look, every run takes 8, which is 1 for each of its 8 steps."""
    clock = itertools.count(0.0, 8.0)
    assert list(StepCost.measured(decoder, lambda: next(clock)).seconds) == [1.0] * 4
