from __future__ import annotations

from charloom.engine.loom.backoff import LONGEST, SHORTEST, Backoff


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def crowd(backoff: Backoff, clock: Clock, callers: int, seconds: float) -> tuple[float, int]:
    """Callers that come back when they were told to; returns the last wait and the refusals in the last second."""
    due = [n / callers for n in range(callers)]
    wait, late = 0.0, 0
    while clock.now < seconds:
        caller = min(range(callers), key=due.__getitem__)
        clock.now = max(clock.now, due[caller])
        wait = backoff.refuse()
        late += clock.now > seconds - 1
        due[caller] = clock.now + wait
    return wait, late


def test_a_few_refusals_ask_for_the_shortest_wait() -> None:
    clock = Clock()
    backoff = Backoff(clock)
    assert crowd(backoff, clock, 20, 10)[0] == SHORTEST


def test_a_crowd_is_asked_to_wait_until_it_is_a_trickle_and_no_longer_once_it_has_gone() -> None:
    clock = Clock()
    backoff = Backoff(clock)
    wait, late = crowd(backoff, clock, 500, 40)
    assert 5 < wait <= LONGEST
    assert late < 100
    clock.now += 60
    backoff.refuse()
    clock.now += 60
    assert backoff.refuse() == SHORTEST


def test_no_crowd_is_asked_to_wait_longer_than_the_longest() -> None:
    clock = Clock()
    backoff = Backoff(clock)
    assert crowd(backoff, clock, 4000, 8)[0] == LONGEST
