"""How much text a decoder makes here, without anything around it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial

from charloom.engine.decoding.decoder import Steps
from charloom.engine.decoding.invariance import generating_inputs

STEPS = 32
"""Of one call."""


def tokens_per_second(decoder: Steps, *, rows: int, threads: int, seconds: float) -> float:
    """Tokens that a decoder generates in a second of the clock, over all rows.

    Args:
        decoder: what takes the steps
        rows: of each call
        threads: calls at a time
        seconds: how long it is measured
    """
    inputs = generating_inputs(decoder, rows, STEPS)  # reading would cost less
    return rows * STEPS * calls_per_second(partial(decoder.run, inputs), threads=threads, seconds=seconds)


def calls_per_second(call: Callable[[], object], *, threads: int, seconds: float) -> float:
    """How often a call can be made, over all threads, each making one after the other."""
    for _ in range(5):
        call()
    counts = [0] * threads
    end = time.perf_counter() + seconds

    def run(number: int) -> None:
        while time.perf_counter() < end:
            call()
            counts[number] += 1

    workers = [threading.Thread(target=run, args=(number,)) for number in range(threads)]
    began = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return sum(counts) / (time.perf_counter() - began)
