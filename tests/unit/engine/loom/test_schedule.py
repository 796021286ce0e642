from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from charloom.engine.loom.schedule import (
    LONGEST_PAUSE,
    MESSAGE_SECONDS,
    MOST_STEPS,
    ROW_SECONDS,
    Work,
    message_pause,
    tick_steps,
)

works = st.lists(
    st.builds(Work, to_feed=st.integers(0, 500), to_generate=st.integers(1, 500), started=st.booleans()), min_size=1
)


def test_a_fresh_row_gets_its_first_token_in_a_tick_of_its_own() -> None:
    assert tick_steps([Work(0, 100, False)], 0.0001, 0.005) == 1
    assert tick_steps([Work(10, 100, False)], 0.0001, 0.005) == 11


def test_fresh_rows_together_get_theirs_when_the_last_of_them_has_it() -> None:
    assert tick_steps([Work(0, 100, False), Work(10, 100, False), Work(3, 1, False)], 0.0001, 0.005) == 11
    assert tick_steps([Work(0, 100, False), Work(1000, 100, False)], 0.0001, 0.005) == 50


def test_few_streams_get_a_message_per_tick_and_many_share_a_rate() -> None:
    assert message_pause(1, 0.01) == 0.01
    assert message_pause(50, 0.01) == 50 * MESSAGE_SECONDS > 0.01
    assert message_pause(10_000, 0.01) == LONGEST_PAUSE


def test_a_started_row_fills_the_target_duration() -> None:
    assert tick_steps([Work(0, 100, True)], 0.0001, 0.005) == 50


def test_a_step_that_costs_more_than_the_target_is_still_taken() -> None:
    assert tick_steps([Work(0, 100, True)], 1.0, 0.005) == 1


def test_no_tick_goes_past_the_work_of_its_longest_row() -> None:
    assert tick_steps([Work(0, 3, True), Work(0, 2, True)], 0.0001, 0.005) == 3


def test_a_long_prompt_does_not_make_a_long_tick() -> None:
    assert tick_steps([Work(5000, 10, False), Work(0, 100, False)], 0.001, 0.005) == 5


def test_a_tick_of_many_started_rows_takes_longer() -> None:
    assert tick_steps([Work(0, 100, True)] * 11, 0.001, 0.005) == (0.005 + 10 * ROW_SECONDS) / 0.001


@given(works=works, step=st.floats(0, 1), target=st.floats(1e-6, 1))
def test_the_number_of_steps_is_always_usable(works: list[Work], step: float, target: float) -> None:
    steps = tick_steps(works, step, target)
    assert 1 <= steps <= MOST_STEPS
    assert steps <= max(work.to_feed + work.to_generate for work in works)
