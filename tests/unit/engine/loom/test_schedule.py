from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from charloom.engine.loom.schedule import (
    CROWD_STEPS,
    FIRST_TOKEN,
    LAST_TOKENS,
    LONGEST_PAUSE,
    LONGEST_TICK,
    MESSAGE_SECONDS,
    MESSAGE_TOKENS,
    MOST_STEPS,
    MOST_TICK_ALTERNATIVES,
    PAUSES,
    TICK_OVERHEAD,
    alike,
    crowd_rows,
    message_pause,
    most_steps,
    next_message,
    overhead,
    tick_steps,
    ticks_at_once,
)

STEP, TARGET = 0.0001, 0.008
FIT = 80
"""Steps that fit into the target."""


def steps(*rows: tuple[int, int], step_seconds: float = STEP, target_seconds: float = TARGET) -> int:
    """K for rows given as (steps to the goal, steps to the end)."""
    goals, left = np.array(rows).T
    return tick_steps(goals, left, goals < left, step_seconds, target_seconds)


def test_one_row_gets_its_first_token_in_a_tick_that_ends_with_it() -> None:
    assert steps((1, 100)) == 1
    assert steps((33, 96)) == 33


def test_rows_that_are_underway_fill_the_target() -> None:
    assert steps((500, 500)) == FIT
    assert steps(*[(500, 500)] * 20) == FIT


def test_a_step_that_costs_more_than_the_target_is_still_taken() -> None:
    assert steps((9, 9), step_seconds=1.0) == 1


def test_a_tick_of_rows_that_are_soon_over_may_be_longer_than_its_target() -> None:
    soon = [(LONGEST_TICK * FIT, LONGEST_TICK * FIT)] * 20
    assert steps(*soon) == LONGEST_TICK * FIT
    assert steps(*soon, *[(500, 500)] * 19) == LONGEST_TICK * FIT
    assert steps(*soon, *[(500, 500)] * 20) == FIT
    assert steps((LONGEST_TICK * FIT + 1, LONGEST_TICK * FIT + 1)) == FIT


def test_no_tick_goes_past_the_end_of_its_last_row() -> None:
    assert steps((3, 3), (3, 3)) == 3


def test_a_long_prompt_does_not_make_a_long_tick() -> None:
    assert steps((5001, 5101)) == FIT


def test_a_tick_ends_where_one_of_two_rows_does() -> None:
    assert steps((20, 20), (500, 500)) == 20


def test_a_tick_of_many_rows_does_not_end_for_one_of_them() -> None:
    assert steps((2, 2), *[(500, 500)] * 31, step_seconds=0.0008) == 10


def test_a_tick_of_many_rows_ends_where_several_do() -> None:
    assert steps(*[(3, 3)] * 16, *[(500, 500)] * 16, step_seconds=0.0008) == 3


def test_a_first_token_counts_for_more_than_an_end() -> None:
    """One of four rows cannot pay for a tick of one step with its end; with its first token it can."""
    others = [(500, 500)] * 3
    assert steps((1, 1), *others) == FIT
    assert steps((1, 50), *others) == 1


def test_what_is_chosen_is_most_useful_steps_for_the_time() -> None:
    random = np.random.default_rng(0)
    for _ in range(200):
        goals = random.integers(1, 60, 12)
        left = goals + random.integers(0, 2, 12) * 40
        fresh = goals < left
        last = min(FIT, int(left.max()))
        weights = np.where(fresh, FIRST_TOKEN, 1)
        worth = {
            count: (np.minimum(goals, count) * weights).sum() / (overhead(12) + count * STEP)
            for count in {*goals.tolist(), last}
            if count <= last
        }
        assert worth[tick_steps(goals, left, fresh, STEP, TARGET)] == pytest.approx(max(worth.values()))


@given(
    rows=st.lists(st.tuples(st.integers(0, 500), st.integers(0, 500)), min_size=1),
    step=st.floats(0, 1),
    target=st.floats(1e-6, 1),
)
def test_the_number_of_steps_is_always_usable(rows: list[tuple[int, int]], step: float, target: float) -> None:
    """Where a row may go no further ahead of its reader, it has fewer steps left than it is from its goal."""
    count = steps(*rows, step_seconds=step, target_seconds=target)
    assert 1 <= count <= MOST_STEPS
    assert count <= max(1, *(left for _, left in rows))


def line(fixed: float, each: float) -> dict[int, float]:
    return {rows: fixed + each * rows for rows in range(1, 1025)}


def test_rows_are_split_where_a_step_gets_faster_by_it() -> None:
    cost = line(75, 23).__getitem__
    assert ticks_at_once(1, 2, 256, cost) == 1
    assert ticks_at_once(64, 2, 256, cost) == 2
    assert ticks_at_once(64, 16, 256, cost) == 16


def test_rows_stay_together_where_a_step_with_half_of_them_costs_nearly_as_much() -> None:
    assert ticks_at_once(4, 2, 256, line(200, 12).__getitem__) == 1
    assert ticks_at_once(8, 2, 256, line(1000, 1).__getitem__) == 1


