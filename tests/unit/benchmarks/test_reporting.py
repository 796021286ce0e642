"""What benchmarks print, and the processes that they watch."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time

import pytest

from benchmarks import processes
from benchmarks.processes import CpuMeter, Process, running
from benchmarks.reporting import (
    Budget,
    at_least_one,
    best,
    best_and_median,
    counts,
    finish,
    names_of,
    some_minutes,
    table_of,
)

ROWS = [("streams", "characters/s"), (1, 9284), (256, 1_000_000)]


def test_the_json_object_is_the_last_line(capsys: pytest.CaptureFixture[str]) -> None:
    finish({"a": 1}, ROWS, only_json=False)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "streams  characters/s"
    assert json.loads(lines[-1]) == {"a": 1}
    finish({"a": 1}, ROWS, only_json=True)
    assert capsys.readouterr().out == '{"a": 1}\n'


def test_a_table_has_columns() -> None:
    assert table_of(ROWS).splitlines() == ["streams  characters/s", "1        9,284", "256      1,000,000"]


def test_the_best_run_has_the_largest_figure() -> None:
    assert best([{"x": 1}, {"x": 3}, {"x": 2}], lambda run: run["x"]) == {"x": 3}


def test_the_middle_run_of_two_is_the_slower() -> None:
    found = best_and_median([{"x": 2}, {"x": 1}], lambda run: float(run["x"]))
    assert found == {"best": {"x": 2}, "median": {"x": 1}, "runs": 2}


def test_lists_of_names() -> None:
    names = names_of(["short", "long"])
    assert names("long,short") == ["long", "short"]
    with pytest.raises(argparse.ArgumentTypeError, match=r"^'', 'wide': choose from short, long$"):
        names("long,wide,")


def test_lists_of_counts() -> None:
    assert counts("1,4,16") == [1, 4, 16]
    assert at_least_one("3") == 3


@pytest.mark.parametrize("text", ["", "1,,2", "0", "1,-2", "many", "1.5"])
def test_what_is_no_list_of_counts(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="whole numbers from 1 on"):
        counts(text)


def test_what_is_no_single_count() -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="'1,2' is not a whole number"):
        at_least_one("1,2")


def test_a_server_that_does_not_start_says_why() -> None:
    with pytest.raises(RuntimeError, match="did not start: no bundle"), running("-c", "raise SystemExit('no bundle')"):
        pass


def test_a_process_ends_with_its_context() -> None:
    code = "import time; print('listening on here:1', flush=True); time.sleep(60)"
    with running("-c", code) as process:
        assert process.target == "here:1"
        assert process.alive
        assert process.memory_kib() > 1000
    assert not process.alive


def test_the_memory_of_a_server_is_that_of_its_children_too() -> None:
    child = "held = b'x' * 2**26; print(flush=True); input()"
    code = (
        f"import subprocess, sys; child = subprocess.Popen([sys.executable, '-c', {child!r}], stdin=-1, stdout=-1); "
        "child.stdout.readline(); print('here:1', flush=True); child.wait()"
    )
    with running("-c", code) as process:
        assert process.memory_kib() > 2**16


def test_a_dead_process_that_nobody_waited_for_is_not_alive_and_has_no_memory() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    end = time.monotonic() + 60
    while Process("", child.pid).alive:
        assert time.monotonic() < end
        time.sleep(0.01)
    assert Process("", child.pid).memory_kib() == 0
    assert child.wait() == 0
    assert Process("", child.pid).memory_kib() == 0


def test_cpu_time_is_that_of_the_process() -> None:
    me = Process("", os.getpid())
    end = time.process_time() + 0.2
    before = me.cpu_seconds()
    while time.process_time() < end:
        pass
    assert me.cpu_seconds() - before >= 0.15
    assert me.cpu_seconds() == pytest.approx(time.process_time(), abs=0.5)
    assert me.loop_cpu_seconds() <= me.cpu_seconds() + 0.02


def test_shares_are_those_of_the_load_and_not_of_its_warm_up() -> None:
    meter = CpuMeter(Process("", os.getpid()))
    meter._samples = [(100.0, 7.0, 1.0), (101.0, 9.0, 2.0), (102.0, 9.5, 2.25), (103.0, 9.5, 2.25)]
    assert meter.shares(101.0, 1.0) == (0.5, 0.25)
    assert meter.shares(101.0, 2.0) == (0.25, 0.12)


def test_a_load_that_fails_says_why(nobody: str) -> None:
    with pytest.raises(RuntimeError, match=f"charloom bench: no answer from {nobody}"):
        processes.bench(nobody, streams=1)


def test_a_load_that_takes_too_long_is_ended() -> None:
    with pytest.raises(TimeoutError, match=r"-c import time; .* took longer than 0.3 s"):
        processes.output_of("-c", "import time; time.sleep(60)", within=0.3)


def test_a_budget_is_used_up_by_the_clock() -> None:
    now = [100.0]
    budget = Budget(2, lambda: now[0])
    assert budget.seconds == 120
    now[0] += 90
    assert budget.seconds == 30
    now[0] += 90
    assert budget.seconds == 0


def test_minutes() -> None:
    assert some_minutes("0.5") == 0.5


@pytest.mark.parametrize("text", ["", "0", "-1", "nan", "inf", "soon"])
def test_what_is_no_number_of_minutes(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="is not a number of minutes above 0"):
        some_minutes(text)
