from __future__ import annotations

import itertools
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charloom.engine.decoding.decoder import Decoder, Inputs, Outputs
from charloom.engine.decoding.step_cost import FURTHEST, LEAST, NEAR, StepCost, clock_of

ROWS = [1, 4, 16, 64]


def test_the_cost_follows_a_line_between_and_beyond_what_was_measured() -> None:
    cost = StepCost([1, 10], [1.0, 4.0])
    assert [cost.expected(rows) for rows in (1, 4, 10, 20)] == pytest.approx([1.0, 2.0, 4.0, 8.0])


def test_the_cost_is_measured_per_step(decoder: Decoder) -> None:
    """With a clock that moves by 8 at each look, every run takes 8, which is 1 for each of its 8 steps."""
    clock = itertools.count(0.0, 8.0)
    cost = StepCost.measured(decoder, lambda: next(clock))
    assert [cost.expected(rows) for rows in ROWS] == [1.0] * 4


def test_of_several_measurements_the_least_counts(decoder: Decoder) -> None:
    """Of each number of rows, the first run takes 16, the second 8, the third 24."""
    taken = (steps for round in (16.0, 8.0, 24.0) for _ in ROWS for steps in (0.0, round))
    times = itertools.accumulate(taken)
    cost = StepCost.measured(decoder, lambda: next(times))
    assert [cost.expected(rows) for rows in ROWS] == [1.0] * 4


class Computing:
    """A decoder that takes some processor time for each step, whatever the rows."""

    def __init__(self, decoder: Decoder, seconds: float) -> None:
        self.shape, self._decoder, self._seconds = decoder.shape, decoder, seconds

    def run(self, inputs: Inputs) -> Outputs:
        outputs = self._decoder.run(inputs)
        end = time.thread_time() + self._seconds * len(inputs.forced)
        while time.thread_time() < end:
            pass
        return outputs


def test_what_else_the_machine_does_at_the_start_is_not_taken_for_cost(decoder: Decoder) -> None:
    """Beside three busy threads, which take the Python lock and a core by turns, a run takes several times as long."""
    stop = threading.Event()

    def busy() -> None:
        while not stop.is_set():
            sum(range(1000))

    others = [threading.Thread(target=busy) for _ in range(3)]
    for other in others:
        other.start()
    try:
        computing = Computing(decoder, 0.002)
        by_processor, by_clock = (StepCost.measured(computing, clock) for clock in (clock_of("cpu"), time.perf_counter))
    finally:
        stop.set()
        for other in others:
            other.join()
    assert 0.002 <= by_processor.expected(1) < 0.004
    assert by_clock.expected(1) > 1.5 * by_processor.expected(1)


def test_a_cost_that_was_measured_too_high_comes_down_with_the_ticks() -> None:
    cost = StepCost(ROWS, [0.001, 0.002, 0.005, 0.02])
    for _ in range(40):
        cost.learn(32, 0.0008)
    assert cost.expected(32) == pytest.approx(0.0008, rel=NEAR - 1)
    assert cost.expected(16) <= cost.expected(32), "a step with fewer rows costs no more"
    assert cost.expected(64) <= 2.01 * cost.expected(32), "and no more for each row with more"


def test_a_decoder_that_becomes_ten_times_slower_is_noticed_within_some_ticks() -> None:
    cost = StepCost(ROWS, [0.0001, 0.00014, 0.0004, 0.0016])
    for _ in range(12):
        cost.learn(64, 0.016)
    assert cost.expected(64) > 0.014
    assert cost.expected(16) > 0.0035, "others must have become slower too: no row is cheaper among more"


def test_one_odd_tick_changes_little() -> None:
    cost = StepCost(ROWS, [0.0001, 0.00014, 0.0004, 0.0016])
    cost.learn(16, 0.0008)
    assert cost.expected(16) < 0.0005


@given(st.lists(st.tuples(st.integers(1, 300), st.floats(0, 10)), max_size=200))
def test_whatever_ticks_say_the_cost_stays_within_bounds_and_a_step_with_more_rows_costs_no_less(
    ticks: list[tuple[int, float]],
) -> None:
    cost = StepCost(ROWS, [0.0001, 0.0004, 0.0016, 0.0064])
    for rows, seconds in ticks:
        cost.learn(rows, seconds)
    found = [cost.expected(rows) for rows in ROWS]
    assert found == sorted(found)
    assert found[0] >= 0.0001 / FURTHEST / 1.01
    assert found[-1] <= 0.0064 * FURTHEST * 1.01


def test_a_clock_that_does_not_move_makes_no_step_free(decoder: Decoder) -> None:
    cost = StepCost.measured(decoder, lambda: 0.0)
    cost.learn(4, 0.0)
    assert cost.expected(4) >= LEAST / FURTHEST
