"""What `benchmarks.serving` does with its time, and what it says of what there was no time for."""

from __future__ import annotations

import os
from typing import Any

import pytest

from benchmarks import serving
from benchmarks.processes import Process
from benchmarks.reporting import Budget
from benchmarks.serving import Load, int8_loads, obvious_loads, result, run_all, table

ME = Process("", os.getpid())
TOPS = {"ceiling_chars_per_s": 100, "ceiling_rows": 32, "single_row_chars_per_s": 10}
RUNS = [
    {"began": 0.0, "seconds": 1.0, "chars_per_s": 10, "ttfc_ms": {"p50": 9.0, "p99": 9.0}, "gap_ms": None},
    {"began": 0.0, "seconds": 1.0, "chars_per_s": 30, "ttfc_ms": {"p50": 8.0, "p99": 9.0}, "gap_ms": None},
    {"began": 0.0, "seconds": 1.0, "chars_per_s": 20, "ttfc_ms": {"p50": 7.0, "p99": 9.0}, "gap_ms": None},
]


class Bench:
    """In place of `charloom bench`: a run takes some seconds of a clock that stands still otherwise."""

    def __init__(self, seconds: float) -> None:
        self.now, self.seconds = 0.0, seconds
        self.turn = 0

    def clock(self) -> float:
        return self.now

    def __call__(self, target: str, *, within: float, **flags: Any) -> dict[str, Any]:
        self.now += min(self.seconds, within)
        if within < self.seconds:
            raise TimeoutError
        self.turn += 1
        return dict(RUNS[(self.turn - 1) % len(RUNS)])


@pytest.fixture(autouse=True)
def bare_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of the bare step."""
    monkeypatch.setattr(serving, "characters_per_second", lambda *, int8, rows, threads: 60.0 * rows)


def all_loads() -> list[Load]:
    first, others = int8_loads(ME, [1, 64, 256], 200, TOPS)
    return [*first, *obvious_loads(ME), *others]


def measured(monkeypatch: pytest.MonkeyPatch, seconds: float, minutes: float, repeat: int) -> dict[str, Any]:
    bench, loads = Bench(seconds), all_loads()
    monkeypatch.setattr(serving, "bench", bench)
    budget = Budget(minutes, bench.clock)
    for _ in range(repeat):
        run_all(loads, budget)
    assert bench.now <= 60 * minutes
    return result(loads, {"decoder": "onnx-int8"}, [] if budget.seconds else ["step_us"])


@pytest.mark.parametrize(("workload", "fastest"), [("long", 30), ("short", 30), ("arrivals", 20)])
def test_the_best_of_some_runs(workload: str, fastest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "bench", Bench(1))
    load = Load(("x",), ME, {"workload": workload})
    for _ in range(3):
        load.run(Budget(1))
    found = load.figures()
    assert (found["chars_per_s"], found["runs"]) == (fastest, 3)
    assert {"server_cpu", "server_loop_cpu"} <= found.keys()
    assert "began" not in found


def test_a_ratio_is_to_the_bare_step_as_it_is_before_and_after_that_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "bench", Bench(1))
    speeds = iter([20, 40, 100, 200, 30, 10])
    load = Load(("x",), ME, {"workload": "long"}, lambda: next(speeds))
    for _ in range(3):
        load.run(Budget(1))
    assert [(run["bare_chars_per_s"], run["ratio"]) for run in load.runs] == [(30, 0.333), (150, 0.2), (20, 1.0)]
    found = load.figures()
    assert (found["chars_per_s"], found["ratio"], found["runs"]) == (20, 1.0, 3)


def test_one_stream_is_compared_with_one_row_and_more_with_the_fastest_batch() -> None:
    first, others = int8_loads(ME, [1, 64, 256], 200, TOPS)
    bare = {load.name: load.bare() for load in [*first, *others] if load.bare is not None}
    assert bare == {"streams 1": 60, "streams 64": 32 * 60, "streams 256": 32 * 60}


def test_with_time_enough_nothing_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    found = measured(monkeypatch, seconds=1, minutes=10, repeat=3)
    assert found["not_reached"] == []
    assert list(found["streams"]) == ["1", "64", "256"]
    assert list(found["arrivals"]) == ["0", "64"]
    assert {
        load["runs"] for part in ("streams", "short_calls", "arrivals", "obvious") for load in found[part].values()
    } == {3}
    assert found["speedup_64"] == 1.0
    assert found["ttfc_busy_ms"]["p99"] == 9.0
    assert not any("not reached" in str(row[0]) for row in table(found))


def test_what_matters_most_comes_first_and_what_the_time_did_not_reach_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = measured(monkeypatch, seconds=25, minutes=1, repeat=3)
    assert (list(found["streams"]), list(found["short_calls"])) == (["64"], ["64"])
    assert found["streams"]["64"]["runs"] == 1
    missing = ["arrivals 64", "arrivals 0", "obvious 64", "obvious 64 short", "streams 1", "streams 256", "step_us"]
    assert found["not_reached"] == missing
    assert (found["ttfc_busy_ms"], found["ttfc_idle_ms"], found["speedup_64"]) == (None, None, None)
    assert [row[0] for row in table(found)[3:]] == [f"not reached: {name}" for name in missing]
    progress = capsys.readouterr().err.splitlines()
    assert progress[0].startswith("streams 64, run 1, 0.6 minutes are left: ")
    assert progress[-1] == "arrivals 64: broken off, the time is over"


def test_later_turns_are_for_the_time_that_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    found = measured(monkeypatch, seconds=6, minutes=1, repeat=3)
    assert found["not_reached"] == ["step_us"]
    runs = [found["streams"][n]["runs"] for n in ("64", "256", "1")]
    assert runs == [2, 1, 1]
