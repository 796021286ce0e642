from __future__ import annotations

import pytest

from charloom.engine.retry_after import AVERAGED, LONGEST, SHORTEST, RetryAfter


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def serve(retry_after: RetryAfter, clock: Clock, interval: float, count: int = 10 * AVERAGED) -> None:
    for _ in range(count):
        retry_after.served(waiting=100)
        clock.now += interval


def test_the_wait_follows_from_how_many_wait_and_how_fast_they_are_served(clock: Clock) -> None:
    retry_after = RetryAfter(clock)
    serve(retry_after, clock, 0.05)
    assert retry_after.refuse(waiting=100) == pytest.approx(100 * 0.05, rel=0.1)


def test_it_follows_a_decoder_that_becomes_ten_times_slower(clock: Clock) -> None:
    retry_after = RetryAfter(clock)
    serve(retry_after, clock, 0.02)
    assert retry_after.refuse(waiting=100) == pytest.approx(2, rel=0.1)
    serve(retry_after, clock, 0.2)
    assert retry_after.refuse(waiting=100) == pytest.approx(20, rel=0.1)


def test_each_of_a_crowd_is_given_a_turn_of_its_own_at_the_speed_of_the_queue(clock: Clock) -> None:
    retry_after = RetryAfter(clock)
    serve(retry_after, clock, 0.01)
    waits = [retry_after.refuse(waiting=100) for _ in range(1000)]
    assert waits[0] == pytest.approx(1, abs=0.15)
    assert waits[-1] == pytest.approx(11, rel=0.1)
    assert waits == sorted(waits)


def test_a_wait_is_neither_shorter_nor_longer_than_makes_sense(clock: Clock) -> None:
    retry_after = RetryAfter(clock)
    assert retry_after.refuse(waiting=1) == SHORTEST
    serve(retry_after, clock, 1.0)
    assert retry_after.refuse(waiting=1000) == LONGEST


def test_once_the_crowd_has_gone_the_wait_is_short_again(clock: Clock) -> None:
    retry_after = RetryAfter(clock)
    for _ in range(5000):
        retry_after.refuse(waiting=10)
    clock.now += LONGEST
    assert retry_after.refuse(waiting=10) == SHORTEST


def test_time_in_which_nobody_waits_does_not_count(clock: Clock) -> None:
    retry_after = RetryAfter(clock)
    serve(retry_after, clock, 0.02)
    retry_after.served(waiting=0)
    clock.now += 3600
    retry_after.served(waiting=100)
    assert retry_after.refuse(waiting=100) == pytest.approx(2, rel=0.1)