def test_rows_with_few_steps_left_are_done_together() -> None:
    """As those of a search: a second tick would take longer than what it saves."""
    cost = line(75, 23).__getitem__
    saved = cost(16) - cost(8)
    enough = math.ceil(TICK_OVERHEAD * 1e6 / saved)
    assert [
        ticks_at_once(16, 2, 256, lambda rows: 1e-6 * cost(rows), steps) for steps in (1, enough - 1, enough, 96)
    ] == [1, 1, 2, 2]


def test_rows_that_are_too_many_for_one_tick_are_split_whatever_it_brings() -> None:
    assert ticks_at_once(9, 4, 4, line(1000, 0).__getitem__) == 3
    assert ticks_at_once(100, 4, 4, line(1000, 0).__getitem__) == 4


@given(rows=st.integers(1, 1000), workers=st.integers(1, 32), max_rows=st.integers(1, 256))
def test_there_are_never_more_parts_than_rows_or_workers(rows: int, workers: int, max_rows: int) -> None:
    assert 1 <= ticks_at_once(rows, workers, max_rows, line(75, 23).__getitem__) <= min(rows, workers)


def test_a_crowd_ticks_with_as_many_rows_as_have_some_steps_in_its_time() -> None:
    costs = line(0.00005, 0.00002)
    rows = crowd_rows(256, 0.004, costs.__getitem__)
    assert CROWD_STEPS * costs[rows] <= 0.004 < CROWD_STEPS * costs[2 * rows]
    assert crowd_rows(10, 0.004, costs.__getitem__) == 10
    assert crowd_rows(10, 0.000001, costs.__getitem__) == 1


def test_rows_that_tell_a_large_vocabulary_are_in_ticks_of_their_own() -> None:
    large = MOST_TICK_ALTERNATIVES // 4
    assert list(alike([0, 5, 0])) == [0, 1, 2]
    assert alike([large] * 6) == [0, 1, 2, 3]
    assert alike([0, large, 0, large, 0]) == [0, 2, 4]
    assert alike([large, 0, large, 0, 0]) == [0, 2]
    assert alike([2 * MOST_TICK_ALTERNATIVES, 0]) == alike([2 * MOST_TICK_ALTERNATIVES] * 2) == [0]
    assert list(alike([65] * 256)) == list(range(256))


@given(st.lists(st.sampled_from([0, 1, 20, 256, 10_000, 200_000]), min_size=1, max_size=300))
def test_no_tick_tells_more_than_it_may_but_what_one_row_asks(asked: list[int]) -> None:
    places = alike(asked)
    assert places[0] == 0
    chosen = [asked[place] for place in places]
    assert len(chosen) * max(chosen) * most_steps(chosen) <= max(MOST_TICK_ALTERNATIVES, asked[0])


def test_few_streams_get_a_message_per_tick_and_many_share_a_rate() -> None:
    assert message_pause(1, 0.01) == 0.01
    assert message_pause(50, 0.01) == 50 * MESSAGE_SECONDS > 0.01
    assert message_pause(10_000, 0.01) == LONGEST_PAUSE


def test_a_row_that_has_nothing_to_do_still_takes_a_tick_of_one_step() -> None:
    nothing = np.zeros(1, np.int64)
    assert tick_steps(nothing, nothing, np.zeros(1, bool), 0.001, 0.01) == 1


def test_a_message_of_few_tokens_waits_for_more_of_them_but_not_for_ever() -> None:
    pause = 0.064
    assert next_message(MESSAGE_TOKENS, 500, 0.01, pause) == pause
    assert next_message(MESSAGE_TOKENS // 2, 500, 0.08, pause) == pytest.approx(0.16)  # when as many will be there
    assert next_message(MESSAGE_TOKENS // 2, 500, 0.01, pause) == pause
    assert next_message(1, 500, 0.08, pause) == next_message(0, 500, 0.08, pause) == PAUSES * pause


def test_a_message_before_the_end_of_a_text_waits_for_the_last_one_but_not_for_ever() -> None:
    assert next_message(MESSAGE_TOKENS, LAST_TOKENS, 0.1, 0.064) == 0.064
    assert next_message(MESSAGE_TOKENS, LAST_TOKENS - 1, 0.1, 0.064) == PAUSES * 0.064


@pytest.mark.parametrize(("seconds", "most"), [(0.1, 2), (0.15, 2), (0.24, 3)])
def test_a_short_text_comes_in_two_or_three_messages_however_slow_its_steps_are(seconds: float, most: int) -> None:
    """64 tokens in that time, attended to at every step, among 64 streams."""
    told, last, pause = 1, 0.0, message_pause(64, 0.008)
    messages = 1
    for token in range(2, 64):
        now = token * seconds / 64
        if now >= last + next_message(token - told, 64 - token, now - last, pause):
            told, last, messages = token, now, messages + 1
    assert messages + 1 <= most  # the last one has the rest
