"""What `benchmarks.short_calls` makes of its runs; and the calls that it makes in process."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from benchmarks import engine_calls
from benchmarks.processes import Process
from benchmarks.short_calls import Version, figures_of, ranked, result, table
from charloom.bundle import Bundle
from charloom.cli.serving.load import SHORT_CALLS, SHORT_LENGTH

TOP = 96_000


def run(calls: float, **more: Any) -> dict[str, Any]:
    first = {"p50": 10.0, "p99": 20.0}
    used = {"server_cpu": 1.5, "server_loop_cpu": 0.25, "client_cpu": 0.125, "bare_row_steps_per_s": TOP}
    return {"calls_per_s": calls, "messages_per_call": 3.5, "ttfc_ms": first} | used | more


def version() -> Version:
    found = Version("ours", "python", Path(), Process("", 1), lambda: TOP)
    for calls in (500.0, 100.0, 250.0):
        found.runs.setdefault(("grpc", 64), []).append(run(calls))
        found.runs.setdefault(("grpc", 4), []).append(run(calls / 2))
        found.runs.setdefault(("in_process", 64), []).append(run(calls + 50))
        found.runs.setdefault(("in_process", 4), []).append(run(calls))
        way = {"p50": calls / 100, "p99": 9.0}
        found.runs.setdefault(("idle", 0), []).append({"ttfc_ms": {"p50": 5.0, "p99": 7.0}, "way_ms": way})
    return found


def test_a_call_has_96_steps_and_its_processor_time_is_in_milliseconds() -> None:
    found = figures_of(run(500.0))
    assert (found["row_steps_per_s"], found["ratio"]) == (48_000, 0.5)
    assert (found["loop_ms"], found["server_ms"], found["client_ms"]) == (0.5, 3.0, 0.25)


def test_in_process_there_is_no_client_to_measure() -> None:
    alone = run(500.0)
    del alone["client_cpu"]
    assert "client_ms" not in figures_of(alone)


def test_the_best_run_and_the_middle_one() -> None:
    found = ranked([run(500.0), run(100.0), run(250.0)])
    assert (found["best"]["ratio"], found["median"]["ratio"], found["runs"]) == (0.5, 0.25, 3)
    assert ranked([run(500.0), run(100.0)])["median"]["ratio"] == 0.1


def test_a_run_is_compared_with_the_bare_step_around_it() -> None:
    speeds, found = iter((40_000.0, 60_000.0, 90_000.0, 110_000.0)), version()
    found.bare, found.runs = lambda: next(speeds), {}
    for _ in range(2):
        found._keep("grpc", 64, lambda: run(250.0))
    assert ranked(found.runs["grpc", 64])["best"]["ratio"] == 0.48  # of 24,000 steps, where 50,000 were to be had
    assert ranked(found.runs["grpc", 64])["median"]["ratio"] == 0.24


def test_the_first_figures_are_those_of_the_most_clients() -> None:
    found = result(version())
    assert (found["ratio"], found["ratio_median"]) == (0.5, 0.25)
    assert (found["in_process_ratio"], found["in_process_ratio_median"]) == (0.55, 0.3)
    assert found["messages_per_call"] == 3.5
    assert found["clients"]["4"]["grpc"]["best"]["ratio"] == 0.25
    assert found["idle"]["way_ms"]["p50"] == 1.0


def test_the_table_has_both_versions() -> None:
    ours = result(version())
    rows = table(ours | {"against": ours})
    assert len({len(row) for row in rows}) == 1
    assert [row[0] for row in rows[1:6]] == [
        "ours, grpc, 64 clients",
        "ours, in_process, 64 clients",
        "ours, grpc, 4 clients",
        "ours, in_process, 4 clients",
        "ours, idle",
    ]
    assert len(rows) == 11
    assert len(table(ours)) == 6


def test_calls_in_process_are_those_of_the_load(bundle: Bundle) -> None:
    found = asyncio.run(engine_calls.measure(bundle.path, clients=2, rounds=2))
    calls = 2 * 2 * SHORT_CALLS
    assert found["calls_per_s"] * found["seconds"] > 0.9 * calls
    assert found["chars_per_s"] * found["seconds"] > 0.9 * calls * SHORT_LENGTH
    assert 0 < found["server_loop_cpu"] <= 1
    assert found["messages_per_call"] >= 1
    assert "client_cpu" not in found
