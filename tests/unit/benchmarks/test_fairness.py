from __future__ import annotations

from typing import Any

import pytest

from benchmarks import fairness
from benchmarks.fairness import compared
from benchmarks.processes import Process


def polite(speeds: list[float], p99: float | None, greedy: float | None = None) -> dict[str, Any]:
    times = None if p99 is None else {"p50": 1.0, "p99": p99}
    taken = {} if greedy is None else {"chars_per_s": greedy}
    return {"chars_per_s": speeds, "ttfc_ms": times, "ends": {"OK": 1}, "greedy": taken}


def test_the_worst_off_is_compared_with_what_it_has_beside_a_neighbour_that_does_not_call() -> None:
    beside = polite([500.0, 450.0, 500.0, 500.0], 30.0, greedy=0.0)
    found = compared(polite([1000.0] * 4, 20.0), beside, polite([500.0] * 4, 25.0))
    assert (found["kept_of_alone"], found["kept_of_fair_share"], found["ttfc_p99_ratio"]) == (0.45, 0.9, 1.2)


def test_a_fifth_of_all_is_fair_where_that_is_less() -> None:
    beside = polite([500.0, 450.0, 500.0, 500.0], 30.0, greedy=550.0)
    assert compared(polite([1000.0] * 4, 20.0), beside, polite([900.0] * 4, 20.0))["kept_of_fair_share"] == 0.9


def test_what_a_client_does_not_read_makes_no_share_smaller() -> None:
    beside = polite([10.0] * 4, 30.0, greedy=0.0)
    assert compared(polite([100.0] * 4, 20.0), beside, polite([100.0] * 4, 20.0))["kept_of_fair_share"] == 0.1


def test_one_that_gets_nothing_keeps_nothing() -> None:
    alone = polite([100.0] * 4, 20.0)
    found = compared(alone, polite([0.0] * 4, None, greedy=10_000.0), alone)
    assert (found["kept_of_fair_share"], found["ttfc_p99_ratio"]) == (0.0, None)


def test_a_greedy_client_that_fails_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def output_of(*words: str) -> dict[str, Any]:
        if "polite" in words:
            return polite([500.0] * 4, 30.0)
        raise RuntimeError("benchmarks.callers failed: no answer")

    monkeypatch.setattr(fairness, "output_of", output_of)
    server = Process("here:1", 1)
    assert fairness.run(server, None, 1, []) == polite([500.0] * 4, 30.0)
    with pytest.raises(RuntimeError, match="callers failed: no answer"):
        fairness.run(server, "streams", 1, [])
