from __future__ import annotations

import tracemalloc

from charloom.engine import telemetry
from charloom.engine.telemetry import MOST_LOGGED, Excerpt


def test_an_excerpt_of_a_text_without_end_keeps_its_beginning_alone() -> None:
    excerpt = Excerpt()
    excerpt.add("x" * MOST_LOGGED)
    tracemalloc.start()
    for _ in range(10_000):
        excerpt.add("y")
    allocated = tracemalloc.take_snapshot()
    tracemalloc.stop()
    grown = allocated.filter_traces([tracemalloc.Filter(True, telemetry.__file__)]).traces  # others' threads aside
    assert sum(one.size for one in grown) < 10_000
    assert str(excerpt) == "x" * MOST_LOGGED + "…"
