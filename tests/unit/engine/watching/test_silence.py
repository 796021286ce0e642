from __future__ import annotations

from charloom.engine.watching.silence import LONGEST_NAME, Silence


def test_a_source_is_told_once_until_it_speaks_again() -> None:
    silence = Silence(10)
    silence.heard("a", "A", 0)
    silence.heard("b", "B", 5)
    assert silence.fallen(9.9, 5) == []
    assert silence.fallen(10, 5) == ["A"]
    assert silence.fallen(14, 5) == []
    silence.heard("a", "A", 14)
    assert silence.fallen(100, 5) == ["B", "A"]
    assert silence.fallen(1000, 5) == []


def test_a_source_that_speaks_is_not_silent() -> None:
    silence = Silence(10)
    for time in range(0, 100, 9):
        silence.heard("a", "A", time)
        assert silence.fallen(time + 9, 5) == []


def test_no_more_are_told_at_a_time_than_asked_for() -> None:
    silence = Silence(1)
    for number in range(5):
        silence.heard(str(number), str(number), number)
    assert [silence.fallen(100, 2) for _ in range(4)] == [["0", "1"], ["2", "3"], ["4"], []]


def test_memory_is_that_of_the_sources_that_may_fall_silent() -> None:
    silence = Silence(1)
    for number in range(100):
        silence.heard(str(number % 10), "x" * 10_000, number)
    assert 10 * LONGEST_NAME < silence.memory < 10 * 1000
    assert silence.fallen(1000, 100) == ["x" * LONGEST_NAME] * 10
    assert silence.memory == 0
