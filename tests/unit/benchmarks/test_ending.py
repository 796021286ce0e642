"""A benchmark that is ended ends its servers."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading

from benchmarks.ending import ends_on_sigterm

SERVER = "import time; print('listening on nowhere', flush=True); time.sleep(600)"
BENCHMARK = f"""
import sys, time
from benchmarks.processes import running
try:
    with running("-c", {SERVER!r}) as server:
        print(server.pid, flush=True)
        time.sleep(600)
finally:
    print("ended", flush=True)
    time.sleep(1)
"""


def test_a_benchmark_that_gets_sigterm_twice_ends_its_server_first() -> None:
    """As `timeout` does; only that it sends the signals to the whole group, of which the server need not be."""
    with subprocess.Popen([sys.executable, "-c", BENCHMARK], stdout=subprocess.PIPE, text=True) as benchmark:
        assert benchmark.stdout is not None
        server = int(benchmark.stdout.readline())
        try:
            benchmark.send_signal(signal.SIGTERM)
            benchmark.send_signal(signal.SIGTERM)
            assert benchmark.wait(60) == 128 + signal.SIGTERM
            with contextlib.suppress(ProcessLookupError):
                os.kill(server, 0)
                raise AssertionError("the server is still there")
        finally:
            benchmark.kill()
            with contextlib.suppress(ProcessLookupError):
                os.kill(server, signal.SIGKILL)


def test_a_sigterm_that_comes_late_changes_nothing() -> None:
    with subprocess.Popen([sys.executable, "-c", BENCHMARK], stdout=subprocess.PIPE, text=True) as benchmark:
        assert benchmark.stdout is not None
        server = int(benchmark.stdout.readline())
        try:
            benchmark.send_signal(signal.SIGTERM)
            assert benchmark.stdout.readline() == "ended\n"
            benchmark.send_signal(signal.SIGTERM)
            assert benchmark.wait(60) == 128 + signal.SIGTERM
        finally:
            benchmark.kill()
            with contextlib.suppress(ProcessLookupError):
                os.kill(server, signal.SIGKILL)


def test_a_handler_that_is_there_stays_and_no_thread_but_the_first_sets_one() -> None:
    found = []

    def look() -> None:
        with ends_on_sigterm():
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert found == [signal.SIG_DFL]
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        look()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert found == [signal.SIG_DFL, signal.SIG_IGN]
